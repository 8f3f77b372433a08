"""Saving and restoring a run, its place in the data included."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from l2sae_jax.checkpoints import (
    CHECKPOINTS,
    CONFIG_FILE,
    FORMAT,
    describe,
    saved_steps,
    write_config,
)
from l2sae_jax.configuration import to_dict
from l2sae_jax.data.pipeline import Pipeline
from l2sae_jax.objectives import Objective
from l2sae_jax.parallel import failing_together, fetch, from_first, is_first, place
from l2sae_jax.training.scaling import Scaling
from l2sae_jax.training.state import TrainState
from l2sae_jax.whole_files import replace_text

# What may differ when a run goes on: how long it is, what it started from and writes down, where
# its data are, what changes an update in rounding at most, and whether it is rehearsed.
_MAY_CHANGE = {
    "dry_run",
    *("remat", "accumulate", "shard_optimizer"),
    *("images", "log_every", "evaluate_every", "evaluate_images", "evaluate_batch_size"),
    *("checkpoint_every", "keep_checkpoints", "init_from", "spread_styles"),
    *("data.source", "data.data_dir"),
}
TRAIN_CONFIG_FILE = "train_config.json"
_LOCK_FILE = ".lock"


@contextlib.contextmanager
def only_run_in(workdir: Path, config) -> Iterator[None]:
    """Makes a workdir this process's own, and this config's.

    The config is kept in train_config.json; a run that goes on must have the same one.

    Raises:
      ValueError: another process trains there, another config did, or it holds a finished model.
    """
    _check_no_model(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir):
        _check_config(workdir, config)
        text = json.dumps(json.loads(config.to_json()), indent=1)
        replace_text(workdir / TRAIN_CONFIG_FILE, text + "\n")
        yield


def check_workdir(workdir: Path, config) -> None:
    """Raises what `only_run_in` would raise, and writes nothing."""
    _check_no_model(workdir)
    if (workdir / _LOCK_FILE).exists():
        with _locked(workdir):
            pass
    _check_config(workdir, config)


def _check_no_model(workdir: Path) -> None:
    file = workdir / CONFIG_FILE
    if file.exists() and "weights" in json.loads(file.read_text()):
        raise ValueError(f"{workdir} holds a saved model: give another folder as workdir")


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    with open(workdir / _LOCK_FILE, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {workdir}") from None
        yield


def _check_config(workdir: Path, config) -> None:
    file = workdir / TRAIN_CONFIG_FILE
    if not file.exists():
        return
    now, before = json.loads(config.to_json()), json.loads(file.read_text())
    # Runs older than a field of the scaling were trained as by its default.
    ours, theirs = (_flat(to_dict(Scaling()) | each) for each in (now, before))
    changed = sorted(
        name
        for name in (ours.keys() | theirs.keys()) - _MAY_CHANGE
        if ours.get(name) != theirs.get(name)
    )
    if changed:
        name = changed[0]
        raise ValueError(
            f"{workdir} was trained with config.{name}={theirs.get(name)}, not "
            f"{ours.get(name)}: use the config it was trained with, or another workdir"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


class DiskFullError(OSError):
    """There was no room for what a run writes."""


_NO_ROOM = tuple(map(os.strerror, (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)))


@contextlib.contextmanager
def telling_of_a_full_disk(workdir: Path) -> Iterator[None]:
    """Turns whatever a library raises where there is no room into one line.

    Raises:
      DiskFullError: names the workdir and the checkpoint from which the run can go on.
    """
    try:
        yield
    except Exception as error:
        reason = next((text for text in _NO_ROOM if text in _chain(error)), None)
        if reason is None or not is_first():  # others repeat what process 0 says
            raise
        steps = saved_steps(workdir)
        good = f"checkpoint {steps[-1]} is intact" if steps else "none was saved yet"
        raise DiskFullError(
            f"{workdir}: {reason}; {good}: make room, and the same command continues from there"
        ) from None


class RunCheckpoints:
    """The checkpoints of a workdir, which thereby is a model directory for `l2sae_jax.load`.

    A checkpoint has three items: "networks", what a user of the model reads; "training", the rest
    of the state; "pipeline", the place in the data. Process 0 writes and reads it, whole, so that
    it does not matter how many processes and devices saved it and how many go on.

    Attributes:
      workdir: where they are.
      latest: step of the newest complete checkpoint, or None.
    """

    def __init__(self, workdir: Path, objective: Objective, keep: int):
        self._kind = "smpn" if objective.config.kind == "smpn" else "smn"
        self.workdir = workdir
        self._description = {
            "format": FORMAT,
            self._kind: describe(objective.autoencoder, objective.architecture),
            "metadata": {"objective": objective.config.kind},
        }
        with failing_together():
            self._manager = self._open(keep) if is_first() else None
        self.latest: int | None = from_first(self._manager and self._manager.latest_step())

    def _open(self, keep: int) -> ocp.CheckpointManager:
        folder = (self.workdir / CHECKPOINTS).absolute()
        folder.mkdir(exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=False,
            create=False,
            cleanup_tmp_directories=True,
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0}),
        )
        return ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, state: TrainState, pipeline: Pipeline) -> None:
        """Saves a run after `step` batches; complete or not at all, and older ones stay."""
        state = fetch(state)
        with failing_together():
            if is_first():
                self._write(step, state, pipeline)
        self.latest = step

    def _write(self, step: int, state: TrainState, pipeline: Pipeline) -> None:
        size = sum(x.nbytes for x in jax.tree.leaves(state))
        _find_room(self.workdir / CHECKPOINTS, size + size // 8 + 2**20)
        try:
            write_config(self.workdir, self._description)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    networks=ocp.args.PyTreeSave(self._networks(state)),
                    training=ocp.args.PyTreeSave(_rest(state)),
                    pipeline=ocp.args.JsonSave(pipeline.get_state()),
                ),
            )
        except Exception:
            for unfinished in (self.workdir / CHECKPOINTS).glob(f"{step}.*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def restore(self, state: TrainState, pipeline: Pipeline, layout: TrainState) -> TrainState:
        """The run as it was when the newest checkpoint was saved.

        Args:
          state: shapes of a state of the same structure.
          pipeline: set to where it was.
          layout: the shardings the state shall have.

        Raises:
          ValueError: the checkpoint is of a run with another configuration.
        """
        position, restored = None, None
        with failing_together():
            if is_first():
                position, restored = self._read(state)
        pipeline.set_state(from_first(position))
        if not is_first():
            restored = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
        return place(multihost_utils.broadcast_one_to_all(restored), layout)

    def _read(self, state: TrainState) -> tuple[dict[str, Any], TrainState]:
        """Place in the data and state of the newest checkpoint."""
        try:
            restored = self._manager.restore(
                self.latest,
                args=ocp.args.Composite(
                    networks=_restore_args(self._networks(state)),
                    training=_restore_args(_rest(state)),
                    pipeline=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"checkpoint {self.latest} does not fit this configuration ({reason}): use the "
                "config it was trained with, or another workdir"
            ) from error
        networks, training = restored["networks"][self._kind], restored["training"]
        result = {name: networks.pop(name) for name in state.result}
        averaged = state.average is not None
        return restored["pipeline"], TrainState(
            step=training["step"],
            generator=training["generator"] if averaged else result,
            discriminator=networks,
            generator_optimizer=training["generator_optimizer"],
            discriminator_optimizer=training["discriminator_optimizer"],
            average=result if averaged else None,
        )

    def close(self) -> None:
        """Waits for what is being written."""
        if self._manager is not None:
            self._manager.close()

    def _networks(self, state: TrainState) -> dict[str, Any]:
        return {self._kind: state.result | state.discriminator}


def _find_room(folder: Path, size: int) -> None:
    """Raises OSError unless so many bytes can be written to a folder.

    Orbax would learn it in its threads, each of which has a traceback to tell.
    """
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:  # some file systems cannot tell
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise


def _rest(state: TrainState) -> dict[str, Any]:
    """What "networks" does not hold."""
    rest = {
        "step": state.step,
        "generator_optimizer": state.generator_optimizer,
        "discriminator_optimizer": state.discriminator_optimizer,
    }
    return rest if state.average is None else rest | {"generator": state.generator}


def _restore_args(tree: Any) -> ocp.args.PyTreeRestore:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return ocp.args.PyTreeRestore(item=tree, restore_args=as_numpy)


def _chain(error: BaseException | None) -> str:
    """The texts of an error and of those it came from."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)
