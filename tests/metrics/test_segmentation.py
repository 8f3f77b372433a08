"""Scores of masks, on masks made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2sae_jax.metrics import segmentation
from l2sae_jax.metrics.segmentation import coverage, label_confusion, overlap

GENERATOR = np.random.default_rng(0)

boundary_f = jax.jit(segmentation.boundary_f, static_argnames="radius")


def masks_of(*areas: tuple[slice, slice] | None, size: int = 24) -> jax.Array:
    """One image's masks `[1, size, size, R]`, each 1 in an area, None of them empty."""
    masks = np.zeros((1, size, size, len(areas)), np.float32)
    for r, area in enumerate(areas):
        if area is not None:
            masks[0, *area, r] = 1.0
    return jnp.asarray(masks)


def square(row: int, column: int, side: int) -> tuple[slice, slice]:
    return slice(row, row + side), slice(column, column + side)


WHOLE = square(0, 0, 24)
LEFT_HALF = slice(None), slice(0, 12)


def test_overlap_of_squares():
    found = masks_of(square(4, 4, 4), square(4, 4, 4), None, square(0, 0, 3))
    truth = masks_of(square(4, 4, 4), square(4, 6, 4), square(0, 0, 2), None)
    counts = overlap(found, truth)
    np.testing.assert_array_equal(counts["intersection"], [[16, 8, 0, 0]])
    np.testing.assert_array_equal(counts["found"], [[16, 16, 0, 9]])
    np.testing.assert_array_equal(counts["truth"], [[16, 16, 4, 0]])
    union = counts["found"] + counts["truth"] - counts["intersection"]
    np.testing.assert_allclose(counts["intersection"] / union, [[1.0, 1 / 3, 0.0, 0.0]])


def test_coverage_is_of_true_regions_in_found_masks():
    truth = masks_of(square(0, 0, 4), square(0, 4, 4))
    found = masks_of(square(0, 2, 4), square(0, 0, 8))  # half and half; both and 32 others
    np.testing.assert_array_equal(coverage(found, truth), [[[8, 8], [16, 16]]])
    found = masks_of(square(0, 0, 4), square(0, 0, 4))  # the second is all in the first's region
    np.testing.assert_array_equal(coverage(found, truth), [[[16, 0], [16, 0]]])


def test_confusion_has_true_labels_in_rows():
    truth = np.array([[[0, 0, 0, 1], [2, 2, 1, 9]]], np.uint8)
    found = np.array([[[0, 1, 1, 1], [0, 2, 9, 1]]], np.uint8)
    expected = [[[1, 2, 0], [0, 1, 0], [1, 0, 1]]]  # of 9s nothing is known
    np.testing.assert_array_equal(label_confusion(found, truth, 3), expected)


def test_confusion_of_many_pixels_is_counted_exactly():
    found, truth = GENERATOR.integers(0, 6, (2, 2, 128, 128)).astype(np.uint8)
    expected = np.zeros((2, 6, 6))
    for i in range(2):
        np.add.at(expected[i], (truth[i], found[i]), 1)
    np.testing.assert_array_equal(label_confusion(found, truth, 6), expected)


# A square of 12 x 12 has a boundary of 44 pixels. Moved to the right by 3, its upper and its lower
# side keep 11 of 12 pixels within 2 of the true boundary, and of the left side's 10 pixels between
# them those 4 that are near a corner: 26 in all, and 26 of the true boundary's by symmetry. Moved
# by 12 it lies beside the true square, with its left side and two pixels of the others within 2.
@pytest.mark.parametrize(
    ("moved", "near"), [(0, 44), (1, 44), (2, 44), (3, 26), (4, 24), (12, 14), (14, 0)]
)
def test_boundary_of_a_square_that_was_moved(moved, near):
    truth, found = (masks_of(square(6, 2 + right, 12), size=32) for right in (0, moved))
    np.testing.assert_allclose(boundary_f(found, truth), [[near / 44]], rtol=1e-6)


def test_precision_and_recall_of_boundaries_differ():
    truth = masks_of(square(2, 2, 4))  # a boundary of 12 pixels
    found = truth + masks_of(square(14, 14, 6))  # and one of 20 where nothing is
    np.testing.assert_allclose(boundary_f(found, truth), [[2 * 12 / (12 + 32)]], rtol=1e-6)
    np.testing.assert_allclose(boundary_f(truth, found), [[2 * 12 / (12 + 32)]], rtol=1e-6)


@pytest.mark.parametrize(
    ("down", "right", "radius", "expected"),
    [
        (1, 1, 1.0, 0.0),
        (1, 1, 1.5, 1.0),
        (2, 0, 2.0, 1.0),
        (2, 1, 2.0, 0.0),
        (2, 1, 2.3, 1.0),
        (0, 1, 0.0, 0.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_radius_is_euclidean(down, right, radius, expected):
    truth, found = masks_of(square(9, 9, 1)), masks_of(square(9 + down, 9 + right, 1))
    assert boundary_f(found, truth, radius=radius).item() == expected


def test_the_border_of_the_picture_is_no_boundary():
    def moved(pixels):
        return masks_of((slice(None), slice(0, 12 + pixels)))

    # Were it one, the other three sides would agree wherever the fourth is.
    assert boundary_f(moved(2), moved(0)).item() == 1.0
    assert boundary_f(moved(3), moved(0)).item() == 0.0


def test_where_there_is_no_boundary():
    found = masks_of(None, None, square(2, 2, 3), WHOLE, WHOLE)
    truth = masks_of(None, square(2, 2, 3), None, WHOLE, LEFT_HALF)
    np.testing.assert_array_equal(boundary_f(found, truth), [[np.nan, 0.0, 0.0, np.nan, 0.0]])


def test_boundaries_of_blobs_agree_with_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    noise = ndimage.gaussian_filter(GENERATOR.normal(size=(2, 2, 40, 52, 3)), (0, 0, 3, 3, 0))
    found, truth = masks = (noise > 0.02).astype(np.float32)
    scores = np.asarray(boundary_f(found, truth))
    for b, r in np.ndindex(2, 3):
        edges = [mask[b, ..., r] > 0 for mask in masks]
        edges = [edge & ~ndimage.binary_erosion(edge, border_value=1) for edge in edges]
        near = [ndimage.distance_transform_edt(~edge) <= 2.0 for edge in edges]
        precision, recall = near[1][edges[0]].mean(), near[0][edges[1]].mean()
        expected = 2 * precision * recall / (precision + recall)
        assert 0.1 < expected < 0.9
        assert scores[b, r] == pytest.approx(expected, rel=1e-5)


def test_jitted_and_one_by_one():
    found, truth = (GENERATOR.uniform(size=(2, 3, 16, 20, 2)) > 0.5).astype(np.float32)

    for metric in (overlap, coverage, segmentation.boundary_f):
        together = jax.jit(metric)(found, truth)
        for i in range(3):
            alone = metric(found[i : i + 1], truth[i : i + 1])
            jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y[0]), together, alone)


def test_a_negative_radius_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^radius -1: expected 0 pixels or more$"):
        segmentation.boundary_f(masks_of(WHOLE), masks_of(WHOLE), radius=-1)
