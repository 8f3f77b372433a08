"""Makes hard photographs of the easy ones in tests/photographs, to see what becomes of them.

python benchmarks/hard_photographs.py photographs
python edit.py photographs --regions=hair --face=all --output=results

Small faces and groups of them, faces at the border, turned ones, poor light, every kind of file,
and one picture without a face. The largest has 100 megapixels.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageDraw

SOURCES = Path(__file__).parents[1] / "tests" / "photographs"
NAMES = ("astronaut", "grace_hopper", "decoded_1", "decoded_2")

# What the EXIF orientations from 2 to 8 undo.
STORED_AS = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
)

Saved = tuple[str, Image.Image, dict[str, Any]]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    people = {name: Image.open(SOURCES / f"{name}.jpg").convert("RGB") for name in NAMES}
    for cases in (placed, turned, lit, stored):
        for name, picture, options in cases(people):
            picture.save(folder / name, **options)
            print(f"{name}: {picture.width}x{picture.height} {picture.mode}")


def placed(people: dict[str, Image.Image]) -> Iterator[Saved]:
    """Faces that are small, many, cut off, or not there."""
    for name, person in people.items():
        yield f"as_it_is_{name}.png", person, {}
    yield "tiny.png", people["decoded_1"].resize((48, 48)), {}
    yield "without_a_face.jpg", backdrop(900, 600), {}
    small = backdrop(6000, 4000)
    small.paste(people["astronaut"].resize((400, 400)), (4400, 1900))
    yield "small_face_24_megapixels.jpg", small, {"quality": 90}
    yield "group_24_megapixels.jpg", group(people, 6000, 4000), {"quality": 90}
    yield "at_the_left_border.png", people["astronaut"].crop((200, 0, 500, 400)), {}
    yield "at_the_top_border.png", people["grace_hopper"].crop((60, 170, 460, 570)), {}
    yield "at_the_right_border.png", people["decoded_2"].crop((0, 0, 170, 256)), {}
    yield "100_megapixels.jpg", people["grace_hopper"].resize((9200, 10800)), {"quality": 90}


def turned(people: dict[str, Image.Image]) -> Iterator[Saved]:
    for name, degrees in (("astronaut", 30), ("decoded_1", -30), ("grace_hopper", 45)):
        upright = people[name]
        seen = upright.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="gray")
        yield f"turned_by_{degrees}.png", seen, {}
    for degrees in (90, 180, 270):
        yield f"lying_{degrees}.png", people["astronaut"].rotate(degrees, expand=True), {}
    for orientation, stored_as in enumerate(STORED_AS, start=2):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stored_turned = people["decoded_2"].transpose(stored_as)
        yield f"exif_orientation_{orientation}.jpg", stored_turned, {"exif": exif, "quality": 90}


def lit(people: dict[str, Image.Image]) -> Iterator[Saved]:
    for name, gain in (("dark", 0.12), ("overexposed", 2.2)):
        for person in ("grace_hopper", "decoded_1"):
            yield f"{name}_{person}.png", people[person].point(lambda v, gain=gain: v * gain), {}
    yield "pale.png", people["decoded_2"].point(lambda v: 150 + v // 5), {}


def stored(people: dict[str, Image.Image]) -> Iterator[Saved]:
    """One face in every kind of file."""
    person = people["grace_hopper"]
    grey = person.convert("L")
    oval = Image.new("L", person.size)
    ImageDraw.Draw(oval).ellipse((60, 20, 450, 580), fill=255)
    cut_out, grey_cut_out = person.copy(), grey.copy()
    cut_out.putalpha(oval)
    grey_cut_out.putalpha(oval)
    sixteen_bits = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "with_profile.jpg", person, {"quality": 90, "icc_profile": profile}
    yield "progressive.jpg", person, {"quality": 90, "progressive": True}
    yield "cmyk.jpg", person.convert("CMYK"), {"quality": 90}
    yield "cmyk.tif", person.convert("CMYK"), {}
    yield "grey.jpg", grey, {"quality": 90}
    yield "sixteen_bits.png", sixteen_bits, {}
    yield "sixteen_bits.tif", sixteen_bits, {}
    yield "palette.png", person.quantize(64), {}
    yield "transparent.png", cut_out, {}
    yield "transparent_grey.png", grey_cut_out, {}
    yield "lossy.webp", person, {"quality": 80}
    frames = [people["decoded_1"], people["decoded_2"]]
    yield "animated.gif", frames[0], {"save_all": True, "append_images": frames, "duration": 500}


def group(people: dict[str, Image.Image], width: int, height: int) -> Image.Image:
    """Two dozen people in four rows, each larger than the one behind."""
    canvas = backdrop(width, height)
    heads = (people["astronaut"].crop((130, 0, 330, 250)), *list(people.values())[1:])
    for row, (tall, top) in enumerate(((240, 300), (380, 800), (560, 1500), (900, 2500))):
        for place in range(6):
            head = heads[(row + place) % 4]
            head = head.resize((tall * head.width // head.height, tall))
            canvas.paste(head, (200 + place * 950 + 60 * row, top + 40 * (place % 2)))
    return canvas


def backdrop(width: int, height: int) -> Image.Image:
    """A texture, fine and coarse, always the same."""
    random = np.random.default_rng(0)
    canvas = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64, 256):
        noise = random.integers(0, 256, (cells, cells, 3), np.uint8)
        canvas += np.asarray(Image.fromarray(noise).resize((width, height)), np.float32) / 4
    return Image.fromarray(canvas.astype(np.uint8))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
