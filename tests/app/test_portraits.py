import shlex

import jax
import numpy as np
import pytest
from found_faces import FACES, face, photograph
from tiny_models import joint_network, separate_networks

import edit as program
import l2sae_jax as l2
from l2sae_jax.app.portraits import Editor, Reference, Result, settings
from l2sae_jax.data.alignment import central_square, ffhq_placement, take
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.variants import Edit


@pytest.fixture
def portrait(editor, finding):
    return editor.portrait("someone.jpg", photograph())


def test_the_largest_face_is_edited(portrait):
    assert portrait.number == 2
    assert portrait.placement == ffhq_placement(FACES[1].landmarks)
    np.testing.assert_array_equal(
        portrait.crop, take(photograph().pixels, portrait.placement, portrait.crop.shape[0])
    )


def test_the_largest_face_is_that_of_edit_py_however_it_is_turned(editor, finding):
    turned = face(110.0, 50.0, 36.0)._replace(box=(80.0, 20.0, 60.0, 60.0))
    finding([face(40.0, 60.0, 40.0), turned])
    assert editor.portrait("two.jpg", photograph()).number == 1


def test_another_face_can_be_edited(editor, portrait):
    other = editor.at_face(portrait, 1)
    assert other.number == 1 and other.faces == portrait.faces
    assert other.placement == ffhq_placement(FACES[0].landmarks)


def test_without_a_face_it_is_the_middle(editor, finding):
    finding([])
    portrait = editor.portrait("hill.jpg", photograph())
    assert portrait.number is None
    assert portrait.placement == central_square(100, 160)


# Joint networks have every region's own slice disturbed in structure edits.
@pytest.mark.parametrize(
    ("network", "edit"),
    [
        (
            separate_networks,
            Edit("style", ("hair", "lips"), strength=0.7, samples=2, blend="local"),
        ),
        (
            joint_network,
            Edit("structure", ("nose", "eyes"), strength=0.4, blend="local", harmonise=True),
        ),
    ],
    ids=["separate", "joint"],
)
def test_edits_are_those_of_the_library(portrait, network, edit):
    model = network()
    images, masks = to_images(portrait.crop[None]), portrait.found.masks / np.float32(255)
    key = jax.random.fold_in(jax.random.key(0), edit.samples - 1)
    does = {"style": l2.edit, "structure": l2.edit_structure}[edit.mode]
    how = {"masks": masks, "harmonise": edit.harmonise}
    expected = to_pixels(does(model, images, key, edit.regions, edit.strength, "local", **how))
    made = Editor(model).edit(portrait, edit).crop
    assert np.abs(made.astype(int) - np.asarray(expected[0])).max() <= 1


def test_each_region_may_have_a_strength(editor, portrait):
    alone = editor.edit(portrait, Edit("style", ("hair",), strength=0.7, blend="local")).crop
    strengths = {"hair": 0.7, "lips": 0.0}
    both = Edit("style", ("hair", "lips"), strength=strengths, blend="local")
    only_hair = np.asarray(portrait.found.masks)[0, ..., 0] > 0
    lips = np.asarray(portrait.found.masks)[0, ..., 4] > 0
    far_from_lips = only_hair & ~_dilated(lips)
    made = editor.edit(portrait, both).crop.astype(int)
    np.testing.assert_allclose(made[far_from_lips], alone[far_from_lips], atol=1)


def _dilated(mask, pixels=3):
    padded = np.pad(mask, pixels)
    height, width = mask.shape
    steps = range(2 * pixels + 1)
    return np.any([padded[y : y + height, x : x + width] for y in steps for x in steps], axis=0)


def test_the_photograph_changes_in_the_square_only(portrait):
    edited = Result("edited", portrait, Edit(), None, 255 - portrait.crop)
    changed = (edited.pixels != photograph().pixels).any(axis=-1)
    rows, columns = np.nonzero(changed)
    reach = np.hypot(portrait.placement.side, portrait.placement.side) / 2
    assert changed.any()
    assert np.hypot(rows - portrait.placement.y, columns - portrait.placement.x).max() <= reach


@pytest.mark.parametrize(
    "edit",
    [
        Edit("style", ("hair", "lips"), strength={"hair": 0.5, "lips": 0.25}, samples=3),
        Edit("swap", ("lips",), amount=0.5, blend="local", harmonise=True),
    ],
    ids=lambda edit: edit.mode,
)
def test_settings_are_a_command_that_edit_py_understands(portrait, edit):
    told = told_of(portrait, edit)
    python, name, *arguments = shlex.split(told["command"])
    options = program.define_flags()
    assert (python, name) == ("python", "edit.py")
    assert options([name, *arguments])[1:] == ["someone.jpg"]
    for flag in told.keys() - {"photograph", "version", "command"}:
        given = getattr(options, flag)
        given = ",".join(given) if isinstance(given, list) else given
        assert str(given) == str(told[flag])
    assert told["face"] == 2 and told["checkpoint"] == "my models/1"


def test_settings_of_a_photograph_without_a_face_say_so(editor, finding):
    finding([])
    told = told_of(editor.portrait("hill.jpg", photograph()), Edit("style"))
    options = program.define_flags()
    options(shlex.split(told["command"])[1:])
    assert options.align == told["align"] == "middle"
    assert "face" not in told


def told_of(portrait, edit):
    reference = Reference("other.jpg", portrait.crop)
    return settings(Result("edited", portrait, edit, reference, portrait.crop), "my models/1")
