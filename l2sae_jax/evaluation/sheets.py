"""Contact sheets of best, median and worst cases: masks by their IoU, edits by their locality."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from l2sae_jax.batch_editing.contact_sheet import Cell, ContactSheet
from l2sae_jax.evaluation.batches import Batch, batch_of
from l2sae_jax.evaluation.figures import FIGURES
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.running import Setting
from l2sae_jax.evaluation.store import Table
from l2sae_jax.evaluation.systems import Placed, System, place
from l2sae_jax.label_maps import colour_map, label_map, overlay
from l2sae_jax.regions import REGION_NAMES

_CELL_SIZE = 192  # pixels, so that four are as wide as a report
_COLUMNS = 4
_AMPLIFIED = 4
_GROUPS = ("best", "median", "worst")

Picture = UInt8[np.ndarray, "H W 3"]


class Case(NamedTuple):
    """What a line of a sheet shows.

    Attributes:
      group: "best", "median" or "worst" of its column.
      image: its position in the data set.
      column: of the image's scores; of edits the position in `REGION_NAMES`.
      score: more is better.
    """

    group: str
    image: int
    column: int
    score: float


def write_sheets(
    folder: Path, system: System, table: Table, setting: Setting, cases: int = len(REGION_NAMES)
) -> dict[str, Path]:
    """Writes the sheets for which a system was measured; makes again only the pictures they show.

    Args:
      folder: where to write; made if need be.
      table: what was measured of the system.
      setting: what it was measured in.
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
        for start in range(0, len(chosen), setting.batch_size):
            some = chosen[start : start + setting.batch_size]
            positions = [case.image for case in some]
            batch = batch_of(setting.source, setting.images, positions, setting.batch_size)
            for cells in draw(some, system, batch, place(batch, setting.mesh), setting.protocol):
                sheet.add((), cells)
        sheet.finish()
        written[title] = folder / f"{name}.png"
    return written


# --------------------------------------------------------------------------------------- choosing


def choose(scores: Float[np.ndarray, "N K"], cases: int) -> list[Case]:
    """The best, the median and the worst of each column in turn, of every image one at the most.

    Scores are held against others of their column only, for one region is harder than another.

    Args:
      scores: more is better; NaN does not count.
      cases: how many a group; a third of the images if that is less, but 1 at least.

    Returns:
      Group by group and in each by column, from best to worst.
    """
    ranked = [_from_the_best(column) for column in scores.T]
    orders = {
        "best": ranked,
        "worst": [images[::-1] for images in ranked],
        "median": [_from_the_middle(images) for images in ranked],
    }
    size = min(cases, max(1, np.isfinite(scores).any(axis=1).sum() // 3))
    taken: set[int] = set()
    chosen = [
        Case(group, image, column, float(scores[image, column]))
        for group, columns in orders.items()
        for image, column in _in_turn(columns, size, taken)
    ]
    return sorted(chosen, key=lambda case: (_GROUPS.index(case.group), case.column, -case.score))


def _from_the_best(column: Float[np.ndarray, " N"]) -> Int[np.ndarray, " n"]:
    """The images that have a score."""
    images = np.flatnonzero(np.isfinite(column))
    return images[np.argsort(-column[images], kind="stable")]


def _from_the_middle(images: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Those first that are nearest to the middle."""
    middle = (len(images) - 1) / 2
    return images[np.argsort(np.abs(np.arange(len(images)) - middle), kind="stable")]


def _in_turn(
    columns: Sequence[Int[np.ndarray, " n"]], size: int, taken: set[int]
) -> Iterator[tuple[int, int]]:
    """Images and their columns: of each in turn the first that is not taken yet; takes them."""
    waiting = deque((column, iter(images.tolist())) for column, images in enumerate(columns))
    while waiting and size:
        column, images = waiting.popleft()
        image = next((image for image in images if image not in taken), None)
        if image is not None:
            taken.add(image)
            size -= 1
            waiting.append((column, images))
            yield image, column


def _of_each_image(name: str, table: Table) -> Float[np.ndarray, "N R"]:
    """A figure of the report, of every image by itself; NaN where it has none."""
    ratio, _ = FIGURES[name](table)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return ratio.numerator / ratio.denominator


# ------------------------------------------------------------------------------------------ masks


def _iou(table: Table) -> Float[np.ndarray, "N 1"]:
    """Of each image the mean IoU of the regions it has, or was thought to have."""
    each = _of_each_image("segmentation.iou", table)
    with np.errstate(invalid="ignore"):  # 0 / 0
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
    return _of_each_image("edit.locality", table)


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
            Cell(before, f"{case.group} of {REGION_NAMES[case.column]}: locality {case.score:.3f}"),
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
