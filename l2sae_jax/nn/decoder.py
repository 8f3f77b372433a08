"""The decoder: a structure tensor and a style vector become an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

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


class Window(NamedTuple):
    """The part of each image to decode.

    Attributes:
      corners: row and column of its first pixel, for each sample; moved inwards, if need be, to
        where the window lies inside the image.
      size: its height and width, the same for all; static.
    """

    corners: Int[Array, "B 2"]
    size: tuple[int, int]


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

    def window_sizes(
        self, grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[tuple[int, int], ...]:
        """What must be decoded for a window of `size` pixels to be what it is in the whole image.

        Args:
          grid: height and width of the structure.
          size: height and width of the window.

        Returns:
          Height and width of what each doubling reads, and of the window itself.
        """
        sizes = [tuple(min(n, g << len(self.up_widths)) for n, g in zip(size, grid, strict=True))]
        for level in reversed(range(len(self.up_widths))):
            needed = (-(-n // 2) + 2 * self.halo for n in sizes[-1])
            sizes.append(tuple(min(n, g << level) for n, g in zip(needed, grid, strict=True)))
        return tuple(reversed(sizes))

    @property
    def halo(self) -> int:
        """How many pixels beyond its own place a doubling reads: conv2, blur and conv1 together."""
        return 2 + (len(self.taps) - 1) // 4


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
    """(structure, style) to an image; without an output activation, so pixels may pass +-1.

    Attributes:
      config: widths.
      dtype: dtype of the computation.
      remat: compute the inside of every block again for the gradient instead of keeping it.
    """

    config: DecoderConfig
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        structure: Float[Array, "B h w C"],
        style: Float[Array, "B S"],
        noise: NoiseMaps | None = None,
        window: Window | None = None,
    ) -> Float[Array, "B H W 3"]:
        """Decodes an image, or a window of it at a cost that grows with the window.

        Args:
          structure, style: codes of any length; they are scaled to unit length.
          noise: maps named as in `DecoderConfig.noise_shapes`; None adds none.
          window: what to decode, without noise; None decodes the whole image.
        """
        cfg = self.config
        structure, style = normalise_channels(structure), normalise_channels(style)
        scale = Linear(cfg.structure_channels, bias_init=1.0, name="structure_scale")(style)
        shift = Linear(cfg.structure_channels, name="structure_shift")(style)
        x = structure * scale[:, None, None, :] + shift[:, None, None, :]
        crops = None if window is None else Crops(cfg, structure.shape[1:3], window)
        noise = noise or {}

        def maps(block: str):
            return noise.get(f"{block}/conv1"), noise.get(f"{block}/conv2")

        block = nn.remat(StyledBlock) if self.remat else StyledBlock
        for i, width in enumerate(cfg.head_widths):
            name = f"head_{i}"
            x = block(width, None, self.dtype, name=name)(x, style, *maps(name))
        for j, width in enumerate(cfg.up_widths):
            name = f"up_{j}"
            x = x if crops is None else crops.crop(x, j)
            x = block(width, cfg.taps, self.dtype, name=name)(x, style, *maps(name))
        x = x if crops is None else crops.crop(x, len(cfg.up_widths))
        return ToRGB(self.dtype, name="to_rgb")(x, style)


class Crops:
    """Where a window lies on the grid of each doubling, with the pixels around it that it reads.

    A crop that ends inside the image has wrong values near its edges, since convolutions pad with
    zeros there; it is wide enough for the next crop to leave them out. One that ends where the
    image ends is padded as the image would be.
    """

    def __init__(self, config: DecoderConfig, grid: tuple[int, int], window: Window):
        self._sizes = config.window_sizes(grid, window.size)
        levels = len(config.up_widths)
        corners = window.corners
        self._corners = [self._inside(corners, grid, levels)]
        for level in reversed(range(levels)):
            corners = self._inside(self._corners[0] // 2 - config.halo, grid, level)
            self._corners.insert(0, corners)

    def _inside(self, corners, grid, level):
        last = [(g << level) - n for g, n in zip(grid, self._sizes[level], strict=True)]
        return jnp.clip(corners, 0, jnp.asarray(last))

    def crop(self, x: Float[Array, "B H W C"], level: int) -> Float[Array, "B h w C"]:
        """Cuts out of `x`, the last crop doubled, what a level reads."""
        size = self._sizes[level]
        if x.shape[1:3] == size:
            return x
        start = self._corners[level]
        if level:
            start = start - 2 * self._corners[level - 1]

        def cut(image, corner):
            return lax.dynamic_slice(image, (*corner, 0), (*size, image.shape[-1]))

        return jax.vmap(cut)(x, start)
