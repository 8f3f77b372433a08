"""Measuring systems on a data set, batch by batch; what an earlier run measured is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from tqdm import tqdm

from l2sae_jax.data.sources import Source
from l2sae_jax.evaluation.batches import batches
from l2sae_jax.evaluation.measuring import VERSION, Instruments, measure, originals
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.store import Table, digest, kept_rows
from l2sae_jax.evaluation.systems import System

# What does not change the figures of an image.
_INCIDENTAL = ("images", "split")


class Measured(NamedTuple):
    """The rows of all images: of each system, and of the originals, whose only column is their
    Inception features, or None where there is no Inception network."""

    systems: dict[str, Table]
    originals: Table | None


def run(
    systems: Sequence[System],
    source: Source,
    protocol: Protocol,
    instruments: Instruments,
    identities: Mapping[str, str],
    mesh: Mesh,
    batch_size: int,
    output: Path,
    shared: Path,
) -> Measured:
    """Measures every system on the first images of a data set.

    Args:
      identities: hashes of the instruments, by name.
      batch_size: a multiple of the number of the mesh's devices.
      output: the folder that keeps what is measured of systems.
      shared: the folder that keeps the features of originals, for all evaluations.

    Raises:
      ValueError: pictures that cannot be read, or are of another size than the originals.
      OSError: a folder cannot be written to.
    """
    settings = {"version": VERSION, "instruments": dict(identities)}
    whole = settings | {"protocol": _settings(protocol)}
    features = settings | {"instruments": {"inception": identities.get("inception")}}
    files: dict[str, list[Path]] = {system.name: [] for system in systems}
    original_files: list[Path] = []
    count = min(protocol.images, len(source))
    with tqdm(total=count * len(systems), unit="image", dynamic_ncols=True) as bar:
        for batch in batches(source, count, batch_size):
            if instruments.inception is not None:
                name = digest(batch, features)
                original_files.append(
                    kept_rows(shared, name, lambda b=batch: originals(b, instruments, mesh))
                )
            for system in systems:
                name = digest(batch, whole | {"system": system.digest(batch)})
                files[system.name].append(
                    kept_rows(
                        output,
                        name,
                        lambda s=system, b=batch: measure(s, b, protocol, instruments, mesh),
                    )
                )
                bar.update(batch.count)
    tables = {name: Table(found) for name, found in files.items()}
    return Measured(tables, Table(original_files) if original_files else None)


def _settings(protocol: Protocol) -> dict[str, Any]:
    return {name: value for name, value in asdict(protocol).items() if name not in _INCIDENTAL}
