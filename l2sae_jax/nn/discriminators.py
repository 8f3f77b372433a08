"""The image discriminator and the patch co-occurrence discriminator."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2sae_jax.nn.layers import Conv, Dtype, Linear, ResidualBlock


@dataclass(frozen=True)
class ImageDiscriminatorConfig:
    """Widths of an image discriminator.

    Attributes:
      resolution: height and width of its images.
      widths: channels from RGB, then after each halving.
      final_width: channels of the last convolution.
      dense_width: width of the hidden linear layer.
      taps: blur taps of the halvings; (1,) means no antialiasing.
    """

    resolution: int
    widths: tuple[int, ...]
    final_width: int = 512
    dense_width: int = 512
    taps: tuple[int, ...] = (1, 3, 3, 1)


def published_image_discriminator(
    resolution: int, *, capacity: float = 1.0, antialias: bool = True
) -> ImageDiscriminatorConfig:
    """StyleGAN2's residual discriminator with `capacity` times its usual width."""
    top = 2 ** max(3, (resolution - 1).bit_length())
    widths = []
    while top >= 4:
        if top >= 64:
            widths.append(int(32768 * capacity) // top)
        else:
            widths.append(min(512, int(1024 * capacity)) if top >= 16 else 512)
        top //= 2
    return ImageDiscriminatorConfig(
        resolution, tuple(widths), taps=(1, 3, 3, 1) if antialias else (1,)
    )


@dataclass(frozen=True)
class PatchDiscriminatorConfig:
    """Widths of a patch discriminator.

    Attributes:
      patch_size: height and width of the patches it reads.
      widths: channels from RGB, then after each halving, down to 4x4.
      middle_width: channels of the block that keeps the size.
      final_width: channels of the last, unpadded convolution (2x2 cells).
      pair_widths: widths of the hidden linear layers that compare two features.
      taps: blur taps of the halvings; (1,) means no antialiasing.
    """

    patch_size: int
    widths: tuple[int, ...]
    middle_width: int
    final_width: int
    pair_widths: tuple[int, ...] = (2048, 2048, 1024)
    taps: tuple[int, ...] = (1, 3, 3, 1)


def published_patch_discriminator(
    patch_size: int = 128, *, capacity: float = 4.0, max_width: int = 384, antialias: bool = True
) -> PatchDiscriminatorConfig:
    """The published formula: min(max_width, capacity * 1024 / size) channels at each size."""
    widths, size = [], patch_size
    while size >= 4:
        widths.append(min(max_width, int(capacity * 1024 / size)))
        size //= 2
    return PatchDiscriminatorConfig(
        patch_size,
        tuple(widths),
        middle_width=2 * max_width,
        final_width=max_width,
        taps=(1, 3, 3, 1) if antialias else (1,),
    )


def _flatten(x: Float[Array, "B H W C"]) -> Float[Array, "B C*H*W"]:
    """Flattens in the order channels, rows, columns: that of the published weights."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


class ImageDiscriminator(nn.Module):
    """Image to one logit: larger is more real.

    Attributes:
      config: widths.
      dtype: dtype of the computation.
      remat: compute the inside of every block again for the gradient instead of keeping it.
    """

    config: ImageDiscriminatorConfig
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B 1"]:
        cfg = self.config
        x = Conv(cfg.widths[0], size=1, dtype=self.dtype, name="from_rgb")(images)
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        for i, width in enumerate(cfg.widths[1:]):
            x = block(width, cfg.taps, dtype=self.dtype, name=f"down_{i}")(x)
        x = _flatten(Conv(cfg.final_width, dtype=self.dtype, name="final")(x))
        x = Linear(cfg.dense_width, activate=True, dtype=self.dtype, name="dense_0")(x)
        return Linear(1, dtype=self.dtype, name="dense_1")(x).astype(jnp.float32)


class PatchDiscriminator(nn.Module):
    """Says whether two sets of patches come from images of one style.

    Attributes:
      config: widths.
      dtype: dtype of the computation.
      remat: compute the inside of every block again for the gradient instead of keeping it.
    """

    config: PatchDiscriminatorConfig
    dtype: Dtype = jnp.float32
    remat: bool = False

    def setup(self):
        cfg = self.config
        self.from_rgb = Conv(cfg.widths[0], dtype=self.dtype)
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        self.down = [block(width, cfg.taps, dtype=self.dtype) for width in cfg.widths[1:]]
        self.middle = block(cfg.middle_width, None, dtype=self.dtype)
        self.final = Conv(cfg.final_width, padding="valid", dtype=self.dtype)
        self.pair = [
            *(Linear(width, activate=True, dtype=self.dtype) for width in cfg.pair_widths),
            Linear(1, dtype=self.dtype),
        ]

    def features(self, patches: Float[Array, "N P P 3"]) -> Float[Array, "N 2 2 F"]:
        """Features of single patches."""
        x = self.from_rgb(patches)
        for block in self.down:
            x = block(x)
        return self.final(self.middle(x))

    def compare(
        self, reference: Float[Array, "N 2 2 F"], other: Float[Array, "N 2 2 F"]
    ) -> Float[Array, "N 1"]:
        """Logit for each pair of features: larger is more likely of one style."""
        x = jnp.concatenate([_flatten(reference), _flatten(other)], axis=-1)
        for layer in self.pair:
            x = layer(x)
        return x.astype(jnp.float32)

    def __call__(
        self, reference: Float[Array, "B K P P 3"], other: Float[Array, "B L P P 3"]
    ) -> Float[Array, "B*L 1"]:
        """Compares each of `other`'s patches with the mean feature of `reference`'s patches."""
        reference_features = self.features(reference.reshape(-1, *reference.shape[2:]))
        other_features = self.features(other.reshape(-1, *other.shape[2:]))
        mean = jnp.mean(
            reference_features.reshape(*reference.shape[:2], *reference_features.shape[1:]), axis=1
        )
        return self.compare(jnp.repeat(mean, other.shape[1], axis=0), other_features)
