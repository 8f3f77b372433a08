"""Convolutions with gradients that are fast on every backend (NHWC, HWIO).

The values are those of `lax.conv_general_dilated`; what differs is how they are computed on CPU,
where XLA takes slow paths for three forms that this architecture is full of (measured on 2 cores,
JAX 0.10.2; `benchmarks/bench_layers.py` measures again):
  - a convolution without padding runs at 25 GFLOP/s, with any padding at 75 to 130;
  - the gradient with respect to the weights is a convolution with an image-sized window, 3 to 30
    GFLOP/s, while matrix products for each kernel tap reach 20 to 55;
  - a transposed convolution of stride 2 takes up to twice as long as four ordinary ones, its
    gradient more than ten times; such is the input gradient of a stride-2 convolution as well.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))

# An image of at most so many pixels costs less to gather than its kernel to rearrange.
_FEW_PIXELS = 256

# Pixels whose part of a weight gradient is one matrix product.
_PIXELS_AT_A_TIME = 256


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
    batch = x.shape[0]  # no number, but a symbol, where any batch is exported
    if isinstance(batch, int) and batch * height * width <= _FEW_PIXELS:
        read = [_read(x, *tap, height, width, stride) for tap in np.ndindex(kernel.shape[:2])]
        return jnp.concatenate(read, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    return _convolve(x, kernel, stride, ((0, 1), (0, 1)))[:, :height, :width]


def _read(x, i, j, height, width, stride):
    """The pixels that tap (i, j) of a kernel reads, one for each of `height` x `width` outputs."""
    rows = x[:, i : i + (height - 1) * stride + 1 : stride]
    return rows[:, :, j : j + (width - 1) * stride + 1 : stride]


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
    """One matrix product for each tap: the pixels it reads, times what it contributed to.

    One tap after the other, since XLA would run all nine at once and have them wait for memory; and
    in parts that a core's cache holds, to be summed: together up to twice as fast.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    channels = kernel.shape[2]
    batch, height, width = cotangent.shape[:3]
    part = min(batch * height * width, _PIXELS_AT_A_TIME)
    missing = -batch * height * width % part

    def parts(pixels):
        pixels = pixels.reshape(-1, pixels.shape[-1])
        return jnp.pad(pixels, ((0, missing), (0, 0))).reshape(-1, part, pixels.shape[-1])

    cotangent = parts(cotangent)
    extent = (batch, (height - 1) * stride + 1, (width - 1) * stride + 1, channels)

    def tap(at):
        read = parts(lax.dynamic_slice(x, (0, *at, 0), extent)[:, ::stride, ::stride])
        return jnp.sum(jnp.einsum("npc,npd->ncd", read, cotangent), axis=0)

    taps = jnp.asarray(list(np.ndindex(kernel.shape[:2])))
    return lax.map(tap, taps).reshape(kernel.shape)


def _input_cotangent(kernel, cotangent, shape, stride, padding):
    transposed = kernel.transpose(0, 1, 3, 2)
    if stride == 1:
        outer = [
            (size - 1 - before, size - 1 - after)
            for size, (before, after) in zip(kernel.shape, padding, strict=False)
        ]
        crop = [(min(before, 0), min(after, 0), 0) for before, after in outer]
        cotangent = lax.pad(cotangent, _zero(cotangent), [(0, 0, 0), *crop, (0, 0, 0)])
        added = tuple((max(before, 0), max(after, 0)) for before, after in outer)
        return convolve(cotangent, transposed[::-1, ::-1], 1, added)
    if kernel.shape[0] == 1:
        full = interior_zeros(cotangent @ transposed[0, 0])
    else:
        full = upsampling_convolution(cotangent, transposed)
    # `full` starts at the padded input's first pixel and may end before its last.
    edges = [
        (-before, before + extent - reached, 0)
        for (before, _), extent, reached in zip(padding, shape[1:3], full.shape[1:3], strict=True)
    ]
    return lax.pad(full, _zero(full), ((0, 0, 0), *edges, (0, 0, 0)))


def _zero(x):
    return jnp.zeros((), x.dtype)


convolve.defvjp(_forward, _backward)


def interior_zeros(x: Float[Array, "B H W C"]) -> Float[Array, "B 2H-1 2W-1 C"]:
    """Zeros between neighbouring pixels."""
    return lax.pad(x, _zero(x), ((0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)))


def upsampling_convolution(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B 2H+1 2W+1 D"]:
    """Transposed 3x3 convolution of stride 2 without padding."""

    def join(even, odd, axis):
        return interleave(even, lax.slice_in_dim(odd, 1, None, axis=axis), axis)

    rows = [join(*row, axis=2) for row in _phases(x, kernel, border=1)]
    return join(*rows, axis=1)[:, :-1, :-1]


def blurred_upsampling(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"], taps: Sequence[int]
) -> Float[Array, "B 2H 2W D"]:
    """Transposed 3x3 convolution of stride 2, trimmed to twice the size by a blur of gain 4.

    The blur reads the phases of the transposed convolution before they are interleaved, and with
    them half as many pixels that are not neighbours in memory.

    Args:
      taps: of the blur along each axis; normalised here.
    """
    border = max(1, (len(taps) - 1) // 2)
    columns = [
        _blur_phases(even, odd, taps, border, axis=1)
        for even, odd in zip(*_phases(x, kernel, border), strict=True)
    ]  # [column phase][row phase of the result]
    rows = [
        interleave(*_blur_phases(even, odd, taps, border, axis=2), axis=2)
        for even, odd in zip(*columns, strict=True)
    ]
    return interleave(*rows, axis=1)


def _phases(x, kernel, border):
    """A transposed convolution of stride 2 at even and odd rows, and of each its columns.

    Along an axis, output 2m receives x[m] w[0] + x[m-1] w[2] and output 2m+1 receives x[m] w[1]:
    four ordinary convolutions with nine taps between them. Even phases begin `border - 1` pixels
    before output 0, odd ones `border` before output 1; what lies outside is 0.
    """
    return [
        [
            convolve(x, _every_other(_every_other(kernel, i, 0), j, 1), 1, ((border, border),) * 2)
            for j in (0, 1)
        ]
        for i in (0, 1)
    ]


def _every_other(kernel: Array, phase: int, axis: int) -> Array:
    """The taps of three that reach outputs of a phase, that of the earlier pixel first."""
    first, middle, last = (lax.slice_in_dim(kernel, i, i + 1, axis=axis) for i in range(3))
    return middle if phase else jnp.concatenate([last, first], axis)


def _blur_phases(even, odd, taps, border, axis):
    """Blurs a signal of length 2n + 1, given in phases, to 2n pixels: their phases."""
    count = even.shape[axis] - 2 * border + 1
    before = (len(taps) - 1) // 2
    scale = 2.0 / sum(taps)

    def read(position):
        """Pixels `position`, `position + 2`, ... of the signal."""
        half, is_odd = divmod(position, 2)
        start = half + (border if is_odd else border - 1)
        return lax.slice_in_dim(odd if is_odd else even, start, start + count, axis=axis)

    return [
        sum((tap * scale) * read(phase + t - before) for t, tap in enumerate(taps))
        for phase in (0, 1)
    ]


def interleave(
    even: Float[Array, "B H W C"], odd: Float[Array, "B H W C"], axis: int
) -> Float[Array, "B h w C"]:
    """Alternates the pixels of two arrays of one shape."""
    shape = even.shape
    pair = jnp.stack([even, odd], axis + 1)
    return pair.reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
