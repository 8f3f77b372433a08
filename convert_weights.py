"""Converts PyTorch checkpoints of the Swapping Autoencoder to models of ours, and back.

python convert_weights.py --smn=FILE.pth [--smpn=FILE.pth] --output=DIR
python convert_weights.py --to_pytorch --checkpoint=DIR --output=DIR

In place of FILE.pth stands also a model directory or a training run's workdir, whose network is
then taken: so a separately trained SMN and SMPN become one model.
"""

import os
import sys
from pathlib import Path

from absl import flags


def define_flags() -> flags.FlagValues:
    """This program's flags, apart from absl's global ones."""
    values = flags.FlagValues()
    new = {"flag_values": values}
    flags.DEFINE_string("smn", None, "What the SMN is: a .pth file or a directory.", **new)
    flags.DEFINE_string("smpn", None, "What the SMPN is: a .pth file or a directory.", **new)
    flags.DEFINE_string("output", None, "The directory to write.", **new)
    flags.DEFINE_boolean(
        "joint", False, "The SMN's .pth was trained jointly on region appearance.", **new
    )
    flags.DEFINE_enum(
        "smpn_targets",
        "masks",
        ["masks", "appearance"],
        "What the slices of the SMPN's .pth were trained to show.",
        **new,
    )
    flags.DEFINE_integer(
        "image_size", None, "Size of the training images, where not what is printed.", **new
    )
    flags.DEFINE_enum(
        "storage", "float32", ["float32", "float16"], "Dtype of the stored parameters.", **new
    )
    flags.DEFINE_integer(
        "mask_reduction",
        None,
        "How many times smaller pictures masks are predicted from, a power of 2; by default what "
        "brings the SMN's size down to the SMPN's.",
        **new,
    )
    flags.DEFINE_boolean("discriminators", True, "Keep the discriminators, where present.", **new)
    flags.DEFINE_boolean("to_pytorch", False, "Write smn.pth and smpn.pth instead.", **new)
    flags.DEFINE_string("checkpoint", None, "With --to_pytorch: the model to write.", **new)
    flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", **new)
    return values


def to_model(options: flags.FlagValues) -> None:
    """Makes one model directory of the networks named."""
    from clu import parameter_overview

    from l2sae_jax.checkpoints import (
        check_mask_reduction,
        check_model_output,
        read_description,
    )
    from l2sae_jax.convert import open_network, save_networks, summary

    if options.checkpoint is not None:
        raise ValueError("--checkpoint goes with --to_pytorch; to make a model give --smn, --smpn")
    paths = {"smn": options.smn, "smpn": options.smpn}
    paths = {name: path for name, path in paths.items() if path is not None}
    if not paths:
        raise ValueError("give --smn, --smpn or both: a .pth file or a model directory")
    if options.joint and (options.smn is None or Path(options.smn).is_dir()):
        raise ValueError("--joint says how the .pth file given as --smn was trained; there is none")
    reduction = options.mask_reduction
    if reduction is not None:
        check_mask_reduction(reduction)
    elif options.smn == options.smpn and Path(options.smn).is_dir():  # a model, rewritten
        reduction = read_description(Path(options.smn)).stated_mask_reduction
    check_model_output(Path(options.output))

    targets = {"smn": "appearance" if options.joint else None, "smpn": options.smpn_targets}
    networks = {}
    for name, path in paths.items():
        network = open_network(path, name, image_size=options.image_size, targets=targets[name])
        for warning in network.warnings:
            print(f"convert_weights.py: warning: {warning}", file=sys.stderr)
        networks[name] = network if options.discriminators else network.without_discriminators()
        print(summary(name, networks[name]))
        shapes = networks[name].architecture.parameter_shapes()
        print(parameter_overview.get_parameter_overview(shapes, include_stats=False))
    save_networks(options.output, networks, options.storage, reduction)
    print(f"Wrote {' and '.join(networks)} in {options.storage} to {options.output}")


def to_pytorch(options: flags.FlagValues) -> None:
    """Writes a model's networks as PyTorch checkpoints."""
    from l2sae_jax.convert import write_pytorch

    if options.checkpoint is None or options.smn is not None or options.smpn is not None:
        raise ValueError("--to_pytorch writes the model named by --checkpoint; give that alone")
    for file in write_pytorch(options.checkpoint, options.output, options.discriminators):
        print(f"Wrote {file}")


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
        if options.output is None:
            raise ValueError("--output is missing: the directory to write")
        (to_pytorch if options.to_pytorch else to_model)(options)
    except (ValueError, OSError, flags.Error) as error:
        message = " ".join(str(error).split())
        print(f"convert_weights.py: error: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Copying numbers needs no accelerator, which may be at work on something else.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main(sys.argv))
