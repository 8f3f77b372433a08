"""Faces drawn from a seed, with exact labels: data for tests and first runs, without any file.

A face is a stack of soft shapes, painted from the back to the front. A shape is a field of signed
distances in pixels, negative inside: its sign labels the pixel centre, and clipped to a pixel's
width it is the antialiased coverage that blends the colour. Coordinates are those of a portrait:
the picture spans [-1, 1] in x (to the right) and y (down), at any size.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from l2sae_jax.regions import PART_LABELS

Field = Float[np.ndarray, "H W"]
Colour = Float[np.ndarray, "3"]

# Colours in [0, 1], between whose neighbours a face's own are drawn.
_SKIN = np.array([[0.97, 0.84, 0.74], [0.89, 0.70, 0.56], [0.72, 0.51, 0.37], [0.40, 0.26, 0.18]])
_HAIR = np.array(
    [[0.07, 0.05, 0.05], [0.25, 0.15, 0.09], [0.50, 0.27, 0.12], [0.86, 0.69, 0.42], [0.75] * 3]
)
_IRIS = np.array([[0.22, 0.12, 0.06], [0.40, 0.28, 0.12], [0.25, 0.42, 0.28], [0.32, 0.50, 0.68]])
_LIPS = np.array([[0.80, 0.42, 0.40], [0.70, 0.18, 0.24], [0.50, 0.20, 0.20]])


class SyntheticFaces:
    """A random-access source of drawn faces.

    Example `i` depends on `(seed, i)` alone, and shows the same face at every size.
    """

    def __init__(self, size: int, length: int, seed: int):
        """Args: size: height and width in pixels; length: number of faces; seed: not negative.

        Raises:
          ValueError: a size or length below 1, or a negative seed.
        """
        if size < 1 or length < 1 or seed < 0:
            raise ValueError(
                f"size and length must be positive and the seed not negative, "
                f"not {size}, {length} and {seed}"
            )
        self._size, self._length, self._seed = size, length, seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        """`{"image": uint8 [size, size, 3], "labels": uint8 [size, size], "id": index}`."""
        if not 0 <= index < self._length:
            raise IndexError(f"face {index} of {self._length}")
        image, labels = draw_face(self._size, np.random.default_rng((self._seed, int(index))))
        return {"image": image, "labels": labels, "id": int(index)}


def draw_face(
    size: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """One face and its labels (`PART_LABELS`, 0 for the background)."""
    face = _Face.sample(rng)
    canvas = _Canvas(size, face.background, rng)
    # The body stays upright while the head tilts about the chin.
    upright = canvas.grid
    head = _tilted(canvas.grid, face.roll, pivot=(0.0, 0.6))
    skin, hair = _shaded_skin(face, head), _hair_colour(face, head)
    _paint_hair_behind(canvas, face, head, hair)
    _paint_body(canvas, face, upright)
    _paint_head(canvas, face, head, skin)
    _paint_hair_in_front(canvas, face, head, hair)
    for side in (-1, 1):
        _paint_eye(canvas, face, head, side)
    _paint_nose(canvas, face, head, skin)
    _paint_mouth(canvas, face, head)
    return canvas.finish(rng)


# ---------------------------------------------------------------------------------------------
# What varies from face to face.


@dataclasses.dataclass(frozen=True)
class _Face:
    """Lengths are in units of half the picture, angles in radians, colours in [0, 1]."""

    background: tuple[Colour, Colour]
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    cloth: Colour
    yaw: float  # how far features move sideways on the head
    pitch: float  # and down
    roll: float
    light: tuple[float, float]
    width: float  # half axes of the head
    height: float
    bald: bool
    hair_volume: float  # thickness round the head
    hair_length: float  # y at which it ends
    hairline: float  # y of the middle of the hairline
    parting: float  # x of the middle of the hairline
    curl: float
    eye_distance: float
    eye_width: float
    eye_open: float
    brow_height: float
    brow_width: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_height: float
    mouth_open: float  # negative: closed
    ear: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "_Face":
        return cls(
            background=(rng.uniform(0.1, 0.95, 3), rng.uniform(0.1, 0.95, 3)),
            skin=_between(_SKIN, rng),
            hair=_between(_HAIR, rng),
            iris=_between(_IRIS, rng),
            lips=_between(_LIPS, rng),
            cloth=rng.uniform(0.05, 0.9, 3),
            yaw=float(np.clip(rng.normal() * 0.06, -0.13, 0.13)),
            pitch=float(rng.uniform(-0.04, 0.04)),
            roll=float(np.clip(rng.normal() * 0.06, -0.15, 0.15)),
            light=(float(rng.uniform(-1, 1)), float(rng.uniform(-0.9, 0.1))),
            width=float(rng.uniform(0.47, 0.56)),
            height=float(rng.uniform(0.66, 0.74)),
            bald=bool(rng.random() < 0.04),
            hair_volume=float(rng.uniform(0.06, 0.24)),
            hair_length=float(rng.choice([rng.uniform(-0.1, 0.1), rng.uniform(0.4, 1.2)])),
            hairline=float(rng.uniform(-0.56, -0.34)),
            parting=float(rng.uniform(-0.3, 0.3)),
            curl=float(rng.uniform(0.0, 0.05)),
            eye_distance=float(rng.uniform(0.225, 0.255)),
            eye_width=float(rng.uniform(0.10, 0.13)),
            eye_open=float(rng.uniform(0.035, 0.065)),
            brow_height=float(rng.uniform(0.12, 0.16)),
            brow_width=float(rng.uniform(0.018, 0.04)),
            nose_length=float(rng.uniform(0.30, 0.38)),
            nose_width=float(rng.uniform(0.10, 0.15)),
            mouth_width=float(rng.uniform(0.17, 0.25)),
            lip_height=float(rng.uniform(0.035, 0.06)),
            mouth_open=float(rng.uniform(-0.05, 0.05)),
            ear=float(rng.uniform(0.06, 0.1)),
        )


def _between(table: np.ndarray, rng: np.random.Generator) -> Colour:
    place = rng.uniform(0, len(table) - 1)
    low = int(place)
    return table[low] + (place - low) * (table[low + 1] - table[low])


# ---------------------------------------------------------------------------------------------
# Drawing: shapes, and the canvas they are painted on.


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Coordinates of the pixel centres, and the length of a pixel."""

    x: Field
    y: Field
    pixel: float

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Field:
        """Signed distance in pixels, exact to first order at the outline."""
        u, v = (self.x - cx) / rx, (self.y - cy) / ry
        radius = np.sqrt(u * u + v * v) + 1e-6
        slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + 1e-6
        return (radius - 1.0) * radius / slope / self.pixel

    def below(self, line: float | Field) -> Field:
        """The half plane under a line, whose slope is taken to be small."""
        return (line - self.y) / self.pixel


def _tilted(grid: _Grid, angle: float, pivot: tuple[float, float]) -> _Grid:
    x, y = grid.x - pivot[0], grid.y - pivot[1]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return _Grid(pivot[0] + cos * x + sin * y, pivot[1] - sin * x + cos * y, grid.pixel)


class _Canvas:
    """Picture and labels under construction."""

    def __init__(self, size: int, background: tuple[Colour, Colour], rng: np.random.Generator):
        centres = ((np.arange(size) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
        self.grid = _Grid(*np.meshgrid(centres, centres), pixel=2.0 / size)
        self._labels = np.zeros((size, size), np.uint8)
        mix = 0.5 + 0.5 * _waves(self.grid, rng)[..., None]
        top, bottom = (colour.astype(np.float32) for colour in background)
        self._image = top + mix * (bottom - top)

    def paint(self, shape: Field, colour: Colour | np.ndarray, part: str | None = None) -> None:
        """Blends a colour, `[3]` or `[H, W, 3]`, into a shape and labels it, if a part is named."""
        # Only the rows and columns that the shape touches: most shapes are small.
        touched = shape < 0.5
        rows, columns = (np.flatnonzero(touched.any(axis)) for axis in (1, 0))
        if not len(rows):
            return
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside = shape[window]
        colour = np.asarray(colour, np.float32)
        colour = colour[window] if colour.ndim == 3 else colour
        coverage = np.clip(0.5 - inside, 0.0, 1.0)[..., None]
        self._image[window] += coverage * (colour - self._image[window])
        if part is not None:
            self._labels[window][inside < 0.0] = PART_LABELS[part]

    def finish(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Adds the sensor's noise and rounds."""
        noise = rng.standard_normal(self._image.shape[:2], np.float32)[..., None]
        image = np.clip(self._image + 0.012 * noise, 0.0, 1.0)
        return (255.0 * image + 0.5).astype(np.uint8), self._labels


def _waves(grid: _Grid, rng: np.random.Generator) -> Field:
    """A smooth random texture in [-1, 1]."""
    angles, phases = rng.uniform(0, 2 * np.pi, (2, 3))
    frequencies = rng.uniform((0.5, 2.0, 5.0), (2.0, 5.0, 14.0))
    total = np.zeros_like(grid.x)
    for weight, angle, phase, f in zip((0.6, 0.3, 0.1), angles, phases, frequencies, strict=True):
        direction = np.float32(f * np.cos(angle)), np.float32(f * np.sin(angle))
        total += weight * np.sin(direction[0] * grid.x + direction[1] * grid.y + np.float32(phase))
    return total


# ---------------------------------------------------------------------------------------------
# The parts of a portrait, from the back to the front.

_HEAD_Y = -0.02  # centre of the head
_EYE_Y = -0.07


def _head_shape(face: _Face, head: _Grid) -> Field:
    """An oval that narrows towards the chin."""
    skull = head.ellipse(0, _HEAD_Y - 0.12, face.width, face.height - 0.12)
    jaw = head.ellipse(0, _HEAD_Y + 0.05, face.width * 0.9, face.height - 0.05)
    return np.minimum(skull, jaw)


def _hair_colour(face: _Face, head: _Grid) -> np.ndarray:
    """Strands that run down from the parting, and a sheen."""
    strands = np.sin(60.0 * (head.x - face.parting) + 9.0 * np.sin(3.0 * head.y + 8.0 * head.x))
    sheen = np.exp(-12.0 * (head.y + 0.62 - 0.3 * face.light[0] * head.x) ** 2)
    brightness = 1.0 + 0.16 * strands + 0.35 * sheen
    return face.hair.astype(np.float32) * brightness[..., None]


def _paint_hair_behind(canvas: _Canvas, face: _Face, head: _Grid, hair: np.ndarray) -> None:
    if face.bald:
        return
    wavy = face.curl * np.sin(14.0 * head.y + 3.0 * face.parting)
    outline = _Grid(head.x + wavy, head.y, head.pixel)
    width = face.width + face.hair_volume
    crown = outline.ellipse(0, -0.2, width, face.height - 0.18 + face.hair_volume)
    # Below the crown it hangs straight down to its length.
    hanging = np.maximum((np.abs(outline.x) - width) / head.pixel, -head.below(face.hair_length))
    hanging = np.maximum(hanging, head.below(-0.2))
    cap = np.maximum(crown, -head.below(max(face.hair_length, -0.1)))
    canvas.paint(np.minimum(cap, hanging), 0.8 * hair, "hair")


def _paint_body(canvas: _Canvas, face: _Face, upright: _Grid) -> None:
    shoulders = upright.ellipse(0.3 * face.yaw, 1.25, 0.95, 0.42)
    neck = np.maximum(
        (np.abs(upright.x) - 0.52 * face.width - 0.04) / upright.pixel, upright.below(0.3)
    )
    collar = upright.ellipse(0, 0.86, 0.62 * face.width, 0.13)
    folds = 1.0 + 0.12 * np.sin(18.0 * upright.x + 7.0 * upright.y)
    cloth = face.cloth.astype(np.float32) * folds[..., None]
    canvas.paint(shoulders, cloth, "cloth")
    canvas.paint(np.maximum(neck, -upright.below(0.9)), 0.78 * face.skin, "neck")
    canvas.paint(collar, 0.82 * face.skin, "neck")


def _paint_head(canvas: _Canvas, face: _Face, head: _Grid, skin: np.ndarray) -> None:
    for side in (-1, 1):
        # The ear on the side the head turns to disappears behind the cheek.
        x = side * (face.width + 0.01) + 0.6 * face.yaw
        ear = head.ellipse(x, 0.0, face.ear, 0.15)
        canvas.paint(ear, 0.88 * face.skin, "l_ear" if side > 0 else "r_ear")
    canvas.paint(_head_shape(face, head), skin, "skin")


def _shaded_skin(face: _Face, head: _Grid) -> np.ndarray:
    """Lambertian light on an ellipsoid, and warm cheeks."""
    nx, ny = head.x / (face.width + 0.1), (head.y - _HEAD_Y) / (face.height + 0.1)
    nz = np.sqrt(np.maximum(1.0 - nx * nx - ny * ny, 0.05))
    lx, ly = face.light
    lambert = (nx * lx + ny * ly + 1.3 * nz) / np.float32(np.sqrt(lx * lx + ly * ly + 1.69))
    shade = (0.55 + 0.5 * lambert)[..., None] * face.skin.astype(np.float32)
    cheek = np.exp(-18.0 * (np.abs(head.x - face.yaw) - 0.28) ** 2 - 22.0 * (head.y - 0.18) ** 2)[
        ..., None
    ]
    return shade + cheek * np.array([0.05, -0.02, -0.02], np.float32)


def _paint_hair_in_front(canvas: _Canvas, face: _Face, head: _Grid, hair: np.ndarray) -> None:
    if face.bald:
        return
    from_parting = np.abs(head.x - face.parting - face.yaw)
    fringe = face.hairline + 0.9 * from_parting**2 + face.curl * np.sin(25.0 * head.x)
    top = np.maximum(_head_shape(face, head) - 1.0, -head.below(fringe + face.pitch))
    canvas.paint(top, hair, "hair")


def _paint_eye(canvas: _Canvas, face: _Face, head: _Grid, side: int) -> None:
    # Turning the head brings one eye nearer to the nose's line and narrows it.
    near = 1.0 - 1.2 * side * face.yaw
    x, y = face.yaw + side * face.eye_distance * near, _EYE_Y + face.pitch
    width = face.eye_width * near
    name = "l" if side > 0 else "r"

    arch = 1.2 * (head.x - x) ** 2 / face.eye_width
    brow_middle = y - face.brow_height + 0.5 * arch
    half = face.brow_width * np.clip(1.1 - side * 0.4 * (head.x - x) / width, 0.3, 1.6)
    brow = np.maximum(
        (np.abs(head.y - brow_middle) - half) / head.pixel,
        (np.abs(head.x - x) - 1.35 * width) / head.pixel,
    )
    canvas.paint(brow, 0.55 * face.hair + 0.12 * face.skin, f"{name}_brow")

    canvas.paint(head.ellipse(x, y, 1.3 * width, 1.9 * face.eye_open), 0.86 * face.skin)
    # An almond: what two large circles have in common.
    bulge = (width**2 + face.eye_open**2) / (2 * face.eye_open)
    upper_lid = head.ellipse(x, y + bulge - face.eye_open, bulge, bulge)
    lower_lid = head.ellipse(x, y - bulge + face.eye_open, bulge, bulge)
    eye = np.maximum(upper_lid, lower_lid)
    gaze = x + 0.5 * face.yaw
    canvas.paint(eye, np.array([0.93, 0.92, 0.90]), f"{name}_eye")
    canvas.paint(np.maximum(eye, head.ellipse(gaze, y, 0.056, 0.056)), face.iris)
    canvas.paint(np.maximum(eye, head.ellipse(gaze, y, 0.026, 0.026)), np.full(3, 0.03))
    canvas.paint(head.ellipse(gaze + 0.02, y - 0.02, 0.012, 0.012), np.ones(3))
    lashes = np.maximum(
        np.abs(upper_lid) - 0.007 / head.pixel, (np.abs(head.x - x) - width) / head.pixel
    )
    canvas.paint(np.maximum(lashes, -head.below(y)), np.full(3, 0.1))


def _paint_nose(canvas: _Canvas, face: _Face, head: _Grid, skin: np.ndarray) -> None:
    top, tip = _EYE_Y + face.pitch, _EYE_Y + face.nose_length + 1.4 * face.pitch
    down = np.clip((head.y - top) / (tip - top), 0.0, 1.0)
    middle = face.yaw * (1.0 + 0.5 * down)
    across = head.x - middle
    half = face.nose_width * (0.35 + 0.65 * down**2)
    bridge = np.maximum((np.abs(across) - half) / head.pixel, head.below(top))
    wings = head.ellipse(1.5 * face.yaw, tip - 0.035, face.nose_width, 0.07)
    shape = np.minimum(np.maximum(bridge, -head.below(tip - 0.04)), wings)
    # The side away from the light is darker, the ridge brighter.
    slope = across / (half + 1e-6)
    relief = 1.0 + 0.10 * face.light[0] * slope + 0.10 * np.exp(-6.0 * slope**2) - 0.06 * down
    canvas.paint(shape, skin * relief[..., None], "nose")
    for side in (-1, 1):
        x = 1.5 * face.yaw + side * 0.5 * face.nose_width
        canvas.paint(head.ellipse(x, tip, 0.024, 0.014), 0.35 * face.skin)


def _paint_mouth(canvas: _Canvas, face: _Face, head: _Grid) -> None:
    x, y = 1.15 * face.yaw, 0.41 + 1.1 * face.pitch
    opening = max(face.mouth_open, 0.0)
    width = face.mouth_width
    # Corners up a little, as in a smile.
    bent = _Grid(head.x, head.y + 0.35 * (head.x - x) ** 2 / width, head.pixel)
    whole = bent.ellipse(x, y, width, face.lip_height + opening)
    dip = bent.ellipse(x, y - face.lip_height - opening - 0.016, 0.03, 0.03)
    upper = np.maximum(np.maximum(whole, -bent.below(y)), -dip)
    fuller = bent.ellipse(x, y + 0.012, 0.92 * width, 1.2 * face.lip_height + opening)
    lower = np.maximum(fuller, bent.below(y))
    canvas.paint(upper, 0.85 * face.lips, "u_lip")
    canvas.paint(lower, face.lips * 1.08, "l_lip")
    if face.mouth_open > 0:
        inside = bent.ellipse(x, y, 0.82 * width, opening)
        canvas.paint(inside, np.array([0.25, 0.06, 0.07]), "mouth")
        teeth = bent.ellipse(x, y - 0.45 * opening, 0.6 * width, 0.5 * opening)
        canvas.paint(np.maximum(inside, teeth), np.array([0.92, 0.90, 0.86]), "mouth")
    else:
        line = (np.abs(bent.y - y) - 0.006) / head.pixel
        canvas.paint(np.maximum(line, whole + 1.0), 0.4 * face.lips)
