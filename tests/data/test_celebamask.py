import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from l2sae_jax.data import celebamask
from l2sae_jax.data.archives import open_archive
from l2sae_jax.data.celebamask import (
    ATTRIBUTES,
    find_release,
    main,
    merge_parts,
    prepare,
    records_exist,
    resize_labels,
)
from l2sae_jax.data.sources import SPLITS, CelebAMaskRecords
from l2sae_jax.data.synthetic import SyntheticFaces
from l2sae_jax.regions import PART_LABELS, PARTS

SIZE = 24


def make(source: Path, tmp_path: Path, size: int = SIZE, **options):
    return prepare(source, tmp_path / "records", size, **{"progress": False, **options})


def examples(builder) -> dict[int, dict]:
    """All records by id, with the split each is in."""
    found = {}
    for split in builder.info.splits:
        records = CelebAMaskRecords(builder, split)
        for i in range(len(records)):
            example = records[i]
            found[example["id"]] = {**example, "split": split}
    return found


def report(builder) -> dict:
    return json.loads(builder.report_path.read_text())


# Labels


def test_later_parts_overwrite_earlier_ones():
    masks = {part: np.zeros((2, 3), bool) for part in ("hair", "skin", "nose")}
    masks["skin"][:] = True
    masks["nose"][0] = True
    masks["hair"][0, 0] = True
    labels = merge_parts(masks)
    skin, nose, hair = (PART_LABELS[part] for part in ("skin", "nose", "hair"))
    np.testing.assert_array_equal(labels, [[hair, nose, nose], [skin] * 3])


def test_masks_of_different_sizes_do_not_merge():
    with pytest.raises(ValueError, match="different sizes, 3x2 and 2x4"):
        merge_parts({"skin": np.zeros((2, 3), bool), "nose": np.zeros((4, 2), bool)})


def test_the_label_that_covers_most_of_a_pixel_wins():
    labels = np.array([[1, 1, 0, 0], [1, 0, 0, 2], [3, 3, 4, 4], [0, 0, 4, 4]], np.uint8)
    # Half of the third pixel is 3 and half is background: the later part takes it.
    np.testing.assert_array_equal(resize_labels(labels, 2), [[1, 0], [3, 4]])


def test_enlarged_labels_are_the_nearest():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    np.testing.assert_array_equal(resize_labels(labels, 4), labels.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("size", [32, 37, 48])
def test_thin_parts_survive_reduction(size):
    labels = SyntheticFaces(128, 1, seed=0)[0]["labels"]
    assert set(np.unique(resize_labels(labels, size))) == set(np.unique(labels))


# Records


def test_records_hold_the_release(release, tmp_path):
    found = examples(make(release, tmp_path))
    assert sorted(found) == list(range(12))
    faces = SyntheticFaces(48, 12, seed=7)
    for i in range(12):
        # Reduced by two: the picture by averaging, the masks (half its size) not at all.
        expected = faces[i]["image"].reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))
        assert np.abs(found[i]["image"] - expected).mean() < 6
        np.testing.assert_array_equal(found[i]["labels"], faces[i]["labels"][::2, ::2])


def test_pictures_of_the_right_size_are_not_compressed_again(release, tmp_path):
    found = examples(make(release, tmp_path, size=48))
    original = np.asarray(Image.open(release / "CelebA-HQ-img" / "3.jpg"))
    np.testing.assert_array_equal(found[3]["image"], original)


@pytest.mark.parametrize("kind", ["nested folder", "zip", "tar", "tar.gz"])
def test_the_release_is_read_as_it_is_distributed(kind, release, tmp_path):
    top = release.parent
    path = tmp_path / f"release.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(top.rglob("*.*")):
                archive.write(file, file.relative_to(top))
    elif kind.startswith("tar"):
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
            archive.add(top, ".")
    else:
        path = top
    found, expected = examples(make(path, tmp_path)), examples(make(release, tmp_path / "direct"))
    assert found.keys() == expected.keys()
    for i in expected:
        assert found[i]["split"] == expected[i]["split"]
        np.testing.assert_array_equal(found[i]["image"], expected[i]["image"])
        np.testing.assert_array_equal(found[i]["labels"], expected[i]["labels"])


def test_tfds_itself_reads_the_records_without_tensorflow(release, tmp_path):
    builder = make(release, tmp_path)
    source = tfds.data_source(
        "celebamask_hq",
        data_dir=tmp_path / "records",
        builder_kwargs={"config": builder.builder_config, "file_format": "array_record"},
        split="train",
    )
    assert source[0]["labels"].shape == (SIZE, SIZE, 1)
    assert "tensorflow" not in sys.modules


# Splits and annotations


def write_mapping(release: Path, celeba_index: dict[int, int]) -> None:
    lines = [f"{i} {index} {index + 1:06d}.jpg" for i, index in celeba_index.items()]
    text = "\n".join(["idx     orig_idx     orig_file", *lines])
    (release / "CelebA-HQ-to-CelebA-mapping.txt").write_text(text)


def test_the_mapping_file_gives_the_official_split(release, tmp_path):
    bounds = {0: 0, 1: 162769, 2: 162770, 3: 182636, 4: 182637, 5: 202598}
    write_mapping(release, bounds | {i: i for i in range(6, 12)})
    builder = make(release, tmp_path)
    splits = {i: example["split"] for i, example in examples(builder).items()}
    expected = ["train", "train", "validation", "validation", "test", "test"] + ["train"] * 6
    assert splits == dict(enumerate(expected))
    assert report(builder)["split"] == "official"


def test_without_it_a_fixed_hash_splits_about_90_5_5(release):
    found = find_release(open_archive(release))
    splits = [found.split_of(i) for i in range(20000)]
    shares = [splits.count(split) / len(splits) for split in SPLITS]
    np.testing.assert_allclose(shares, [0.90, 0.05, 0.05], atol=0.01)
    # Written down: a change would mix test images into training.
    assert [i for i in range(120) if splits[i] == "test"] == [29, 72, 90, 99, 115]


def test_attributes_and_poses_are_kept(release, tmp_path):
    values = np.where(np.arange(12 * 40).reshape(12, 40) % 3, 1, -1)
    lines = ["12", " ".join(ATTRIBUTES) + " "]
    lines += [f"{i}.jpg  " + " ".join(map(str, values[i])) for i in range(12)]
    (release / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines))
    lines = ["12", "Yaw Pitch Raw", *(f"{i}.jpg {i}.5 -1.0 0.25" for i in range(12))]
    (release / "CelebAMask-HQ-pose-anno.txt").write_text("\n".join(lines))
    record = make(release, tmp_path).as_data_source("train")[0]
    np.testing.assert_array_equal(record["attributes"], values[record["id"]])
    np.testing.assert_array_equal(record["pose"], [record["id"] + 0.5, -1.0, 0.25])


def test_without_annotations_they_are_marked_unknown(release, tmp_path):
    record = make(release, tmp_path).as_data_source("train")[0]
    assert not record["attributes"].any()
    assert np.isnan(record["pose"]).all()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("CelebA-HQ-to-CelebA-mapping.txt", "idx orig_idx orig_file\n0 x 1.jpg"),
        ("CelebAMask-HQ-attribute-anno.txt", "12\nSmiling\n0.jpg 1"),
        ("CelebAMask-HQ-pose-anno.txt", "12\nYaw Pitch Raw\n0.jpg 1 2"),
    ],
)
def test_a_malformed_text_file_is_named(file, text, release, tmp_path):
    (release / file).write_text(text)
    with pytest.raises(ValueError, match=f"^{file}: malformed") as caught:
        make(release, tmp_path)
    assert "\n" not in str(caught.value)


# What goes wrong


def test_what_cannot_be_used_is_skipped_and_reported(release, tmp_path, capsys):
    images, masks = release / "CelebA-HQ-img", release / "CelebAMask-HQ-mask-anno" / "0"
    (images / "0.jpg").write_bytes((images / "0.jpg").read_bytes()[:300])
    for mask in masks.glob("00001_*.png"):
        mask.unlink()
    (masks / "00002_skin.png").write_bytes(b"nonsense")
    Image.new("RGB", (48, 40)).save(images / "3.jpg")
    Image.new("L", (16, 16)).save(masks / "00004_nose.png")
    (images / "5.jpg").unlink()
    builder = make(release, tmp_path, progress=True)
    assert sorted(examples(builder)) == list(range(6, 12))
    said = report(builder)
    assert sum(said["written"].values()) == 6 and said["images"] == 11
    assert said["masks_without_image"] == [5]
    expected = {
        "0": "0.jpg: cannot be decoded",
        "1": "no masks",
        "2": "00002_skin.png: not a picture",
        "3": "3.jpg: 48x40 pixels, not square",
        "4": "masks of different sizes",
    }
    assert said["skipped"].keys() == expected.keys()
    assert all(reason in said["skipped"][i] for i, reason in expected.items())
    printed = capsys.readouterr().out
    assert "6 of 11 images written" in printed and "5 skipped" in printed
    assert "report.json" in printed


def test_nothing_usable_is_an_error_and_leaves_no_records(release, tmp_path):
    for image in (release / "CelebA-HQ-img").iterdir():
        image.write_bytes(b"")
    with pytest.raises(ValueError, match="none of its images could be used"):
        make(release, tmp_path)
    assert not records_exist(tmp_path / "records", SIZE)


def test_other_folders_are_not_the_release(tmp_path):
    with pytest.raises(ValueError, match="not the CelebAMask-HQ release"):
        make(tmp_path, tmp_path)


def test_two_releases_are_not_mixed(release, tmp_path):
    shutil.copytree(release, release.with_name("copy"))
    with pytest.raises(ValueError, match="several releases, in CelebAMask-HQ/, copy/"):
        make(release.parent, tmp_path)


def test_neither_records_nor_source(tmp_path):
    with pytest.raises(ValueError, match="no CelebAMask-HQ records of 24 px"):
        make("", tmp_path)


# Runs


def test_a_second_run_does_nothing(release, tmp_path, monkeypatch):
    make(release, tmp_path)
    monkeypatch.setattr(celebamask, "read_example", None)
    assert len(examples(make("", tmp_path))) == 12


def test_records_of_another_source_are_not_taken_for_the_given_ones(release, tmp_path):
    made = make(release, tmp_path)
    other = shutil.copytree(release, tmp_path / "Portraits")
    with pytest.raises(ValueError, match="of CelebAMask-HQ, not of Portraits: .*data_dir") as error:
        make(other, tmp_path)
    assert "\n" not in str(error.value)
    assert make(f"{release}/", tmp_path).data_path == make(None, tmp_path).data_path
    assert report(made)["source"] == "CelebAMask-HQ"


KILLED = """
import os, sys
from l2sae_jax.data import celebamask
celebamask._CHUNK = 2
stage, source, data_dir = sys.argv[1:]
calls = []
def dies(function, after):
    def wrapper(*args):
        calls.append(args)
        if len(calls) > after:
            os._exit(9)
        return function(*args)
    return wrapper
if stage == "converting":
    celebamask.read_example = dies(celebamask.read_example, after=7)
else:
    original = celebamask.CelebAMaskHQ._generate_examples
    def generate(self, chunks):
        for number, example in enumerate(original(self, chunks)):
            if number == 3:
                os._exit(9)
            yield example
    celebamask.CelebAMaskHQ._generate_examples = generate
celebamask.prepare(source, data_dir, 24, workers=1)
"""


@pytest.mark.parametrize("stage", ["converting", "writing"])
def test_a_killed_run_leaves_nothing_whole_and_is_resumed(stage, release, tmp_path, monkeypatch):
    data_dir = tmp_path / "records"
    root = Path(celebamask.__file__).parents[2]
    died = subprocess.run(
        [sys.executable, "-c", KILLED, stage, str(release), str(data_dir)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
    )
    assert died.returncode == 9, died.stderr.decode()
    assert not records_exist(data_dir, SIZE)

    read = []
    original = celebamask.read_example
    monkeypatch.setattr(celebamask, "_CHUNK", 2)
    monkeypatch.setattr(
        celebamask, "read_example", lambda *args: read.append(args) or original(*args)
    )
    resumed = make(release, tmp_path, workers=1)
    assert len(read) == (6 if stage == "converting" else 0)  # 3 chunks of 2 were done, or all
    monkeypatch.undo()
    fresh, found = examples(make(release, tmp_path / "fresh")), examples(resumed)
    assert found.keys() == fresh.keys()
    for i in fresh:
        np.testing.assert_array_equal(found[i]["image"], fresh[i]["image"])
    folders = {path.name for path in (data_dir / "celebamask_hq" / str(SIZE)).iterdir()}
    assert folders == {"1.0.0"}
    assert not resumed.work_path.exists()


def test_the_command_line(release, tmp_path, capsys):
    arguments = [f"--source={release}", f"--data_dir={tmp_path / 'records'}", "--size=24"]
    main(arguments)
    assert "12 of 12 images written" in capsys.readouterr().out
    main(arguments)
    assert "nothing to do" in capsys.readouterr().out
    assert records_exist(tmp_path / "records", SIZE)


@pytest.mark.parametrize(
    ("source", "size", "message"),
    [
        ("nowhere", 24, "nowhere: no such file or folder"),
        ("empty", 24, "not the CelebAMask-HQ release"),
        ("empty", 0, "size must be a positive number"),
    ],
)
def test_the_command_line_fails_in_one_line(source, size, message, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [f"--source={tmp_path / source}", f"--data_dir={tmp_path}", f"--size={size}"]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert message in caught.value.code and "\n" not in caught.value.code


def test_parts_and_attributes_are_the_releases():
    assert len(PARTS) == 18 and len(ATTRIBUTES) == 40
