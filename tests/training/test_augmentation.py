import jax
import numpy as np

from l2sae_jax.training.augmentation import jitter_colours


def test_colours_change_by_each_samples_own_key():
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3), minval=-1, maxval=1)
    keys = jax.random.split(jax.random.key(1), 4)
    changed = jitter_colours(images, keys, 0.3)
    assert np.abs(changed).max() <= 1
    assert (np.abs(changed - images).mean(axis=(1, 2, 3)) > 0.01).all()
    np.testing.assert_allclose(jitter_colours(images[2:], keys[2:], 0.3), changed[2:], atol=1e-6)
    same_picture = jitter_colours(images[:1].repeat(4, axis=0), keys, 0.3)
    assert np.abs(same_picture[0] - same_picture[1:]).max(axis=(1, 2, 3)).min() > 0.01


def test_an_amount_of_nothing_changes_nothing():
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1, maxval=1)
    unchanged = jitter_colours(images, jax.random.split(jax.random.key(1), 2), 0.0)
    np.testing.assert_allclose(unchanged, images, atol=1e-6)
