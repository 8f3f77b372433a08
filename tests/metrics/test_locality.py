"""How local an edit is, on changes made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2sae_jax.metrics import locality
from l2sae_jax.metrics.locality import dilated, mean_change, swap_errors

change_by_zone = jax.jit(locality.change_by_zone, static_argnames="band")


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


def images_of(*levels: np.ndarray | int) -> jax.Array:
    """One image a channel-less picture or a number, whose levels of 255 it has in all channels."""
    pictures = [np.broadcast_to(np.asarray(level, np.float32), (16, 20)) for level in levels]
    return jnp.asarray(np.stack(pictures)[..., None] / 127.5 - 1.0) * jnp.ones(3)


def rectangle(*area: slice) -> np.ndarray:
    mask = np.zeros((16, 20), np.float32)
    mask[area] = 1.0
    return mask


REGION = rectangle(slice(5, 9), slice(6, 11))
NEAR = rectangle(slice(3, 11), slice(4, 13))  # 2 pixels more on every side
NOTHING, EVERYTHING = rectangle(slice(0, 0)), rectangle(slice(None))


def test_change_is_told_apart_by_zone():
    band = NEAR - REGION
    before = images_of(100, 100, 100, 100)
    after = images_of(100 + 30 * REGION, 100 - 20 * band, 110 - 10 * NEAR, 100)
    masks = jnp.asarray(np.stack([REGION] * 4))
    changes = change_by_zone(before, after, masks, band=2)
    expected = {"inside": [30, 0, 0, 0], "band": [0, 20, 0, 0], "outside": [0, 0, 10, 0]}
    assert changes.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(changes[name], values, atol=1e-4)


def test_change_is_the_mean_over_pixels_and_channels():
    before = images_of(100)
    after = before.at[0, 5, 6].add(jnp.array([30.0, -60.0, 0.0]) / 127.5)
    changes = change_by_zone(before, after, REGION[None], band=2)
    np.testing.assert_allclose(changes["inside"], 90 / 3 / 20, rtol=1e-4)


def test_zones_are_those_of_the_dilated_mask():
    masks = (np.random.default_rng(0).uniform(size=(3, 16, 20, 1)) > 0.98).astype(np.float32)
    grown = np.stack([dilated(mask[..., 0].astype(np.uint8), 3) for mask in masks])
    before, after = images_of(0, 0, 0), images_of(*(255 * (1 - grown)))
    changes = change_by_zone(before, after, jnp.asarray(masks), band=3)
    np.testing.assert_allclose(changes["inside"], 0.0, atol=1e-4)
    np.testing.assert_allclose(changes["band"], 0.0, atol=1e-4)
    np.testing.assert_allclose(changes["outside"], 255.0, rtol=1e-5)


def test_a_zone_without_pixels_has_no_figure():
    masks = jnp.asarray(np.stack([NOTHING, EVERYTHING, REGION]))
    before, after = images_of(0, 0, 0), images_of(51, 51, 51)
    changes = change_by_zone(before, after, masks, band=2)
    np.testing.assert_allclose(changes["inside"], [np.nan, 51, 51], rtol=1e-5)
    np.testing.assert_allclose(changes["band"], [np.nan, np.nan, 51], rtol=1e-5)
    np.testing.assert_allclose(changes["outside"], [51, np.nan, 51], rtol=1e-5)
    assert np.isnan(change_by_zone(before, after, masks, band=0)["band"]).all()


def test_errors_of_a_swap_are_told_apart_by_both_masks_together():
    source_mask, reference_mask = REGION, rectangle(slice(7, 12), slice(9, 15))
    both = np.maximum(source_mask, reference_mask)
    source, reference = images_of(0, 0, 0), images_of(255, 255, 255)
    swapped = images_of(255 * both, 255 * source_mask, 51 + 0 * both)
    errors = jax.jit(swap_errors)(
        source, reference, swapped, *(np.stack([m] * 3) for m in (source_mask, reference_mask))
    )
    # In [-1, 1] black and white are 2 apart. The second leaves black what only the other mask has.
    left = (both - source_mask).sum() / both.sum()
    np.testing.assert_allclose(errors["mse_src"], [0.0, 0.0, 0.4**2], atol=1e-5)
    np.testing.assert_allclose(errors["mse_ref"], [0.0, 4 * left, 1.6**2], atol=1e-5)


def test_a_swap_without_region_or_without_surroundings_has_no_such_error():
    masks = np.stack([NOTHING, EVERYTHING])[..., None]
    errors = swap_errors(images_of(0, 0), images_of(0, 0), images_of(0, 0), masks, 0 * masks)
    np.testing.assert_array_equal(errors["mse_src"], [0.0, np.nan])
    np.testing.assert_array_equal(errors["mse_ref"], [np.nan, 0.0])


def test_a_negative_band_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^band -1: expected 0 pixels or more$"):
        locality.change_by_zone(images_of(0), images_of(0), REGION[None], band=-1)
