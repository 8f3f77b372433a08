"""Saving and restoring a run, its place in the data included."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from l2sae_jax.checkpoints import CHECKPOINTS, FORMAT, describe, write_config
from l2sae_jax.data.pipeline import Pipeline
from l2sae_jax.objectives import Objective
from l2sae_jax.training.state import TrainState


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
