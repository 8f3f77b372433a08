"""Trains an SMN, an SMPN or a joint network.

python train.py --config=configs/portraits_64.py:smpn --workdir=runs/smpn [--config.field=value ...]

A run that was stopped continues from its workdir by the same command.
"""

import os
import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to train; see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and pictures are written.")


def main(argv: list[str]) -> None:
    """Trains; errors end in one line and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: fields are set as --config.a=b")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from l2sae_jax.training import train_and_evaluate

    try:
        train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    except (ValueError, OSError) as error:
        sys.exit(f"train.py: error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
