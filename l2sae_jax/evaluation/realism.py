"""How far a system's pictures are from the originals as distributions: FID and KID."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.store import Table
from l2sae_jax.metrics.distances import (
    Moments,
    frechet_jackknife,
    jackknife_error,
    kernel_distance,
)
from l2sae_jax.metrics.resampling import Estimate
from l2sae_jax.regions import REGION_NAMES

# Of the images, each left out in turn, for the standard error of a distance.
_TENTHS = 10
FEWEST_IMAGES = 30

Features = Float[np.ndarray, "N *K D"]


class Distance(NamedTuple):
    """A distance between two sets of features.

    Attributes:
      left_out: the distance without each tenth of the images.
      count: how many pictures there are.
    """

    value: float
    left_out: Float[np.ndarray, "10"]
    count: int


def frechet_distances(table: Table, originals: Table, protocol: Protocol) -> dict[str, Any]:
    """FID of all edits together, and of some of a system's pictures apart.

    Args:
      table: a system's rows, with Inception features of its pictures.
      originals: the features of the originals, of the same images in the same order.

    Returns:
      A `Distance` for "fid", of the edits of all regions, and "fid_reconstruction"; and by region
      "fid_by_region", by strength "fid_by_strength". Less what the system did not make, or made of
      fewer than 30 images.
    """
    count = sum(map(len, originals.blocks("features")))
    if count < FEWEST_IMAGES:
        return {}
    real, _ = _moments(originals, "features", count)

    def distance(column, select=lambda features: features):
        made, images = _moments(table, column, count, select)
        pictures = sum(tenth.count for tenth in made)
        fewest_left = pictures - max(tenth.count for tenth in made)
        if images < FEWEST_IMAGES or fewest_left < 2:
            return None
        return Distance(*frechet_jackknife(real, made), pictures)

    found: dict[str, Any] = {}
    if "edit/features" in table:
        by_region = {
            name: distance("edit/features", lambda features, r=r: features[:, r])
            for r, name in enumerate(REGION_NAMES)
        }
        found["fid_by_region"] = _without_none(by_region)
        if len(found["fid_by_region"]) == len(REGION_NAMES):
            found["fid"] = distance("edit/features")
    if "reconstruction/features" in table:
        found["fid_reconstruction"] = distance("reconstruction/features")
    if "sweep/features" in table:
        by_strength = {
            f"{strength:g}": distance("sweep/features", lambda features, s=s: features[:, s])
            for s, strength in enumerate(protocol.strengths)
        }
        found["fid_by_strength"] = _without_none(by_strength)
    return _without_none(found)


def kernel_estimate(table: Table, originals: Table, seed: int) -> Estimate | None:
    """KID of the edits of all regions; None if some region has too few."""
    if "edit/features" not in table:
        return None
    made, real = table["edit/features"], originals["features"]
    there = ~np.isnan(made).any(axis=-1)
    if there.sum(axis=0).min() < FEWEST_IMAGES:
        return None
    images = np.arange(len(real)), np.nonzero(there)[0]  # which image each row is of
    value, error = kernel_distance(real, made[there], seed=seed, images=images)
    return _estimate(value, error, int(there.sum()))


def estimate_of(distance: Distance) -> Estimate:
    """A distance with its jackknife error."""
    return _estimate(distance.value, jackknife_error(distance.left_out), distance.count)


def difference_of(a: Distance, b: Distance) -> Estimate:
    """How much greater distance a is than b; the same images are left out of both."""
    error = jackknife_error(a.left_out - b.left_out)
    return _estimate(a.value - b.value, error, min(a.count, b.count))


def _estimate(value: float, error: float, count: int) -> Estimate:
    return Estimate(value, error, value - 1.96 * error, value + 1.96 * error, count)


def _without_none(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


def _moments(
    table: Table,
    column: str,
    count: int,
    select: Callable[[Features], Features] = lambda features: features,
) -> tuple[list[Moments], int]:
    """The moments of what `select` takes of a column, by tenths of `count` images.

    And how many of the images have any.
    """
    moments, images = [], 0
    for rows in _tenths(map(select, table.blocks(column)), count):
        there = ~np.isnan(rows).any(axis=-1)
        moments.append(Moments.of(rows[there]))
        images += int(there.reshape(len(rows), -1).any(axis=1).sum())
    return moments, images


def _tenths(blocks: Iterator[Features], count: int) -> Iterator[Features]:
    """The rows of each tenth of the images."""
    position, parts = 0, []
    ends = iter([count * (k + 1) // _TENTHS for k in range(_TENTHS)])
    end = next(ends)
    for block in blocks:
        while len(block):
            part, block = block[: end - position], block[end - position :]
            parts.append(part)
            position += len(part)
            if position == end:
                yield np.concatenate(parts)
                parts, end = [], next(ends, count)
