"""How well masks agree with true ones, image by image: areas, boundaries and confusions.

Counts are of pixels, so that those of many images add up before a ratio is taken.
"""

import math
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

Masks = Float[Array, "B H W R"]


def overlap(found: Masks, truth: Masks) -> dict[str, Float[Array, "B R"]]:
    """Pixels in both of two masks, "intersection", in the one, "found", and the other, "truth".

    All that is said of areas follows from them: union = found + truth - intersection,
    IoU = intersection / union, F1 = 2 intersection / (found + truth).

    Args:
      found, truth: hard masks in {0, 1}.
    """
    return {
        "intersection": jnp.sum(found * truth, axis=(1, 2)),
        "found": jnp.sum(found, axis=(1, 2)),
        "truth": jnp.sum(truth, axis=(1, 2)),
    }


def coverage(found: Masks, truth: Masks) -> Float[Array, "B R R"]:
    """Pixels of true region j (last axis) that lie in the mask found for region i.

    Off the diagonal is what leaks: a slice of the structure decoded into another's region.

    Args:
      found, truth: hard masks in {0, 1}; those of different regions may overlap.
    """
    return jnp.einsum("bhwi,bhwj->bij", found, truth)


def label_confusion(
    found: UInt8[Array, "B H W"], truth: UInt8[Array, "B H W"], labels: int
) -> Float[Array, "B L L"]:
    """Pixels of true label i (rows) that are labelled j (columns, the last axis).

    Args:
      found, truth: label maps, as `label_maps.label_map` makes them. A pixel of which either label
        is not below `labels` counts nowhere.
      labels: how many labels there are, background included.
    """
    rows, columns = (
        jax.nn.one_hot(x.reshape(len(x), -1), labels, dtype=jnp.float32) for x in (truth, found)
    )
    return jnp.einsum("bpi,bpj->bij", rows, columns)


def boundary_f(found: Masks, truth: Masks, radius: float = 2.0) -> Float[Array, "B R"]:
    """F measure of boundaries (Csurka et al., 2013; DAVIS: Perazzi et al., 2016).

    A mask's boundary are its pixels next to one, above, below or beside it, that is not in it. The
    border of the picture is no boundary: where it cuts a region off, there is nothing to find.
    Precision is the share of the found boundary that has a pixel of the true one within `radius`,
    recall the share of the true one that has one of the found one; F is their harmonic mean.

    Args:
      found, truth: hard masks in {0, 1}.
      radius: in pixels, Euclidean.

    Returns:
      F in [0, 1]: 0 where only one of the masks has a boundary, NaN where neither has.

    Raises:
      ValueError: a negative radius.
    """
    if radius < 0:
        raise ValueError(f"radius {radius}: expected 0 pixels or more")
    edges = jnp.stack([_boundary(found), _boundary(truth)])
    matched = edges * jnp.stack([_grown_by_disk(edge, radius) for edge in edges[::-1]])
    lengths = jnp.sum(edges, axis=(2, 3))
    precision, recall = jnp.sum(matched, axis=(2, 3)) / jnp.maximum(lengths, 1.0)
    both = precision + recall
    f = 2.0 * precision * recall / jnp.where(both > 0, both, 1.0)
    return jnp.where(jnp.any(lengths > 0, axis=0), f, jnp.nan)


def _boundary(masks: Masks) -> Masks:
    neighbours = _shifted(masks, [(-1, 0), (1, 0), (0, -1), (0, 1)], mode="edge")
    return masks * (1.0 - reduce(jnp.minimum, neighbours))


def _grown_by_disk(masks: Masks, radius: float) -> Masks:
    reach = range(-math.floor(radius), math.floor(radius) + 1)
    disk = [(i, j) for i in reach for j in reach if i * i + j * j <= radius * radius]
    return reduce(jnp.maximum, _shifted(masks, disk, mode="constant"))


def _shifted(masks: Masks, offsets: list[tuple[int, int]], mode: str) -> list[Masks]:
    """What lies at each offset from each pixel, beyond the border as `jnp.pad` has it."""
    far = max(abs(offset) for pair in offsets for offset in pair)
    padded = jnp.pad(masks, ((0, 0), (far, far), (far, far), (0, 0)), mode=mode)
    height, width = masks.shape[1:3]
    return [padded[:, far + i : far + i + height, far + j : far + j + width] for i, j in offsets]
