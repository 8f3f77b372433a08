"""The entries of the Swapping Autoencoder's PyTorch checkpoints, and our parameters as such.

Names, shapes and order of a checkpoint's entries follow from our own parameter trees by abstract
evaluation, so the architecture is written down once.
"""

import functools
import re
import types
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np

from l2sae_jax.checkpoints import LazyMapping
from l2sae_jax.nn import Architecture

COUNTER = "num_discriminator_iters"

TreePath = tuple[str, ...]


# ------------------------------------------------------------------- the entries of an architecture


@dataclass(frozen=True)
class Entry:
    """One entry of a PyTorch checkpoint.

    Attributes:
      shape: its shape there.
      path: where its values live in our tree `{network: parameters}`; None for a blur buffer.
      ours: their shape here.
      axes: our axes in PyTorch's order.
      constant: the value of a blur buffer.
    """

    shape: tuple[int, ...]
    path: TreePath | None = None
    ours: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()
    constant: np.ndarray | None = None

    def to_torch(self, values: np.ndarray) -> np.ndarray:
        """Our parameter in PyTorch's layout."""
        return values.transpose(self.axes).reshape(self.shape)

    def to_ours(self, values: np.ndarray) -> np.ndarray:
        """PyTorch's parameter in our layout and in float32."""
        theirs = values.reshape([self.ours[axis] for axis in self.axes])
        return np.array(theirs.transpose(np.argsort(self.axes).tolist()), np.float32, order="C")


@functools.lru_cache(maxsize=16)
def entry_table(architecture: Architecture) -> Mapping[str, Entry]:
    """Every entry a checkpoint of this architecture holds, in its order, without the counter."""
    table = _buffer_entries(architecture)
    order = []
    shapes = architecture.parameter_shapes()
    for network in architecture.present():
        prefixes = _block_prefixes(network, getattr(architecture, network))
        order += prefixes.values()
        leaves = {
            tuple(key.key for key in path): leaf.shape
            for path, leaf in jax.tree_util.tree_flatten_with_path(shapes[network])[0]
        }
        for path, shape in leaves.items():
            name, entry = _parameter_entry(network, path, shape, leaves)
            table[f"{prefixes[path[0]]}.{name}"] = entry
    ordered = {name: table[name] for name in _in_published_order(table, order)}
    return types.MappingProxyType(ordered)


# How PyTorch orders the entries of one layer.
_LAYER_ORDER = (
    "Blur.kernel",
    "Conv.weight",
    "Conv.bias",
    "Act.bias",
    "weight",
    "bias",
    "upsample.kernel",
    "conv.weight",
    "conv.blur.kernel",
    "conv.modulation.weight",
    "conv.modulation.bias",
    "noise.weight",
    "activate.bias",
)


def _in_published_order(names: Iterable[str], blocks: list[str]) -> list[str]:
    """Sorts entries by block, then by layer (conv1, conv2, skip), then as in `_LAYER_ORDER`."""
    order = {block: position for position, block in enumerate(blocks)}

    def key(name: str) -> tuple[int, str, int]:
        block = max((b for b in order if name.startswith(f"{b}.")), key=len)
        layer, leaf = re.fullmatch(r"(conv1|conv2|skip|)\.?(.*)", name[len(block) + 1 :]).groups()
        return order[block], layer, _LAYER_ORDER.index(leaf)

    return sorted(names, key=key)


def resolution_name(size: int, first: int) -> str:
    """How the published discriminators name the block that halves `size` pixels.

    Small blocks are numbered downwards from the one that reads `first` pixels, larger ones carry
    their size.
    """
    return f"{size}x{size}" if size > first else str((first // size).bit_length())


def _block_prefixes(network: str, config: Any) -> dict[str, str]:
    """PyTorch's name of each top-level block of a network."""
    if network == "encoder":
        n = config.downsampling
        down = {
            f"down_{i}": f"E.DownToSpatialCode.ResBlockDownBy{2**i}"
            for i in range(len(config.widths) - 1)
        }
        style = {
            f"style_{i}": f"E.DownToGlobalCode.ConvLayerDownBy{n * 2**i}"
            for i in range(len(config.style_widths))
        }
        return (
            {"from_rgb": "E.FromRGB"}
            | down
            | {"structure_hidden": "E.ToSpatialCode.0", "structure": "E.ToSpatialCode.1"}
            | style
            | {"style": "E.ToGlobalCode.0"}
        )
    if network == "decoder":
        return (
            {
                "structure_scale": "G.SpatialCodeModulation.scale",
                "structure_shift": "G.SpatialCodeModulation.bias",
            }
            | {f"head_{i}": f"G.HeadResnetBlock{i}" for i in range(len(config.head_widths))}
            | {f"up_{j}": f"G.UpsamplingResBlock{16 * 2**j}" for j in range(len(config.up_widths))}
            | {"to_rgb": "G.ToRGB"}
        )
    if network == "image_discriminator":
        root, first, size = "D.stylegan2_D.", 256, 2 ** (config.resolution - 1).bit_length()
        rest = {"final": "final_conv"} | {f"dense_{i}": f"final_linear.{i}" for i in range(2)}
    else:
        root, first, size = "Dpatch.", 64, config.patch_size
        rest = {"middle": "convs.5", "final": "convs.6"}
        rest |= {f"pair_{i}": f"pairlinear.{i}" for i in range(len(config.pair_widths) + 1)}
    downs = {
        f"down_{i}": f"convs.{resolution_name(size >> i, first)}"
        for i in range(len(config.widths) - 1)
    }
    names = {"from_rgb": "convs.0"} | downs | rest
    return {block: root + name for block, name in names.items()}


def _parameter_entry(
    network: str, path: TreePath, shape: tuple[int, ...], leaves: Mapping[TreePath, tuple[int, ...]]
) -> tuple[str, Entry]:
    """Name below its block's, and layout, of the entry for the parameter at `path`."""
    *inner, leaf = path[1:]
    siblings = {name: leaves.get((*path[:-1], name)) for name in ("kernel", "noise_weight")}
    linear = len(siblings["kernel"]) == 2
    styled = siblings["noise_weight"] is not None
    to_rgb = path[0] == "to_rgb" and not inner

    if linear:
        layer = "conv.modulation." if "modulation" in inner else ""
        name = layer + {"kernel": "weight", "bias": "bias"}[leaf]
        inner = [part for part in inner if part not in ("style", "modulation")]
    elif styled:
        name = {"kernel": "conv.weight", "noise_weight": "noise.weight", "bias": "activate.bias"}[
            leaf
        ]
    elif to_rgb:
        name = {"kernel": "conv.weight", "bias": "bias"}[leaf]
    else:
        activated = (network, path[0]) != ("encoder", "structure")
        name = {"kernel": "Conv.weight", "bias": "Act.bias" if activated else "Conv.bias"}[leaf]

    axes = {0: (), 1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[len(shape)]
    theirs = tuple(shape[axis] for axis in axes)
    if (leaf == "kernel" and (styled or to_rgb)) or leaf == "noise_weight":
        theirs = (1, *theirs)
    elif leaf == "bias" and to_rgb:
        theirs = (1, 3, 1, 1)
    entry = Entry(theirs, (network, *path), shape, axes)
    return ".".join([*inner, name]), entry


def _blur_buffer(taps: tuple[int, ...], gain: float = 1.0) -> Entry:
    kernel = np.outer(taps, taps).astype(np.float32)
    kernel *= np.float32(gain) / kernel.sum()  # exact: the sums are powers of two
    return Entry(kernel.shape, constant=kernel)


def _buffer_entries(architecture: Architecture) -> dict[str, Entry]:
    """The fixed blur kernels a checkpoint carries."""
    buffers = {}
    for network in architecture.present():
        config = getattr(architecture, network)
        for block, prefix in _block_prefixes(network, config).items():
            if network == "decoder":
                if block.startswith("up_"):
                    buffers[f"{prefix}.conv1.conv.blur.kernel"] = _blur_buffer(config.taps, 4.0)
            elif block.startswith("down_"):
                for layer in ("conv2", "skip"):
                    buffers[f"{prefix}.{layer}.Blur.kernel"] = _blur_buffer(config.taps)
            elif block.startswith("style_"):
                buffers[f"{prefix}.Blur.kernel"] = _blur_buffer((1,))
    # Never read by the decoder, whose RGB layer does not enlarge, yet part of every checkpoint.
    buffers["G.ToRGB.upsample.kernel"] = _blur_buffer((1, 3, 3, 1), 4.0)
    return buffers


# ----------------------------------------------------------------------- parameters and entries


def to_parameters(
    entries: Mapping[str, np.ndarray], architecture: Architecture
) -> Mapping[str, Any]:
    """Our parameter trees from a checkpoint's entries.

    Args:
      entries: name to array: all of `entry_table`'s, and perhaps others.
      architecture: theirs; discriminators may be left out.

    Returns:
      `{network: tree}` of float32 arrays; each network is made when asked for, and not kept.
    """
    table = entry_table(architecture)

    def make(network: str) -> Any:
        tree: dict[str, Any] = {}
        for name, entry in table.items():
            if entry.path is not None and entry.path[0] == network:
                node = tree
                for part in entry.path[1:-1]:
                    node = node.setdefault(part, {})
                node[entry.path[-1]] = entry.to_ours(np.asarray(entries[name]))
        return tree

    return LazyMapping(architecture.present(), make)


def to_entries(
    parameters: Mapping[str, Any],
    architecture: Architecture,
    origin: Mapping[str, Any] | None = None,
) -> Mapping[str, np.ndarray]:
    """A PyTorch checkpoint's entries, blur buffers and counter included, from our parameters.

    Args:
      parameters: `{network: tree}`; both levels may be lazy, one block of a network is held.
      architecture: of the networks to write.
      origin: what `describe_origin` said of the checkpoint they were converted from, if they were:
        dtypes and counter are then as they were there.

    Returns:
      Name to array, in PyTorch's order and layout; each entry is made when asked for.
    """
    table = entry_table(architecture)
    origin = {"counter": {"value": [0], "dtype": "int64"}} if origin is None else origin
    names = [COUNTER, *table] if "counter" in origin else table
    dtypes = origin.get("dtypes", {})
    held: dict[tuple[str, str], Any] = {}

    def make(name: str) -> np.ndarray:
        if name == COUNTER:
            return np.array(origin["counter"]["value"], _dtype(origin["counter"]["dtype"]))
        entry = table[name]
        dtype = _dtype(dtypes.get(name, origin.get("dtype", "float32")))
        if entry.constant is not None:
            return entry.constant.astype(dtype)
        network, block, *inner = entry.path
        if (network, block) not in held:
            held.clear()
            held[network, block] = parameters[network][block]
        leaf = held[network, block]
        for part in inner:
            leaf = leaf[part]
        return entry.to_torch(np.asarray(leaf)).astype(dtype, order="C", copy=False)

    return LazyMapping(names, make)


def describe_origin(entries: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a checkpoint holds besides its float32 values, so that `to_entries` can return it.

    Returns:
      JSON values: "counter"; "dtype", the most frequent one, and "dtypes", those of the entries
      that differ. What is as in the published checkpoints is left out.
    """
    origin: dict[str, Any] = {}
    if COUNTER in entries:
        counter = np.asarray(entries[COUNTER])
        origin["counter"] = {"value": counter.tolist(), "dtype": counter.dtype.name}
    dtypes = {name: entries[name].dtype.name for name in entries if name != COUNTER}
    (usual, _), *others = Counter(dtypes.values()).most_common()
    if usual != "float32":
        origin["dtype"] = usual
    if others:
        origin["dtypes"] = {name: dtype for name, dtype in dtypes.items() if dtype != usual}
    return origin


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
