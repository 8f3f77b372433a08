"""The four networks of one Swapping Autoencoder as a single value."""

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from l2sae_jax.nn.decoder import Decoder, DecoderConfig
from l2sae_jax.nn.discriminators import (
    ImageDiscriminator,
    ImageDiscriminatorConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
)
from l2sae_jax.nn.encoder import Encoder, EncoderConfig
from l2sae_jax.nn.layers import Dtype

Params = Any


@dataclass(frozen=True)
class Architecture:
    """Configurations of the networks; discriminators are None where absent."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    image_discriminator: ImageDiscriminatorConfig | None = None
    patch_discriminator: PatchDiscriminatorConfig | None = None

    def present(self) -> tuple[str, ...]:
        """Names of the networks it has."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def module(self, network: str, dtype: Dtype = jnp.float32, remat: bool = False):
        """The Flax module of the network of this name."""
        return _MODULES[network](getattr(self, network), dtype, remat)

    def _inputs(self, network: str) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the smallest input that creates every parameter of a network."""
        config = getattr(self, network)
        shapes = {
            "encoder": lambda: [(1, config.smallest_image, config.smallest_image, 3)],
            "decoder": lambda: [(1, 2, 2, config.structure_channels), (1, config.style_channels)],
            "image_discriminator": lambda: [(1, config.resolution, config.resolution, 3)],
            "patch_discriminator": lambda: [(1, 1, config.patch_size, config.patch_size, 3)] * 2,
        }[network]()
        return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    def init(self, key: Key[Array, ""]) -> dict[str, Params]:
        """Freshly drawn parameters `{network: tree}`."""
        return {
            network: self._init_network(jax.random.fold_in(key, i), network)
            for i, network in enumerate(self.present())
        }

    def _init_network(self, key, network):
        inputs = [jnp.zeros(x.shape, x.dtype) for x in self._inputs(network)]
        # Jitted, only the parameters are computed, and not what the network makes of its inputs.
        return jax.jit(self.module(network).init)(key, *inputs)["params"]

    def parameter_shapes(self) -> dict[str, Params]:
        """Shapes of every parameter, as `init` would return them, without allocating any."""
        return jax.eval_shape(self.init, jax.random.key(0))


_MODULES = {
    "encoder": Encoder,
    "decoder": Decoder,
    "image_discriminator": ImageDiscriminator,
    "patch_discriminator": PatchDiscriminator,
}
