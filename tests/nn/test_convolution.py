"""`convolve` has the values and gradients of XLA's own convolution, to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from l2sae_jax.nn.convolution import blurred_upsampling, convolve, upsampling_convolution
from l2sae_jax.nn.layers import blur, pad2d

CASES = [
    # stride, padding, height, kernel size
    (1, ((0, 0), (0, 0)), 9, (3, 3)),
    (1, ((1, 1), (1, 1)), 9, (3, 3)),
    (1, ((1, 1), (1, 1)), 7, (2, 2)),
    (1, ((0, 0), (0, 0)), 10, (1, 1)),
    (2, ((0, 0), (0, 0)), 9, (3, 3)),
    (2, ((0, 0), (0, 0)), 10, (3, 3)),
    (2, ((1, 1), (1, 1)), 10, (3, 3)),
    (2, ((1, 0), (1, 0)), 8, (3, 3)),
    (2, ((0, 0), (0, 0)), 9, (1, 1)),
    (2, ((0, 0), (0, 0)), 10, (1, 1)),
    (1, ((1, 1), (1, 1)), 6, (2, 1)),
    (1, ((1, 1), (1, 1)), 6, (1, 2)),
    (1, ((1, 1), (1, 1)), 6, (1, 1)),
    (1, ((2, 2), (2, 2)), 6, (1, 1)),
]


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def plain(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(("stride", "padding", "height", "size"), CASES)
def test_values_and_gradients(stride, padding, height, size):
    x = jax.random.normal(jax.random.key(0), (2, height, height + 2, 3))
    kernel = jax.random.normal(jax.random.key(1), (*size, 3, 4))

    def results(convolution):
        def loss(x, kernel):
            return jnp.mean(jnp.sin(convolution(x, kernel, stride, padding)))

        def gradient_size(x, kernel):
            return jnp.sum(jax.grad(loss)(x, kernel) ** 2)

        return jax.jit(
            lambda x, kernel: (
                convolution(x, kernel, stride, padding),
                jax.grad(loss, (0, 1))(x, kernel),
                jax.grad(gradient_size, (0, 1))(x, kernel),
            )
        )(x, kernel)

    for ours, theirs in zip(
        jax.tree.leaves(results(convolve)), jax.tree.leaves(results(plain)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_upsampling_convolution_is_a_transposed_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    ours = upsampling_convolution(x, kernel)
    theirs = np.zeros((2, 11, 13, 4), np.float32)
    for i in range(3):
        for j in range(3):
            theirs[:, i : i + 9 : 2, j : j + 11 : 2] += np.asarray(x @ kernel[i, j])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    "taps", [(1,), (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1), (1, 5, 10, 10, 5, 1)]
)
def test_blurred_upsampling_is_a_transposed_convolution_and_a_blur(taps):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    excess = len(taps) - 2
    padded = pad2d(upsampling_convolution(x, kernel), (excess + 1) // 2, excess // 2, "constant")
    expected = blur(padded, taps, gain=4.0)
    ours = blurred_upsampling(x, kernel, taps)
    assert ours.shape == (2, 10, 12, 4)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere the backend's own form is taken"
)
def test_weight_gradients_take_no_more_memory_than_a_few_images():
    """Whatever the number of pixels: 62 x 62 divides into nothing large."""
    x, kernel = jnp.zeros((1, 64, 64, 128)), jnp.zeros((3, 3, 128, 128))
    gradient = jax.jit(jax.grad(lambda kernel, x: jnp.sum(convolve(x, kernel) ** 2)))
    memory = gradient.lower(kernel, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8 * x.nbytes
