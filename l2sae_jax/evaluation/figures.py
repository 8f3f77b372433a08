"""The figures of the report, as ratios of sums over images of what was measured of each."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.store import Table
from l2sae_jax.metrics.resampling import Ratio
from l2sae_jax.regions import REGION_NAMES

LABELS = ("background", *REGION_NAMES)


class Figure(NamedTuple):
    """A figure, or one for each region, strength or pair of regions.

    Attributes:
      ratio: of sums over images, with an axis for each of `axes` after that of the images.
      axes: the names along each of them.
    """

    ratio: Ratio
    axes: tuple[tuple[str, ...], ...] = ()


def figures(table: Table, protocol: Protocol) -> dict[str, Figure]:
    """What can be told of a system, by names such as "segmentation.iou"."""
    found = {}
    for name, make in FIGURES.items():
        try:
            ratio, axes = make(table)
        except KeyError:  # a column that was not measured
            continue
        found[name] = Figure(ratio, tuple(_names(axis, protocol) for axis in axes))
    return found


def _names(axis: str, protocol: Protocol) -> tuple[str, ...]:
    return {
        "regions": REGION_NAMES,
        "labels": LABELS,
        "strengths": tuple(f"{strength:g}" for strength in protocol.strengths),
    }[axis]


Made = tuple[Ratio, tuple[str, ...]]


def _mean_of(column: str, *axes: str) -> Callable[[Table], Made]:
    def make(table):
        return Ratio(table[column]), axes

    return make


def _iou(table: Table) -> Made:
    both = table["segmentation/intersection"]
    either = table["segmentation/found"] + table["segmentation/truth"] - both
    return Ratio(both, either), ("regions",)


def _f1(table: Table) -> Made:
    both = table["segmentation/intersection"]
    return Ratio(2 * both, table["segmentation/found"] + table["segmentation/truth"]), ("regions",)


def _pixel_accuracy(table: Table) -> Made:
    counts = table["segmentation/confusion"]
    return Ratio(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2))), ()


def _confusion(table: Table) -> Made:
    counts = table["segmentation/confusion"]
    return Ratio(counts, counts.sum(axis=2, keepdims=True)), ("labels", "labels")


def _leakage(table: Table) -> Made:
    truth = table["segmentation/confusion"].sum(axis=2)[:, None, :]  # pixels of each true label
    return Ratio(table["segmentation/coverage"], truth), ("regions", "labels")


def _locality(table: Table) -> Made:
    inside, outside = table["edit/inside"], table["edit/outside"]
    return Ratio(inside, inside + outside), ("regions",)


def _structure(table: Table) -> Made:
    both, either = table["edit/structure_intersection"], table["edit/structure_union"]
    # Of each image a row for each region found, a column for each that was edited.
    return Ratio(*(np.diagonal(x, axis1=1, axis2=2) for x in (both, either))), ("regions",)


def _whole_structure(table: Table) -> Made:
    both, either = table["edit/structure_intersection"], table["edit/structure_union"]
    return Ratio(both.sum(axis=1), either.sum(axis=1)), ("regions",)


FIGURES: Mapping[str, Callable[[Table], Made]] = {
    "segmentation.iou": _iou,
    "segmentation.f1": _f1,
    "segmentation.boundary_f": _mean_of("segmentation/boundary_f", "regions"),
    "segmentation.pixel_accuracy": _pixel_accuracy,
    "segmentation.leakage": _leakage,
    "segmentation.confusion": _confusion,
    "reconstruction.l1": _mean_of("reconstruction/l1"),
    "reconstruction.psnr": _mean_of("reconstruction/psnr"),
    "reconstruction.ssim": _mean_of("reconstruction/ssim"),
    "reconstruction.lpips_alexnet": _mean_of("reconstruction/lpips_alexnet"),
    "reconstruction.lpips_vgg16": _mean_of("reconstruction/lpips_vgg16"),
    "edit.change_inside": _mean_of("edit/inside", "regions"),
    "edit.change_band": _mean_of("edit/band", "regions"),
    "edit.change_outside": _mean_of("edit/outside", "regions"),
    "edit.locality": _locality,
    "edit.lpips_alexnet": _mean_of("edit/lpips_alexnet", "regions"),
    "edit.lpips_inside": _mean_of("edit/lpips_inside", "regions"),
    "edit.region_iou": _structure,
    "edit.structure_iou": _whole_structure,
    "edit.diversity": _mean_of("edit/diversity", "regions"),
    "sweep.change_inside": _mean_of("sweep/inside", "strengths", "regions"),
    "sweep.change_outside": _mean_of("sweep/outside", "strengths", "regions"),
    "sweep.lpips_inside": _mean_of("sweep/lpips_inside", "strengths", "regions"),
    "swap.mse_src": _mean_of("swap/mse_src", "regions"),
    "swap.mse_ref": _mean_of("swap/mse_ref", "regions"),
    "swap.mse_ref_before": _mean_of("swap/mse_ref_before", "regions"),
}
