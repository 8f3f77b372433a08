"""Between pixels, uint8 in [0, 255], and images, float32 in [-1, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_images(pixels: UInt8[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
    """Images of pixels."""
    return jnp.asarray(pixels, jnp.float32) / 127.5 - 1.0


def to_pixels(images: Float[Array, "*B H W C"]) -> UInt8[Array, "*B H W C"]:
    """The nearest pixels of images; what lies beyond [-1, 1] is clipped."""
    return jnp.round(127.5 * (jnp.clip(images, -1.0, 1.0) + 1.0)).astype(jnp.uint8)
