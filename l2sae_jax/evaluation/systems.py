"""Systems under test: what makes pictures and masks, a model of ours or a folder of files."""

import hashlib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt8

from l2sae_jax import editing
from l2sae_jax.checkpoints import fingerprint
from l2sae_jax.data.images import IMAGE_SUFFIXES, decode_image, decode_labels, read_file
from l2sae_jax.evaluation.batches import Batch
from l2sae_jax.evaluation.protocol import Kind, Protocol
from l2sae_jax.model import L2SAE, decode, encode
from l2sae_jax.parallel import ROWS, WHOLE, over_shards, shard_rows
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.regions import REGION_NAMES, region_masks

SEGMENTATION = "segmentation"


class Placed(NamedTuple):
    """A batch on the devices of a mesh, its label maps as masks of the regions in {0, 1}."""

    ids: Int[Array, " B"]
    pixels: UInt8[Array, "B H W 3"]
    truth: Float[Array, "B H W R"]
    reference_pixels: UInt8[Array, "B H W 3"]
    reference_truth: Float[Array, "B H W R"]


class Made(NamedTuple):
    """Pictures or masks of a batch, and which of its rows have one."""

    value: Array
    present: Bool[np.ndarray, " B"]


class System(typing.Protocol):
    """What is evaluated.

    Attributes:
      name: what the report calls it.
      image_size: height and width of its pictures.
      has_slices: whether its masks are decoded one by one, and so may overlap.
    """

    name: str
    image_size: int
    has_slices: bool

    def about(self) -> dict[str, str]:
        """What it is, for the report."""

    def unreadable(self) -> list[str]:
        """What is wrong with pictures left out since this was asked last, a line each."""

    def digest(self, batch: Batch) -> str:
        """A hash of all that its pictures of a batch depend on."""

    def lacks(self, measure: str) -> str | None:
        """Why something cannot be measured of it, or None."""

    def segment(self, batch: Batch, placed: Placed) -> Made | None:
        """Hard masks of all regions `[B, H, W, R]` in {0, 1}."""

    def make(self, batch: Batch, placed: Placed, found: Made | None, kind: Kind) -> Made | None:
        """Pictures of a kind, uint8 `[B, H, W, 3]`; `found` are the masks it found."""


def place(batch: Batch, mesh: Mesh) -> Placed:
    """Puts a batch on the devices."""
    ids = np.uint32(batch.ids & 0xFFFFFFFF)
    rows = shard_rows((ids, *batch[1:5]), mesh)
    return Placed(rows[0], rows[1], _masks(rows[2]), rows[3], _masks(rows[4]))


@jax.jit
def _masks(labels):
    return region_masks(labels)


# ------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class ModelSystem:
    """A model, on the devices of a mesh."""

    has_slices = True

    name: str
    model: L2SAE
    protocol: Protocol
    mesh: Mesh

    @property
    def image_size(self) -> int:
        return self.model.image_size

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.model)

    def about(self) -> dict[str, str]:
        networks = [one for one in (self.model.smn, self.model.smpn) if one is not None]
        if self.model.smpn is not None:
            kind = "SMPN alone" if self.model.smn is None else "SMN and SMPN (approach 2)"
        else:
            kind = "joint network (approach 1)" if self.model.has_segmenter else "SMN alone"
        dtypes = ", ".join(sorted({network.config.dtype for network in networks}))
        return {"kind": kind, "dtype": dtypes, "sha256": self._fingerprint}

    def unreadable(self) -> list[str]:
        return []

    def digest(self, batch: Batch) -> str:
        return self._fingerprint

    def lacks(self, measure: str) -> str | None:
        if measure != "segmentation" and self.model.smn is None:
            return "it has no SMN"
        if measure not in ("reconstruction", "realism") and not self.model.has_segmenter:
            return "it has no SMPN"
        return None

    def segment(self, batch: Batch, placed: Placed) -> Made | None:
        if not self.model.has_segmenter:
            return None
        return _all(segment(self.model, self.mesh, placed.pixels), batch)

    def make(self, batch: Batch, placed: Placed, found: Made | None, kind: Kind) -> Made | None:
        shared = self.mesh, self.protocol.blend, self.protocol.harmonise, self.model, placed.pixels
        match kind.measure:
            case "reconstruction":
                made = _reconstruct(self.mesh, self.model, placed.pixels)
            case "edit" | "sweep":
                draw = placed.ids, np.uint32(self.protocol.seed), kind.sample, kind.strength
                made = _edit(*shared, found.value, kind.region, *draw)
            case "swap":
                made = _swap(*shared, found.value, kind.region, placed.reference_pixels)
        return _all(made, batch)


def _all(value: Array, batch: Batch) -> Made:
    return Made(value, np.ones(len(batch.ids), bool))


@partial(jax.jit, static_argnums=1)
def segment(model: L2SAE, mesh: Mesh, pixels: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W R"]:
    """Hard masks of all regions in {0, 1}."""

    def apply(model, pixels):
        return editing.segment(model, to_images(pixels))

    return over_shards(apply, mesh, (WHOLE, ROWS), ROWS)(model, pixels)


@partial(jax.jit, static_argnums=0)
def _reconstruct(mesh, model, pixels):
    def apply(model, pixels):
        return to_pixels(decode(model, *encode(model, to_images(pixels))))

    return over_shards(apply, mesh, (WHOLE, ROWS), ROWS)(model, pixels)


# To edit one region is to edit all with the others' masks empty: so one compiled computation serves
# every region.


@partial(jax.jit, static_argnums=(0, 1, 2))
def _edit(mesh, blend, harmonise, model, pixels, masks, region, ids, seed, sample, strength):
    def apply(model, pixels, masks, region, ids, seed, sample, strength):
        key = jax.random.fold_in(jax.random.key(seed), sample)
        keys = jax.vmap(partial(jax.random.fold_in, key))(ids)
        alone, images = _alone(masks, region), to_images(pixels)
        return to_pixels(
            editing.edit(model, images, keys, REGION_NAMES, strength, blend, alone, harmonise)
        )

    inputs = WHOLE, ROWS, ROWS, WHOLE, ROWS, WHOLE, WHOLE, WHOLE
    edit = over_shards(apply, mesh, inputs, ROWS)
    return edit(model, pixels, masks, region, ids, seed, sample, strength)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _swap(mesh, blend, harmonise, model, pixels, masks, region, reference_pixels):
    def apply(model, pixels, masks, region, reference_pixels):
        alone, images = _alone(masks, region), to_images(pixels)
        others = to_images(reference_pixels)
        return to_pixels(
            editing.swap(model, images, others, REGION_NAMES, 1.0, blend, alone, harmonise)
        )

    inputs = WHOLE, ROWS, ROWS, WHOLE, ROWS
    swap = over_shards(apply, mesh, inputs, ROWS)
    return swap(model, pixels, masks, region, reference_pixels)


def _alone(masks, region):
    return masks * (jnp.arange(len(REGION_NAMES)) == region)


# ------------------------------------------------------------------------------------------ folders


class PictureSystem:
    """Pictures that another program made, as FOLDER/KIND/ID.png (or any other picture format).

    KIND is a region's name for edits of that region, REGION_sample1 and on for more draws,
    REGION_strength0.2 and so on for the sweep, swap_REGION for swaps, "reconstruction", or
    "segmentation" for label maps: 0 for the background, else the region's place from 1. ID is the
    image's id in the data set, with or without leading zeros.
    """

    has_slices = False

    def __init__(self, name: str, folder: Path, protocol: Protocol, mesh: Mesh):
        """Lists the pictures that a protocol asks for.

        Raises:
          ValueError: there is no such folder, it has no pictures of these kinds, two are of one id,
            or the first that is there cannot be read.
        """
        self.name, self._folder, self._mesh = name, folder, mesh
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder of pictures")
        self._measures = {SEGMENTATION: "segmentation"}
        self._measures |= {kind.folder: kind.measure for kind in protocol.kinds()}
        self._files = {name: _files_by_id(folder / name) for name in self._measures}
        found = [file for files in self._files.values() for file in files.values()]
        if not found:
            names = [*self._measures]
            raise ValueError(
                f"{folder}: no pictures such as {names[-1]}/1.png: give a folder that holds one "
                f"named {', '.join(names)}, with pictures named by the ids of the originals"
            )
        self.image_size = decode_image(read_file(found[0]), str(found[0])).shape[0]
        self._unreadable: list[str] = []

    def about(self) -> dict[str, str]:
        return {"kind": "pictures", "folder": str(self._folder)}

    def unreadable(self) -> list[str]:
        lines, self._unreadable = self._unreadable, []
        return lines

    def missing(self, ids: Sequence[int]) -> list[str]:
        """Of which images pictures are missing, a line for each kind.

        Raises:
          ValueError: there is none of any of these images.
        """
        counts = {name: len(files.keys() & {*ids}) for name, files in self._files.items()}
        if not any(counts.values()):
            raise ValueError(
                f"{self._folder}: none of the pictures is named by the id of one of the {len(ids)} "
                f"images, such as {ids[0]}.png"
            )
        asked = {name for name in counts if self.lacks(self._measures[name]) is None}
        return [
            f"{self.name} has {name} of {count} images only"
            for name, count in counts.items()
            if name in asked and count < len(ids)
        ]

    def digest(self, batch: Batch) -> str:
        digest = hashlib.sha256()
        for name, files in sorted(self._files.items()):
            for identity in batch.ids[: batch.count].tolist():
                if identity in files:
                    digest.update(f"{name} {identity} ".encode())
                    digest.update(hashlib.sha256(read_file(files[identity])).digest())
        return digest.hexdigest()

    def lacks(self, measure: str) -> str | None:
        if measure == "time":
            return "its pictures are there already"
        made = {self._measures[name] for name, files in self._files.items() if files}
        if measure == "realism":
            return None if made & {"reconstruction", "edit", "sweep"} else "it has no pictures"
        return None if measure in made else "it has no such pictures"

    def segment(self, batch: Batch, placed: Placed) -> Made | None:
        made = self._read(SEGMENTATION, batch, _decode_labels, batch.labels)
        if made is None:
            return None
        value = made.value[..., None] == np.arange(1, len(REGION_NAMES) + 1)
        return Made(shard_rows(value.astype(np.float32), self._mesh), made.present)

    def make(self, batch: Batch, placed: Placed, found: Made | None, kind: Kind) -> Made | None:
        made = self._read(kind.folder, batch, decode_image, batch.pixels)
        return made and made._replace(value=shard_rows(made.value, self._mesh))

    def _read(self, folder, batch, decode, like) -> Made | None:
        files = self._files[folder]
        if not files:
            return None
        value, present = np.zeros_like(like), np.zeros(len(batch.ids), bool)
        for row, identity in enumerate(batch.ids.tolist()):
            if identity not in files:
                continue
            try:
                picture = decode(read_file(files[identity]), str(files[identity]))
            except ValueError as error:
                if row < batch.count:  # those after them repeat the last
                    self._unreadable.append(str(error))
                continue
            if picture.shape != like.shape[1:]:
                raise ValueError(
                    f"{files[identity]} has {picture.shape[1]} x {picture.shape[0]} pixels, but "
                    f"the originals {like.shape[2]} x {like.shape[1]}: give all the same size"
                )
            value[row], present[row] = picture, True
        return Made(value, present)


def _decode_labels(data: bytes, name: str) -> UInt8[np.ndarray, "H W"]:
    labels = decode_labels(data, name)
    most = labels.max(initial=0)
    if most > len(REGION_NAMES):
        raise ValueError(
            f"{name}: holds the label {most}, but labels are 0 for the background and 1 to "
            f"{len(REGION_NAMES)} for {', '.join(REGION_NAMES)}"
        )
    return labels


def _files_by_id(folder: Path) -> dict[int, Path]:
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_picture = file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        if not is_picture or not file.stem.isdecimal():
            continue
        if int(file.stem) in files:
            raise ValueError(f"{file} and {files[int(file.stem)]} are of the same image")
        files[int(file.stem)] = file
    return files
