import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from found_faces import FACES, photograph
from PIL import Image

from l2sae_jax.app import studio as module
from l2sae_jax.app.sessions import Sessions
from l2sae_jax.app.studio import Studio, Wish
from l2sae_jax.data.images import read_image
from l2sae_jax.marks import SOURCE_TYPE, Mark, read_mark, with_words

HAIR = Wish(("hair",))


@pytest.fixture
def studio(editor, finding, tmp_path):
    (tmp_path / "private").mkdir()
    return Studio(editor, Sessions(tmp_path / "private"))


@pytest.fixture
def file(tmp_path):
    Image.fromarray(photograph().pixels).save(tmp_path / "someone.png")
    return tmp_path / "someone.png"


def test_a_photograph_is_shown_with_its_faces(studio, file):
    scene = studio.open("visitor", file, HAIR)
    assert not scene.failed and scene.message.startswith("Choose what to change")
    assert (scene.faces, scene.number, scene.regions) == (2, 2, ())
    assert scene.found.exists() and scene.close_up.exists()
    assert scene.compared is None and scene.token is None


def test_an_edit_is_compared_and_can_be_taken_away(studio, file):
    studio.open("visitor", file, HAIR)
    scene = studio.edit("visitor", HAIR)
    assert scene.message == "Hair restyled, sample 1."
    before, after = map(read_image, scene.compared)
    assert before.shape == after.shape and (before != after).any()
    path, name = studio.write_result(scene.token)
    assert name == "someone_hair_s0.png"
    assert read_image(path).shape == photograph().pixels.shape
    told, name = studio.settings_of(scene.token)
    assert (told["samples"], name) == (1, "someone_hair_s0.json")


def test_what_is_taken_home_says_that_it_was_edited(studio, file):
    studio.open("visitor", file, HAIR)
    plain = written(studio, studio.edit("visitor", HAIR))
    marked = written(studio, studio.edit("visitor", HAIR._replace(words=True)))
    np.testing.assert_array_equal(marked, with_words(plain))
    np.testing.assert_array_equal(written(studio, studio.edit("visitor", HAIR)), plain)


def written(studio, scene):
    """The pixels of a result, which is noted as one; its settings repeat its mark."""
    path, _ = studio.write_result(scene.token)
    told, _ = studio.settings_of(scene.token)
    assert read_mark(path) == Mark(SOURCE_TYPE, studio._editor.software)
    assert told["mark"] in ("metadata", "both") and f"--mark={told['mark']}" in told["command"]
    pixels = read_image(path)
    assert (told["mark"] == "both") == (pixels[-3:] != photograph().pixels[-3:]).any()
    return pixels


def test_samples_go_on_and_back(studio, file):
    studio.open("visitor", file, HAIR)
    pictures = []
    for step, sample in ((0, 0), (1, 1), (1, 2), (-1, 1), (-1, 0), (-1, 0)):
        scene = studio.edit("visitor", HAIR, step)
        assert scene.sample == sample
        pictures.append(read_image(studio.write_result(scene.token)[0]))
    assert (pictures[0] != pictures[1]).any() and (pictures[1] != pictures[2]).any()
    np.testing.assert_array_equal(pictures[3], pictures[1])
    np.testing.assert_array_equal(pictures[4], pictures[0])


def test_a_press_chooses_a_region_and_another_leaves_it_out(studio, file):
    studio.open("visitor", file, Wish())
    views = studio._sessions.of("visitor").views
    y, x = np.argwhere(views.close_up.labels > 0)[0]
    region = views.close_up.region_at(x, y)
    scene = studio.press_face("visitor", x, y, Wish())
    assert scene.regions == (region,) and scene.compared is not None
    scene = studio.press_face("visitor", x, y, Wish((region,)))
    assert scene.regions == () and scene.compared is None and scene.token is None


def test_a_press_on_another_face_goes_there(studio, file):
    studio.open("visitor", file, Wish())
    scene = studio.press_photograph("visitor", 4 * 40, 4 * 60, Wish())
    assert scene.number == 1
    assert studio.choose_face("visitor", 2, Wish()).number == 2


def test_a_style_is_copied_from_another_photograph(studio, file):
    wish = Wish(("lips",), "swap", 1.0)
    studio.open("visitor", file, wish)
    scene = studio.edit("visitor", wish)
    assert scene.message == "Now add a photograph to copy from." and scene.compared is None
    scene = studio.take_style("visitor", file, wish)
    assert scene.message == "Lips in the style of someone.png."
    assert scene.reference.exists()
    assert studio.settings_of(scene.token)[1] == "someone_lips_from_someone.json"


def test_each_region_by_itself():
    wish = Wish(("hair", "lips"), degrees=(0.1, 0.2, 0.3, 0.4, 0.5))
    assert wish.as_edit(0).strength == {"hair": 0.1, "lips": 0.5}
    assert wish._replace(mode="swap").as_edit(0).amount == {"hair": 0.1, "lips": 0.5}


def test_no_picture_is_told_and_changes_nothing(studio, file, tmp_path):
    (tmp_path / "notes.jpg").write_text("dear diary")
    scene = studio.open("visitor", tmp_path / "notes.jpg", HAIR)
    assert scene.failed and scene.found is None
    assert scene.message == (
        "notes.jpg: not a picture in a known format. Try a JPEG, PNG or WebP file."
    )
    studio.open("visitor", file, HAIR)
    scene = studio.open("visitor", tmp_path / "notes.jpg", HAIR)
    assert scene.failed and scene.found.exists()


def test_a_picture_without_a_face_may_be_used_as_it_is(studio, file, finding):
    finding([])
    scene = studio.open("visitor", file, HAIR)
    assert scene.failed and scene.faceless and "No face found in someone.png" in scene.message
    scene = studio.use_middle("visitor", HAIR)
    assert not scene.failed and not scene.faceless and scene.number is None
    assert not studio.edit("visitor", HAIR).failed


def test_a_style_needs_a_face_too(studio, file, finding):
    studio.open("visitor", file, HAIR)
    finding([])
    scene = studio.take_style("visitor", file, Wish(("lips",), "swap", 1.0))
    assert scene.failed and scene.reference is None


def test_who_left_is_forgotten(studio, file):
    studio.open("visitor", file, HAIR)
    token = studio.edit("visitor", HAIR).token
    studio.end("visitor")
    assert studio.write_result(token) is None and studio.settings_of(token) is None
    for scene in (
        studio.edit("visitor", HAIR),
        studio.choose_face("visitor", 1, HAIR),
        studio.press_face("visitor", 0, 0, HAIR),
        studio.press_photograph("visitor", 0, 0, HAIR),
        studio.use_middle("visitor", HAIR),
    ):
        assert scene.failed and scene.message.startswith("The photograph is no longer here")


def test_what_a_visitor_does_is_done_one_after_the_other(studio, file, tmp_path, monkeypatch):
    Image.fromarray(photograph(1).pixels).save(tmp_path / "two.png")
    studio.open("visitor", file, HAIR)
    editing, may_end = threading.Event(), threading.Event()

    def edit(*wanted, original=studio._editor.edit):
        editing.set()
        assert may_end.wait(30)
        return original(*wanted)

    monkeypatch.setattr(studio._editor, "edit", edit)
    with ThreadPoolExecutor() as pool:
        edited = pool.submit(studio.edit, "visitor", HAIR)
        assert editing.wait(30)
        others = [
            pool.submit(studio.open, "visitor", tmp_path / "two.png", HAIR),
            pool.submit(studio.choose_face, "visitor", 1, HAIR),
            pool.submit(studio.take_style, "visitor", file, Wish()),
            pool.submit(studio.use_middle, "visitor", HAIR),
        ]
        assert not wait(others, timeout=0.5).done
        may_end.set()
    assert edited.result().compared is not None
    session = studio._sessions.of("visitor")
    assert session.portrait.name == "two.png" and session.result is None


@pytest.mark.parametrize("ending", ["at the start", "at the end"])
def test_a_session_that_ends_while_it_is_at_work_is_told(studio, file, monkeypatch, ending):
    studio.open("visitor", file, HAIR)

    def edit(*wanted, original=studio._editor.edit):
        studio.end("visitor")
        if ending == "at the start":
            raise ValueError("no such region")
        return original(*wanted)

    monkeypatch.setattr(studio._editor, "edit", edit)
    scene = studio.edit("visitor", HAIR)
    assert scene.failed and scene.message.startswith("The photograph is no longer here")


def test_a_session_that_ends_while_its_result_is_written_has_none(studio, file, monkeypatch):
    studio.open("visitor", file, HAIR)
    token = studio.edit("visitor", HAIR).token

    def write(*picture, original=module.write_marked):
        studio.end("visitor")
        original(*picture)

    monkeypatch.setattr(module, "write_marked", write)
    assert studio.write_result(token) is None


def test_visitors_do_not_meet(studio, file, finding):
    studio.open("one", file, HAIR)
    finding(FACES[:1])
    studio.open("two", file, HAIR)
    one, two = (studio.edit(visitor, HAIR) for visitor in ("one", "two"))
    assert (one.number, two.number) == (2, 1)
    assert one.token != two.token
    assert set(one.compared).isdisjoint(two.compared)
