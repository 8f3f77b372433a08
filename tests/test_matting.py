"""Algorithm 2: the blur is the 3x3 Gaussian, and the blends do what their names say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2sae_jax.matting import blend, gaussian_blur

GENERATOR = np.random.default_rng(0)
IMAGES, RESTYLED = GENERATOR.uniform(-1, 1, (2, 2, 9, 12, 3)).astype(np.float32)
MASK = np.zeros((2, 9, 12, 1), np.float32)
MASK[0, 2:5, 3:7] = MASK[1, 0:3, 0:4] = 1.0  # the second touches a corner


def blur_by_definition(x: np.ndarray) -> np.ndarray:
    """Weighs the nine neighbours of each pixel, those beyond the border being the nearest in it."""
    distance = np.arange(-1, 2)
    kernel = np.exp(-(distance[:, None] ** 2 + distance[None, :] ** 2) / 2.0)
    kernel /= kernel.sum()
    result = np.zeros(x.shape)
    height, width = x.shape[1:3]
    for i in range(height):
        for j in range(width):
            for di in distance:
                for dj in distance:
                    row, column = np.clip(i + di, 0, height - 1), np.clip(j + dj, 0, width - 1)
                    result[:, i, j] += kernel[di + 1, dj + 1] * x[:, row, column]
    return result


def blend_by_definition(mode: str) -> np.ndarray:
    matte = blur_by_definition(MASK)
    blended = matte * RESTYLED + (1.0 - matte) * IMAGES
    return blur_by_definition(blended) if mode == "paper" else blended


def test_blur_is_the_normalised_gaussian_with_repeated_borders():
    np.testing.assert_allclose(gaussian_blur(IMAGES), blur_by_definition(IMAGES), atol=1e-6)


def test_blur_of_a_point_is_the_kernel():
    point = np.zeros((1, 5, 5, 1), np.float32)
    point[0, 2, 2] = 1.0
    kernel = np.asarray(gaussian_blur(point))[0, 1:4, 1:4, 0]
    corner, edge, centre = 0.0751136, 0.1238414, 0.2041799
    expected = [[corner, edge, corner], [edge, centre, edge], [corner, edge, corner]]
    np.testing.assert_allclose(kernel, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2)])
def test_blur_keeps_a_flat_picture_however_small(size):
    flat = np.full((1, *size, 3), 0.3, np.float32)
    np.testing.assert_allclose(gaussian_blur(flat), flat, atol=1e-6)


@pytest.mark.parametrize("mode", ["paper", "local"])
def test_blends_are_as_defined(mode):
    expected = blend_by_definition(mode)
    np.testing.assert_allclose(blend(IMAGES, RESTYLED, MASK, mode), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["paper", "local"])
def test_jitted_as_eager(mode):
    jitted = jax.jit(blend, static_argnums=3)
    np.testing.assert_allclose(
        jitted(IMAGES, RESTYLED, MASK, mode), blend(IMAGES, RESTYLED, MASK, mode), atol=1e-6
    )


@pytest.mark.parametrize("mode", ["paper", "local"])
def test_a_batch_as_one_by_one(mode):
    together = blend(IMAGES, RESTYLED, MASK, mode)
    for i in range(len(IMAGES)):
        one = slice(i, i + 1)
        alone = blend(IMAGES[one], RESTYLED[one], MASK[one], mode)
        np.testing.assert_allclose(together[one], alone, atol=1e-6)


def test_local_leaves_pixels_outside_the_matte_bit_for_bit():
    outside = np.broadcast_to(blur_by_definition(MASK) == 0, IMAGES.shape)
    local = np.asarray(blend(IMAGES, RESTYLED, MASK, "local"))
    assert 0.5 < outside.mean() < 0.9
    np.testing.assert_array_equal(local[outside], IMAGES[outside])
    assert (local[~outside] != IMAGES[~outside]).mean() > 0.99


def test_paper_is_the_second_blur_of_everything():
    local = blend(IMAGES, RESTYLED, MASK, "local")
    paper = blend(IMAGES, RESTYLED, MASK, "paper")
    np.testing.assert_allclose(paper, gaussian_blur(local), atol=1e-6)
    nothing = np.zeros_like(MASK)
    untouched = blend(IMAGES, RESTYLED, nothing, "paper")
    np.testing.assert_allclose(untouched, blur_by_definition(IMAGES), atol=1e-6)


def test_gradients_reach_restyled_pixels_through_the_matte():
    gradient = jax.grad(lambda x: jnp.sum(blend(IMAGES, x, MASK, "local")))(RESTYLED)
    expected = np.broadcast_to(blur_by_definition(MASK), IMAGES.shape)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_an_unknown_blend_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^unknown blend 'soft': choose from paper, local$"):
        blend(IMAGES, RESTYLED, MASK, "soft")
