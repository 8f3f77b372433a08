"""Test images in batches of one size, each with the image whose style it is to take."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from l2sae_jax.data.sources import Source


class Batch(NamedTuple):
    """Images and what is known of them.

    Attributes:
      ids: those of the data set, from which each image's noise is drawn.
      pixels: the images.
      labels: their true label maps; see `regions.PART_LABELS`.
      reference_pixels, reference_labels: those of the image that comes next in the data set, which
        lends its style in swaps; after the last, the first.
      count: how many rows are images: those after them repeat the last.
    """

    ids: Int[np.ndarray, " B"]
    pixels: UInt8[np.ndarray, "B H W 3"]
    labels: UInt8[np.ndarray, "B H W"]
    reference_pixels: UInt8[np.ndarray, "B H W 3"]
    reference_labels: UInt8[np.ndarray, "B H W"]
    count: int


def batches(source: Source, images: int, batch_size: int) -> Iterator[Batch]:
    """The first `images` of a data set."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, images, batch_size):
            positions = range(start, min(start + batch_size, images))
            yield batch_of(source, images, positions, batch_size, pool.map)


def batch_of(
    source: Source,
    images: int,
    positions: Sequence[int],
    batch_size: int,
    map: Callable[..., Iterable] = map,
) -> Batch:
    """The images at these positions among the first `images`, at most `batch_size` of them."""
    following = [(position + 1) % images for position in positions]
    needed = sorted({*positions, *following})
    examples = dict(zip(needed, map(source.__getitem__, needed), strict=True))
    filled = batch_size - len(positions)
    own, references = (
        [examples[i] for i in [*rows, *rows[-1:] * filled]] for rows in ([*positions], following)
    )
    pictures = [
        np.stack([example[name] for example in some])
        for some in (own, references)
        for name in ("image", "labels")
    ]
    return Batch(np.int64([example["id"] for example in own]), *pictures, len(positions))
