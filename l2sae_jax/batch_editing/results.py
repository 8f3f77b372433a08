"""What is written of a photograph: edits, masks and animations, and an entry in the manifest."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from l2sae_jax.batch_editing.manifest import Entry, Manifest
from l2sae_jax.batch_editing.planning import Plan
from l2sae_jax.batch_editing.sheets import Sheets
from l2sae_jax.batch_editing.shots import Crop, Picture, Shot
from l2sae_jax.data.alignment import Placement, put_back, spread_labels, spread_mask, take
from l2sae_jax.data.images import resize, write_gif, write_picture
from l2sae_jax.label_maps import overlay
from l2sae_jax.marks import MARKS, with_words, write_marked
from l2sae_jax.metrics.locality import mean_change
from l2sae_jax.regions import region_indices
from l2sae_jax.variants import Found, Variant

_LARGEST_FRAME = 512  # pixels a side of an animation

Mask = UInt8[np.ndarray, "size size"]


class EditedFace(NamedTuple):
    """A face, its regions, and a picture for each variant."""

    crop: Crop
    found: Found | None
    pictures: Sequence[Picture]


class ResultWriter:
    """Writes the results of one photograph after the other.

    A photograph is noted in the manifest once all its results are there and the pages of the sheets
    that show it are full.
    """

    def __init__(
        self,
        plan: Plan,
        chosen: Sequence[Variant],
        sheets: Sheets,
        manifest: Manifest,
        software: str,
    ):
        """Args: chosen: variants of the plan's edit; software: what results call their maker."""
        self._plan, self._chosen, self._software = plan, chosen, software
        self._sheets, self._manifest = sheets, manifest
        self._waiting: deque[Entry] = deque()

    def write(self, shot: Shot, faces: Sequence[EditedFace]) -> None:
        """Writes what is made of a photograph.

        Raises:
          ValueError: a picture that the format cannot hold.
          OSError: a file cannot be written.
        """
        shown: list[list[Picture]] = [[] for _ in faces]
        frames, results = [], []
        for i, variant in enumerate(self._chosen):
            pictures = [face.pictures[i] for face in faces]
            whole = self._put_together(shot, faces, pictures)
            file = self._plan.picture_of(shot.name, variant)
            self._save_result(file, whole, shot)
            results.append(self._result_entry(file, variant, faces, pictures))
            for views, face, picture in zip(shown, faces, pictures, strict=True):
                views.append(self._view(shot, face, whole, picture))
            if self._plan.edit.mode == "interpolate":
                frames.append(self._frame(whole))
        self._write_animations(shot, frames)
        self._write_regions(shot, faces)
        for number, (face, views) in enumerate(zip(faces, shown, strict=True), start=1):
            title = shot.name if len(faces) == 1 else f"{number}/{len(faces)} {shot.name}"
            whole = face.crop.pixels if shot.photograph is None else shot.photograph.pixels
            before = self._view(shot, face, whole, face.crop.pixels)
            self._sheets.add(title, before, face.found, views)
        self._waiting.append(
            {
                "name": shot.name,
                "file": str(shot.path),
                "sha256": shot.sha256,
                "faces": [self._face_entry(face) for face in faces],
                "results": results,
                "pages": self._sheets.pages,
            }
        )
        self._note()

    def skip(self, path: Path, reason: str) -> None:
        """Notes that a photograph could not be edited."""
        self._manifest.add({"file": str(path), "skipped": reason})

    def finish(self) -> None:
        """Writes what is left of the sheets and the manifest."""
        self._sheets.finish()
        self._note()

    def _note(self) -> None:
        written = self._sheets.written
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
        if variant.reference is not None:
            entry |= {"reference": variant.reference, "share_of_amount": variant.share}
        elif variant.regions:
            entry["sample"] = variant.sample
        if variant.regions:
            entry["mean_change"] = [
                mean_change(face.crop.pixels, picture, _mask(face, variant.regions))
                for face, picture in zip(faces, pictures, strict=True)
            ]
        return entry

    def _write_regions(self, shot: Shot, faces: Sequence[EditedFace]) -> None:
        for region in self._plan.edit.regions:
            map_of = partial(_mask, regions=(region,))
            mask = _spread(shot, faces, spread_mask, map_of)
            self._save(self._plan.mask_of(shot.name, region), mask)
        if self._plan.edit.mode == "segment":
            labels = _spread(shot, faces, spread_labels, lambda face: face.found.labels)
            self._save(self._plan.labels_of(shot.name), labels)
            whole = faces[0].crop if shot.photograph is None else shot.photograph
            self._save(self._plan.overlay_of(shot.name), overlay(whole.pixels, labels), shot)

    def _write_animations(self, shot: Shot, pictures: Sequence[Picture]) -> None:
        frames = self._plan.edit.frames
        for first in range(0, len(pictures), frames):
            variant = self._chosen[first]
            file = self._plan.animation_of(shot.name, variant.regions, variant.reference)
            write_gif(self._plan.output / file, pictures[first : first + frames])

    def _puts_back(self, shot: Shot) -> bool:
        """Whether results are photographs; a reconstruction, which changes all, is of faces."""
        return shot.photograph is not None and bool(self._plan.edit.regions)

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

    def _view(self, shot: Shot, face: EditedFace, whole: Picture, picture: Picture) -> Picture:
        """What a sheet shows of a face: in as much detail as the photograph has, if it is one."""
        if not self._puts_back(shot):
            return picture
        return take(whole, face.crop.placement, self._sheets.cell_size)

    def _frame(self, whole: Picture) -> Picture:
        """A result as an animation shows it."""
        frame = _at_most(whole, _LARGEST_FRAME)
        return with_words(frame) if "visible" in MARKS[self._plan.mark] else frame

    def _save_result(self, file: str, whole: Picture, shot: Shot) -> None:
        """Writes a picture that was edited, and says so."""
        target = self._plan.output / file
        write_marked(target, whole, self._plan.mark, self._software, _profile(shot))

    def _save(self, file: str, array: np.ndarray, shot: Shot | None = None) -> None:
        """Writes what is seen in a photograph: nothing of it was made by a model."""
        write_picture(self._plan.output / file, array, _profile(shot))


def _profile(shot: Shot | None) -> bytes | None:
    """The colours of a photograph's results."""
    return None if shot is None or shot.photograph is None else shot.photograph.icc_profile


def _mask(face: EditedFace, regions: Sequence[str]) -> Mask:
    """A face's mask of these regions together."""
    return face.found.masks[..., list(region_indices(regions))].max(axis=-1)


def _spread(
    shot: Shot,
    faces: Sequence[EditedFace],
    spread: Callable[[Mask, Placement, tuple[int, int]], UInt8[np.ndarray, "H W"]],
    map_of: Callable[[EditedFace], Mask],
) -> UInt8[np.ndarray, "H W"]:
    """Maps of faces as one of the photograph, or of the crop where that is all there is."""
    if shot.photograph is None:
        return map_of(faces[0])
    whole = np.zeros(shot.photograph.pixels.shape[:2], np.uint8)
    for face in faces:
        one = spread(map_of(face), face.crop.placement, whole.shape)
        np.maximum(whole, one, out=whole)
    return whole


def _at_most(picture: Picture, side: int) -> Picture:
    """A picture reduced, if it must be, to fit a square."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(picture, (max(1, round(scale * height)), max(1, round(scale * width))))
