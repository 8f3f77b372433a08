"""Encoder, decoder and discriminators agree with the PyTorch originals, in float32."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import FFHQ512, SMALL_64, figures, noise_maps, parameters

from l2sae_jax.nn import sample_noise
from l2sae_jax.objectives import Crops, take_crops

FIXTURES = Path(__file__).parents[1] / "fixtures"
pytestmark = pytest.mark.usefixtures("compiled_as_for_users")

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def small():
    with jax.default_matmul_precision("highest"):
        yield figures("forward_64"), parameters(SMALL_64)


def apply(params, network, *args, dtype=jnp.float32, **kwargs):
    module = SMALL_64.module(network, dtype)
    return jax.jit(lambda p, *a: module.apply({"params": p}, *a, **kwargs))(params[network], *args)


def assert_agrees(ours, theirs, tolerance=TOLERANCE):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance


def test_encoder(small):
    expected, params = small
    structure, style = apply(params, "encoder", expected["image"])
    assert_agrees(structure, expected["structure"])
    assert_agrees(style, expected["style"])


def swap_neighbours(structure):
    return structure.reshape(2, 2, *structure.shape[1:])[:, ::-1].reshape(structure.shape)


def only_channels(structure, first, last):
    mask = np.zeros(structure.shape[-1], np.float32)
    mask[first:last] = 1
    return structure * mask


def disturbed(style):
    # Found from the published picture: 0.5 times these standard normal numbers.
    return style + 0.5 * np.random.default_rng(5).standard_normal(style.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "change_structure", "change_style"),
    [
        ("reconstruction", lambda s: s, lambda z: z),
        ("mix", swap_neighbours, lambda z: z),
        ("decode_slice_2_4", lambda s: only_channels(s, 2, 4), lambda z: z),
        ("decode_noisy_style", lambda s: s, disturbed),
    ],
)
def test_decoder(small, name, change_structure, change_style):
    expected, params = small
    structure = change_structure(expected["structure"])
    style = change_style(expected["style"])
    decoded = apply(params, "decoder", structure, style, noise_maps(expected))
    assert_agrees(decoded, expected[name])


def test_image_discriminator(small):
    expected, params = small
    logits = apply(params, "image_discriminator", expected["image"])
    assert_agrees(logits, expected["d_logits"])


def test_crops(small):
    expected, _ = small
    crops = Crops(*(expected[f"crop0_{name}"] for name in ("flip", "scale", "offset")))
    # The fixture keeps the first two of each image's four crops.
    crops = Crops(*(x.reshape(4, 4, *x.shape[1:])[:, :2] for x in crops))
    patches = take_crops(jnp.asarray(expected["image"]), crops, 32)
    assert_agrees(patches, expected["crops"])


def test_patch_discriminator(small):
    expected, params = small
    features = expected["patch_features"]
    patches = expected["crops"].reshape(-1, 32, 32, 3)
    ours = apply(params, "patch_discriminator", patches, method="features")
    kept = features.reshape(4, 4, *features.shape[1:])[:, :2].reshape(ours.shape)
    assert_agrees(ours, kept)

    reference = expected["patch_features_aggregated"]
    logits = apply(params, "patch_discriminator", reference, features, method="compare")
    assert_agrees(logits, expected["patch_logits"])


def test_patch_discriminator_averages_the_reference_side(small):
    expected, params = small
    by_image = expected["patch_features"].reshape(4, 4, 2, 2, -1).mean(axis=1)
    assert_agrees(np.repeat(by_image, 4, axis=0), expected["patch_features_aggregated"])

    patches = expected["crops"]
    together = apply(params, "patch_discriminator", patches, patches)
    features = apply(
        params, "patch_discriminator", patches.reshape(-1, 32, 32, 3), method="features"
    )
    mean = np.asarray(features).reshape(4, 2, 2, 2, -1).mean(axis=1)
    apart = apply(
        params, "patch_discriminator", np.repeat(mean, 2, axis=0), features, method="compare"
    )
    assert_agrees(together, np.asarray(apart))


def test_noise_of_a_sample_follows_from_its_own_key():
    keys = jax.random.split(jax.random.key(3), 4)
    sample = jax.jit(lambda keys: sample_noise(SMALL_64.decoder, keys, 8, 8))
    all_maps, one_map = sample(keys), sample(keys[2:3])
    for name, noise in all_maps.items():
        height, width = SMALL_64.decoder.noise_shapes(8, 8)[name]
        assert noise.shape == (4, height, width, 1)
        np.testing.assert_array_equal(noise[2:3], one_map[name])


@pytest.mark.slow
def test_full_size_512():
    with np.load(FIXTURES / "ffhq512_full.npz") as file:
        expected = dict(file)
    with jax.default_matmul_precision("highest"):
        params = parameters(FFHQ512)
        pixels = expected["image_blocks_16x16"].repeat(32, axis=0).repeat(32, axis=1)
        image = pixels.astype(np.float32)[None] / 127.5 - 1
        encode = jax.jit(lambda p, x: FFHQ512.module("encoder").apply({"params": p}, x))
        decode = jax.jit(lambda p, s, z: FFHQ512.module("decoder").apply({"params": p}, s, z))
        structure, style = encode(params["encoder"], image)
        assert_agrees(structure[0], expected["structure"], 1e-5)
        assert_agrees(style[0], expected["style"], 1e-5)

        decoded = np.asarray(decode(params["decoder"], structure, style))[0]
        rows, columns = expected["points"].T
        assert_agrees(decoded[rows, columns], expected["values"], 1e-4)
        thumbnail = decoded.reshape(32, 16, 32, 16, 3).mean(axis=(1, 3))
        assert_agrees(thumbnail, expected["thumb"], 1e-4)
        assert abs(decoded.mean() - expected["mean"]) < 1e-4
        assert abs(decoded.std() - expected["std"]) < 1e-4


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_bfloat16_stays_close(small, network):
    expected, params = small
    inputs = {
        "encoder": (expected["image"],),
        "decoder": (expected["structure"], expected["style"]),
    }[network]
    half = apply(params, network, *inputs, dtype=jnp.bfloat16)
    full = apply(params, network, *inputs)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert a.dtype == jnp.float32  # codes and pictures leave the networks in float32
        assert 0 < np.abs(a - b).mean() < 0.02
