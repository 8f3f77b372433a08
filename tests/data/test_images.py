import io

import numpy as np
import pytest
from PIL import Image

from l2sae_jax.data import images
from l2sae_jax.data.images import decode_mask, find_images, read_image, resize, write_png

RED = np.array([255, 0, 0])


def save(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def test_rgb_comes_back_as_it_was(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = read_image(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image.dtype == np.uint8 and image.flags.writeable
    np.testing.assert_array_equal(image, pixels)


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = RED
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    path = save(Image.fromarray(pixels), tmp_path / "a.png", exif=exif)
    image = read_image(path)
    assert image.shape == (16, 8, 3)
    np.testing.assert_array_equal(image[0, 0], RED)
    np.testing.assert_array_equal(image[-1, 0], 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode, tmp_path):
    suffix = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    white = Image.new("RGB", (4, 3), "white").convert(mode)
    image = read_image(save(white, tmp_path / f"a.{suffix}"))
    assert image.shape == (3, 4, 3)
    assert image.min() >= 254


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    image = read_image(save(Image.fromarray(grey), tmp_path / "a.png"))
    np.testing.assert_array_equal(image[0, :, 0], [0, 100, 255])


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


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_round_trip(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises((TypeError, ValueError)):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 7), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (16, 8))
    assert small.shape == (16, 8, 3) and small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127).max() < 12


def test_resizing_to_the_same_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(resize(pixels, (5, 7)), pixels)


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
