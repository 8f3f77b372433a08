"""Styles spread over all directions, and decoders that still understand them."""

import jax
import numpy as np
import pytest
from reference import tiny_architecture

from l2sae_jax.model import Autoencoder, AutoencoderConfig
from l2sae_jax.nn import EncoderConfig
from l2sae_jax.pixels import to_images
from l2sae_jax.training.styles import spread_styles


@pytest.fixture(scope="module")
def tiny():
    encoder = EncoderConfig((3, 4, 5), 8, (12, 24), 9)
    architecture = tiny_architecture(
        encoder=encoder, image_discriminator=None, patch_discriminator=None
    )
    config = AutoencoderConfig(architecture.encoder, architecture.decoder, 32)
    return config, architecture.init(jax.random.key(0))


@pytest.fixture(scope="module")
def pictures():
    """Flat ones, each of its own colour and a little noise."""
    random = np.random.default_rng(0)
    colours = random.integers(20, 236, (160, 1, 1, 3)) + random.integers(-20, 20, (160, 32, 32, 3))
    return colours.astype(np.uint8)


def test_styles_of_faces_lie_in_all_directions_and_decode_as_before(tiny, pictures):
    config, params = tiny
    batches = np.split(pictures, [64, 128])
    spread = spread_styles(params, config.encoder, batches)
    assert jax.tree.map(np.shape, spread) == jax.tree.map(np.shape, params)

    @jax.jit
    def both(params, images):
        model = Autoencoder(params["encoder"], params["decoder"], config)
        structure, style = model.encode(images)
        return style, model.decode(structure, style)

    images = to_images(pictures)
    style, decoded = both(params, images)
    new_style, new_decoded = both(spread, images)
    assert np.linalg.norm(np.mean(style, axis=0)) > 0.5
    assert np.linalg.norm(np.mean(new_style, axis=0)) < 0.2
    variances = np.linalg.eigvalsh(np.cov(new_style, rowvar=False))
    assert variances[0] > 0.2 * variances[-1]

    def difference(a, b):
        return np.mean(np.abs(np.asarray(a) - np.asarray(b)))

    others = difference(decoded, np.roll(decoded, 1, axis=0))
    assert difference(new_decoded, decoded) < 0.5 * others
    _, misread = both(params | {"encoder": spread["encoder"]}, images)
    assert difference(misread, decoded) > others


def test_too_few_pictures_are_refused(tiny, pictures):
    config, params = tiny
    message = "^35 pictures cannot spread a style of 9 channels: give 36 or more$"
    with pytest.raises(ValueError, match=message):
        spread_styles(params, config.encoder, [pictures[:35]])
