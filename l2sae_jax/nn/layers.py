"""The layers the Swapping Autoencoder is built from (NHWC).

Equalised layers keep weights drawn from N(0, 1) and scale them by 1/sqrt(fan-in) when used, so
that Adam's step has the same relative size in every layer. Parameters are float32; `dtype` is the
dtype of the computation.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from l2sae_jax.nn.convolution import convolve, interleave

Dtype = jnp.dtype | type

SQRT2 = 2.0**0.5
EPSILON = 1e-8


def normalise_channels(x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Scales each channel vector to unit length, in float32."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + EPSILON)


def leaky_relu(x: Array) -> Array:
    """Leaky ReLU of slope 0.2, times sqrt(2) to keep the variance of its input."""
    return jax.nn.leaky_relu(x, 0.2) * SQRT2


def pad2d(
    x: Float[Array, "B H W C"], before: int, after: int, mode: Literal["constant", "reflect"]
) -> Float[Array, "B h w C"]:
    """Pads both spatial axes; negative amounts crop."""
    if mode == "reflect" and before >= 0 and after >= 0:
        return jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), mode="reflect")
    spatial = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), spatial, spatial, (0, 0, 0)))


def blur(
    x: Float[Array, "B H W C"],
    taps: Sequence[int | Float[Array, "B 1 1 1"]],
    stride: int = 1,
    gain: float = 1.0,
) -> Float[Array, "B h w C"]:
    """Filters every channel with the outer product of `taps`, normalised to sum `gain`; VALID.

    Written as shifted adds along each axis: XLA's depthwise convolutions are some fifty times
    slower than this on CPU.
    """
    for axis in (1, 2):
        count = (x.shape[axis] - len(taps)) // stride + 1
        scale = gain**0.5 / sum(taps)
        x = sum(
            (tap * scale)
            * lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride=stride, axis=axis)
            for i, tap in enumerate(taps)
        )
    return x


def upsample_bilinear(x: Float[Array, "B H W C"]) -> Float[Array, "B 2H 2W C"]:
    """Doubles height and width at half-pixel centres: each output is 3/4 near + 1/4 far."""
    for axis in (2, 1):
        # jnp.pad would slice all axes, and may not where an explicit axis of a mesh splits one.
        first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        before = jnp.concatenate([first, lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
        after = jnp.concatenate([lax.slice_in_dim(x, 1, None, axis=axis), last], axis)
        x = interleave(0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after, axis)
    return x


class Linear(nn.Module):
    """Equalised linear layer.

    Attributes:
      features: number of outputs.
      activate: follow with the scaled leaky ReLU.
      bias_init: initial value of the bias.
    """

    features: int
    activate: bool = False
    bias_init: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
        fan_in = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(1.0), (fan_in, self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias_init), (self.features,))
        # Scaled before, which is less work than scaling the kernel.
        y = (x * fan_in**-0.5).astype(self.dtype) @ kernel.astype(self.dtype)
        y = y + bias.astype(self.dtype)
        return leaky_relu(y) if self.activate else y


class Conv(nn.Module):
    """Equalised convolution, of stride 2 where `downsample_taps` are given.

    Attributes:
      features: number of output channels.
      size: kernel size.
      padding: what surrounds the image; "valid" adds nothing.
      use_bias, activate: add a bias; follow with the scaled leaky ReLU.
      downsample_taps: blur taps before the stride-2 convolution; None keeps the size; (1,) strides
        without a blur.
    """

    features: int
    size: int = 3
    padding: Literal["constant", "reflect", "valid"] = "constant"
    use_bias: bool = True
    activate: bool = True
    downsample_taps: tuple[int, ...] | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        fan_in = self.size * self.size * x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.downsample_taps is None:
            y = self._same_size(x, kernel)
        else:
            y = self._downsample(x, kernel)
        y = y * fan_in**-0.5  # less work than scaling the kernel
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return leaky_relu(y) if self.activate else y

    def _same_size(self, x, kernel):
        edge = self.size // 2
        if self.padding == "valid":
            return convolve(x, kernel)
        if self.padding == "reflect" and edge:
            return convolve(pad2d(x, edge, edge, "reflect"), kernel)
        return convolve(x, kernel, 1, ((edge, edge), (edge, edge)))

    def _downsample(self, x, kernel):
        taps = self.downsample_taps
        if self.padding != "valid":
            total = (len(taps) - 2) + (self.size - 1)
            x = pad2d(x, (total + 1) // 2, total // 2, self.padding)
        if self.size == 1:  # only every second blurred pixel is read
            return convolve(blur(x, taps, stride=2), kernel)
        return convolve(blur(x, taps) if len(taps) > 1 else x, kernel, stride=2)


class ResidualBlock(nn.Module):
    """Two activated 3x3 convolutions beside a 1x1 skip, summed and divided by sqrt(2).

    Attributes:
      features: number of output channels.
      downsample_taps: blur taps of the halving second convolution and skip; None keeps the size.
      padding: padding of the 3x3 convolutions; the skip is always padded with zeros.
    """

    features: int
    downsample_taps: tuple[int, ...] | None
    padding: Literal["constant", "reflect"] = "constant"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        y = Conv(x.shape[-1], padding=self.padding, dtype=self.dtype, name="conv1")(x)
        y = Conv(
            self.features,
            padding=self.padding,
            downsample_taps=self.downsample_taps,
            dtype=self.dtype,
            name="conv2",
        )(y)
        skip = Conv(
            self.features,
            size=1,
            use_bias=False,
            activate=False,
            downsample_taps=self.downsample_taps,
            dtype=self.dtype,
            name="skip",
        )(x)
        return (y + skip) * (1.0 / SQRT2)
