"""What was measured, kept on disk batch by batch, so that nothing is measured twice.

What a measure tells of a batch lies in a file named by a hash of all it depends on: pictures,
system, settings, code. An interrupted run so goes on where it was, and rows of anything else can
never be taken for its own.
"""

import functools
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import l2sae_jax
from l2sae_jax.whole_files import replacing

Rows = Mapping[str, np.ndarray]


@functools.cache
def code_digest() -> str:
    """A hash of this package's code, of JAX's version and of the kind of device."""
    found = hashlib.sha256(f"{jax.__version__} {jax.devices()[0].device_kind}".encode())
    for file in sorted(Path(l2sae_jax.__file__).parent.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


def digest(arrays: Iterable[np.ndarray], settings: Mapping[str, Any]) -> str:
    """A hash of arrays, of settings, values that JSON can hold, and of what computes with them."""
    found = hashlib.sha256(json.dumps([code_digest(), settings], sort_keys=True).encode())
    for array in arrays:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8))
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

    def __init__(self, files: Mapping[str, Sequence[Path]]):
        """Args: files: of every measure, one for each batch; "a" has the columns "a/..."."""
        self._files = dict(files)

    def __contains__(self, name: str) -> bool:
        return any(name in columns for columns in map(_columns, self._of(name)))

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
        for file in self._of(name):
            if name in _columns(file):
                with np.load(file) as rows:
                    yield rows[name]

    def _of(self, name: str) -> Sequence[Path]:
        return self._files.get(name.partition("/")[0], ())


def _columns(file: Path) -> list[str]:
    with np.load(file) as rows:
        return rows.files
