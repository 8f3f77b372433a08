"""What was measured, kept on disk batch by batch, so that nothing is measured twice.

A batch's rows lie in a file named by a hash of all they depend on: its pictures, the system, and
the settings. An interrupted run so goes on where it was, and rows of other data or settings can
never be taken for its own.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2sae_jax.evaluation.batches import Batch
from l2sae_jax.whole_files import replacing

Rows = Mapping[str, np.ndarray]


def digest(batch: Batch, settings: Mapping[str, Any]) -> str:
    """A hash of the images of a batch, and of the settings: values that JSON can hold."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in batch[:-1]:
        rows = np.ascontiguousarray(array[: batch.count])
        found.update(f"{rows.dtype} {rows.shape} ".encode())
        found.update(rows.view(np.uint8))
    return found.hexdigest()


def kept_rows(folder: Path, name: str, measure: Callable[[], Rows]) -> Path:
    """The file of this name, made of what `measure` returns unless it is there and whole."""
    file = folder / f"{name}.npz"
    if not _is_whole(file):
        rows = measure()
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial, open(partial, "wb") as stream:
            np.savez(stream, **rows)
    return file


def _is_whole(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


class Table:
    """The rows of all batches, in their order, read from their files as they are asked for."""

    def __init__(self, files: Iterable[Path]):
        self._files = list(files)

    def __contains__(self, name: str) -> bool:
        return any(name in _columns(file) for file in self._files)

    def __getitem__(self, name: str) -> np.ndarray:
        """A column, of all images.

        Raises:
          KeyError: it was not measured.
        """
        blocks = list(self.blocks(name))
        if not blocks:
            raise KeyError(name)
        return np.concatenate(blocks)

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """A column, batch by batch."""
        for file in self._files:
            if name in _columns(file):
                with np.load(file) as rows:
                    yield rows[name]


def _columns(file: Path) -> list[str]:
    with np.load(file) as rows:
        return rows.files
