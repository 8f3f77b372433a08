"""Photographs for the page's tests, and faces found in them without a detector."""

import numpy as np

from l2sae_jax.data.faces import Face
from l2sae_jax.data.images import Photograph
from l2sae_jax.data.synthetic import SyntheticFaces


def face(x: float, y: float, size: float) -> Face:
    """A face looking straight ahead, its nose at (x, y)."""
    offsets = [(-0.2, -0.25), (0.2, -0.25), (0.0, 0.0), (-0.15, 0.2), (0.15, 0.2)]
    landmarks = np.array([x, y]) + size * np.array(offsets)
    return Face((x - size / 2, y - size / 2, size, size), landmarks, 1.0)


FACES = (face(40.0, 60.0, 24.0), face(110.0, 50.0, 40.0))


def photograph(seed: int = 0) -> Photograph:
    """100 x 160 pixels, of which `FACES` are found."""
    pixels = SyntheticFaces(160, seed + 1, seed=3)[seed]["image"][:100]
    return Photograph(np.ascontiguousarray(pixels), None)
