"""Marks: notes that change no pixel and others can read, words that can be read by all."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

import l2sae_jax as l2
from l2sae_jax.data.images import read_image, write_picture
from l2sae_jax.marks import (
    MARKS,
    SOURCE_TYPE,
    Mark,
    read_mark,
    software_name,
    with_words,
    write_marked,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
SOFTWARE = software_name("0123456789abcdef" * 4)
MADE = Mark(SOURCE_TYPE, SOFTWARE)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FORMATS = ["png", "jpg", "webp"]


@pytest.fixture(params=FORMATS)
def file(request, tmp_path):
    return tmp_path / f"result.{request.param}"


# ------------------------------------------------------------------------------------ in the file


def test_the_program_and_the_model_are_named():
    assert f"l2sae_jax {l2.__version__}, model 0123456789abcdef" == SOFTWARE


@pytest.mark.parametrize("profile", [None, SRGB], ids=["sRGB", "profile"])
def test_a_note_is_read_again_and_changes_no_pixel(file, tmp_path, profile):
    write_marked(file, PIXELS, "metadata", SOFTWARE, profile)
    plain = tmp_path / f"plain{file.suffix}"
    write_picture(plain, PIXELS, profile)
    assert read_mark(file) == MADE and read_mark(plain) is None
    np.testing.assert_array_equal(read_image(file), read_image(plain))
    with Image.open(file) as image:
        assert image.info.get("icc_profile") == profile
    assert file.stat().st_size - plain.stat().st_size < 1000


def test_equal_results_are_equal_files(file):
    write_marked(file, PIXELS, "metadata", SOFTWARE)
    first = file.read_bytes()
    write_marked(file, PIXELS, "metadata", SOFTWARE)
    assert file.read_bytes() == first


def test_without_a_mark_files_are_what_they_were(file):
    write_marked(file, PIXELS, "none", SOFTWARE)
    marked = file.read_bytes()
    write_picture(file, PIXELS)
    assert file.read_bytes() == marked


def test_the_note_is_xmp_as_iptc_has_it(file):
    write_marked(file, PIXELS, "metadata", SOFTWARE)
    with Image.open(file) as image:
        root = ElementTree.fromstring(image.info["xmp"].split(b"?>", 1)[1])
    found = root.findall(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert [node.text for node in found] == [SOURCE_TYPE]


def test_a_note_survives_copying_to_other_formats(file, tmp_path):
    write_marked(file, PIXELS, "metadata", SOFTWARE)
    with Image.open(file) as image:
        exif = image.getexif()
        exif[ExifTags.Base.Software] = SOFTWARE
        for name in ("copy.tif", "copy.jpg", "copy.webp"):
            exif[ExifTags.Base.XMLPacket] = image.info["xmp"]  # where TIFF has it
            image.save(tmp_path / name, exif=exif, xmp=image.info["xmp"])
            assert read_mark(tmp_path / name) == MADE


@pytest.mark.parametrize(
    "xmp",
    [
        '<r:Description ext:DigitalSourceType="http://a.b/c"/>',
        "<r:Description ext:DigitalSourceType = 'http://a.b/c' />",
        '<ext:DigitalSourceType rdf:resource="http://a.b/c"/>',
        "<ext:DigitalSourceType>\n http://a.b/c </ext:DigitalSourceType>",
    ],
)
def test_notes_of_other_programs_are_read(tmp_path, xmp):
    Image.fromarray(PIXELS).save(tmp_path / "theirs.jpg", xmp=xmp.encode())
    assert read_mark(tmp_path / "theirs.jpg") == Mark("http://a.b/c", None)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "tif", "webp"])
def test_a_picture_that_says_nothing_has_no_mark(tmp_path, suffix):
    Image.fromarray(PIXELS).save(tmp_path / f"plain.{suffix}")
    assert read_mark(tmp_path / f"plain.{suffix}") is None


def test_a_broken_note_beside_a_good_one_hides_nothing(tmp_path):
    xmp = f'<a DigitalSourceType="{SOURCE_TYPE}"/>'.encode()
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", xmp=xmp, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_mark(tmp_path / "a.jpg") == Mark(SOURCE_TYPE, None)


@pytest.mark.parametrize("data", [b"", b"dear diary", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_told_in_a_line(tmp_path, data):
    (tmp_path / "notes.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"notes.png: cannot be read as a picture \([^\n]*\)$"):
        read_mark(tmp_path / "notes.png")
    with pytest.raises(ValueError, match="none.png: cannot be read"):
        read_mark(tmp_path / "none.png")


def test_damaged_files_raise_nothing_else(file):
    write_marked(file, PIXELS, "metadata", SOFTWARE)
    sound, generator = file.read_bytes(), np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(sound[: generator.integers(len(sound) // 2, len(sound))])
        data[generator.integers(0, 900)] ^= 1 << generator.integers(8)
        file.write_bytes(data)
        try:
            mark = read_mark(file)
        except ValueError as error:
            assert "\n" not in str(error) and str(file) in str(error)
        else:
            assert mark is None or isinstance(mark, Mark)


# --------------------------------------------------------------------------------- on the picture


def test_words_are_in_the_lower_right_corner_and_nowhere_else():
    before = np.full((400, 600, 3), 128, np.uint8)
    after = with_words(before)
    rows, columns = np.nonzero((after != before).any(axis=-1))
    assert rows.min() > 360 and rows.max() == 399
    assert columns.min() > 500 and columns.max() == 599
    assert (before == 128).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_words_stand_out_on_any_ground(level):
    after = with_words(np.full((400, 600, 3), level, np.uint8))
    plate = after[-20:, -80:]
    assert plate.max() == 255  # the words
    assert plate.min() <= 102  # what is below them


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 300), (300, 1), (5, 5), (16, 16), (64, 64), (30, 3000), (2000, 1500)]
)
def test_words_fit_pictures_of_any_size(shape):
    before = np.zeros((*shape, 3), np.uint8)
    after = with_words(before)
    assert after.shape == before.shape and after.dtype == np.uint8
    if min(shape) >= 16:
        columns = np.nonzero(after.any(axis=(0, 2)))[0]
        assert columns.min() > 0 and columns.max() < shape[1] - 1  # whole words
        share = (columns.max() - columns.min()) / min(shape)
        assert share > 0.15


def test_what_is_visible_may_be_noted_too(file):
    for mark, carried in MARKS.items():
        write_marked(file, PIXELS, mark, SOFTWARE)
        shown = with_words(PIXELS) if "visible" in carried else PIXELS
        if file.suffix != ".jpg":
            np.testing.assert_array_equal(read_image(file), shown)
        assert read_mark(file) == (MADE if "metadata" in carried else None)


def test_too_large_a_picture_is_refused_as_without_a_mark(tmp_path):
    wide = np.zeros((1, 16_384, 3), np.uint8)
    for mark in ("none", "metadata"):
        with pytest.raises(ValueError, match="16384 pixels a side are over 16383"):
            write_marked(tmp_path / "a.webp", wide, mark, SOFTWARE)
    with pytest.raises(ValueError, match="pictures are written as"):
        write_marked(tmp_path / "a.bmp", PIXELS, "metadata", SOFTWARE)
    assert list(tmp_path.iterdir()) == []


def test_a_note_in_a_png_may_follow_its_pixels(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    write_marked(tmp_path / "a.png", PIXELS, "metadata", SOFTWARE)
    data = (tmp_path / "a.png").read_bytes()
    note = data[33 : data.index(b"IDAT") - 4]
    end = buffer.getvalue().index(b"IEND") - 4
    (tmp_path / "b.png").write_bytes(buffer.getvalue()[:end] + note + buffer.getvalue()[end:])
    assert read_mark(tmp_path / "b.png") == MADE
