"""Pictures in and out: uint8 RGB arrays from any common file, picture files from arrays."""

import io
import math
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import ExifTags, Image, ImageCms

from l2sae_jax.whole_files import replacing

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 1_000_000_000

# Pillow's other readers are seldom needed, and some start programs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
_WRITERS = {
    ".png": {"format": "PNG"},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": {"format": "WEBP", "lossless": True},
}
_LONGEST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
# What is made upright: whether its rows, its columns run backwards, and whether they change places.
_ORIENTATIONS = {
    1: (1, 1, False),
    2: (1, -1, False),
    3: (-1, -1, False),
    4: (-1, 1, False),
    5: (1, 1, True),
    6: (1, -1, True),
    7: (-1, -1, True),
    8: (-1, 1, True),
}
_PIXELS_AT_A_TIME = 4_000_000

# Pillow warns above its own limit, 89 megapixels, and refuses twice as much; ours is checked here.
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, MAX_PIXELS)


class Photograph(NamedTuple):
    """An upright picture, and what its results must carry to look like it.

    Attributes:
      pixels: RGB in [0, 255].
      icc_profile: what these RGB values mean; None is sRGB.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    icc_profile: bytes | None


def read_photograph(path: str | os.PathLike) -> Photograph:
    """Reads a picture as RGB, upright, with its colour profile.

    The EXIF orientation is applied; grey, palette, 16-bit, CMYK and Lab pictures are converted, and
    transparency is laid on white. What is not RGB becomes sRGB, by its profile if that is valid,
    and then has none; neither has a picture whose profile is broken. Of an animation the first
    frame is taken.

    Raises:
      ValueError: it is missing, not a picture, damaged, or has more than `MAX_PIXELS` pixels.
    """
    return decode_photograph(read_file(path), os.fspath(path))


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a picture's file.

    Raises:
      ValueError: it is missing, unreadable, no plain file, or larger than `MAX_FILE_BYTES`.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path}: cannot be read (not a plain file)")
            if status.st_size > MAX_FILE_BYTES:
                raise ValueError(f"{path}: {status.st_size:,} bytes are over {MAX_FILE_BYTES:,}")
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file, also a pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decode_photograph(data: bytes, name: str) -> Photograph:
    """`read_photograph` for a file already in memory; `name` is what errors call it."""
    return _decode(data, name, _to_photograph)


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels alone of `read_photograph`."""
    return read_photograph(path).pixels


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels alone of `decode_photograph`."""
    return decode_photograph(data, name).pixels


def decode_mask(data: bytes, name: str) -> UInt8[np.ndarray, "H W"]:
    """A single-channel picture in memory, such as a label map or a mask; colour becomes luma.

    Raises:
      ValueError: not a picture, damaged, or too large.
    """
    return _decode(data, name, lambda image: np.array(image.convert("L")))


def decode_labels(data: bytes, name: str) -> UInt8[np.ndarray, "H W"]:
    """A label map in memory: its levels, or of a palette picture its indices.

    Raises:
      ValueError: not a picture, damaged, too large, or with more than one channel.
    """

    def levels(image):
        if image.mode not in ("1", "L", "P"):
            raise ValueError(f"a label map is grey or has a palette, but its mode is {image.mode}")
        return np.array(image.convert("L") if image.mode == "1" else image)

    return _decode(data, name, levels)


def write_picture(
    path: str | os.PathLike,
    array: UInt8[np.ndarray, "H W *C"],
    icc_profile: bytes | None = None,
    **note: Any,
) -> None:
    """Writes a picture in the format its suffix names; the file appears whole or not at all.

    Args:
      path: of a .png or .webp file, which keep every pixel, or of a .jpg or .jpeg file, which is
        written at quality 95 without subsampling of its colours.
      array: `[H, W]` or `[H, W, 3]`; not for JPEG, also `[H, W, 4]`.
      icc_profile: of an RGB array, if it is not sRGB.
      note: metadata, as Pillow's writer of this format takes them.

    Raises:
      ValueError: another suffix, or a side longer than this format can hold.
      OSError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise ValueError(f"{path}: pictures are written as {', '.join(_WRITERS)}")
    longest, most = max(array.shape[:2]), _LONGEST_SIDE.get(suffix, math.inf)
    if longest > most:
        raise ValueError(f"{path}: {longest} pixels a side are over {most}: write .png instead")
    _write(path, Image.fromarray(array), icc_profile=icc_profile, **_WRITERS[suffix], **note)


def write_gif(
    path: str | os.PathLike,
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    milliseconds_per_frame: int = 100,
) -> None:
    """Writes frames as an endless animation; the file appears whole or not at all."""
    first, *rest = map(Image.fromarray, frames)
    options = {"save_all": True, "append_images": rest, "loop": 0}
    _write(path, first, format="GIF", duration=milliseconds_per_frame, **options)


def resize(image: UInt8[np.ndarray, "H W *C"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w C"]:
    """Resizes to `size = (height, width)` with a Lanczos kernel, widened when shrinking."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def block_averages(
    pixels: UInt8[np.ndarray, "H W 3"],
    block: int,
    shape: tuple[int, int],
    start: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, "h w 3"]:
    """Averages of `block` x `block` pixels, `shape` of them, the first from the pixel `start` on.

    Beyond its borders a picture is its reflection.
    """
    rows, columns = (
        _reflected(np.arange(first, first + count * block), length)
        for first, count, length in zip(start, shape, pixels.shape[:2], strict=True)
    )
    averages = np.empty((*shape, 3), np.uint8)
    step = max(1, _PIXELS_AT_A_TIME // (len(columns) * block))
    for top in range(0, shape[0], step):
        strip = pixels.take(rows[top * block : (top + step) * block], axis=0).take(columns, axis=1)
        averages[top : top + step] = Image.fromarray(strip).reduce(block)
    return averages


def _reflected(positions: Int[np.ndarray, " N"], length: int) -> Int[np.ndarray, " N"]:
    """Positions along a side of a picture, mirrored at its outermost pixels as often as needed."""
    period = max(1, 2 * (length - 1))
    positions = positions % period
    return np.minimum(positions, period - positions)


def find_images(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """Expands folders into the pictures below them, in sorted order; files stay as they are.

    Hidden files and folders are passed over, and a picture named twice is listed once.

    Raises:
      FileNotFoundError: a path does not exist.
      ValueError: a folder holds no picture.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        found += _images_below(path) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def _images_below(folder: Path) -> list[Path]:
    images = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not images:
        raise ValueError(f"{folder}: no pictures ({', '.join(IMAGE_SUFFIXES)}) in this folder")
    return images


def _write(path: str | os.PathLike, image: Image.Image, **options: Any) -> None:
    with replacing(path) as partial:
        image.save(partial, **options)


def _decode(data: bytes, name: str, convert: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is over {MAX_PIXELS:,} pixels")
            return convert(image)
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name}: not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: cannot be decoded (over {MAX_PIXELS:,} pixels)") from None
    # Pillow's decoders raise whatever their parsing meets: damaged files are the one case in which
    # a broad clause is the precise one.
    except Exception as error:
        raise ValueError(f"{name}: cannot be decoded ({_one_line(error)})") from error


def _to_photograph(image: Image.Image) -> Photograph:
    image.load()
    rows, columns, transposed = _ORIENTATIONS[_orientation(image)]
    width, height = image.size[::-1] if transposed else image.size
    upright = np.empty((height, width, 3), np.uint8)
    as_stored = upright[::rows, ::columns]
    if transposed:
        as_stored = as_stored.swapaxes(0, 1)
    to_srgb, icc_profile = _colours(image)
    # In strips, for a converted copy of 100 megapixels takes 400 MB.
    step = max(1, _PIXELS_AT_A_TIME // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        strip = _without_alpha(image.crop((0, top, image.width, bottom)))
        if to_srgb is not None:
            strip = ImageCms.applyTransform(strip, to_srgb)
        as_stored[top:bottom] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return Photograph(upright, icc_profile)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever parsing met: a broken note on a picture is no broken picture
        return 1
    return orientation if orientation in _ORIENTATIONS else 1


def _colours(
    image: Image.Image,
) -> tuple[ImageCms.ImageCmsTransform | None, bytes | None]:
    """What converts a picture without alpha to sRGB, and the profile it keeps: one or none."""
    mode = {"CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "L" if _is_grey(image) else "RGB")
    icc_profile = image.info.get("icc_profile")
    try:
        if mode == "LAB":
            profile = ImageCms.createProfile("LAB")
        elif icc_profile:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        else:
            return None, None
        # Fails for a broken profile, and for one of colours other than the mode's.
        to_srgb = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return None, None
    return (None, icc_profile) if mode == "RGB" else (to_srgb, None)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _without_alpha(image: Image.Image) -> Image.Image:
    """A picture of any Pillow mode in grey, RGB, CMYK or Lab, on white where it is transparent."""
    if image.mode == "F":
        raise ValueError("floating-point pictures have no defined range")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        grey = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        return Image.fromarray((grey // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        grey = _is_grey(image)
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
