"""Region masks as pictures: label maps, colours, and colours over a photograph."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from l2sae_jax.regions import PART_LABELS, REGIONS, region_indices

# Row 0 is the background.
_COLOURS = np.array([(0, 0, 0), *(region.colour for region in REGIONS)], np.uint8)


def label_map(masks: Float[Array, "*B H W R"], regions: Sequence[str]) -> UInt8[Array, "*B H W"]:
    """Labels of hard masks: 0 background, else the region's position in `REGION_NAMES` plus one.

    Where masks overlap, the region wins whose part comes later in `PARTS`, as in the label maps of
    the training data: hair lies over everything else, skin under it.

    Args:
      masks: in {0, 1}, in the order of `regions`.
      regions: names from `REGION_NAMES`.

    Raises:
      ValueError: an unknown or repeated region.
    """
    indices = region_indices(regions)
    labels = jnp.zeros(masks.shape[:-1], jnp.uint8)
    for i in np.argsort([PART_LABELS[REGIONS[index].parts[0]] for index in indices]):
        labels = jnp.where(masks[..., i] > 0.5, jnp.uint8(indices[i] + 1), labels)
    return labels


def colour_map(labels: UInt8[Array, "*B H W"]) -> UInt8[Array, "*B H W 3"]:
    """A label map in the regions' colours, on black."""
    # Of numpy's arrays a numpy array: photographs have many shapes, and each would be compiled for.
    table = jnp.asarray(_COLOURS) if isinstance(labels, jax.Array) else _COLOURS
    return table[labels]


def overlay(
    pixels: UInt8[np.ndarray, "*B H W 3"], labels: UInt8[np.ndarray, "*B H W"]
) -> UInt8[np.ndarray, "*B H W 3"]:
    """Pictures with the regions' colours laid over them, half transparent."""
    laid = pixels.copy()
    inside = labels > 0
    laid[inside] = (pixels[inside] + colour_map(labels[inside]).astype(np.uint16) + 1) // 2
    return laid
