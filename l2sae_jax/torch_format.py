"""PyTorch's checkpoint files, read and written without PyTorch.

Two formats exist. Since PyTorch 1.6 a checkpoint is a ZIP archive of uncompressed entries:
`<folder>/data.pkl`, a pickle of the object in which every tensor names its storage, and
`<folder>/data/<key>`, the raw bytes of each storage. Before, it was five pickles in a row (magic
number, version, machine, object, storage keys) followed by the storages, each with its element
count. Source: `torch/serialization.py`, of which this is an independent reader and writer.

A pickle is a program. The one here is run by `_Machine`, which knows tensors, numbers, strings,
dicts, lists and tuples, and refuses any other name it meets: no file can make it import or call
anything. Tensors are views on the mapped file, so reading costs no memory until they are used.
"""

import io
import math
import mmap
import os
import pickletools
import reprlib
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

_DTYPES = {
    "torch float16": np.dtype("<f2"),
    "torch bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch float32": np.dtype("<f4"),
    "torch float64": np.dtype("<f8"),
    "torch int8": np.dtype("i1"),
    "torch int16": np.dtype("<i2"),
    "torch int32": np.dtype("<i4"),
    "torch int64": np.dtype("<i8"),
    "torch uint8": np.dtype("u1"),
    "torch bool": np.dtype("?"),
}
_WRITTEN_STORAGES = {
    "torch HalfStorage": _DTYPES["torch float16"],
    "torch BFloat16Storage": _DTYPES["torch bfloat16"],
    "torch FloatStorage": _DTYPES["torch float32"],
    "torch DoubleStorage": _DTYPES["torch float64"],
    "torch CharStorage": _DTYPES["torch int8"],
    "torch ShortStorage": _DTYPES["torch int16"],
    "torch IntStorage": _DTYPES["torch int32"],
    "torch LongStorage": _DTYPES["torch int64"],
    "torch ByteStorage": _DTYPES["torch uint8"],
    "torch BoolStorage": _DTYPES["torch bool"],
}
_STORAGES = _WRITTEN_STORAGES | {
    "torch UntypedStorage": _DTYPES["torch uint8"],
    "torch.storage UntypedStorage": _DTYPES["torch uint8"],
}
# What a pickle may call, and on how few and how many arguments.
_CALLS = {
    "collections OrderedDict": (0, 1),
    "torch Size": (1, 1),
    "torch._utils _rebuild_parameter": (3, 3),
    "torch._utils _rebuild_parameter_with_state": (4, 4),
    "torch._utils _rebuild_tensor": (4, 4),
    "torch._utils _rebuild_tensor_v2": (6, 7),
    "torch._utils _rebuild_tensor_v3": (7, 8),
}

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_ALIGNMENT = 64

# Limits that no state dict comes near, so that a small hostile file cannot ask for much memory.
# A real pickle takes some 130 bytes per tensor; each of its bytes can cost 64 in Python objects.
_PICKLE_LIMIT = 8 << 20
_EXPANDED_LIMIT = 64 << 20
_INFLATED_LIMIT = 64 << 20
_DIMENSIONS_LIMIT = 32
_SIZE_LIMIT = 1 << 48

# Above this many bytes an entry gets the ZIP64 header that sizes over 2 GiB need.
_ZIP64_FROM = 1 << 30

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


# --------------------------------------------------------------------------------------- reading


class StateDict(Mapping[str, np.ndarray]):
    """The entries of a checkpoint file: read-only views on the mapped file, in the file's order.

    Looking an entry up lets go of the memory pages that earlier look-ups brought in, so that going
    through the entries holds one tensor at a time. Earlier views stay valid: the system fetches
    their pages again when they are used. The file must not be changed in place meanwhile
    (replacing it, as `write` does, is fine).
    """

    def __init__(self, tensors: dict[str, np.ndarray], mapping: mmap.mmap):
        self._tensors = tensors
        self._mapping = mapping

    def __getitem__(self, name: str) -> np.ndarray:
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read(path: str | os.PathLike[str]) -> StateDict:
    """Reads a state dict saved by `torch.save`, in the ZIP or the pre-1.6 format.

    Args:
      path: the checkpoint file.

    Returns:
      Name to array, each in the dtype and shape saved; Python numbers become arrays of shape ().

    Raises:
      ValueError: the file is not a PyTorch checkpoint, is damaged, asks for anything but tensors
        and plain values, or holds something else than one flat state dict.
      OSError: the file cannot be opened.
    """
    contents, mapping = _load(path)
    want = "want one flat state dict, names to tensors, as saved by torch.save(model.state_dict())"
    if not isinstance(contents, dict):
        raise ValueError(f"{path}: holds a {type(contents).__name__}; {want}")
    tensors = {}
    for name, value in contents.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: has an entry named {_shown(name)}; {want}")
        tensor = _as_tensor(value)
        if tensor is None:
            kind = type(value).__name__
            raise ValueError(f"{path}: entry {_shown(name)} is a {kind}; {want}")
        tensors[name] = tensor
    return StateDict(tensors, mapping)


def _as_tensor(value: object) -> np.ndarray | None:
    """An array as it is, a Python number as an array of shape (), None for the rest."""
    if isinstance(value, np.ndarray):
        return value
    if type(value) is int and -(2**63) <= value < 2**63:
        return np.array(value, np.int64)
    return np.array(value) if type(value) in (bool, float) else None


def _load(path: str | os.PathLike[str]) -> tuple[object, mmap.mmap]:
    """The object in a file of either format, and the mapping that its tensors are views on."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path}: is not a regular file; want a checkpoint saved by torch.save")
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError(f"{path}: is empty; want a checkpoint saved by torch.save")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            if mapping[:4] == _ZIP_MAGIC:
                return _load_zip(_Archive(file, mapping)), mapping
            return _load_legacy(mapping), mapping
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def _shown(value: object) -> str:
    """A value in an error message: one line, cut to a readable length."""
    return " ".join(_SHORT.repr(value).split())


def _brief(error: Exception) -> str:
    """A library's message, which may quote bytes of the file, cut likewise."""
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True)
class Name:
    """A name that a pickle uses and that stands for nothing here: `module attribute`."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """A run of bytes that tensors are views on: `buffer[start:start + nbytes]`."""

    buffer: mmap.mmap | bytes = field(repr=False)
    start: int
    nbytes: int
    dtype: np.dtype


@dataclass(frozen=True)
class _StorageId:
    """What a pickle says of a storage: its elements, and for pre-1.6 views the (first, count)."""

    key: str
    dtype: np.dtype
    count: int
    view: tuple[int, int] | None

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize

    def place(self, buffer: mmap.mmap | bytes, start: int) -> _Storage:
        """The storage, its first byte being `buffer[start]`."""
        first, count = self.view or (0, self.count)
        size = self.dtype.itemsize
        return _Storage(buffer, start + first * size, count * size, self.dtype)


def _storage_id(pickled: object) -> _StorageId:
    """Checks a storage's persistent id: ("storage", type, key, device, count[, view])."""
    match pickled:
        case ("storage", Name(text), str(key), _, count):
            view = None
        case ("storage", Name(text), str(key), _, count, None):
            view = None
        case ("storage", Name(text), str(key), _, count, (_, first, view_count)):
            view = (first, view_count)
        case _:
            raise ValueError(f"refused: its pickle refers to {_shown(pickled)}, no storage")
    if text not in _STORAGES:
        raise ValueError(f"damaged: {_shown(text)} is no type of storage")
    if not _are_sizes((count, *(view or ()))) or (view and sum(view) > count):
        raise ValueError(f"damaged: storage {_shown(key)} has a count of {_shown((count, view))}")
    return _StorageId(key, _STORAGES[text], count, view)


def _are_sizes(values: object) -> bool:
    return isinstance(values, tuple) and all(
        type(v) is int and 0 <= v < _SIZE_LIMIT for v in values
    )


def _tensor(
    storage: object, offset: Any, size: Any, stride: Any, dtype: np.dtype | None = None
) -> np.ndarray:
    """A read-only view of a storage; offset and strides count elements, as PyTorch's do."""
    if not isinstance(storage, _Storage):
        raise ValueError(f"damaged: a tensor is made from a {type(storage).__name__}, no storage")
    dtype = storage.dtype if dtype is None else dtype
    problem = _find_problem(storage.nbytes // dtype.itemsize, offset, size, stride, dtype.itemsize)
    if problem:
        raise ValueError(
            f"damaged: a tensor of shape {_shown(size)}, strides {_shown(stride)} and offset "
            f"{_shown(offset)} {problem}"
        )
    if not math.prod(size):
        tensor = np.empty(size, dtype)
        tensor.flags.writeable = False
        return tensor
    strides = tuple(step * dtype.itemsize for step in stride)
    return np.ndarray(size, dtype, storage.buffer, storage.start + offset * dtype.itemsize, strides)


def _find_problem(held: int, offset: Any, size: Any, stride: Any, itemsize: int) -> str | None:
    """What is wrong with a view of a storage that holds so many elements."""
    if not (_are_sizes((offset,)) and _are_sizes(size) and _are_sizes(stride)):
        return "has others than whole numbers from 0 up"
    if len(size) != len(stride) or len(size) > _DIMENSIONS_LIMIT:
        return f"has not one stride per dimension, or over {_DIMENSIONS_LIMIT} dimensions"
    count = math.prod(size)
    if not count:
        return None
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if end > held:
        return f"needs {end} elements of a storage of {held}"
    # Strides of zero make a large tensor of a small file: harmless as a view, not once copied.
    if count > held and count * itemsize > _EXPANDED_LIMIT:
        return f"repeats {held} elements to over {_EXPANDED_LIMIT} bytes; save a clone() of it"
    return None


# ---------------------------------------------------------------------------- the pickle's program

_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = frozenset(
    {"BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1"}
    | {"BINSTRING", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "SHORT_BINUNICODE"}
)


_ACTIONS = frozenset(
    {"MARK", "TUPLE", "LIST", "EMPTY_LIST", "APPEND", "APPENDS"}
    | {"EMPTY_DICT", "SETITEM", "SETITEMS", "BUILD"}
    | {"BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"}
    | {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BINPERSID"}
)
_KNOWN = _IGNORED | _CONSTANTS.keys() | _TUPLES.keys() | _LITERALS | _ACTIONS


def _no_storage(pickled: object) -> _Storage:
    raise ValueError(f"damaged: storage {_shown(pickled)} where none can be")


class _Machine:
    """Runs one pickle on plain values; every operation it does not know is an error.

    Python's own unpickler is not used even restricted to known names: its operations reach
    attributes of what those names return, and some reserve memory before reading.

    Args:
      storage: makes a storage of its persistent id.
      tensor: makes a tensor of a storage, offset, size, strides and dtype.
    """

    def __init__(
        self,
        storage: Callable[[object], Any] = _no_storage,
        tensor: Callable[..., Any] = _tensor,
    ):
        self._storage = storage
        self._tensor = tensor
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        """The object that the pickle at the stream's position builds; stops after its end.

        Raises:
          ValueError: the pickle is cut short or damaged, or uses a name or operation not known.
        """
        try:
            for name, argument in _operations(stream):
                self._step(name, argument)
            return self._pop()
        except (IndexError, KeyError) as error:
            raise ValueError(
                f"damaged: its pickle makes no sense before byte {stream.tell()}"
            ) from error

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
        elif name not in _IGNORED:
            self._act(name, argument)

    def _act(self, name: str, argument: Any) -> None:
        match name:
            case "MARK":
                self._marked.append(self._stack)
                self._stack = []
            case "TUPLE":
                self._push(tuple(self._pop_marked()))
            case "LIST":
                self._push(self._pop_marked())
            case "EMPTY_LIST":
                self._push([])
            case "EMPTY_DICT":
                self._push({})
            case "APPEND" | "APPENDS":
                values = [self._pop()] if name == "APPEND" else self._pop_marked()
                self._top(list).extend(values)
            case "SETITEM":
                value, key = self._pop(), self._pop()
                _set_items(self._top(dict), [key], [value])
            case "SETITEMS":
                values = self._pop_marked()
                _set_items(self._top(dict), values[::2], values[1::2])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top(object)
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top(object)
            case "BINGET" | "LONG_BINGET":
                self._push(self._memo[argument])
            case "GLOBAL":
                self._push(_known_name(argument))
            case "STACK_GLOBAL":
                attribute = self._pop_text()
                self._push(_known_name(f"{self._pop_text()} {attribute}"))
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                self._push(self._call(function, arguments))
            case "BUILD":
                # Attributes of an OrderedDict, `_metadata` (layer versions) in a state dict.
                self._pop()
                self._top(dict)
            case "BINPERSID":
                self._push(self._storage(self._pop()))

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _pop_text(self) -> str:
        self._top(str)
        return self._pop()

    def _pop_marked(self) -> list[Any]:
        values = self._stack
        self._stack = self._marked.pop()
        return values

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            found = type(self._stack[-1]).__name__
            raise ValueError(f"damaged: its pickle has a {found} in place of a {kind.__name__}")
        return self._stack[-1]

    def _call(self, function: object, arguments: object) -> Any:
        text = function.text if isinstance(function, Name) else ""
        fewest, most = _CALLS.get(text, (1, 0))
        if not isinstance(arguments, tuple) or not fewest <= len(arguments) <= most:
            raise ValueError(f"damaged: it calls {_shown(function)} on {_shown(arguments)}")
        match text:
            case "collections OrderedDict":
                return _ordered_dict(*arguments)
            case "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2":
                return self._rebuild(arguments[:4], None, arguments[6:])
            case "torch._utils _rebuild_tensor_v3":
                return self._rebuild(arguments[:4], arguments[6], arguments[7:])
            case _:
                # A torch.Size is its tuple, a parameter its tensor.
                return arguments[0]

    def _rebuild(self, view: tuple[Any, ...], dtype: Any, metadata: tuple[Any, ...]) -> Any:
        if any(metadata):
            raise ValueError(f"refused: a tensor stored as {_shown(metadata[0])}; save a clone()")
        if dtype is None:
            return self._tensor(*view)
        if not isinstance(dtype, Name) or dtype.text not in _DTYPES:
            raise ValueError(f"damaged: a tensor has dtype {_shown(dtype)}")
        return self._tensor(*view, _DTYPES[dtype.text])


def _operations(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Names and arguments of a pickle's operations, up to and with its STOP."""
    name = ""
    while name != "STOP":
        operation = pickletools.code2op.get(stream.read(1).decode("latin-1"))
        if operation is None:
            raise ValueError("damaged or cut short inside a pickle; copy the file again")
        name = operation.name
        if name not in _KNOWN:
            raise ValueError(f"refused: its pickle uses {name}, which no state dict needs")
        try:
            if name == "GLOBAL":
                argument = f"{_line(stream)} {_line(stream)}"
            else:
                argument = operation.arg.reader(stream) if operation.arg else None
        except ValueError as error:
            raise ValueError(
                f"damaged or cut short inside a pickle ({_brief(error)}); copy the file again"
            ) from error
        yield name, argument


def _line(stream: BinaryIO) -> str:
    """The text up to a line's end; pickletools would take backslashes in it for escapes."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a name without an end")
    return line[:-1].decode()


def _known_name(text: str) -> Name:
    """A name that a pickle refers to, if it is one that state dicts need."""
    if text not in _CALLS and text not in _STORAGES and text not in _DTYPES:
        raise ValueError(
            f"refused: it refers to {_shown(text.replace(' ', '.'))}, but only tensors of dtype "
            f"{', '.join(name.removeprefix('torch ') for name in _DTYPES)} and plain values are "
            "read; save the state dict alone"
        )
    return Name(text)


def _ordered_dict(pairs: object = ()) -> dict[Any, Any]:
    """The dict of a list of [key, value] lists, the form that Python 2 pickled."""
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError(f"damaged: a dict is made from {_shown(pairs)}, no list of pairs")
    made: dict[Any, Any] = {}
    _set_items(made, [key for key, _ in pairs], [value for _, value in pairs])
    if isinstance(pairs, list):
        # Nothing else uses the list; left as it was, one list could be made into many dicts.
        pairs.clear()
    return made


def _set_items(target: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    """Adds entries, whose keys may only be plain: hashing a deep tuple can crash the process."""
    if len(keys) != len(values):
        raise ValueError("damaged: its pickle has a dict key without a value")
    for key in keys:
        if not isinstance(key, str | int | float | None):
            raise ValueError(f"refused: its pickle has a {type(key).__name__} as a dict key")
    target.update(zip(keys, values, strict=True))


# ---------------------------------------------------------------------------- the two file formats


class _Archive:
    """The entries of a ZIP checkpoint: where they lie in the mapped file, or their inflated bytes.

    Checksums of stored entries are not compared: that would read the whole file at once, and
    PyTorch can be told not to compute them.
    """

    def __init__(self, file: BinaryIO, mapping: mmap.mmap):
        try:
            self._zip = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise ValueError(
                f"is a damaged or incomplete ZIP archive ({_brief(error)}); copy the file again"
            ) from error
        self._mapping = mapping
        self._inflated: dict[str, bytes] = {}
        self._folder = self._find_folder()

    def _find_folder(self) -> str:
        names = self._zip.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError(
                f"is a ZIP archive with {len(pickles)} entries <folder>/data.pkl, want one; "
                "it is no checkpoint saved by torch.save"
            )
        return pickles[0].removesuffix("data.pkl")

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._zip.NameToInfo

    def entry(self, name: str) -> tuple[mmap.mmap | bytes, int, int]:
        """The buffer that holds an entry, its first byte there and its size."""
        if name not in self:
            raise ValueError(f"damaged: entry {_shown(self._folder + name)} is missing")
        info = self._zip.getinfo(self._folder + name)
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise ValueError(f"entry {_shown(info.filename)} is encrypted or oddly compressed")
        if info.compress_type == zipfile.ZIP_STORED:
            return self._mapping, self._stored_start(info), info.file_size
        return self._inflate(info), 0, info.file_size

    def _stored_start(self, info: zipfile.ZipInfo) -> int:
        """Where a stored entry's bytes start: behind its local header, which repeats the name."""
        fixed = self._mapping[max(0, info.header_offset) : info.header_offset + 30]
        if len(fixed) == 30 and fixed.startswith(_ZIP_MAGIC):
            start = info.header_offset + 30 + sum(struct.unpack_from("<HH", fixed, 26))
            if info.compress_size == info.file_size <= len(self._mapping) - start:
                return start
        raise ValueError(f"damaged: entry {_shown(info.filename)} does not lie inside the file")

    def _inflate(self, info: zipfile.ZipInfo) -> bytes:
        if info.filename not in self._inflated:
            held = sum(map(len, self._inflated.values()))
            limit = _INFLATED_LIMIT + 16 * len(self._mapping)
            if held + info.file_size > limit:
                raise ValueError(f"refused: it inflates to over {limit} bytes; save uncompressed")
            try:
                self._inflated[info.filename] = self._zip.read(info)
            except _ZIP_ERRORS as error:
                raise ValueError(
                    f"damaged: entry {_shown(info.filename)} ({_brief(error)})"
                ) from error
        if len(self._inflated[info.filename]) != info.file_size:
            raise ValueError(f"damaged: entry {_shown(info.filename)} is cut short")
        return self._inflated[info.filename]

    def small(self, name: str) -> bytes:
        """The bytes of an entry that is not tensor data."""
        buffer, start, size = self.entry(name)
        if size > _PICKLE_LIMIT:
            raise ValueError(f"refused: {name} has {size} bytes, over {_PICKLE_LIMIT}")
        return buffer[start : start + size]

    def storage(self, pickled: object) -> _Storage:
        """The storage of a persistent id."""
        described = _storage_id(pickled)
        buffer, start, size = self.entry(f"data/{described.key}")
        if size != described.nbytes:
            raise ValueError(
                f"damaged: storage {_shown(described.key)} has {size} bytes, "
                f"want {described.nbytes}"
            )
        return described.place(buffer, start)


def _load_zip(archive: _Archive) -> object:
    if "byteorder" in archive and archive.small("byteorder") != b"little":
        raise ValueError("holds big-endian numbers; save it on a little-endian machine")
    return _Machine(archive.storage).run(io.BytesIO(archive.small("data.pkl")))


def _load_legacy(mapping: mmap.mmap) -> object:
    """Reads the pre-1.6 format, whose storages come after the pickle that refers to them."""
    stream = io.BytesIO(mapping[:_PICKLE_LIMIT])
    if mapping[:1] != b"\x80" or _Machine().run(stream) != _LEGACY_MAGIC:
        raise ValueError(
            f"is no PyTorch checkpoint (it starts with {_shown(mapping[:16])}); "
            "want a file saved by torch.save"
        )
    version = _Machine().run(stream)
    if version != _LEGACY_VERSION:
        raise ValueError(f"has format version {_shown(version)}, want {_LEGACY_VERSION}")
    machine = _Machine().run(stream)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("holds big-endian numbers; save it on a little-endian machine")

    start = stream.tell()
    described: dict[str, _StorageId] = {}
    starts: dict[str, int] = {}

    def describe(pickled: object) -> _StorageId:
        found = _storage_id(pickled)
        if described.setdefault(found.key, found).nbytes != found.nbytes:
            raise ValueError(f"damaged: storage {_shown(found.key)} has two sizes")
        return found

    def place(pickled: object) -> _Storage:
        found = _storage_id(pickled)
        return found.place(mapping, starts[found.key])

    # The first run finds out what storages there are and where the pickle ends, the second builds.
    _Machine(describe, tensor=lambda *_: None).run(stream)
    starts.update(_legacy_starts(mapping, stream, described))
    stream.seek(start)
    return _Machine(place).run(stream)


def _legacy_starts(
    mapping: mmap.mmap, stream: BinaryIO, described: Mapping[str, _StorageId]
) -> dict[str, int]:
    """Where each storage's bytes start: they follow the list of their keys, in its order."""
    keys = _Machine().run(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("damaged: want a list of storage keys after the pickle")
    if len(keys) != len(described) or set(keys) != set(described):
        raise ValueError(f"damaged: it lists {len(keys)} storages, its tensors {len(described)}")
    position = stream.tell()
    starts = {}
    for key in keys:
        header = mapping[position : position + 8]
        starts[key] = position + 8
        position += 8 + described[key].nbytes
        if len(header) < 8 or position > len(mapping):
            raise ValueError(
                f"damaged: {len(mapping)} bytes, but storage {_shown(key)} ends at {position}; "
                "copy the file again"
            )
        (count,) = struct.unpack("<q", header)
        if count != described[key].count:
            raise ValueError(
                f"damaged: storage {_shown(key)} has {count} elements, want {described[key].count}"
            )
    return starts


# --------------------------------------------------------------------------------------- writing


def write(path: str | os.PathLike[str], entries: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict that `torch.load(path, weights_only=True)` reads as an OrderedDict.

    Entries are fetched and written one after the other, so a mapping that makes them when asked
    never holds two. The same entries always give the same bytes. The file appears under its name
    only when complete: a run that is killed leaves what was there before (and a hidden `.part`).

    Args:
      path: the file to write; one of that name is replaced.
      entries: name to array, of the dtypes that `read` returns (bfloat16 is ml_dtypes').

    Raises:
      ValueError: a name is no string, an array has another dtype, or the path is a folder.
      OSError: the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; want the name of a file to write")
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            _write_archive(file, entries)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write_archive(file: BinaryIO, entries: Mapping[str, np.ndarray]) -> None:
    """Writes storages first: their types and shapes, which the pickle needs, are known by then."""
    described = []
    with zipfile.ZipFile(file, "w") as archive:
        for index, name in enumerate(entries):
            array = _checked(name, entries[name])
            _write_entry(archive, file, f"data/{index}", array.reshape(-1).view(np.uint8))
            described.append(_pickled_entry(name, str(index), array.shape, array.dtype))
        pickled = _pickled_state_dict(described)
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            _write_entry(archive, file, name, np.frombuffer(content, np.uint8))


def _checked(name: object, value: np.ndarray) -> np.ndarray:
    """The array in C order and little-endian, copied only if it was not."""
    if not isinstance(name, str):
        raise ValueError(f"entry {_shown(name)} has no string as its name")
    array = np.asarray(value)
    little = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    if little not in _WRITTEN_STORAGES.values():
        names = ", ".join(str(dtype) for dtype in _WRITTEN_STORAGES.values())
        raise ValueError(f"entry {name!r} has dtype {array.dtype}, want one of {names}")
    return np.asarray(array, dtype=little, order="C")


def _write_entry(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: np.ndarray) -> None:
    """Stores bytes so that they start at a multiple of 64, as PyTorch's mmap loading prefers."""
    info = zipfile.ZipInfo(f"archive/{name}")  # dated 1980: the same bytes every time
    info.create_system = 3
    zip64 = content.nbytes >= _ZIP64_FROM
    header = 30 + len(info.filename) + 4 + (20 if zip64 else 0)
    padding = -(file.tell() + header) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=zip64) as entry:
        entry.write(content)


def _pickled_state_dict(described: list[bytes]) -> bytes:
    """Protocol 2 pickle of an OrderedDict with these entries."""
    return b"\x80\x02" + _ORDERED_DICT + b"(" + b"".join(described) + b"u."


def _pickled_entry(name: str, key: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The pickle operations that push an entry's name and its contiguous tensor."""
    storage = next(text for text, held in _WRITTEN_STORAGES.items() if held == dtype)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    persistent_id = (
        _pickled("storage"),
        _pickled_global(storage),
        _pickled(key),
        _pickled("cpu"),
        _pickled(math.prod(shape)),
    )
    arguments = (
        _pickled_tuple(persistent_id) + b"Q",
        _pickled(0),
        _pickled_tuple(map(_pickled, shape)),
        _pickled_tuple(map(_pickled, strides)),
        b"\x89",  # requires_grad = False
        _ORDERED_DICT,  # no backward hooks
    )
    rebuild = _pickled_global("torch._utils _rebuild_tensor_v2")
    return _pickled(name) + rebuild + _pickled_tuple(arguments) + b"R"


def _pickled(value: str | int) -> bytes:
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _pickled_global(text: str) -> bytes:
    return b"c" + text.replace(" ", "\n").encode() + b"\n"


def _pickled_tuple(items: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


_ORDERED_DICT = _pickled_global("collections OrderedDict") + b")R"
