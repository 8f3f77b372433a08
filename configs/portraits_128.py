"""Small networks for 128 px portraits, for two CPU cores: those that come with this package.

They grow from networks for 64 px, and may train side by side, a core each. With, in bash,
train="python train.py --config=configs/portraits_128.py" data="--config.data.source=portraits.zip"

$train:smpn_64 $data --workdir=runs/smpn_64
$train:smpn $data --workdir=runs/smpn --config.init_from=runs/smpn_64
$train:smn_64 $data --workdir=runs/smn_64
$train:smn $data --workdir=runs/smn_128 --config.init_from=runs/smn_64 --config.images=4000
$train:smn $data --workdir=runs/smn --config.init_from=runs/smn_128 --config.spread_styles=2048
python convert_weights.py --smn=runs/smn --smpn=runs/smpn --output=models/mine --storage=float16

On one core of an Intel Xeon: at 64 px 12 images/s for the SMN and 6 for the SMPN, at 128 px 5 to 6
for both; two hours for the SMN, two and a half for the SMPN. Expected: about what
docs/model_card.md measures of the weights in this package, whose training is told in
docs/training.md; it came to these stages on the way. The perceptual loss needs the extra `eval`.
"""

import ml_collections

from l2sae_jax.configuration import to_dict
from l2sae_jax.objectives import ObjectiveConfig
from l2sae_jax.regions import equal_slices
from l2sae_jax.training.augmentation import Augmentation
from l2sae_jax.training.scaling import Scaling

SHARES = (0.32, 0.34, 0.025, 0.0089, 0.0147)  # of the picture, in 1,000 training portraits


def get_config(kind: str = "smn") -> ml_collections.ConfigDict:
    """The config of one of the networks: "smn", "smpn" or "joint" (approach 1), or what it grows
    from, "smn_64", "smpn_64" or "joint_64".
    """
    kind, _, small = kind.partition("_")
    if kind not in ("smn", "smpn", "joint") or small not in ("", "64"):
        raise ValueError("portraits_128 has smn, smpn and joint, and smn_64, smpn_64 and joint_64")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.batch_size = 2
    config.images = 26_000
    config.dtype = "float32"
    config.init_from = ""
    config.spread_styles = 0
    config.dry_run = False
    config.update(to_dict(Scaling()))
    config.slices = equal_slices(3)
    config.optimizer = dict(learning_rate=0.002, b1=0.9, b2=0.99, cooldown=0.0 if small else 0.4)
    config.average_decay = 0.999

    channels = {"smn": 16, "smpn": 15, "joint": 15}[kind]
    decoder = {"head_widths": (128, 128), "up_widths": (64, 32, 16)}
    if kind == "smpn":
        decoder = {"head_widths": (64, 64), "up_widths": (32, 16, 8)}
    encoder = {"widths": (16, 32, 64, 128), "style_widths": (128, 128)}
    if small:
        encoder["widths"], decoder["up_widths"] = encoder["widths"][1:], decoder["up_widths"][:-1]
    codes = {"structure_channels": channels, "style_channels": 64}
    config.networks = {"encoder": encoder | codes, "decoder": decoder | codes}
    if kind == "smpn":
        objective = ObjectiveConfig(
            kind="smpn",
            gan=0.0,
            patch=0.0,
            reconstructed=1.0,
            reconstruction="logistic",
            region_shares=SHARES,
            balance=0.25,
        )
        augmentation = Augmentation(
            turn=10.0, zoom=0.15, shift=0.06, colour=0.4, grey=0.1, damaged=0.5
        )
    else:
        objective = ObjectiveConfig(
            kind=kind,
            l1=1.0,
            perceptual=1.0 if small else 3.0,
            gan=0.0,
            patch=0.0,
            reconstructed=1.0,
            region_shares=SHARES,
            balance=0.5,
            recolouring=0.3,
        )
        augmentation = Augmentation(turn=5.0, zoom=0.1, shift=0.04, colour=0.2, grey=0.02)
    config.objective = to_dict(objective)
    config.augmentation = to_dict(augmentation)

    config.data = dict(
        name="celebamask_hq",
        source="",
        data_dir="data",
        size=64 if small else 128,
        framing=(0.89, 0.029),  # fitted to 400 of them with `data.faces`
        flip=True,
        length=0,
        seed=0,
    )
    config.log_every = 800
    config.evaluate_every = 2_000
    config.evaluate_images = 256
    config.evaluate_batch_size = 32
    config.checkpoint_every = 2_000
    config.keep_checkpoints = 2
    return config
