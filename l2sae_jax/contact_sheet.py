"""Contact sheets: many small pictures with captions, on as many pages as they need."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from l2sae_jax.data.images import resize, write_png

FILES = "contact_sheet*.png"

_GAP = 6  # pixels round every picture
_CAPTION_HEIGHT = 16
_FONT_SIZE = 11


class Cell(NamedTuple):
    """A square picture, uint8 RGB, and what is written below it."""

    picture: UInt8[np.ndarray, "H W 3"]
    caption: str


class ContactSheet:
    """Writes contact_sheet.png, contact_sheet_2.png, ... into a folder, each page when full."""

    def __init__(self, folder: Path, cell_size: int = 128, columns: int = 12, lines: int = 12):
        """Args: folder: exists; cell_size: pixels; columns, lines: the most a page holds."""
        self._folder = folder
        self._cell_size, self._columns, self._lines_per_page = cell_size, columns, lines
        self._lines: list[Sequence[Cell | None]] = []
        self._pages = 0
        self._font = ImageFont.load_default(_FONT_SIZE)

    def add(self, lead: Sequence[Cell | None], cells: Sequence[Cell]) -> None:
        """Adds a line: `lead`, then `cells`, which go on below one another where they are many.

        A None leaves its place empty.
        """
        width = self._columns - len(lead)
        for start in range(0, max(len(cells), 1), width):
            first = lead if start == 0 else [None] * len(lead)
            self._lines.append([*first, *cells[start : start + width]])
            if len(self._lines) == self._lines_per_page:
                self._write_page()

    def finish(self) -> None:
        """Writes the last page."""
        if self._lines:
            self._write_page()

    def _write_page(self) -> None:
        across, down = self._cell_size + _GAP, self._cell_size + _CAPTION_HEIGHT + _GAP
        columns = max(map(len, self._lines))
        page = Image.new("RGB", (columns * across + _GAP, len(self._lines) * down + _GAP), "white")
        for row, line in enumerate(self._lines):
            for column, cell in enumerate(line):
                if cell is not None:
                    self._draw(page, cell, _GAP + column * across, _GAP + row * down)
        self._lines.clear()
        self._pages += 1
        number = "" if self._pages == 1 else f"_{self._pages}"
        write_png(self._folder / f"contact_sheet{number}.png", np.asarray(page))

    def _draw(self, page: Image.Image, cell: Cell, x: int, y: int) -> None:
        picture = resize(cell.picture, (self._cell_size, self._cell_size))
        page.paste(Image.fromarray(picture), (x, y))
        text = self._fitting(cell.caption)
        ImageDraw.Draw(page).text((x, y + self._cell_size + 1), text, "black", self._font)

    def _fitting(self, caption: str) -> str:
        """The caption, cut to the width of a cell."""
        # Pillow's own font has no more than this, and its fallback would raise on the rest.
        caption = caption.encode("latin-1", "replace").decode("latin-1")
        if self._font.getlength(caption) <= self._cell_size:
            return caption
        while caption and self._font.getlength(f"{caption}...") > self._cell_size:
            caption = caption[:-1]
        return f"{caption}..."
