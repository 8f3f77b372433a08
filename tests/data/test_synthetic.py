import numpy as np
import pytest

from l2sae_jax.data.synthetic import SyntheticFaces
from l2sae_jax.regions import PART_LABELS, region_masks


@pytest.mark.parametrize("size", [1, 32, 65])
def test_elements(size):
    faces = SyntheticFaces(size, length=3, seed=0)
    face = faces[2]
    assert len(faces) == 3
    assert face["image"].shape == (size, size, 3) and face["image"].dtype == np.uint8
    assert face["labels"].shape == (size, size) and face["labels"].dtype == np.uint8
    assert face["id"] == 2


def test_a_face_depends_on_seed_and_index_alone():
    first, again = SyntheticFaces(32, 5, seed=1), SyntheticFaces(32, 9, seed=1)
    for i in (4, 0):
        np.testing.assert_array_equal(first[i]["image"], again[i]["image"])
        np.testing.assert_array_equal(first[i]["labels"], again[i]["labels"])
    assert (first[0]["image"] != first[1]["image"]).any()
    assert (first[0]["image"] != SyntheticFaces(32, 5, seed=2)[0]["image"]).any()


def test_every_region_shows_in_nearly_every_face():
    faces = SyntheticFaces(64, 60, seed=3)
    labels = np.stack([faces[i]["labels"] for i in range(len(faces))])
    shown = np.asarray(region_masks(labels)).any(axis=(1, 2)).mean(axis=0)
    hair, *others = shown
    assert hair >= 0.8  # some are bald
    assert min(others) == 1.0
    assert labels.max() <= max(PART_LABELS.values())


def test_left_is_the_persons_left():
    labels = np.stack([SyntheticFaces(64, 20, seed=4)[i]["labels"] for i in range(20)])
    for part in ("eye", "brow", "ear"):
        column = [
            np.nonzero(labels == PART_LABELS[f"{side}_{part}"])[2].mean() for side in ("l", "r")
        ]
        assert column[0] > 32 > column[1]


def test_the_same_face_at_another_size():
    """A label is that of the pixel's centre: every third pixel of a picture 3 times as big."""
    small, large = (SyntheticFaces(size, 4, seed=5) for size in (32, 96))
    for i in range(4):
        # Not one for one: hair is painted a pixel over the edge of the forehead.
        assert (small[i]["labels"] == large[i]["labels"][1::3, 1::3]).mean() > 0.98


def test_pictures_follow_their_labels():
    """Within a face, pixels of one part differ less than those of the whole picture."""
    faces = SyntheticFaces(64, 10, seed=6)
    for i in range(10):
        image, labels = faces[i]["image"].astype(float), faces[i]["labels"]
        within = sum(
            ((image[labels == label] - image[labels == label].mean(0)) ** 2).sum()
            for label in np.unique(labels)
        )
        assert within < 0.6 * ((image - image.mean((0, 1))) ** 2).sum()


@pytest.mark.parametrize("arguments", [(0, 1, 0), (8, 0, 0), (8, 1, -1)])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match="must be positive"):
        SyntheticFaces(*arguments)


def test_it_ends():
    with pytest.raises(IndexError, match="face 3 of 3"):
        SyntheticFaces(8, 3, 0)[3]
