import json

import numpy as np
import pytest

from l2sae_jax.data.pipeline import make_pipeline, mirror
from l2sae_jax.regions import PART_LABELS

LEFT, RIGHT = PART_LABELS["l_eye"], PART_LABELS["r_eye"]


class Numbered:
    """Example i has the number i in its pixels, and a left eye in its left column."""

    def __init__(self, length: int):
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> dict:
        labels = np.zeros((2, 3), np.uint8)
        labels[:, 0] = LEFT
        return {"image": np.full((2, 3, 3), i, np.uint8), "labels": labels, "id": i}


def take(pipeline, batches: int | None = None) -> list[dict]:
    return list(pipeline) if batches is None else [next(pipeline) for _ in range(batches)]


def numbers(batches: list[dict]) -> list[int]:
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist()


def mirrored(batches: list[dict]) -> list[bool]:
    return np.concatenate([batch["labels"][:, 0, 2] == RIGHT for batch in batches]).tolist()


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for key in ("image", "labels"):
            np.testing.assert_array_equal(one[key], other[key])


def test_batches_are_bytes_and_nothing_else():
    (batch,) = take(make_pipeline(Numbered(8), batch_size=4, seed=0), 1)
    assert sorted(batch) == ["image", "labels"]
    assert batch["image"].shape == (4, 2, 3, 3) and batch["image"].dtype == np.uint8
    assert batch["labels"].shape == (4, 2, 3) and batch["labels"].dtype == np.uint8


def test_every_epoch_has_each_example_once_in_a_new_order():
    order = numbers(take(make_pipeline(Numbered(20), batch_size=4, seed=0), 10))
    first, second = order[:20], order[20:]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != list(range(20))


def test_the_seed_decides_everything():
    def run(seed):
        return take(make_pipeline(Numbered(20), batch_size=4, seed=seed), 7)

    assert_same(run(1), run(1))
    assert numbers(run(1)) != numbers(run(2))


def test_without_shuffling_and_mirroring_the_source_comes_as_it_is():
    pipeline = make_pipeline(Numbered(6), batch_size=3, seed=0, shuffle=False, flip=False, epochs=2)
    batches = take(pipeline)
    assert numbers(batches) == [*range(6), *range(6)]
    assert not any(mirrored(batches))


def test_a_mirrored_example():
    example = Numbered(1)[0]
    example["image"][:, 0] = 9
    seen = mirror(example)
    assert (seen["image"][:, 2] == 9).all() and (seen["image"][:, 0] == 0).all()
    assert (seen["labels"][:, 2] == RIGHT).all() and (seen["labels"][:, :2] == 0).all()
    np.testing.assert_array_equal(mirror(seen)["labels"], example["labels"])


def test_half_are_mirrored_and_chosen_anew_every_epoch():
    pipeline = make_pipeline(Numbered(200), batch_size=100, seed=0, shuffle=False)
    first, second = mirrored(take(pipeline, 2)), mirrored(take(pipeline, 2))
    assert 70 < sum(first) < 130
    assert first != second


def test_neither_batch_size_nor_threads_change_the_sequence():
    def run(batch_size, **options):
        batches = take(
            make_pipeline(Numbered(20), batch_size=batch_size, seed=3, **options), 48 // batch_size
        )
        return numbers(batches), mirrored(batches)

    assert run(2) == run(8) == run(12, threads=1, prefetch=1)


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_share_the_global_batches(process_count):
    """Process p holds rows [p * b : (p + 1) * b] of every global batch."""
    whole = take(make_pipeline(Numbered(22), batch_size=8, seed=5, epochs=3))
    parts = [
        take(
            make_pipeline(
                Numbered(22),
                batch_size=8,
                seed=5,
                epochs=3,
                process_index=p,
                process_count=process_count,
            )
        )
        for p in range(process_count)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in ("image", "labels")}
        for step in zip(*parts, strict=True)
    ]
    assert len(whole) == 22 * 3 // 8
    assert_same(joined, whole)


@pytest.mark.parametrize("position", [0, 1, 7])
def test_it_resumes_to_the_bit(position):
    def pipeline():
        return make_pipeline(Numbered(20), batch_size=4, seed=7)

    original = pipeline()
    take(original, position)
    state = json.loads(json.dumps(original.get_state()))
    expected = take(original, 9)
    resumed = pipeline()
    resumed.set_state(state)
    assert_same(take(resumed, 9), expected)
    original.set_state(state)
    assert_same(take(original, 9), expected)


def test_it_resumes_on_another_number_of_processes():
    single = make_pipeline(Numbered(20), batch_size=4, seed=7)
    take(single, 3)
    state = single.get_state()
    second = make_pipeline(Numbered(20), batch_size=4, seed=7, process_index=1, process_count=2)
    second.set_state(state)
    (whole,), (half,) = take(single, 1), take(second, 1)
    np.testing.assert_array_equal(half["image"], whole["image"][2:])


def test_an_incomplete_last_batch_is_dropped_or_kept():
    def sizes(**options):
        pipeline = make_pipeline(Numbered(7), batch_size=3, seed=0, epochs=1, **options)
        return [len(batch["image"]) for batch in pipeline]

    assert sizes() == [3, 3]
    assert sizes(drop_remainder=False) == [3, 3, 1]


def test_a_source_smaller_than_a_batch_can_repeat():
    order = numbers(take(make_pipeline(Numbered(3), batch_size=6, seed=0), 1))
    assert sorted(order) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("length", "options", "message"),
    [
        (0, {}, "the source has 0 examples"),
        (3, {"epochs": 1}, "3 examples, less than one batch of 4"),
        (9, {"batch_size": 0}, "batch_size 0 is not a positive multiple"),
        (9, {"process_count": 3}, "batch_size 4 is not a positive multiple of 3 processes"),
        (9, {"process_index": 2, "process_count": 2}, "process_index 2 is not below"),
        (9, {"process_count": 2, "drop_remainder": False}, "cannot be shared"),
    ],
)
def test_nonsense_is_refused(length, options, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(Numbered(length), **{"batch_size": 4, "seed": 0, **options})
