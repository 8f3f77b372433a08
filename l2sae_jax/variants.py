"""Edits of photographs as values: what is wanted, in which variants, and how a batch gets there.

Of every photograph one picture is made for each *variant* of an edit: each draw of the noise, each
style reference, each frame on the way to a reference. All variants share the photograph's masks and
one compiled computation, which runs on every device of a mesh for its part of the batch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from l2sae_jax import editing
from l2sae_jax.label_maps import label_map
from l2sae_jax.matting import blend as blend_through
from l2sae_jax.model import L2SAE, decode, encode
from l2sae_jax.parallel import ROWS, WHOLE, over_shards
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.regions import REGION_NAMES, region_indices

_RANGES = (("samples", 1, 1_000), ("frames", 2, 1_000), ("seed", 0, 2**32 - 1))

Images = Float[Array, "B H W 3"]
Picture = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Edit:
    """An edit to make of every photograph.

    Attributes:
      mode: a key of `MODES`.
      regions: names from `REGION_NAMES`; None for the mode's own default.
      separately: make pictures of each region edited alone, not of all edited at once.
      strength: of the noise in the style and structure modes, or one for each region, by name; None
        for the mode's own default.
      amount: how far towards a reference's style, in the swap mode and at the last frame; or one
        for each region, by name.
      samples: how many draws of the noise.
      seed: sample k is drawn from `fold_in(key(seed), k)`, for all photographs.
      frames: pictures from a photograph's own style to a reference's.
      blend: "paper" or "local"; see `matting.blend`.
      harmonise: add how the decode changed to the photograph; see `editing.edit`.

    Raises:
      ValueError: a value out of range, or an unknown mode or region.
    """

    mode: str = "style"
    regions: tuple[str, ...] | None = None
    separately: bool = False
    strength: float | Mapping[str, float] | None = None
    amount: float | Mapping[str, float] = 1.0
    samples: int = 1
    seed: int = 0
    frames: int = 8
    blend: str = "paper"
    harmonise: bool = False

    def __str__(self) -> str:
        shown = {
            "style": ("strength", "samples", "seed", "blend"),
            "structure": ("strength", "samples", "seed", "blend"),
            "swap": ("amount", "blend"),
            "interpolate": ("amount", "frames", "blend"),
        }.get(self.mode, ())
        values = [f"{name} {_told(getattr(self, name))}" for name in shown]
        how = ["one region at a time"] if self.separately else []
        if shown and self.harmonise:
            values.append("harmonised")
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
            object.__setattr__(self, "regions", self._named_regions() or mode.regions)
        if self.strength is None:
            object.__setattr__(self, "strength", mode.strength)
        if mode.regions:
            region_indices(self.regions)
            object.__setattr__(self, "regions", tuple(self.regions))
        for name in ("strength", "amount"):
            self._check_degree(name, getattr(self, name))
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} {value}: expected a number from {least} to {most}")

    def _named_regions(self) -> tuple[str, ...]:
        """Those that a strength or an amount is given for, if it is by name."""
        if not MODES[self.mode].regions:
            return ()
        values = (self.amount, self.strength)
        return next((tuple(value) for value in values if isinstance(value, Mapping)), ())

    def _check_degree(self, name: str, value: float | Mapping[str, float]) -> None:
        named = isinstance(value, Mapping)
        if named and set(value) != set(self.regions):
            raise ValueError(
                f"{name} of {', '.join(value) or 'nothing'}, where {', '.join(self.regions)} "
                "are edited: name the same regions"
            )
        for figure in value.values() if named else [value]:
            if not (math.isfinite(figure) and figure >= 0):
                raise ValueError(f"{name} {figure}: expected a number from 0 up")


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={figure}" for name, figure in value.items())
    return str(value)


class Blending(NamedTuple):
    """How an edit is blended in: what the functions of `editing` take by these names."""

    blend: str
    harmonise: bool


class Draw(NamedTuple):
    """What tells one variant from another, as arrays for the device."""

    key: Key[Array, ""]
    strength: float | Float[Array, " N"]
    style_image: UInt8[Array, "1 H W 3"] | None
    amount: float | Float[Array, " N"]


class Found(NamedTuple):
    """The regions of a batch of pictures.

    Attributes:
      masks: `[B, H, W, 5]`, 0 or 255; those not looked for are 0.
      labels: `[B, H, W]`; see `label_map`.
    """

    masks: UInt8[Array, "B H W 5"]
    labels: UInt8[Array, "B H W"]


class Mode(NamedTuple):
    """One kind of edit.

    Attributes:
      apply: `(model, images, found, regions, blending, draw) -> images`, all images in [-1, 1];
        None where finding the regions is all.
      regions: what is edited by default; empty where the whole picture is, without masks.
      strength: of the noise by default.
      needs_reference: whether the style comes from other pictures.
    """

    apply: Callable[[L2SAE, Images, Found | None, tuple[str, ...], Blending, Draw], Images] | None
    regions: tuple[str, ...]
    strength: float = 0.0
    needs_reference: bool = False


def _restyle(model, images, found, regions, blending, draw):
    how = {"masks": _as_floats(found), **blending._asdict()}
    return editing.edit(model, images, draw.key, regions, draw.strength, **how)


def _reshape(model, images, found, regions, blending, draw):
    how = {"masks": _as_floats(found), **blending._asdict()}
    return editing.edit_structure(model, images, draw.key, regions, draw.strength, **how)


def _swap(model, images, found, regions, blending, draw):
    how = {"masks": _as_floats(found), **blending._asdict()}
    style_images = to_images(draw.style_image)
    return editing.swap(model, images, style_images, regions, draw.amount, **how)


def _reconstruct(model, images, found, regions, blending, draw):
    return decode(model, *encode(model, images))


def _as_floats(found: Found) -> Float[Array, "B H W 5"]:
    return found.masks.astype(jnp.float32) / 255.0


MODES = {
    "style": Mode(_restyle, ("hair",), 0.6),
    "swap": Mode(_swap, ("lips",), needs_reference=True),
    "structure": Mode(_reshape, ("nose",), 0.3),
    "segment": Mode(None, REGION_NAMES),
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
      share: of the edit's amount, how far towards that style.
    """

    name: str
    caption: str
    regions: tuple[str, ...]
    sample: int = 0
    reference: str | None = None
    share: float = 1.0


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
                Variant(f"{joined}_from_{name}", f"{title}from {name}", regions, 0, name)
                for name in references
            ]
        case "interpolate":
            digits = len(str(edit.frames - 1))
            return [
                Variant(
                    f"{joined}_to_{name}_{i:0{digits}}", f"{share:.2f}", regions, 0, name, share
                )
                for name in references
                for i, share in enumerate(np.linspace(0.0, 1.0, edit.frames).tolist())
            ]
        case "segment":
            return []
        case "reconstruct":
            return [Variant("reconstruction", "reconstruction", regions)]


def draw(edit: Edit, variant: Variant, references: Mapping[str, Picture]) -> Draw:
    """The arrays of a variant; `references` holds the pictures its name refers to."""
    style_image = None if variant.reference is None else references[variant.reference][None]
    key = jax.random.fold_in(jax.random.key(edit.seed), variant.sample)
    strength, amount = (_degree(value, variant.regions) for value in (edit.strength, edit.amount))
    return Draw(key, strength, style_image, amount * variant.share)


def _degree(
    value: float | Mapping[str, float], regions: Sequence[str]
) -> float | Float[np.ndarray, " N"]:
    """The figures of these regions, a single one where they agree: that takes but one decode."""
    if not isinstance(value, Mapping):
        return value
    figures = [value[name] for name in regions]
    return figures[0] if len(set(figures)) == 1 else np.float32(figures)


def find_regions(
    model: L2SAE, edit: Edit, mesh: Mesh, pixels: UInt8[Array, "B H W 3"]
) -> Found | None:
    """Finds the regions of an edit in a batch of pictures; None where it edits whole pictures.

    Raises:
      ValueError: a model that lacks a network, or pictures it cannot read.
    """
    return _find_regions(edit.regions, mesh, model, pixels) if edit.regions else None


def edit_batch(
    model: L2SAE,
    edit: Edit,
    regions: tuple[str, ...],
    mesh: Mesh,
    pixels: UInt8[Array, "B H W 3"],
    found: Found | None,
    draw: Draw,
    confine: bool = False,
) -> UInt8[Array, "B H W 3"]:
    """Makes one variant, of these regions, of a batch of pictures.

    Args:
      mesh: its devices divide the batch between them.
      found: the regions of the pictures.
      confine: blend the result in through the matte once more where the edit's own blend softens
        the whole picture, so that nothing else changes.

    Raises:
      ValueError: a model that lacks a network, or pictures it cannot read.
    """
    confine = confine and edit.blend == "paper" and found is not None
    if found is not None and _masks_say_it_all(model, edit, draw):
        chosen = np.isin(REGION_NAMES, regions).astype(np.uint8)
        found, regions = found._replace(masks=found.masks * chosen), REGION_NAMES
    how = edit.mode, regions, Blending(edit.blend, edit.harmonise), confine
    return _edit_batch(*how, mesh, model, pixels, found, draw)


def _masks_say_it_all(model: L2SAE, edit: Edit, draw: Draw) -> bool:
    """Whether to edit some regions is to edit all with the others' masks empty.

    It is then done so: one compiled computation serves whatever regions are named.
    """
    by_slice = edit.mode == "structure" and model.restyler.config.slices is not None
    return not by_slice and np.ndim(draw.strength) == np.ndim(draw.amount) == 0


def check(model: L2SAE, edit: Edit, mesh: Mesh, batch_size: int) -> None:
    """Raises the ValueError that the above would, without computing anything."""
    size = model.image_size
    references = {}
    if MODES[edit.mode].needs_reference:
        references["any"] = np.zeros((size, size, 3), np.uint8)
    pixels = jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8)
    found = jax.eval_shape(partial(find_regions, model, edit, mesh), pixels)
    for variant in variants(edit, references)[:1]:
        any_draw = draw(edit, variant, references)
        jax.eval_shape(
            partial(edit_batch, model, edit, variant.regions, mesh), pixels, found, any_draw
        )


@partial(jax.jit, static_argnums=(0, 1))
def _find_regions(regions, mesh, model, pixels) -> Found:
    indices = region_indices(regions)

    def find(model, pixels):
        masks = model.region_masks(to_images(pixels), indices)
        labels = label_map(masks, regions)
        all_masks = jnp.zeros((*labels.shape, len(REGION_NAMES)), jnp.uint8)
        all_masks = all_masks.at[..., jnp.asarray(indices)].set((255.0 * masks).astype(jnp.uint8))
        return Found(all_masks, labels)

    return over_shards(find, mesh, (WHOLE, ROWS), ROWS)(model, pixels)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _edit_batch(mode, regions, blending, confine, mesh, model, pixels, found, draw):
    def apply(model, pixels, found, draw):
        images = to_images(pixels)
        edited = MODES[mode].apply(model, images, found, regions, blending, draw)
        if confine:
            masks = _as_floats(found)[..., list(region_indices(regions))]
            mask = jnp.max(masks, axis=-1, keepdims=True)
            edited = blend_through(images, edited, mask, "local")
        return to_pixels(edited)

    inputs = (WHOLE, ROWS, ROWS, WHOLE)
    return over_shards(apply, mesh, inputs, ROWS)(model, pixels, found, draw)
