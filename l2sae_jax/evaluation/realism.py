"""How far a system's pictures are from the originals as distributions: FID and KID."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.store import Table
from l2sae_jax.metrics.distances import Moments, frechet_with_error, kernel_distance
from l2sae_jax.metrics.resampling import Estimate
from l2sae_jax.regions import REGION_NAMES

# Of the images, each left out in turn, for the standard error of a distance.
_BLOCKS = 10
_FEWEST = 20  # images; two of each block

_NOTHING = Estimate(np.nan, np.nan, np.nan, np.nan, 0)

Features = np.ndarray


def realism(table: Table, originals: Table, protocol: Protocol) -> dict[str, Any]:
    """FID and KID of all edits together, and of some of a system's pictures apart.

    Args:
      table: a system's rows, with Inception features of its pictures.
      originals: the features of the originals, of the same images in the same order.

    Returns:
      An `Estimate` for "fid" and "kid", of the edits of all regions; "fid_reconstruction"; and by
      region "fid_by_region", by strength "fid_by_strength". Less what the system did not make, all
      of it if there are fewer than 20 images. The standard errors are jackknife estimates over
      tenths of the images.
    """
    count = sum(len(block) for block in originals.blocks("features"))
    if count < _FEWEST:
        return {}
    real = _Blocks(originals, "features", count)
    found: dict[str, Any] = {}
    if "edit/features" in table:
        found["fid"] = real.distance(table, "edit/features")
        found["kid"] = _kernel(table["edit/features"], originals["features"], protocol.seed)
        found["fid_by_region"] = {
            name: real.distance(table, "edit/features", lambda f, r=r: f[:, r])
            for r, name in enumerate(REGION_NAMES)
        }
    if "reconstruction/features" in table:
        found["fid_reconstruction"] = real.distance(table, "reconstruction/features")
    if "sweep/features" in table:
        found["fid_by_strength"] = {
            f"{strength:g}": real.distance(table, "sweep/features", lambda f, s=s: f[:, s])
            for s, strength in enumerate(protocol.strengths)
        }
    return found


class _Blocks:
    """The moments of the originals' features, by tenths of the images."""

    def __init__(self, originals: Table, column: str, count: int):
        self._count = count
        self._moments = self._of(originals, column, lambda features: features)

    def distance(
        self,
        table: Table,
        column: str,
        select: Callable[[Features], Features] = lambda features: features,
    ) -> Estimate:
        """The Frechet distance of what `select` takes of each batch of a column."""
        made = self._of(table, column, select)
        count = sum(block.count for block in made)
        if count - max(block.count for block in made) < _FEWEST:
            return _NOTHING
        value, error = frechet_with_error(self._moments, made)
        return _estimate(value, error, count)

    def _of(
        self, table: Table, column: str, select: Callable[[Features], Features]
    ) -> list[Moments]:
        moments: list[Moments | None] = [None] * _BLOCKS
        for positions, features in _numbered(table.blocks(column)):
            chosen, tenth = select(features), positions * _BLOCKS // self._count
            for block in np.unique(tenth):
                rows = chosen[tenth == block].reshape(-1, features.shape[-1])
                found = Moments.of(rows[~np.isnan(rows).any(axis=1)])
                moments[block] = found if moments[block] is None else moments[block] + found
        return moments


def _numbered(blocks: Iterator[Features]) -> Iterator[tuple[np.ndarray, Features]]:
    start = 0
    for block in blocks:
        yield np.arange(start, start + len(block)), block
        start += len(block)


def _kernel(made: Features, real: Features, seed: int) -> Estimate:
    there = ~np.isnan(made).any(axis=-1)
    images = np.arange(len(real)), np.nonzero(there)[0]  # which image each row is of
    if len(images[1]) < _FEWEST:
        return _NOTHING
    value, error = kernel_distance(real, made[there], seed=seed, images=images)
    return _estimate(value, error, len(images[1]))


def _estimate(value: float, error: float, count: int) -> Estimate:
    return Estimate(value, error, value - 1.96 * error, value + 1.96 * error, count)
