"""Runs of `configs/smoke.py`: what they write, that they resume, and how they stop."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from training_runs import ROOT, log_lines, smoke_config

import l2sae_jax as l2
from l2sae_jax.regions import PART_LABELS
from l2sae_jax.training import loop
from l2sae_jax.training.augmentation import make_augmentation
from l2sae_jax.training.checkpointing import only_run_in
from l2sae_jax.training.loop import (
    NotFiniteError,
    initial_parameters,
    loaded_parameters,
    train_and_evaluate,
)
from l2sae_jax.training.state import make_objective
from l2sae_jax.training.steps import _inputs, kinds_of_step


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class Killed(BaseException):
    """What a kill looks like from within: nothing may catch it."""


def die_at(monkeypatch, step):
    """Lets the next run die when it asks for the batch of this step."""
    make_pipeline = loop.make_pipeline

    class Dying:
        def __init__(self, pipeline):
            self.pipeline, self.batches = pipeline, 0

        def __next__(self):
            if self.batches == step:
                raise Killed
            self.batches += 1
            return next(self.pipeline)

        def __getattr__(self, name):
            return getattr(self.pipeline, name)

    monkeypatch.setattr(loop, "make_pipeline", lambda *a, **k: Dying(make_pipeline(*a, **k)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir and final state of an uninterrupted SMN run."""
    workdir = tmp_path_factory.mktemp("smn")
    return workdir, train_and_evaluate(smoke_config(), workdir)


def test_a_run_writes_scalars_pictures_and_a_model(finished):
    workdir, state = finished
    lines = log_lines(workdir)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 8]
    terms = set().union(*lines)
    assert {"G_L1", "G_GAN_rec", "G_GAN_mix", "G_mix", "D_real", "D_rec", "D_mix"} <= terms
    assert {"PatchD_real", "PatchD_mix", "D_R1", "val_l1", "images_per_second"} <= terms
    assert list((workdir / "events").glob("events.out.tfevents.*"))
    with Image.open(workdir / "grids" / "000000032.png") as grid:
        assert grid.size == (8 * 32, 3 * 32)

    model = l2.load(workdir)
    assert_same(model.smn.encoder, state.average["encoder"])
    assert l2.encode(model, np.zeros((1, 32, 32, 3), np.float32))[0].shape == (1, 16, 16, 8)
    with pytest.raises(ValueError, match="no SMPN"):
        l2.segment(model, np.zeros((1, 32, 32, 3), np.float32))


def test_a_killed_run_continues_to_the_same_parameters_bit_for_bit(finished, tmp_path, monkeypatch):
    workdir, expected = finished
    with monkeypatch.context() as patch:
        die_at(patch, 6)
        with pytest.raises(Killed):
            train_and_evaluate(smoke_config(), tmp_path)
    assert max(line["step"] for line in log_lines(tmp_path)) == 6
    resumed = train_and_evaluate(smoke_config(), tmp_path)
    assert_same(resumed, expected)

    def losses(lines):
        return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]

    assert losses(log_lines(tmp_path)) == losses(log_lines(workdir))


def test_a_finished_run_has_nothing_left_to_do(finished):
    workdir, expected = finished
    before = log_lines(workdir)
    assert_same(train_and_evaluate(smoke_config(), workdir), expected)
    assert log_lines(workdir) == before


@pytest.mark.parametrize(
    ("kind", "adversarial"),
    [
        ("joint", False),
        pytest.param("joint", True, marks=pytest.mark.slow),
        pytest.param("smpn", True, marks=pytest.mark.slow),
    ],
)
def test_sliced_objectives(kind, adversarial, tmp_path):
    config = smoke_config(kind)
    if not adversarial:
        config.objective.update(gan=0.0, patch=0.0)
    config.images = 8
    train_and_evaluate(config, tmp_path)
    scores = set().union(*log_lines(tmp_path))
    assert {f"val_iou_{name}" for name in l2.REGION_NAMES} <= scores
    assert ("val_l1" in scores) == (kind == "joint")
    masks = l2.segment(l2.load(tmp_path), np.zeros((2, 32, 32, 3), np.float32))
    assert masks.shape == (2, 32, 32, 5) and set(np.unique(masks)) <= {0.0, 1.0}
    rows = {"smpn": 3, "joint": 5}[kind]
    with Image.open(next((tmp_path / "grids").glob("*.png"))) as grid:
        assert grid.size == (8 * 32, rows * 32)


def test_l1_alone_trains_the_autoencoder_with_every_batch_and_learns(tmp_path):
    config = smoke_config("smpn")
    config.objective.update(gan=0.0, patch=0.0, reconstructed=1.0, region_shares=[0.3] * 5)
    config.images, config.optimizer.learning_rate = 320, 0.01
    config.log_every = config.evaluate_every = config.checkpoint_every = 160
    state = train_and_evaluate(config, tmp_path)
    assert state.discriminator == {}
    first, last = [line["G_L1"] for line in log_lines(tmp_path) if "G_L1" in line]
    assert last < 0.8 * first


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = smoke_config("smpn")
    config.objective.update(gan=0.0, patch=0.0)
    config.checkpoint_every, config.average_decay = 4, 0.0
    config.optimizer.learning_rate = 1e30
    with pytest.raises(NotFiniteError) as caught:
        train_and_evaluate(config, tmp_path)
    step, saved = re.fullmatch(
        rf"step (\d): .*G_L1.* is not finite; last good checkpoint: checkpoint (\d) in {tmp_path}",
        str(caught.value),
    ).groups()
    assert int(saved) == int(step) - 1
    assert (tmp_path / "checkpoints" / saved / "networks").is_dir()
    assert not (tmp_path / "checkpoints" / step).exists()


def test_starting_from_another_runs_parameters(finished):
    workdir, state = finished
    config = smoke_config(init_from=str(workdir))
    params = initial_parameters(config, make_objective(config))
    assert_same(params["encoder"], state.average["encoder"])
    assert_same(params["image_discriminator"], state.discriminator["image_discriminator"])

    config.networks.image_discriminator.final_width = 5
    assert "image_discriminator" not in loaded_parameters(config, make_objective(config))

    config.networks.encoder.taps = (1,)
    with pytest.raises(ValueError, match=r"config.init_from=.* its smn has another encoder than"):
        initial_parameters(config, make_objective(config))


def test_styles_spread_before_training_goes_on(finished):
    workdir, state = finished
    trained = state.average["encoder"]
    config = smoke_config(init_from=str(workdir), spread_styles=64)
    params = initial_parameters(config, make_objective(config))
    assert_same(params["encoder"]["structure"], trained["structure"])
    assert np.abs(params["encoder"]["style"]["kernel"] - trained["style"]["kernel"]).max() > 0.1

    config.init_from = ""
    with pytest.raises(ValueError, match="config.spread_styles=64: some of the encoder is fresh"):
        initial_parameters(config, make_objective(config))


def test_growing_by_a_level_from_networks_for_half_the_size(finished):
    workdir, state = finished
    without = {"objective.gan": 0.0, "objective.patch": 0.0}
    config = smoke_config(init_from=str(workdir), **without)
    networks = config.networks
    networks.encoder.widths = (4, *networks.encoder.widths)
    networks.decoder.up_widths = (*networks.decoder.up_widths, 4)
    config.data.size = 64
    objective = make_objective(config)
    params = initial_parameters(config, objective)
    shapes = objective.architecture.parameter_shapes()
    for network in ("encoder", "decoder"):
        assert jax.tree.map(jnp.shape, params[network]) == jax.tree.map(jnp.shape, shapes[network])
    smaller, levels = state.average["encoder"], len(networks.encoder.widths) - 2
    for level in range(levels):
        assert_same(params["encoder"][f"down_{level + 1}"], smaller[f"down_{level}"])
    for name in ("structure", "style"):
        assert_same(params["encoder"][name], smaller[name])
    for name in ("structure_scale", "head_0", f"up_{levels - 1}"):
        assert_same(params["decoder"][name], state.average["decoder"][name])


def test_another_configuration_in_the_same_workdir_is_refused(finished):
    workdir, _ = finished
    before = {path: path.read_bytes() for path in workdir.glob("*.json*")}
    for change in ({"networks.decoder.head_widths": (10,)}, {"objective.l1": 2.0}, {"seed": 1}):
        name = next(iter(change))
        with pytest.raises(ValueError, match=f"was trained with config.{name}=.*another workdir"):
            train_and_evaluate(smoke_config(**change), workdir)
    assert {path: path.read_bytes() for path in workdir.glob("*.json*")} == before


def test_a_run_of_before_a_field_was_invented_goes_on(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    file = tmp_path / "run" / "train_config.json"
    old = json.loads(file.read_text())
    for name in ("remat", "accumulate", "shard_optimizer", "precision", "spread_styles"):
        del old[name]
    file.write_text(json.dumps(old))
    train_and_evaluate(smoke_config(remat="blocks"), tmp_path / "run")
    assert json.loads(file.read_text())["remat"] == "blocks"
    with pytest.raises(ValueError, match=r"trained with config.precision=default, not highest"):
        train_and_evaluate(smoke_config(precision="highest"), tmp_path / "run")


def test_a_workdir_has_one_run_and_is_no_saved_model(tmp_path):
    with (
        only_run_in(tmp_path / "run", smoke_config()),
        pytest.raises(ValueError, match="another process is training in"),
    ):
        train_and_evaluate(smoke_config(), tmp_path / "run")
    (tmp_path / "config.json").write_text('{"format": 1, "weights": "weights-00000000"}')
    with pytest.raises(ValueError, match="holds a saved model: give another folder as workdir"):
        train_and_evaluate(smoke_config(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size 3: mixing needs an even number"),
        (
            {"batch_size": 4, "accumulate": 2},
            "batch_size 4: expected a multiple of 8, 4 for each of",
        ),
        ({"accumulate": 0}, "config.accumulate 0: expected 1 or more"),
        ({"remat": "some"}, "config.remat 'some': choose none, blocks, regions"),
        ({"precision": "low"}, "config.precision 'low': choose default, high, highest"),
        ({"data.size": 36}, "image_discriminator.resolution 32 is not config.data.size 36"),
        ({"data.name": "celeba"}, "unknown data.name 'celeba'"),
        ({"objective.kind": "gan"}, "objective kind 'gan': choose smn, smpn or joint"),
        ({"networks.encoder.structure_channels": 9}, "disagree on the codes"),
        ({"networks.encoder.widths": (6, 8, 8)}, "halves 2 times but the decoder doubles 1 times"),
        ({"dtype": "float8"}, "dtype 'float8': choose float32 or bfloat16"),
        ({"log_every": 0}, "config.log_every 0: expected 1 or more"),
        ({"spread_styles": 3}, "spread_styles 3: expected 0, or 32 or more for a style of 8"),
        ({"images": 2}, "config.images 2: less than a batch"),
        ({"augmentation.zoom": 2.0}, "config.augmentation.zoom 2.0: expected 0 to 1"),
        ({"objective.r1_every": 0}, "r1_every 0: expected 1 or more"),
        ({"networks.encoder.widths": (6, "b")}, r"encoder.widths.1.: expected a whole number"),
    ],
)
def test_a_bad_config_is_refused_in_a_line(change, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        train_and_evaluate(smoke_config(**change), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_discriminators_and_autoencoder_take_turns_with_lazy_penalties():
    objective = make_objective(smoke_config())
    kinds = [kinds_of_step(step, objective) for step in range(64)]
    assert kinds[0] == ("discriminator", "penalty")
    assert kinds[1::2] == [("generator",)] * 32
    assert [i for i, kind in enumerate(kinds) if "penalty" in kind] == [0, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=nowhere.py", "--workdir=run"], "--config=nowhere.py: there is no such file"),
        (["--config", "nowhere.py", "--workdir=run"], "--config=nowhere.py: there is no such file"),
        (["--config=CONFIG"], "give both --config and --workdir"),
        (["--config=CONFIG", "--workdir=run", "--config.nope=1"], "the config has no field"),
        (["--config=CONFIG:gan", "--workdir=run"], "objective kind 'gan': choose"),
        (["--config=CONFIG", "--workdir=run", "extra"], "unexpected argument 'extra'"),
        (["--config=CONFIG", "--workdir=run", "--config.data.name=x"], "unknown data.name 'x'"),
    ],
)
def test_the_program_tells_mistakes_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("train_program", ROOT / "train.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    config = str(ROOT / "configs" / "smoke.py")
    argv = ["train.py", *(argument.replace("CONFIG", config) for argument in arguments)]
    monkeypatch.setattr(sys, "argv", argv)  # where config_flags looks for the fields' flags
    assert program.main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: ") and message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_killed_after_each_checkpoint_ends_as_if_it_never_was(finished, tmp_path):
    _, expected = finished
    command = [
        *(sys.executable, "train.py", "--config=configs/smoke.py", f"--workdir={tmp_path}"),
        *("--config.images=32", "--config.checkpoint_every=16", "--config.evaluate_every=32"),
        "--config.log_every=8",
    ]
    # Compiled as `finished` was: other optimisations round otherwise.
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "checkpoints" / "4").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert_same(l2.load(tmp_path).smn.decoder, expected.average["decoder"])


def test_pixels_weigh_as_the_region_that_augmentation_put_there(monkeypatch):
    moved = np.zeros((2, 32, 32), np.uint8)
    moved[:, :4] = PART_LABELS["l_eye"]
    monkeypatch.setattr(
        "l2sae_jax.training.steps.augment", lambda images, labels, *_: (images, moved)
    )
    config = smoke_config("smpn")
    config.objective.region_shares = (0.3, 0.3, 0.1, 0.01, 0.1)
    batch = {"image": np.zeros((2, 32, 32, 3), np.uint8), "labels": np.zeros_like(moved)}
    keys = jax.random.split(jax.random.key(0), 2)
    objective = make_objective(config)
    *_, weights = _inputs("generator", objective, make_augmentation(config), batch, keys)
    np.testing.assert_allclose(weights[:, :4], 99**0.5, rtol=1e-5)
    np.testing.assert_array_equal(weights[:, 4:], 1)
