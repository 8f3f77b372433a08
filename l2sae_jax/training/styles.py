"""Other coordinates for the style, in which those of faces lie in all directions.

An edit adds noise of one size to every channel of the style (Algorithm 1), and decoders scale it to
unit length. A random direction decodes to colours that faces have only if faces' own styles point
everywhere. Networks trained without an adversary crowd them into a cone: of styles of unit length
the mean has 0.8, and eight directions hold what is left. The decoder never saw the others.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, UInt8

from l2sae_jax.model import AutoencoderConfig, Params
from l2sae_jax.nn import Encoder
from l2sae_jax.pixels import to_images

# The decoder's layers that read the style, all of them linear.
_READERS = ("modulation", "structure_scale", "structure_shift")
_LEAST = 1e-6  # variance of a direction, as a share of the largest
_BATCH = 32


def spread_styles(
    params: Params, config: AutoencoderConfig, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]
) -> Params:
    """Parameters whose styles, of these pictures, have mean 0 and equal variance everywhere.

    The encoder's last layer whitens; the decoder's first ones undo it as well as a linear map can,
    since scaling to unit length lies between. What is lost comes back within some training.

    Args:
      params: of all networks; encoder and decoder are replaced.
      config: their architecture.
      pictures: some thousands, uint8, as the data set has them.

    Raises:
      ValueError: pictures are too few for a style of so many channels.
    """
    channels = config.encoder.style_channels
    if len(pictures) < 4 * channels:
        raise ValueError(
            f"{len(pictures)} pictures cannot spread a style of {channels} channels: give "
            f"{4 * channels} or more, or config.spread_styles=0"
        )
    written = _styles(params["encoder"], config, pictures)
    mean = written.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(written, rowvar=False))
    variances = np.maximum(variances, _LEAST * variances.max())
    whiten = directions / np.sqrt(variances) @ directions.T

    whitened = _unit((written - mean) @ whiten)
    read = np.concatenate([whitened, np.ones((len(whitened), 1))], axis=1)
    *back, offset = np.linalg.lstsq(read, _unit(written), rcond=None)[0]

    encoder, decoder = (flatten_dict(params[name]) for name in ("encoder", "decoder"))
    encoder["style", "kernel"] = encoder["style", "kernel"] @ whiten
    encoder["style", "bias"] = (encoder["style", "bias"] - mean) @ whiten
    for *layer, leaf in list(decoder):
        if leaf == "kernel" and layer[-1] in _READERS:
            kernel = decoder[*layer, "kernel"]
            decoder[*layer, "bias"] = decoder[*layer, "bias"] + offset @ kernel / channels**0.5
            decoder[*layer, "kernel"] = np.stack(back) @ kernel
    changed = {"encoder": unflatten_dict(encoder), "decoder": unflatten_dict(decoder)}
    return params | jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), changed)


def _styles(encoder, config: AutoencoderConfig, pictures) -> Float[np.ndarray, "N S"]:
    """Styles before they are scaled to unit length."""

    @jax.jit
    def styles(encoder, pixels: UInt8[Array, "B H W 3"]) -> Float[Array, "B S"]:
        _, seen = Encoder(config.encoder).apply(
            {"params": encoder},
            to_images(pixels),
            capture_intermediates=lambda module, _: module.name == "style",
        )
        return seen["intermediates"]["style"]["__call__"][0]

    whole = range(0, len(pictures) - _BATCH + 1, _BATCH)  # an incomplete batch is left out
    batches = [styles(encoder, np.stack(pictures[i : i + _BATCH])) for i in whole]
    return np.concatenate(batches).astype(np.float64)


def _unit(styles: Float[np.ndarray, "N S"]) -> Float[np.ndarray, "N S"]:
    return styles / np.linalg.norm(styles, axis=1, keepdims=True)
