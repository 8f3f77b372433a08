"""Measures what edits are worth: masks, edits, swaps, reconstructions, realism, time.

python evaluate.py --data=DIR --output=DIR [--checkpoint=DIR ...] [--pictures=FOLDER ...]

Each --checkpoint is a model of ours, each --pictures a folder of what another program made of the
same images; the first is what the others are compared with. Without any it is our own model. --data
is where train.py keeps its records (config.data.data_dir); give --source, the release as a folder,
zip or tar, to make records that are not there yet.

--output receives report.md, scores.json with every figure, its uncertainty and its number of
images, plots/ and sheets/. What was measured is kept in measured/ there: the same command again
goes on where it was stopped. --write_originals=DIR writes the test images, named by their ids, for
other programs to edit; --write_pictures keeps what models make, in the layout --pictures reads.

FID and KID need the weights of the Inception network: --inception=FILE, or --fetch_inception to
get them once. LPIPS and plots need pip install 'l2sae_jax[eval]'. What is missing is told and left
out. The exit code is 1 if nothing could be measured.
"""

import os
import sys
from pathlib import Path

from absl import flags


def define_flags() -> flags.FlagValues:
    """This program's flags, apart from absl's global ones."""
    values = flags.FlagValues()
    new = {"flag_values": values}
    flags.DEFINE_multi_string(
        "checkpoint", [], "A model directory or training workdir; by default our own.", **new
    )
    flags.DEFINE_multi_string("pictures", [], "A folder of another system's pictures.", **new)
    flags.DEFINE_string("data", None, "Folder of records.", **new)
    flags.DEFINE_string("source", None, "Release to make the records from.", **new)
    flags.DEFINE_string("output", None, "The folder to write to.", **new)
    flags.DEFINE_enum(
        "preset",
        "standard",
        ["standard", "paper"],
        "What holds where flags say nothing: paper is one edit of each region of 862 images.",
        **new,
    )
    flags.DEFINE_list(
        "measures",
        None,
        "Some of segmentation, reconstruction, edit, sweep, swap, realism, time.",
        **new,
    )
    flags.DEFINE_enum("split", None, ["train", "validation", "test"], "By default test.", **new)
    flags.DEFINE_integer("images", None, "How many, from the first; by default 300.", **new)
    flags.DEFINE_float("strength", None, "Of the noise in an edit; by default 0.6.", **new)
    flags.DEFINE_integer("samples", None, "Draws of the noise, for diversity.", **new)
    flags.DEFINE_list("strengths", None, "Those of the sweep.", **new)
    flags.DEFINE_enum("blend", None, ["paper", "local"], "How edits are blended in.", **new)
    flags.DEFINE_boolean("harmonise", None, "Add how the decode changed instead.", **new)
    flags.DEFINE_integer("seed", None, "Of the noise, and of the resampling.", **new)
    flags.DEFINE_string("inception", None, "The file with the weights of Inception.", **new)
    flags.DEFINE_boolean("fetch_inception", False, "Download them once, if need be.", **new)
    flags.DEFINE_string(
        "judge", None, "The model that looks for regions in edits; by default the first.", **new
    )
    flags.DEFINE_boolean("write_pictures", False, "Keep the pictures that models make.", **new)
    flags.DEFINE_string("write_originals", None, "A folder to write the images to.", **new)
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Images at a time; by default 20, fewer where they are large.",
        lower_bound=1,
        **new,
    )
    flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", **new)
    return values


def wanted_protocol(options: flags.FlagValues):
    """What the flags say is to be measured."""
    from dataclasses import fields, replace

    from l2sae_jax.evaluation import PRESETS, Protocol

    given = {field.name: options[field.name].value for field in fields(Protocol)}
    given = {name: value for name, value in given.items() if value is not None}
    for name, kind in (("measures", str), ("strengths", float)):
        if name in given:
            try:
                given[name] = tuple(kind(part.strip()) for part in given[name])
            except ValueError:
                raise ValueError(f"--{name}: expected numbers, not {given[name]}") from None
    return replace(PRESETS[options.preset], **given)


def run(options: flags.FlagValues, command: list[str]) -> None:
    """Evaluates what the flags name, and prints the first table of the report."""
    from l2sae_jax.evaluation import Request, evaluate, summary

    request = Request(
        checkpoints=tuple(options.checkpoint),
        pictures=tuple(options.pictures),
        data=options.data,
        source=options.source,
        output=Path(options.output),
        protocol=wanted_protocol(options),
        inception=options.inception,
        fetch_inception=options.fetch_inception,
        judge=options.judge,
        batch_size=options.batch_size,
        keep_pictures=options.write_pictures,
        originals=options.write_originals and Path(options.write_originals),
    )
    print(summary(evaluate(request, command, _say)))
    print(f"\nSee {request.output / 'report.md'}")


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

        run(options, argv)
    except (ValueError, OSError, flags.Error) as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _say(line: str) -> None:
    print(f"evaluate.py: {' '.join(line.split())}", file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))
