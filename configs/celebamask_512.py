"""The paper's setting: full-size networks, 512 px CelebAMask-HQ, the published objective.

python train.py --config=configs/celebamask_512.py:smn --workdir=runs/celebamask_smn \
    --config.data.source=CelebAMask-HQ.zip --config.data.data_dir=data
python train.py --config=configs/celebamask_512.py:smpn --workdir=runs/celebamask_smpn \
    --config.data.source=CelebAMask-HQ.zip --config.data.data_dir=data
python train.py --config=configs/celebamask_512.py:joint ...    # approach 1: both in one network

Hardware: a GPU with 80 GB, or several with a larger batch_size; see docs/scaling.md. Not yet run to
the end by us: there are no figures to expect. Start the SMN from the published ffhq512 weights,
converted, with --config.init_from=DIR.
"""

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
from l2sae_jax.training.scaling import Scaling


def get_config(kind: str = "smn") -> ml_collections.ConfigDict:
    """The config for one objective: "smn", "smpn" (approach 2) or "joint" (approach 1)."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.batch_size = 16 if kind == "smn" else 4
    config.images = 25_000_000
    config.dtype = "bfloat16"
    config.init_from = ""
    # Regions one after the other, and half of the SMN's larger batch after the other half: all at
    # once may need more than 80 GB. On more devices than one, set accumulate to 1.
    fits = Scaling(remat="blocks", accumulate=2) if kind == "smn" else Scaling(remat="regions")
    config.update(to_dict(fits))
    config.slices = DEFAULT_SLICES
    config.optimizer = dict(learning_rate=0.002, b1=0.0, b2=0.99, cooldown=0.0)
    config.average_decay = 0.999
    config.networks = to_dict(
        Architecture(
            published_encoder(),
            published_decoder(),
            published_image_discriminator(512),
            published_patch_discriminator(),
        )
    )
    config.objective = to_dict(ObjectiveConfig(kind=kind))
    config.data = dict(
        name="celebamask_hq",
        source="",
        data_dir="data",
        size=512,
        flip=True,
        colour_jitter=0.0,
        length=0,
        seed=0,
    )
    config.log_every = 1_600
    config.evaluate_every = 50_000
    config.evaluate_images = 512
    config.evaluate_batch_size = 8
    config.checkpoint_every = 50_000
    config.keep_checkpoints = 3
    return config
