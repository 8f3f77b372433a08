"""The bridge to PyTorch checkpoints, held against the published models' manifests."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from reference import COUNTER, buffer, checkpoint, load_manifests, tiny_architecture

from l2sae_jax import checkpoints, torch_format
from l2sae_jax.convert import (
    infer_architecture,
    open_network,
    read_entries,
    save_networks,
    write_pytorch,
)
from l2sae_jax.nn import (
    Architecture,
    published_decoder,
    published_encoder,
    published_image_discriminator,
    published_patch_discriminator,
)
from l2sae_jax.torch_layout import describe_origin, entry_table, to_entries, to_parameters

MANIFESTS = load_manifests()
PREFIXES = {
    "encoder": "E.",
    "decoder": "G.",
    "image_discriminator": "D.",
    "patch_discriminator": "Dpatch.",
}


def tiny_entries(architecture: Architecture | None = None) -> dict[str, np.ndarray]:
    table = entry_table(architecture or tiny_architecture())
    return checkpoint({COUNTER: (1,)} | {name: entry.shape for name, entry in table.items()})


def manifest_entries(family: str) -> dict[str, np.ndarray]:
    """Entries of a family without the memory: zeros that all share one number."""
    return {
        name: buffer(name, shape)
        if name.endswith("kernel")
        else np.broadcast_to(np.float32(0), shape)
        for name, shape in MANIFESTS[family]["entries"].items()
    }


def published(options: dict) -> Architecture:
    """The architecture that the original code builds from these options."""
    codes = {
        "structure_channels": options.get("spatial_code_ch", 8),
        "style_channels": options.get("global_code_ch", 2048),
    }
    levels = options.get("netE_num_downsampling_sp", 4)
    return Architecture(
        published_encoder(
            downsamplings=levels,
            capacity=options.get("netE_scale_capacity", 1.0),
            steepness=options.get("netE_nc_steepness", 2.0),
            **codes,
        ),
        published_decoder(
            upsamplings=levels, capacity=options.get("netG_scale_capacity", 1.0), **codes
        ),
        published_image_discriminator(
            options["crop_size"], capacity=options.get("netD_scale_capacity", 1.0)
        ),
        published_patch_discriminator(
            options.get("patch_size", 128),
            capacity=options.get("netPatchD_scale_capacity", 4.0),
            max_width=options.get("netPatchD_max_nc", 384),
        ),
    )


def assert_same_entries(found, expected):
    """Names in order, dtypes, shapes and bits."""
    assert list(found) == list(expected)
    for name in expected:
        ours, theirs = found[name], np.asarray(expected[name])
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert ours.tobytes() == theirs.tobytes(), name


# ------------------------------------------------------------------------------------ architecture


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("small_64", "l2s_128") else [])
        for name in MANIFESTS
    ],
)
def test_published_families_are_inferred(family):
    manifest = MANIFESTS[family]
    architecture = infer_architecture(manifest_entries(family))
    assert architecture == published(manifest["options"])
    table = entry_table(architecture)
    assert [COUNTER, *table] == list(manifest["entries"])
    for network, prefix in PREFIXES.items():
        ours = [entry.ours for entry in table.values() if entry.path and entry.path[0] == network]
        assert sum(map(math.prod, ours)) == manifest["params"][prefix[:-1]]


@pytest.mark.parametrize("left_out", [("D.",), ("Dpatch.",), ("D.", "Dpatch.")])
def test_discriminators_are_optional(left_out):
    entries = tiny_entries()
    kept = {name: entries[name] for name in entries if not name.startswith(left_out)}
    absent = [network for network, prefix in PREFIXES.items() if prefix in left_out]
    assert infer_architecture(kept) == tiny_architecture(**dict.fromkeys(absent))


def test_one_tap_means_no_antialiasing():
    networks = tiny_architecture()
    plain = {
        name: dataclasses.replace(getattr(networks, name), taps=(1,)) for name in networks.present()
    }
    architecture = tiny_architecture(**plain)
    assert infer_architecture(tiny_entries(architecture)) == architecture


@pytest.mark.parametrize("resolution", [8, 32, 24, 512, 768])
def test_resolution_of_the_discriminator(resolution):
    levels = (resolution - 1).bit_length() - 1
    config = dataclasses.replace(
        tiny_architecture().image_discriminator, resolution=resolution, widths=(2,) * levels
    )
    architecture = tiny_architecture(image_discriminator=config, patch_discriminator=None)
    assert infer_architecture(tiny_entries(architecture)) == architecture


def test_all_that_does_not_fit_is_listed_in_one_line():
    entries = tiny_entries()
    del entries["E.FromRGB.Act.bias"], entries["G.HeadResnetBlock1.conv2.conv.weight"]
    entries["E.extra.weight"] = entries["optimizer"] = np.zeros(3, np.float32)
    entries["E.ToSpatialCode.1.Conv.weight"] = np.zeros((7, 5, 1, 1), np.float32)
    entries["D.stylegan2_D.final_linear.0.weight"] = np.zeros((6, 5), np.float32)
    entries["E.DownToSpatialCode.ResBlockDownBy2.skip.Blur.kernel"] = np.ones((3, 3), np.float32)
    entries["G.ToRGB.bias"] = np.zeros((1, 3, 1, 1), np.int64)
    with pytest.raises(ValueError) as error:
        infer_architecture(entries)
    assert str(error.value) == (
        "2 missing: E.FromRGB.Act.bias, G.HeadResnetBlock1.conv2.conv.weight; "
        "2 unexpected: E.extra.weight, optimizer; "
        "2 misshapen: E.ToSpatialCode.1.Conv.weight is 7x5x1x1, expected 8x5x1x1, "
        "D.stylegan2_D.final_linear.0.weight is 6x5, expected 6x64; "
        "1 not floating point: G.ToRGB.bias (int64); "
        "1 other blur than expected: E.DownToSpatialCode.ResBlockDownBy2.skip.Blur.kernel"
    )


def test_half_a_discriminator_is_an_error_that_names_the_other_half():
    entries = tiny_entries()
    half = [name for name in entries if name.startswith("D.stylegan2_D.final")]
    kept = {name: entries[name] for name in entries if name not in half}
    with pytest.raises(ValueError, match=f"^{len(half)} missing: {', '.join(half)}$"):
        infer_architecture(kept)


def test_a_missing_block_is_listed():
    entries = tiny_entries()
    block = [name for name in entries if ".ResBlockDownBy1." in name]
    kept = {name: entries[name] for name in entries if name not in block}
    with pytest.raises(ValueError, match=f"^{len(block)} missing: {', '.join(block)}$"):
        infer_architecture(kept)


def test_misnamed_blocks_cannot_ask_for_millions():
    name = "G.HeadResnetBlock99999999999.conv1.noise.weight"
    with pytest.raises(ValueError, match=f"^1 unexpected: {name}$"):
        infer_architecture(tiny_entries() | {name: np.zeros(1, np.float32)})


def test_absurd_sizes_are_misshapen():
    entries = tiny_entries()
    entries["E.FromRGB.Conv.weight"] = np.empty((2**40, 0, 1, 1), np.float32)
    with pytest.raises(
        ValueError, match=r"^1 misshapen: E\.FromRGB\.Conv\.weight is 1099511627776x0"
    ):
        infer_architecture(entries)


@pytest.mark.parametrize("kept, told", [("x", "E.* and G.*"), ("E.", "G.*"), ("G.", "E.*")])
def test_other_networks_are_told_apart(kept, told):
    entries = tiny_entries() | {"x.weight": np.zeros(1, np.float32)}
    with pytest.raises(ValueError) as error:
        infer_architecture({n: entries[n] for n in entries if n.startswith(kept)})
    assert str(error.value).startswith(f"no entries {told}: not a checkpoint of a Swapping")


# -------------------------------------------------------------------------------- layout and values


def test_layouts():
    entries = tiny_entries()
    parameters = to_parameters(entries, tiny_architecture())
    np.testing.assert_array_equal(
        parameters["encoder"]["style_0"]["kernel"],
        entries["E.DownToGlobalCode.ConvLayerDownBy4.Conv.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        parameters["decoder"]["up_1"]["conv1"]["kernel"],
        entries["G.UpsamplingResBlock32.conv1.conv.weight"][0].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        parameters["decoder"]["head_0"]["conv2"]["style"]["modulation"]["kernel"],
        entries["G.HeadResnetBlock0.conv2.conv.modulation.weight"].T,
    )
    np.testing.assert_array_equal(
        parameters["patch_discriminator"]["pair_0"]["kernel"],
        entries["Dpatch.pairlinear.0.weight"].T,
    )
    np.testing.assert_array_equal(
        parameters["decoder"]["to_rgb"]["bias"], entries["G.ToRGB.bias"].reshape(3)
    )
    shapes = tiny_architecture().parameter_shapes()
    assert jax.tree.map(np.shape, dict(parameters)) == jax.tree.map(np.shape, shapes)


def test_only_the_network_asked_for_is_read():
    entries, read = tiny_entries(), []

    class Recorded(dict):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    to_parameters(Recorded(entries), tiny_architecture())["decoder"]
    assert {name.split(".")[0] for name in read} == {"G"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_entries_return_bit_for_bit(dtype):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    entries = tiny_entries()
    entries |= {name: entries[name].astype(dtype) for name in entries if name != COUNTER}
    architecture = infer_architecture(entries)
    origin = describe_origin(entries)
    returned = to_entries(to_parameters(entries, architecture), architecture, origin)
    assert_same_entries(returned, entries)


def test_counter_and_single_dtypes_are_kept():
    entries = tiny_entries()
    entries["G.ToRGB.upsample.kernel"] = entries["G.ToRGB.upsample.kernel"].astype(np.float16)
    entries[COUNTER] = np.array([123456], np.int32)
    architecture = infer_architecture(entries)
    origin = describe_origin(entries)
    assert origin["dtypes"] == {"G.ToRGB.upsample.kernel": "float16"}
    returned = to_entries(to_parameters(entries, architecture), architecture, origin)
    assert_same_entries(returned, entries)


def test_entries_may_come_in_any_order_and_return_in_pytorchs():
    entries = tiny_entries()
    shuffled = {name: entries[name] for name in reversed(entries)}
    architecture = infer_architecture(shuffled)
    parameters = to_parameters(shuffled, architecture)
    assert_same_entries(to_entries(parameters, architecture, describe_origin(shuffled)), entries)


def test_an_absent_counter_stays_absent():
    entries = tiny_entries()
    del entries[COUNTER]
    architecture = infer_architecture(entries)
    origin = describe_origin(entries)
    assert origin == {}
    assert_same_entries(
        to_entries(to_parameters(entries, architecture), architecture, origin), entries
    )


def test_a_model_never_in_pytorch_gets_a_counter_of_zero():
    architecture = tiny_architecture()
    entries = tiny_entries()
    returned = to_entries(to_parameters(entries, architecture), architecture)
    assert_same_entries(returned, entries | {COUNTER: np.zeros(1, np.int64)})


# -------------------------------------------------------------------------------------------- files


def test_a_prefix_of_all_names_is_stripped(tmp_path):
    entries = tiny_entries()
    torch_format.write(tmp_path / "a.pth", {f"module.{name}": entries[name] for name in entries})
    assert_same_entries(read_entries(tmp_path / "a.pth"), entries)


def test_values_that_are_not_finite_are_named(tmp_path):
    entries = tiny_entries()
    entries["E.FromRGB.Act.bias"][1] = np.nan
    entries["G.ToRGB.bias"] = np.full((1, 3, 1, 1), 1e300)
    torch_format.write(tmp_path / "a.pth", entries)
    with pytest.raises(ValueError, match=r"a\.pth: 2 with values .*: E\.FromRGB\.Act\.bias, G\.To"):
        open_network(tmp_path / "a.pth", "smn")


def test_float64_that_float32_rounds_is_warned_of(tmp_path):
    entries = tiny_entries()
    entries["E.FromRGB.Act.bias"] = np.array([0.1, 0.2, 0.3])
    entries["G.ToRGB.bias"] = np.array([0.5, 0.25, 1.0]).reshape(1, 3, 1, 1)
    torch_format.write(tmp_path / "a.pth", entries)
    (warning,) = open_network(tmp_path / "a.pth", "smn").warnings
    assert "E.FromRGB.Act.bias" in warning


def test_file_to_model_to_file(tmp_path):
    entries = tiny_entries()
    torch_format.write(tmp_path / "a.pth", entries)
    save_networks(tmp_path / "model", {"smn": open_network(tmp_path / "a.pth", "smn")})
    (file,) = write_pytorch(tmp_path / "model", tmp_path / "back")
    assert_same_entries(torch_format.read(file), entries)
    assert file.read_bytes() == (tmp_path / "a.pth").read_bytes()


@pytest.fixture
def both(tmp_path):
    """A model directory with an SMN and an SMPN."""
    torch_format.write(tmp_path / "a.pth", tiny_entries())
    networks = {name: open_network(tmp_path / "a.pth", name) for name in ("smn", "smpn")}
    save_networks(tmp_path / "model", networks)
    return tmp_path / "model"


@pytest.mark.parametrize("exists", [True, False])
def test_a_run_killed_between_two_files_leaves_none_and_can_be_repeated(
    both, tmp_path, monkeypatch, exists
):
    back = tmp_path / "back"
    if exists:
        back.mkdir()
    write = torch_format.write

    def killed_at_the_second(path, entries):
        if path.name == "smpn.pth":
            raise KeyboardInterrupt
        write(path, entries)

    with monkeypatch.context() as patch:
        # A process that is killed cleans nothing up.
        patch.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(torch_format, "write", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            write_pytorch(both, back)
    assert not list(back.glob("*.pth"))
    assert len(list(tmp_path.rglob(".back.*.part"))) == 1
    write_pytorch(both, back)
    assert sorted(path.name for path in back.iterdir()) == ["smn.pth", "smpn.pth"]
    assert not list(tmp_path.rglob(".back.*.part"))


@pytest.mark.parametrize("name", ["smn.pth", ".hidden", ".back.part", ".other.01234567.part"])
def test_an_output_that_holds_something_is_refused(both, tmp_path, name):
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / name).write_text("mine")
    with pytest.raises(ValueError, match="back is not empty; give a new or empty folder"):
        write_pytorch(both, tmp_path / "back")
    assert [path.read_text() for path in (tmp_path / "back").iterdir()] == ["mine"]


def test_float16_storage_refuses_what_it_cannot_hold(tmp_path):
    entries = tiny_entries()
    entries["E.FromRGB.Act.bias"][1] = 1e5
    torch_format.write(tmp_path / "a.pth", entries)
    network = open_network(tmp_path / "a.pth", "smn")
    with pytest.raises(ValueError, match=r"encoder\.from_rgb\.bias has values beyond float16"):
        save_networks(tmp_path / "model", {"smn": network}, "float16")
    assert not (tmp_path / "model").exists()


@pytest.mark.torch
@pytest.mark.parametrize("new_format", [True, False])
def test_torch_writes_what_we_read_and_reads_what_we_write(tmp_path, new_format):
    torch = pytest.importorskip("torch")
    entries = tiny_entries()
    tensors = {name: torch.from_numpy(values) for name, values in entries.items()}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
    save_networks(tmp_path / "model", {"smpn": open_network(tmp_path / "a.pth", "smpn")})
    (file,) = write_pytorch(tmp_path / "model", tmp_path / "back")
    returned = torch.load(file, weights_only=True)
    assert_same_entries({name: tensor.numpy() for name, tensor in returned.items()}, entries)


# The process's own peak: `getrusage` would count what its parent held when it was started.
_MEASURED = """
import sys
import convert_weights
code = convert_weights.main(["convert_weights.py", *sys.argv[1:]])
status = dict(line.split(":") for line in open("/proc/self/status"))
print("peak", int(status["VmHWM"].split()[0]) * 1024)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_memory_stays_below_one_and_a_half_checkpoints(tmp_path):
    # The whole process counts, some 250 MB of which are Python and JAX: 1.0 to 1.3 was measured.
    file, model = tmp_path / "ffhq512.pth", tmp_path / "model"
    torch_format.write(file, checkpoint(MANIFESTS["ffhq512"]["entries"]))
    for arguments in (
        [f"--smn={file}", f"--output={model}"],
        ["--to_pytorch", f"--checkpoint={model}", f"--output={tmp_path / 'back'}"],
    ):
        root = Path(__file__).parents[1]
        command = [sys.executable, "-c", _MEASURED, *arguments]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        peak = int(done.stdout.split()[-1])
        assert peak < 1.5 * file.stat().st_size
    assert (tmp_path / "back" / "smn.pth").read_bytes() == file.read_bytes()
