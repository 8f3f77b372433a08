"""Measuring systems on a data set, batch by batch; what an earlier run measured is kept."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh
from tqdm import tqdm

from l2sae_jax.data.sources import Source
from l2sae_jax.evaluation.batches import Batch, batches
from l2sae_jax.evaluation.measuring import Instruments, measure, originals, prepare
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.store import Table, digest, kept_rows
from l2sae_jax.evaluation.systems import System
from l2sae_jax.parallel import computing

# What the figures of each measure depend on, besides the system: fields of the protocol, and
# instruments.
_BLENDING = ("blend", "harmonise")
_DEPENDS = {
    "segmentation": ((), ()),
    "reconstruction": ((), ("lpips", "inception")),
    "edit": (("strength", "samples", "seed", *_BLENDING), ("lpips", "inception", "judge")),
    "sweep": (("strengths", "seed", *_BLENDING), ("lpips", "inception")),
    "swap": (_BLENDING, ()),
}


class Setting(NamedTuple):
    """What is measured, and how it is computed.

    Attributes:
      images: how many of the source, from the first.
      batch_size: a multiple of the number of the mesh's devices.
    """

    source: Source
    images: int
    protocol: Protocol
    mesh: Mesh
    batch_size: int


class Kept(NamedTuple):
    """The folders that keep what is measured of systems, and the features of originals."""

    systems: Path
    originals: Path


class Measured(NamedTuple):
    """The rows of all images.

    Attributes:
      systems: those of each system.
      originals: "features", by Inception, or None where there is no such network.
    """

    systems: dict[str, Table]
    originals: Table | None


def run(
    systems: Sequence[System],
    setting: Setting,
    instruments: Instruments,
    identities: Mapping[str, str],
    kept: Kept,
) -> Measured:
    """Measures every system on every image.

    Args:
      identities: hashes of the instruments there are, by name.

    Raises:
      ValueError: pictures of another size than the originals, or a batch that does not fit in
        memory.
      OSError: a folder cannot be written to.
    """
    files: dict[str, dict[str, list[Path]]] = {system.name: {} for system in systems}
    features: list[Path] = []
    with tqdm(total=setting.images * len(systems), unit="image", dynamic_ncols=True) as bar:
        for batch in batches(setting.source, setting.images, setting.batch_size):
            if instruments.inception is not None:
                features.append(_features(batch, setting, instruments, identities, kept))
            for system in systems:
                found = _measured(system, batch, setting, instruments, identities, kept)
                for name, file in found.items():
                    files[system.name].setdefault(name, []).append(file)
                bar.update(batch.count)
    tables = {name: Table(found) for name, found in files.items()}
    return Measured(tables, Table({"features": features}) if features else None)


def _measured(
    system: System,
    batch: Batch,
    setting: Setting,
    instruments: Instruments,
    identities: Mapping[str, str],
    kept: Kept,
) -> dict[str, Path]:
    """The files with what each measure tells of a batch."""
    protocol = setting.protocol

    @cache  # by all measures, but not if all are kept from before
    def task():
        return prepare(system, batch, protocol, instruments, setting.mesh)

    arrays = [array[: batch.count] for array in batch[:-1]]
    made = system.digest(batch)
    files = {}
    for name in protocol.measures:
        if name not in _DEPENDS or system.lacks(name) is not None:
            continue
        fields, needed = _DEPENDS[name]
        settings = {
            "measure": name,
            "system": made,
            "protocol": {field: getattr(protocol, field) for field in fields},
            "instruments": {one: identities.get(one) for one in needed},
        }
        with computing(setting.batch_size):
            files[name] = kept_rows(
                kept.systems, digest(arrays, settings), lambda name=name: measure(task(), name)
            )
    return files


def _features(
    batch: Batch,
    setting: Setting,
    instruments: Instruments,
    identities: Mapping[str, str],
    kept: Kept,
) -> Path:
    name = digest([batch.pixels[: batch.count]], {"inception": identities["inception"]})
    return kept_rows(kept.originals, name, partial(originals, batch, instruments, setting.mesh))
