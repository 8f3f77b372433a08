import ml_collections
import numpy as np
import pytest

from l2sae_jax.data.pipeline import make_pipeline
from l2sae_jax.data.sources import open_source


def config(**fields) -> ml_collections.ConfigDict:
    defaults = {"source": "", "data_dir": "", "size": 24, "length": 4, "seed": 0}
    return ml_collections.ConfigDict({**defaults, **fields})


def test_synthetic_faces_need_no_files():
    source = open_source(config(name="synthetic"), "train")
    assert len(source) == 4
    assert source[3]["image"].shape == (24, 24, 3)


def test_synthetic_splits_share_no_face():
    images = [
        open_source(config(name="synthetic", seed=seed), split)[0]["image"].tobytes()
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    ]
    assert len(set(images)) == len(images)


def test_records_are_made_from_a_source_and_then_used_without_it(release, tmp_path):
    data_dir = str(tmp_path / "records")
    made = open_source(
        config(name="celebamask_hq", source=str(release), data_dir=data_dir), "train"
    )
    found = open_source(config(name="celebamask_hq", data_dir=data_dir), "train")
    assert len(made) == len(found) > 0
    for i in range(len(made)):
        example = found[i]
        assert example["image"].shape == (24, 24, 3) and example["image"].dtype == np.uint8
        assert example["labels"].shape == (24, 24) and example["labels"].dtype == np.uint8
        assert isinstance(example["id"], int) and example["id"] == made[i]["id"]


def test_a_release_shows_what_records_of_it_would_hold_without_making_them(release, tmp_path):
    data_dir = tmp_path / "records"
    fields = {"name": "celebamask_hq", "source": str(release), "data_dir": str(data_dir)}
    shown = open_source(config(**fields), "train", make_records=False)
    assert not data_dir.exists() and shown.total == 12
    made = open_source(config(**fields), "train")
    found = open_source(config(**fields), "train", make_records=False)
    for source in (shown, found):
        assert len(source) == len(made)
        for i in range(len(made)):
            assert source[i]["id"] == made[i]["id"]
            np.testing.assert_array_equal(source[i]["image"], made[i]["image"])
            np.testing.assert_array_equal(source[i]["labels"], made[i]["labels"])


def test_records_feed_the_pipeline(release, tmp_path):
    fields = {"source": str(release), "data_dir": str(tmp_path / "records")}
    source = open_source(config(name="celebamask_hq", **fields), "train")
    batch = next(make_pipeline(source, batch_size=8, seed=0))
    assert batch["image"].shape == (8, 24, 24, 3)
    assert batch["labels"].shape == (8, 24, 24)


@pytest.mark.parametrize(
    ("fields", "split", "message"),
    [
        ({"name": "imagenet"}, "train", "unknown data.name 'imagenet'"),
        ({"name": "synthetic"}, "dev", "unknown split 'dev': choose from train, validation, test"),
        ({"name": "celebamask_hq"}, "train", "data.data_dir is empty"),
        ({"name": "celebamask_hq", "data_dir": "none"}, "train", "set data.source to the release"),
    ],
)
def test_what_to_set_is_said(fields, split, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(config(**fields), split)
    assert "\n" not in str(caught.value)


def test_a_split_without_images_is_named(release, tmp_path):
    mapping = "idx orig_idx orig_file\n" + "".join(f"{i} {i} {i + 1}.jpg\n" for i in range(12))
    (release / "CelebA-HQ-to-CelebA-mapping.txt").write_text(mapping)
    fields = {"source": str(release), "data_dir": str(tmp_path / "records")}
    with pytest.raises(ValueError, match="have no validation images"):
        open_source(config(name="celebamask_hq", **fields), "validation")
