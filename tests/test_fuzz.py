"""Whatever it is given, `edit.py` ends with a line or a result: no traceback, nothing half-written.

`pytest -m slow tests/test_fuzz.py` gives it 2,000 files; every run of the tests gives it fewer.
"""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from PIL import Image

import edit as program

SUFFIXES = (".png", ".jpg", ".gif", ".bmp", ".tif", ".webp")
FORMATS = {
    ".png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    ".jpg": ("RGB", "L", "CMYK"),
    ".gif": ("P", "L"),
    ".bmp": ("RGB", "L", "P", "1"),
    ".tif": ("RGB", "RGBA", "L", "CMYK", "F", "I;16", "1", "LAB"),
    ".webp": ("RGB", "RGBA"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny")


# ------------------------------------------------------------------------------------------- files


def picture(generator: np.random.Generator, suffix: str, **options) -> bytes:
    """A valid file of a random mode and size."""
    mode = str(generator.choice(FORMATS[suffix]))
    height, width = generator.integers(1, 40, 2)
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.new(mode, (int(width), int(height)))
    else:
        image = Image.fromarray(pixels).convert(mode)
    if generator.random() < 0.3 and suffix in (".jpg", ".png", ".webp", ".tif"):
        exif = Image.Exif()
        exif[0x0112] = int(generator.integers(0, 20))
        options["exif"] = exif
    if generator.random() < 0.2:
        options["icc_profile"] = generator.bytes(int(generator.integers(0, 300)))
    file = io.BytesIO()
    image.save(file, format=Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def truncated(generator, suffix):
    data = picture(generator, suffix)
    return data[: generator.integers(0, len(data))]


def flipped(generator, suffix):
    data = bytearray(picture(generator, suffix))
    for place in generator.integers(0, len(data), generator.integers(1, 12)):
        data[place] = generator.integers(0, 256)
    return bytes(data)


def noise(generator, suffix):
    return generator.bytes(int(generator.integers(0, 400)))


def headed_noise(generator, suffix):
    return picture(generator, suffix)[: generator.integers(4, 40)] + noise(generator, suffix)


def animated(generator, suffix):
    frames = [Image.fromarray(generator.integers(0, 256, (9, 7, 3), np.uint8)) for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def bomb(generator, suffix):
    """A PNG that says it is huge, and whose data unpack to a hundred megabytes of nothing."""
    width, height = (int(2 ** generator.integers(10, 31)) for _ in range(2))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", _ZEROS), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


_ZEROS = zlib.compress(bytes(100_000_000), 1)


def zero_sized(generator, suffix):
    data = bytearray(picture(generator, ".bmp"))
    place = 18 if generator.random() < 0.5 else 22  # its width or its height
    data[place : place + 4] = bytes(4)
    return bytes(data)


KINDS: tuple[Callable, ...] = (
    picture,
    truncated,
    truncated,
    flipped,
    flipped,
    flipped,
    noise,
    headed_noise,
    animated,
    bomb,
    zero_sized,
)


def write_files(folder: Path, count: int, seed: int) -> None:
    """Generated files; their suffixes are right for some."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(count):
        suffix, named = generator.choice(SUFFIXES, 2)
        named = suffix if generator.random() < 0.7 else named
        data = KINDS[i % len(KINDS)](generator, str(suffix))
        (folder / f"{i:05}{named}").write_bytes(data)


LIMITED_MEMORY = ["sh", "-c", 'ulimit -d 6000000; exec "$@"', "sh"]  # in kilobytes


@pytest.mark.parametrize("count", [66, pytest.param(2_000, marks=pytest.mark.slow)])
def test_files_of_all_kinds_are_edited_or_named(tmp_path, model, count):
    write_files(tmp_path / "files", count, seed=count)
    done = subprocess.run(
        [
            *LIMITED_MEMORY,
            sys.executable,
            program.__file__,
            "files",
            f"--checkpoint={model}",
            "--align=off",
            "--output=out",
            "--batch_size=16",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 1, done.stderr[-2000:]
    said = [line for line in done.stderr.replace("\r", "\n").splitlines() if "image/s" not in line]
    said = [line for line in said if line.strip()]
    assert all(line.startswith("edit.py: skipped files/") for line in said), said
    found = json.loads((tmp_path / "out" / "manifest.json").read_text())["images"]
    assert len({entry["file"] for entry in found}) == len(found) == count
    edited = [entry for entry in found if "skipped" not in entry]
    assert len(said) == count - len(edited) and count / 20 < len(edited) < count
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in written if name.startswith(".") or "partial" in name]
    for entry in edited:
        for result in entry["results"]:
            with Image.open(tmp_path / "out" / result["file"]) as image:
                image.load()
    assert len([name for name in written if "_hair_" in name and "mask" not in name]) == len(edited)


# ------------------------------------------------------------------------------- flags, manifests

VALUES = """
0 1 2 -1 nan inf 1e999 0.5 hair hair=0.5 hair=,= = hair,lips hare auto middle off all largest style
swap segment paper photos missing photos/a.png -- true png 300000000
""".split()
VALUES += ["", "\x00", "é" * 300, "9" * 40]
FLAGS = "mode regions separately strength samples seed style_reference amount frames blend align "
FLAGS = [*(FLAGS + "face output format grid resume harmonise checkpoint batch_size x").split()]


@pytest.mark.parametrize("count", [60, pytest.param(1_500, marks=pytest.mark.slow)])
def test_flags_of_all_kinds_are_used_or_named(tmp_path, model, monkeypatch, capsys, count):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(count)
    save_photo(tmp_path / "photos" / "a.png")
    before = (tmp_path / "photos" / "a.png").read_bytes()
    for _ in range(count):
        chosen = generator.choice(FLAGS, generator.integers(1, 4), replace=False)
        arguments = [f"--{name}={generator.choice(VALUES)}" for name in chosen]
        told = [f"--checkpoint={model}", "--align=off", "--output=out", "--batch_size=1"]
        code = program.main(["edit.py", "photos", *told, *arguments])
        said = capsys.readouterr().err
        assert code in (0, 1, 2), arguments
        if code:
            lines = [line for line in said.splitlines() if line.startswith("edit.py: ")]
            assert lines and "Traceback" not in said, (arguments, said)
        assert (tmp_path / "photos" / "a.png").read_bytes() == before
        assert not [path for path in tmp_path.rglob(".*partial")]


def save_photo(path: Path) -> None:
    path.parent.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)


@pytest.mark.parametrize("count", [40, pytest.param(1_000, marks=pytest.mark.slow)])
def test_damaged_manifests_are_gone_on_from_or_named(tmp_path, model, monkeypatch, capsys, count):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(count)
    save_photo(tmp_path / "photos" / "a.png")
    call = ["edit.py", "photos", f"--checkpoint={model}", "--align=off", "--output=out"]
    assert program.main(call) == 0
    whole = Path("out/manifest.json").read_bytes()
    shutil.copytree("out", "first")
    for _ in range(count):
        data = bytearray(whole)
        if generator.random() < 0.3:
            data = data[: generator.integers(0, len(data))]
        for place in generator.integers(0, max(1, len(data)), generator.integers(1, 6)):
            if place < len(data):
                data[place] = generator.choice(list(b'{}[]":,0a\x00\xff'))
        Path("out/manifest.json").write_bytes(data)
        capsys.readouterr()
        code = program.main([*call, "--resume"])
        said = capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in said
        if code == 2:
            assert said.startswith("edit.py: error: out/manifest.json cannot be resumed from")
            assert Path("out/manifest.json").read_bytes() == data
        else:
            found = json.loads(Path("out/manifest.json").read_text())["images"]
            assert [entry["file"] for entry in found] == ["photos/a.png"]
    assert sorted(os.listdir("out")) == sorted(os.listdir("first"))
