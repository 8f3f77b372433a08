"""The paper's setting at 512 px: full-size networks, CelebAMask-HQ, the published objective.

Approach 2, from the published weights ffhq512:

python convert_weights.py --smn=ffhq512_pretrained/latest_checkpoint.pth --output=models/ffhq512
python train.py --config=configs/celebamask_hq_512.py:smn --workdir=runs/smn_512 \
    --config.data.source=CelebAMask-HQ.zip --config.init_from=models/ffhq512 --config.dry_run=True
python train.py --config=configs/celebamask_hq_512.py:smn --workdir=runs/smn_512 \
    --config.data.source=CelebAMask-HQ.zip --config.init_from=models/ffhq512
python train.py --config=configs/celebamask_hq_512.py:smpn --workdir=runs/smpn_512 \
    --config.data.source=CelebAMask-HQ.zip --config.init_from=models/ffhq512
python convert_weights.py --smn=runs/smn_512 --smpn=runs/smpn_512 --output=models/celebamask_512

Approach 1: ":joint" in place of ":smpn", and nothing else. All networks of all three start from
those weights.

Hardware: a GPU of 80 GB; smaller ones by the table in docs/scaling.md. Of several GPUs each has a
multiple of 4 * accumulate images: on two give --config.accumulate=2, on four 1, on eight 1 and
--config.batch_size=32. Time, by its FLOP and not measured: 5 hours for the SMN, 24 for the SMPN, 29
for the joint network on an A100, a third of that on an H100; from nothing 25 times as long, with
--config.images=25000000. Expected: nobody has run this to the end yet, so there are no figures; a
dry run says in minutes whether it can be.
"""

import ml_collections

from l2sae_jax.training.paper import paper_config
from l2sae_jax.training.scaling import Scaling


def get_config(kind: str = "smn") -> ml_collections.ConfigDict:
    """The config of one objective: "smn", "smpn" (approach 2) or "joint" (approach 1)."""
    # Five or six decodes of every image: a quarter of a batch at a time.
    return paper_config(kind, 512, Scaling(accumulate=1 if kind == "smn" else 4))
