"""Flax modules of the Swapping Autoencoder's architecture, NHWC."""

from l2sae_jax.nn.architecture import Architecture
from l2sae_jax.nn.decoder import (
    Decoder,
    DecoderConfig,
    NoiseMaps,
    Window,
    published_decoder,
    sample_noise,
)
from l2sae_jax.nn.discriminators import (
    ImageDiscriminator,
    ImageDiscriminatorConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    published_image_discriminator,
    published_patch_discriminator,
)
from l2sae_jax.nn.encoder import Encoder, EncoderConfig, published_encoder

__all__ = [
    "Architecture",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "ImageDiscriminator",
    "ImageDiscriminatorConfig",
    "NoiseMaps",
    "PatchDiscriminator",
    "PatchDiscriminatorConfig",
    "Window",
    "published_decoder",
    "published_encoder",
    "published_image_discriminator",
    "published_patch_discriminator",
    "sample_noise",
]
