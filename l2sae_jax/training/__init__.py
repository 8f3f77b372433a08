"""Training: state, steps, the loop that runs them, and what it writes down."""

from l2sae_jax.training.loop import train_and_evaluate

__all__ = ["train_and_evaluate"]
