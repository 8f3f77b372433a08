"""Files that appear whole or not at all, and folders for them."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


def make_folder(folder: str | os.PathLike) -> None:
    """Makes a folder, unless it is there.

    Raises:
      ValueError: it cannot be made, or not be written to; in one line.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: cannot be written to")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place in the end; errors leave nothing."""
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file."""
    with replacing(path) as partial:
        partial.write_text(text)
