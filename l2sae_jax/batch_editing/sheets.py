"""What the contact sheet and the figure of a run show of every face."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from l2sae_jax.batch_editing.contact_sheet import FIGURE, SHEET, Cell, ContactSheet
from l2sae_jax.batch_editing.planning import Plan
from l2sae_jax.batch_editing.shots import Picture
from l2sae_jax.label_maps import colour_map, overlay
from l2sae_jax.marks import MARKS
from l2sae_jax.regions import REGION_NAMES
from l2sae_jax.variants import Found, Variant


class Sheets:
    """The contact sheet of a run and, if it is wanted, its figure.

    Attributes:
      cell_size: of the pictures on the contact sheet, in pixels.
    """

    def __init__(
        self,
        plan: Plan,
        chosen: Sequence[Variant],
        references: Mapping[str, Picture],
        size: int,
        pages: Mapping[str, int],
        software: str,
    ):
        """Begins the sheets.

        Args:
          chosen: variants of the plan's edit.
          size: of crops.
          pages: written before.
          software: what results call their maker.
        """
        self._edit, self._chosen, self._references = plan.edit, chosen, references
        # Small pictures are shown enlarged, large ones not quite in full.
        self.cell_size = 256 if size > 128 else 128
        # No words here: cells are small, and bear captions. Masks alone are nothing edited.
        mark = "metadata" if chosen and "metadata" in MARKS[plan.mark] else "none"
        begin = partial(ContactSheet, plan.output, mark=mark, software=software)
        self._sheet = begin(self.cell_size, SHEET, pages=pages.get(SHEET, 0))
        self._all = [self._sheet]
        if plan.grid:
            self._all.append(begin(max(size, 128), FIGURE, pages=pages.get(FIGURE, 0)))
        if plan.edit.mode == "swap":
            below = [Cell(picture, name) for name, picture in references.items()]
            lead = 1 + len(plan.edit.regions) if plan.edit.separately else 2
            self._add([None] * lead, below * len(plan.edit.groups))

    @property
    def pages(self) -> dict[str, int]:
        """The page of each that holds what was added last."""
        return {sheet.name: sheet.page for sheet in self._all}

    @property
    def written(self) -> dict[str, int]:
        """How many pages of each are written."""
        return {sheet.name: sheet.written for sheet in self._all}

    def finish(self) -> None:
        """Writes the last pages."""
        for sheet in self._all:
            sheet.finish()

    def add(
        self, title: str, before: Picture, found: Found | None, pictures: Sequence[Picture]
    ) -> None:
        """Adds a face, with a picture for each variant."""
        cells = [Cell(p, v.caption) for p, v in zip(pictures, self._chosen, strict=True)]
        masks = [
            Cell(_grey(found.masks[..., REGION_NAMES.index(region)]), region)
            for region in self._edit.regions
        ]
        lead = [Cell(before, title)]
        if self._edit.mode == "segment":
            colours = Cell(colour_map(found.labels), "regions")
            labels = _enlarged(found.labels, before)
            cells = [colours, Cell(overlay(before, labels), "overlay"), *masks]
        elif self._edit.separately:
            lead += masks
        elif masks:
            lead.append(Cell(colour_map(found.labels), ", ".join(self._edit.regions)))
        for line in self._lines(cells):
            self._add(lead, line)

    def _lines(self, cells: Sequence[Cell]) -> list[Sequence[Cell]]:
        """A face's cells as lines: of frames, one for each reference, with that at the end."""
        if self._edit.mode != "interpolate":
            return [cells]
        frames = self._edit.frames
        lines = []
        for first in range(0, len(cells), frames):
            reference = self._chosen[first].reference
            end = Cell(self._references[reference], reference)
            lines.append([*cells[first : first + frames], end])
        return lines

    def _add(self, lead: Sequence[Cell | None], cells: Sequence[Cell]) -> None:
        """Adds a line; figures name no photographs, and show no masks beside an edit."""
        self._sheet.add(lead, cells)
        for figure in self._all[1:]:
            figure.add([lead[0] and lead[0]._replace(caption="input")], cells)


def _enlarged(labels: UInt8[np.ndarray, "h w"], picture: Picture) -> UInt8[np.ndarray, "H W"]:
    size = picture.shape[1::-1]
    return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def _grey(mask: UInt8[np.ndarray, "H W"]) -> Picture:
    return np.stack([mask] * 3, axis=-1)
