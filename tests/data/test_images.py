import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from l2sae_jax.data import images
from l2sae_jax.data.images import (
    block_averages,
    decode_mask,
    decode_photograph,
    find_images,
    read_image,
    read_photograph,
    resize,
    write_picture,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def save(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def test_rgb_comes_back_as_it_was(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = read_image(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image.dtype == np.uint8 and image.flags.writeable
    np.testing.assert_array_equal(image, pixels)


STORED_AS = [
    lambda picture: picture,
    np.fliplr,
    lambda picture: np.rot90(picture, 2),
    np.flipud,
    lambda picture: picture.swapaxes(0, 1),
    lambda picture: np.rot90(picture, 1),
    lambda picture: np.rot90(picture, 2).swapaxes(0, 1),
    lambda picture: np.rot90(picture, 3),
]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED_AS[orientation - 1](pixels))
    image = read_image(save(Image.fromarray(stored), tmp_path / "a.png", exif=exif))
    np.testing.assert_array_equal(image, pixels)


def test_orientation_is_applied_strip_by_strip(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_PIXELS_AT_A_TIME", 12)
    test_exif_orientation_is_applied(6, tmp_path)


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0", b"Exif\0\0" + bytes(40), b"nonsense"])
def test_broken_exif_is_passed_over(exif, tmp_path):
    path = save(Image.new("RGB", (8, 8), "red"), tmp_path / "a.jpg", exif=exif)
    assert read_image(path).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode, tmp_path):
    suffix = "tiff" if mode == "CMYK" else "png"
    white = Image.new("RGB", (4, 3), "white").convert(mode)
    image = read_image(save(white, tmp_path / f"a.{suffix}"))
    assert image.shape == (3, 4, 3)
    assert image.min() >= 254


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    image = read_image(save(Image.fromarray(grey), tmp_path / "a.png"))
    np.testing.assert_array_equal(image[0, :, 0], [0, 100, 255])


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_sixteen_bits_of_tiff_are_scaled_too(kind, tmp_path):
    grey = np.array([[0, 257 * 100, 65535]], kind)
    image = read_image(save(Image.fromarray(grey), tmp_path / "a.tiff"))
    np.testing.assert_array_equal(image[0, :, 0], [0, 100, 255])


def test_sixteen_bits_of_three_colours_are_read():
    row = b"\0" + struct.pack(">6H", 0, 257 * 100, 65535, 65535, 257 * 7, 0)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(row), b"IEND")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )
    np.testing.assert_array_equal(
        decode_photograph(data, "a").pixels, [[[0, 100, 255], [255, 7, 0]]]
    )


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for name in ("a.gif", "a.webp", "a.png"):
        path = save(red, tmp_path / name, save_all=True, append_images=[blue, red])
        np.testing.assert_allclose(read_image(path)[0, 0], [255, 0, 0], atol=3)


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 255, 0, 128
    image = read_image(save(Image.fromarray(pixels), tmp_path / "a.png"))
    np.testing.assert_array_equal(image[0, :, 0], [0, 255, 127])


def test_a_transparent_palette_entry_is_laid_on_white(tmp_path):
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    path = save(palette, tmp_path / "a.png", transparency=0)
    assert read_image(path).min() == 255


# ------------------------------------------------------------------------------------ their colours


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def make_profile(space: bytes, connected_by: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A colour profile of version 2.4 for a printer."""
    white = fixed(0.9642, 1, 0.8249)
    tags = tags | {b"wtpt": b"XYZ \0\0\0\0" + white}
    start, index, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        index += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kinds = struct.pack(">I4s4s4s", 0x02400000, b"prtr", space, connected_by)
    header = struct.pack(">I4s", start + len(body), b"none") + kinds + bytes(12)
    header += b"acsp" + bytes(28) + white
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + index + body


def linear_grey() -> bytes:
    return make_profile(b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})


def cyan_that_is_grey() -> bytes:
    """CMYK of four inks of which the first gives L* = 50, and the others black."""
    lightness = [(0 if any(inks[1:]) else 128 if inks[0] else 255) for inks in _all_inks()]
    grid = b"".join(bytes([value, 128, 128]) for value in lightness)
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return make_profile(b"CMYK", b"Lab ", {b"A2B0": table + 4 * ramp + grid + 3 * ramp})


def _all_inks():
    return itertools.product((0, 1), repeat=4)


def photograph(mode: str, colour, suffix: str, **options) -> images.Photograph:
    buffer = io.BytesIO()
    Image.new(mode, (16, 16), colour).save(buffer, suffix, **options)
    return decode_photograph(buffer.getvalue(), f"a.{suffix}")


@pytest.mark.parametrize(
    "mode, suffix",
    [
        *(("RGB", suffix) for suffix in ("png", "jpeg", "tiff", "webp")),
        *(("RGBA", suffix) for suffix in ("png", "tiff", "webp")),
        ("P", "png"),
    ],
)
def test_an_rgb_picture_keeps_its_profile(mode, suffix):
    assert photograph(mode, 0, suffix, icc_profile=SRGB).icc_profile == SRGB
    assert photograph(mode, 0, suffix).icc_profile is None


def test_grey_is_converted_by_its_profile():
    assert photograph("L", 128, "png").pixels[0, 0].tolist() == [128] * 3
    for mode, colour in (("L", 128), ("LA", (128, 255))):
        found = photograph(mode, colour, "png", icc_profile=linear_grey())
        assert found.pixels[0, 0].tolist() == [188] * 3
        assert found.icc_profile is None


@pytest.mark.parametrize("suffix", ["jpeg", "tiff"])
def test_cmyk_is_converted_by_its_profile(suffix):
    cyan = (255, 0, 0, 0)
    np.testing.assert_allclose(photograph("CMYK", cyan, suffix).pixels[0, 0], [0, 255, 255], atol=2)
    found = photograph("CMYK", cyan, suffix, icc_profile=cyan_that_is_grey())
    np.testing.assert_allclose(found.pixels[0, 0], [119] * 3, atol=2)
    assert found.icc_profile is None


def test_lab_becomes_srgb():
    found = photograph("LAB", (128, 128, 128), "tiff")
    np.testing.assert_allclose(found.pixels[0, 0], [119] * 3, atol=2)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "profile",
    [b"nonsense", SRGB[:200], SRGB[:128] + bytes(len(SRGB) - 128), None],
    ids=["nonsense", "cut", "empty", "another_mode's"],
)
def test_a_profile_that_does_not_fit_is_dropped(profile, mode):
    profile = profile or (linear_grey() if mode == "RGB" else SRGB)
    colour = {"RGB": (10, 20, 30), "L": 128, "CMYK": (0, 255, 0, 0)}[mode]
    found = photograph(mode, colour, "tiff", icc_profile=profile)
    assert found.icc_profile is None
    np.testing.assert_array_equal(found.pixels, photograph(mode, colour, "tiff").pixels)


# ------------------------------------------------------------------------------- what is no picture


def test_a_mask_has_one_channel():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "white").save(buffer, "PNG")
    mask = decode_mask(buffer.getvalue(), "mask")
    assert mask.shape == (3, 4) and mask.min() == 255


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_an_unreadable_file_is_named_in_one_line(content, tmp_path):
    path = tmp_path / "a.jpg"
    if content is None:  # a JPEG cut in the middle
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jpg: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"b\.png: cannot be read \(No such file"):
        read_image(tmp_path / "b.png")


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 11)
    with pytest.raises(ValueError, match="4x3 is over 11 pixels"):
        read_image(save(Image.new("RGB", (4, 3)), tmp_path / "a.png"))


def test_formats_that_start_programs_are_not_read():
    with pytest.raises(ValueError, match="a.eps: not a picture in a known format"):
        decode_photograph(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.eps")


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_round_trip(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_picture(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_picture(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises((TypeError, ValueError)):
        write_picture(tmp_path / "a.png", np.zeros((2, 2, 7), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.JPEG"])
def test_pictures_are_written_in_the_format_of_their_suffix(name, tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 7:] = 250, 30, 20  # within a block of JPEG's
    write_picture(tmp_path / name, pixels, icc_profile=SRGB)
    found = read_photograph(tmp_path / name)
    assert found.icc_profile == SRGB
    np.testing.assert_allclose(found.pixels, pixels, atol=12 if "j" in name.lower() else 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with Image.open(tmp_path / name) as image:
        assert image.format == {"png": "PNG", "webp": "WEBP"}.get(name[2:], "JPEG")


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: pictures are written as \.png, \.jpg,"):
        write_picture(tmp_path / "a.gif", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"a\.webp: 16384 pixels a side are over 16383: write \.png"
    ):
        write_picture(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- resizing


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (16, 8))
    assert small.shape == (16, 8, 3) and small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127).max() < 12


def test_resizing_to_the_same_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(resize(pixels, (5, 7)), pixels)


def test_averages_of_blocks():
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    reflected = np.pad(pixels, ((3, 4), (1, 7), (0, 0)), mode="reflect").astype(float)
    found = block_averages(pixels, 3, (4, 5), (-3, -1))
    wanted = reflected.reshape(4, 3, 5, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, wanted, atol=0.51)


# ------------------------------------------------------------------------------------------ finding


def test_folders_are_expanded_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.webp", "notes.txt", ".hidden/d.png", "sub/.e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "b.png", tmp_path])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["b.png", "a.JPG", "sub/c.webp"]
    assert find_images(tmp_path / "sub") == [tmp_path / "sub" / "c.webp"]


def test_finding_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no pictures"):
        find_images([tmp_path])
