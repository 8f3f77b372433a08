"""Label maps of masks: values, order where masks overlap, colours."""

import jax
import numpy as np
import pytest

from l2sae_jax.label_maps import colour_map, label_map, overlay
from l2sae_jax.regions import REGIONS


def test_labels_count_from_one_in_the_order_of_the_table():
    masks = np.eye(6, 5, dtype=np.float32).reshape(2, 3, 5)
    names = tuple(region.name for region in REGIONS)
    np.testing.assert_array_equal(label_map(masks, names), [[1, 2, 3], [4, 5, 0]])


def test_labels_do_not_depend_on_which_regions_are_asked_for():
    masks = np.array([[[1, 0], [0, 1], [0, 0]]], np.float32)
    np.testing.assert_array_equal(label_map(masks, ("lips", "hair")), [[5, 1, 0]])


@pytest.mark.parametrize("regions", [("hair", "skin", "eyes"), ("eyes", "skin", "hair")])
def test_hair_lies_over_eyes_and_these_over_skin(regions):
    on = {"hair": [1, 0, 0], "eyes": [1, 1, 0], "skin": [1, 1, 1]}
    masks = np.stack([np.float32(on[name]) for name in regions], axis=-1)[None]
    np.testing.assert_array_equal(label_map(masks, regions), [[1, 4, 2]])


def test_colours_are_the_regions_on_black():
    labels = np.arange(6, dtype=np.uint8)[None]
    colours = colour_map(labels)
    np.testing.assert_array_equal(jax.jit(colour_map)(labels), colours)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[0], [(0, 0, 0), *(region.colour for region in REGIONS)])


def test_an_overlay_keeps_the_background():
    pixels = np.full((1, 2, 3), 190, np.uint8)
    laid = overlay(pixels, np.array([[0, 1]], np.uint8))
    np.testing.assert_array_equal(laid[0, 0], pixels[0, 0])
    np.testing.assert_allclose(laid[0, 1], (190 + np.array(REGIONS[0].colour)) / 2, atol=0.5)
    np.testing.assert_array_equal(pixels, 190)
