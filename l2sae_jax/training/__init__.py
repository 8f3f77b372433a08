"""Training: state, steps, the loop that runs them, and what it writes down."""

from l2sae_jax.training.loop import train_and_evaluate
from l2sae_jax.training.memory import memory_use
from l2sae_jax.training.rehearsal import dry_run
from l2sae_jax.training.scaling import Scaling
from l2sae_jax.training.stopping import StoppedError

__all__ = ["Scaling", "StoppedError", "dry_run", "memory_use", "train_and_evaluate"]
