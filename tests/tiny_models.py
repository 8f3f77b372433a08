"""Networks of random parameters, small enough to compile in no time, and pictures for them."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

import l2sae_jax as l2
from l2sae_jax.checkpoints import save_model
from l2sae_jax.model import L2SAE, Autoencoder, AutoencoderConfig
from l2sae_jax.nn import Architecture, DecoderConfig, EncoderConfig
from l2sae_jax.regions import DEFAULT_SLICES

ARCHITECTURE = Architecture(EncoderConfig((3, 4), 8, (5,), 6), DecoderConfig(8, 6, (5,), (4,)))
HEIGHT, WIDTH = 16, 20
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, HEIGHT, WIDTH, 3)).astype(np.float32)


def autoencoder(seed: int, brightness: float = 0.0, **config) -> Autoencoder:
    """A network of random parameters; `brightness` is what its decodes vary about."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        scale = 0.1 if path[-1].key == "bias" else 1.0
        return np.float32(scale) * generator.standard_normal(leaf.shape, np.float32)

    parameters = jax.tree_util.tree_map_with_path(draw, ARCHITECTURE.parameter_shapes())
    to_rgb = parameters["decoder"]["to_rgb"]
    to_rgb["kernel"] *= np.float32(10)
    to_rgb["bias"][:] = brightness
    networks = ARCHITECTURE.encoder, ARCHITECTURE.decoder
    return Autoencoder(**parameters, config=AutoencoderConfig(*networks, image_size=16, **config))


def separate_networks() -> L2SAE:
    """An SMN and an SMPN."""
    return L2SAE(autoencoder(0), autoencoder(1, 0.2, slices=DEFAULT_SLICES, targets="masks"))


def joint_network() -> L2SAE:
    """One network that was trained on region appearance as well."""
    return L2SAE(autoencoder(2, -0.83, slices=DEFAULT_SLICES, targets="appearance"))


def every_edit(model: L2SAE, images, figures=(0.6, 0.2)):
    """Each kind of edit by name; of strengths or amounts the first, or two for two regions."""
    key = jax.random.key(7)
    return {
        "edit": l2.edit(model, images, key, ("hair", "lips"), figures),
        "swap": l2.swap(model, images, IMAGES[:1], ("lips",), figures[0]),
        "edit_structure": l2.edit_structure(model, images, key, ("nose",), figures[0], "local"),
    }


def every_operation(model: L2SAE, images):
    """What the package offers, by name."""
    structure, style = l2.encode(model, images)
    return every_edit(model, images) | {
        "segment": l2.segment(model, images),
        "encode": (structure, style),
        "decode": l2.decode(model, structure, style),
        "decode with noise": l2.decode(model, structure, style, jax.random.key(7)),
    }


def write_model(folder: Path, names: Sequence[str] = ("smn", "smpn")) -> Path:
    """Writes some of the `separate_networks` as a model directory."""
    both = separate_networks()
    networks = {name: getattr(both, name) for name in names}
    save_model(
        folder,
        {name: network.config for name, network in networks.items()},
        dict.fromkeys(names, ARCHITECTURE),
        {name: {"encoder": n.encoder, "decoder": n.decoder} for name, n in networks.items()},
    )
    return folder
