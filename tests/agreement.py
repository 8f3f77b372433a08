"""The PyTorch originals' figures in `fixtures/`, and the small models that must reproduce them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from reference import checkpoint

from l2sae_jax.nn import (
    Architecture,
    published_decoder,
    published_encoder,
    published_image_discriminator,
    published_patch_discriminator,
)
from l2sae_jax.torch_layout import entry_table, to_parameters

SMALL_64 = Architecture(
    published_encoder(downsamplings=3, style_channels=64, capacity=0.25),
    published_decoder(upsamplings=3, style_channels=64, capacity=0.125),
    published_image_discriminator(64, capacity=0.125),
    published_patch_discriminator(32, capacity=0.5, max_width=48),
)
L2S_128 = Architecture(
    published_encoder(downsamplings=4, style_channels=64, capacity=0.125),
    published_decoder(upsamplings=4, style_channels=64, capacity=0.0625),
    published_image_discriminator(128, capacity=0.0625),
    published_patch_discriminator(32, capacity=0.5, max_width=48),
)
FFHQ512 = Architecture(published_encoder(), published_decoder())


def figures(name: str) -> dict[str, np.ndarray]:
    """The arrays of one fixture, and the image they were computed from."""
    with np.load(Path(__file__).parent / "fixtures" / f"{name}.npz") as file:
        arrays = dict(file)
    seed, batch, size = {"l2s_128": (1, 2, 128)}.get(name, (0, 4, 64))
    image = np.random.default_rng(seed).uniform(-1, 1, (batch, 3, size, size))
    return arrays | {"image": image.astype(np.float32).transpose(0, 2, 3, 1)}


def parameters(architecture: Architecture):
    """Parameters by the recipe of the reference figures."""
    shapes = {name: entry.shape for name, entry in entry_table(architecture).items()}
    return dict(to_parameters(checkpoint(shapes), architecture))


def noise_maps(arrays: dict[str, np.ndarray]) -> dict[str, jnp.ndarray]:
    """A fixture's noise maps under our names; one map serves every sample."""
    maps = {}
    for key, value in arrays.items():
        if key.startswith("noise/"):
            block, layer, _ = key.removeprefix("noise/").split(".")
            if block.startswith("HeadResnetBlock"):
                block = f"head_{block.removeprefix('HeadResnetBlock')}"
            else:
                scale = int(block.removeprefix("UpsamplingResBlock"))
                block = f"up_{(scale // 16).bit_length() - 1}"
            maps[f"{block}/{layer}"] = jnp.asarray(value)[None, :, :, None]
    return maps
