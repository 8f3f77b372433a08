"""What tells that a picture was edited: a note in its file, words in its corner, or both.

The note is what news agencies, cameras and platforms use for it: IPTC's Digital Source Type, in
XMP, beside the name of the program. It holds nothing of the photograph, its place, time or people.
"""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageDraw, ImageFont, PngImagePlugin

import l2sae_jax as l2
from l2sae_jax.data.images import read_file, write_picture

# What a result carries, by what `--mark` says.
MARKS = {
    "none": frozenset(),
    "metadata": frozenset({"metadata"}),
    "visible": frozenset({"visible"}),
    "both": frozenset({"metadata", "visible"}),
}
WORDS = "edited by AI"
# IPTC's term for a picture of which a part was made by a trained model.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

_XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
# As a property of its own, as an attribute, or as a reference: XMP allows all three.
_SOURCE_TYPE = re.compile(
    rb"""\bDigitalSourceType\s*(?:=\s*["']|>\s*|rdf:resource\s*=\s*["'])([^"'<>\s]+)"""
)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_FONT_SHARE = 0.035  # of the picture's shorter side
_SMALLEST_FONT = 9.0
_WIDEST = 0.9  # of the picture's width
_PLATE = 0.4  # how bright a picture is below the words


class Mark(NamedTuple):
    """What a picture's file says of how it was made, each None where it does not.

    Attributes:
      source_type: an address, of IPTC's terms mostly; `SOURCE_TYPE` for results of this package.
      software: the program that wrote it.
    """

    source_type: str | None
    software: str | None


def software_name(fingerprint: str) -> str:
    """What results call their maker: this package, and a model by its `checkpoints.fingerprint`."""
    return f"l2sae_jax {l2.__version__}, model {fingerprint[:16]}"


def write_marked(
    path: str | os.PathLike,
    pixels: UInt8[np.ndarray, "H W 3"],
    mark: str,
    software: str,
    icc_profile: bytes | None = None,
) -> None:
    """`write_picture` for a result.

    Args:
      mark: of `MARKS`; only what is visible changes pixels.
      software: see `software_name`.
    """
    if "visible" in MARKS[mark]:
        pixels = with_words(pixels)
    note = _note(Path(path).suffix.lower(), software) if "metadata" in MARKS[mark] else {}
    write_picture(path, pixels, icc_profile, **note)


def with_words(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """A copy with `WORDS` in its lower right corner, on a translucent plate."""
    height, width = pixels.shape[:2]
    size = max(_SMALLEST_FONT, _FONT_SHARE * min(height, width))
    font = ImageFont.load_default(size)
    size *= min(1.0, _WIDEST * width / (font.getlength(WORDS) + size))
    font = ImageFont.load_default(max(1.0, size))
    plate = round(font.getlength(WORDS) + size), round(1.6 * size)
    letters = Image.new("L", (max(1, plate[0]), max(1, plate[1])))
    centre = letters.width / 2, letters.height / 2
    ImageDraw.Draw(letters).text(centre, WORDS, 255, font, anchor="mm")
    share = np.float32(letters)[:height, :width, None] / 255
    marked = pixels.copy()
    corner = marked[-share.shape[0] :, -share.shape[1] :]
    corner[:] = np.rint((1 - share) * _PLATE * corner + share * 255)
    return marked


def read_mark(path: str | os.PathLike) -> Mark | None:
    """What the file of a picture says of how it was made; None if it says nothing.

    None proves nothing: many programs and sites leave such notes out when they copy a picture.

    Raises:
      ValueError: it is missing, not a picture, or damaged.
    """
    data = read_file(path)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()  # notes may follow the pixels
            mark = Mark(_source_type(image), _software(image))
    except Exception as error:  # whatever Pillow meets in a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as a picture ({reason})") from error
    return mark if any(mark) else None


def _source_type(image: Image.Image) -> str | None:
    xmp = image.info.get("xmp", b"")
    found = _SOURCE_TYPE.search(xmp if isinstance(xmp, bytes) else str(xmp).encode())
    return None if found is None else found[1].decode(errors="replace")


def _software(image: Image.Image) -> str | None:
    said = image.info.get("Software")
    if said is None:
        with contextlib.suppress(Exception):  # a broken note on a picture is no broken picture
            said = image.getexif().get(ExifTags.Base.Software)
    return None if said is None else str(said).strip("\0 ") or None


def _note(suffix: str, software: str) -> dict[str, Any]:
    """What Pillow's writer is told, that the file may say how its picture was made."""
    if suffix == ".png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", _XMP)
        chunks.add_text("Software", software)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = software
    return {"xmp": _XMP.encode(), "exif": exif}
