"""The paper's setting, as far as it is the same at every size of picture."""

import ml_collections

from l2sae_jax.configuration import to_dict
from l2sae_jax.nn import (
    Architecture,
    published_decoder,
    published_encoder,
    published_image_discriminator,
    published_patch_discriminator,
)
from l2sae_jax.objectives import ObjectiveConfig
from l2sae_jax.regions import DEFAULT_SLICES
from l2sae_jax.training.augmentation import Augmentation
from l2sae_jax.training.scaling import Scaling


def paper_config(kind: str, size: int, scaling: Scaling) -> ml_collections.ConfigDict:
    """A training config: full-size networks, CelebAMask-HQ, the published objective.

    Args:
      kind: "smn", "smpn" (approach 2) or "joint" (approach 1).
      size: height and width of the pictures, in pixels.
      scaling: how to fit the steps into memory.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.images = 1_000_000
    config.dtype = "bfloat16"
    config.init_from = ""
    config.spread_styles = 0
    config.dry_run = False
    config.update(to_dict(scaling))
    config.slices = DEFAULT_SLICES
    config.optimizer = dict(learning_rate=0.002, b1=0.0, b2=0.99, cooldown=0.0)
    config.average_decay = 0.999
    config.networks = to_dict(
        Architecture(
            published_encoder(),
            published_decoder(),
            published_image_discriminator(size),
            published_patch_discriminator(),
        )
    )
    config.objective = to_dict(ObjectiveConfig(kind=kind))
    config.data = dict(
        name="celebamask_hq",
        source="",
        data_dir="data",
        size=size,
        flip=True,
        length=0,
        seed=0,
    )
    config.augmentation = to_dict(Augmentation())
    config.log_every = 1_600
    config.evaluate_every = 50_000
    config.evaluate_images = 512
    config.evaluate_batch_size = 8
    config.checkpoint_every = 50_000
    config.keep_checkpoints = 3
    return config
