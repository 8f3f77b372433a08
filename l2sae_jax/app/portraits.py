"""A photograph with a face found in it, its edits, and the settings that make them again."""

import functools
import itertools
import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

import l2sae_jax as l2
from l2sae_jax.checkpoints import fingerprint
from l2sae_jax.data.alignment import Placement, central_square, ffhq_placement, put_back, take
from l2sae_jax.data.faces import Face, find_faces, largest
from l2sae_jax.data.images import Photograph
from l2sae_jax.marks import software_name
from l2sae_jax.model import L2SAE
from l2sae_jax.parallel import make_mesh
from l2sae_jax.variants import MODES, Edit, Found, draw, edit_batch, find_regions, variants

Crop = UInt8[np.ndarray, "size size 3"]


@dataclass(frozen=True)
class Portrait:
    """A photograph, and the face in it that is edited.

    Attributes:
      name: of its file.
      faces: all that were found, from left to right.
      number: of the face that is edited, from 1; None where it is the photograph's middle.
      placement: the square round the face.
      crop: what the model sees of it.
      found: its regions.
    """

    name: str
    photograph: Photograph
    faces: tuple[Face, ...]
    number: int | None
    placement: Placement
    crop: Crop
    found: Found

    @property
    def labels(self) -> UInt8[np.ndarray, "size size"]:
        """Which region each pixel of the crop is in; see `label_maps`."""
        return self.found.labels[0]


class Reference(NamedTuple):
    """A face whose style is taken: the name of its file, and its crop."""

    name: str
    crop: Crop


class Result(NamedTuple):
    """What an edit made of a portrait.

    Attributes:
      name: what `edit.py` calls it, without a suffix.
      edit: whose last sample it is.
      reference: whose style it takes, if it takes any.
      crop: the portrait's, edited.
    """

    name: str
    portrait: Portrait
    edit: Edit
    reference: Reference | None
    crop: Crop

    @property
    def pixels(self) -> UInt8[np.ndarray, "H W 3"]:
        """The whole photograph, its face edited."""
        portrait = self.portrait
        return put_back(portrait.photograph.pixels, portrait.placement, portrait.crop, self.crop)


class Editor:
    """A model on one device; any number of threads may ask.

    Raises:
      ValueError: the model lacks a network.
    """

    def __init__(self, model: L2SAE):
        self._model = model
        self._mesh = make_mesh(jax.local_devices()[:1])
        _ = model.restyler, model.segmenter  # or what they raise

    @functools.cached_property
    def software(self) -> str:
        """What results call their maker."""
        return software_name(fingerprint(self._model))

    def portrait(self, name: str, photograph: Photograph) -> Portrait:
        """Finds the faces of a photograph, and the regions of the largest; else of the middle.

        Raises:
          ValueError: the detector is not installed.
        """
        faces = tuple(find_faces(photograph.pixels))
        return self._framed(name, photograph, faces, largest(faces) if faces else None)

    def at_face(self, portrait: Portrait, number: int) -> Portrait:
        """The same photograph with another of its faces to edit."""
        return self._framed(portrait.name, portrait.photograph, portrait.faces, number)

    def edit(self, portrait: Portrait, edit: Edit, reference: Reference | None = None) -> Result:
        """Makes the last sample of an edit of a portrait's face.

        Args:
          reference: whose style to take, where the mode needs one.
        """
        references = {} if reference is None else {Path(reference.name).stem: reference.crop}
        variant = variants(edit, references)[-1]
        (crop,) = edit_batch(
            self._model,
            edit,
            edit.regions,
            self._mesh,
            portrait.crop[None],
            portrait.found,
            draw(edit, variant, references),
            confine=True,
        )
        name = f"{Path(portrait.name).stem}_{variant.name}"
        return Result(name, portrait, edit, reference, np.asarray(crop))

    def warm_up(self, enough: threading.Event) -> None:
        """Compiles what visitors will ask for, so that none of them has to wait; until `enough`."""
        size = self._model.image_size
        blank = Photograph(np.zeros((size, size, 3), np.uint8), None)
        portrait = self._framed("blank", blank, (), None)
        for blend, mode in itertools.product(("local", "paper"), ("style", "structure", "swap")):
            if enough.is_set():
                return
            edit = Edit(mode, blend=blend, harmonise=True)
            self.edit(portrait, edit, Reference(portrait.name, portrait.crop))

    def _framed(
        self, name: str, photograph: Photograph, faces: tuple[Face, ...], number: int | None
    ) -> Portrait:
        if number is None:
            placement = central_square(*photograph.pixels.shape[:2])
        else:
            placement = ffhq_placement(faces[number - 1].landmarks, *self._model.framing)
        crop = take(photograph.pixels, placement, self._model.image_size)
        found = find_regions(self._model, Edit("segment"), self._mesh, crop[None])
        found = jax.tree.map(np.asarray, found)
        return Portrait(name, photograph, faces, number, placement, crop, found)


def settings(result: Result, checkpoint: str | None, mark: str = "metadata") -> dict[str, Any]:
    """What makes a result again: the flags of `edit.py`, and the command."""
    portrait, edit = result.portrait, result.edit
    flags = {"mode": edit.mode, "regions": ",".join(edit.regions)}
    if MODES[edit.mode].needs_reference:
        flags |= {"style_reference": result.reference.name, "amount": _flag(edit.amount)}
    else:
        flags |= {
            "strength": _flag(edit.strength),
            "samples": edit.samples,
            "seed": edit.seed,
        }
    flags |= {"blend": edit.blend, "harmonise": edit.harmonise, "mark": mark}
    flags |= {"align": "middle"} if portrait.number is None else {"face": portrait.number}
    if checkpoint is not None:
        flags["checkpoint"] = checkpoint
    words = ["python", "edit.py", portrait.name, *(f"--{k}={v}" for k, v in flags.items())]
    return {
        "photograph": portrait.name,
        **flags,
        "version": l2.__version__,
        "command": shlex.join(words),
    }


def _flag(degree: float | Mapping[str, float]) -> float | str:
    if not isinstance(degree, Mapping):
        return degree
    return ",".join(f"{name}={figure}" for name, figure in degree.items())
