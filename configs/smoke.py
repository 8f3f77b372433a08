"""A run of two minutes that touches everything: drawn faces, tiny networks, all losses.

python train.py --config=configs/smoke.py --workdir=runs/smoke
python train.py --config=configs/smoke.py:smpn --workdir=runs/smoke_smpn
python train.py --config=configs/smoke.py:joint --workdir=runs/smoke_joint

Hardware: any; two CPU cores take less than two minutes, most of it compilation. Expected: losses
that are finite and a G_L1 that falls. The pictures are mush.
"""

import ml_collections

from l2sae_jax.configuration import to_dict
from l2sae_jax.objectives import ObjectiveConfig
from l2sae_jax.training.augmentation import Augmentation
from l2sae_jax.training.scaling import Scaling


def get_config(kind: str = "smn") -> ml_collections.ConfigDict:
    """The config for one objective: "smn", "smpn" or "joint"."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.batch_size = 4
    config.images = 256
    config.dtype = "float32"
    config.init_from = ""
    config.spread_styles = 0
    config.dry_run = False
    config.update(to_dict(Scaling()))
    config.slices = ((0, 2), (2, 4), (4, 6), (6, 7), (7, 8))
    config.optimizer = dict(learning_rate=0.002, b1=0.0, b2=0.99, cooldown=0.0)
    config.average_decay = 0.99
    config.networks = dict(
        encoder=dict(
            widths=(6, 8), structure_channels=8, style_widths=(8,), style_channels=8, taps=(1, 2, 1)
        ),
        decoder=dict(structure_channels=8, style_channels=8, head_widths=(8,), up_widths=(6,)),
        image_discriminator=dict(resolution=32, widths=(4, 6), final_width=6, dense_width=8),
        patch_discriminator=dict(
            patch_size=8, widths=(4, 6), middle_width=6, final_width=4, pair_widths=(8,)
        ),
    )
    config.objective = to_dict(ObjectiveConfig(kind=kind, crops=2))
    config.data = dict(
        name="synthetic",
        source="",
        data_dir="",
        size=32,
        flip=True,
        length=64,
        seed=0,
    )
    config.augmentation = to_dict(Augmentation())
    config.log_every = 32
    config.evaluate_every = 128
    config.evaluate_images = 16
    config.evaluate_batch_size = 8
    config.checkpoint_every = 128
    config.keep_checkpoints = 2
    return config
