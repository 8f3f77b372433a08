"""convert_weights.py as a user meets it."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from reference import COUNTER, checkpoint, tiny_architecture

import convert_weights
from l2sae_jax import torch_format
from l2sae_jax.checkpoints import FORMAT, describe, load, read_description, write_config
from l2sae_jax.model import AutoencoderConfig
from l2sae_jax.regions import DEFAULT_SLICES
from l2sae_jax.torch_layout import entry_table

ROOT = Path(__file__).parents[1]
ARCHITECTURE = tiny_architecture(patch_discriminator=None)
ENTRIES = checkpoint(
    {COUNTER: (1,)} | {name: entry.shape for name, entry in entry_table(ARCHITECTURE).items()}
)


def run(*arguments) -> int:
    return convert_weights.main(["convert_weights.py", *map(str, arguments)])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A checkpoint file of a tiny network with its image discriminator."""
    path = tmp_path_factory.mktemp("pytorch") / "tiny.pth"
    torch_format.write(path, ENTRIES)
    return path


@pytest.fixture(scope="module")
def model(file):
    """A model directory made from it."""
    directory = file.with_name("model")
    assert run(f"--smn={file}", f"--output={directory}") == 0
    return directory


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The workdir of a training run of an SMPN, which differs from what a file's would be."""
    import orbax.checkpoint as ocp

    path = tmp_path_factory.mktemp("runs") / "smpn"
    path.mkdir()
    config = AutoencoderConfig(
        ARCHITECTURE.encoder,
        ARCHITECTURE.decoder,
        image_size=64,
        slices=((7, 8), *DEFAULT_SLICES[1:]),
        targets="appearance",
        dtype="bfloat16",
    )
    write_config(path, {"format": FORMAT, "smpn": describe(config, ARCHITECTURE)})
    shapes = ARCHITECTURE.parameter_shapes()
    tree = jax.tree.map(lambda leaf: np.full(leaf.shape, 2, np.float32), shapes)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path / "checkpoints" / "3" / "networks", {"smpn": tree})
    return path


def test_there_and_back(model, file, tmp_path, capsys):
    assert run("--to_pytorch", f"--checkpoint={model}", f"--output={tmp_path / 'back'}") == 0
    assert (tmp_path / "back" / "smn.pth").read_bytes() == file.read_bytes()
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'back' / 'smn.pth'}\n"


def test_it_tells_what_it_found(file, tmp_path, capsys):
    assert run(f"--smpn={file}", f"--output={tmp_path / 'model'}") == 0
    printed = capsys.readouterr().out
    assert "image size    48 (structure 12x12x8, style 9)" in printed
    assert "slices        channels 0-1, 2-3, 4-5, 6, 7 decode to masks" in printed
    assert "encoder       3 > 4 > 5, style 6 > 7" in printed
    assert "blur          decoder 1-3-3-1" in printed
    assert "| encoder/style_1/kernel " in printed
    assert f"Wrote smpn in float32 to {tmp_path / 'model'}" in printed


def test_an_smn_and_a_trained_smpn_become_one_model(file, workdir, tmp_path):
    directory = tmp_path / "model"
    paths = [f"--smn={file}", f"--smpn={workdir}", f"--output={directory}"]
    assert run(*paths) == 0
    both = load(directory)
    assert both.mask_reduction == 1
    assert both.smn.config == AutoencoderConfig(
        ARCHITECTURE.encoder, ARCHITECTURE.decoder, image_size=48
    )
    assert both.smpn.config == read_description(workdir).autoencoders["smpn"]
    assert float(both.smpn.encoder["from_rgb"]["bias"][0]) == 2.0

    assert run("--to_pytorch", f"--checkpoint={directory}", f"--output={tmp_path / 'back'}") == 0
    assert (tmp_path / "back" / "smn.pth").read_bytes() == file.read_bytes()
    trained = torch_format.read(tmp_path / "back" / "smpn.pth")
    assert list(trained) == list(ENTRIES)
    assert np.all(trained["G.ToRGB.bias"] == 2) and trained[COUNTER] == [0]

    assert run(*paths, "--mask_reduction=4") == 0
    assert load(directory).mask_reduction == 4


def test_a_network_of_a_model_keeps_its_origin(model, file, tmp_path):
    assert run(f"--smn={model}", f"--output={tmp_path / 'copy'}") == 0
    assert (
        run("--to_pytorch", f"--checkpoint={tmp_path / 'copy'}", f"--output={tmp_path / 'b'}") == 0
    )
    assert (tmp_path / "b" / "smn.pth").read_bytes() == file.read_bytes()


def test_a_model_can_be_rewritten_in_place(file, tmp_path):
    directory = tmp_path / "model"
    assert run(f"--smn={file}", f"--output={directory}") == 0
    assert run(f"--smn={directory}", f"--output={directory}", "--storage=float16") == 0
    description = read_description(directory)
    assert description.read()["smn"]["encoder"]["from_rgb"]["bias"].dtype == np.float16
    assert load(directory).smn.encoder["from_rgb"]["bias"].dtype == np.float32


def test_options_of_a_file(file, tmp_path):
    directory = tmp_path / "model"
    options = ["--joint", "--image_size=64", "--discriminators=false"]
    assert run(f"--smn={file}", f"--output={directory}", *options) == 0
    description = read_description(directory)
    config = description.autoencoders["smn"]
    assert (config.slices, config.targets, config.image_size) == (DEFAULT_SLICES, "appearance", 64)
    assert description.architectures["smn"] == dataclasses.replace(
        ARCHITECTURE, image_discriminator=None
    )


def test_help(capsys):
    assert run("--help") == 0
    assert "--[no]to_pytorch" in capsys.readouterr().out


BAD = {
    "nothing": ([], "give --smn, --smpn or both"),
    "argument": (["x.pth"], "unexpected argument 'x.pth'"),
    "flag": (["--smm=x.pth"], "Unknown command line flag 'smm'"),
    "choice": (["--smn=x", "--storage=int8"], "storage"),
    "no such file": (["--smn={tmp}/none.pth"], "none.pth"),
    "no checkpoint": (["--smn={tmp}/text"], "text: "),
    "no model": (["--smn={tmp}"], "is not a model directory"),
    "other network": (["--smpn={model}"], "holds no smpn, only smn"),
    "joint": (["--smpn={file}", "--joint"], "--joint says how the .pth file"),
    "image size": (["--smn={file}", "--image_size=50"], "multiples of 4 from 28 up"),
    "reduction": (["--smn={file}", "--mask_reduction=3"], "mask_reduction 3: expected 1, 2, 4"),
    "checkpoint": (["--smn={file}", "--checkpoint={model}"], "--checkpoint goes with --to_pytorch"),
    "no source": (["--to_pytorch"], "--checkpoint; give that alone"),
    "to_pytorch of a file": (["--to_pytorch", "--checkpoint={file}"], "is not a model directory"),
}


@pytest.mark.parametrize("arguments, told", BAD.values(), ids=BAD)
def test_bad_input_is_told_in_one_line_and_writes_nothing(
    arguments, told, file, model, tmp_path, capsys
):
    (tmp_path / "text").write_text("not a checkpoint")
    places = {"tmp": tmp_path, "file": file, "model": model}
    arguments = [argument.format(**places) for argument in arguments]
    assert run(*arguments, f"--output={tmp_path / 'output'}") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("convert_weights.py: error: ") and told in line
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_an_output_that_holds_other_things_is_refused(file, model, tmp_path, capsys):
    (tmp_path / "smn.pth").write_text("mine")
    assert run(f"--smn={file}", f"--output={tmp_path}") != 0
    assert "holds something else than a saved model" in capsys.readouterr().err
    assert run("--to_pytorch", f"--checkpoint={model}", f"--output={tmp_path}") != 0
    assert "is not empty" in capsys.readouterr().err
    assert run(f"--smn={file}", f"--output={tmp_path / 'smn.pth'}") != 0
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_the_program_itself(tmp_path):
    command = [sys.executable, "convert_weights.py", "--smn=none.pth", f"--output={tmp_path / 'm'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("convert_weights.py: error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_killed_at_any_moment_leaves_the_old_output_or_the_new(model, workdir, tmp_path):
    output = tmp_path / "model"
    command = [sys.executable, "convert_weights.py", f"--output={output}"]
    sources = {"smn": f"--smn={model}", "smpn": f"--smpn={workdir}"}
    started = time.monotonic()
    subprocess.run([*command, sources["smn"]], cwd=ROOT, check=True, capture_output=True)
    duration = time.monotonic() - started
    generator = random.Random(0)
    for i in range(12):
        wanted = ("smpn", "smn")[i % 2]
        process = subprocess.Popen(
            [*command, sources[wanted]],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # The writing is in the last third of a run.
        time.sleep(generator.uniform(0.6, 1.05) * duration)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        loaded = load(output)
        assert (loaded.smn is None) != (loaded.smpn is None)
    assert run(sources["smn"], f"--output={output}") == 0
    config = json.loads((output / "config.json").read_text())
    assert sorted(path.name for path in output.iterdir()) == ["config.json", config["weights"]]


@pytest.mark.slow
def test_a_first_run_that_is_killed_leaves_no_output(model, tmp_path):
    command = [sys.executable, "convert_weights.py", f"--smn={model}"]
    for i in range(6):
        output = tmp_path / f"model{i}"
        process = subprocess.Popen(
            [*command, f"--output={output}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not list(tmp_path.glob(f".model{i}.*.part/*")):
            time.sleep(0.002)
        time.sleep(0.01 * i)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not output.exists() or load(output).smn is not None
