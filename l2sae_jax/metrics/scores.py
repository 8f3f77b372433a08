"""Segmentation and reconstruction scores, as sums that add up over batches and devices."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from l2sae_jax.regions import REGION_NAMES

Sums = dict[str, Float[Array, "..."]]


def reconstruction_sums(images: Float[Array, "B H W 3"], decoded: Float[Array, "B H W 3"]) -> Sums:
    """ "count" of images and the sum of their mean absolute errors, "l1"."""
    error = jnp.mean(jnp.abs(decoded - images), axis=(1, 2, 3))
    return {"count": jnp.asarray(images.shape[0], jnp.float32), "l1": jnp.sum(error)}


def mask_sums(found: Float[Array, "B H W R"], truth: Float[Array, "B H W R"]) -> Sums:
    """Pixels in the "intersection" and the "union" of hard masks, `[R]`."""
    return {
        "intersection": jnp.sum(found * truth, axis=(0, 1, 2)),
        "union": jnp.sum(jnp.maximum(found, truth), axis=(0, 1, 2)),
    }


def summarise(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Scores from sums: mean "l1", and "iou_REGION" over all pixels with their mean, "iou_mean"."""
    scores = {}
    if "l1" in sums:
        scores["l1"] = float(sums["l1"] / sums["count"])
    if "union" in sums:
        ious = np.asarray(sums["intersection"]) / np.maximum(sums["union"], 1.0)
        scores |= {f"iou_{name}": float(iou) for name, iou in zip(REGION_NAMES, ious, strict=True)}
        scores["iou_mean"] = float(ious.mean())
    return scores
