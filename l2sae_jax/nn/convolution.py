"""Convolutions with gradients that are fast on every backend (NHWC, HWIO).

The values are those of `lax.conv_general_dilated`; what differs is how they are computed on CPU,
where XLA takes slow paths for three forms that this architecture is full of (measured on 2 cores,
JAX 0.10.2; `benchmarks/bench_layers.py` measures again):
  - a convolution without padding runs at 25 GFLOP/s, with any padding at 75 to 130;
  - the gradient with respect to the weights is a convolution with an image-sized window, 3 to 30
    GFLOP/s, while one matrix product for each kernel tap reaches 30 to 80;
  - the gradient of a stride-2 convolution, a transposed one, is twice as fast in polyphase form.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C D"],
    stride: int = 1,
    padding: Padding = NO_PADDING,
) -> Float[Array, "B h w D"]:
    """A convolution of stride 1 or 2, padded with zeros.

    Stride 2 wants a 1x1 or 3x3 kernel. A 1x1 kernel is a matrix product.
    """
    if kernel.shape[:2] == (1, 1) and padding == NO_PADDING:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_convolve_cpu, stride=stride, padding=padding),
        default=partial(_convolve, stride=stride, padding=padding),
    )


def _convolve(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_cpu(x, kernel, stride, padding):
    if padding != NO_PADDING:
        return _convolve(x, kernel, stride, padding)
    height, width = (
        (n - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel.shape, strict=False)
    )
    return _convolve(x, kernel, stride, ((0, 1), (0, 1)))[:, :height, :width]


def _forward(x, kernel, stride, padding):
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, cotangent):
    x, kernel = saved
    kernel_cotangent = lax.platform_dependent(
        x,
        kernel,
        cotangent,
        cpu=partial(_kernel_cotangent_cpu, stride=stride, padding=padding),
        default=partial(_kernel_cotangent, stride=stride, padding=padding),
    )
    return _input_cotangent(kernel, cotangent, x.shape, stride, padding), kernel_cotangent


def _kernel_cotangent(x, kernel, cotangent, stride, padding):
    _, pullback = jax.vjp(lambda kernel: _convolve(x, kernel, stride, padding), kernel)
    return pullback(cotangent)[0]


def _kernel_cotangent_cpu(x, kernel, cotangent, stride, padding):
    """One matrix product for each tap: what it contributed to, times the pixels it reads.

    The cotangent is transposed once, behind a barrier, or XLA would do it again for every tap.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width, features = cotangent.shape[1:]
    transposed = lax.optimization_barrier(cotangent.reshape(-1, features).T)

    def tap(i, j):
        read = x[:, i : i + (height - 1) * stride + 1 : stride]
        read = read[:, :, j : j + (width - 1) * stride + 1 : stride]
        return (transposed @ read.reshape(-1, x.shape[-1])).T

    taps = [[tap(i, j) for j in range(kernel.shape[1])] for i in range(kernel.shape[0])]
    return jnp.stack([jnp.stack(row) for row in taps])


def _input_cotangent(kernel, cotangent, shape, stride, padding):
    transposed = kernel.transpose(0, 1, 3, 2)
    size = kernel.shape[0]
    if stride == 1:
        flipped = transposed[::-1, ::-1]
        (top, bottom), (left, right) = padding
        outer = ((size - 1 - top, size - 1 - bottom), (size - 1 - left, size - 1 - right))
        return convolve(cotangent, flipped, 1, outer)
    if size == 1:
        full = interior_zeros(cotangent @ transposed[0, 0])
    else:
        full = upsampling_convolution(cotangent, transposed)
    # `full` starts at the padded input's first pixel and may end before its last.
    edges = [
        (-before, before + extent - reached, 0)
        for (before, _), extent, reached in zip(padding, shape[1:3], full.shape[1:3], strict=True)
    ]
    return lax.pad(full, jnp.zeros((), full.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


convolve.defvjp(_forward, _backward)


def interior_zeros(x: Float[Array, "B H W C"]) -> Float[Array, "B 2H-1 2W-1 C"]:
    """Zeros between neighbouring pixels."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)))


def upsampling_convolution(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B 2H+1 2W+1 D"]:
    """Transposed 3x3 convolution of stride 2 without padding, in polyphase form.

    Output 2m receives x[m] w[0] + x[m-1] w[2] and output 2m+1 receives x[m] w[1], so the four
    phases are one ordinary 2x2 convolution, whose outputs are then interleaved.
    """
    batch, height, width, _ = x.shape
    features = kernel.shape[-1]
    phases = _polyphase(_polyphase(kernel, 0), 2)  # [row phase, offset, column phase, offset, C, D]
    stacked = phases.transpose(1, 3, 4, 0, 2, 5).reshape(2, 2, -1, 4 * features)
    y = convolve(x, stacked, 1, ((1, 1), (1, 1)))
    y = y.reshape(batch, height + 1, width + 1, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, 2 * height + 2, 2 * width + 2, features)
    return y[:, :-1, :-1]


def _polyphase(kernel: Array, axis: int) -> Array:
    """Splits an axis of three taps into (phase, offset of the pixel read: -1 or 0)."""
    first, middle, last = jnp.moveaxis(kernel, axis, 0)
    even, odd = jnp.stack([last, first]), jnp.stack([jnp.zeros_like(middle), middle])
    return jnp.moveaxis(jnp.stack([even, odd]), (0, 1), (axis, axis + 1))
