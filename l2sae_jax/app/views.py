"""The pictures that the page shows of a portrait, no larger than screens are."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from l2sae_jax.app.portraits import Crop, Portrait
from l2sae_jax.data.alignment import Placement, central_square, put_back, spread_labels, take
from l2sae_jax.data.images import resize
from l2sae_jax.label_maps import colour_map
from l2sae_jax.regions import REGION_NAMES

PHOTOGRAPH_PIXELS = 640, 1280  # of its longer side
CLOSE_UP_PIXELS = 480

_CHOSEN, _OTHERS = 0.6, 0.25  # how much of a pixel is its region's colour

Pixels = UInt8[np.ndarray, "h w 3"]


class View(NamedTuple):
    """A picture, and which region each of its pixels is in; see `label_maps`."""

    pixels: Pixels
    labels: UInt8[np.ndarray, "h w"]

    def region_at(self, x: int, y: int) -> str | None:
        """The region of a pixel; None of the background, and beyond the border."""
        height, width = self.labels.shape
        label = self.labels[y, x] if 0 <= y < height and 0 <= x < width else 0
        return REGION_NAMES[label - 1] if label else None

    def tinted(self, chosen: Collection[str]) -> Pixels:
        """The picture with its regions in colour, strongly those chosen."""
        shares = [0.0, *(_CHOSEN if name in chosen else _OTHERS for name in REGION_NAMES)]
        share = np.float32(shares)[self.labels][..., None]
        colours = np.float32(colour_map(self.labels))
        return np.uint8(np.rint(self.pixels + share * (colours - self.pixels)))


class Views:
    """What the page shows of a portrait: the photograph, and its face from close by, upright."""

    def __init__(self, portrait: Portrait):
        self.portrait = portrait
        pixels = portrait.photograph.pixels
        longer = max(pixels.shape[:2])
        self._scale = np.clip(longer, *PHOTOGRAPH_PIXELS) / longer
        height, width = (max(1, round(self._scale * length)) for length in pixels.shape[:2])
        at = portrait.placement
        self._placement = Placement(
            *(self._scale * length for length in (at.x, at.y, at.right_x, at.right_y))
        )
        labels = spread_labels(portrait.labels, self._placement, (height, width))
        self.photograph = View(resize(pixels, (height, width)), labels)
        size = CLOSE_UP_PIXELS
        labels = spread_labels(portrait.labels, central_square(size, size), (size, size))
        self.close_up = View(take(pixels, at, size), labels)

    def edited(self, crop: Crop) -> Pixels:
        """The photograph with its face edited."""
        return put_back(self.photograph.pixels, self._placement, self.portrait.crop, crop)

    def found(self, chosen: Collection[str]) -> Pixels:
        """The photograph with the faces framed, and in colour the regions of that edited."""
        picture = Image.fromarray(self.photograph.tinted(chosen))
        pen = ImageDraw.Draw(picture)
        _draw_square(pen, self._placement)
        faces = self.portrait.faces
        for number, face in enumerate(faces if len(faces) > 1 else (), start=1):
            box = [self._scale * length for length in face.box]
            _draw_number(pen, box, number, number == self.portrait.number)
        return np.asarray(picture)

    def face_at(self, x: int, y: int) -> int | None:
        """The number of the face that a pixel of the photograph is in."""
        for number, face in enumerate(self.portrait.faces, start=1):
            left, top, width, height = (self._scale * length for length in face.box)
            if left <= x < left + width and top <= y < top + height:
                return number
        return None


def _draw_square(pen: ImageDraw.ImageDraw, at: Placement) -> None:
    right, down = np.array([at.right_x, at.right_y]), np.array([-at.right_y, at.right_x])
    centre = np.array([at.x, at.y])
    corners = [centre + a * right + b * down for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    pen.line([tuple(corner) for corner in (*corners, *corners[:2])], "white", 3, "curve")


def _draw_number(pen: ImageDraw.ImageDraw, box: list[float], number: int, is_chosen: bool) -> None:
    left, top, width, height = box
    if not is_chosen:
        pen.rounded_rectangle((left, top, left + width, top + height), 6, None, "white", 2)
    radius = max(12.0, min(width, height) / 8)
    circle = (left - radius, top - radius, left + radius, top + radius)
    pen.ellipse(circle, "black" if is_chosen else "white", "white", 2)
    ink = "white" if is_chosen else "black"
    pen.text((left, top), str(number), ink, anchor="mm", font_size=1.3 * radius)
