"""Square crops of photographs: where they lie, taking them, and putting back what changed in them.

Coordinates are the photograph's, in pixels from its upper left corner: x to the right, y down, the
middle of the first pixel at (0.5, 0.5). The same holds within a crop.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped, UInt8
from PIL import Image

from l2sae_jax.data.images import block_averages, resize

REACH = 4  # pixels of the crop over which a change spreads when it is enlarged

_PIXELS_AT_A_TIME = 1_000_000
_FINEST_SIDE = 2048


@dataclass(frozen=True)
class Placement:
    """A square in a photograph, upright or turned; parts of it may lie outside.

    Attributes:
      x, y: its centre.
      right_x, right_y: from there to the middle of the side that is the crop's right one.
    """

    x: float
    y: float
    right_x: float
    right_y: float

    @property
    def side(self) -> float:
        """Length of a side in pixels of the photograph."""
        return 2 * float(np.hypot(self.right_x, self.right_y))


def central_square(height: int, width: int) -> Placement:
    """The largest upright square in the middle of a photograph, on whole pixels."""
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return Placement(left + side / 2, top + side / 2, side / 2, 0.0)


def ffhq_placement(
    landmarks: Float[np.ndarray, "5 2"], side: float = 1.0, raised: float = 0.0
) -> Placement:
    """The square that the FFHQ data set would cut out for a face (Karras et al., 2019).

    Args:
      landmarks: (x, y) of the eyes, the nose and the corners of the mouth; of eyes and corners
        first the one that is on the left in the picture when the face is upright.
      side: of the crop, as a share of FFHQ's square.
      raised: how far the crop's centre lies above that of FFHQ's square, as a share of its side.

    Raises:
      ValueError: the landmarks span no square.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    eye_to_eye, eye_to_mouth = right_eye - left_eye, mouth - eyes
    right = eye_to_eye - _turned(eye_to_mouth)
    length = np.hypot(*right)
    if not length > 0:
        raise ValueError(f"landmarks {np.asarray(landmarks).tolist()} span no square")
    right *= max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth)) / length
    x, y = eyes + 0.1 * eye_to_mouth - 2 * raised * _turned(right)
    return Placement(float(x), float(y), float(side * right[0]), float(side * right[1]))


def own_parts(placements: Sequence[Placement], size: int) -> list[UInt8[np.ndarray, "size size"]]:
    """Of crops of one photograph, 1 where their own centre is the nearest, for its size; else 0."""
    if len(placements) == 1:
        return [np.ones((size, size), np.uint8)]
    grid = np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2), axis=-1).reshape(-1, 2)
    parts = []
    for i, placement in enumerate(placements):
        points = to_photograph(grid, placement, size)
        away = [np.hypot(*(points - (p.x, p.y)).T) / p.side for p in placements]
        parts.append((np.argmin(away, axis=0) == i).reshape(size, size).astype(np.uint8))
    return parts


def take(
    pixels: UInt8[np.ndarray, "H W 3"], placement: Placement, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Cuts a square out of a photograph, at `size` pixels a side, antialiased.

    What lies outside the photograph is its reflection.
    """
    side = round(placement.side)
    left, top = round(placement.x - side / 2), round(placement.y - side / 2)
    height, width = pixels.shape[:2]
    inside = 0 <= left <= width - side and 0 <= top <= height - side
    if inside and placement == Placement(left + side / 2, top + side / 2, side / 2, 0.0):
        return resize(pixels[top : top + side, left : left + side], (size, size))
    # Blocks are averaged first, or pixels made finer, to two or three for each of the crop's.
    block = max(1, int(placement.side // (3 * size)))
    finer = _odd(2 * size * block / placement.side)
    detailed = max(size, round(placement.side / block))
    from_crop = _from_crop(placement, detailed)
    (left, top), (right, bottom) = _bounds(from_crop, np.zeros(2), np.full(2, detailed))
    left, top = left - 2 * block, top - 2 * block  # as far as the kernels reach
    shape = -(-(bottom - top) // block) + 2, -(-(right - left) // block) + 2
    window = block_averages(pixels, block, shape, (top, left))
    from_crop[:, 2] -= left, top
    to_finer = from_crop * finer / block
    crop = _sampled(_finer(window, finer), to_finer, (detailed, detailed))
    crop = _resized(crop, size, Image.Resampling.LANCZOS)
    return np.rint(np.clip(crop, 0, 255)).astype(np.uint8)


def put_back(
    pixels: UInt8[np.ndarray, "H W 3"],
    placement: Placement,
    before: UInt8[np.ndarray, "size size 3"],
    after: UInt8[np.ndarray, "size size 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the photograph, with the change from one crop to another added to it.

    The change is enlarged smoothly, so that detail finer than the crop's stays, and fades out
    towards those sides of the crop that lie within the photograph. Pixels outside the crop are as
    they were, and so are those further than `REACH` pixels of the crop (of the photograph, where
    those are larger) from what changed.

    Raises:
      ValueError: the crops differ in shape, or are no squares.
    """
    _check_square("before", before)
    if after.shape != before.shape:
        raise ValueError(f"before and after differ in shape: {before.shape} and {after.shape}")
    result = pixels.copy()
    change = after.astype(np.float32) - before
    for window, enlarged in _enlarged(change, placement, pixels.shape[:2], fade=True):
        result[window] = np.rint(np.clip(result[window] + enlarged, 0, 255))
    return result


def spread_mask(
    mask: UInt8[np.ndarray, "size size"], placement: Placement, shape: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """A mask of a crop, 0 or 255, as one of the photograph: smooth outlines, 0 outside the crop.

    Args:
      shape: (height, width) of the photograph.

    Raises:
      ValueError: the mask is no square.
    """
    _check_square("mask", mask)
    result = np.zeros(shape, np.uint8)
    levels = mask[..., None].astype(np.float32)
    for window, enlarged in _enlarged(levels, placement, shape, fade=False):
        result[window] = np.where(enlarged[..., 0] > 127.5, 255, 0)
    return result


def spread_labels(
    labels: UInt8[np.ndarray, "size size"], placement: Placement, shape: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """A label map of a crop as one of the photograph; where two labels meet, the greater stands.

    Args:
      labels: 0 is none.
      shape: (height, width) of the photograph.

    Raises:
      ValueError: the label map is no square.
    """
    result = np.zeros(shape, np.uint8)
    for label in range(1, int(labels.max()) + 1):
        mask = np.uint8(255) * (labels == label)
        result[spread_mask(mask, placement, shape) > 0] = label
    return result


def to_photograph(
    points: Float[np.ndarray, "N 2"], placement: Placement, size: int
) -> Float[np.ndarray, "N 2"]:
    """Where points (x, y) of a crop of `size` pixels a side lie in the photograph."""
    return _homogeneous(points) @ _from_crop(placement, size).T


def to_crop(
    points: Float[np.ndarray, "N 2"], placement: Placement, size: int
) -> Float[np.ndarray, "N 2"]:
    """Where points (x, y) of the photograph lie in a crop of `size` pixels a side."""
    return _homogeneous(points) @ _to_crop(placement, size).T


def _check_square(name: str, crop: np.ndarray) -> None:
    if crop.shape[0] != crop.shape[1]:
        raise ValueError(f"{name} is no square: {crop.shape}")


# -------------------------------------------------------------------------------------- coordinates


def _turned(vector: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
    """A quarter turn, from right to down."""
    return np.array([-vector[1], vector[0]])


def _from_crop(placement: Placement, size: int) -> Float[np.ndarray, "2 3"]:
    """Takes (x, y, 1) in the crop, at `size` pixels a side, to the photograph."""
    right = np.array([placement.right_x, placement.right_y])
    centred = np.stack([right, _turned(right), [placement.x, placement.y]], axis=1)
    return centred @ [[2 / size, 0, -1], [0, 2 / size, -1], [0, 0, 1]]


def _to_crop(placement: Placement, size: int) -> Float[np.ndarray, "2 3"]:
    """Takes (x, y, 1) in the photograph to the crop."""
    right = np.array([placement.right_x, placement.right_y])
    turn = np.stack([right, _turned(right)]) * (size / 2 / (right @ right))
    offset = size / 2 - turn @ [placement.x, placement.y]
    return np.concatenate([turn, offset[:, None]], axis=1)


def _homogeneous(points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _corners(
    transform: Float[np.ndarray, "2 3"], low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "4 2"]:
    """Where the corners of a rectangle go, in order round it from the upper left one."""
    (left, top), (right, bottom) = low, high
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return _homogeneous(corners) @ transform.T


def _bounds(
    transform: Float[np.ndarray, "2 3"], low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"]
) -> tuple[Int[np.ndarray, "2"], Int[np.ndarray, "2"]]:
    """The least and the greatest whole x and y round where a rectangle goes."""
    corners = _corners(transform, low, high)
    return np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)


# --------------------------------------------------------------------------------------- resampling

# Of several channels Pillow resamples only bytes. When it resizes, its cubic kernel is the usual
# one; when it transforms, it is another, which leaves a lattice on slopes: so what is transformed
# is made finer before, and a linear kernel will do.


def _odd(number: float) -> int:
    """The least odd number from this one on: so many pixels for one keep its middle."""
    return max(1, 2 * math.ceil((number - 1) / 2) + 1)


def _pictures(planes: Shaped[np.ndarray, "H W C"]) -> list[Image.Image]:
    """One floating-point picture for each channel."""
    return [Image.fromarray(plane) for plane in np.moveaxis(planes, -1, 0).astype(np.float32)]


def _finer(planes: Shaped[np.ndarray, "H W C"], factor: int) -> list[Image.Image]:
    """Pictures of channels with so many pixels for one."""
    height, width = planes.shape[:2]
    size = width * factor, height * factor
    return [picture.resize(size, Image.Resampling.BICUBIC) for picture in _pictures(planes)]


def _resized(
    planes: Float32[np.ndarray, "H W C"], size: int, kernel: Image.Resampling
) -> Float32[np.ndarray, "size size C"]:
    return np.stack([p.resize((size, size), kernel) for p in _pictures(planes)], axis=-1)


def _sampled(
    pictures: list[Image.Image], to_picture: Float[np.ndarray, "2 3"], shape: tuple[int, int]
) -> Float32[np.ndarray, "h w C"]:
    """What pictures hold where the pixels of an array of `shape` are taken to; 0 outside them."""
    height, width = shape
    how = Image.Transform.AFFINE, to_picture.ravel(), Image.Resampling.BILINEAR
    return np.stack([picture.transform((width, height), *how) for picture in pictures], axis=-1)


# ------------------------------------------------------------------------------------ putting back


def _enlarged(
    planes: Float32[np.ndarray, "size size C"],
    placement: Placement,
    shape: tuple[int, int],
    fade: bool,
) -> Iterator[tuple[tuple[slice, slice], Float32[np.ndarray, "h w C"]]]:
    """Planes of a crop, where the photograph has its pixels.

    Yields windows of the photograph, of bounded size, and the planes in each. Together they hold
    all that is not 0.
    """
    enlargement = placement.side / len(planes)
    # Cubic interpolation alone would show the crop's pixels; where they are the photograph's own,
    # it must return them.
    planes = _smoothed(planes, max(0.0, 1 - 1 / enlargement) / 6)
    if fade:
        planes = planes * _fading(placement, len(planes), shape)[..., None]
    if enlargement < 1:
        planes = _resized(planes, math.ceil(placement.side), Image.Resampling.HAMMING)
    finer = _odd(min(max(2, enlargement), max(2, _FINEST_SIDE / len(planes))))
    pictures = _finer(planes, finer)
    left, top, right, bottom = _reached(pictures, placement, shape)
    step = max(1, _PIXELS_AT_A_TIME // max(1, right - left))
    for start in range(top, bottom, step):
        stop = min(start + step, bottom)
        to_crop = _to_crop(placement, pictures[0].width)
        to_crop[:, 2] += to_crop[:, :2] @ [left, start]
        window = slice(start, stop), slice(left, right)
        yield window, _sampled(pictures, to_crop, (stop - start, right - left))


def _reached(
    pictures: list[Image.Image], placement: Placement, shape: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a photograph where a crop's pictures are not 0."""
    boxes = [box for picture in pictures if (box := picture.getbbox())]
    if not boxes:
        return 0, 0, 0, 0
    size = pictures[0].width
    low, high = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
    low, high = np.clip([low - 0.5, high + 0.5], 0, size)  # a linear kernel's reach
    (left, top), (right, bottom) = _bounds(_from_crop(placement, size), low, high)
    left, right = np.clip([left, right], 0, shape[1]).tolist()
    top, bottom = np.clip([top, bottom], 0, shape[0]).tolist()
    return (left, top, right, bottom) if left < right else (0, 0, 0, 0)


def _smoothed(planes: Float32[np.ndarray, "S S C"], weight: float) -> Float32[np.ndarray, "S S C"]:
    """Each value mixed with those beside, above and below it; edges are replicated."""
    for _ in range(2):
        padded = np.pad(planes, ((1, 1), (0, 0), (0, 0)), mode="edge")
        mixed = planes + np.float32(weight) * (padded[:-2] + padded[2:] - 2 * planes)
        planes = mixed.swapaxes(0, 1)
    return planes


def _fading(
    placement: Placement, size: int, shape: tuple[int, int]
) -> Float32[np.ndarray, "size size"]:
    """1, falling to 0 towards those sides of a crop that are not beyond the photograph's border."""
    steps = np.clip(np.arange(size) / max(4, size // 16), 0, 1)
    rise = (steps * steps * (3 - 2 * steps)).astype(np.float32)
    corners = _corners(_from_crop(placement, size), np.zeros(2), np.full(2, size))
    ends = np.stack([corners, np.roll(corners, -1, axis=0)])
    beyond = ((ends <= 0).all(axis=0) | (ends >= np.array(shape[::-1])).all(axis=0)).any(axis=1)
    upper, right, lower, left = np.where(beyond[:, None], np.float32(1), rise)
    return np.outer(upper * lower[::-1], left * right[::-1])
