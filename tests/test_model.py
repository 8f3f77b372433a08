"""The model as a value: a pytree that encodes, decodes, and says what it cannot do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import tiny_architecture

import l2sae_jax as l2
from l2sae_jax.model import L2SAE, Autoencoder, AutoencoderConfig, sample_keys
from l2sae_jax.nn import published_encoder
from l2sae_jax.regions import DEFAULT_SLICES


@pytest.fixture(scope="module")
def model():
    architecture = tiny_architecture(image_discriminator=None, patch_discriminator=None)
    config = AutoencoderConfig(architecture.encoder, architecture.decoder, 32)
    return L2SAE(Autoencoder(**architecture.init(jax.random.key(0)), config=config))


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (2, 32, 40, 3), minval=-1, maxval=1)


def test_codes_have_unit_length_and_images_need_not_be_square(model, images):
    structure, style = l2.encode(model, images)
    assert structure.shape == (2, 8, 10, 8) and style.shape == (2, 9)
    np.testing.assert_allclose(jnp.linalg.norm(structure, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(style, axis=-1), 1, atol=1e-5)
    assert l2.decode(model, structure, style).shape == images.shape


def test_decoding_is_deterministic_unless_a_key_asks_otherwise(model, images):
    noisy = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1.0 if path[-1].key == "noise_weight" else x, model.smn.decoder
    )
    model = model.replace(smn=model.smn.replace(decoder=noisy))
    codes = l2.encode(model, images)
    silent = l2.decode(model, *codes)
    np.testing.assert_array_equal(silent, l2.decode(model, *codes))
    one_key = l2.decode(model, *codes, jax.random.key(0))
    assert np.abs(one_key - silent).max() > 0.01
    np.testing.assert_array_equal(one_key, l2.decode(model, *codes, jax.random.PRNGKey(0)))
    alone = l2.decode(model, *(code[1:] for code in codes), jax.random.key(0))
    np.testing.assert_allclose(alone, one_key[1:], atol=1e-5)
    with pytest.raises(ValueError, match="give one key, or one for each of 2"):
        l2.decode(model, *codes, jax.random.split(jax.random.key(0), 3))


def test_a_model_is_a_pytree(model, images):
    doubled = jax.tree.map(lambda x: 2 * x, model)
    assert doubled.smn.config == model.smn.config
    gradient = jax.jit(
        jax.grad(lambda m: jnp.mean(jnp.square(l2.decode(m, *l2.encode(m, images)))))
    )(model)
    assert jax.tree.structure(gradient) == jax.tree.structure(model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_one_key_serves_all_samples():
    keys = jax.random.key_data(sample_keys(jax.random.key(3), 4))
    np.testing.assert_array_equal(keys, np.stack([jax.random.key_data(jax.random.key(3))] * 4))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((32, 32, 3), "float32", r"images of shape \(32, 32, 3\): expected \[batch, height, width"),
        ((1, 32, 32, 4), "float32", "expected .batch, height, width, 3."),
        ((1, 32, 32, 3), "uint8", r"dtype uint8: expected floats in \[-1, 1\], .* x / 127.5 - 1"),
        (
            (1, 32, 34, 3),
            "float32",
            "images of width 34: this network reads multiples of 4 from 28 up",
        ),
        ((1, 24, 32, 3), "float32", "images of height 24"),
    ],
)
def test_images_that_cannot_be_read(model, shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        l2.encode(model, np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("structure", "style", "message"),
    [
        (np.zeros((8, 8, 8)), np.zeros((1, 9)), r"structure of shape \(8, 8, 8\): expected .*8\]"),
        (np.zeros((1, 8, 8, 7)), np.zeros((1, 9)), "structure of shape .*: expected .*width, 8.$"),
        (np.zeros((2, 8, 8, 8)), np.zeros((1, 9)), r"style of shape \(1, 9\): expected \(2, 9\)"),
        (np.zeros((2, 8, 8, 8)), np.zeros((2, 8)), r"style of shape \(2, 8\): expected \(2, 9\)"),
        (
            np.zeros((1, 8, 8, 8), int),
            np.zeros((1, 9)),
            "structure of dtype int32: expected floats",
        ),
        (np.zeros((1, 8, 8, 8)), np.zeros((1, 9), int), "style of dtype int32: expected floats"),
        (None, np.zeros((1, 9)), "structure of type NoneType: expected an array"),
    ],
)
def test_codes_that_cannot_be_decoded(model, structure, style, message):
    with pytest.raises(ValueError, match=message):
        l2.decode(model, structure, style)


def test_what_is_no_model_is_refused(model, images):
    codes = np.zeros((1, 8, 8, 8)), np.zeros((1, 9))
    for function, arguments in ((l2.encode, (images,)), (l2.decode, codes)):
        with pytest.raises(ValueError, match="model of type Autoencoder: expected an L2SAE"):
            function(model.smn, *arguments)


def test_a_model_without_an_smn_or_smpn_says_so(model, images):
    with pytest.raises(ValueError, match="no SMPN, so it cannot predict region masks"):
        l2.segment(model, images)
    with pytest.raises(ValueError, match="no SMN, so it can segment but not restyle"):
        l2.encode(L2SAE(None, model.smn), images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices": DEFAULT_SLICES}, "slices and targets go together"),
        ({"slices": ((0, 9),) * 5, "targets": "masks"}, "do not name channels"),
        ({"slices": ((0, 2),) * 4, "targets": "masks"}, "do not name channels"),
        ({"dtype": "float16"}, "choose float32 or bfloat16"),
        ({"encoder": published_encoder()}, "disagree on the codes"),
    ],
)
def test_configurations_that_contradict_themselves(model, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model.smn.config, **changes)
