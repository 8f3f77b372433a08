"""Edits of photographs as values: what is wanted, in which variants, and how a batch gets there.

Of every photograph one picture is made for each *variant* of an edit: each draw of the noise, each
style reference, each frame on the way to a reference. All variants share one compiled computation.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from l2sae_jax import editing
from l2sae_jax.label_maps import colour_map, label_map, overlay
from l2sae_jax.model import L2SAE, decode, encode
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.regions import REGION_NAMES, region_indices

Images = Float[Array, "B H W 3"]
Picture = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Edit:
    """An edit to make of every photograph.

    Attributes:
      mode: a key of `MODES`.
      regions: names from `REGION_NAMES`; None for the mode's own default.
      separately: make pictures of each region edited alone, not of all edited at once.
      strength: of the noise in the style and structure modes; None for the mode's own default.
      amount: how far towards a reference's style, in the swap mode and at the last frame.
      samples: how many draws of the noise.
      seed: sample k is drawn from `fold_in(key(seed), k)`, for all photographs.
      frames: pictures from a photograph's own style to a reference's.
      blend: "paper" or "local"; see `matting.blend`.

    Raises:
      ValueError: a value out of range, or an unknown mode or region.
    """

    mode: str = "style"
    regions: tuple[str, ...] | None = None
    separately: bool = False
    strength: float | None = None
    amount: float = 1.0
    samples: int = 1
    seed: int = 0
    frames: int = 8
    blend: str = "paper"

    def __str__(self) -> str:
        shown = {
            "style": ("strength", "samples", "seed", "blend"),
            "structure": ("strength", "samples", "seed", "blend"),
            "swap": ("amount", "blend"),
            "interpolate": ("amount", "frames", "blend"),
        }.get(self.mode, ())
        values = [f"{name} {getattr(self, name)}" for name in shown]
        how = ["one region at a time"] if self.separately else []
        return ", ".join([self.mode, *self.regions, *how, *values])

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The regions that are edited together."""
        return tuple((name,) for name in self.regions) if self.separately else (self.regions,)

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}: choose from {', '.join(MODES)}")
        mode = MODES[self.mode]
        if self.separately and self.mode in ("segment", "reconstruct"):
            raise ValueError(f"mode {self.mode} does not edit regions, so not separately either")
        if self.regions is None or not mode.regions:
            object.__setattr__(self, "regions", mode.regions)
        if self.strength is None:
            object.__setattr__(self, "strength", mode.strength)
        if mode.regions:
            region_indices(self.regions)
            object.__setattr__(self, "regions", tuple(self.regions))
        for name in ("strength", "amount"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} {value}: expected a number from 0 up")
        for name, least in (("samples", 1), ("frames", 2), ("seed", 0)):
            value = getattr(self, name)
            if not least <= value < 2**32:
                raise ValueError(f"{name} {value}: expected {least} or more")


class Draw(NamedTuple):
    """What tells one variant from another, as arrays for the device."""

    key: Key[Array, ""]
    strength: float
    style_image: UInt8[Array, "1 H W 3"] | None
    amount: float


class Mode(NamedTuple):
    """One kind of edit.

    Attributes:
      apply: `(model, images, regions, blend, draw) -> images`, all images in [-1, 1].
      regions: what is edited by default; empty where the whole picture is, without masks.
      strength: of the noise by default.
      needs_reference: whether the style comes from other pictures.
    """

    apply: Callable[[L2SAE, Images, tuple[str, ...], str, Draw], Images]
    regions: tuple[str, ...]
    strength: float = 0.0
    needs_reference: bool = False


def _restyle(model, images, regions, blend, draw):
    return editing.edit(model, images, draw.key, regions, draw.strength, blend)


def _reshape(model, images, regions, blend, draw):
    return editing.edit_structure(model, images, draw.key, regions, draw.strength, blend)


def _swap(model, images, regions, blend, draw):
    style_images = to_images(draw.style_image)
    return editing.swap(model, images, style_images, regions, draw.amount, blend)


def _paint(model, images, regions, blend, draw):
    return overlay(images, label_map(_masks(model, images, regions), regions))


def _reconstruct(model, images, regions, blend, draw):
    return decode(model, *encode(model, images))


MODES = {
    "style": Mode(_restyle, ("hair",), 0.6),
    "swap": Mode(_swap, ("lips",), needs_reference=True),
    "structure": Mode(_reshape, ("nose",), 0.3),
    "segment": Mode(_paint, REGION_NAMES),
    "reconstruct": Mode(_reconstruct, ()),
    "interpolate": Mode(_swap, ("lips",), needs_reference=True),
}


@dataclass(frozen=True)
class Variant:
    """One of the pictures to make of every photograph.

    Attributes:
      name: what its file names end in.
      caption: what the contact sheet says below it.
      regions: what is edited in it.
      sample: which draw of the noise it shows.
      reference: name of the reference whose style it takes.
      amount: how far towards that style.
    """

    name: str
    caption: str
    regions: tuple[str, ...]
    sample: int = 0
    reference: str | None = None
    amount: float = 1.0


def variants(edit: Edit, references: Iterable[str] = ()) -> list[Variant]:
    """The variants of an edit: by group of regions, then by reference, next to each other."""
    references = list(references)
    return [variant for group in edit.groups for variant in _of_group(edit, group, references)]


def _of_group(edit: Edit, regions: tuple[str, ...], references: list[str]) -> list[Variant]:
    joined = "-".join(regions)
    title = f"{joined} " if edit.separately else ""
    match edit.mode:
        case "style" | "structure":
            how = {"style": "", "structure": "_structure"}[edit.mode]
            return [
                Variant(f"{joined}{how}_s{k}", f"{title}s{k}", regions, k)
                for k in range(edit.samples)
            ]
        case "swap":
            return [
                Variant(
                    f"{joined}_from_{name}", f"{title}from {name}", regions, 0, name, edit.amount
                )
                for name in references
            ]
        case "interpolate":
            digits = len(str(edit.frames - 1))
            return [
                Variant(
                    f"{joined}_to_{name}_{i:0{digits}}", f"{amount:.2f}", regions, 0, name, amount
                )
                for name in references
                for i, amount in enumerate(np.linspace(0.0, edit.amount, edit.frames).tolist())
            ]
        case "segment":
            return [Variant("overlay", "overlay", regions)]
        case "reconstruct":
            return [Variant("reconstruction", "reconstruction", regions)]


class Result(NamedTuple):
    """One variant of a batch, in [0, 255]; without masks where the whole picture is edited.

    Attributes:
      pictures: `[B, H, W, 3]`.
      masks: `[B, H, W, R]`, 0 or 255, in the order of the variant's regions.
      labels: `[B, H, W]`; see `label_map`.
      colours: `[B, H, W, 3]`, the labels in the regions' colours.
    """

    pictures: Array
    masks: Array | None = None
    labels: Array | None = None
    colours: Array | None = None


def image_size(model: L2SAE, edit: Edit) -> int:
    """Height and width at which the model edits.

    Raises:
      ValueError: the model lacks the network.
    """
    network = model.segmenter if edit.mode == "segment" else model.restyler
    return network.config.image_size


def draw(edit: Edit, variant: Variant, references: Mapping[str, Picture]) -> Draw:
    """The arrays of a variant; `references` holds the pictures its name refers to."""
    style_image = None if variant.reference is None else references[variant.reference][None]
    key = jax.random.fold_in(jax.random.key(edit.seed), variant.sample)
    return Draw(key, edit.strength, style_image, variant.amount)


def edit_batch(
    model: L2SAE, edit: Edit, regions: tuple[str, ...], pixels: UInt8[Array, "B H W 3"], draw: Draw
) -> Result:
    """Makes one variant, of these regions, of a batch of pictures.

    Raises:
      ValueError: a model that lacks a network, or pictures it cannot read.
    """
    return _edit_batch(edit.mode, regions, edit.blend, model, pixels, draw)


def check(model: L2SAE, edit: Edit, batch_size: int) -> None:
    """Raises the ValueError that `edit_batch` would, without computing anything."""
    size = image_size(model, edit)
    references = {}
    if MODES[edit.mode].needs_reference:
        references["any"] = np.zeros((size, size, 3), np.uint8)
    pixels = jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8)
    any_variant = variants(edit, references)[0]
    any_draw = draw(edit, any_variant, references)
    jax.eval_shape(partial(edit_batch, model, edit, any_variant.regions), pixels, any_draw)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _edit_batch(mode, regions, blend, model, pixels, draw) -> Result:
    images = to_images(pixels)
    pictures = to_pixels(MODES[mode].apply(model, images, regions, blend, draw))
    if not regions:
        return Result(pictures)
    # Predicted within the edit as well: being the same computation, XLA does it once.
    masks = _masks(model, images, regions)
    labels = label_map(masks, regions)
    return Result(pictures, (255.0 * masks).astype(jnp.uint8), labels, colour_map(labels))


def _masks(model, images, regions) -> Float[Array, "B H W R"]:
    return model.segmenter.region_masks(images, region_indices(regions))
