"""Training configs of every size and what their steps take, for benchmarks."""

import importlib.util
import statistics
from pathlib import Path

import jax
import ml_collections
import numpy as np
from measuring import times_of

from l2sae_jax.training.paper import paper_config
from l2sae_jax.training.scaling import Scaling
from l2sae_jax.training.state import create_state, make_objective, make_optimizers

CONFIGS = Path(__file__).parents[1] / "configs"


def load_config(name: str, kind: str) -> ml_collections.ConfigDict:
    """What configs/NAME.py gives for a kind, such as "smn" or "smn_64"."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(kind)


def config_for(size: int, kind: str, dtype: str) -> ml_collections.ConfigDict:
    """Small networks at 64 px, above that the full-size ones."""
    if size == 64:
        config = load_config("portraits_128", f"{kind}_64")
        config.objective.perceptual = 0.0  # another network's work
    else:
        config = paper_config(kind, size, Scaling())
    config.dtype = dtype
    return config


def first_state(config):
    """A state to begin with."""
    objective = make_objective(config)
    optimizers = make_optimizers(config, objective.config)
    params = jax.jit(objective.architecture.init)(jax.random.key(0))
    return create_state(params, optimizers, average=bool(config.average_decay))


def random_batch(config) -> dict[str, np.ndarray]:
    """Pixels and labels that mean nothing."""
    generator = np.random.default_rng(0)
    shape = (config.batch_size, config.data.size, config.data.size)
    return {
        "image": generator.integers(0, 256, (*shape, 3), np.uint8),
        "labels": generator.integers(0, 19, shape, np.uint8),
    }


def median_seconds(compiled, state, batch, seconds: float):
    """Median seconds of a step, which replaces the state every time; and the last state."""
    key = jax.random.key(0)

    def step():
        nonlocal state
        state, terms = compiled(state, batch, key)
        return terms

    return statistics.median(times_of(step, seconds)), state
