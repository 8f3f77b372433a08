"""Algorithm 2: from a hard mask to a matte, and blending through it."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Blend = Literal["paper", "local"]

# The 3x3 Gaussian of unit variance is the outer product of these taps, which sum to 1.
_TAPS = np.exp(-0.5 * np.arange(-1, 2) ** 2)
_TAPS = (_TAPS / _TAPS.sum()).astype(np.float32)


def gaussian_blur(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Blurs with the normalised 3x3 Gaussian of unit variance; borders repeat the edge pixel."""
    for axis in (1, 2):
        places = np.arange(x.shape[axis])
        x = sum(
            tap * jnp.take(x, places + i, axis, mode="clip")
            for i, tap in zip((-1, 0, 1), _TAPS, strict=True)
        )
    return x


def check_blend(mode: str) -> None:
    """Raises ValueError unless `mode` is a way of blending."""
    if mode not in get_args(Blend):
        raise ValueError(f"unknown blend {mode!r}: choose from {', '.join(get_args(Blend))}")


def blend(
    images: Float[Array, "B H W 3"],
    restyled: Float[Array, "B H W 3"],
    mask: Float[Array, "B H W 1"],
    mode: Blend,
) -> Float[Array, "B H W 3"]:
    """Blends restyled images into images through the matte of a mask (Algorithm 2).

    Args:
      images, restyled: in [-1, 1].
      mask: hard mask in {0, 1}; its blur is the matte.
      mode: "paper" blurs the blended picture once more, all of it; "local" does not, and leaves
        every pixel whose matte is 0 exactly as it came in.

    Raises:
      ValueError: an unknown mode.
    """
    check_blend(mode)
    matte = gaussian_blur(mask)  # M' = G * M
    blended = images + matte * (restyled - images)  # M' restyled + (1 - M') X
    return gaussian_blur(blended) if mode == "paper" else blended


def mean_through(
    restyled: Float[Array, "N B H W 3"], masks: Float[Array, "N B H W 1"]
) -> Float[Array, "B H W 3"]:
    """One picture of several: at each pixel their mean, weighted by the mattes of their masks.

    Blended in through the masks' maximum it is, of equal pictures, what each of them alone would
    be. Where all mattes are 0 it is 0.
    """
    mattes = jax.vmap(gaussian_blur)(masks)
    total = jnp.sum(mattes, axis=0)
    return jnp.sum(mattes * restyled, axis=0) / jnp.where(total > 0, total, 1.0)
