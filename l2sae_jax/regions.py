"""The table of face regions: names, the CelebAMask-HQ parts each merges, structure slices, colours.

Everything that is "five times the same" elsewhere is an axis of length `len(REGIONS)` here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

# Parts in the order in which the public release merges them: the label of a part is its position
# plus one, background is 0, and a later part overwrites an earlier one.
PARTS = (
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)
PART_LABELS = {part: label for label, part in enumerate(PARTS, start=1)}

# Exchanged when an image is mirrored: `l_` is the person's left.
_SIDES = (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear"))


@dataclass(frozen=True)
class Region:
    """One editable region of a face.

    Attributes:
      name: what users call it.
      parts: the CelebAMask-HQ parts it merges.
      channels: (first, last + 1) of its slice of an 8-channel structure (paper, section 3).
      colour: RGB in [0, 255], for segmentation maps.
    """

    name: str
    parts: tuple[str, ...]
    channels: tuple[int, int]
    colour: tuple[int, int, int]


REGIONS = (
    Region("hair", ("hair",), (0, 2), (214, 96, 42)),
    Region("skin", ("skin", "l_brow", "r_brow", "l_ear", "r_ear"), (2, 4), (240, 200, 160)),
    Region("nose", ("nose",), (4, 6), (92, 168, 96)),
    Region("eyes", ("l_eye", "r_eye"), (6, 7), (56, 120, 212)),
    Region("lips", ("mouth", "u_lip", "l_lip"), (7, 8), (200, 40, 80)),
)
REGION_NAMES = tuple(region.name for region in REGIONS)
DEFAULT_SLICES = tuple(region.channels for region in REGIONS)


def region_indices(names: Sequence[str]) -> tuple[int, ...]:
    """Positions of the named regions on the region axis.

    Args:
      names: region names; a single string is an error, since `("hair")` is a common slip.

    Raises:
      ValueError: an unknown or repeated name, none at all, or a string in place of a tuple.
    """
    if isinstance(names, str):
        raise ValueError(f"regions must be a tuple of names such as ('{names}',), not a string")
    unknown = [name for name in names if name not in REGION_NAMES]
    if unknown or not names:
        what = f"unknown region {unknown[0]!r}" if unknown else "no region named"
        raise ValueError(f"{what}: choose from {', '.join(REGION_NAMES)}")
    if len(set(names)) != len(names):
        raise ValueError(f"a region is named twice in {', '.join(names)}")
    return tuple(REGION_NAMES.index(name) for name in names)


def equal_slices(channels_per_region: int) -> tuple[tuple[int, int], ...]:
    """A slice table that gives every region the same number of structure channels."""
    n = channels_per_region
    return tuple((n * i, n * (i + 1)) for i in range(len(REGIONS)))


def slice_masks(slices: Sequence[tuple[int, int]], channels: int) -> np.ndarray:
    """0/1 array `[R, channels]` whose row r keeps the channels of region r's slice."""
    channel = np.arange(channels)
    return np.stack([(channel >= lo) & (channel < hi) for lo, hi in slices]).astype(np.float32)


def _membership() -> np.ndarray:
    """0/1 table `[labels, R]`: which label belongs to which region."""
    table = np.zeros((len(PARTS) + 1, len(REGIONS)), np.float32)
    for r, region in enumerate(REGIONS):
        table[[PART_LABELS[part] for part in region.parts], r] = 1.0
    return table


def _mirrored_labels() -> np.ndarray:
    """Table `[labels]` that exchanges left and right parts."""
    table = np.arange(len(PARTS) + 1, dtype=np.uint8)
    for left, right in _SIDES:
        table[[PART_LABELS[left], PART_LABELS[right]]] = PART_LABELS[right], PART_LABELS[left]
    return table


MIRRORED_LABELS = _mirrored_labels()


def region_masks(labels: UInt8[Array, "*B H W"]) -> Float[Array, "*B H W R"]:
    """Region masks in {0, 1} from a label map (0 background, `PART_LABELS` otherwise)."""
    return jnp.asarray(_membership())[labels]


def mask_images(masks: Float[Array, "*B H W R"]) -> Float[Array, "*B R H W 3"]:
    """Masks as white-on-black region images in [-1, 1]: the SMPN's targets (approach 2)."""
    white_on_black = jnp.moveaxis(2.0 * masks - 1.0, -1, -3)[..., None]
    return jnp.broadcast_to(white_on_black, (*white_on_black.shape[:-1], 3))


def appearance_images(
    images: Float[Array, "*B H W 3"], masks: Float[Array, "*B H W R"]
) -> Float[Array, "*B R H W 3"]:
    """Each region's pixels on black (-1): the joint network's targets (approach 1)."""
    inside = jnp.moveaxis(masks, -1, -3)[..., None]
    return inside * images[..., None, :, :, :] + (inside - 1.0)
