"""One batch measured: what a system makes of it, held against what is known of it.

Everything is measured on pictures as a user gets them, rounded to whole levels, so that a model's
figures and those of a folder with its pictures are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from l2sae_jax.evaluation.batches import Batch
from l2sae_jax.evaluation.protocol import Kind, Protocol, reconstruction, swap
from l2sae_jax.evaluation.systems import Made, Placed, System, place, segment
from l2sae_jax.label_maps import label_map
from l2sae_jax.metrics.inception import Inception
from l2sae_jax.metrics.locality import change_by_zone, swap_errors
from l2sae_jax.metrics.perceptual import Lpips, lpips
from l2sae_jax.metrics.reconstruction import l1, psnr, ssim
from l2sae_jax.metrics.segmentation import boundary_f, coverage, label_confusion, overlap
from l2sae_jax.model import L2SAE
from l2sae_jax.parallel import ROWS, WHOLE, over_shards
from l2sae_jax.pixels import to_images
from l2sae_jax.regions import REGION_NAMES

BOUNDARY_RADIUS = 2.0  # pixels

Rows = dict[str, np.ndarray]


class Instruments(NamedTuple):
    """What measures need besides pictures; on every device.

    Attributes:
      lpips: the networks there are, by name.
      inception: parameters of the Inception network, or None.
      judge: the model that finds the regions of edited pictures, or None.
    """

    lpips: Mapping[str, Lpips]
    inception: Any | None
    judge: L2SAE | None


def band_width(image_size: int) -> int:
    """Pixels of the band round a region in which a change is neither inside it nor far from it."""
    return max(1, image_size // 32)


class Task(NamedTuple):
    """What there is to measure of a batch of images; the pictures are made when they are asked for.

    Attributes:
      found: the masks that the system found, or None.
    """

    system: System
    batch: Batch
    placed: Placed
    found: Made | None
    protocol: Protocol
    instruments: Instruments
    mesh: Mesh

    def make(self, kind: Kind) -> Made | None:
        """The system's pictures of a kind."""
        return self.system.make(self.batch, self.placed, self.found, kind)


def prepare(
    system: System, batch: Batch, protocol: Protocol, instruments: Instruments, mesh: Mesh
) -> Task:
    """Puts a batch on the devices, and has the system find its masks."""
    placed = place(batch, mesh)
    found = system.segment(batch, placed)
    return Task(system, batch, placed, found, protocol, instruments, mesh)


def measure(task: Task, name: str) -> Rows:
    """All that a measure tells of the images of a batch.

    Returns:
      Arrays `[count, ...]`, by names such as "edit/inside"; NaN where an image has no such figure.
      Axes after the first are of regions, or of strengths and regions, in their order. Empty where
      the system has nothing to measure. "unreadable" has a line for each picture left out.
    """
    part = {
        "segmentation": _segmentation,
        "reconstruction": _reconstruction,
        "edit": _edits,
        "sweep": _sweep,
        "swap": _swaps,
    }[name]
    count = task.batch.count
    rows = {column: value[:count] for column, value in part(task).items()}
    unreadable = task.system.unreadable()
    if unreadable:
        rows["unreadable"] = np.array(unreadable)
    return {f"{name}/{column}": value for column, value in rows.items()}


def originals(batch: Batch, instruments: Instruments, mesh: Mesh) -> Rows:
    """The Inception features of the images of a batch."""
    placed = place(batch, mesh)
    found = _measure_picture(mesh, (), instruments, placed.pixels, placed.pixels)
    return {"features": np.asarray(found["features"])[: batch.count]}


def _segmentation(task: Task) -> Rows:
    if task.found is None:
        return {}
    found = _measure_masks(task.mesh, task.found.value, task.placed.truth)
    if not task.system.has_slices:
        del found["coverage"]
    return _rows(found, task.found.present)


def _reconstruction(task: Task) -> Rows:
    made = task.make(reconstruction())
    if made is None:
        return {}
    measures = "fidelity", *_every_lpips(task)
    found = _measure_picture(task.mesh, measures, task.instruments, task.placed.pixels, made.value)
    return _rows(found, made.present)


def _edits(task: Task) -> Rows:
    judge, judged = task.instruments.judge, None
    if judge is not None:
        judged = segment(judge, task.mesh, task.placed.pixels)
    return _by_region(partial(_edits_of, task, judged))


def _edits_of(task: Task, judged: Array | None, region: int) -> Rows:
    made = [task.make(kind) for kind in task.protocol.edits(region)]
    if made[0] is None:
        return {}
    rows = _edit_rows(task, made[0], region, ("alexnet",))
    if judged is not None:
        found = _measure_structure(task.mesh, task.instruments, judged, made[0].value)
        rows |= _rows(found, made[0].present)
    apart = [
        _rows({"diversity": _lpips_between(task, a.value, b.value)}, a.present & b.present)
        for a, b in combinations((one for one in made if one is not None), 2)
        if "alexnet" in task.instruments.lpips
    ]
    if apart:
        rows["diversity"] = np.mean([one["diversity"] for one in apart], axis=0)
    return rows


def _sweep(task: Task) -> Rows:
    return _by_region(partial(_sweep_of, task))


def _sweep_of(task: Task, region: int) -> Rows:
    made = [task.make(kind) for kind in task.protocol.sweep(region)]
    rows = [{} if one is None else _edit_rows(task, one, region, ()) for one in made]
    return _stacked(rows, lambda name: 1)


def _swaps(task: Task) -> Rows:
    return _by_region(partial(_swaps_of, task))


def _swaps_of(task: Task, region: int) -> Rows:
    made = task.make(swap(region))
    if made is None:
        return {}
    return _rows(_measure_swap(task.mesh, task.placed, made.value, region), made.present)


def _edit_rows(task: Task, made: Made, region: int, measures: tuple[str, ...]) -> Rows:
    band = band_width(task.batch.pixels.shape[1])
    truth = task.placed.truth[..., region]
    found = _measure_picture(
        task.mesh, measures, task.instruments, task.placed.pixels, made.value
    ) | _measure_change(task.mesh, band, task.instruments, task.placed.pixels, made.value, truth)
    return _rows(found, made.present)


def _every_lpips(task: Task) -> tuple[str, ...]:
    return tuple(sorted(task.instruments.lpips))


def _lpips_between(task: Task, a: Array, b: Array) -> Array:
    measured = _measure_picture(
        task.mesh, ("alexnet",), task.instruments._replace(inception=None), a, b
    )
    return measured["lpips_alexnet"]


def _by_region(measure_region: Callable[[int], Rows]) -> Rows:
    """Columns of all regions, stacked as the last axis, or as the last but that of features."""
    found = [measure_region(region) for region in range(len(REGION_NAMES))]
    return _stacked(found, lambda name: -2 if name == "features" else -1)


def _stacked(found: Sequence[Rows], axis: Callable[[str], int]) -> Rows:
    """Columns stacked along a new axis, NaN in those places that have none."""
    absent = {name: np.full_like(column, np.nan) for rows in found for name, column in rows.items()}
    return {
        name: np.stack([rows.get(name, nothing) for rows in found], axis=axis(name))
        for name, nothing in absent.items()
    }


def _rows(found: Mapping[str, Array], present: np.ndarray) -> Rows:
    """Measured columns, NaN in rows without a picture."""
    rows = {}
    for name, value in jax.device_get(dict(found)).items():
        absent = ~present.reshape(-1, *[1] * (value.ndim - 1))
        rows[name] = np.where(absent, np.float32(np.nan), value)
    return rows


# ------------------------------------------------------------------------------- on the devices


@partial(jax.jit, static_argnums=0)
def _measure_masks(mesh, found, truth):
    def apply(found, truth):
        labels = [label_map(masks, REGION_NAMES) for masks in (found, truth)]
        background = 1.0 - jnp.max(truth, axis=-1, keepdims=True)
        return overlap(found, truth) | {
            "boundary_f": boundary_f(found, truth, BOUNDARY_RADIUS),
            "confusion": label_confusion(*labels, len(REGION_NAMES) + 1),
            "coverage": coverage(found, jnp.concatenate([background, truth], axis=-1)),
        }

    return over_shards(apply, mesh, (ROWS, ROWS), ROWS)(found, truth)


@partial(jax.jit, static_argnums=(0, 1))
def _measure_picture(mesh, measures, instruments, pixels, made):
    """How a picture differs from its original, and its Inception features."""

    def apply(instruments, pixels, made):
        before, after = to_images(pixels), to_images(made)
        found = {}
        if "fidelity" in measures:
            found |= {"l1": l1(before, after), "psnr": psnr(before, after)}
            found["ssim"] = ssim(before, after)
        for net, metric in instruments.lpips.items():
            if net in measures:
                found[f"lpips_{net}"] = lpips(metric, before, after)
        if instruments.inception is not None:
            found["features"] = Inception().apply({"params": instruments.inception}, after)
        return found

    inputs = WHOLE, ROWS, ROWS
    return over_shards(apply, mesh, inputs, ROWS)(instruments, pixels, made)


@partial(jax.jit, static_argnums=(0, 1))
def _measure_change(mesh, band, instruments, pixels, made, truth):
    """Where an edit changed its original, and how much it did so inside the true region."""

    def apply(instruments, pixels, made, truth):
        before, after = to_images(pixels), to_images(made)
        found = change_by_zone(before, after, truth, band)
        if "alexnet" in instruments.lpips:
            within = jnp.where(truth[..., None] > 0.5, after, before)
            measured = lpips(instruments.lpips["alexnet"], before, within)
            has_region = jnp.any(truth > 0.5, axis=(1, 2))
            found["lpips_inside"] = jnp.where(has_region, measured, jnp.nan)
        return found

    inputs = WHOLE, ROWS, ROWS, ROWS
    return over_shards(apply, mesh, inputs, ROWS)(instruments, pixels, made, truth)


@partial(jax.jit, static_argnums=0)
def _measure_structure(mesh, instruments, judged, made):
    """Pixels of the regions that the judge finds in edits, and in originals."""

    def apply(judge, judged, made):
        found = overlap(judge.region_masks(to_images(made), range(len(REGION_NAMES))), judged)
        return {
            "structure_intersection": found["intersection"],
            "structure_union": found["found"] + found["truth"] - found["intersection"],
        }

    return over_shards(apply, mesh, (WHOLE, ROWS, ROWS), ROWS)(instruments.judge, judged, made)


@partial(jax.jit, static_argnums=0)
def _measure_swap(mesh, placed, made, region):
    def apply(placed, made, region):
        source, reference, swapped = map(to_images, (placed.pixels, placed.reference_pixels, made))
        masks = placed.truth[..., region], placed.reference_truth[..., region]
        before = swap_errors(source, reference, source, *masks)["mse_ref"]
        return swap_errors(source, reference, swapped, *masks) | {"mse_ref_before": before}

    return over_shards(apply, mesh, (ROWS, ROWS, WHOLE), ROWS)(placed, made, region)
