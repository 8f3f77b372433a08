"""evaluate.py as a user meets it."""

import contextlib
import io
import json
import re
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
from l2sae_jax.data.images import write_picture
from l2sae_jax.data.sources import CelebAMaskRecords
from l2sae_jax.evaluation import evaluating, running
from l2sae_jax.model import AutoencoderConfig
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.regions import DEFAULT_SLICES, REGION_NAMES, region_masks

ROOT = Path(__file__).parents[1]
ARCHITECTURE = tiny_architecture(image_discriminator=None, patch_discriminator=None)
SMN = AutoencoderConfig(ARCHITECTURE.encoder, ARCHITECTURE.decoder, image_size=64)
SMPN = AutoencoderConfig(
    ARCHITECTURE.encoder, ARCHITECTURE.decoder, 32, slices=DEFAULT_SLICES, targets="masks"
)


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


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """An SMPN of 32 px alone."""
    return write_model(tmp_path_factory.mktemp("models") / "small", smpn=SMPN)


def run(*arguments: object) -> int:
    return evaluate.main(["evaluate.py", *map(str, arguments)])


def scores_in(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())


# ------------------------------------------------------------------------------- a whole evaluation


# Time is left out: what it compiles takes longer than all the rest.
MEASURES = "--measures=segmentation,reconstruction,edit,sweep,swap,realism"


@pytest.fixture(scope="module")
def evaluated(compiled_as_for_users, model, release, data, tmp_path_factory) -> tuple[Path, str]:
    """What the program writes and says of a model; all but FID and time measured."""
    folder = tmp_path_factory.mktemp("evaluated")
    arguments = [f"--checkpoint={model}", f"--data={data}", f"--source={release}"]
    arguments += [f"--output={folder / 'out'}", "--split=train", "--batch_size=4"]
    arguments += ["--strengths=0.3,0.6", MEASURES]
    arguments += ["--write_pictures", f"--write_originals={folder / 'in'}"]
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        assert run(*arguments) == 0, told.getvalue()
    return folder, told.getvalue()


def test_the_program_writes_a_report_with_plots_and_sheets(evaluated):
    folder, told = evaluated
    text = (folder / "out" / "report.md").read_text()
    for title in ("Table 1 of the paper", "Masks", "Edits", "Swaps", "Reconstruction", "Plots"):
        assert f"\n## {title}\n" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) >= 3 and all((folder / "out" / name).is_file() for name in pictures)
    assert "both: IoU " in told and f"See {folder / 'out' / 'report.md'}" in told
    line = "left out: FID and KID, for "  # there are no weights
    assert f"- {line}" in text and f"evaluate.py: {line}" in told


def test_the_program_runs_by_itself(release, data, tmp_path):
    model = write_model(tmp_path / "model", smn=SMN)
    arguments = [f"--checkpoint={model}", f"--data={data}", f"--source={release}", "--split=train"]
    command = [sys.executable, "evaluate.py", *arguments, f"--output={tmp_path}", "--images=2"]
    done = subprocess.run(
        [*command, "--measures=reconstruction"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model: reconstruction L1 ")


def test_its_figures_are_those_of_the_public_functions(evaluated, model, data):
    scores = scores_in(evaluated[0] / "out")
    found = scores["systems"]["both"]
    loaded = l2.load(model)
    images, labels = examples(data, 64, scores["data"]["images"])
    decoded = to_images(to_pixels(l2.decode(loaded, *l2.encode(loaded, images))))
    error = np.abs(decoded - images).mean()
    assert found["reconstruction"]["l1"]["value"] == pytest.approx(error, rel=1e-4)
    masks, truth = np.asarray(l2.segment(loaded, images)) > 0, np.asarray(region_masks(labels)) > 0
    both, either = (masks & truth).sum((0, 1, 2)), (masks | truth).sum((0, 1, 2))
    ious = [found["segmentation"]["iou"][name]["value"] for name in REGION_NAMES]
    np.testing.assert_allclose(ious, both / np.maximum(either, 1), atol=1e-3)


def test_the_same_command_measures_nothing_again(evaluated, model, data, monkeypatch):
    monkeypatch.setattr(running, "measure", None)
    shared = [f"--checkpoint={model}", f"--data={data}", "--split=train", "--batch_size=4"]
    output = evaluated[0] / "out"
    before = scores_in(output)["systems"]["both"]
    assert run(*shared, "--strengths=0.3,0.6", MEASURES, f"--output={output}") == 0
    after = scores_in(output)["systems"]["both"]
    for name in ("segmentation", "edit", "sweep", "swap", "reconstruction"):
        assert after[name] == before[name]


def test_pictures_of_another_system_are_compared_with_a_model(evaluated, model, data, tmp_path):
    pictures = evaluated[0] / "out" / "pictures" / "both"
    shared = [f"--data={data}", "--split=train", "--batch_size=4", f"--output={tmp_path}"]
    arguments = [f"--checkpoint={model}", f"--pictures={pictures}", "--measures=swap"]
    assert run(*arguments, *shared) == 0
    scores = scores_in(tmp_path)
    assert list(scores["systems"]) == ["both", "both (2)"]
    apart = scores["differences"]["both (2) less both"]["swap"]["mse_src"]["hair"]
    assert apart["value"] == apart["standard_error"] == 0  # they are its own


def examples(data: Path, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1] and labels of the training split."""
    records = CelebAMaskRecords(prepare(None, data, size), "train")
    pictures = np.stack([records[i]["image"] for i in range(count)])
    return np.float32(pictures) / 127.5 - 1, np.stack([records[i]["labels"] for i in range(count)])


# ---------------------------------------------------------------------------------- what goes wrong


def test_a_stopped_run_goes_on_where_it_was(model, release, data, tmp_path, monkeypatch):
    shared = [f"--checkpoint={model}", f"--data={data}", f"--source={release}", "--split=train"]
    shared += ["--batch_size=2", "--measures=segmentation", f"--output={tmp_path}"]
    measured = []

    def stopped_at_the_third(task, name):
        measured.append(task.batch.ids[0])
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(task, name)

    measure = running.measure
    monkeypatch.setattr(running, "measure", stopped_at_the_third)
    assert run(*shared) == 130
    assert not (tmp_path / "scores.json").exists()
    assert run(*shared) == 0
    assert measured[2] == measured[3] and len(set(measured)) == len(measured) - 1


def test_a_network_alone_has_its_own_scores(release, data, tmp_path):
    shared = [f"--data={data}", f"--source={release}", "--split=train", "--images=2"]
    shared += ["--measures=segmentation,swap,reconstruction"]
    for networks, group in (({"smn": SMN}, "reconstruction"), ({"smpn": SMPN}, "segmentation")):
        model = write_model(tmp_path / "model", **networks)
        output = tmp_path / "_".join(networks)
        assert run(*shared, f"--checkpoint={model}", f"--output={output}") == 0
        scores = scores_in(output)
        assert set(scores["systems"]["model"]) == {group, "table_1"}
        assert any("swap" in line for line in scores["notes"])
        assert scores["data"]["images"] == 2


def test_nothing_measured_is_an_error(release, data, tmp_path, capsys):
    model = write_model(tmp_path / "model", smn=SMN)
    shared = [f"--data={data}", f"--source={release}", "--split=train", f"--output={tmp_path}"]
    assert run(*shared, f"--checkpoint={model}", "--measures=swap") == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate.py: error: nothing could be measured: left out: swap of mo")
    assert not (tmp_path / "scores.json").exists()


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
    "no pictures": (["--data=none", "--output=out", "--pictures=x"], "x: no such folder"),
    "sizes": (["--data=none", "--output=out", "--checkpoint={small}"], "of different sizes apart"),
    "measure": (["--data=none", "--output=out", "--measures=speed"], "unknown measure 'speed'"),
    "strengths": (
        ["--data=none", "--output=out", "--strengths=a"],
        "--strengths: expected numbers",
    ),
    "samples": (["--data=none", "--output=out", "--samples=0"], "samples 0: expected a number"),
}


@pytest.mark.parametrize(("arguments", "told"), BAD.values(), ids=BAD)
def test_mistakes_are_told_in_one_line(
    arguments, told, model, small, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(small=small) for argument in arguments]
    assert run(f"--checkpoint={model}", *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate.py: error: ") and told in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_output_that_cannot_be_made_is_told_before_anything_is_computed(
    model, release, data, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("mine")
    prepare(release, data, 64, progress=False)
    monkeypatch.setattr(running, "measure", None)
    output = tmp_path / "file" / "out"
    shared = [f"--checkpoint={model}", f"--data={data}", "--split=train"]
    assert run(*shared, f"--output={output}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate.py: error: ") and str(output) in line


def test_weights_that_cannot_be_used_are_told_and_the_rest_is_measured(
    model, release, data, tmp_path, monkeypatch, capsys
):
    def no_lpips(net):
        raise ValueError("LPIPS cannot be measured")

    monkeypatch.setattr(evaluating, "load_lpips", no_lpips)
    (tmp_path / "inception.pth").write_text("no weights")
    shared = [f"--checkpoint={model}", f"--data={data}", f"--source={release}", "--split=train"]
    shared += ["--measures=reconstruction,realism", f"--output={tmp_path / 'out'}"]
    assert run(*shared, f"--inception={tmp_path / 'inception.pth'}") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [("inception.pth" in line, "LPIPS" in line) for line in told] == [
        (False, True),
        (True, False),
    ]
    found = scores_in(tmp_path / "out")["systems"]["both"]["reconstruction"]
    assert set(found) == {"l1", "psnr", "ssim"}


def test_a_folder_whose_pictures_are_of_no_image_is_refused(model, release, data, tmp_path, capsys):
    (tmp_path / "theirs" / "hair").mkdir(parents=True)
    write_picture(tmp_path / "theirs" / "hair" / "999.png", np.zeros((64, 64, 3), np.uint8))
    shared = [f"--data={data}", f"--source={release}", "--split=train", f"--output={tmp_path}"]
    assert run(*shared, f"--pictures={tmp_path / 'theirs'}") == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert "none of the pictures is named by the id of one of the 6 images, such as " in line


def test_pictures_that_are_missing_or_broken_are_told(model, release, data, tmp_path, capsys):
    shared = [f"--data={data}", f"--source={release}", "--split=train", f"--output={tmp_path}"]
    assert run(*shared, "--measures=segmentation", f"--write_originals={tmp_path / 'in'}") == 0
    first, second, third, *_ = sorted((tmp_path / "in").glob("*.png"))
    hair = tmp_path / "theirs" / "hair"
    hair.mkdir(parents=True)
    for file in (first, second, third):
        (hair / file.name).write_bytes(file.read_bytes())
    (hair / third.name).write_bytes(third.read_bytes()[:100])
    (hair / "1.json").write_text("{}")
    assert run(*shared, "--measures=edit,swap", f"--pictures={tmp_path / 'theirs'}") == 0
    scores = scores_in(tmp_path)
    change = scores["systems"]["theirs"]["edit"]["change_outside"]
    assert change["hair"]["value"] == 0 and change["hair"]["count"] == 2
    assert change["lips"]["value"] is change["mean"]["value"] is None
    notes = "\n".join(scores["notes"])
    assert "theirs has hair of 3 images only" in notes and "theirs has skin of 0 images" in notes
    assert f"{third.name}: cannot be decoded" in notes
    assert run(*shared, "--measures=edit,swap", f"--pictures={tmp_path / 'theirs'}") == 0
    assert scores_in(tmp_path)["notes"] == scores["notes"]  # though nothing is read again
    assert "left out: swap of theirs, for it has no such pictures" in notes


def test_results_are_kept_beside_the_report_where_the_cache_is_no_use(
    model, release, data, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    shared = [f"--checkpoint={model}", f"--data={data}", f"--source={release}", "--split=train"]
    assert run(*shared, "--measures=segmentation", f"--output={tmp_path / 'out'}") == 0
