"""L1, PSNR and SSIM, against their definitions and pictures whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2sae_jax.metrics import reconstruction
from l2sae_jax.metrics.reconstruction import l1, psnr

GENERATOR = np.random.default_rng(0)
TRUTH = GENERATOR.uniform(-1, 1, (3, 14, 18, 3)).astype(np.float32)
FOUND = np.clip(TRUTH + 0.2 * GENERATOR.normal(size=TRUTH.shape), -1, 1).astype(np.float32)
FOUND[1] = 0.9 + 0.01 * FOUND[1]  # almost flat, where float32 cancels most

ssim = jax.jit(reconstruction.ssim)


def flat(*values: float) -> jax.Array:
    return jnp.asarray(values)[:, None, None, None] * jnp.ones((1, 16, 16, 3))


def ssim_by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Eq. 13 of Wang et al. (2004) at each place of the window, in float64."""
    x, y = ((z.astype(np.float64) + 1) / 2 for z in (x, y))
    distance = np.arange(-5, 6)
    window = np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * 1.5**2))
    window /= window.sum()
    scores = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            for channel in range(3):
                a, b = (z[i : i + 11, j : j + 11, channel] for z in (x, y))
                mean_a, mean_b = np.sum(window * a), np.sum(window * b)
                var_a, var_b = (
                    np.sum(window * (z - m) ** 2) for z, m in ((a, mean_a), (b, mean_b))
                )
                both = np.sum(window * (a - mean_a) * (b - mean_b))
                top = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
                bottom = (mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)
                scores.append(top / bottom)
    return np.mean(scores)


def test_identical_images_are_perfect():
    np.testing.assert_array_equal(l1(TRUTH, TRUTH), 0.0)
    np.testing.assert_array_equal(psnr(TRUTH, TRUTH), 100.0)
    np.testing.assert_allclose(ssim(TRUTH, TRUTH), 1.0, atol=1e-7)


def test_known_errors_of_flat_images():
    black_grey_and_light, white = flat(-1.0, 0.0, 0.98), flat(1.0, 1.0, 1.0)
    np.testing.assert_allclose(l1(black_grey_and_light, white), [2.0, 1.0, 0.02], atol=1e-6)
    # 10 log10(4 / e^2) for errors of 2, 1 and 0.02
    np.testing.assert_allclose(psnr(black_grey_and_light, white), [0.0, 6.0206, 40.0], atol=1e-3)
    # Without variance SSIM compares luminance alone: (2 u v + c) / (u^2 + v^2 + c), in [0, 1].
    expected = [0.0001 / 1.0001, 1.0001 / 1.2501, 1.9801 / 1.9802]
    np.testing.assert_allclose(ssim(black_grey_and_light, white), expected, atol=1e-6)


def test_the_most_that_psnr_says_is_100():
    truth = flat(0.0)
    found = truth.at[0, 3, 4, 1].set(1e-6)
    np.testing.assert_array_equal(psnr(found, truth), 100.0)


def test_ssim_of_an_inverted_checkerboard_is_almost_minus_one():
    checkerboard = (np.indices((16, 16)).sum(axis=0) % 2 * 2.0 - 1.0)[None, :, :, None]
    images = jnp.broadcast_to(jnp.asarray(checkerboard), (1, 16, 16, 3))
    # Means are 1/2, the variances 1/4 and the covariance -1/4.
    np.testing.assert_allclose(ssim(images, -images), -0.4991 / 0.5009, atol=1e-4)


def test_ssim_is_as_defined():
    expected = [ssim_by_definition(x, y) for x, y in zip(FOUND, TRUTH, strict=True)]
    assert max(expected) - min(expected) > 0.3
    np.testing.assert_allclose(ssim(FOUND, TRUTH), expected, atol=2e-6)


def test_scikit_image_agrees():
    metrics = pytest.importorskip("skimage.metrics")
    for x, y, noise, similarity in zip(
        *(z.astype(np.float64) for z in (FOUND, TRUTH)),
        psnr(FOUND, TRUTH),
        ssim(FOUND, TRUTH),
        strict=True,
    ):
        theirs = metrics.peak_signal_noise_ratio(x, y, data_range=2.0)
        assert noise == pytest.approx(theirs, abs=1e-4)
        theirs = metrics.structural_similarity(
            (x + 1) / 2,
            (y + 1) / 2,
            channel_axis=-1,
            data_range=1.0,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        assert similarity == pytest.approx(theirs, abs=2e-6)


@pytest.mark.parametrize("metric", [l1, psnr, reconstruction.ssim])
def test_jitted_and_one_by_one(metric):
    together = jax.jit(metric)(FOUND, TRUTH)
    assert together.shape == (3,)
    for i in range(3):
        alone = metric(FOUND[i : i + 1], TRUTH[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5)


def test_images_smaller_than_the_window_are_refused_in_one_line():
    small = jnp.zeros((1, 16, 10, 3))
    with pytest.raises(ValueError, match=r"^images of 16 x 10 pixels: SSIM's window is 11 x 11"):
        reconstruction.ssim(small, small)
