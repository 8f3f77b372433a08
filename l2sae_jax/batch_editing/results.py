"""What is written of a photograph: its edits, masks, animations, and its lines on the sheets."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from l2sae_jax.batch_editing.contact_sheet import FIGURE, SHEET, Cell, ContactSheet
from l2sae_jax.batch_editing.manifest import Entry, Manifest
from l2sae_jax.batch_editing.planning import Plan, animation_of
from l2sae_jax.batch_editing.shots import Crop, Picture, Shot
from l2sae_jax.data.alignment import put_back, spread_mask, take
from l2sae_jax.data.images import resize, write_gif, write_picture
from l2sae_jax.label_maps import colour_map, overlay
from l2sae_jax.metrics.locality import mean_change
from l2sae_jax.regions import REGION_NAMES, region_indices
from l2sae_jax.variants import Found, Variant

_LARGEST_FRAME = 512  # pixels a side of an animation


class EditedFace(NamedTuple):
    """A face, its regions, and a picture for each variant."""

    crop: Crop
    found: Found | None
    pictures: Sequence[Picture]


class ResultWriter:
    """Writes the results of one photograph after the other, and what they have in common.

    A photograph is noted in the manifest once all its results are there and the pages of the sheets
    that show it are full.
    """

    def __init__(
        self,
        plan: Plan,
        chosen: Sequence[Variant],
        references: Mapping[str, Picture],
        size: int,
        manifest: Manifest,
        pages: Mapping[str, int],
    ):
        """Args: chosen: variants of the plan's edit; size: of crops; pages: written before."""
        self._plan, self._chosen, self._references = plan, chosen, references
        self._manifest = manifest
        self._waiting: deque[Entry] = deque()
        # Small pictures are shown enlarged, large ones not quite in full.
        self._cell_size = 256 if size > 128 else 128
        self._sheet = ContactSheet(plan.output, self._cell_size, SHEET, pages=pages.get(SHEET, 0))
        self._sheets = [self._sheet]
        if plan.grid:
            pages_before = pages.get(FIGURE, 0)
            figure = ContactSheet(plan.output, max(size, 128), FIGURE, pages=pages_before)
            self._sheets.append(figure)
        if plan.edit.mode == "swap":
            below = [Cell(picture, name) for name, picture in references.items()]
            lead = 1 + len(plan.edit.regions) if plan.edit.separately else 2
            self._add([None] * lead, below * len(plan.edit.groups))

    def write(self, shot: Shot, faces: Sequence[EditedFace]) -> None:
        """Writes what is made of a photograph."""
        entry = {
            "name": shot.name,
            "file": str(shot.path),
            "sha256": shot.sha256,
            "faces": [self._face_entry(face) for face in faces],
            "results": [],
        }
        cells: list[list[Cell]] = [[] for _ in faces]
        frames = []
        for i, variant in enumerate(self._chosen):
            file = self._plan.picture_of(shot.name, variant)
            pictures = [face.pictures[i] for face in faces]
            whole = self._put_together(shot, faces, pictures)
            self._save(file, whole, shot)
            entry["results"].append(self._result_entry(file, variant, faces, pictures))
            for shown, face, picture in zip(cells, faces, pictures, strict=True):
                shown.append(Cell(self._view(shot, face, whole, picture), variant.caption))
            if self._plan.edit.mode == "interpolate":
                frames.append(_at_most(whole, _LARGEST_FRAME))
        self._write_animations(shot, frames)
        masks = _masks(shot, faces) if self._plan.edit.regions else {}
        for region in self._plan.edit.regions:
            self._save(f"{shot.name}_mask_{region}.png", masks[region])
        if self._plan.edit.mode == "segment":
            self._write_labels(shot, faces)
        for number, (face, shown) in enumerate(zip(faces, cells, strict=True), start=1):
            title = shot.name if len(faces) == 1 else f"{number}/{len(faces)} {shot.name}"
            before = shot.photograph.pixels if self._puts_back(shot) else None
            self._show(Cell(self._view(shot, face, before, face.crop.pixels), title), face, shown)
        entry["pages"] = {sheet.name: sheet.page for sheet in self._sheets}
        self._waiting.append(entry)
        self._note()

    def skip(self, path: Path, reason: str) -> None:
        """Notes that a photograph could not be edited."""
        self._manifest.add({"file": str(path), "skipped": reason})

    def finish(self) -> None:
        """Writes what is left of the sheets and the manifest."""
        for sheet in self._sheets:
            sheet.finish()
        self._note()

    def _note(self) -> None:
        written = {sheet.name: sheet.written for sheet in self._sheets}
        while self._waiting and all(
            page <= written[name] for name, page in self._waiting[0]["pages"].items()
        ):
            self._manifest.add(self._waiting.popleft())

    def _face_entry(self, face: EditedFace) -> dict[str, Any]:
        shares = {
            region: round(float((_mask(face, (region,)) > 0).mean()), 4)
            for region in self._plan.edit.regions
        }
        return {"placement": asdict(face.crop.placement), "share_of_crop": shares}

    def _result_entry(
        self, file: str, variant: Variant, faces: Sequence[EditedFace], pictures: Sequence[Picture]
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"file": file, "regions": list(variant.regions)}
        if self._plan.edit.mode in ("style", "structure"):
            entry["sample"] = variant.sample
        if variant.reference is not None:
            entry |= {"reference": variant.reference, "share_of_amount": variant.share}
        if variant.regions:
            entry["mean_change"] = [
                mean_change(face.crop.pixels, picture, _mask(face, variant.regions))
                for face, picture in zip(faces, pictures, strict=True)
            ]
        return entry

    def _write_labels(self, shot: Shot, faces: Sequence[EditedFace]) -> None:
        labels = _labels(shot, faces)
        self._save(f"{shot.name}_labels.png", labels)
        whole = faces[0].crop if shot.photograph is None else shot.photograph
        laid = overlay(whole.pixels, labels)
        self._save(f"{shot.name}_overlay.{self._plan.picture_format}", laid, shot)

    def _write_animations(self, shot: Shot, pictures: Sequence[Picture]) -> None:
        for first in range(0, len(pictures), self._plan.edit.frames):
            variant = self._chosen[first]
            file = animation_of(shot.name, variant.regions, variant.reference)
            write_gif(self._plan.output / file, pictures[first : first + self._plan.edit.frames])

    def _show(self, photo: Cell, face: EditedFace, cells: Sequence[Cell]) -> None:
        """Adds a face to the sheets."""
        edit = self._plan.edit
        masks = [
            Cell(np.stack([_mask(face, (region,))] * 3, axis=-1), region) for region in edit.regions
        ]
        lead = [photo]
        if edit.mode == "segment":
            colours = Cell(colour_map(face.found.labels), "regions")
            laid = Cell(overlay(face.crop.pixels, face.found.labels), "overlay")
            cells = [colours, laid, *masks]
        elif edit.separately:
            lead += masks
        elif masks:
            lead.append(Cell(colour_map(face.found.labels), ", ".join(edit.regions)))
        for line in self._lines(cells):
            self._add(lead, line)

    def _add(self, lead: Sequence[Cell | None], cells: Sequence[Cell]) -> None:
        """Adds a line to the sheets; figures name no photographs, and show no masks of edits."""
        self._sheet.add(lead, cells)
        for figure in self._sheets[1:]:
            figure.add([lead[0] and lead[0]._replace(caption="input")], cells)

    def _lines(self, cells: Sequence[Cell]) -> list[Sequence[Cell]]:
        """A face's cells as lines: of frames, one for each reference, with that at the end."""
        if self._plan.edit.mode != "interpolate":
            return [cells]
        frames = self._plan.edit.frames
        lines = []
        for first in range(0, len(cells), frames):
            reference = self._chosen[first].reference
            end = Cell(self._references[reference], reference)
            lines.append([*cells[first : first + frames], end])
        return lines

    def _puts_back(self, shot: Shot) -> bool:
        """Whether results are photographs; a reconstruction, which changes all, is of faces."""
        return shot.photograph is not None and self._plan.edit.mode != "reconstruct"

    def _put_together(
        self, shot: Shot, faces: Sequence[EditedFace], pictures: Sequence[Picture]
    ) -> Picture:
        """One variant of all faces of a photograph."""
        if not self._puts_back(shot):
            return np.concatenate(pictures, axis=1)
        whole = shot.photograph.pixels
        for face, picture in zip(faces, pictures, strict=True):
            whole = put_back(whole, face.crop.placement, face.crop.pixels, picture)
        return whole

    def _view(
        self, shot: Shot, face: EditedFace, whole: Picture | None, picture: Picture
    ) -> Picture:
        """What a sheet shows of a face: in as much detail as the photograph has, if it is one."""
        if not self._puts_back(shot):
            return picture
        return take(whole, face.crop.placement, self._cell_size)

    def _save(self, file: str, array: np.ndarray, shot: Shot | None = None) -> None:
        profile = None if shot is None or shot.photograph is None else shot.photograph.icc_profile
        write_picture(self._plan.output / file, array, profile)


def _mask(face: EditedFace, regions: Sequence[str]) -> UInt8[np.ndarray, "size size"]:
    """A face's mask of these regions together."""
    return face.found.masks[..., list(region_indices(regions))].max(axis=-1)


def _masks(shot: Shot, faces: Sequence[EditedFace]) -> dict[str, UInt8[np.ndarray, "H W"]]:
    """The regions of a photograph, of all its faces together."""
    return {
        region: _spread(shot, faces, [_mask(face, (region,)) for face in faces])
        for region in REGION_NAMES
    }


def _labels(shot: Shot, faces: Sequence[EditedFace]) -> UInt8[np.ndarray, "H W"]:
    labels = 0
    for value in range(1, len(REGION_NAMES) + 1):
        masks = [np.uint8(255) * (face.found.labels == value) for face in faces]
        labels = np.where(_spread(shot, faces, masks) > 0, np.uint8(value), labels)
    return labels.astype(np.uint8)


def _spread(
    shot: Shot, faces: Sequence[EditedFace], masks: Sequence[UInt8[np.ndarray, "size size"]]
) -> UInt8[np.ndarray, "H W"]:
    """Masks of faces as one of the photograph, or of the crop where that is all there is."""
    if shot.photograph is None:
        return masks[0]
    whole = np.zeros(shot.photograph.pixels.shape[:2], np.uint8)
    for face, mask in zip(faces, masks, strict=True):
        np.maximum(whole, spread_mask(mask, face.crop.placement, whole.shape), out=whole)
    return whole


def _at_most(picture: Picture, side: int) -> Picture:
    """A picture reduced, if it must be, to fit a square."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(picture, (max(1, round(scale * height)), max(1, round(scale * width))))
