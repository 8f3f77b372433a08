"""How long an edit takes."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from l2sae_jax import editing
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.model import L2SAE
from l2sae_jax.pixels import to_images
from l2sae_jax.regions import REGION_NAMES


class Timing(NamedTuple):
    """Seconds of one edit of one image, warm: of many, the median and the middle nine tenths."""

    median: float
    low: float
    high: float
    count: int


def time_edits(
    model: L2SAE, protocol: Protocol, pixels: UInt8[np.ndarray, "N H W 3"], seconds: float = 2.0
) -> dict[str, Timing]:
    """Times the edit of each region on JAX's first device, one image at a time.

    An edit is all of Algorithms 1 and 2: two encodings, two decodings, the matte. Its image lies on
    the device already, and the result stays there.

    Args:
      pixels: images to take in turn, for the size of a region has a say in how long it takes.
      seconds: how long to repeat each edit; at least 5 times, at most 200.
    """
    model = jax.device_put(model, jax.local_devices()[0])
    images = [to_images(one[None]) for one in pixels]
    key = jax.random.key(protocol.seed)
    how = protocol.strength, protocol.blend, None, protocol.harmonise

    def edit(region, image):
        return editing.edit(model, image, key, (region,), *how)

    return {region: _timed(partial(edit, region), images, seconds) for region in REGION_NAMES}


def _timed(edit: Callable[[Any], Any], images: Sequence[Any], seconds: float) -> Timing:
    times: list[float] = []
    jax.block_until_ready(edit(images[0]))  # compiles
    while len(times) < 5 or (sum(times) < seconds and len(times) < 200):
        image = images[len(times) % len(images)]
        start = time.perf_counter()
        jax.block_until_ready(edit(image))
        times.append(time.perf_counter() - start)
    times.sort()
    last = len(times) - 1
    low, high = times[round(0.05 * last)], times[round(0.95 * last)]
    return Timing(statistics.median(times), low, high, len(times))
