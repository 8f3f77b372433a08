"""Pictures in and out: uint8 RGB arrays from any common file, PNG files from arrays."""

import io
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000

# Pillow warns above its own limit, 89 megapixels, and refuses twice as much; ours is checked here.
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, MAX_PIXELS)


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as RGB in [0, 255], upright.

    The EXIF orientation is applied; grey, palette, 16-bit and CMYK pictures are converted, and
    transparency is laid on white. Of an animation the first frame is taken.

    Raises:
      ValueError: it is missing, not a picture, damaged, or has more than `MAX_PIXELS` pixels.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, os.fspath(path))


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """`read_image` for a file already in memory; `name` is what errors call it."""
    return np.array(_decode(data, name, _to_upright_rgb))


def decode_mask(data: bytes, name: str) -> UInt8[np.ndarray, "H W"]:
    """A single-channel picture in memory, such as a label map or a mask; colour becomes luma.

    Raises:
      ValueError: not a picture, damaged, or too large.
    """
    return np.array(_decode(data, name, _to_single_channel))


def write_png(path: str | os.PathLike, array: UInt8[np.ndarray, "H W *C"]) -> None:
    """Writes `[H, W]`, `[H, W, 3]` or `[H, W, 4]` as PNG; the file appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        Image.fromarray(array).save(partial, format="PNG")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def resize(image: UInt8[np.ndarray, "H W *C"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w C"]:
    """Resizes to `size = (height, width)` with a Lanczos kernel, widened when shrinking."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


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


def _decode(data: bytes, name: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is over {MAX_PIXELS:,} pixels")
            return convert(image)
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name}: not a picture in a known format") from None
    # Pillow's decoders raise whatever their parsing meets: damaged files are the one case in which
    # a broad clause is the precise one.
    except Exception as error:
        raise ValueError(f"{name}: cannot be decoded ({_one_line(error)})") from error


def _to_single_channel(image: Image.Image) -> Image.Image:
    image.load()
    return image if image.mode == "L" else image.convert("L")


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB version of a picture of any Pillow mode."""
    if image.mode == "F":
        raise ValueError("floating-point pictures have no defined range")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
