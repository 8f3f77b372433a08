"""PyTorch checkpoint files: what is read, what is refused and how, what is written.

The files are put together by hand below, opcode by opcode, so that no test needs PyTorch; those
marked `torch` compare with the real one where it is installed.
"""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from l2sae_jax import torch_format

DTYPES = {
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Float": np.float32,
    "Double": np.float64,
    "Char": np.int8,
    "Short": np.int16,
    "Int": np.int32,
    "Long": np.int64,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
FORMATS = ("zip", "legacy")
MAGIC = 0x1950A86A20F9469CFC6C
NINE = np.arange(9, dtype=np.float32).tobytes()


# ------------------------------------------------------------------ checkpoint files put together


class Global(NamedTuple):
    """A name in a pickle, "module attribute"."""

    name: str


class Call(NamedTuple):
    """A name in a pickle, called on arguments."""

    name: str
    arguments: tuple[Any, ...]


class Stored(NamedTuple):
    """A reference to a storage."""

    kind: str
    key: str
    count: Any
    view: Any = None


def dump(value: Any, form: str = "zip") -> bytes:
    """The operations that push a value, protocol 2."""

    def join(values):
        return b"".join(dump(v, form) for v in values)

    match value:
        case Global(name):
            return b"c" + name.replace(" ", "\n").encode() + b"\n"
        case Call(name, arguments):
            return dump(Global(name)) + dump(arguments, form) + b"R"
        case Stored(kind, key, count, view):
            last = () if form == "zip" else (view,)
            return dump(("storage", Global(f"torch {kind}"), key, "cuda:0", count, *last)) + b"Q"
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            data = pickle.encode_long(value)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + join(value) + b"t"
        case list():
            return b"](" + join(value) + b"e"
        case OrderedDict():
            return dump(Call("collections OrderedDict", ())) + dump(dict(value), form)[1:]
        case dict():
            return b"}(" + join(x for item in value.items() for x in item) + b"u"
        case bytes():
            return value  # operations as they are
    raise TypeError(value)


def tensor(key: str, size: Any, stride: Any = (1,), offset: Any = 0, count: Any = 9, kind="Float"):
    storage = Stored(f"{kind}Storage", key, count)
    rest = (offset, size, stride, False, OrderedDict())
    return Call("torch._utils _rebuild_tensor_v2", (storage, *rest))


def save(path, form: str, contents: Any, storages: dict[str, bytes], **options):
    """Writes a checkpoint file and returns its path; elements take `itemsize` bytes (4)."""
    operations = b"\x80\x02" + dump(contents, form) + b"."
    return (save_zip if form == "zip" else save_legacy)(path, operations, storages, **options)


def save_zip(path, operations, storages, method=zipfile.ZIP_STORED, byteorder=b"little", **_):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("any folder/data.pkl", operations)
        if byteorder:
            archive.writestr("any folder/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"any folder/data/{key}", data)
        archive.writestr("any folder/version", "3\n")
    return path


def save_legacy(path, operations, storages, itemsize=4, little_endian=True, keys=None, **_):
    system = {"protocol_version": 1001, "little_endian": little_endian}
    parts = [pickle.dumps(v, protocol=2) for v in (MAGIC, 1001, system)] + [operations]
    parts.append(pickle.dumps(sorted(storages) if keys is None else keys, protocol=2))
    for key in sorted(storages):
        parts += [struct.pack("<q", len(storages[key]) // itemsize), storages[key]]
    path.write_bytes(b"".join(parts))
    return path


def refusal(path) -> str:
    """The one line that reading a file must end in, without the file's name."""
    with pytest.raises(ValueError) as caught:
        torch_format.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 700
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth"


# --------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", DTYPES)
def test_reads_every_dtype(path, form, kind):
    want = np.array([[0, 1, 0], [1, 1, 3]]).astype(DTYPES[kind])
    contents = OrderedDict(a=tensor("7", (2, 3), (3, 1), count=6, kind=kind))
    save(path, form, contents, {"7": want.tobytes()}, itemsize=want.itemsize)
    got = torch_format.read(path)["a"]
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    assert not got.flags.writeable


@pytest.mark.parametrize("form", FORMATS)
def test_reads_strides_offsets_shared_storages_and_shapes_of_0_and_1(path, form):
    contents = {
        "transposed": tensor("0", (2, 3), (1, 3), 1),
        "row": tensor("0", (3,), (1,), 6),
        "scalar": tensor("0", (), (), 8),
        "expanded": tensor("0", (2, 2), (0, 1)),
        "empty": tensor("1", (0, 4), (4, 1), count=0),
        "parameter": Call("torch._utils _rebuild_parameter", (tensor("0", (9,)), True, {})),
    }
    got = torch_format.read(save(path, form, contents, {"0": NINE, "1": b""}))
    assert list(got) == list(contents)
    np.testing.assert_array_equal(got["transposed"], [[1, 4, 7], [2, 5, 8]])
    np.testing.assert_array_equal(got["row"], [6, 7, 8])
    np.testing.assert_array_equal(got["scalar"], np.float32(8))
    np.testing.assert_array_equal(got["expanded"], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(got["parameter"], np.arange(9))
    assert got["empty"].shape == (0, 4)
    assert np.shares_memory(got["row"], got["transposed"])


def test_reads_numbers_as_arrays_and_skips_a_state_dicts_metadata(path):
    numbers = OrderedDict(steps=3, rate=0.5, done=True, big=-(2**40))
    metadata = {"_metadata": OrderedDict({"": {"version": 1}})}
    got = torch_format.read(save(path, "zip", dump(numbers) + dump(metadata) + b"b", {}))
    assert {name: (a.dtype, a.item()) for name, a in got.items()} == {
        "steps": (np.int64, 3),
        "rate": (np.float64, 0.5),
        "done": (np.bool_, True),
        "big": (np.int64, -(2**40)),
    }


def test_reads_the_later_rebuilding_of_untyped_storages(path):
    v3 = (Stored("UntypedStorage", "0", 36), 1, (2,), (1,), False, {}, Global("torch float32"))
    save(path, "zip", {"a": Call("torch._utils _rebuild_tensor_v3", v3)}, {"0": NINE})
    np.testing.assert_array_equal(torch_format.read(path)["a"], [1, 2])


def test_reads_views_and_ordered_dicts_as_old_python_wrote_them(path):
    view = Stored("FloatStorage", "0", 9, ("1", 4, 3))
    old = Call("torch._utils _rebuild_tensor", (view, 1, (2,), (1,)))
    save(path, "legacy", Call("collections OrderedDict", ([["a", old]],)), {"0": NINE})
    np.testing.assert_array_equal(torch_format.read(path)["a"], [5, 6])


def test_reads_what_later_pickle_protocols_write(path):
    operations = b"\x80\x04\x95" + struct.pack("<Q", 9) + b"}\x94(\x8c\x01a\x94K\x05u."
    assert torch_format.read(save_zip(path, operations, {}))["a"] == 5
    operations = b"\x80\x04\x8c\x02os\x8c\x06system\x93."
    assert "'os.system'" in refusal(save_zip(path, operations, {}))


def test_reads_compressed_archives_and_those_without_byte_order(path):
    contents = {"a": tensor("0", (9,)), "b": tensor("0", (2,), (1,), 7)}
    save(path, "zip", contents, {"0": NINE}, method=zipfile.ZIP_DEFLATED, byteorder=b"")
    got = torch_format.read(path)
    np.testing.assert_array_equal(got["a"], np.arange(9))
    np.testing.assert_array_equal(got["b"], [7, 8])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("wrapped", "kind"),
    [({"a": tensor("0", (9,))}, "dict"), (["x", ("y", None)], "list"), (None, "NoneType")],
)
def test_other_structures_are_understood_and_told_from_a_state_dict(path, form, wrapped, kind):
    save(path, form, {"epoch": 3, "state_dict": wrapped}, {"0": NINE} if kind == "dict" else {})
    assert refusal(path).startswith(f"entry 'state_dict' is a {kind}; want one flat state dict")


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_going_through_the_entries_holds_one_at_a_time(path):
    count, size = 12, 4 << 20
    torch_format.write(path, {f"{i}": np.full(size // 4, i, np.float32) for i in range(count)})
    program = """if True:
        import resource, sys
        from l2sae_jax import torch_format
        entries = torch_format.read(sys.argv[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        views = [array for array in entries.values() if array.sum() > -1]
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(held, [int(view[-1]) for view in views])
    """
    out = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    held, last = out.stdout.split(maxsplit=1)
    assert int(held) * 1024 < 3 * size
    assert last.strip() == str(list(range(count)))


# --------------------------------------------------------------------------------------- refusing

DANGEROUS = [
    Call("posix system", ("touch {marker}",)),
    Call("builtins eval", ("1",)),
    Call("builtins getattr", ("a", "b")),
    Call("torch._utils _rebuild_sparse_tensor", ()),
    Call("torch ComplexFloatStorage", ()),
    Call("networks Generator", ()),
    Call("numpy.core.multiarray scalar", ()),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("call", DANGEROUS, ids=lambda call: call.name)
def test_refuses_other_names_before_anything_runs(path, form, call):
    marker = path.with_name("marker")
    call = Call(call.name, tuple(a.format(marker=marker) for a in call.arguments))
    save(path, form, {"a": call}, {})
    assert refusal(path).startswith(f"refused: it refers to '{call.name.replace(' ', '.')}'")
    assert not marker.exists()


def test_refuses_a_bare_pickle_by_what_it_would_run(path):
    path.write_bytes(b"\x80\x02" + dump(Call("posix system", ("true",))) + b".")
    assert "'posix.system'" in refusal(path)


BAD_TENSORS = {
    "past the end": (tensor("0", (3, 3), (3, 1), 1), "needs 10 elements of a storage of 9"),
    "far strides": (tensor("0", (2,), (2**40,)), "elements of a storage of 9"),
    "negative size": (tensor("0", (-1,)), "has others than whole numbers from 0 up"),
    "negative stride": (tensor("0", (2,), (-1,)), "has others than whole numbers from 0 up"),
    "negative offset": (tensor("0", (2,), (1,), -1), "has others than whole numbers from 0 up"),
    "endless size": (tensor("0", (2**80,)), "has others than whole numbers from 0 up"),
    "size no tuple": (tensor("0", 3), "has others than whole numbers from 0 up"),
    "size of text": (tensor("0", ("3",)), "has others than whole numbers from 0 up"),
    "stride missing": (tensor("0", (3, 3)), "has not one stride per dimension"),
    "40 dimensions": (tensor("0", (1,) * 40, (1,) * 40), "over 32 dimensions"),
    "vast and empty": (tensor("0", (0, *[2**47] * 5), (1,) * 6), ""),
    "repeated": (tensor("0", (2**20, 2**20), (0, 0)), "repeats 9 elements to over"),
    "wrong count": (tensor("0", (9,), count=10), ""),
    "negative count": (tensor("0", (9,), count=-9), "has a count of (-9, None)"),
    "missing storage": (tensor("1", (9,)), ""),
    "no storage type": (tensor("0", (9,), kind="Size#"), "refused"),
    "no storage": (Call("torch._utils _rebuild_tensor", (1, 0, (), ())), ""),
    "few arguments": (Call("torch._utils _rebuild_tensor_v2", (1,)), "it calls"),
    "conjugated": (
        Call("torch._utils _rebuild_tensor_v2", (*tensor("0", ()).arguments, {"neg": True})),
        "refused: a tensor stored as {'neg': True}",
    ),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_refuses_tensors_that_do_not_fit_their_storage(path, form, case):
    bad, message = BAD_TENSORS[case]
    assert message in refusal(save(path, form, {"a": bad}, {"0": NINE}))


BAD_PICKLES = {
    "tuple as key": (dump({("a",): 1}), "refused: its pickle has a tuple as a dict key"),
    "key without value": (b"}(" + dump("a") + b"u", "has a dict key without a value"),
    "nothing built": (b"", "its pickle makes no sense before byte"),
    "memo never set": (b"h\x05", "its pickle makes no sense before byte"),
    "text as dict": (dump("a") + dump("b") + dump("c") + b"s", "has a str in place of a dict"),
    "attributes": (dump(1) + dump({"a": 1}) + b"b", "has a int in place of a dict"),
    "instance": (b"(" + dump(1) + b"o", "refused: its pickle uses OBJ"),
    "extension": (b"\x82\x01", "refused: its pickle uses EXT1"),
    "text storage id": (b"P0\n", "refused: its pickle uses PERSID"),
    "module": (dump(("module", "a")) + b"Q", "refused: its pickle refers to ('module', 'a')"),
    "long text": (b"X\xff\xff\xff\x7f", "copy the file again"),
    "dict of text": (dump(Call("collections OrderedDict", ("ab",))), "no list of pairs"),
    "calls a list": (dump([]) + dump(()) + b"R", "it calls [] on ()"),
    "no operation": (b"\xff", "copy the file again"),
    "list at the top": (dump([1]), "holds a list; want one flat state dict"),
    "number as name": (dump({1: 2}), "has an entry named 1; want one flat state dict"),
    "text as entry": (dump({"a": "b"}), "entry 'a' is a str; want one flat state dict"),
    "vast number": (dump({"a": 2**64}), "entry 'a' is a int; want one flat state dict"),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", BAD_PICKLES)
def test_refuses_pickles_that_no_state_dict_needs(path, form, case):
    operations, message = BAD_PICKLES[case]
    assert message in refusal(save(path, form, operations, {}))


def test_survives_deep_nesting(path):
    deep = b")" + b"\x85" * 200_000
    assert "entry 'a' is a tuple" in refusal(save(path, "zip", b"}" + dump("a") + deep + b"s", {}))
    refusal(save(path, "zip", b"}" + deep + dump(1) + b"s", {}))
    refusal(save(path, "zip", deep + b")R", {}))


@pytest.mark.parametrize("form", FORMATS)
def test_says_so_when_cut_short_anywhere(path, form):
    contents = OrderedDict(a=tensor("0", (9,)), b=tensor("1", (2,), count=2), c=1)
    whole = save(path, form, contents, {"0": NINE, "1": NINE[:8]}).read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refusal(path)


@pytest.mark.parametrize("form", FORMATS)
def test_any_damaged_byte_gives_a_value_or_one_line(path, form):
    contents = OrderedDict(a=tensor("0", (3, 3), (3, 1)), b=tensor("1", (2,), count=2))
    whole = save(path, form, contents, {"0": NINE, "1": NINE[:8]}).read_bytes()
    random = np.random.default_rng(0)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            entries = torch_format.read(path)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert sum(array.nbytes for array in entries.values()) < 1 << 20


def test_refuses_archives_that_do_not_hold_what_they_list(path):
    save(path, "zip", {"a": tensor("0", (9,))}, {})
    assert refusal(path) == "damaged: entry 'any folder/data/0' is missing"
    save(path, "zip", {"a": tensor("0", (9,))}, {"0": NINE[:-4]})
    assert refusal(path) == "damaged: storage '0' has 32 bytes, want 36"
    save(path, "zip", {"a": 1}, {}, byteorder=b"big")
    assert refusal(path).startswith("holds big-endian numbers")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "")
    assert refusal(path).startswith("is a ZIP archive with 0 entries <folder>/data.pkl")


def test_refuses_to_inflate_a_small_file_without_end(path):
    size = 80 << 20
    contents = {"a": tensor("0", (size // 4,), count=size // 4)}
    save(path, "zip", contents, {"0": bytes(size)}, method=zipfile.ZIP_DEFLATED)
    assert refusal(path).startswith("refused: it inflates to over")


def test_refuses_old_files_whose_storages_disagree(path):
    contents = {"a": tensor("0", (9,))}
    save(path, "legacy", contents, {"0": NINE}, itemsize=2)
    assert refusal(path) == "damaged: storage '0' has 18 elements, want 9"
    save(path, "legacy", contents, {"0": NINE}, keys=["0", "0"])
    assert refusal(path) == "damaged: it lists 2 storages, its tensors 1"
    save(path, "legacy", contents, {"0": NINE}, keys="0")
    assert refusal(path).startswith("damaged: want a list of storage keys")
    save(path, "legacy", contents, {"0": NINE}, little_endian=False)
    assert refusal(path).startswith("holds big-endian numbers")


def test_refuses_what_is_no_checkpoint(path):
    assert refusal(path.parent).startswith("is not a regular file")
    path.write_bytes(b"")
    assert refusal(path).startswith("is empty")
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert refusal(path).startswith("is no PyTorch checkpoint (it starts with b'version https:")
    np.save(path.with_suffix(".npy"), np.zeros(3))
    assert refusal(path.with_suffix(".npy")).startswith("is no PyTorch checkpoint")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        torch_format.read(path.with_name("nowhere.pth"))


# --------------------------------------------------------------------------------------- writing


def some_entries() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    entries = {
        kind: random.integers(0, 2, (3, 2, 5)).astype(dtype) for kind, dtype in DTYPES.items()
    }
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    return entries | {
        "é.non-contiguous": wide.T[::2],
        "big-endian": wide.astype(">f4"),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float16),
    }


def assert_same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype.newbyteorder("="), name
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name].astype(float), array.astype(float), name)


def test_writes_what_it_reads(path):
    torch_format.write(path, some_entries())
    assert_same(torch_format.read(path), some_entries())
    torch_format.write(path, torch_format.read(path))  # onto the file being read
    assert_same(torch_format.read(path), some_entries())


def test_writes_aligned_storages_and_always_the_same_bytes(path):
    other = path.with_name("other name.pth")
    torch_format.write(path, some_entries())
    torch_format.write(other, some_entries())
    assert path.read_bytes() == other.read_bytes()
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            lengths = struct.unpack_from("<HH", whole, info.header_offset + 26)
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0


def test_large_entries_get_a_zip64_header(path, monkeypatch):
    monkeypatch.setattr(torch_format, "_ZIP64_FROM", 16)
    test_writes_aligned_storages_and_always_the_same_bytes(path)
    assert_same(torch_format.read(path), some_entries())


def test_a_failed_write_leaves_the_old_file_and_no_other(path):
    path.write_bytes(b"old")
    for bad, message in (
        ({"a": np.zeros(3), "b": np.array(["x"])}, "entry 'b' has dtype <U1"),
        (
            {"a": np.zeros(3), 3: np.zeros(3)},
            "entry 3 has no string as its name",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            torch_format.write(path, bad)
        assert os.listdir(path.parent) == ["model.pth"]
        assert path.read_bytes() == b"old"
    with pytest.raises(ValueError, match="is a folder"):
        torch_format.write(path.parent, {})


# ------------------------------------------------------------------------ against the real PyTorch


@pytest.mark.torch
@pytest.mark.parametrize("form", FORMATS)
def test_reads_what_pytorch_saves(path, form):
    torch = pytest.importorskip("torch")
    base = torch.arange(24).reshape(4, 6)
    saved = OrderedDict(
        (str(d), (base % 2).to(getattr(torch, str(d))).T) for d in map(np.dtype, DTYPES.values())
    )
    layer = torch.nn.BatchNorm2d(3)
    saved |= layer.state_dict() | {"shared": saved["float32"][1:3, 1], "scalar": torch.tensor(3.0)}
    saved |= {"parameter": torch.nn.Parameter(torch.ones(2)), "empty": torch.zeros(0, 3)}
    torch.save(saved, path, _use_new_zipfile_serialization=form == "zip")
    got = torch_format.read(path)
    assert list(got) == list(saved)
    for name, value in saved.items():
        assert str(got[name].dtype) == str(value.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got[name].astype(float), value.detach().double().numpy())
    torch.save(layer.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    assert list(torch_format.read(path)) == list(layer.state_dict())
    torch.save(layer, path, _use_new_zipfile_serialization=form == "zip")
    assert "'torch.nn.modules.batchnorm.BatchNorm2d'" in refusal(path)


@pytest.mark.torch
@pytest.mark.parametrize("zip64_from", [16, 1 << 30])
@pytest.mark.parametrize("mapped", [False, True])
def test_pytorch_loads_what_is_written(path, monkeypatch, zip64_from, mapped):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch_format, "_ZIP64_FROM", zip64_from)
    torch_format.write(path, some_entries())
    got = torch.load(path, weights_only=True, mmap=mapped)
    assert isinstance(got, OrderedDict)
    assert list(got) == list(some_entries())
    for name, array in some_entries().items():
        assert str(got[name].dtype).removeprefix("torch.") == str(array.dtype.newbyteorder("="))
        assert got[name].is_contiguous()
        np.testing.assert_array_equal(got[name].double().numpy(), array.astype(float))
