"""Scores a model on images it was not trained on: IoU of each region's mask, L1 of reconstructions.

python evaluate.py --checkpoint=DIR --data=DIR --output=DIR [--split=test] [--images=300]

--data is where train.py keeps its records (config.data.data_dir); give --source, the release
as a folder, zip or tar, to make records that are not there yet. --output receives scores.json.
"""

import json
import os
import sys
from pathlib import Path

from absl import app, flags

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model directory or workdir; default ours.")
_DATA = flags.DEFINE_string("data", None, "Folder of records.")
_SOURCE = flags.DEFINE_string("source", "", "Release to make the records from.")
_OUTPUT = flags.DEFINE_string("output", None, "Where scores.json is written.")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "What to score on.")
_IMAGES = flags.DEFINE_integer("images", 300, "How many images, from the first.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 20, "Images at a time.", lower_bound=1)


def evaluate() -> dict[str, float]:
    """Scores of the model the flags name."""
    import jax
    import ml_collections
    import numpy as np

    import l2sae_jax as l2
    from l2sae_jax.data.sources import open_source
    from l2sae_jax.metrics import mask_sums, reconstruction_sums, summarise
    from l2sae_jax.regions import region_masks

    model = l2.load(_CHECKPOINT.value)
    network = model.smpn or model.smn
    config = ml_collections.ConfigDict(
        {
            "name": "celebamask_hq",
            "data_dir": _DATA.value,
            "source": _SOURCE.value,
            "size": network.config.image_size,
        }
    )
    source = open_source(config, _SPLIT.value)

    @jax.jit
    def score(model, pictures, labels):
        images = pictures / 127.5 - 1.0
        sums = {}
        if model.smn is not None:
            sums |= reconstruction_sums(images, l2.decode(model, *l2.encode(model, images)))
        if model.smpn is not None or network.config.slices is not None:
            sums |= mask_sums(l2.segment(model, images), region_masks(labels))
        return sums

    count = min(_IMAGES.value, len(source))
    totals: dict[str, np.ndarray] = {}
    for start in range(0, count, _BATCH.value):
        examples = [source[i] for i in range(start, min(start + _BATCH.value, count))]
        batch = [np.stack([example[name] for example in examples]) for name in ("image", "labels")]
        sums = jax.device_get(score(model, *batch))
        totals = {name: totals.get(name, 0.0) + value for name, value in sums.items()}
    return {"images": count, **summarise(totals)}


def main(argv: list[str]) -> None:
    """Scores; errors end in one line and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        scores = evaluate()
        Path(_OUTPUT.value).mkdir(parents=True, exist_ok=True)
        (Path(_OUTPUT.value) / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate.py: error: {' '.join(str(error).split())}")
    for name, score in scores.items():
        print(f"{name:10s} {score:.4g}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.mark_flags_as_required(["data", "output"])
    app.run(main)
