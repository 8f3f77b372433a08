"""Checkpoints to test with: the published families' manifests, and a recipe for their weights.

`fixtures/manifests.json` holds, for each family, its `options`, the shape of each of its `entries`
in the checkpoint's order and, for the published ones, the number of `params` of each network.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from l2sae_jax.nn import (
    Architecture,
    DecoderConfig,
    EncoderConfig,
    ImageDiscriminatorConfig,
    PatchDiscriminatorConfig,
)

COUNTER = "num_discriminator_iters"
TAPS = {1: (1,), 3: (1, 2, 1), 4: (1, 3, 3, 1)}


def load_manifests() -> dict[str, dict[str, Any]]:
    """The manifests by family: ffhq512, ffhq1024, ..., and the two models of the test figures."""
    return json.loads((Path(__file__).parent / "fixtures" / "manifests.json").read_text())


def weight(name: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 values from which the reference figures of entry `name` were made."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    values = generator.standard_normal(tuple(shape), dtype=np.float32)
    if name.endswith("noise.weight"):
        return np.float32(0.1) * values
    if name.endswith(("modulation.bias", "SpatialCodeModulation.scale.bias")):
        return 1 + np.float32(0.1) * values
    if name.split(".")[-1] == "bias":
        return np.float32(0.1) * values
    return values


def buffer(name: str, shape: Sequence[int]) -> np.ndarray:
    """The fixed blur kernel called `name`; the decoder's make up for the zeros they spread."""
    kernel = np.outer(TAPS[shape[0]], TAPS[shape[0]]).astype(np.float32)
    return kernel / kernel.sum() * np.float32(4 if name.startswith("G.") else 1)


def checkpoint(manifest_entries: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """A state dict with these entries: weights by the recipe, blur buffers and the counter."""

    def entry(name: str, shape: Sequence[int]) -> np.ndarray:
        if name == COUNTER:
            return np.array([16])
        return buffer(name, shape) if name.endswith("kernel") else weight(name, shape)

    return {name: entry(name, shape) for name, shape in manifest_entries.items()}


def tiny_architecture(**changes: Any) -> Architecture:
    """All four networks in ten thousand parameters; `changes` replace whole configurations."""
    networks = {
        "encoder": EncoderConfig((3, 4, 5), 8, (6, 7), 9),
        "decoder": DecoderConfig(8, 9, (8, 10), (10, 6)),
        "image_discriminator": ImageDiscriminatorConfig(48, (3, 4, 5, 6, 7), 4, 6),
        "patch_discriminator": PatchDiscriminatorConfig(16, (3, 5, 6), 7, 4, (5, 6)),
    }
    return Architecture(**(networks | changes))
