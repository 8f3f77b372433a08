"""Editing what was planned: batches of faces through the model, photograph by photograph."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from l2sae_jax.batch_editing.contact_sheet import remove_pages
from l2sae_jax.batch_editing.manifest import (
    MANIFEST,
    Entry,
    Manifest,
    earlier_entries,
)
from l2sae_jax.batch_editing.planning import Plan, Report
from l2sae_jax.batch_editing.results import EditedFace, ResultWriter
from l2sae_jax.batch_editing.sheets import Sheets
from l2sae_jax.batch_editing.shots import Crop, Shot, is_unchanged, read_shots
from l2sae_jax.checkpoints import fingerprint
from l2sae_jax.marks import software_name
from l2sae_jax.model import L2SAE
from l2sae_jax.parallel import computing, make_mesh, shard_rows, whole
from l2sae_jax.variants import Draw, Edit, Found, check, draw, edit_batch, find_regions, variants
from l2sae_jax.whole_files import make_folder

# Of the photographs of a batch together. Two more may be in memory: the last one written, and the
# first of the next batch.
_MOST_PIXELS = 100_000_000


class Tally(NamedTuple):
    """How many photographs were edited, and how many an earlier run had done."""

    edited: int
    done_before: int


def run(
    plan: Plan,
    model: L2SAE,
    batch_size: int,
    report: Report,
    about: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Tally:
    """Edits every photograph of a plan; writes the results, contact sheets and a manifest.

    A photograph's results depend neither on the others nor on their order.

    Args:
      batch_size: faces edited at a time, rounded up to give every local device as many; where fewer
        are at hand a batch is filled up, so that there is but one shape to compile for.
      report: is told, in a line, of every file that cannot be edited.
      about: JSON values to note in the manifest, such as the command.
      resume: leave out what the manifest of an interrupted run says is done.

    Raises:
      ValueError: a model that lacks a network, no readable reference, too large a batch, files that
        cannot be written, or a manifest of something else to resume; in one line.
    """
    edit, size = plan.edit, model.image_size
    mesh = make_mesh(jax.local_devices())
    if plan.cropping.face != "all":
        batch_size = min(batch_size, len(plan.photos))
    batch_size = -(-batch_size // mesh.size) * mesh.size
    check(model, edit, mesh, batch_size)
    make_folder(plan.output)
    reference_shots = _read_references(plan, model, report)
    plan = replace(plan, references={shot.name: shot.path for shot in reference_shots})
    references = {shot.name: shot.crops[0].pixels for shot in reference_shots}
    chosen = variants(edit, references)
    draws = [(variant.regions, draw(edit, variant, references)) for variant in chosen]
    header = dict(about or {}) | _header(plan, model, reference_shots)
    done = _done(plan, earlier_entries(plan.output, header)) if resume else []
    names, pages = {entry["name"] for entry in done}, _pages(done)
    photos = {name: path for name, path in plan.photos.items() if name not in names}
    model = jax.device_put(model, whole(mesh))
    edited = 0
    try:
        if (plan.output / MANIFEST).exists():
            remove_pages(plan.output, pages)
        manifest = Manifest(plan.output, header, done)
        software = software_name(header["model"]["sha256"])
        sheets = Sheets(plan, chosen, references, size, pages, software)
        writer = ResultWriter(plan, chosen, sheets, manifest, software)
        with tqdm(total=len(photos), unit="image", dynamic_ncols=True) as bar:

            def skipped(path: Path, line: str) -> None:
                report(f"skipped {line}")
                writer.skip(path, line)
                bar.update()

            shots = read_shots(photos, plan.cropping, size, model.framing, skipped)
            for shot, faces in _edited_shots(model, edit, mesh, shots, draws, batch_size):
                try:
                    writer.write(shot, faces)
                except ValueError as error:  # pictures too large for the format, for one
                    skipped(shot.path, str(error))
                    continue
                edited += 1
                bar.update()
        writer.finish()
    except OSError as error:  # what cannot be read is no OSError but was reported
        reason = error.strerror or str(error)
        raise ValueError(f"{plan.output}: results cannot be written ({reason})") from error
    return Tally(edited, len(done))


def _read_references(plan: Plan, model: L2SAE, report: Report) -> list[Shot]:
    align = "off" if plan.cropping.align == "off" else "auto"
    cropping = replace(plan.cropping, align=align, face="largest")
    found = list(
        read_shots(
            plan.references,
            cropping,
            model.image_size,
            model.framing,
            lambda path, line: report(f"skipped {line}"),
        )
    )
    if plan.references and not found:
        raise ValueError("no style reference can be read")
    return found


def _header(plan: Plan, model: L2SAE, references: Sequence[Shot]) -> dict[str, Any]:
    """What every result depends on."""
    return {
        "edit": asdict(plan.edit),
        "photographs": asdict(plan.cropping),
        "written": {"format": plan.picture_format, "grid": plan.grid, "mark": plan.mark},
        "model": {
            "sha256": fingerprint(model),
            "image_size": model.image_size,
            "framing": model.framing,
        },
        "references": {
            shot.name: {
                "file": str(shot.path),
                "sha256": shot.sha256,
                "placement": asdict(shot.crops[0].placement),
            }
            for shot in references
        },
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _done(plan: Plan, entries: Sequence[Entry]) -> list[Entry]:
    """Those whose photographs are as they were, and whose results are all there."""
    return [
        entry
        for entry in entries
        if str(plan.photos.get(entry["name"])) == entry["file"]
        and is_unchanged(Path(entry["file"]), entry["sha256"])
        and all(file.exists() for file in plan.files_of(entry["name"]))
    ]


def _pages(done: Sequence[Entry]) -> dict[str, int]:
    """How many pages of each sheet are full."""
    pages: dict[str, int] = {}
    for entry in done:
        for name, page in entry["pages"].items():
            pages[name] = max(page, pages.get(name, 0))
    return pages


def _edited_shots(
    model: L2SAE,
    edit: Edit,
    mesh: Mesh,
    shots: Iterator[Shot],
    draws: Sequence[tuple[tuple[str, ...], Draw]],
    batch_size: int,
) -> Iterator[tuple[Shot, list[EditedFace]]]:
    """Photographs with their faces edited; a batch may hold faces of several, and the reverse."""
    # Nothing here holds a batch while the next one is read.
    edit_all = partial(_edit_all, model, edit, mesh, draws, batch_size)
    edited = itertools.chain.from_iterable(map(edit_all, _batches(shots, batch_size)))
    for _, pairs in itertools.groupby(edited, key=lambda pair: pair[0].name):
        pairs = list(pairs)
        yield pairs[0][0], [face for _, face in pairs]


def _batches(shots: Iterator[Shot], batch_size: int) -> Iterator[list[tuple[Shot, Crop]]]:
    batch: list[tuple[Shot, Crop]] = []
    held = 0
    for shot in shots:
        pixels = 0 if shot.photograph is None else shot.photograph.pixels.size // 3
        if batch and held + pixels > _MOST_PIXELS:
            yield batch
            batch, held = [], 0
        held += pixels
        for crop in shot.crops:
            batch.append((shot, crop))
            if len(batch) == batch_size:
                yield batch
                batch, held = [], 0
    if batch:
        yield batch


def _edit_all(
    model: L2SAE,
    edit: Edit,
    mesh: Mesh,
    draws: Sequence[tuple[tuple[str, ...], Draw]],
    batch_size: int,
    batch: Sequence[tuple[Shot, Crop]],
) -> Iterator[tuple[Shot, EditedFace]]:
    """For each face its regions, and a picture for each pair of regions and draw."""
    crops = [crop for _, crop in batch]
    crops += crops[-1:] * (batch_size - len(crops))
    confine = batch[0][0].photograph is not None  # put back, it must not change what is round it
    with computing(batch_size):
        # Once, not for every variant.
        filled = shard_rows(np.stack([crop.pixels for crop in crops]), mesh)
        found = find_regions(model, edit, mesh, filled)
        if found is not None:
            own = shard_rows(np.stack([crop.own for crop in crops]), mesh)
            found = Found(found.masks * own[..., None], found.labels * own)
        pictures = [
            jax.device_get(edit_batch(model, edit, regions, mesh, filled, found, draw, confine))
            for regions, draw in draws
        ]
        found = jax.device_get(found)
    for i, (shot, crop) in enumerate(batch):
        yield shot, EditedFace(crop, *jax.tree.map(lambda array, i=i: array[i], (found, pictures)))
