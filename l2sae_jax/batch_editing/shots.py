"""Photographs as they are edited: read, and the faces in them cropped for the model."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from l2sae_jax.data.alignment import Placement, central_square, own_parts, take
from l2sae_jax.data.faces import locate
from l2sae_jax.data.images import Photograph, decode_photograph, read_file

Picture = UInt8[np.ndarray, "H W 3"]


ALIGNMENTS = ("auto", "middle", "off")


@dataclass(frozen=True)
class Cropping:
    """How faces are cut out of photographs.

    Attributes:
      align: "auto" finds faces, aligns them as FFHQ does, and puts edits back into the photograph;
        "middle" takes the central square for the face, and puts edits back; "off" takes it for a
        crop of one upright face, and results are such crops.
      face: with "auto", which faces: "largest", "all", or the number of one from the left, from 1;
        of a style reference it is always the largest, which is looked for with "middle" as well.

    Raises:
      ValueError: other values.
    """

    align: str = "auto"
    face: str | int = "largest"

    def __post_init__(self):
        if self.align not in ALIGNMENTS:
            raise ValueError(f"unknown align {self.align!r}: choose from {', '.join(ALIGNMENTS)}")
        if self.face in ("largest", "all") or (isinstance(self.face, int) and self.face >= 1):
            return
        raise ValueError(f"face {self.face}: expected largest, all, or a number from 1 up")


ALIGNED = Cropping()


class Crop(NamedTuple):
    """A face of a photograph as the model sees it.

    Attributes:
      pixels: RGB.
      placement: where in the photograph it lies.
      own: 1 where no other face of the photograph is nearer, 0 elsewhere.
    """

    pixels: UInt8[np.ndarray, "size size 3"]
    placement: Placement
    own: UInt8[np.ndarray, "size size"]


class Shot(NamedTuple):
    """A photograph about to be edited.

    Attributes:
      name: what its results are called after.
      path: its file.
      sha256: of the file.
      photograph: what edits are put back into; None where results are crops.
      crops: the faces to edit.
    """

    name: str
    path: Path
    sha256: str
    photograph: Photograph | None
    crops: tuple[Crop, ...]


def read_shot(
    name: str, path: Path, cropping: Cropping, size: int, framing: tuple[float, float]
) -> Shot:
    """Reads a photograph and crops its faces.

    Args:
      size: of the crops, in pixels.
      framing: how the model's training pictures were cropped; see `AutoencoderConfig`.

    Raises:
      ValueError: a file that cannot be read, or no such face in it; naming the file.
    """
    data = read_file(path)
    photograph = decode_photograph(data, os.fspath(path))
    if cropping.align == "auto":
        try:
            placements = locate(photograph.pixels, cropping.face, *framing)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    else:
        placements = [central_square(*photograph.pixels.shape[:2])]
    crops = tuple(
        Crop(take(photograph.pixels, placement, size), placement, own)
        for placement, own in zip(placements, own_parts(placements, size), strict=True)
    )
    sha256 = hashlib.sha256(data).hexdigest()
    return Shot(name, path, sha256, None if cropping.align == "off" else photograph, crops)


def is_unchanged(path: Path, sha256: str) -> bool:
    """Whether a file is there and is the one that had this hash."""
    try:
        return hashlib.sha256(read_file(path)).hexdigest() == sha256
    except ValueError:
        return False


def read_shots(
    paths: Mapping[str, Path],
    cropping: Cropping,
    size: int,
    framing: tuple[float, float],
    skipped: Callable[[Path, str], None],
) -> Iterator[Shot]:
    """Those photographs that can be edited, read one after the other; `skipped` hears of others."""
    for name, path in paths.items():
        try:
            shot = read_shot(name, path, cropping, size, framing)
        except ValueError as error:
            skipped(path, str(error))
            continue
        yield shot
