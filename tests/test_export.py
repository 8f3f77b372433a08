"""Exported edits run without this package, for any batch, and have its pixels."""

import hashlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export
from tiny_models import HEIGHT, IMAGES, WIDTH, separate_networks
from training_runs import environment

import l2sae_jax as l2
from l2sae_jax import windows
from l2sae_jax.export import export_edit, write_exported
from l2sae_jax.pixels import to_images, to_pixels

PIXELS = np.asarray(to_pixels(IMAGES))
KEYS = np.uint32([[0, 7], [0, 8], [3, 9]])
SIZE = HEIGHT, WIDTH


@pytest.fixture(scope="module")
def model():
    return separate_networks()


def assert_same_pixels(found, expected):
    """To rounding, which may tip a value from one level to the next."""
    assert found.dtype == np.uint8 and found.shape == expected.shape
    difference = np.abs(found.astype(int) - np.asarray(expected))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.005


# ---------------------------------------------------------------------------------------------
# What it computes.

_ELSEWHERE = """
import json, pathlib, sys
import jax, numpy as np

file, arrays, results = sys.argv[1:]
edit = jax.jit(jax.export.deserialize(bytearray(pathlib.Path(file).read_bytes())).call)
about = json.loads(pathlib.Path(f"{file}.json").read_text())
given = np.load(arrays)
three = [given[described["name"]] for described in about["inputs"]]
one = [array[:1] if array.shape[:1] == (3,) else array for array in three]
np.savez(results, one=edit(*one), three=edit(*three))
assert "l2sae_jax" not in sys.modules
"""


def test_a_process_without_this_package_gets_its_pixels(model, tmp_path):
    file, arrays, results = (tmp_path / name for name in ("hair.exported", "in.npz", "out.npz"))
    regions, strength = ("hair", "lips"), np.float32([0.6, 0.3])
    write_exported(file, model, "style", regions, "local", by_region=True, size=SIZE)
    np.savez(arrays, pixels=PIXELS, keys=KEYS, strength=strength)
    command = [sys.executable, "-c", _ELSEWHERE, file, arrays, results]
    done = subprocess.run(
        command, env=environment(PYTHONPATH=""), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    keys = jax.random.wrap_key_data(KEYS)
    edited = to_pixels(l2.edit(model, to_images(PIXELS), keys, regions, strength, "local"))
    assert (edited != PIXELS).mean() > 0.1
    with np.load(results) as found:
        assert_same_pixels(found["one"], edited[:1])
        assert_same_pixels(found["three"], edited)


@pytest.mark.parametrize("mode", ["structure", "swap"])
def test_other_modes_have_the_pixels_of_their_functions(model, mode):
    how = {"harmonise": mode == "swap"}
    exported = export_edit(model, mode, ("hair",), size=SIZE, platforms=("cpu",), **how)
    figure = np.float32(0.4)
    if mode == "structure":
        found = exported.call(PIXELS, np.tile(KEYS[:1], (3, 1)), figure)
        expected = l2.edit_structure(model, to_images(PIXELS), jax.random.key(7), ("hair",), figure)
    else:
        found = exported.call(PIXELS, PIXELS[::-1], figure)
        images = to_images(PIXELS)
        expected = l2.swap(model, images, images[::-1], ("hair",), figure, **how)
    assert_same_pixels(np.asarray(found), to_pixels(expected))


@pytest.mark.slow
def test_windows_of_large_pictures_are_exported(model, monkeypatch):
    monkeypatch.setattr(windows, "_SMALLEST_IMAGE", 16)
    jax.clear_caches()
    exported = export_edit(model, "style", ("eyes",), "local", size=SIZE)
    assert exported.mlir_module().count("stablehlo.case") > 1
    edited = to_pixels(
        l2.edit(model, to_images(PIXELS), jax.random.key(7), ("eyes",), 0.6, "local")
    )
    for count in (1, 3):
        keys = np.tile(KEYS[:1], (count, 1))
        found = jax.jit(exported.call)(PIXELS[:count], keys, np.float32(0.6))
        assert_same_pixels(np.asarray(found), edited[:count])


# ---------------------------------------------------------------------------------------------
# What is written.


def test_the_description_says_what_the_file_takes_and_gives(model, tmp_path):
    file = tmp_path / "lips.exported"
    write_exported(file, model, "swap", ("lips",), size=SIZE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, f"{file.name}.json"]
    about = json.loads((tmp_path / "lips.exported.json").read_text())
    assert about["made_by"] == f"l2sae_jax {l2.__version__}, JAX {jax.__version__}"
    assert about["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (about["mode"], about["regions"], about["blend"]) == ("swap", ["lips"], "paper")
    assert about["framing"] == {"side": 1.0, "raised": 0.0}
    exported = export.deserialize(bytearray(file.read_bytes()))
    assert tuple(about["platforms"]) == exported.platforms == ("cpu", "cuda")
    pictures = ["b", HEIGHT, WIDTH, 3]
    described = [(array["name"], array["dtype"], array["shape"]) for array in about["inputs"]]
    assert described == [
        ("pixels", "uint8", pictures),
        ("style_pixels", "uint8", pictures),
        ("amount", "float32", []),
    ]
    assert about["output"]["shape"] == pictures
    for array, aval in zip(about["inputs"], exported.in_avals, strict=True):
        assert [str(size) for size in aval.shape] == [str(size) for size in array["shape"]]


def test_pictures_are_of_the_models_own_size_unless_said(model):
    shapes = [aval.shape for aval in export_edit(model).in_avals]
    assert [str(shape) for shape in shapes] == ["(b, 16, 16, 3)", "(b, 2)", "()"]
    by_region = export_edit(model, "swap", ("hair", "eyes"), by_region=True)
    assert by_region.in_avals[2].shape == (2,)


def test_what_cannot_be_written_leaves_nothing_behind(model, tmp_path):
    (tmp_path / "taken").mkdir()
    for file in (tmp_path / "taken", tmp_path / "missing" / "hair"):
        with pytest.raises(ValueError, match=r"(taken|hair): cannot be written \(.+\)$"):
            write_exported(file, model)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sketch"}, "no export for mode 'sketch': choose from style, structure, swap"),
        ({"platforms": ("gpu",)}, "no export for platform 'gpu': choose from cpu, cuda, rocm, tpu"),
        ({"regions": ("hare",)}, "unknown region 'hare': choose from .*"),
        ({"regions": "hair"}, "regions must be a tuple of names .*"),
        ({"blend": "soft"}, "unknown blend 'soft': choose from paper, local"),
        ({"size": 64}, r"size 64: expected \(height, width\)"),
        ({"size": (64, 63)}, "images of width 63: this network reads multiples of 2 .*"),
    ],
)
def test_wrong_options_are_named(model, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        export_edit(model, **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="model of type str: expected an L2SAE"):
        export_edit("models/mine")
