"""Contact sheets: every picture in its place, on as many lines and pages as it takes."""

import numpy as np
import pytest
from PIL import Image

from l2sae_jax.contact_sheet import Cell, ContactSheet


def cell(level: int, caption: str = "") -> Cell:
    return Cell(np.full((4, 4, 3), level, np.uint8), caption)


def centres(path, down: int, across: int) -> list[list[int]]:
    """The grey level in the middle of every place of a sheet of 16-pixel cells."""
    page = np.asarray(Image.open(path))
    rows = [6 + row * 38 + 8 for row in range(down)]
    columns = [6 + column * 22 + 8 for column in range(across)]
    assert page.shape == (6 + down * 38, 6 + across * 22, 3)
    return page[rows][:, columns, 0].tolist()


def test_lines_that_are_too_long_go_on_below_and_pages_follow_one_another(tmp_path):
    sheet = ContactSheet(tmp_path, cell_size=16, columns=3, lines=3)
    sheet.add([cell(10)], [cell(level) for level in (1, 2, 3)])
    sheet.add([None], [cell(4)])
    sheet.add([cell(20)], [])
    sheet.finish()
    assert centres(tmp_path / "contact_sheet.png", 3, 3) == [
        [10, 1, 2],
        [255, 3, 255],
        [255, 4, 255],
    ]
    assert centres(tmp_path / "contact_sheet_2.png", 1, 1) == [[20]]
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_written_of_nothing(tmp_path):
    ContactSheet(tmp_path).finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("caption", ["a name too long for the width of a cell", "Zoë", "顔", ""])
def test_captions_of_any_kind_stay_below_their_cell(tmp_path, caption):
    sheet = ContactSheet(tmp_path, cell_size=64)
    sheet.add([cell(0, caption)], [])
    sheet.finish()
    page = np.asarray(Image.open(tmp_path / "contact_sheet.png"))
    assert (page[:, :5] == 255).all() and (page[:, 72:] == 255).all()
    assert (page[6:70, 6:70] == 0).all()
    assert (page[71:] < 255).any() == bool(caption)
