import numpy as np
import pytest

from l2sae_jax.regions import (
    DEFAULT_SLICES,
    MIRRORED_LABELS,
    PART_LABELS,
    PARTS,
    REGION_NAMES,
    REGIONS,
    appearance_images,
    equal_slices,
    mask_images,
    region_indices,
    region_masks,
    slice_masks,
)


def test_names_and_their_order():
    assert REGION_NAMES == ("hair", "skin", "nose", "eyes", "lips")


def test_labels_follow_the_release():
    assert PART_LABELS["skin"] == 1 and PART_LABELS["hair"] == 13 and PART_LABELS["cloth"] == 18


def test_default_slices_share_eight_channels_without_overlap():
    assert DEFAULT_SLICES == ((0, 2), (2, 4), (4, 6), (6, 7), (7, 8))
    np.testing.assert_array_equal(slice_masks(DEFAULT_SLICES, 8).sum(axis=0), 1)


def test_equal_slices():
    assert equal_slices(2) == ((0, 2), (2, 4), (4, 6), (6, 8), (8, 10))


def test_every_part_belongs_to_at_most_one_region():
    parts = [part for region in REGIONS for part in region.parts]
    assert len(parts) == len(set(parts)) and set(parts) <= set(PARTS)


def test_masks_of_a_label_map():
    labels = np.array([[0, PART_LABELS["hair"]], [PART_LABELS["l_eye"], PART_LABELS["cloth"]]])
    masks = np.asarray(region_masks(labels.astype(np.uint8)))
    assert masks.shape == (2, 2, 5)
    assert masks[0, 1].tolist() == [1, 0, 0, 0, 0]
    assert masks[1, 0].tolist() == [0, 0, 0, 1, 0]
    assert masks.sum() == 2


def test_pictures_of_masks_and_of_appearances():
    masks = np.zeros((1, 2, 2, 5), np.float32)
    masks[0, 0, 0, 4] = 1
    pictures = np.asarray(mask_images(masks))
    assert pictures.shape == (1, 5, 2, 2, 3)
    assert (pictures[0, 4, 0, 0] == 1).all() and (pictures == -1).sum() == 60 - 3
    shown = np.asarray(appearance_images(np.full((1, 2, 2, 3), 0.5, np.float32), masks))
    assert (shown[0, 4, 0, 0] == 0.5).all() and (shown == -1).sum() == 60 - 3


def test_mirroring_exchanges_left_and_right():
    assert MIRRORED_LABELS[PART_LABELS["l_eye"]] == PART_LABELS["r_eye"]
    np.testing.assert_array_equal(MIRRORED_LABELS[MIRRORED_LABELS], np.arange(19))
    assert MIRRORED_LABELS[PART_LABELS["hair"]] == PART_LABELS["hair"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("hair", "ears"), "unknown region 'ears': choose from hair, skin, nose, eyes, lips"),
        ((), "no region named"),
        (("hair", "hair"), "a region is named twice"),
        ("hair", r"a tuple of names such as \('hair',\)"),
    ],
)
def test_regions_that_cannot_be_found(names, message):
    with pytest.raises(ValueError, match=message):
        region_indices(names)


def test_positions_keep_the_order_asked_for():
    assert region_indices(["lips", "hair"]) == (4, 0)
