"""The bridge to PyTorch checkpoints of the Swapping Autoencoder, from file to file.

The architecture is read off the names, shapes and blur buffers of a checkpoint's entries;
`torch_layout` knows what these are for each architecture, `torch_format` the files.

Everything goes one network at a time from file to file, so that converting takes less memory than
the checkpoint does.
"""

import dataclasses
import functools
import itertools
import os
import re
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
    is_stage,
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
from l2sae_jax.torch_layout import (
    COUNTER,
    Entry,
    describe_origin,
    entry_table,
    resolution_name,
    to_entries,
    to_parameters,
)

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
    """Pixels that a discriminator's first halving block reads; see `resolution_name`."""
    sizes = [2**n for n in range(3, _MOST_BLOCKS)]
    found = {name.removeprefix(f"{root}convs.").split(".")[0] for name in shapes}
    return max((size for size in sizes if resolution_name(size, first) in found), default=8)


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
        autoencoder = AutoencoderConfig(
            architecture.encoder,
            architecture.decoder,
            image_size=_training_size(architecture),
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
        describe_origin(entries),
        tuple(
            f"{path}: {name} holds values that float32 rounds; they cannot be returned exactly"
            for name in rounded
        ),
    )


def _training_size(architecture: Architecture) -> int:
    """The discriminator's; without one, as nothing tells it, 16 cells of the structure."""
    if architecture.image_discriminator is not None:
        return architecture.image_discriminator.resolution
    encoder = architecture.encoder
    return max(16 * encoder.downsampling, encoder.smallest_image)


def save_networks(
    directory: str | os.PathLike[str],
    networks: Mapping[str, Network],
    storage: Literal["float32", "float16"] = "float32",
    mask_reduction: int | None = None,
) -> None:
    """Writes a model directory from "smn", "smpn" or both, one network at a time.

    Args:
      directory: a new one, or that of a model, which is replaced.
      networks: what to write.
      storage: dtype of the parameters on disk; `l2sae_jax.checkpoints.load` gives float32.
      mask_reduction: see `l2sae_jax.L2SAE`; None lets `load` work it out.

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
        mask_reduction,
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
    _check_pytorch_output(directory)
    with staged(directory) as folder:
        for name, architecture in description.architectures.items():
            if not discriminators:
                architecture = _without_discriminators(architecture)
            blocks = functools.partial(description.blocks, name)
            parameters = LazyMapping(architecture.present(), blocks)
            origin = description.metadata.get("origins", {}).get(name)
            torch_format.write(folder / f"{name}.pth", to_entries(parameters, architecture, origin))
    return [directory / f"{name}.pth" for name in description.architectures]


def _check_pytorch_output(directory: Path) -> None:
    """Raises ValueError unless `directory` is new or empty: an original is never overwritten."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a new or empty folder")
    if not all(map(is_stage, directory.iterdir())):
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
