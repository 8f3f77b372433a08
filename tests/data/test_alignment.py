import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

from l2sae_jax.data import alignment, images
from l2sae_jax.data.alignment import (
    REACH,
    Placement,
    central_square,
    ffhq_placement,
    put_back,
    spread_mask,
    take,
    to_crop,
    to_photograph,
)
from l2sae_jax.data.images import resize

TURNED = Placement(70.3, 61.9, 36.0 * np.cos(0.4), 36.0 * np.sin(0.4))
LANDMARKS = np.array([[40.0, 50], [60, 50], [50, 60], [43, 70], [57, 70]])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """Colours that grow evenly with x, with y, and with both."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)


def centres(height: int, width: int) -> np.ndarray:
    """(x, y) of the middle of every pixel, [height, width, 2]."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1) + 0.5


# --------------------------------------------------------------------------------------- placements


def test_the_central_square_lies_on_whole_pixels():
    assert central_square(60, 80) == Placement(40.0, 30.0, 30.0, 0.0)
    assert central_square(81, 60) == Placement(30.0, 40.0, 30.0, 0.0)  # rows 10 to 69
    assert central_square(60, 80).side == 60


def test_points_go_to_the_crop_and_back():
    corners = to_photograph(np.array([[0.0, 0], [64, 0], [64, 64], [0, 64]]), TURNED, 64)
    sides = np.diff(corners, axis=0, append=corners[:1])
    np.testing.assert_allclose(np.hypot(*sides.T), TURNED.side)
    np.testing.assert_allclose(corners[:2].mean(axis=0)[1], 61.9 - 36 * np.cos(0.4))
    np.testing.assert_allclose(corners[1:3].mean(axis=0) - [70.3, 61.9], 36 * unit(0.4))
    points = np.random.default_rng(0).uniform(-99, 99, (9, 2))
    np.testing.assert_allclose(to_crop(to_photograph(points, TURNED, 64), TURNED, 64), points)


def unit(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def test_ffhq_square_of_an_upright_face():
    # The eyes are 20 apart and the mouth 20 below: the square is 4 x 20 wide, for 3.6 x 20 is less,
    # and its centre a tenth of the way from eyes to mouth.
    assert ffhq_placement(LANDMARKS) == Placement(50.0, 52.0, 40.0, 0.0)
    long_face = LANDMARKS + np.outer([0, 0, 0, 1, 1], [0, 10])
    assert ffhq_placement(long_face) == Placement(50.0, 53.0, 54.0, 0.0)


def test_crops_within_the_ffhq_square():
    assert ffhq_placement(LANDMARKS, side=0.9, raised=0.05) == Placement(50.0, 48.0, 36.0, 0.0)


def test_ffhq_square_turns_and_grows_with_the_face():
    turn = 3 * np.array([unit(0.5), [-np.sin(0.5), np.cos(0.5)]]).T
    upright = ffhq_placement(LANDMARKS, 0.9, 0.04)
    turned = ffhq_placement(LANDMARKS @ turn.T + [7, -5], 0.9, 0.04)
    np.testing.assert_allclose([turned.x, turned.y], turn @ [upright.x, upright.y] + [7, -5])
    np.testing.assert_allclose([turned.right_x, turned.right_y], turn @ [upright.right_x, 0])


def test_landmarks_in_one_place_are_refused():
    with pytest.raises(ValueError, match="span no square"):
        ffhq_placement(np.ones((5, 2)))


def test_a_placement_goes_into_a_manifest():
    placement = ffhq_placement(LANDMARKS.astype(np.float32))
    text = json.dumps(dataclasses.asdict(placement))
    assert Placement(**json.loads(text)) == placement


# ------------------------------------------------------------------------------------------- taking


@pytest.mark.parametrize("shape", [(60, 80), (81, 60), (64, 64), (9, 500)])
@pytest.mark.parametrize("size", [16, 64, 100])
def test_the_central_square_is_cut_out_and_resized(shape, size):
    pixels = noise(*shape)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = resize(pixels[top : top + side, left : left + side], (size, size))
    np.testing.assert_array_equal(take(pixels, central_square(*shape), size), square)


@pytest.mark.parametrize("size", [16, 64, 256])
def test_a_turned_crop_shows_what_lies_there(size):
    pixels = np.rint(ramp(140, 150)).astype(np.uint8)
    x, y = to_photograph(centres(size, size).reshape(-1, 2), TURNED, size).T
    wanted = np.stack([x * 255 / 150, y * 255 / 140, (x + y) * 255 / 290], axis=-1)
    found = take(pixels, TURNED, size)
    assert found.dtype == np.uint8 and found.shape == (size, size, 3)
    np.testing.assert_allclose(found, wanted.reshape(size, size, 3), atol=1.5)


def test_a_quarter_turn_turns_the_crop():
    pixels = noise(90, 90)
    upright = take(pixels, Placement(45.0, 45.0, 40.0, 0.0), 80)
    turned = take(pixels, Placement(45.0, 45.0, 0.0, 40.0), 80)  # its right side is below
    np.testing.assert_array_equal(turned, np.rot90(upright))


def test_large_crops_are_antialiased():
    stripes = np.zeros((1600, 1600, 3), np.uint8)
    stripes[:, ::2] = 255
    found = take(stripes, Placement(800.0, 800.0, 500.0, 400.0), 20)
    assert np.abs(found.astype(int) - 127).max() <= 3


def test_outside_the_photograph_is_its_reflection():
    pixels = noise(40, 50)
    reflected = np.pad(pixels, ((30, 30), (30, 30), (0, 0)), mode="reflect")
    outside = Placement(5.0, 20.0, 24.0, 3.0)
    within = Placement(35.0, 50.0, 24.0, 3.0)
    np.testing.assert_array_equal(take(pixels, outside, 32), take(reflected, within, 32))


def test_a_photograph_of_one_pixel_can_be_taken():
    assert (take(np.full((1, 1, 3), 7, np.uint8), Placement(0.0, 0.0, 5.0, 1.0), 8) == 7).all()


# ------------------------------------------------------------------------------------- putting back


PLACEMENTS = {
    "as large": Placement(70.0, 60.0, 32.0, 0.0),
    "enlarged": Placement(70.3, 61.9, 55.0, 8.0),
    "shrunk": Placement(70.3, 61.9, 16.0, 9.0),
    "beyond the border": Placement(20.5, 12.0, 30.0, -22.0),
    "upside down": Placement(70.0, 60.0, -40.0, 1.0),
}


def distances(placement: Placement, shape: tuple[int, int]) -> np.ndarray:
    """How far each pixel is from the middle of a crop 64 pixels a side, in pixels of the crop."""
    points = to_crop(centres(*shape).reshape(-1, 2), placement, 64)
    return np.abs(points - 32).max(axis=1).reshape(shape)


def test_without_a_change_the_photograph_is_as_it_was():
    pixels = noise(120, 140)
    crop = noise(64, 64)
    found = put_back(pixels, TURNED, crop, crop)
    np.testing.assert_array_equal(found, pixels)
    assert found is not pixels


@pytest.mark.parametrize("placement", PLACEMENTS.values(), ids=PLACEMENTS)
def test_what_is_far_from_a_change_stays_as_it_was(placement):
    pixels = noise(120, 140)
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[22:42, 22:42] = 200
    changed = (put_back(pixels, placement, before, after) != pixels).any(axis=-1)
    away = distances(placement, changed.shape)
    reach = REACH * max(1, 64 / placement.side)
    assert not changed[away > 10 + reach].any()
    assert changed[away < 8].mean() > 0.9  # but where it was white already


@pytest.mark.parametrize("placement", PLACEMENTS.values(), ids=PLACEMENTS)
def test_what_is_outside_the_crop_stays_as_it_was(placement):
    pixels = noise(120, 140)
    before, after = noise(64, 64, seed=1), noise(64, 64, seed=2)
    changed = (put_back(pixels, placement, before, after) != pixels).any(axis=-1)
    assert changed.any()
    assert not changed[distances(placement, changed.shape) > 32].any()


def test_a_change_of_pixels_that_are_the_photographs_own_is_exact():
    pixels = noise(64, 64)
    after = noise(64, 64, seed=1)
    np.testing.assert_array_equal(put_back(pixels, central_square(64, 64), pixels, after), after)


def test_a_smooth_change_is_enlarged_without_error():
    pixels = np.full((300, 320, 3), 60, np.uint8)
    placement = Placement(161.3, 148.2, 90.0, 70.0)
    bump = 100 * np.exp(-((centres(64, 64) - 32) ** 2).sum(axis=-1, keepdims=True) / (2 * 7**2))
    before = np.zeros((64, 64, 3), np.uint8)
    after = np.rint(bump * np.ones(3)).astype(np.uint8)
    points = to_crop(centres(300, 320).reshape(-1, 2), placement, 64).reshape(300, 320, 2)
    wanted = 60 + 100 * np.exp(-((points - 32) ** 2).sum(axis=-1) / (2 * 7**2))
    found = put_back(pixels, placement, before, after)
    np.testing.assert_allclose(found[..., 0], wanted, atol=2)


def test_detail_finer_than_the_crop_stays():
    pixels = 100 + noise(400, 400) // 8
    placement = central_square(400, 400)
    before = take(pixels, placement, 16)
    found = put_back(pixels, placement, before, before + np.uint8(50))
    np.testing.assert_array_equal(found, pixels + 50)


def test_a_change_at_the_crops_edge_leaves_no_line():
    pixels = np.full((1000, 1000, 3), 100, np.uint8)
    before = np.full((64, 64, 3), 100, np.uint8)
    found = put_back(pixels, Placement(500.0, 500.0, 320.0, 60.0), before, before + np.uint8(100))
    assert found[500, 500, 0] == 200
    # The crop's pixels are ten of the photograph's: its edge fades over forty.
    for axis in (0, 1):
        assert np.abs(np.diff(found[..., 0].astype(int), axis=axis)).max() <= 5


def test_a_change_does_not_fade_at_the_photographs_own_border():
    pixels = np.full((100, 200, 3), 100, np.uint8)
    before = np.full((64, 64, 3), 100, np.uint8)
    found = put_back(pixels, central_square(100, 200), before, before + np.uint8(100))[..., 0]
    assert (found[[0, -1], 70:130] == 200).all()
    assert (found[:, [50, 149]] <= 102).all()


def test_an_enlarged_change_shows_no_lattice():
    pixels = np.full((1280, 1280, 3), 100, np.uint8)
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    y, x = np.mgrid[:64, :64]
    after[x > y] = 200  # a diagonal edge of steps
    found = put_back(pixels, central_square(1280, 1280), before, after)[..., 0].astype(float)
    # Along the edge the colour is much the same everywhere, not that of steps of 20 pixels.
    for offset in range(-40, 60, 10):
        assert np.ptp(np.diagonal(found, offset)[200:-200]) < 12


def test_an_enlarged_slope_is_even():
    pixels = np.full((640, 640, 3), 20, np.uint8)
    before = np.zeros((64, 64, 3), np.uint8)
    after = before + (3 * np.arange(64, dtype=np.uint8))[:, None]
    found = put_back(pixels, central_square(640, 640), before, after)
    wanted = 18.5 + 0.3 * (np.arange(640) + 0.5)
    np.testing.assert_allclose(found[320, 10:-10, 0], wanted[10:-10], atol=0.6)


def test_colours_end_at_black_and_white():
    pixels = np.full((64, 64, 3), (5, 100, 250), np.uint8)
    before = np.full((64, 64, 3), 100, np.uint8)
    square = central_square(64, 64)
    assert (put_back(pixels, square, before, before - 100)[20, 20] == [0, 0, 150]).all()
    assert (put_back(pixels, square, before, before + 100)[20, 20] == [105, 200, 255]).all()


def test_crops_that_do_not_fit_each_other_are_refused():
    pixels, crop = noise(8, 8), noise(4, 4)
    with pytest.raises(ValueError, match=r"before and after differ in shape: \(4, 4, 3\) and"):
        put_back(pixels, central_square(8, 8), crop, noise(5, 5))
    with pytest.raises(ValueError, match=r"before is no square: \(4, 5, 3\)"):
        put_back(pixels, central_square(8, 8), noise(4, 5), noise(4, 5))


# ---------------------------------------------------------------------------------- spreading masks


def disc(size: int, radius: float) -> np.ndarray:
    away = np.hypot(*np.moveaxis(centres(size, size) - size / 2, -1, 0))
    return np.where(away < radius, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("side", [40.0, 64.0, 900.0])
def test_a_mask_is_spread_with_a_smooth_outline(side):
    placement = Placement(511.0, 498.0, side / 2 * np.cos(0.3), side / 2 * np.sin(0.3))
    found = spread_mask(disc(64, 20), placement, (1000, 1010))
    assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 255}
    away = np.hypot(*np.moveaxis(centres(1000, 1010) - [511, 498], -1, 0)) * 64 / side
    slack = 0.75 * max(1, 64 / side)
    assert (found[away < 20 - slack] == 255).all()
    assert (found[away > 20 + slack] == 0).all()


def test_a_mask_reaches_the_crops_edge_and_ends_there():
    placement = Placement(50.0, 50.0, 20.0, 5.0)
    found = spread_mask(np.full((16, 16), 255, np.uint8), placement, (100, 90))
    points = np.abs(to_crop(centres(100, 90).reshape(-1, 2), placement, 16) - 8).max(axis=1)
    np.testing.assert_array_equal(found > 0, (points < 8).reshape(100, 90))


def test_a_mask_of_the_photographs_own_pixels_stays_as_it_is():
    mask = np.where(noise(64, 64)[..., 0] > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(spread_mask(mask, central_square(64, 64), (64, 64)), mask)


# ------------------------------------------------------------------------------------------- memory


def test_memory_is_that_of_the_result(monkeypatch):
    for module in (alignment, images):
        monkeypatch.setattr(module, "_PIXELS_AT_A_TIME", 100_000)
    pixels = np.full((2400, 2400, 3), 100, np.uint8)
    placement = Placement(1200.0, 1200.0, 1000.0, 300.0)
    before, after = noise(64, 64), noise(64, 64, seed=1)
    tracemalloc.start()
    put_back(pixels, placement, before, after)
    assert tracemalloc.get_traced_memory()[1] < 1.5 * pixels.nbytes
    tracemalloc.reset_peak()
    take(pixels, placement, 64)
    assert tracemalloc.get_traced_memory()[1] < 1.5 * pixels.nbytes
    tracemalloc.stop()
