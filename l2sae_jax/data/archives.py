"""One interface for a folder, a zip file and a tar file: list the members, read one.

Every archive may be read from several threads at once and pickled for worker processes, which
reopen it by path.
"""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

_INFLATORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_TAR_ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


class Archive(ABC):
    """A read-only collection of named byte strings.

    Attributes:
      path: the folder or file it was opened from.
    """

    path: Path

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of all regular members, `/`-separated and relative to the archive's top."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of one member.

        Raises:
          FileNotFoundError: there is no such member.
          ValueError: the member is there but cannot be read (damaged, encrypted).
        """


def open_archive(path: str | os.PathLike) -> Archive:
    """Opens a folder, a zip file or a tar file (plain, gzip, bzip2 or xz).

    A compressed tar has no random access: it is inflated once into a temporary tar file, which
    disappears with the returned object. Nothing else is ever unpacked.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: it is a file of another kind, or a damaged one.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        return FolderArchive(path)
    if zipfile.is_zipfile(path):
        return ZipArchive(path)
    return TarArchive(path)


class FolderArchive(Archive):
    """A folder; symbolic links to folders are followed, hidden files are listed too."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> tuple[str, ...]:
        return tuple(
            Path(folder, file).relative_to(self.path).as_posix()
            for folder, _, files in os.walk(self.path, followlinks=True)
            for file in files
        )

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: not in {self.path}") from None
        except OSError as error:
            raise ValueError(f"{name}: cannot be read ({error.strerror})") from error


class ZipArchive(Archive):
    """A zip file, read in place."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path}: damaged zip file ({error})") from error

    def __reduce__(self):
        return ZipArchive, (self.path,)

    def names(self) -> tuple[str, ...]:
        return tuple(info.filename for info in self._zip.infolist() if not info.is_dir())

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except KeyError:
            raise FileNotFoundError(f"{name}: not in {self.path}") from None
        # RuntimeError: encrypted; NotImplementedError: an unknown compression method.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise ValueError(f"{name}: cannot be read ({error})") from error


class TarArchive(Archive):
    """A tar file, read in place through an index of offsets; inflated first if compressed."""

    def __init__(self, path: Path):
        self.path = path
        self._inflated = None  # owns the temporary file; its path is `_tar`
        self._tar = path
        try:
            inflator = _inflator(path)
            if inflator is not None:
                self._inflated = _inflate(path, inflator)
                self._tar = Path(self._inflated.name)
            with tarfile.open(self._tar, "r:") as tar:
                self._index = {
                    member.name.removeprefix("./"): (member.offset_data, member.size)
                    for member in tar
                    if member.isreg()
                }
        except _TAR_ERRORS as error:
            raise ValueError(
                f"{path}: neither a folder nor a readable zip or tar file ({error})"
            ) from error

    def __getstate__(self):
        # A copy in a worker reads the owner's temporary file but must not delete it.
        return {**self.__dict__, "_inflated": None}

    def names(self) -> tuple[str, ...]:
        return tuple(self._index)

    def read(self, name: str) -> bytes:
        if name not in self._index:
            raise FileNotFoundError(f"{name}: not in {self.path}")
        offset, size = self._index[name]
        with open(self._tar, "rb") as tar:
            tar.seek(offset)
            content = tar.read(size)
        if len(content) != size:
            raise ValueError(f"{name}: cannot be read ({self.path} is cut short)")
        return content


def _inflator(path: Path):
    """The opener for a compressed file, recognised by its first bytes; None for any other."""
    with open(path, "rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in _INFLATORS.items() if start.startswith(magic)), None)


def _inflate(path: Path, opener) -> "tempfile._TemporaryFileWrapper":
    inflated = tempfile.NamedTemporaryFile(prefix="l2sae-", suffix=".tar")  # noqa: SIM115
    with opener(path, "rb") as compressed:
        shutil.copyfileobj(compressed, inflated, length=1 << 20)
    inflated.flush()
    return inflated
