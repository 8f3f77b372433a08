import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from l2sae_jax.regions import PART_LABELS, region_masks
from l2sae_jax.training.augmentation import (
    Augmentation,
    augment,
    damage,
    jitter_colours,
    jitter_parts,
    make_augmentation,
    place,
)

EVERYTHING = Augmentation(turn=20, zoom=0.2, shift=0.1, colour=0.3, grey=0.5, damaged=0.5)


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(0), (4, 24, 20, 3), minval=-1, maxval=1)


@pytest.fixture
def labels():
    return jax.random.randint(jax.random.key(2), (4, 24, 20), 0, 19).astype(jnp.uint8)


@pytest.fixture
def keys():
    return jax.random.split(jax.random.key(1), 4)


def test_pictures_change_by_each_samples_own_key(images, labels, keys):
    changed, moved = augment(images, labels, keys, EVERYTHING)
    assert np.abs(changed).max() <= 1 and moved.dtype == labels.dtype
    assert (np.abs(changed - images).mean(axis=(1, 2, 3)) > 0.01).all()
    turned, moved_turned = augment(images[::-1], labels[::-1], keys[::-1], EVERYTHING)
    np.testing.assert_allclose(turned[::-1], changed, atol=1e-5)
    np.testing.assert_array_equal(moved_turned[::-1], moved)
    same = augment(images[:1].repeat(4, axis=0), labels[:1].repeat(4, axis=0), keys, EVERYTHING)[0]
    assert np.abs(same[0] - same[1:]).max(axis=(1, 2, 3)).min() > 0.01


def test_nothing_asked_for_changes_nothing(images, labels, keys):
    unchanged, unmoved = augment(images, labels, keys, Augmentation())
    assert unchanged is images and unmoved is labels
    np.testing.assert_allclose(jitter_colours(images, keys, 0.0), images, atol=1e-6)
    still = place(images, labels, keys, Augmentation())
    np.testing.assert_allclose(still[0], images, atol=1e-5)
    np.testing.assert_array_equal(still[1], labels)


def test_labels_move_with_what_they_name(keys):
    down, right = np.mgrid[:48, :48] - 23.5
    disc = np.hypot(down + 6, right - 4) < 9
    labels = jnp.asarray(np.where(disc, PART_LABELS["nose"], 0), jnp.uint8)[None].repeat(4, axis=0)
    images = jnp.where(labels[..., None] > 0, 1.0, -1.0) * jnp.ones(3)
    amount = Augmentation(turn=40, zoom=0.3, shift=0.1)
    moved, moved_labels = place(images, labels, keys, amount)
    inside = np.asarray(moved_labels) > 0
    assert (inside != disc).any(axis=(1, 2)).all()
    # Only where a pixel lies across the border may the picture and its nearest label differ.
    assert ((np.asarray(moved)[..., 0] > 0) != inside).mean() < 0.005
    assert (np.sign(moved[..., 0]) == np.where(inside, 1, -1)).mean() > 0.99


def test_a_turn_keeps_distances_and_the_centre():
    image = np.full((33, 33, 3), -1.0, np.float32)
    image[16, 16] = image[16, 26] = 1.0
    blank = np.zeros((1, 33, 33), np.uint8)
    turned, _ = place(image[None], blank, jax.random.split(jax.random.key(3), 1), Augmentation(90))
    bright = np.asarray(turned)[0, ..., 0] + 1
    assert bright[16, 16] > 1.5
    bright[14:19, 14:19] = 0
    centre = (np.argwhere(bright > 0) * bright[bright > 0][:, None]).sum(0) / bright.sum()
    assert np.hypot(*(centre - 16)) == pytest.approx(10, abs=0.3)


def test_each_part_takes_colours_of_its_own(keys):
    images = jnp.full((4, 6, 5, 3), 0.2)
    parts = ("hair", "skin", "nose", "l_eye", "u_lip", "cloth")
    rows = [PART_LABELS[part] for part in parts]
    labels = jnp.asarray(rows, jnp.uint8)[None, :, None].repeat(4, 0).repeat(5, 2)
    colours = np.asarray(jitter_parts(images, labels, keys, 0.5))
    assert np.ptp(colours, axis=2).max() < 1e-6  # a part is changed as a whole
    hair, skin, nose, eye, lip, cloth = colours[:, :, 0].swapaxes(0, 1)
    np.testing.assert_array_equal(skin, nose)
    groups = np.stack([hair, skin, eye, lip, cloth])
    gaps = np.abs(groups[:, None] - groups).max(axis=(2, 3))
    assert gaps[~np.eye(5, dtype=bool)].min() > 0.01
    nothing = jnp.zeros_like(labels)
    assert region_masks(nothing).max() == 0
    assert np.ptp(jitter_parts(images, nothing, keys, 0.5), axis=(1, 2)).max() < 1e-6


def test_damage_blurs_adds_noise_and_compresses(keys):
    down, right = np.mgrid[:32, :32]
    checks = jnp.asarray(np.where((down // 2 + right // 2) % 2, 0.5, -0.5))[None, ..., None]
    images = checks * jnp.ones((4, 1, 1, 3))
    only = {"blur": 0.0, "noise": 0.0, "compression": 0.0}
    unharmed = damage(images, keys, Augmentation(**only))
    np.testing.assert_allclose(unharmed, images, atol=2e-2)  # steps are never quite zero
    blurred = damage(images, keys, Augmentation(**only | {"blur": 2.0}))
    assert (np.std(blurred, axis=(1, 2, 3)) < np.std(images, axis=(1, 2, 3))).all()
    np.testing.assert_allclose(blurred.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.05)
    noisy = damage(images, keys, Augmentation(**only | {"noise": 0.2})) - images
    assert np.std(noisy, axis=(1, 2, 3)).max() < 0.21 and np.std(noisy) > 0.03
    assert np.abs(noisy.mean(axis=(1, 2))).max() < 0.03
    ramp = jnp.broadcast_to(jnp.linspace(-0.9, 0.9, 32)[:, None], (4, 32, 32, 3))
    coarse = damage(ramp, keys, Augmentation(**only | {"compression": 1.0}))
    jumps = np.abs(np.diff(np.asarray(coarse)[:, 0, :, 0], axis=1))
    assert jumps[:, 7::8].mean() > 1.3 * np.delete(jumps, np.s_[7::8], axis=1).mean()


def test_a_config_says_what_to_change():
    assert make_augmentation(ConfigDict({})) == Augmentation()
    asked = ConfigDict({"augmentation": {"turn": 10, "grey": 0.1}})
    assert make_augmentation(asked) == Augmentation(turn=10, grey=0.1)
    with pytest.raises(ValueError, match=r"config.augmentation: unknown field 'trun'"):
        make_augmentation(ConfigDict({"augmentation": {"trun": 10.0}}))
    with pytest.raises(ValueError, match=r"config.augmentation.grey 1.5: expected 0 to 1"):
        make_augmentation(ConfigDict({"augmentation": {"grey": 1.5}}))
