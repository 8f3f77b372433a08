"""The input pipeline: shuffle, mirror, batch, shard, prefetch; resumable to the example.

The sequence of global batches depends on the seed and the global batch size alone: not on the
number of processes or threads. Pictures stay uint8; the device normalises them.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import grain
import numpy as np
from jaxtyping import UInt8

from l2sae_jax.data.sources import Source
from l2sae_jax.regions import MIRRORED_LABELS

Batch = dict[str, UInt8[np.ndarray, "b H W *C"]]


class Pipeline(Protocol, Iterator[Batch]):
    """An iterator whose position can be saved; what grain's iterators look like."""

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch taken, as JSON-serialisable values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a position that `get_state` returned, in this or another process."""


def make_pipeline(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    flip: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    epochs: int | None = None,
    drop_remainder: bool = True,
    threads: int = 16,
    prefetch: int = 64,
) -> Pipeline:
    """Batches of a source for one process.

    Args:
      source: the examples.
      batch_size: examples in a global batch; a multiple of `process_count`.
      seed: decides the order of every epoch and who is mirrored.
      shuffle: a new order every epoch, or the order of the source.
      flip: mirror half of the examples, chosen anew every epoch, with their labels.
      process_index: this process, from 0; it yields rows
        `[process_index * b : (process_index + 1) * b]` of every global batch, where
        `b = batch_size / process_count`.
      process_count: number of processes that share every global batch.
      epochs: how often each example comes; None for ever. Epochs follow one another without a
        gap, so that only the very last batch could be incomplete.
      drop_remainder: leave out that last batch if it is incomplete. One process only may keep it.
      threads: threads that read examples.
      prefetch: batches read ahead at most.

    Returns:
      An iterator over `{"image": uint8 [b, H, W, 3], "labels": uint8 [b, H, W]}`.

    Raises:
      ValueError: sizes that do not divide, a process index out of range, or a source with less
        than one batch.
    """
    _check(len(source), batch_size, process_index, process_count, epochs, drop_remainder)
    examples = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        examples = examples.shuffle()
    examples = examples.repeat(epochs)
    # After `repeat` a record's generator follows from its place in the global sequence: neither
    # batching nor sharding changes it.
    examples = examples.random_map(_flip_half) if flip else examples.map(_without_id)
    local = examples.batch(batch_size // process_count, drop_remainder=drop_remainder)
    whole = len(local) // process_count * process_count
    local = local[process_index:whole:process_count]
    return iter(local.to_iter_dataset(grain.ReadOptions(threads, prefetch)))


def mirror(example: dict) -> dict:
    """The example seen in a mirror: what was the person's left is labelled right."""
    return {
        "image": np.ascontiguousarray(example["image"][:, ::-1]),
        "labels": MIRRORED_LABELS[example["labels"][:, ::-1]],
    }


def _without_id(example: dict) -> dict:
    return {"image": example["image"], "labels": example["labels"]}


def _flip_half(example: dict, rng: np.random.Generator) -> dict:
    return mirror(example) if rng.random() < 0.5 else _without_id(example)


def _check(
    length: int,
    batch_size: int,
    process_index: int,
    process_count: int,
    epochs: int | None,
    drop_remainder: bool,
) -> None:
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index {process_index} is not below process_count {process_count}"
        )
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} is not a positive multiple of {process_count} processes"
        )
    if not drop_remainder and process_count > 1:
        raise ValueError("an incomplete last batch cannot be shared by several processes")
    available = length if epochs is None else length * epochs
    if length == 0 or (epochs is not None and drop_remainder and available < batch_size):
        raise ValueError(
            f"the source has {available} examples, less than one batch of {batch_size}"
        )
