"""Measures of masks, pictures and sets of pictures, by module; these are for training."""

from l2sae_jax.metrics.scores import mask_sums, reconstruction_sums, summarise

__all__ = ["mask_sums", "reconstruction_sums", "summarise"]
