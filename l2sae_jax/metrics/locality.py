"""How local an edit is: how much it changed within its region, and how much elsewhere."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter


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
