"""Contact sheets: every picture in its place, on as many lines and pages as it takes."""

import numpy as np
import pytest
from PIL import Image

from l2sae_jax.batch_editing.contact_sheet import FIGURE, Cell, ContactSheet


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


def test_pages_are_counted_on_from_those_written_before(tmp_path):
    sheet = ContactSheet(tmp_path, cell_size=16, columns=3, lines=2, pages=4)
    assert (sheet.written, sheet.page) == (4, 4)
    sheet.add([cell(1)], [])
    assert (sheet.written, sheet.page) == (4, 5)
    sheet.add([cell(2)], [])
    assert (sheet.written, sheet.page) == (5, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["contact_sheet_5.png"]


def test_a_figure_has_captions_above_its_columns_only(tmp_path):
    figure = ContactSheet(tmp_path, cell_size=32, name=FIGURE)
    figure.add([None], [cell(10, "a")])
    figure.add([cell(20, "b")], [cell(30, "c")])
    figure.finish()
    page = np.asarray(Image.open(tmp_path / "grid.png"))[..., 0]
    assert page.shape == (2 + 16 + 2 * 34, 2 + 2 * 34)
    above, beside = page[:18], page[18:]
    assert (above[:, :36] == 255).all() and (above[:, 36:] < 255).any()
    assert (beside[:32, :36] == 255).all()
    np.testing.assert_array_equal(beside[:32, 36:68], 10)
    np.testing.assert_array_equal(beside[34:66, 2:34], 20)
    np.testing.assert_array_equal(beside[34:66, 36:68], 30)
    assert (beside[32:34] == 255).all()


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
