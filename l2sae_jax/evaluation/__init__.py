"""What an edit is worth: systems measured on test images, and a report of it."""

from l2sae_jax.evaluation.evaluating import Request, evaluate
from l2sae_jax.evaluation.protocol import MEASURES, PRESETS, Protocol
from l2sae_jax.evaluation.report import summary

__all__ = ["MEASURES", "PRESETS", "Protocol", "Request", "evaluate", "summary"]
