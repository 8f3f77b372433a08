"""The encoder: an image becomes a structure tensor and a style vector."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2sae_jax.nn.layers import Conv, Dtype, Linear, ResidualBlock, normalise_channels


@dataclass(frozen=True)
class EncoderConfig:
    """Widths of an encoder.

    Attributes:
      widths: channels from RGB, then after each halving; their number sets the structure's grid.
      structure_channels: channels of the structure.
      style_widths: channels of the stride-2 convolutions that lead to the style.
      style_channels: length of the style vector.
      taps: blur taps of the halvings; (1,) means no antialiasing.
    """

    widths: tuple[int, ...]
    structure_channels: int
    style_widths: tuple[int, ...]
    style_channels: int
    taps: tuple[int, ...] = (1, 2, 1)

    @property
    def downsampling(self) -> int:
        """Pixels per structure cell along each axis."""
        return 2 ** (len(self.widths) - 1)

    @property
    def smallest_image(self) -> int:
        """The least height and width the style convolutions can read, a structure-grid multiple."""
        cells = 1
        for _ in self.style_widths:
            cells = 2 * cells + 1
        return cells * self.downsampling


def published_encoder(
    *,
    downsamplings: int = 4,
    style_downsamplings: int = 2,
    structure_channels: int = 8,
    style_channels: int = 2048,
    capacity: float = 1.0,
    steepness: float = 2.0,
    antialias: bool = True,
) -> EncoderConfig:
    """The published formula: level i is min(style_channels, steepness^(5+i) * capacity) wide."""

    def width(level: int) -> int:
        return min(style_channels, round(steepness ** (5 + level) * capacity))

    return EncoderConfig(
        widths=tuple(width(i) for i in range(downsamplings + 1)),
        structure_channels=structure_channels,
        style_widths=tuple(width(downsamplings + 1 + i) for i in range(style_downsamplings)),
        style_channels=style_channels,
        taps=(1, 2, 1) if antialias else (1,),
    )


class Encoder(nn.Module):
    """Image to (structure, style), both scaled to unit length over their channels.

    Attributes:
      config: widths.
      dtype: dtype of the computation.
      remat: compute the inside of every block again for the gradient instead of keeping it.
    """

    config: EncoderConfig
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B S"]]:
        cfg = self.config
        x = Conv(cfg.widths[0], size=1, dtype=self.dtype, name="from_rgb")(images)
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        for i, width in enumerate(cfg.widths[1:]):
            x = block(width, cfg.taps, "reflect", self.dtype, name=f"down_{i}")(x)

        structure = Conv(cfg.widths[-1], size=1, dtype=self.dtype, name="structure_hidden")(x)
        structure = Conv(
            cfg.structure_channels, size=1, activate=False, dtype=self.dtype, name="structure"
        )(structure)

        for i, width in enumerate(cfg.style_widths):
            x = Conv(
                width, padding="valid", downsample_taps=(1,), dtype=self.dtype, name=f"style_{i}"
            )(x)
        style = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        style = Linear(cfg.style_channels, dtype=self.dtype, name="style")(style)
        return normalise_channels(structure), normalise_channels(style)
