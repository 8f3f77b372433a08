"""Windows hold what the whole decode holds there, wherever they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2sae_jax as l2
from l2sae_jax import windows
from l2sae_jax.model import L2SAE, Autoencoder, AutoencoderConfig
from l2sae_jax.nn import Architecture, DecoderConfig, EncoderConfig, Window
from l2sae_jax.regions import REGION_NAMES
from l2sae_jax.windows import bounds, decode_where, window_sizes

HEIGHT, WIDTH = 128, 160
TAPS = {"published": (1, 3, 3, 1), "none": (1,), "long": (1, 5, 10, 10, 5, 1)}


def network(taps=(1, 3, 3, 1)) -> Autoencoder:
    architecture = Architecture(
        EncoderConfig((3, 4, 4, 5), 8, (5,), 6), DecoderConfig(8, 6, (5,), (6, 5, 4), taps)
    )
    parameters = architecture.init(jax.random.key(0))
    config = AutoencoderConfig(architecture.encoder, architecture.decoder, HEIGHT)
    return Autoencoder(**parameters, config=config)


@pytest.fixture(autouse=True)
def windows_for_small_images(monkeypatch):
    """Small images are otherwise decoded whole."""
    monkeypatch.setattr(windows, "_SMALLEST_IMAGE", 64)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (3, HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def codes(images):
    return jax.jit(network().encode)(images)


@pytest.mark.parametrize("taps", TAPS.values(), ids=TAPS)
def test_a_window_is_cut_from_the_whole(codes, taps):
    net = network(taps)
    whole = jax.jit(net.decode)(*codes)
    decode = jax.jit(
        lambda corners, size: net.decode(*codes, window=Window(corners, size)), static_argnums=1
    )
    generator = np.random.default_rng(1)
    edges = [np.zeros((3, 2), int), np.full((3, 2), 1000)]
    anywhere = [generator.integers(0, (HEIGHT, WIDTH), (3, 2)) for _ in range(6)]
    for size in ((8, 8), (17, 40), (64, 23), (HEIGHT, 30)):
        for corners in edges + anywhere:
            window = decode(jnp.asarray(corners), size)
            assert window.shape == (3, *size, 3)
            first = np.minimum(corners, (HEIGHT - size[0], WIDTH - size[1]))
            for part, image, (row, column) in zip(window, whole, first, strict=True):
                expected = image[row : row + size[0], column : column + size[1]]
                np.testing.assert_allclose(part, expected, atol=1e-5)


@pytest.mark.slow
def test_a_window_costs_what_it_shows():
    net = network()
    codes = jnp.ones((1, 16, 20, 8)), jnp.ones((1, 6))

    def work(window):
        decode = jax.jit(lambda net: net.decode(*codes, window=window))
        return decode.lower(net).compile().cost_analysis()["flops"]

    small, large = (work(Window(jnp.zeros((1, 2), int), size)) for size in ((8, 8), (64, 80)))
    assert small < 0.35 * large < 0.35 * 0.7 * work(None)


def test_bounds():
    where = np.zeros((3, 10, 12), bool)
    where[0, 2:5, 7] = True
    where[1] = True
    first, extent = bounds(where)
    np.testing.assert_array_equal(first[:2], [(2, 7), (0, 0)])
    np.testing.assert_array_equal(extent, [(3, 1), (10, 12), (0, 0)])


def rectangle(height, width, row, column):
    where = np.zeros((HEIGHT, WIDTH), bool)
    where[row : row + height, column : column + width] = True
    return where


@pytest.mark.parametrize(
    "where",
    [
        [rectangle(9, 30, 60, 60), rectangle(20, 30, 108, 130), rectangle(0, 0, 0, 0)],
        [rectangle(30, 70, 0, 0), rectangle(3, 3, 125, 157), rectangle(1, 1, 64, 0)],
        [rectangle(60, 20, 10, 10), rectangle(5, 80, 10, 10), rectangle(1, 1, 0, 159)],
        [rectangle(90, 100, 38, 60), rectangle(1, 1, 0, 0), rectangle(1, 1, 0, 0)],
        [rectangle(128, 5, 0, 155), rectangle(128, 160, 0, 0), rectangle(1, 1, 0, 0)],
    ],
    ids=["least", "wide", "half", "face", "whole"],
)
def test_what_is_asked_for_is_decoded_and_no_more_than_a_window(codes, images, where):
    net, where = network(), np.stack(where)
    found = np.asarray(jax.jit(lambda *a: decode_where(net, *a))(*codes, where, images))
    np.testing.assert_allclose(found[where], np.asarray(net.decode(*codes))[where], atol=1e-5)
    extent = np.asarray(bounds(where)[1]).max(axis=0)
    size = next(
        (s for s in window_sizes(net.config.decoder, (16, 20)) if (extent <= s).all()),
        (HEIGHT, WIDTH),
    )
    decoded = (found != images).any(axis=-1).sum(axis=(1, 2))
    assert (decoded <= size[0] * size[1]).all()


def test_an_edit_through_a_window_has_the_pixels_of_a_whole_one(images, monkeypatch):
    masks = np.zeros((3, HEIGHT, WIDTH, 5), np.float32)
    masks[..., REGION_NAMES.index("lips")] = rectangle(20, 40, 80, 60)
    model, key = L2SAE(network()), jax.random.key(1)
    windowed = l2.edit(model, images, key, ("lips",), 0.6, "local", masks)
    monkeypatch.setattr(windows, "_SMALLEST_IMAGE", 10**6)
    jax.clear_caches()
    whole = l2.edit(model, images, key, ("lips",), 0.6, "local", masks)
    np.testing.assert_allclose(windowed, whole, atol=1e-5)
    assert (np.asarray(whole) != images).any()


def test_small_images_are_decoded_whole(monkeypatch):
    monkeypatch.undo()
    config = DecoderConfig(8, 6, (5,), (4,))
    assert window_sizes(config, (127, 200)) == []
    assert window_sizes(config, (128, 200))[0] == (32, 100)
