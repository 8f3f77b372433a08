"""Dry runs of `configs/smoke.py`: what they tell, what they find, and that they leave nothing."""

import importlib.util
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn_release import write_release
from tiny_models import ARCHITECTURE, autoencoder
from training_runs import ROOT, load_config, smoke_config

from l2sae_jax.checkpoints import save_model
from l2sae_jax.training import dry_run, rehearsal, train_and_evaluate
from l2sae_jax.training.checkpointing import only_run_in
from l2sae_jax.training.memory import MemoryUse

# Without discriminators there is one kind of step to compile.
ALONE = {"objective.gan": 0.0, "objective.patch": 0.0}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """Folder of a release with 60 faces, 56 of them to train on and 3 to validate with."""
    return write_release(tmp_path_factory.mktemp("source"), range(60))


def unrecorded(release: Path, data_dir: Path):
    """A config of whose data no records were made yet."""
    data = {
        "data.name": "celebamask_hq",
        "data.source": str(release),
        "data.data_dir": str(data_dir),
    }
    return smoke_config(**ALONE, **data)


@pytest.fixture
def compiles_nothing(monkeypatch):
    """Gives every step a gigabyte, of the two that the device has."""

    def uses(*arguments):
        return {"generator": MemoryUse(400_000_000, 600_000_000)}

    monkeypatch.setattr(rehearsal, "memory_use", uses)
    monkeypatch.setattr(rehearsal, "evaluation_memory_use", lambda *_: {})
    monkeypatch.setattr(rehearsal, "device_memory", lambda: 2_000_000_000)


def told(capsys) -> dict[str, str]:
    """What was printed, by its subject."""
    lines = capsys.readouterr().out.splitlines()
    return {line[:10].strip(): line[11:] for line in lines}


def test_a_dry_run_tells_what_a_run_takes_and_writes_nothing(release, tmp_path, capsys):
    dry_run(unrecorded(release, tmp_path / "records"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []

    lines = told(capsys)
    assert lines["config"].startswith("smn at 32 px in float32, 32 images in 8 batches of 4, on 1")
    assert lines["data"].startswith("56 images an epoch, 0.6 epochs; 3 images to validate")
    assert lines["labels"].startswith("of the pixels of 4 images hair ")
    assert lines["records"].startswith("to be made of 60 images in ")
    assert lines["networks"].startswith("4,125 parameters: encoder 1,642, decoder 2,483")
    assert lines["start"] == "every network fresh: config.init_from is empty"
    # Parameters, their average, and two moments.
    assert "a checkpoint takes 0.1 MB, 2 are kept" in lines["workdir"]
    assert all(f"{step} " in lines["memory"] for step in ("generator", "validation", "grid"))
    assert lines["dry run"] == "nothing stands in the way; nothing was written"


@pytest.mark.usefixtures("compiles_nothing")
def test_it_says_from_where_a_run_starts(tmp_path, capsys):
    networks = {"encoder": autoencoder(0).encoder, "decoder": autoencoder(0).decoder}
    save_model(
        tmp_path / "model",
        {"smn": autoencoder(0).config},
        {"smn": ARCHITECTURE},
        {"smn": networks},
    )
    config = smoke_config("smpn", init_from=str(tmp_path / "model"))
    with pytest.raises(ValueError, match="its smn has another encoder than config.networks.enc"):
        dry_run(config, tmp_path / "run")
    capsys.readouterr()
    config.networks.encoder = dict(
        widths=(3, 4), structure_channels=8, style_widths=(5,), style_channels=6
    )
    config.networks.decoder = dict(
        structure_channels=8, style_channels=6, head_widths=(5,), up_widths=(4,)
    )
    dry_run(config, tmp_path / "run")
    fresh = "fresh: image_discriminator, patch_discriminator"
    assert told(capsys)["start"] == f"encoder, decoder from {tmp_path / 'model'}; {fresh}"

    with only_run_in(tmp_path / "run", config):
        (tmp_path / "run" / "checkpoints" / "8").mkdir(parents=True)
    config.dry_run = True
    dry_run(config, tmp_path / "run")
    assert told(capsys)["start"] == f"checkpoint 8 in {tmp_path / 'run'}"
    assert not json.loads((tmp_path / "run" / "train_config.json").read_text())["dry_run"]


def no_release(tmp_path, config, monkeypatch):
    config.data.source = str(tmp_path / "nowhere.zip")


def damaged_picture(tmp_path, config, monkeypatch):
    shutil.copytree(config.data.source, tmp_path / "release")
    config.data.source = str(tmp_path / "release")
    for picture in (tmp_path / "release").glob("CelebA-HQ-img/*.jpg"):
        picture.write_bytes(picture.read_bytes()[:40])


def unknown_label(tmp_path, config, monkeypatch):
    example = {"image": np.zeros((32, 32, 3), np.uint8), "labels": np.full((32, 32), 19, np.uint8)}
    monkeypatch.setattr(rehearsal, "open_source", lambda *_, **__: [example | {"id": 7}] * 8)


def other_size(tmp_path, config, monkeypatch):
    example = {"image": np.zeros((24, 32, 3), np.uint8), "labels": np.zeros((32, 32), np.uint8)}
    monkeypatch.setattr(rehearsal, "open_source", lambda *_, **__: [example | {"id": 7}] * 8)


def wrong_resolution(tmp_path, config, monkeypatch):
    config.objective.gan, config.data.size = 1.0, 48


def too_few_to_validate(tmp_path, config, monkeypatch):
    monkeypatch.setattr(rehearsal, "make_mesh", lambda: namedtuple("Mesh", "size devices")(4, None))
    monkeypatch.setattr(rehearsal, "_describe_run", lambda *_: "")
    config.batch_size = 16


def file_in_the_way(tmp_path, config, monkeypatch):
    (tmp_path / "run").write_text("")


def full_disk(tmp_path, config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(100_000))


def little_room_for_checkpoints(tmp_path, config, monkeypatch):
    config.keep_checkpoints = 10**12


def a_saved_model(tmp_path, config, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"weights": "weights-00000000"}')


def another_run(tmp_path, config, monkeypatch):
    with only_run_in(tmp_path / "run", smoke_config(seed=1)):
        pass


def small_device(tmp_path, config, monkeypatch):
    monkeypatch.setattr(rehearsal, "device_memory", lambda: 900_000_000)


@pytest.mark.usefixtures("compiles_nothing")
@pytest.mark.parametrize(
    ("mishap", "message"),
    [
        (no_release, "nowhere.zip: no such file or folder"),
        (damaged_picture, "CelebA-HQ-img/.*jpg"),
        (unknown_label, "training image 7 has a label 19: expected 0 to 18"),
        (other_size, r"training image 7 is \(24, 32, 3\), .* expected 32 x 32 pixels"),
        (wrong_resolution, "image_discriminator.resolution 32 is not config.data.size 48"),
        (too_few_to_validate, "config.evaluate_images: 3 images are fewer than 4 devices"),
        (file_in_the_way, "run cannot be written: Not a directory"),
        (full_disk, "has 0.1 MB free, and making the records takes 0.* MB: make room, or give"),
        (little_room_for_checkpoints, "more checkpoints take .*: make room, or lower config.keep"),
        (a_saved_model, "holds a saved model: give another folder as workdir"),
        (another_run, "was trained with config.data.*use the config it was trained with"),
        (small_device, "generator step needs 1.0 GB on each device, which has 900.0 MB: try conf"),
    ],
)
def test_what_stands_in_the_way_is_told_in_a_line(mishap, message, release, tmp_path, monkeypatch):
    config = unrecorded(release, tmp_path / "records")
    mishap(tmp_path, config, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match=message) as caught:
        dry_run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("compiles_nothing")
def test_a_run_that_is_going_on_is_told(tmp_path):
    with (
        only_run_in(tmp_path / "run", smoke_config()),
        pytest.raises(ValueError, match="another process is training in"),
    ):
        dry_run(smoke_config(), tmp_path / "run")


@pytest.mark.usefixtures("compiles_nothing")
def test_the_program_ends_with_0_or_with_a_line_and_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("train_program", ROOT / "train.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    config = ROOT / "configs" / "smoke.py"
    argv = ["train.py", f"--config={config}:joint", "--workdir=run", "--config.dry_run"]
    monkeypatch.setattr(sys, "argv", argv)  # where config_flags looks for the fields' flags
    assert program.main(argv) == 0
    assert told(capsys)["dry run"].startswith("nothing stands in the way")
    monkeypatch.setattr(rehearsal, "device_memory", lambda: 0)
    assert program.main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: the generator step needs 1.0 GB")
    assert list(tmp_path.iterdir()) == []


def test_every_config_can_be_rehearsed():
    names = [file.stem for file in (ROOT / "configs").glob("*.py")]
    assert {name: load_config(name).dry_run for name in names} == dict.fromkeys(names, False)


@pytest.mark.slow
def test_a_run_finds_what_its_dry_run_compiled(tmp_path):
    config = smoke_config(**ALONE, images=8)
    folder = Path(jax.config.jax_compilation_cache_dir)

    def compiled():
        found = {path.name for path in folder.iterdir()}
        return {name for name in found if name.startswith(("jit_step", "jit_sums"))}

    dry_run(config, tmp_path)
    before = compiled()
    train_and_evaluate(config, tmp_path)
    assert before and compiled() == before
