"""Run by test_scaling.py: what comes of a step computed in several ways, on 1 and 8 devices."""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from training_runs import smoke_config

from l2sae_jax.objectives import Kind
from l2sae_jax.parallel import make_mesh, place, shard_rows, whole
from l2sae_jax.training.augmentation import Augmentation
from l2sae_jax.training.checkpointing import RunCheckpoints
from l2sae_jax.training.loop import initial_parameters
from l2sae_jax.training.scaling import make_scaling
from l2sae_jax.training.state import (
    TrainState,
    create_state,
    make_objective,
    make_optimizers,
    state_layout,
)
from l2sae_jax.training.steps import make_step


@functools.cache
def parameters(network: str):
    config = smoke_config(network)
    return jax.tree.map(np.asarray, initial_parameters(config, make_objective(config)))


class Run:
    """A run of the smoke config before its first step, on some of the devices."""

    def __init__(self, network: str, devices: int, **changes):
        self.config = smoke_config(network, **changes)
        self.objective = make_objective(self.config)
        self.scaling = make_scaling(self.config)
        self.mesh = make_mesh(jax.devices()[:devices])
        assert self.mesh.size == devices
        optimizers = self.optimizers = make_optimizers(self.config, self.objective.config)
        params = parameters(network)

        def create(params):
            return create_state(params, optimizers, average=True)

        self.shapes = jax.eval_shape(create, params)
        self.layout = state_layout(self.shapes, self.mesh, self.scaling)
        create = jax.jit(create, out_shardings=self.layout)
        self.state = create(place(params, whole(self.mesh)))

    def step(self, kind: Kind, batch: int):
        """The state after one step, and its terms."""
        step = make_step(
            kind,
            self.objective,
            self.optimizers,
            self.mesh,
            self.layout,
            self.scaling,
            average_decay=0.99,
            augmentation=Augmentation(colour=0.2),
        )
        rng = np.random.default_rng(0)
        rows = {
            "image": rng.integers(0, 256, (batch, 32, 32, 3), np.uint8),
            "labels": rng.integers(0, 19, (batch, 32, 32), np.uint8),
        }
        return step(self.state, shard_rows(rows, self.mesh), jax.random.key(7))


def difference(one, other) -> float:
    """The greatest difference between two trees of arrays, relative to each array's greatest value.

    Values are taken to be no less than a hundredth of the greatest of all: a gradient in which
    large terms cancel is known no better than that.
    """
    one, other = (
        [np.asarray(x, np.float64) for x in jax.tree.leaves(jax.device_get(tree))]
        for tree in (one, other)
    )
    least = 0.01 * max(np.abs(x).max() for x in one)
    return max(
        float(np.abs(a - b).max() / max(np.abs(a).max(), least))
        for a, b in zip(one, other, strict=True)
    )


def outcome(state: TrainState, terms):
    """What a step computed: terms, and gradients as Adam's moments show them."""
    adams = (state.generator_optimizer[0], state.discriminator_optimizer[0])
    return terms, [(adam.mu, jax.tree.map(jnp.sqrt, adam.nu)) for adam in adams]


def share_of_others(one: TrainState, other: TrainState) -> float:
    """Of the parameters after a step, those that differ; Adam's first step is but a sign."""
    one, other = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(state.parameters))])
        for state in (one, other)
    )
    return float(np.mean(np.abs(one - other) > 1e-5))


def compare_steps(network: str, kind: Kind, batch: int, variants) -> dict[str, float]:
    """How far each variant of a step is from a plain one on one device."""
    expected, terms = Run(network, 1).step(kind, batch)
    found = {}
    for name, (devices, changes) in variants.items():
        run = Run(network, devices, **changes)
        state, its_terms = run.step(kind, batch)
        assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, state, run.layout))
        case = f"{network}, {kind}, {name}"
        found[case] = difference(outcome(expected, terms), outcome(state, its_terms))
        found[f"{case}: parameters"] = share_of_others(expected, state)
    return found


class Place:
    """What a checkpoint wants of a pipeline."""

    state = None

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


def move_a_checkpoint(workdir: Path) -> dict[str, float]:
    """How far states are after 8 devices saved them, 1 read and saved them, and 8 read them."""
    pipeline, before, found = Place(), None, {}
    for number, (devices, sharded) in enumerate([(8, True), (1, False), (8, False), (8, True)]):
        run = Run("joint", devices, shard_optimizer=sharded)
        checkpoints = RunCheckpoints(workdir, run.objective, keep=2)
        if checkpoints.latest is None:
            # Moments that are not all zero.
            state = jax.tree.map(lambda x: x + x.size, run.state)
            before = jax.device_get(state)
        else:
            state = checkpoints.restore(run.shapes, pipeline, run.layout)
            found[f"checkpoint {number}"] = difference(before, jax.device_get(state))
            assert pipeline.state == {"next_index": number - 1}
        checkpoints.save(number, state, _at(number))
        checkpoints.close()
    return found


def _at(number: int) -> Place:
    pipeline = Place()
    pipeline.state = {"next_index": number}
    return pipeline


VARIANTS = {
    "eight devices": (8, {}),
    "accumulated": (1, {"accumulate": 8}),
    "blocks": (1, {"remat": "blocks"}),
    "regions": (1, {"remat": "regions"}),
    "sharded optimiser": (8, {"shard_optimizer": True}),
    "high precision": (1, {"precision": "highest"}),
    "everything": (8, {"accumulate": 2, "remat": "regions", "shard_optimizer": True}),
}
QUICK = {"everything": VARIANTS["everything"]}


def main(scope: str, workdir: str) -> None:
    if scope == "quick":
        found = compare_steps("joint", "generator", 64, QUICK)
        found |= move_a_checkpoint(Path(workdir))
    else:
        found = {}
        for network in ("smn", "joint"):
            for kind in ("generator", "discriminator", "penalty"):
                found |= compare_steps(network, kind, 64, VARIANTS)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
