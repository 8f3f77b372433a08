"""Saving and restoring a run, its place in the data included."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from l2sae_jax.checkpoints import (
    CHECKPOINTS,
    CONFIG_FILE,
    FORMAT,
    describe,
    replace_text,
    write_config,
)
from l2sae_jax.data.pipeline import Pipeline
from l2sae_jax.objectives import Objective
from l2sae_jax.training.state import TrainState

# What may differ when a run goes on: how long it is, what it writes down, where its data are.
_MAY_CHANGE = {
    *("images", "log_every", "evaluate_every", "evaluate_images", "evaluate_batch_size"),
    *("checkpoint_every", "keep_checkpoints", "init_from", "data.source", "data.data_dir"),
}
TRAIN_CONFIG_FILE = "train_config.json"


@contextlib.contextmanager
def only_run_in(workdir: Path, config) -> Iterator[None]:
    """Makes a workdir this process's own, and this config's.

    The config is kept in train_config.json; a run that goes on must have the same one.

    Raises:
      ValueError: another process trains there, another config did, or it holds a finished model.
    """
    if (workdir / CONFIG_FILE).exists() and "weights" in json.loads(
        (workdir / CONFIG_FILE).read_text()
    ):
        raise ValueError(f"{workdir} holds a saved model: give another folder as workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {workdir}") from None
        _keep_config(workdir / TRAIN_CONFIG_FILE, config)
        yield


def _keep_config(file: Path, config) -> None:
    now = json.loads(config.to_json())
    if file.exists():
        ours, theirs = _flat(now), _flat(json.loads(file.read_text()))
        changed = sorted(
            name
            for name in (ours.keys() | theirs.keys()) - _MAY_CHANGE
            if ours.get(name) != theirs.get(name)
        )
        if changed:
            name = changed[0]
            raise ValueError(
                f"{file.parent} was trained with config.{name}={theirs.get(name)}, not "
                f"{ours.get(name)}: use the config it was trained with, or another workdir"
            )
    replace_text(file, json.dumps(now, indent=1) + "\n")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


class RunCheckpoints:
    """The checkpoints of a workdir, which thereby is a model directory for `l2sae_jax.load`.

    A checkpoint has three items: "networks", what a user of the model reads; "training", the rest
    of the state; "pipeline", the place in the data.
    """

    def __init__(self, workdir: Path, objective: Objective, keep: int):
        self._kind = "smpn" if objective.config.kind == "smpn" else "smn"
        self._workdir = workdir
        self._description = {
            "format": FORMAT,
            self._kind: describe(objective.autoencoder, objective.architecture),
            "metadata": {"objective": objective.config.kind},
        }
        self._manager = ocp.CheckpointManager(
            (workdir / CHECKPOINTS).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, pipeline: Pipeline) -> None:
        """Saves a run after `step` batches; complete or not at all."""
        write_config(self._workdir, self._description)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                networks=ocp.args.PyTreeSave(self._networks(state)),
                training=ocp.args.PyTreeSave(_rest(state)),
                pipeline=ocp.args.JsonSave(pipeline.get_state()),
            ),
        )

    def restore(self, state: TrainState, pipeline: Pipeline) -> TrainState:
        """The run as it was when the newest checkpoint was saved.

        Args:
          state: a state of the same structure, for its shapes.
          pipeline: set to where it was.

        Raises:
          ValueError: the checkpoint is of a run with another configuration.
        """
        step = self.latest
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    networks=_restore_args(self._networks(abstract)),
                    training=_restore_args(_rest(abstract)),
                    pipeline=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"checkpoint {step} does not fit this configuration ({reason}): use the config it "
                "was trained with, or another workdir"
            ) from error
        pipeline.set_state(restored["pipeline"])
        networks, training = restored["networks"][self._kind], restored["training"]
        result = {name: networks.pop(name) for name in abstract.result}
        averaged = state.average is not None
        return TrainState(
            step=training["step"],
            generator=training["generator"] if averaged else result,
            discriminator=networks,
            generator_optimizer=training["generator_optimizer"],
            discriminator_optimizer=training["discriminator_optimizer"],
            average=result if averaged else None,
        )

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()

    def _networks(self, state: TrainState) -> dict[str, Any]:
        return {self._kind: state.result | state.discriminator}


def _rest(state: TrainState) -> dict[str, Any]:
    """What "networks" does not hold."""
    rest = {
        "step": state.step,
        "generator_optimizer": state.generator_optimizer,
        "discriminator_optimizer": state.discriminator_optimizer,
    }
    return rest if state.average is None else rest | {"generator": state.generator}


def _restore_args(tree: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        item=tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree)
    )
