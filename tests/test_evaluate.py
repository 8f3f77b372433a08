"""evaluate.py as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn_release import write_release
from reference import tiny_architecture

import evaluate
import l2sae_jax as l2
from l2sae_jax.checkpoints import save_model
from l2sae_jax.data.celebamask import prepare
from l2sae_jax.data.sources import CelebAMaskRecords
from l2sae_jax.model import AutoencoderConfig
from l2sae_jax.regions import DEFAULT_SLICES, REGION_NAMES, region_masks

ROOT = Path(__file__).parents[1]
ARCHITECTURE = tiny_architecture(image_discriminator=None, patch_discriminator=None)
SMN = AutoencoderConfig(ARCHITECTURE.encoder, ARCHITECTURE.decoder, image_size=64)
SMPN = AutoencoderConfig(
    ARCHITECTURE.encoder, ARCHITECTURE.decoder, 32, slices=DEFAULT_SLICES, targets="masks"
)
IOUS = {f"iou_{name}" for name in (*REGION_NAMES, "mean")}


def write_model(folder: Path, **networks: AutoencoderConfig) -> Path:
    generator = np.random.default_rng(0)
    shapes = ARCHITECTURE.parameter_shapes()
    parameters = {
        name: jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)
        for name in networks
    }
    save_model(folder, networks, dict.fromkeys(networks, ARCHITECTURE), parameters)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("source"), range(6))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Where records are kept; empty until a test gives the source."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An SMN of 64 px and an SMPN of 32, whose masks are enlarged."""
    return write_model(tmp_path_factory.mktemp("models") / "both", smn=SMN, smpn=SMPN)


def run(*arguments: object) -> int:
    return evaluate.main(["evaluate.py", *map(str, arguments)])


def test_the_program_scores_reconstructions_and_masks(model, release, data, tmp_path):
    arguments = [f"--checkpoint={model}", f"--data={data}", f"--source={release}"]
    arguments += [f"--output={tmp_path / 'new' / 'out'}", "--split=train", "--batch_size=4"]
    command = [sys.executable, "evaluate.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "new" / "out").iterdir()
    scores = json.loads(file.read_text())
    assert file.name == "scores.json" and set(scores) == {"images", "l1"} | IOUS
    assert all(f"{name:10s} {score:.4g}\n" in done.stdout for name, score in scores.items())

    loaded = l2.load(model)
    images, labels = examples(data, 64, scores["images"])
    error = np.abs(l2.decode(loaded, *l2.encode(loaded, images)) - images).mean()
    assert scores["l1"] == pytest.approx(error, rel=1e-4)
    found, truth = np.asarray(l2.segment(loaded, images)) > 0, np.asarray(region_masks(labels)) > 0
    both, either = (found & truth).sum((0, 1, 2)), (found | truth).sum((0, 1, 2))
    expected = both / np.maximum(either, 1)
    ious = [scores[f"iou_{name}"] for name in REGION_NAMES]
    np.testing.assert_allclose(ious, expected, atol=1e-3)


def examples(data: Path, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1] and labels of the training split."""
    records = CelebAMaskRecords(prepare(None, data, size), "train")
    pictures = np.stack([records[i]["image"] for i in range(count)])
    return np.float32(pictures) / 127.5 - 1, np.stack([records[i]["labels"] for i in range(count)])


def test_a_network_alone_has_its_own_scores(release, data, tmp_path):
    shared = [f"--data={data}", f"--source={release}", "--split=train", "--images=2"]
    for networks, names in (({"smn": SMN}, {"l1"}), ({"smpn": SMPN}, IOUS)):
        model = write_model(tmp_path / "model", **networks)
        output = tmp_path / "_".join(networks)
        assert run(*shared, f"--checkpoint={model}", f"--output={output}") == 0
        scores = json.loads((output / "scores.json").read_text())
        assert scores["images"] == 2 and set(scores) == {"images"} | names


def test_help(capsys):
    assert run("--help") == 0
    assert "--batch_size" in capsys.readouterr().out


BAD = {
    "no data": (["--output=out"], "--data is missing"),
    "no output": (["--data=none"], "--output is missing"),
    "flag": (["--dta=none"], "Unknown command line flag 'dta'"),
    "choice": (["--split=dev"], "flag --split=dev: value should be one of"),
    "argument": (["none"], "unexpected argument 'none'"),
    "no records": (["--data=none", "--output=out"], "no CelebAMask-HQ records of 64 px in none: "),
    "no such source": (["--data=none", "--output=out", "--source=zip"], "zip: no such file"),
    "no model": (["--data=none", "--output=out", "--checkpoint=."], "is not a model directory"),
}


@pytest.mark.parametrize(("arguments", "told"), BAD.values(), ids=BAD)
def test_mistakes_are_told_in_one_line(arguments, told, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(f"--checkpoint={model}", *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate.py: error: ") and told in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_output_that_cannot_be_made_is_told_before_anything_is_computed(
    model, release, data, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("mine")
    prepare(release, data, 64, progress=False)
    monkeypatch.setattr(evaluate, "_add_up", None)
    output = tmp_path / "file" / "out"
    shared = [f"--checkpoint={model}", f"--data={data}", "--split=train"]
    assert run(*shared, f"--output={output}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate.py: error: ") and str(output) in line
