"""The training loop: reads like a recipe."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from tqdm import tqdm

from l2sae_jax.checkpoints import read_description
from l2sae_jax.data.pipeline import Pipeline, make_pipeline
from l2sae_jax.data.sources import open_source
from l2sae_jax.metrics import summarise
from l2sae_jax.objectives import Objective
from l2sae_jax.training.checkpointing import RunCheckpoints, only_run_in
from l2sae_jax.training.logging import Averages, ScalarLog, make_grid_step, write_grid
from l2sae_jax.training.state import TrainState, create_state, make_objective, make_optimizers
from l2sae_jax.training.steps import (
    kinds_of_step,
    make_step,
    make_validation_step,
)

# How many steps the host may run ahead of the device before it reads their losses.
_LAG = 2


_FIELDS = (
    *("seed", "batch_size", "images", "init_from", "optimizer", "average_decay", "networks"),
    *("objective", "data", "log_every", "evaluate_every", "evaluate_images"),
    *("evaluate_batch_size", "checkpoint_every", "keep_checkpoints"),
)


class NotFiniteError(ValueError):
    """A loss or gradient became infinite or NaN."""


def train_and_evaluate(config, workdir: str | Path) -> TrainState:
    """Trains by a config until `config.images` images have been seen.

    A run that was stopped, however it was, continues from the newest checkpoint in `workdir` and
    reaches the same parameters as one that was not, bit for bit on CPU.

    Args:
      config: see configs/; an `ml_collections.ConfigDict`.
      workdir: where checkpoints, metrics.jsonl, events/ and grids/ are written.

    Returns:
      The final state.

    Raises:
      ValueError: a config or data set that cannot be trained, in one line.
      NotFiniteError: names the step, the term, and the last good checkpoint.
    """
    workdir = Path(workdir)
    missing = [name for name in _FIELDS if name not in config]
    if missing:
        raise ValueError(f"config.{missing[0]} is missing; compare with configs/smoke.py")
    objective = make_objective(config)
    _check(config, objective)
    source = open_source(config.data, "train")
    pipeline = make_pipeline(
        source, batch_size=config.batch_size, seed=config.seed, flip=config.data.flip
    )
    with only_run_in(workdir, config):
        return _train(config, workdir, objective, pipeline)


def _train(config, workdir: Path, objective: Objective, pipeline: Pipeline) -> TrainState:
    checkpoints = RunCheckpoints(workdir, objective, config.keep_checkpoints)
    optimizers = make_optimizers(config, objective.config)
    params = initial_parameters(config, objective, resuming=checkpoints.latest is not None)
    state = create_state(params, optimizers, average=bool(config.average_decay))
    print(parameter_overview.get_parameter_overview(params, include_stats=False))
    if checkpoints.latest is not None:
        state = checkpoints.restore(state, pipeline)
        print(f"Continuing from checkpoint {checkpoints.latest} in {workdir}")

    step_functions = {
        kind: make_step(
            kind,
            objective,
            optimizers,
            average_decay=config.average_decay or None,
            colour_jitter=config.data.colour_jitter,
        )
        for kind in ("generator", "discriminator", "penalty")
    }
    evaluate = Evaluation(config, objective, workdir)
    first, last = int(state.step), config.images // config.batch_size
    scalars, averages = ScalarLog(workdir, first), Averages()
    root_key = jax.random.key(config.seed)
    pending: deque = deque()

    def settle(lag: int) -> None:
        """Reads the losses of all but the `lag` newest steps, and stops at the first bad one."""
        while len(pending) > lag:
            step, terms = pending.popleft()
            terms = {name: float(value) for name, value in jax.device_get(terms).items()}
            _check_finite(step, terms, checkpoints.latest, workdir)
            averages.add(terms)

    with _progress(config, first * config.batch_size) as progress:
        for step in range(first, last):
            batch = next(pipeline)
            for kind in kinds_of_step(step, objective):
                key = jax.random.fold_in(jax.random.fold_in(root_key, step), _KEY_OF[kind])
                state, terms = step_functions[kind](state, batch, key)
                pending.append((step + 1, terms))
            settle(_LAG)
            progress.update(config.batch_size)

            done, images = step + 1, (step + 1) * config.batch_size
            if _due(done, config.log_every, config.batch_size) or done == last:
                settle(0)
                rate = progress.format_dict["rate"] or 0.0
                scalars.write(done, images, averages.pop() | {"images_per_second": rate})
            if _due(done, config.evaluate_every, config.batch_size) or done == last:
                scores = evaluate(state.result, images)
                scalars.write(done, images, scores)
                progress.set_postfix({name[4:]: f"{score:.3f}" for name, score in scores.items()})
            if _due(done, config.checkpoint_every, config.batch_size) or done == last:
                settle(0)
                checkpoints.save(done, state, pipeline)
    scalars.close()
    checkpoints.close()
    return state


_KEY_OF = {"generator": 0, "discriminator": 1, "penalty": 2}


def initial_parameters(config, objective: Objective, *, resuming: bool = False):
    """Fresh parameters, or those of a converted checkpoint or another run's workdir.

    Networks that `config.init_from` does not hold, discriminators for instance, start fresh, and so
    do all when `resuming`: a checkpoint will replace them.

    Raises:
      ValueError: it holds networks of another architecture.
    """
    loaded = {}
    if config.init_from and not resuming:
        description = read_description(Path(config.init_from))
        names = ("smpn", "smn") if objective.config.kind == "smpn" else ("smn", "smpn")
        name = next(name for name in names if name in description.architectures)
        for network in description.architectures[name].present():
            theirs = getattr(description.architectures[name], network)
            ours = getattr(objective.architecture, network)
            if ours is not None and ours != theirs:
                raise ValueError(
                    f"config.init_from={config.init_from}: its {name} has another {network} than "
                    f"config.networks.{network} describes"
                )
            if ours is not None:
                tree = description.networks(name)[network]
                loaded[network] = jax.tree.map(lambda x: jnp.asarray(x, "float32"), tree)
    return objective.architecture.init(jax.random.key(config.seed)) | loaded


class Evaluation:
    """Scores and pictures of images that are not trained on."""

    def __init__(self, config, objective: Objective, workdir: Path):
        self._source = open_source(config.data, "validation")
        self._workdir = workdir
        self._count = min(config.evaluate_images, len(self._source))
        self._batch_size = min(config.evaluate_batch_size, self._count)
        self._pictures = min(8, self._count)
        self._step = make_validation_step(objective)
        self._grid = make_grid_step(objective)

    def _batches(self, size: int, count: int) -> Iterator[dict[str, np.ndarray]]:
        # Whole batches only, so that one shape is compiled.
        for start in range(0, count - size + 1, size):
            examples = [self._source[i] for i in range(start, start + size)]
            yield {name: np.stack([e[name] for e in examples]) for name in ("image", "labels")}

    def __call__(self, generator, images_seen: int) -> dict[str, float]:
        """Scores of the validation images; also writes `grids/IMAGES.png`."""
        sums: dict[str, np.ndarray] = {}
        for batch in self._batches(self._batch_size, self._count):
            update = jax.device_get(self._step(generator, batch))
            sums = {name: sums.get(name, 0.0) + value for name, value in update.items()}
        grid = self._grid(generator, next(self._batches(self._pictures, self._pictures)))
        (self._workdir / "grids").mkdir(exist_ok=True)
        write_grid(self._workdir / "grids" / f"{images_seen:09d}.png", np.asarray(grid))
        return {f"val_{name}": score for name, score in summarise(sums).items()}


def _due(step: int, every_images: int, batch_size: int) -> bool:
    """Whether this step is the first to pass another multiple of `every_images`."""
    return step * batch_size // every_images > (step - 1) * batch_size // every_images


def _check(config, objective: Objective) -> None:
    positive = ("log_every", "evaluate_every", "evaluate_images", "evaluate_batch_size")
    for name in (*positive, "checkpoint_every", "keep_checkpoints"):
        if config[name] < 1:
            raise ValueError(f"config.{name} {config[name]}: expected 1 or more")
    if config.images < config.batch_size:
        raise ValueError(f"config.images {config.images}: less than a batch")
    if config.batch_size < 2 or config.batch_size % 2:
        raise ValueError(f"config.batch_size {config.batch_size}: mixing needs an even number")
    encoder, size = objective.autoencoder.encoder, config.data.size
    if size % encoder.downsampling or size < encoder.smallest_image:
        raise ValueError(
            f"config.data.size {size}: this encoder reads multiples of {encoder.downsampling} "
            f"from {encoder.smallest_image} up"
        )
    discriminator = objective.architecture.image_discriminator
    if discriminator is not None and discriminator.resolution != size:
        raise ValueError(
            f"config.networks.image_discriminator.resolution {discriminator.resolution} is not "
            f"config.data.size {size}"
        )


def _check_finite(step: int, terms: dict[str, float], saved: int | None, workdir: Path) -> None:
    bad = [name for name, value in terms.items() if not np.isfinite(value)]
    if bad:
        good = f"checkpoint {saved} in {workdir}" if saved is not None else "none was saved"
        raise NotFiniteError(
            f"step {step}: {', '.join(bad)} is not finite; last good checkpoint: {good}"
        )


def _progress(config, initial: int) -> tqdm:
    return tqdm(
        total=config.images, initial=initial, unit="img", smoothing=0.05, dynamic_ncols=True
    )
