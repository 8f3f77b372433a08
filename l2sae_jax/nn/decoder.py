"""The decoder: a structure tensor and a style vector become an image."""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from l2sae_jax.nn.convolution import blurred_upsampling, convolve
from l2sae_jax.nn.layers import (
    EPSILON,
    SQRT2,
    Conv,
    Dtype,
    Linear,
    leaky_relu,
    normalise_channels,
    upsample_bilinear,
)

NoiseMaps = Mapping[str, Float[Array, "#B H W 1"]]


@dataclass(frozen=True)
class DecoderConfig:
    """Widths of a decoder.

    Attributes:
      structure_channels, style_channels: sizes of the codes it reads.
      head_widths: channels of the residual blocks on the structure's grid.
      up_widths: channels after each doubling.
      taps: blur taps after each transposed convolution; (1,) means no antialiasing.
    """

    structure_channels: int
    style_channels: int
    head_widths: tuple[int, ...]
    up_widths: tuple[int, ...]
    taps: tuple[int, ...] = (1, 3, 3, 1)

    def noise_shapes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Height and width of every noise map for a structure of `height` x `width` cells."""
        shapes = {}
        for i in range(len(self.head_widths)):
            shapes |= {f"head_{i}/conv{k}": (height, width) for k in (1, 2)}
        for j in range(len(self.up_widths)):
            scale = 2 ** (j + 1)
            shapes |= {f"up_{j}/conv{k}": (scale * height, scale * width) for k in (1, 2)}
        return shapes


def published_decoder(
    *,
    upsamplings: int = 4,
    head_blocks: int = 2,
    structure_channels: int = 8,
    style_channels: int = 2048,
    capacity: float = 1.0,
    antialias: bool = True,
) -> DecoderConfig:
    """The published formula: min(512, 128 * 2^(n-j)) * capacity channels after j of n doublings."""

    def width(level: int) -> int:
        return int(min(512, 128 * 2 ** (upsamplings - level)) * capacity)

    heads = (round((i + 1) / head_blocks * width(0)) for i in range(head_blocks))
    return DecoderConfig(
        structure_channels=structure_channels,
        style_channels=style_channels,
        head_widths=tuple(max(structure_channels, head) for head in heads),
        up_widths=tuple(width(j) for j in range(1, upsamplings + 1)),
        taps=(1, 3, 3, 1) if antialias else (1,),
    )


def sample_noise(
    config: DecoderConfig, keys: Key[Array, " B"], height: int, width: int
) -> dict[str, Float[Array, "B H W 1"]]:
    """Standard normal noise maps, one key a sample: what a sample gets is its own key's alone."""
    shapes = config.noise_shapes(height, width)

    def one(key):
        layer_keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(layer_key, (*shape, 1))
            for layer_key, (name, shape) in zip(layer_keys, shapes.items(), strict=True)
        }

    return jax.vmap(one)(keys)


class Modulation(nn.Module):
    """Multiplies channels by a linear function of the style, optionally of unit mean square."""

    demodulate: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], style: Float[Array, "B S"]):
        scale = Linear(x.shape[-1], bias_init=1.0, name="modulation")(style)
        if self.demodulate:
            scale *= lax.rsqrt(jnp.mean(jnp.square(scale), axis=-1, keepdims=True) + EPSILON)
        return x.astype(self.dtype) * scale[:, None, None, :].astype(self.dtype)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution with weights of unit norm, noise, bias and activation.

    The style scales the input, not the weights, which are therefore the same for a whole batch:
    one ordinary convolution.

    Attributes:
      features: number of output channels.
      upsample_taps: blur taps after a transposed stride-2 convolution; None keeps the size.
    """

    features: int
    upsample_taps: tuple[int, ...] | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        style: Float[Array, "B S"],
        noise: Float[Array, "#B h w 1"] | None,
    ) -> Float[Array, "B h w D"]:
        kernel = self.param(
            "kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features)
        )
        kernel = kernel * (9 * x.shape[-1]) ** -0.5
        kernel *= lax.rsqrt(jnp.sum(jnp.square(kernel), axis=(0, 1, 2)) + EPSILON)
        kernel = kernel.astype(self.dtype)
        x = Modulation(True, self.dtype, name="style")(x, style)
        if self.upsample_taps is None:
            y = convolve(x, kernel, 1, ((1, 1), (1, 1)))
        else:
            y = blurred_upsampling(x, kernel, self.upsample_taps)
        noise_weight = self.param("noise_weight", nn.initializers.zeros, ())
        if noise is not None:
            y = y + (noise_weight * noise).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return leaky_relu(y + bias.astype(self.dtype))


class StyledBlock(nn.Module):
    """Two styled convolutions beside a skip, summed and divided by sqrt(2).

    Attributes:
      features: number of output channels.
      upsample_taps: given in a block that doubles the size, whose skip is then activated, carries
        a bias, and is enlarged bilinearly; None in a head block, whose skip is a bare 1x1.
    """

    features: int
    upsample_taps: tuple[int, ...] | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, style, noise1, noise2):
        upsamples = self.upsample_taps is not None
        y = StyledConv(self.features, self.upsample_taps, self.dtype, name="conv1")(
            x, style, noise1
        )
        y = StyledConv(self.features, None, self.dtype, name="conv2")(y, style, noise2)
        skip = x
        if x.shape[-1] != self.features:
            skip = Conv(
                self.features,
                size=1,
                use_bias=upsamples,
                activate=upsamples,
                dtype=self.dtype,
                name="skip",
            )(x)
        if upsamples:
            skip = upsample_bilinear(skip)
        return (skip + y) * (1.0 / SQRT2)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation, plus a bias."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, style) -> Float[Array, "B H W 3"]:
        x = Modulation(False, self.dtype, name="style")(x, style)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, x.shape[-1], 3))
        bias = self.param("bias", nn.initializers.zeros, (3,))
        kernel = (kernel * x.shape[-1] ** -0.5).astype(self.dtype)
        return convolve(x, kernel).astype(jnp.float32) + bias


class Decoder(nn.Module):
    """(structure, style) to an image; without an output activation, so pixels may pass +-1."""

    config: DecoderConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        structure: Float[Array, "B h w C"],
        style: Float[Array, "B S"],
        noise: NoiseMaps | None = None,
    ) -> Float[Array, "B H W 3"]:
        """Decodes; `noise` maps are named as in `DecoderConfig.noise_shapes`, None adds none."""
        cfg = self.config
        structure, style = normalise_channels(structure), normalise_channels(style)
        scale = Linear(cfg.structure_channels, bias_init=1.0, name="structure_scale")(style)
        shift = Linear(cfg.structure_channels, name="structure_shift")(style)
        x = structure * scale[:, None, None, :] + shift[:, None, None, :]
        noise = noise or {}

        def maps(block: str):
            return noise.get(f"{block}/conv1"), noise.get(f"{block}/conv2")

        for i, width in enumerate(cfg.head_widths):
            name = f"head_{i}"
            x = StyledBlock(width, None, self.dtype, name=name)(x, style, *maps(name))
        for j, width in enumerate(cfg.up_widths):
            name = f"up_{j}"
            x = StyledBlock(width, cfg.taps, self.dtype, name=name)(x, style, *maps(name))
        return ToRGB(self.dtype, name="to_rgb")(x, style)
