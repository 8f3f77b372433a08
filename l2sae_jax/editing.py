"""Editing: Algorithm 1 and what follows from it.

Every function is a pure function of arrays and runs as one jitted computation; called from other
jitted code its `regions` and `blend` are static. No sample depends on its neighbours in the batch:
a single key draws one noise for all, so an image is edited alike whatever batch it is in. Give one
key a sample for different noise.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from l2sae_jax.matting import Blend, gaussian_blur
from l2sae_jax.matting import blend as blend_through
from l2sae_jax.model import L2SAE, sample_keys
from l2sae_jax.regions import REGION_NAMES, region_indices, slice_masks
from l2sae_jax.windows import decode_where

Images = Float[Array, "B H W 3"]
Masks = Float[Array, "B H W R"]
Keys = Key[Array, ""] | Key[Array, " B"]


@jax.jit
def segment(model: L2SAE, images: Images) -> Masks:
    """Region masks by the SMPN, each decoded from its own slice of the structure.

    Args:
      model: a model with an SMPN, or with a jointly trained SMN.
      images: float images in [-1, 1].

    Returns:
      Hard masks in {0, 1}, in the order of `REGION_NAMES`. They may overlap.

    Raises:
      ValueError: a model without region slices, or images it cannot read.
    """
    return model.region_masks(images, range(len(REGION_NAMES)))


def edit(
    model: L2SAE,
    images: Images,
    key: Keys,
    regions: Sequence[str] = ("hair",),
    strength: float | Float[Array, ""] = 0.6,
    blend: Blend = "paper",
    masks: Masks | None = None,
) -> Images:
    """Restyles regions by disturbing the style with Gaussian noise (Algorithm 1).

    Args:
      model: a model with an SMN and an SMPN, or with a jointly trained SMN.
      images: float images in [-1, 1].
      key: draws the noise; one for all samples, or one a sample.
      regions: names from `REGION_NAMES`.
      strength: standard deviation of the noise added to every style channel; 0 reconstructs.
      blend: "paper" or "local"; see `matting.blend`.
      masks: of all regions, as `segment` returns them, where they are known already or drawn by
        hand: an SMPN is not needed then, and `regions` says which to use. None predicts them.

    Returns:
      Edited images in [-1, 1].

    Raises:
      ValueError: an unknown region or blend, a model that lacks a network, masks of another shape
        than the images, or images it cannot read.
    """
    keys = sample_keys(key, images.shape[0])
    return _edit(model, images, keys, strength, _check(images, masks, regions), blend, masks)


@partial(jax.jit, static_argnums=(4, 5))
def _edit(model, images, keys, strength, indices, blend, masks):
    structure, style = model.restyler.encode(images)  # S, z = E_SMN(X)
    noise = jax.vmap(lambda k: jax.random.normal(k, style.shape[1:]))(keys)
    changed = structure, style + strength * noise
    return _replace_regions(model, images, changed, indices, blend, masks)


def swap(
    model: L2SAE,
    images: Images,
    style_images: Images,
    regions: Sequence[str] = ("lips",),
    amount: float | Float[Array, ""] = 1.0,
    blend: Blend = "paper",
    masks: Masks | None = None,
) -> Images:
    """Gives regions the style of other images.

    Args:
      model, images, regions, blend, masks: as for `edit`.
      style_images: where the style comes from: one for all images, or one for each.
      amount: from 0, the image's own style, to 1, the other's.

    Returns:
      Edited images in [-1, 1].

    Raises:
      ValueError: as for `edit`, or numbers of images that do not match.
    """
    if style_images.shape[0] not in (1, images.shape[0]):
        raise ValueError(
            f"{style_images.shape[0]} style images for {images.shape[0]} images: give one, or one "
            "for each"
        )
    indices = _check(images, masks, regions)
    return _swap(model, images, style_images, amount, indices, blend, masks)


@partial(jax.jit, static_argnums=(4, 5))
def _swap(model, images, style_images, amount, indices, blend, masks):
    structure, style = model.restyler.encode(images)
    _, other = model.restyler.encode(style_images)
    changed = structure, (1.0 - amount) * style + amount * other
    return _replace_regions(model, images, changed, indices, blend, masks)


def edit_structure(
    model: L2SAE,
    images: Images,
    key: Keys,
    regions: Sequence[str] = ("nose",),
    strength: float | Float[Array, ""] = 0.3,
    blend: Blend = "paper",
    masks: Masks | None = None,
) -> Images:
    """Reshapes regions by disturbing the structure with Gaussian noise.

    A jointly trained SMN has the regions' own slices disturbed, any other SMN all channels; the
    result is blended in through the regions' masks either way.

    Args:
      model, images, key, regions, blend, masks: as for `edit`.
      strength: standard deviation of the noise added to every structure value.

    Returns:
      Edited images in [-1, 1].

    Raises:
      ValueError: as for `edit`.
    """
    keys = sample_keys(key, images.shape[0])
    indices = _check(images, masks, regions)
    return _edit_structure(model, images, keys, strength, indices, blend, masks)


@partial(jax.jit, static_argnums=(4, 5))
def _edit_structure(model, images, keys, strength, indices, blend, masks):
    structure, style = model.restyler.encode(images)
    noise = jax.vmap(lambda k: jax.random.normal(k, structure.shape[1:]))(keys)
    slices = model.restyler.config.slices
    if slices is not None:
        noise *= slice_masks(slices, structure.shape[-1])[list(indices)].max(axis=0)
    changed = structure + strength * noise, style
    return _replace_regions(model, images, changed, indices, blend, masks)


def _check(images, masks, regions) -> tuple[int, ...]:
    """Positions of the regions; raises ValueError if masks do not belong to the images."""
    expected = (*images.shape[:3], len(REGION_NAMES))
    if masks is not None and masks.shape != expected:
        raise ValueError(
            f"masks of shape {masks.shape}: expected {expected}, one for each of "
            f"{', '.join(REGION_NAMES)}"
        )
    return region_indices(regions)


def _replace_regions(model, images, changed, indices, blend, masks) -> Images:
    """The second half of Algorithm 1: find the regions, and blend what is decoded there in."""
    # M_i = G_SMPN(S_i, z) > 0
    found = model.region_masks(images, indices) if masks is None else masks[..., list(indices)]
    mask = jnp.max(found, axis=-1, keepdims=True)
    shows = gaussian_blur(mask)[..., 0] > 0
    restyled = decode_where(model.restyler, *changed, shows, images)  # X' = G(S, z + a n)
    return blend_through(images, jnp.clip(restyled, -1.0, 1.0), mask, blend)  # Algorithm 2
