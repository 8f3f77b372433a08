"""What a training run tells of its networks, as sums that add up over batches and devices."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from l2sae_jax.metrics.reconstruction import l1
from l2sae_jax.metrics.segmentation import overlap
from l2sae_jax.regions import REGION_NAMES

Sums = dict[str, Float[Array, "..."]]


def reconstruction_sums(images: Float[Array, "B H W 3"], decoded: Float[Array, "B H W 3"]) -> Sums:
    """ "count" of images and the sum of their mean absolute errors, "l1"."""
    return {
        "count": jnp.asarray(images.shape[0], jnp.float32),
        "l1": jnp.sum(l1(decoded, images)),
    }


def mask_sums(found: Float[Array, "B H W R"], truth: Float[Array, "B H W R"]) -> Sums:
    """Pixels in the "intersection" and the "union" of hard masks, `[R]`."""
    pixels = {name: jnp.sum(count, axis=0) for name, count in overlap(found, truth).items()}
    union = pixels["found"] + pixels["truth"] - pixels["intersection"]
    return {"intersection": pixels["intersection"], "union": union}


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
