"""Scores a model on images it was not trained on: IoU of each region's mask, L1 of reconstructions.

python evaluate.py --checkpoint=DIR --data=DIR --output=DIR [--split=test] [--images=300]

--data is where train.py keeps its records (config.data.data_dir); give --source, the release
as a folder, zip or tar, to make records that are not there yet. Pictures have the size of the
model; an SMPN trained at a lower one reads them reduced, as in an edit. --output receives
scores.json. The exit code is 1 if nothing could be scored.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags


def define_flags() -> flags.FlagValues:
    """This program's flags, apart from absl's global ones."""
    values = flags.FlagValues()
    new = {"flag_values": values}
    flags.DEFINE_string(
        "checkpoint", None, "A model directory or training workdir; by default our own.", **new
    )
    flags.DEFINE_string("data", None, "Folder of records.", **new)
    flags.DEFINE_string("source", None, "Release to make the records from.", **new)
    flags.DEFINE_string("output", None, "The folder to write scores.json to.", **new)
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "What to score on.", **new)
    flags.DEFINE_integer("images", 300, "How many, from the first.", lower_bound=1, **new)
    flags.DEFINE_integer("batch_size", 20, "Images at a time.", lower_bound=1, **new)
    flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", **new)
    return values


def evaluate(options: flags.FlagValues) -> dict[str, float]:
    """Scores of the model the flags name; writes scores.json."""
    import l2sae_jax as l2
    from l2sae_jax.checkpoints import replace_text
    from l2sae_jax.compilation_cache import keep_compiled_programs
    from l2sae_jax.metrics import mask_sums, reconstruction_sums, summarise
    from l2sae_jax.regions import region_masks

    def reconstruction(model, images, labels):
        return reconstruction_sums(images, l2.decode(model, *l2.encode(model, images)))

    def masks(model, images, labels):
        return mask_sums(l2.segment(model, images), region_masks(labels))

    keep_compiled_programs()
    model = l2.load(options.checkpoint)
    measures = [] if model.smn is None else [reconstruction]
    if model.smpn is not None or model.smn.config.slices is not None:
        measures.append(masks)
    _check_records(options, model.image_size)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)  # an error here comes before hours of work
    source = _open_records(options, model.image_size)

    def measure(model, images, labels):
        return {name: s for m in measures for name, s in m(model, images, labels).items()}

    count = min(options.images, len(source))
    scores = {"images": count}
    scores |= summarise(_add_up(measure, model, source, count, options.batch_size))
    replace_text(output / "scores.json", json.dumps(scores, indent=1) + "\n")
    return scores


def _check_records(options: flags.FlagValues, size: int) -> None:
    from l2sae_jax.data.celebamask import records_exist

    if not records_exist(options.data, size) and not options.source:
        raise ValueError(
            f"no CelebAMask-HQ records of {size} px in {options.data}: give --source, the "
            "release (folder, zip or tar) to make them from, or as --data the folder they are in"
        )


def _open_records(options: flags.FlagValues, size: int):
    import ml_collections

    from l2sae_jax.data.sources import open_source

    config = {"name": "celebamask_hq", "data_dir": options.data, "size": size}
    return open_source(
        ml_collections.ConfigDict(config | {"source": options.source or ""}), options.split
    )


def _add_up(measure: Callable, model, source, count: int, batch_size: int) -> dict:
    """Sums that `measure(model, images, labels)` gives, over the first `count` examples."""
    import jax
    import numpy as np

    from l2sae_jax.pixels import to_images

    @jax.jit
    def score(model, pictures, labels):
        return measure(model, to_images(pictures), labels)

    totals = {}
    for start in range(0, count, batch_size):
        examples = [source[i] for i in range(start, min(start + batch_size, count))]
        batch = [np.stack([example[name] for example in examples]) for name in ("image", "labels")]
        sums = jax.device_get(score(model, *batch))
        totals = {name: totals.get(name, 0.0) + value for name, value in sums.items()}
    return totals


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    options = define_flags()
    try:
        unexpected = options(argv)[1:]
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return 0
        if unexpected:
            raise ValueError(f"unexpected argument {unexpected[0]!r}")
        for name, what in (("data", "a folder of records"), ("output", "the folder to write")):
            if not options[name].value:
                raise ValueError(f"--{name} is missing: {what}")
        scores = evaluate(options)
    except (ValueError, OSError, flags.Error) as error:
        print(f"evaluate.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for name, score in scores.items():
        print(f"{name:10s} {score:.4g}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))
