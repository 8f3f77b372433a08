"""What was measured is kept, and never taken for anything else."""

import numpy as np
import pytest

from l2sae_jax.evaluation import store
from l2sae_jax.evaluation.batches import batches
from l2sae_jax.evaluation.store import Table, digest, kept_rows


class Numbers:
    """A data set whose images are their own numbers."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        image = np.full((2, 3, 3), index, np.uint8)
        return {"image": image, "labels": image[..., 0], "id": 10 + index}


def test_batches_are_of_one_size_and_each_image_has_the_next_as_its_reference():
    found = list(batches(Numbers(), 5, 4))
    assert [batch.count for batch in found] == [4, 1]
    assert [batch.ids.tolist() for batch in found] == [[10, 11, 12, 13], [14, 14, 14, 14]]
    assert found[0].reference_pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert found[1].reference_labels[:, 0, 0].tolist() == [0, 0, 0, 0]  # after the last, the first
    assert found[0].pixels.shape == found[1].pixels.shape == (4, 2, 3, 3)


def test_of_fewer_images_the_last_ones_reference_is_the_first_of_them():
    (batch,) = batches(Numbers(), 3, 3)
    assert batch.reference_pixels[:, 0, 0, 0].tolist() == [1, 2, 0]


def test_a_digest_tells_data_settings_and_code(monkeypatch):
    arrays = [np.arange(6), np.ones((2, 3))]
    whole = digest(arrays, {"seed": 0})
    assert whole == digest([array.copy() for array in arrays], {"seed": 0})
    others = [
        digest(arrays, {"seed": 1}),
        digest([arrays[0] + 1, arrays[1]], {"seed": 0}),
        digest([arrays[0].astype(np.int32), arrays[1]], {"seed": 0}),
        digest([arrays[0].reshape(2, 3), arrays[1]], {"seed": 0}),
    ]
    monkeypatch.setattr(store, "code_digest", lambda: "another")
    others.append(digest(arrays, {"seed": 0}))
    assert len({whole, *others}) == 6


def test_rows_are_measured_once_and_again_only_if_their_file_is_damaged(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"a": np.arange(3.0)}

    file = kept_rows(tmp_path, "name", measure)
    assert kept_rows(tmp_path, "name", measure) == file and len(calls) == 1
    data = bytearray(file.read_bytes())
    data[60] ^= 255
    file.write_bytes(data)
    kept_rows(tmp_path, "name", measure)
    assert len(calls) == 2
    file.write_bytes(data[:40])
    kept_rows(tmp_path, "name", measure)
    assert len(calls) == 3
    np.testing.assert_array_equal(Table({"a": [file]})["a"], np.arange(3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["name.npz"]


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="broken"):
        kept_rows(tmp_path, "name", lambda: (_ for _ in ()).throw(ValueError("broken")))
    assert not list(tmp_path.iterdir())


def test_a_table_joins_the_rows_of_its_files(tmp_path):
    rows = [{"m/a": np.arange(2)}, {"m/a": np.arange(3), "m/b": np.ones(3)}]
    files = [kept_rows(tmp_path, str(i), lambda r=r: r) for i, r in enumerate(rows)]
    table = Table({"m": files})
    assert table["m/a"].tolist() == [0, 1, 0, 1, 2]
    assert [len(block) for block in table.blocks("m/a")] == [2, 3]
    assert "m/a" in table and "m/c" not in table and "n/a" not in table
    for name in ("m/c", "n/a"):
        with pytest.raises(KeyError):
            table[name]
