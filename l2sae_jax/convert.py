"""The bridge to PyTorch checkpoints of the Swapping Autoencoder.

Names and shapes of a checkpoint's entries follow from our own parameter trees by abstract
evaluation, so the architecture is written down once. The architecture itself is read off the
entries' names, shapes and blur buffers.

Everything goes one network at a time from file to file, so that converting takes less memory than
the checkpoint does.
"""

import dataclasses
import functools
import itertools
import os
import re
import types
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np

from l2sae_jax import torch_format
from l2sae_jax.checkpoints import (
    DISCRIMINATORS,
    LazyMapping,
    read_description,
    save_model,
    staged,
)
from l2sae_jax.model import AutoencoderConfig
from l2sae_jax.nn import (
    Architecture,
    DecoderConfig,
    EncoderConfig,
    ImageDiscriminatorConfig,
    PatchDiscriminatorConfig,
)
from l2sae_jax.regions import DEFAULT_SLICES

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


def _resolution_name(size: int, first: int) -> str:
    """How the published discriminators name the block that halves `size` pixels.

    Small blocks are numbered downwards from the one that reads `first` pixels, larger ones carry
    their size.
    """
    return f"{size}x{size}" if size > first else str(1 + (first // size).bit_length() - 1)


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
        f"down_{i}": f"convs.{_resolution_name(size >> i, first)}"
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


# --------------------------------------------------------------------- reading the architecture off

_NETWORKS = {
    "encoder": "E.",
    "decoder": "G.",
    "image_discriminator": "D.",
    "patch_discriminator": "Dpatch.",
}
_TAPS = {1: (1,), 3: (1, 2, 1), 4: (1, 3, 3, 1)}
# More blocks than any image could be halved, and wider ones than any network's: a damaged entry
# shall not ask for millions.
_MOST_BLOCKS = 32
_WIDEST = 1 << 16


def read_entries(path: str | os.PathLike[str]) -> Mapping[str, np.ndarray]:
    """Entries of a checkpoint file, without a prefix such as `module.` that all their names share.

    Args:
      path: a file saved by `torch.save`, in its ZIP or its pre-1.6 format.

    Raises:
      ValueError: the file is no such checkpoint, or is damaged; in one line.
      OSError: the file cannot be opened.
    """
    entries = torch_format.read(path)
    pattern = re.compile(rf"((?:\w+\.)*?)(?:(?:E|G|D|Dpatch)\.|{COUNTER}$)")
    prefixes = Counter(match[1] for name in entries if (match := pattern.match(name)))
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    if not prefix or not all(name.startswith(prefix) for name in entries):
        return entries
    return LazyMapping(
        (name.removeprefix(prefix) for name in entries), lambda name: entries[prefix + name]
    )


def infer_architecture(entries: Mapping[str, np.ndarray]) -> Architecture:
    """The architecture whose checkpoint has exactly these entries.

    Numbers of blocks follow from the names. Every axis of every entry then votes for the width that
    determines it, so that a few damaged entries are found out by the rest. Blurs follow from the
    sizes of their buffers, the size of a discriminator's images from its blocks' names and from the
    number of cells that reach its linear layers.

    Args:
      entries: name to array; discriminators, either or both, and the counter may be absent.

    Returns:
      The architecture, with the discriminators found.

    Raises:
      ValueError: entries missing, unexpected, of another shape or dtype, or blur buffers of other
        values than the architecture asks for: all of them, in one line.
    """
    shapes = {name: np.shape(entries[name]) for name in entries}
    absent = [
        network
        for network in ("encoder", "decoder")
        if not any(name.startswith(_NETWORKS[network]) for name in shapes)
    ]
    if absent:
        prefixes = " and ".join(_NETWORKS[network] + "*" for network in absent)
        raise ValueError(
            f"no entries {prefixes}: not a checkpoint of a Swapping Autoencoder with its "
            f"{' and '.join(absent)}"
        )
    probe = _probe_architecture(shapes)
    architecture = _replace_sizes(probe, _elected_sizes(probe, shapes))
    if architecture.image_discriminator is not None:
        architecture = _with_resolution(architecture, shapes)
    problems = _find_problems(entries, shapes, entry_table(architecture))
    if problems:
        raise ValueError("; ".join(problems))
    return architecture


def _probe_architecture(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """An architecture with the right numbers of blocks, every width being a number of its own.

    These numbers, odd and above 7000, turn up again in the shapes of `entry_table(probe)`, which so
    tells for every axis of every entry which width determines it.
    """
    numbers = itertools.count(7001, 2)

    def unknown(count: int) -> tuple[int, ...]:
        return tuple(itertools.islice(numbers, count))

    def blocks(pattern: str, first: int = 0) -> int:
        """One more than the largest number, counted from `first`, among blocks of these names."""
        found = (re.match(pattern, name) for name in shapes)
        numbered = {int(match[1][:12]) - first for match in found if match}
        return max((n for n in numbered if 0 <= n < _MOST_BLOCKS), default=-1) + 1

    def halvings(pattern: str, first: int = 1) -> int:
        """The same of blocks that carry a power of two, the smallest of which is `first`."""
        found = (re.match(pattern, name) for name in shapes)
        sizes = {int(match[1][:12]) for match in found if match}
        return max((n for n in range(_MOST_BLOCKS) if first * 2**n in sizes), default=-1) + 1

    structure, style = unknown(2)
    downs = halvings(r"E\.DownToSpatialCode\.ResBlockDownBy(\d+)\.")
    styles = halvings(r"E\.DownToGlobalCode\.ConvLayerDownBy(\d+)\.", 2**downs)
    heads = blocks(r"G\.HeadResnetBlock(\d+)\.")
    ups = halvings(r"G\.UpsamplingResBlock(\d+)\.", 16)
    image = patch = None
    if any(name.startswith("D.") for name in shapes):
        size = _largest_block(shapes, "D.stylegan2_D.", 256)
        taps = _elected_taps(shapes, "D.")
        image = ImageDiscriminatorConfig(size, unknown(_levels(size)), *unknown(2), taps)
    if any(name.startswith("Dpatch.") for name in shapes):
        size = _largest_block(shapes, "Dpatch.", 64)
        pairs = max(0, blocks(r"Dpatch\.pairlinear\.(\d+)\.") - 1)
        widths, (middle, final) = unknown(_levels(size)), unknown(2)
        taps = _elected_taps(shapes, "Dpatch.")
        patch = PatchDiscriminatorConfig(size, widths, middle, final, unknown(pairs), taps)
    return Architecture(
        EncoderConfig(
            unknown(downs + 1),
            structure,
            unknown(styles),
            style,
            _elected_taps(shapes, "E.DownToSpatialCode."),
        ),
        DecoderConfig(
            structure,
            style,
            unknown(heads),
            unknown(ups),
            _elected_taps(shapes, "G.UpsamplingResBlock"),
        ),
        image,
        patch,
    )


def _largest_block(shapes: Iterable[str], root: str, first: int) -> int:
    """Pixels that a discriminator's first halving block reads; see `_resolution_name`."""
    sizes = [2**n for n in range(3, _MOST_BLOCKS)]
    found = {name.removeprefix(f"{root}convs.").split(".")[0] for name in shapes}
    return max((size for size in sizes if _resolution_name(size, first) in found), default=8)


def _levels(size: int) -> int:
    """Numbers of widths of a discriminator that halves `size` pixels down to four."""
    return size.bit_length() - 2


def _elected_taps(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> tuple[int, ...]:
    """The blur taps that most of a network's buffers have room for."""
    votes = Counter(
        shape[0]
        for name, shape in shapes.items()
        if name.startswith(prefix) and name.lower().endswith("blur.kernel") and shape
    )
    return next((_TAPS[size] for size, _ in votes.most_common() if size in _TAPS), (1,))


def _elected_sizes(probe: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> dict[int, int]:
    """What each number in `probe` stands for: the size most axes that it determines have."""
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for name, entry in entry_table(probe).items():
        if len(shapes.get(name, ())) == len(entry.shape):
            for number, size in zip(entry.shape, shapes[name], strict=True):
                if 0 < size <= _WIDEST:
                    votes[number][size] += 1
    # Two features of 2x2 cells reach the patch discriminator's linear layers as one vector.
    for number in [number for number in votes if number % 8 == 0]:
        votes[number // 8].update(size // 8 for size in votes[number].elements())
    return {number: count.most_common(1)[0][0] for number, count in votes.items() if count}


def _replace_sizes(config: Any, sizes: Mapping[int, int]) -> Any:
    """`config` with its placeholders, odd and above 7000, replaced by sizes, 1 where unknown."""

    def replace(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return _replace_sizes(value, sizes)
        if isinstance(value, tuple):
            return tuple(map(replace, value))
        return sizes.get(value, 1) if value and value > 7000 and value % 2 else value

    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return type(config)(**{name: replace(value) for name, value in fields.items()})


def _with_resolution(
    architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]
) -> Architecture:
    """Sets the discriminator's resolution: 3x3 instead of 4x4 final cells mean 3/4 of a power of 2.

    So it is for crops of 768 pixels, whose blocks are named as those of 1024 pixels.
    """
    config = architecture.image_discriminator
    inputs = shapes.get("D.stylegan2_D.final_linear.0.weight", (0, 0))[-1:]
    if inputs == (9 * config.final_width,):
        config = dataclasses.replace(config, resolution=config.resolution // 4 * 3)
    return dataclasses.replace(architecture, image_discriminator=config)


def _find_problems(
    entries: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    table: Mapping[str, Entry],
) -> list[str]:
    """What keeps these entries from being those of `table`, grouped."""
    both = [name for name in table if name in shapes]
    misshapen = [name for name in both if shapes[name] != table[name].shape]
    fitting = [name for name in both if shapes[name] == table[name].shape]
    groups = {
        "missing": [name for name in table if name not in shapes],
        "unexpected": [_shown(name) for name in shapes if name not in table and name != COUNTER],
        "misshapen": [
            f"{name} is {_times(shapes[name])}, expected {_times(table[name].shape)}"
            for name in misshapen
        ],
        "not floating point": [
            f"{name} ({entries[name].dtype})" for name in fitting if not _is_float(entries[name])
        ],
        "other blur than expected": [
            name
            for name in fitting
            if table[name].constant is not None
            and not np.array_equal(entries[name].astype(np.float32), table[name].constant)
        ],
    }
    return [f"{len(found)} {what}: {', '.join(found)}" for what, found in groups.items() if found]


def _is_float(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" or values.dtype == ml_dtypes.bfloat16


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


# ----------------------------------------------------------------------- parameters and entries


def to_parameters(
    entries: Mapping[str, np.ndarray], architecture: Architecture
) -> Mapping[str, Any]:
    """Our parameter trees from a checkpoint's entries.

    Args:
      entries: name to array, as `infer_architecture` accepts them.
      architecture: what it inferred; discriminators may be left out.

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
        order, dtypes and counter are then as they were there.

    Returns:
      Name to array, in PyTorch's order and layout; each entry is made when asked for.
    """
    table = entry_table(architecture)
    origin = {"counter": {"value": [0], "dtype": "int64"}} if origin is None else origin
    names = _original_order(([COUNTER] if "counter" in origin else []) + list(table), origin)
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


def describe_origin(
    entries: Mapping[str, np.ndarray], architecture: Architecture
) -> dict[str, Any]:
    """What a checkpoint holds besides its float32 values, so that `to_entries` can return it.

    Returns:
      JSON values: "counter"; "dtype", the most frequent one, and "dtypes", those of the entries
      that differ; "order", positions in `entry_table` with the counter before it. What is as in
      the published checkpoints is left out.
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
    usual_order = [name for name in (COUNTER, *entry_table(architecture)) if name in entries]
    if list(entries) != usual_order:
        position = {name: i for i, name in enumerate(usual_order)}
        origin["order"] = " ".join(str(position[name]) for name in entries)
    return origin


def _original_order(names: list[str], origin: Mapping[str, Any]) -> list[str]:
    order = [int(position) for position in origin.get("order", "").split()]
    # Another order is meant for other entries: the discriminators may have been left out since.
    if sorted(order) != list(range(len(names))):
        return names
    return [names[position] for position in order]


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _check_values(entries: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the entries whose values float32 does not hold exactly.

    Raises:
      ValueError: values that are infinite, not numbers, or beyond float32's range.
    """
    not_finite, rounded = [], []
    for name in entries:
        if name == COUNTER:
            continue
        values = entries[name]
        with np.errstate(over="ignore"):
            ours = values.astype(np.float32)
        if not np.isfinite(ours).all():
            not_finite.append(name)
        elif values.dtype.itemsize > 4 and not np.array_equal(ours.astype(values.dtype), values):
            rounded.append(name)
    if not_finite:
        raise ValueError(
            f"{len(not_finite)} with values that are no finite float32: {', '.join(not_finite)}"
        )
    return rounded


# ------------------------------------------------------------------------- networks and their files


@dataclass(frozen=True)
class Network:
    """An autoencoder on its way from one kind of file to another.

    Attributes:
      source: the file or directory it comes from.
      autoencoder, architecture: what it is.
      parameters: `{"encoder": tree, ...}`, each network read when asked for.
      origin: what `describe_origin` said of its checkpoint; None if it never was in one.
      warnings: what a user should know, a line each.
    """

    source: str
    autoencoder: AutoencoderConfig
    architecture: Architecture
    parameters: Mapping[str, Any]
    origin: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def without_discriminators(self) -> "Network":
        """The encoder and the decoder alone."""
        kept = _without_discriminators(self.architecture)
        parameters = LazyMapping(kept.present(), self.parameters.__getitem__)
        return dataclasses.replace(self, architecture=kept, parameters=parameters)


def _without_discriminators(architecture: Architecture) -> Architecture:
    return dataclasses.replace(architecture, **dict.fromkeys(DISCRIMINATORS))


def open_network(
    path: str | os.PathLike[str],
    name: Literal["smn", "smpn"],
    *,
    image_size: int | None = None,
    targets: Literal["masks", "appearance"] | None = None,
) -> Network:
    """A network from a PyTorch checkpoint, a model directory, or a training run's workdir.

    Args:
      path: the file or directory.
      name: which network of a directory to take.
      image_size: training size of the images; None takes what is known: that of the directory, or
        of the file's discriminator, or 16 cells of the structure.
      targets: what the sliced decodes of a network from a file show; None if it was trained without
        slices. A directory knows.

    Raises:
      ValueError: no such checkpoint or network, or one that does not fit; in one line.
      OSError: it cannot be opened.
    """
    if Path(path).is_dir():
        network = _from_directory(Path(path), name)
    else:
        network = _from_pytorch(path, targets)
    if image_size is not None:
        resized = dataclasses.replace(network.autoencoder, image_size=image_size)
        network = dataclasses.replace(network, autoencoder=resized)
    encoder, size = network.autoencoder.encoder, network.autoencoder.image_size
    if size % encoder.downsampling or size < encoder.smallest_image:
        raise ValueError(
            f"{path}: image size {size}: this network reads multiples of {encoder.downsampling} "
            f"from {encoder.smallest_image} up"
        )
    return network


def _from_directory(directory: Path, name: str) -> Network:
    description = read_description(directory)
    if name not in description.architectures:
        held = " and ".join(description.architectures)
        raise ValueError(f"{directory} holds no {name}, only {held}")
    return Network(
        str(directory),
        description.autoencoders[name],
        description.architectures[name],
        description.networks(name),
        description.metadata.get("origins", {}).get(name),
    )


def _from_pytorch(path: str | os.PathLike[str], targets: str | None) -> Network:
    entries = read_entries(path)
    try:
        architecture = infer_architecture(entries)
        rounded = _check_values(entries)
        if architecture.image_discriminator is not None:
            image_size = architecture.image_discriminator.resolution
        else:
            cells = max(
                16, architecture.encoder.smallest_image // architecture.encoder.downsampling
            )
            image_size = cells * architecture.encoder.downsampling
        autoencoder = AutoencoderConfig(
            architecture.encoder,
            architecture.decoder,
            image_size=image_size,
            slices=None if targets is None else DEFAULT_SLICES,
            targets=targets,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Network(
        str(path),
        autoencoder,
        architecture,
        to_parameters(entries, architecture),
        describe_origin(entries, architecture),
        tuple(
            f"{path}: {name} holds values that float32 rounds; they cannot be returned exactly"
            for name in rounded
        ),
    )


def save_networks(
    directory: str | os.PathLike[str],
    networks: Mapping[str, Network],
    storage: Literal["float32", "float16"] = "float32",
) -> None:
    """Writes a model directory from "smn", "smpn" or both, one network at a time.

    Args:
      directory: a new one, or that of a model, which is replaced.
      networks: what to write.
      storage: dtype of the parameters on disk; `l2sae_jax.checkpoints.load` gives float32.

    Raises:
      ValueError: the directory holds something else, or a value does not fit `storage`.
    """

    def stored(network: Network) -> Mapping[str, Any]:
        return LazyMapping(
            network.parameters,
            lambda part: _stored(network.parameters[part], storage, f"{network.source}: {part}"),
        )

    save_model(
        directory,
        {name: network.autoencoder for name, network in networks.items()},
        {name: network.architecture for name, network in networks.items()},
        {name: stored(network) for name, network in networks.items()},
        {
            "sources": {name: Path(network.source).name for name, network in networks.items()},
            "origins": {
                name: network.origin
                for name, network in networks.items()
                if network.origin is not None
            },
        },
    )


def _stored(tree: Any, storage: str, where: str) -> Any:
    def cast(path: Any, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            result = values.astype(storage, copy=False)
        if not np.isfinite(result).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"{where}.{name} has values beyond {storage}'s range")
        return result

    return jax.tree_util.tree_map_with_path(cast, tree)


def write_pytorch(
    checkpoint: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    discriminators: bool = True,
) -> list[Path]:
    """Writes `smn.pth`, `smpn.pth` or both, which the original code loads, from a model directory.

    Args:
      checkpoint: a model directory or a training run's workdir.
      directory: a new or empty one.
      discriminators: whether to write them where there are some.

    Returns:
      The files written. Entries of a network that was converted from PyTorch and stored in float32
      equal the original ones bit for bit.

    Raises:
      ValueError: no model, or `directory` holds something.
      OSError: it cannot be written.
    """
    directory = Path(directory)
    description = read_description(Path(checkpoint))
    check_pytorch_output(directory)
    with staged(directory) as folder:
        for name, architecture in description.architectures.items():
            if not discriminators:
                architecture = _without_discriminators(architecture)
            blocks = functools.partial(description.blocks, name)
            parameters = LazyMapping(architecture.present(), blocks)
            origin = description.metadata.get("origins", {}).get(name)
            torch_format.write(folder / f"{name}.pth", to_entries(parameters, architecture, origin))
    return [directory / f"{name}.pth" for name in description.architectures]


def check_pytorch_output(directory: Path) -> None:
    """Raises ValueError unless `directory` is new or empty: an original is never overwritten."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a new or empty folder")
    # What starts with a dot and ends in .part is of a run that was killed.
    if directory.exists() and any(
        not (path.name.startswith(".") and path.suffix == ".part") for path in directory.iterdir()
    ):
        raise ValueError(f"{directory} is not empty; give a new or empty folder")


def summary(name: str, network: Network) -> str:
    """What was found in a network's file or directory, a line each for a terminal."""
    config, architecture = network.autoencoder, network.architecture
    size = config.image_size
    cells = size // config.encoder.downsampling
    code = f"{cells}x{cells}x{config.encoder.structure_channels}"
    slices = "none"
    if config.slices is not None:
        table = ", ".join(f"{lo}-{hi - 1}" if hi > lo + 1 else f"{lo}" for lo, hi in config.slices)
        slices = f"channels {table} decode to {config.targets}"
    rows = [
        (name, network.source),
        ("image size", f"{size} (structure {code}, style {config.encoder.style_channels})"),
        ("slices", slices),
        (
            "encoder",
            f"{_arrow(config.encoder.widths)}, style {_arrow(config.encoder.style_widths)}",
        ),
        ("decoder", f"{_arrow(config.decoder.head_widths)}, up {_arrow(config.decoder.up_widths)}"),
    ]
    if (image := architecture.image_discriminator) is not None:
        rows.append(("image discr.", f"{image.resolution} px, {_arrow(image.widths)}"))
    if (patch := architecture.patch_discriminator) is not None:
        rows.append(("patch discr.", f"{patch.patch_size} px, {_arrow(patch.widths)}"))
    for part in architecture.present():
        taps = getattr(architecture, part).taps
        blur = "-".join(map(str, taps)) if len(taps) > 1 else "none"
        rows.append(("blur", f"{part} {blur}"))
    return "\n".join(f"{title:<14}{text}" for title, text in rows)


def _arrow(widths: Iterable[int]) -> str:
    return " > ".join(map(str, widths))
