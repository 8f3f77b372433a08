"""How local an edit is: how much it changed within its region, and how much elsewhere.

`dilated` and `mean_change` are for single pictures on the host, whatever their sizes; what follows
them is for batches, under `jit`.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageFilter

Images = Float[Array, "B H W 3"]
Mask = Float[Array, "B H W"] | Float[Array, "B H W 1"]


def dilated(mask: UInt8[np.ndarray, "H W"], pixels: int = 1) -> UInt8[np.ndarray, "H W"]:
    """A mask grown to all sides, corners included; by 1 pixel it is what its matte covers."""
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(2 * pixels + 1)))


def mean_change(
    before: UInt8[np.ndarray, "H W 3"],
    after: UInt8[np.ndarray, "H W 3"],
    mask: UInt8[np.ndarray, "H W"],
) -> dict[str, float | None]:
    """Mean absolute change in levels of 255, "inside" a mask and "outside" its matte.

    None where there is no such pixel.
    """
    change = np.abs(after.astype(np.int16) - before).mean(axis=-1)
    places = {"inside": mask > 0, "outside": dilated(mask) == 0}
    return {
        name: round(float(change[place].mean()), 4) if place.any() else None
        for name, place in places.items()
    }


def change_by_zone(
    before: Images, after: Images, mask: Mask, band: int
) -> dict[str, Float[Array, " B"]]:
    """Mean absolute change of each image, in levels of 255, in three zones that make up all of it.

    Args:
      before, after: in [-1, 1].
      mask: hard mask in {0, 1}, with or without an axis of channels.
      band: width of the zone round the mask, corners included, in pixels (static).

    Returns:
      "inside" the mask, in the "band" round it, and "outside" both; NaN where an image has no such
      pixel.

    Raises:
      ValueError: a negative band.
    """
    if band < 0:
        raise ValueError(f"band {band}: expected 0 pixels or more")
    inside = mask.reshape(before.shape[:3])
    near = _grown_by_square(inside, band)
    change = 127.5 * jnp.mean(jnp.abs(after - before), axis=-1)
    zones = {"inside": inside, "band": near - inside, "outside": 1.0 - near}
    return {name: _mean_within(change, zone) for name, zone in zones.items()}


def swap_errors(
    source: Images, reference: Images, swapped: Images, source_mask: Mask, reference_mask: Mask
) -> dict[str, Float[Array, " B"]]:
    """StyleMapGAN's errors of local editing (Kim et al., 2021), for each image.

    Args:
      source: the images edited, in [-1, 1].
      reference: where the region's style came from.
      swapped: the results.
      source_mask, reference_mask: the region's true masks in {0, 1}, with or without an axis of
        channels; both errors are told apart by their union.

    Returns:
      "mse_src", the mean squared difference from the source outside both masks, and "mse_ref", that
      from the reference inside either; NaN where an image has no such pixel.
    """
    inside = jnp.maximum(*(m.reshape(source.shape[:3]) for m in (source_mask, reference_mask)))
    from_source, from_reference = (
        jnp.mean(jnp.square(swapped - images), axis=-1) for images in (source, reference)
    )
    return {
        "mse_src": _mean_within(from_source, 1.0 - inside),
        "mse_ref": _mean_within(from_reference, inside),
    }


# Not `dilated`, which does not run under `jit`; nor could this serve there, where it would be
# compiled anew for every size of picture.
def _grown_by_square(mask: Float[Array, "B H W"], pixels: int) -> Float[Array, "B H W"]:
    side = 2 * pixels + 1
    for window in ((1, side, 1), (1, 1, side)):  # at once it takes 30 times as long on CPU
        mask = lax.reduce_window(mask, 0.0, lax.max, window, (1, 1, 1), "SAME")
    return mask


def _mean_within(values: Float[Array, "B H W"], zone: Float[Array, "B H W"]) -> Float[Array, " B"]:
    count = jnp.sum(zone, axis=(1, 2))
    total = jnp.sum(values * zone, axis=(1, 2))
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)
