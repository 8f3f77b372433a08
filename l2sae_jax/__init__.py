"""L2SAE, the Latents2Semantics Autoencoder, in JAX: edits regions of faces.

import l2sae_jax as l2
model = l2.load()
edited = l2.edit(model, images, jax.random.key(0), regions=("hair",))
"""

from l2sae_jax.checkpoints import load
from l2sae_jax.editing import edit, edit_structure, segment, swap
from l2sae_jax.model import L2SAE, Autoencoder, AutoencoderConfig, decode, encode
from l2sae_jax.regions import REGION_NAMES, REGIONS

__version__ = "0.1.0"

__all__ = [
    "L2SAE",
    "REGIONS",
    "REGION_NAMES",
    "Autoencoder",
    "AutoencoderConfig",
    "decode",
    "edit",
    "edit_structure",
    "encode",
    "load",
    "segment",
    "swap",
]
