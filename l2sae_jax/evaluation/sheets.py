"""Contact sheets of best, median and worst cases: masks by their IoU, edits by their locality."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, UInt8

from l2sae_jax.batch_editing.contact_sheet import Cell, ContactSheet
from l2sae_jax.data.sources import Source
from l2sae_jax.evaluation.batches import Batch, batch_of
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.store import Table
from l2sae_jax.evaluation.systems import Placed, System, place
from l2sae_jax.label_maps import colour_map, label_map, overlay
from l2sae_jax.regions import REGION_NAMES

_CELL_SIZE = 192  # pixels, so that four are as wide as a report
_COLUMNS = 4
_AMPLIFIED = 4

Picture = UInt8[np.ndarray, "H W 3"]


class Case(NamedTuple):
    """What a line of a sheet shows.

    Attributes:
      group: "best", "median" or "worst".
      image: its position in the data set.
      column: of the image's scores; of edits the position in `REGION_NAMES`.
      score: more is better.
    """

    group: str
    image: int
    column: int
    score: float


def write_sheets(
    folder: Path,
    system: System,
    source: Source,
    table: Table,
    protocol: Protocol,
    mesh: Mesh,
    batch_size: int,
    cases: int = 4,
) -> dict[str, Path]:
    """Writes the sheets for which a system was measured; makes again only the pictures they show.

    Args:
      folder: where to write; made if need be.
      source: the data set that `table` is of, from its first image.
      protocol: the one that was measured by.
      batch_size: images at a time; a multiple of the number of the mesh's devices.
      cases: lines in each group; fewer where there are not three times as many images.

    Returns:
      The files by their titles.

    Raises:
      OSError: a file cannot be written.
    """
    written = {}
    for title, (name, score, draw) in _SHEETS.items():
        try:
            scores = score(table)
        except KeyError:  # not measured
            continue
        chosen = choose(scores, cases)
        if not chosen:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        sheet = ContactSheet(folder, _CELL_SIZE, name, _COLUMNS, lines=len(chosen))
        for start in range(0, len(chosen), batch_size):
            some = chosen[start : start + batch_size]
            positions = [case.image for case in some]
            batch = batch_of(source, len(scores), positions, batch_size)
            for cells in draw(some, system, batch, place(batch, mesh), protocol):
                sheet.add((), cells)
        sheet.finish()
        written[title] = folder / f"{name}.png"
    return written


def choose(scores: Float[np.ndarray, "N K"], cases: int) -> list[Case]:
    """The best, median and worst of all scores, of every image one at the most, from best to worst.

    Args:
      scores: more is better; NaN does not count.
      cases: how many a group; a third of the images if that is less, but 1 at least.
    """
    pairs = np.argwhere(np.isfinite(scores))
    pairs = pairs[np.argsort(-scores[tuple(pairs.T)], kind="stable")]
    size = min(cases, max(1, len(set(pairs[:, 0])) // 3))
    ranks = range(len(pairs))
    middle = (len(pairs) - 1) / 2
    orders: Mapping[str, Iterable[int]] = {
        "best": ranks,
        "worst": reversed(ranks),
        "median": sorted(ranks, key=lambda rank: abs(rank - middle)),
    }
    taken: set[int] = set()
    groups = {}
    for group, order in orders.items():
        groups[group] = _first_of_new_images(order, pairs[:, 0], size, taken)
    return [
        Case(group, *map(int, pairs[rank]), float(scores[tuple(pairs[rank])]))
        for group in ("best", "median", "worst")
        for rank in sorted(groups[group])
    ]


def _first_of_new_images(
    order: Iterable[int], images: Sequence[int], size: int, taken: set[int]
) -> list[int]:
    """The first `size` ranks whose images are not taken yet; takes them."""
    found: list[int] = []
    for rank in order:
        if len(found) == size:
            break
        if images[rank] not in taken:
            taken.add(images[rank])
            found.append(rank)
    return found


# ------------------------------------------------------------------------------------------ masks


def _iou(table: Table) -> Float[np.ndarray, "N 1"]:
    """Of each image the mean IoU of the regions it has, or was thought to have."""
    both = table["segmentation/intersection"]
    either = table["segmentation/found"] + table["segmentation/truth"] - both
    with np.errstate(invalid="ignore"):  # 0 / 0
        each = both / either
        return np.nansum(each, 1, keepdims=True) / np.isfinite(each).sum(1, keepdims=True)


def _mask_lines(
    cases: Sequence[Case], system: System, batch: Batch, placed: Placed, protocol: Protocol
) -> Iterator[list[Cell]]:
    masks = [np.asarray(each) for each in (placed.truth, system.segment(batch, placed).value)]
    truth, found = (np.asarray(label_map(each, REGION_NAMES)) for each in masks)
    differs = np.any(masks[0] != masks[1], axis=-1)
    for row, case in enumerate(cases):
        pixels = batch.pixels[row]
        yield [
            Cell(pixels, f"{case.group}: IoU {case.score:.3f}"),
            Cell(overlay(pixels, truth[row]), f"id {batch.ids[row]}, true masks"),
            Cell(overlay(pixels, found[row]), "masks found"),
            Cell(_marked(pixels, differs[row]), "where they differ: white"),
        ]


def _marked(pixels: Picture, where: Bool[np.ndarray, "H W"]) -> Picture:
    """White on the picture, which is darkened."""
    return np.where(where[..., None], np.uint8(255), pixels // 3)


# ------------------------------------------------------------------------------------------ edits


def _locality(table: Table) -> Float[np.ndarray, "N R"]:
    """The share inside of the mean changes inside a region and outside."""
    inside, outside = table["edit/inside"], table["edit/outside"]
    with np.errstate(invalid="ignore"):  # 0 / 0
        return inside / (inside + outside)


def _edit_lines(
    cases: Sequence[Case], system: System, batch: Batch, placed: Placed, protocol: Protocol
) -> Iterator[list[Cell]]:
    truth = np.asarray(placed.truth)
    found = system.segment(batch, placed)
    edited = {}
    for region in {case.column for case in cases}:
        made = (system.make(batch, placed, found, kind) for kind in protocol.edits(region))
        edited[region] = np.asarray(next(one.value for one in made if one is not None))
    for row, case in enumerate(cases):
        before, after = batch.pixels[row], edited[case.column][row]
        label = np.uint8(case.column + 1) * (truth[row, ..., case.column] > 0.5)
        yield [
            Cell(before, f"{case.group}: {REGION_NAMES[case.column]}, locality {case.score:.3f}"),
            Cell(colour_map(label), f"id {batch.ids[row]}, true mask"),
            Cell(after, "edit"),
            Cell(_change(before, after), f"absolute change x {_AMPLIFIED}"),
        ]


def _change(before: Picture, after: Picture) -> Picture:
    """The mean over colours, as it is measured, in grey."""
    change = np.abs(after.astype(np.int16) - before).mean(axis=-1, keepdims=True)
    return np.minimum(_AMPLIFIED * change, 255).astype(np.uint8).repeat(3, axis=-1)


_Score = Callable[[Table], Float[np.ndarray, "N K"]]
_Draw = Callable[[Sequence[Case], System, Batch, Placed, Protocol], Iterator[list[Cell]]]
_SHEETS: Mapping[str, tuple[str, _Score, _Draw]] = {
    "Masks by IoU": ("masks_by_iou", _iou, _mask_lines),
    "Edits by locality": ("edits_by_locality", _locality, _edit_lines),
}
