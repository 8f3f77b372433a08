"""SHA256SUMS: what every file of a folder hashes to, so that a damaged copy is told by name.

`sha256sum -c SHA256SUMS`, in the folder, checks the same without this package.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

SUMS_FILE = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_REMEDY = "copy or download the model again"


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Writes SHA256SUMS of these files into a folder, in this order."""
    names = {file: Path(os.path.relpath(file, folder)).as_posix() for file in files}
    lines = [f"{_sha256(file)}  {name}\n" for file, name in names.items()]
    (folder / SUMS_FILE).write_text("".join(lines), newline="\n")


def read_sums(folder: Path) -> dict[str, str]:
    """What the files listed in a folder's SHA256SUMS must hash to, by their paths from there.

    Raises:
      ValueError: it or a file that it lists is missing, or it is no such list; in one line.
    """
    file = folder / SUMS_FILE
    try:
        lines = file.read_text().removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise ValueError(f"{file} is missing; {_REMEDY}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}; {_REMEDY}") from None
    found = [_LINE.fullmatch(line) for line in lines]
    if not all(found):
        raise ValueError(f"{file} is damaged in line {found.index(None) + 1}; {_REMEDY}")
    sums = {line[2]: line[1] for line in found}
    for name in sums:
        if not os.path.isfile(folder / name):
            raise ValueError(f"{_path(folder, name)} is missing, which {file} lists; {_REMEDY}")
    return sums


def check_file(folder: Path, name: str, sums: Mapping[str, str]) -> None:
    """Compares a file with what `read_sums(folder)` said.

    Raises:
      ValueError: the file, or the list, is damaged; in one line.
    """
    file = folder / SUMS_FILE
    if name not in sums:
        raise ValueError(f"{file} is damaged: it does not list {name}; {_REMEDY}")
    try:
        found = _sha256(folder / name)
    except OSError as error:
        raise ValueError(f"{_path(folder, name)} cannot be read: {error}; {_REMEDY}") from None
    if found != sums[name]:
        raise ValueError(f"{_path(folder, name)}: its SHA-256 is not what {file} says; {_REMEDY}")


def _path(folder: Path, name: str) -> str:
    return os.path.normpath(folder / name)


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
