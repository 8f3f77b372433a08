import numpy as np
import pytest
from found_faces import photograph

from l2sae_jax.app.views import CLOSE_UP_PIXELS, Views
from l2sae_jax.regions import REGION_NAMES


@pytest.fixture
def portrait(editor, finding):
    return editor.portrait("someone.jpg", photograph())


@pytest.fixture
def views(portrait):
    return Views(portrait)


def test_small_photographs_are_shown_larger(views):
    assert views.photograph.pixels.shape == (400, 640, 3)
    assert views.close_up.pixels.shape == (CLOSE_UP_PIXELS, CLOSE_UP_PIXELS, 3)


def test_a_pixel_of_the_close_up_has_the_region_of_the_crop(portrait, views):
    size = portrait.labels.shape[0]
    cell = CLOSE_UP_PIXELS // size
    middle = [
        [views.close_up.region_at(cell * x + cell // 2, cell * y + cell // 2) for x in range(size)]
        for y in range(size)
    ]
    expected = np.array([None, *REGION_NAMES])[portrait.labels]
    assert np.mean(np.array(middle) == expected) > 0.6  # outlines are smoothed


def test_outside_there_is_no_region(views):
    assert views.photograph.region_at(0, 0) is None
    assert views.photograph.region_at(640, 400) is None


def test_regions_are_tinted_most_where_they_are_chosen(views):
    name = next(n for n in REGION_NAMES if (views.close_up.labels == _label(n)).any())
    inside = views.close_up.labels == _label(name)
    before = views.close_up.pixels.astype(int)
    faint, strong = (np.abs(views.close_up.tinted(chosen) - before) for chosen in ((), (name,)))
    assert 0 < faint[inside].mean() < strong[inside].mean()
    background = views.close_up.labels == 0
    assert (strong[background] == 0).all()


def _label(name):
    return REGION_NAMES.index(name) + 1


def test_pressing_a_face_tells_its_number(views):
    assert views.face_at(4 * 40, 4 * 60) == 1
    assert views.face_at(4 * 110, 4 * 50) == 2
    assert views.face_at(639, 399) is None


def test_the_edited_view_changes_round_the_face_only(portrait, views):
    edited = views.edited(255 - portrait.crop)
    changed = (edited != views.photograph.pixels).any(axis=-1)
    assert changed[4 * 50, 4 * 110]
    assert not changed[:, : 4 * 40].any()
