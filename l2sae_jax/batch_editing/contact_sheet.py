"""Contact sheets and figures: many small pictures, on as many pages as they need."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from l2sae_jax.data.images import resize
from l2sae_jax.marks import write_marked

SHEET, FIGURE = "contact_sheet", "grid"
PAGES = (f"{SHEET}*.png", f"{FIGURE}*.png")

_CAPTION_HEIGHT = 16
_FONT_SIZE = 11


class Cell(NamedTuple):
    """A square picture, uint8 RGB, and what is written below it."""

    picture: UInt8[np.ndarray, "H W 3"]
    caption: str


def remove_pages(folder: Path, pages: Mapping[str, int]) -> None:
    """Removes the pages of an earlier run, but as many of each sheet as `pages` says."""
    for name in (SHEET, FIGURE):
        for file in folder.glob(f"{name}*.png"):
            number = re.fullmatch(rf"{name}(?:_([0-9]+))?\.png", file.name)
            if number and int(number[1] or 1) > pages.get(name, 0):
                file.unlink()


class ContactSheet:
    """Writes NAME.png, NAME_2.png, ... into a folder, each page when it is full."""

    def __init__(
        self,
        folder: Path,
        cell_size: int = 128,
        name: str = SHEET,
        columns: int = 12,
        lines: int = 12,
        pages: int = 0,
        mark: str = "none",
        software: str = "",
    ):
        """Begins a sheet.

        Args:
          folder: exists.
          cell_size: of the pictures, in pixels.
          name: of the files; `FIGURE` has its captions above the columns only, and little between
            its pictures, as figures of papers do.
          columns, lines: the most a page holds.
          pages: written before.
          mark, software: see `marks.write_marked`.
        """
        self._folder, self.name = folder, name
        self._mark, self._software = mark, software
        self._cell_size, self._columns, self._lines_per_page = cell_size, columns, lines
        self._is_figure = name == FIGURE
        self._gap = 2 if self._is_figure else 6  # pixels round every picture
        self._lines: list[Sequence[Cell | None]] = []
        self.written = pages
        self._font = ImageFont.load_default(_FONT_SIZE)

    @property
    def page(self) -> int:
        """The page that holds the last line added."""
        return self.written + bool(self._lines)

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
        captions = 0 if self._is_figure else _CAPTION_HEIGHT
        across, down = self._cell_size + self._gap, self._cell_size + captions + self._gap
        top = self._gap + (_CAPTION_HEIGHT if self._is_figure else 0)
        columns = max(map(len, self._lines))
        size = columns * across + self._gap, top + len(self._lines) * down
        page = Image.new("RGB", size, "white")
        for row, line in enumerate(self._lines):
            for column, cell in enumerate(line):
                if cell is None:
                    continue
                x, y = self._gap + column * across, top + row * down
                picture = resize(cell.picture, (self._cell_size, self._cell_size))
                page.paste(Image.fromarray(picture), (x, y))
                if not self._is_figure:
                    self._write(page, cell.caption, x, y + self._cell_size + 1)
                elif row == 0:
                    self._write(page, cell.caption, x, 1)
        self._lines.clear()
        self.written += 1
        number = "" if self.written == 1 else f"_{self.written}"
        file = self._folder / f"{self.name}{number}.png"
        write_marked(file, np.asarray(page), self._mark, self._software)

    def _write(self, page: Image.Image, caption: str, x: int, y: int) -> None:
        ImageDraw.Draw(page).text((x, y), self._fitting(caption), "black", self._font)

    def _fitting(self, caption: str) -> str:
        """The caption, cut to the width of a cell."""
        # Pillow's own font has no more than this, and its fallback would raise on the rest.
        caption = caption.encode("latin-1", "replace").decode("latin-1")
        if self._font.getlength(caption) <= self._cell_size:
            return caption
        while caption and self._font.getlength(f"{caption}...") > self._cell_size:
            caption = caption[:-1]
        return f"{caption}..."
