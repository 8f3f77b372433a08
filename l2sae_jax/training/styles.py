"""Whitens the style, so that a random direction decodes to colours that faces have.

An edit adds noise of one size to every channel of the style (Algorithm 1), and decoders scale it to
unit length: noise points anywhere. Trained without an adversary, an encoder crowds its styles into
a cone (in one SMN the mean of styles of unit length was 0.8 long, and eight of 64 directions held
nearly all the variance), and the decoder never learns what the other directions look like.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, UInt8

from l2sae_jax.model import Params
from l2sae_jax.nn import Encoder, EncoderConfig
from l2sae_jax.pixels import to_images

# The decoder's layers that read the style, all of them linear.
_READERS = ("modulation", "structure_scale", "structure_shift")
# Directions of less than this share of the largest variance are whitened as if they had it.
_LEAST = 1e-6


def least_pictures(config: EncoderConfig) -> int:
    """How many pictures it takes at least to spread styles of this encoder."""
    return 4 * config.style_channels


def spread_styles(
    params: Params, config: EncoderConfig, batches: Iterable[UInt8[np.ndarray, "B H W 3"]]
) -> Params:
    """Parameters under which the styles of these pictures lie evenly in all directions.

    The encoder's last layer whitens: before it is scaled to unit length, the style has mean 0 and
    the same variance everywhere. The decoder's layers that read the style undo it as well as linear
    ones can, scaling to unit length lying between. What is lost comes back within some training.

    Args:
      params: of all networks; encoder and decoder are replaced.
      config: the encoder's.
      batches: some thousands of pictures, uint8, as the data set has them.

    Raises:
      ValueError: pictures are too few for a style of so many channels.
    """
    written = _styles(params["encoder"], config, batches)
    channels = config.style_channels
    if len(written) < least_pictures(config):
        raise ValueError(
            f"{len(written)} pictures cannot spread a style of {channels} channels: give "
            f"{least_pictures(config)} or more"
        )
    mean = written.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(written, rowvar=False))
    variances = np.maximum(variances, _LEAST * variances.max())
    whiten = directions / np.sqrt(variances) @ directions.T

    whitened = _unit((written - mean) @ whiten)
    read = np.concatenate([whitened, np.ones((len(whitened), 1))], axis=1)
    solution = np.linalg.lstsq(read, _unit(written), rcond=None)[0]
    back, offset = solution[:-1], solution[-1]

    networks = (params[name] for name in ("encoder", "decoder"))
    encoder, decoder = (
        flatten_dict(jax.tree.map(lambda x: np.asarray(x, np.float64), tree)) for tree in networks
    )
    kernel, bias = (encoder["style", name] for name in ("kernel", "bias"))
    # Only directions are read. Weights as large as before learn as fast as before.
    scale = kernel.std() / (kernel @ whiten).std()
    encoder["style", "kernel"] = scale * kernel @ whiten
    encoder["style", "bias"] = scale * (bias - mean) @ whiten
    for *layer, leaf in decoder:
        if leaf == "kernel" and layer[-1] in _READERS:
            kernel = decoder[*layer, "kernel"]
            decoder[*layer, "bias"] = decoder[*layer, "bias"] + offset @ kernel / channels**0.5
            decoder[*layer, "kernel"] = back @ kernel
    changed = {"encoder": unflatten_dict(encoder), "decoder": unflatten_dict(decoder)}
    return params | jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), changed)


def _styles(
    encoder: Params, config: EncoderConfig, batches: Iterable[UInt8[np.ndarray, "B H W 3"]]
) -> Float[np.ndarray, "N S"]:
    """Styles before they are scaled to unit length."""

    @jax.jit
    def styles(encoder: Params, pixels: UInt8[Array, "B H W 3"]) -> Float[Array, "B S"]:
        _, seen = Encoder(config).apply(
            {"params": encoder},
            to_images(pixels),
            capture_intermediates=lambda module, _: module.name == "style",
        )
        return seen["intermediates"]["style"]["__call__"][0]

    return np.concatenate([styles(encoder, pixels) for pixels in batches]).astype(np.float64)


def _unit(styles: Float[np.ndarray, "N S"]) -> Float[np.ndarray, "N S"]:
    return styles / np.linalg.norm(styles, axis=1, keepdims=True)
