"""The training loop: reads like a recipe. All processes run it; process 0 alone writes files."""

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from l2sae_jax.checkpoints import read_description
from l2sae_jax.data.pipeline import Pipeline, make_pipeline
from l2sae_jax.data.sources import Source, open_source
from l2sae_jax.nn import DecoderConfig, EncoderConfig
from l2sae_jax.objectives import KINDS, Objective
from l2sae_jax.parallel import (
    failing_together,
    from_first,
    is_first,
    make_mesh,
    place,
    shard_rows,
    whole,
)
from l2sae_jax.training.augmentation import make_augmentation
from l2sae_jax.training.checkpointing import RunCheckpoints, only_run_in, telling_of_a_full_disk
from l2sae_jax.training.evaluation import Evaluation
from l2sae_jax.training.logging import Averages, ScalarLog
from l2sae_jax.training.scaling import Scaling, check_batch, make_scaling
from l2sae_jax.training.state import (
    GENERATOR,
    Params,
    TrainState,
    create_state,
    make_objective,
    make_optimizers,
    state_layout,
)
from l2sae_jax.training.steps import kinds_of_step, make_step
from l2sae_jax.training.stopping import StoppedError, StopRequests
from l2sae_jax.training.styles import least_pictures, spread_styles

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
      StoppedError: SIGTERM came, to any process; the run is saved as it was a few steps later.
      DiskFullError: there was no room for what it writes; the last good checkpoint is intact.
    """
    workdir, mesh = Path(workdir), make_mesh()
    stop = StopRequests(mesh)
    with stop.listening(), telling_of_a_full_disk(workdir), contextlib.ExitStack() as held:
        objective, scaling = read_config(config, mesh)
        source = _open_source(config.data)
        with failing_together():
            pipeline = make_pipeline(
                source,
                batch_size=config.batch_size,
                seed=config.seed,
                flip=config.data.flip,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
            if is_first():
                held.enter_context(only_run_in(workdir, config))
        return _train(config, workdir, objective, scaling, mesh, pipeline, stop)


def read_config(config, mesh: Mesh) -> tuple[Objective, Scaling]:
    """The losses and the way of computing them that a config asks for; all processes call it.

    Raises:
      ValueError: it cannot be trained on these devices, or is not that of all processes.
    """
    of_first = from_first(config.to_json())
    with failing_together():
        if config.to_json() != of_first:
            raise ValueError("the config is not that of process 0: give all the same flags")
        missing = [name for name in _FIELDS if name not in config]
        if missing:
            raise ValueError(f"config.{missing[0]} is missing; compare with configs/smoke.py")
        objective, scaling = make_objective(config), make_scaling(config)
        make_augmentation(config)
        _check(config, objective, scaling, mesh)
    return objective, scaling


def _open_source(data_config) -> Source:
    """The training images; where their records are still to be made, process 0 makes them."""
    with failing_together():
        source = open_source(data_config, "train") if is_first() else None
    with failing_together():
        return source or open_source(data_config, "train")


def _train(
    config,
    workdir: Path,
    objective: Objective,
    scaling: Scaling,
    mesh: Mesh,
    pipeline: Pipeline,
    stop: StopRequests,
) -> TrainState:
    checkpoints = RunCheckpoints(workdir, objective, config.keep_checkpoints)
    state, layout = _first_state(config, objective, scaling, mesh, checkpoints, pipeline)
    step_functions = {
        kind: make_step(
            kind,
            objective,
            make_optimizers(config, objective.config),
            mesh,
            layout,
            scaling,
            average_decay=config.average_decay or None,
            augmentation=make_augmentation(config),
        )
        for kind in KINDS
    }
    with failing_together():
        evaluate = Evaluation(config, objective, mesh, scaling, workdir)
    first, last = int(state.step), config.images // config.batch_size
    scalars, averages = ScalarLog(workdir, first), Averages()
    root_key = jax.random.key(config.seed)
    pending: deque = deque()
    logged, since = first, time.perf_counter()

    def settle(lag: int) -> bool:
        """Reads what all but the `lag` newest steps gave, and stops at the first bad one.

        Returns whether any of them was asked to be the last.
        """
        asked = False
        while len(pending) > lag:
            step, terms, stop_asked = pending.popleft()
            terms = {name: float(value) for name, value in jax.device_get(terms).items()}
            _check_finite(step, terms, checkpoints.latest, workdir)
            averages.add(terms)
            asked |= bool(stop_asked)
        return asked

    with _progress(config, first * config.batch_size) as progress:
        for step in range(first, last):
            batch = shard_rows(next(pipeline), mesh)
            for kind in kinds_of_step(step, objective):
                key = jax.random.fold_in(jax.random.fold_in(root_key, step), KINDS.index(kind))
                state, terms = step_functions[kind](state, batch, key)
                pending.append((step + 1, terms, stop.any()))
            stopping = settle(_LAG)
            progress.update(config.batch_size)

            done, images = step + 1, (step + 1) * config.batch_size
            if _due(done, config.log_every, config.batch_size) or done == last:
                stopping |= settle(0)
                rate = (done - logged) * config.batch_size / (time.perf_counter() - since)
                scalars.write(done, images, averages.pop() | {"images_per_second": rate})
                logged, since = done, time.perf_counter()
            if _due(done, config.evaluate_every, config.batch_size) or done == last:
                scores = evaluate(state.result, images)
                scalars.write(done, images, scores)
                progress.set_postfix({name[4:]: f"{score:.3f}" for name, score in scores.items()})
            if stopping or _due(done, config.checkpoint_every, config.batch_size) or done == last:
                stopping |= settle(0)
                checkpoints.save(done, state, pipeline)
            if stopping and done < last:
                raise StoppedError(f"stopped by SIGTERM at step {done}, saved in {workdir}")
    scalars.close()
    checkpoints.close()
    return state


def _first_state(config, objective, scaling, mesh, checkpoints, pipeline):
    """The state to go on from, a new one or the newest checkpoint's, and its layout."""
    optimizers = make_optimizers(config, objective.config)

    def create(params):
        return create_state(params, optimizers, average=bool(config.average_decay))

    shapes = jax.eval_shape(create, objective.architecture.parameter_shapes())
    layout = state_layout(shapes, mesh, scaling)
    if is_first():
        print(parameter_overview.get_parameter_overview(shapes.parameters, include_stats=False))
    if checkpoints.latest is not None:
        if is_first():
            print(f"Continuing from checkpoint {checkpoints.latest} in {checkpoints.workdir}")
        return checkpoints.restore(shapes, pipeline, layout), layout
    with failing_together():
        params = initial_parameters(config, objective)
    params = multihost_utils.broadcast_one_to_all(params)
    return jax.jit(create, out_shardings=layout)(place(params, whole(mesh))), layout


def initial_parameters(config, objective: Objective) -> Params:
    """Fresh parameters, and in their place those that `config.init_from` holds.

    Their styles are spread if `config.spread_styles` says over how many training pictures.

    Raises:
      ValueError: what `loaded_parameters` says, or an encoder whose styles say nothing yet.
    """
    fresh = jax.jit(objective.architecture.init)(jax.random.key(config.seed))
    loaded = loaded_parameters(config, objective)
    if loaded and is_first():
        print(f"Starting from {config.init_from}: {', '.join(loaded)}")
    params = fresh | {name: fresh[name] | layers for name, layers in loaded.items()}
    if not (count := config.get("spread_styles", 0)):
        return params
    if loaded.get("encoder", {}).keys() != fresh["encoder"].keys():
        raise ValueError(
            f"config.spread_styles={count}: some of the encoder is fresh; train it first, and name "
            "that run in config.init_from"
        )
    source = open_source(config.data, "train")
    rows = np.arange(min(count, len(source)))
    if is_first():
        print(f"Spreading the styles of {len(rows)} pictures")
    parts = np.array_split(rows, math.ceil(len(rows) / 32))
    batches = (np.stack([source[i]["image"] for i in part]) for part in parts)
    return spread_styles(params, objective.autoencoder.encoder, batches)


def loaded_parameters(config, objective: Objective) -> Params:
    """Those of a converted checkpoint or another run's workdir, `config.init_from`.

    An SMPN starts from an SMPN where there is one, or else from an SMN; the others the other way
    round. Discriminators of another architecture, for pictures of another size say, stay out. An
    encoder and a decoder may have grown since by their outermost level, for pictures of twice the
    size: then the layers of that level are missing.

    Raises:
      ValueError: it holds an encoder or a decoder of another architecture, or cannot be read.
    """
    if not config.init_from:
        return {}
    description = read_description(Path(config.init_from))
    names = ("smpn", "smn") if objective.config.kind == "smpn" else ("smn", "smpn")
    name = next(name for name in names if name in description.architectures)
    loaded = {}
    for network in description.architectures[name].present():
        theirs = getattr(description.architectures[name], network)
        ours = getattr(objective.architecture, network)
        if theirs in (ours, _without_outermost(ours)):
            tree = description.networks(name)[network]
            tree = jax.tree.map(lambda x: np.asarray(x, "float32"), tree)
            loaded[network] = tree if theirs == ours else _moved_inwards(tree)
        elif network in GENERATOR:
            raise ValueError(
                f"config.init_from={config.init_from}: its {name} has another {network} than "
                f"config.networks.{network} describes"
            )
    return loaded


def _without_outermost(network: Any) -> Any:
    """What an encoder or a decoder of this architecture can have grown from."""
    if isinstance(network, EncoderConfig):
        return replace(network, widths=network.widths[1:])
    if isinstance(network, DecoderConfig):
        return replace(network, up_widths=network.up_widths[:-1])
    return network


def _moved_inwards(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The layers of a network that has grown by a level, all but those that touch pixels."""
    return {
        f"down_{int(name[5:]) + 1}" if name.startswith("down_") else name: layer
        for name, layer in tree.items()
        if name not in ("from_rgb", "to_rgb")
    }


def _due(step: int, every_images: int, batch_size: int) -> bool:
    """Whether this step is the first to pass another multiple of `every_images`."""
    return step * batch_size // every_images > (step - 1) * batch_size // every_images


def _check(config, objective: Objective, scaling: Scaling, mesh: Mesh) -> None:
    positive = ("log_every", "evaluate_every", "evaluate_images", "evaluate_batch_size")
    for name in (*positive, "checkpoint_every", "keep_checkpoints"):
        if config[name] < 1:
            raise ValueError(f"config.{name} {config[name]}: expected 1 or more")
    if config.images < config.batch_size:
        raise ValueError(f"config.images {config.images}: less than a batch")
    check_batch(config.batch_size, objective, scaling, mesh.size)
    encoder, size = objective.autoencoder.encoder, config.data.size
    pictures, least = config.get("spread_styles", 0), least_pictures(encoder)
    if pictures and pictures < least:
        raise ValueError(
            f"config.spread_styles {pictures}: expected 0, or {least} or more for a style of "
            f"{encoder.style_channels} channels"
        )
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
        total=config.images,
        initial=initial,
        unit="img",
        smoothing=0.05,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 60.0,  # a log file keeps every line
        miniters=1,
        disable=not is_first(),
    )
