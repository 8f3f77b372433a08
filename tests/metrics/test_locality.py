"""How local an edit is, on changes made by hand."""

import numpy as np

from l2sae_jax.metrics.locality import dilated, mean_change


def square(size: int, first: int, last: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[first:last, first:last] = 255
    return mask


def test_a_mask_grows_to_all_sides_and_corners():
    np.testing.assert_array_equal(dilated(square(9, 3, 5)), square(9, 2, 6))
    np.testing.assert_array_equal(dilated(square(9, 3, 5), 2), square(9, 1, 7))
    np.testing.assert_array_equal(dilated(square(9, 0, 2)), square(9, 0, 3))


def test_change_inside_and_outside_leaves_out_what_the_matte_alone_covers():
    mask = square(8, 3, 5)
    before = np.full((8, 8, 3), 100, np.uint8)
    after = before.copy()
    after[mask > 0] = (90, 120, 100)  # changes of 10, 20 and 0 levels
    after[2, 2:6] = 0  # within the matte, outside the mask
    assert mean_change(before, after, mask) == {"inside": 10.0, "outside": 0.0}
    after[0, 0] = 100 + 3 * 16
    assert mean_change(before, after, mask) == {"inside": 10.0, "outside": 1.0}


def test_where_there_is_nothing_to_measure_there_is_no_figure():
    picture = np.zeros((4, 4, 3), np.uint8)
    whole = np.full((4, 4), 255, np.uint8)
    assert mean_change(picture, picture, whole) == {"inside": 0.0, "outside": None}
    assert mean_change(picture, picture, whole * 0) == {"inside": None, "outside": 0.0}
