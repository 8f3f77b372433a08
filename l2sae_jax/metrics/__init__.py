"""How good masks and reconstructions are."""

from l2sae_jax.metrics.scores import mask_sums, reconstruction_sums, summarise

__all__ = ["mask_sums", "reconstruction_sums", "summarise"]
