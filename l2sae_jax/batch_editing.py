"""Editing photographs by the folder: what `edit.py` does once its flags are read.

`plan` finds the files and decides on the names of the results; `run` reads, edits and writes.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from l2sae_jax import contact_sheet
from l2sae_jax.contact_sheet import Cell, ContactSheet
from l2sae_jax.data.images import find_images, read_image, resize, write_png
from l2sae_jax.model import L2SAE
from l2sae_jax.parallel import make_mesh, shard_rows, whole
from l2sae_jax.regions import REGION_NAMES
from l2sae_jax.variants import (
    MODES,
    Draw,
    Edit,
    Found,
    Picture,
    Variant,
    check,
    draw,
    edit_batch,
    find_regions,
    variants,
)

Report = Callable[[str], None]

_MILLISECONDS_PER_FRAME = 100


@dataclass(frozen=True)
class Plan:
    """An edit with the files it reads and the folder it writes to.

    Attributes:
      photos, references: files by the name their results bear, which no two share.
    """

    edit: Edit
    photos: Mapping[str, Path]
    references: Mapping[str, Path]
    output: Path

    def files_of(self, name: str) -> list[Path]:
        """All that is written for the photograph of this name."""
        made = [f"{name}_mask_{region}.png" for region in self.edit.regions]
        made += [f"{name}_{v.name}.png" for v in variants(self.edit, self.references)]
        if self.edit.mode == "segment":
            made.append(f"{name}_labels.png")
        if self.edit.mode == "interpolate":
            made += [
                _animation(name, regions, reference)
                for regions in self.edit.groups
                for reference in self.references
            ]
        return [self.output / file for file in made]


def _animation(name: str, regions: Sequence[str], reference: str) -> str:
    return f"{name}_{'-'.join(regions)}_to_{reference}.gif"


def plan(
    edit: Edit,
    paths: Sequence[str],
    style_reference: str | None,
    output: Path,
    report: Report,
) -> Plan:
    """Finds the files, names their results, and makes sure that none of these replaces an input.

    Args:
      paths: photographs, and folders of them; those that do not exist are reported.
      style_reference: a picture or a folder of them, where the mode needs one.
      report: is told, in a line, of every path without a picture.

    Raises:
      ValueError: no photograph, no reference or a superfluous one, or results that would replace
        an input or one another.
    """
    mode = MODES[edit.mode]
    if mode.needs_reference and style_reference is None:
        raise ValueError(f"mode {edit.mode} needs a style_reference: a picture or a folder")
    if style_reference is not None and not mode.needs_reference:
        raise ValueError(f"mode {edit.mode} takes no style_reference")
    if not paths or "" in (*paths, style_reference):
        raise ValueError("no photograph given: name pictures, or folders of them")
    photos = _find_photos(paths, output, report)
    if not photos:
        raise ValueError("no photograph found")
    references = [] if style_reference is None else _pictures(style_reference, output)
    if mode.needs_reference and not references:
        raise ValueError(f"no style reference found: {style_reference} holds but earlier results")
    found = Plan(edit, _by_name(photos), _by_name(references), output)
    _check_results(found)
    return found


def _find_photos(paths: Sequence[str], output: Path, report: Report) -> list[Path]:
    found: dict[str, Path] = {}
    for path in paths:
        try:
            found |= {os.path.abspath(photo): photo for photo in _pictures(path, output)}
        except (FileNotFoundError, ValueError) as error:
            report(f"skipped {error}")
    return list(found.values())


def _pictures(path: str, output: Path) -> list[Path]:
    """`find_images`, but where results lie below the folder searched they are left out."""
    found, folder, target = find_images(path), Path(path).resolve(), output.resolve()
    if target == folder or not target.is_relative_to(folder):
        return found
    return [picture for picture in found if not picture.resolve().is_relative_to(target)]


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Paths by their stem; where others share it, by folder, suffix or number as well."""
    schemes = (
        lambda path: path.stem,
        lambda path: f"{path.absolute().parent.name}-{path.stem}",
        lambda path: f"{path.stem}-{path.suffix[1:]}",
    )
    # Some file systems do not tell upper from lower case.
    uses = [Counter(scheme(path).casefold() for path in paths) for scheme in schemes]
    named: dict[str, Path] = {}
    taken = set()
    for path in paths:
        names = [scheme(path) for scheme in schemes]
        unique = [name for name, use in zip(names, uses, strict=True) if use[name.casefold()] == 1]
        numbered = (f"{path.stem}-{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain(unique, numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        named[name] = path
    return named


def _check_results(found: Plan) -> None:
    inputs = {_identity(path) for path in (*found.photos.values(), *found.references.values())}
    results = [file for name in found.photos for file in found.files_of(name)]
    (name, uses), *_ = Counter(str(file).casefold() for file in results).most_common(1)
    if uses > 1:
        raise ValueError(f"two results would both be written to {name}: rename an input")
    for file in (*results, *found.output.glob(contact_sheet.FILES)):
        if file.exists() and _identity(file) in inputs:
            raise ValueError(f"a result would replace the input {file}: give another output folder")


def _identity(path: Path) -> tuple[int, int]:
    """What two paths to one file share, however they are spelt."""
    status = path.stat()
    return status.st_dev, status.st_ino


def prepare(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The central square of a picture at the model's size."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], (size, size))


def run(plan: Plan, model: L2SAE, batch_size: int, report: Report) -> int:
    """Edits every photograph of a plan; writes the results and a contact sheet.

    A photograph's results depend neither on the others nor on their order.

    Args:
      batch_size: photographs edited at a time, rounded up to give every local device as many; the
        last batch is filled up, so that there is but one shape to compile for.
      report: is told, in a line, of every file that cannot be read.

    Returns:
      How many photographs were edited.

    Raises:
      ValueError: a model that lacks a network, no readable reference, too large a batch, or files
        that cannot be written; in one line.
    """
    edit, size = plan.edit, model.image_size
    mesh = make_mesh(jax.local_devices())
    per_device = -(-min(batch_size, len(plan.photos)) // mesh.size)
    batch_size = per_device * mesh.size
    check(model, edit, mesh, batch_size)
    model = jax.device_put(model, whole(mesh))
    _make_folder(plan.output)
    references = dict(_readable(plan.references, size, report))
    if plan.references and not references:
        raise ValueError("no style reference can be read")
    chosen = variants(edit, references)
    draws = [(variant.regions, draw(edit, variant, references)) for variant in chosen]
    batches = _batches(_readable(plan.photos, size, report), batch_size)
    edited = 0
    try:
        writer = ResultWriter(plan.output, edit, chosen, references, size)
        with tqdm(total=len(plan.photos), unit="image", dynamic_ncols=True) as bar:
            for batch in batches:
                results = _edit_all(model, edit, mesh, list(batch.values()), draws, batch_size)
                for (name, photo), (found, pictures) in zip(batch.items(), results, strict=True):
                    writer.write(name, photo, found, pictures)
                    bar.update()
                edited += len(batch)
        writer.finish()
    except OSError as error:  # what cannot be read is no OSError but was reported
        reason = error.strerror or str(error)
        raise ValueError(f"{plan.output}: results cannot be written ({reason})") from error
    return edited


def _batches(named: Iterator[tuple[str, Picture]], batch_size: int) -> Iterator[dict[str, Picture]]:
    while batch := dict(itertools.islice(named, batch_size)):
        yield batch


def _edit_all(
    model: L2SAE,
    edit: Edit,
    mesh: Mesh,
    photos: list[Picture],
    draws: Sequence[tuple[tuple[str, ...], Draw]],
    batch_size: int,
) -> Iterator[tuple[Found | None, list[Picture]]]:
    """For each photograph its regions, and a picture for each pair of regions and draw."""
    filled = np.stack(photos + photos[-1:] * (batch_size - len(photos)))
    try:
        filled = shard_rows(filled, mesh)  # once, not for every variant
        found = find_regions(model, edit, mesh, filled)
        pictures = [
            jax.device_get(edit_batch(model, edit, regions, mesh, filled, found, draw))
            for regions, draw in draws
        ]
        found = jax.device_get(found)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"a batch of {batch_size} cannot be computed, try a smaller one: "
            f"{str(error).splitlines()[0]}"
        ) from error
    for i in range(len(photos)):
        yield jax.tree.map(lambda array, i=i: array[i], (found, pictures))


def _readable(
    paths: Mapping[str, Path], size: int, report: Report
) -> Iterator[tuple[str, Picture]]:
    """Names and prepared pictures of the files that can be read; others are reported."""
    for name, path in paths.items():
        try:
            picture = prepare(read_image(path), size)
        except ValueError as error:
            report(f"skipped {error}")
            continue
        yield name, picture


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: cannot be written to")


class ResultWriter:
    """Writes the results of one photograph after the other, and shows them on a contact sheet."""

    def __init__(
        self,
        output: Path,
        edit: Edit,
        chosen: Sequence[Variant],
        references: Mapping[str, Picture],
        size: int,
    ):
        """Args: output: a folder; chosen: variants of the edit; size: of their pictures."""
        self._output, self._edit = output, edit
        self._chosen, self._references = chosen, references
        # Small pictures are shown enlarged, large ones not quite in full.
        self._sheet = ContactSheet(output, cell_size=256 if size > 128 else 128)
        if edit.mode == "swap":
            lead = 1 + len(edit.regions) if edit.separately else 2
            below = [Cell(picture, name) for name, picture in references.items()]
            self._sheet.add([None] * lead, below * len(edit.groups))

    def write(
        self, name: str, photo: Picture, found: Found | None, pictures: Sequence[Picture]
    ) -> None:
        """Writes what is made of a photograph: its regions, and a picture for each variant."""
        for variant, picture in zip(self._chosen, pictures, strict=True):
            self._save(f"{name}_{variant.name}.png", picture)
        masks = {r: found.masks[..., REGION_NAMES.index(r)] for r in self._edit.regions}
        for region, mask in masks.items():
            self._save(f"{name}_mask_{region}.png", mask)
        if self._edit.mode == "segment":
            self._save(f"{name}_labels.png", found.labels)
        lead = [Cell(photo, name)]
        if self._edit.separately:
            lead += [Cell(np.stack([m] * 3, axis=-1), region) for region, m in masks.items()]
        elif masks:
            lead.append(Cell(found.colours, ", ".join(masks)))
        cells = [Cell(p, v.caption) for v, p in zip(self._chosen, pictures, strict=True)]
        if self._edit.mode == "interpolate":
            self._write_sequences(name, lead, cells)
        else:
            self._sheet.add(lead, cells)

    def finish(self) -> None:
        """Writes what is left of the contact sheet."""
        self._sheet.finish()

    def _write_sequences(self, name: str, lead: Sequence[Cell], cells: Sequence[Cell]) -> None:
        """For each reference an animation, and a line on the contact sheet."""
        frames = self._edit.frames
        for i in range(0, len(cells), frames):
            sequence, variant = cells[i : i + frames], self._chosen[i]
            frames_there = [Image.fromarray(cell.picture) for cell in sequence]
            frames_there[0].save(
                self._output / _animation(name, variant.regions, variant.reference),
                save_all=True,
                append_images=frames_there[1:],
                duration=_MILLISECONDS_PER_FRAME,
                loop=0,
            )
            end = Cell(self._references[variant.reference], variant.reference)
            self._sheet.add(lead, [*sequence, end])

    def _save(self, file: str, array: np.ndarray) -> None:
        write_png(self._output / file, array)
