"""Changes of colour that leave every label true."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def jitter_colours(
    images: Float[Array, "B H W 3"], keys: Key[Array, " B"], amount: float
) -> Float[Array, "B H W 3"]:
    """Changes saturation, contrast, white balance and brightness of each image.

    Photographs differ from the pictures a network was trained on most of all in these.

    Args:
      images: in [-1, 1].
      keys: one a sample.
      amount: greatest relative change of saturation, contrast and channel gains, and greatest shift
        of brightness; 0 changes nothing.

    Returns:
      Images in [-1, 1].
    """

    def one(image, key):
        factors = 1.0 + amount * jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)
        saturation, contrast, brightness, *gains = factors
        grey = jnp.mean(image, axis=-1, keepdims=True)
        image = (grey + saturation * (image - grey)) * jnp.stack(gains)
        return contrast * image + (brightness - 1.0)

    return jnp.clip(jax.vmap(one)(images, keys), -1.0, 1.0)
