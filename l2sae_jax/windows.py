"""Decoding no more of an image than is needed: an edit's cost grows with its region.

The decoder is local, so what lies in a rectangle needs only that rectangle, with a few pixels
around it, of each doubling's input. Shapes are static under `jit`: there are a few sizes of window,
and the mask decides at run time which of them to decode, and where.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from l2sae_jax.model import Autoencoder
from l2sae_jax.nn import DecoderConfig, Window

# Shares of an image's height and width, by rising cost.
_SHARES = (
    (1 / 8, 1 / 4),
    (1 / 4, 1 / 4),
    (1 / 8, 1 / 2),
    (1 / 4, 1 / 2),
    (1 / 2, 1 / 2),
    (3 / 4, 3 / 4),
)

# Smaller images are decoded whole: little would be saved for the time that compiling takes.
_SMALLEST_IMAGE = 256


def decode_where(
    network: Autoencoder,
    structure: Float[Array, "B h w C"],
    style: Float[Array, "B S"],
    where: Bool[Array, "B H W"],
    background: Float[Array, "B H W 3"],
) -> Float[Array, "B H W 3"]:
    """The decoded image at least `where` it is asked for; elsewhere perhaps `background`.

    One size of window serves the batch: the least that holds what each of its images needs. Where
    `where` itself is mapped over by `vmap`, all sizes are computed and nothing is gained.

    Args:
      network: whose decoder to use.
      structure, style: codes of the images.
      where: the pixels needed.
      background: what stands where nothing is decoded.
    """
    sizes = window_sizes(network.config.decoder, structure.shape[1:3])
    if not sizes:
        return network.decode(structure, style)
    first, extent = bounds(where)

    def within(size: tuple[int, int], first):
        return _paste(
            network.decode(structure, style, window=Window(first, size)), first, background
        )

    def whole(first):
        return network.decode(structure, style).astype(background.dtype)

    fits = [jnp.all(extent <= jnp.asarray(size)) for size in sizes]
    choice = jnp.argmax(jnp.stack([*fits, jnp.asarray(True)]))
    return lax.switch(choice, [*(partial(within, size) for size in sizes), whole], first)


def window_sizes(config: DecoderConfig, grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Heights and widths of the windows worth having for a structure of this size, least first."""
    height, width = (cells << len(config.up_widths) for cells in grid)
    if min(height, width) < _SMALLEST_IMAGE:
        return []
    return [(round(height * h), round(width * w)) for h, w in _SHARES]


def bounds(where: Bool[Array, "B H W"]) -> tuple[Int[Array, "B 2"], Int[Array, "B 2"]]:
    """First row and column, and height and width, of what is true in each image; 0 of nothing."""

    def along(axis: int):
        found = jnp.any(where, axis=axis)
        size = found.shape[1]
        first = jnp.argmax(found, axis=1)
        last = size - 1 - jnp.argmax(found[:, ::-1], axis=1)
        return first, jnp.where(jnp.any(found, axis=1), last - first + 1, 0)

    (row, height), (column, width) = along(2), along(1)
    return jnp.stack([row, column], axis=1), jnp.stack([height, width], axis=1)


def _paste(patch, corners, background):
    """Patches over backgrounds; like the decoder's, a corner moves to where the patch fits."""

    def one(patch, corner, image):
        return lax.dynamic_update_slice(image, patch.astype(image.dtype), (*corner, 0))

    return jax.vmap(one)(patch, corners, background)
