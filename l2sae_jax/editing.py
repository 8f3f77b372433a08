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
from jax import lax
from jaxtyping import Array, Float, Key

from l2sae_jax.matting import Blend, check_blend, gaussian_blur, mean_through
from l2sae_jax.matting import blend as blend_through
from l2sae_jax.model import L2SAE, as_array, check_images, check_model, sample_keys
from l2sae_jax.regions import REGION_NAMES, region_indices, slice_masks
from l2sae_jax.windows import decode_where

Images = Float[Array, "B H W 3"]
Masks = Float[Array, "B H W R"]
Keys = Key[Array, ""] | Key[Array, " B"]
# How far to go: one figure for all regions, or one for each of those named, in their order.
Degree = float | Sequence[float] | Float[Array, ""] | Float[Array, " N"]


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
    check_model(model)
    return _segment(model, as_array("images", images))


@jax.jit
def _segment(model, images):
    return model.region_masks(images, range(len(REGION_NAMES)))


def edit(
    model: L2SAE,
    images: Images,
    key: Keys,
    regions: Sequence[str] = ("hair",),
    strength: Degree = 0.6,
    blend: Blend = "paper",
    masks: Masks | None = None,
    harmonise: bool = False,
) -> Images:
    """Restyles regions by disturbing the style with Gaussian noise (Algorithm 1).

    Args:
      model: a model with an SMN and an SMPN, or with a jointly trained SMN.
      images: float images in [-1, 1].
      key: draws the noise; one for all samples, or one a sample.
      regions: names from `REGION_NAMES`.
      strength: standard deviation of the noise added to every style channel; 0 reconstructs. One
        for each region takes a decode for each, all of the same noise.
      blend: "paper" or "local"; see `matting.blend`.
      masks: of all regions, as `segment` returns them or bool, where they are known already or
        drawn by hand: an SMPN is not needed then, and `regions` says which to use. None predicts
        them.
      harmonise: add to the image how the decode changed, rather than show the decode: what the
        network cannot reproduce stays, and a strength of 0 changes nothing but what "paper" blurs.
        Not in the paper; takes another decode.

    Returns:
      Edited images in [-1, 1].

    Raises:
      ValueError: an unknown region or blend, a model that lacks a network, images it cannot read,
        or another argument of the wrong shape or dtype; in one line that names it.
    """
    images, masks, indices = _check(model, images, masks, regions, blend)
    keys = sample_keys(key, images.shape[0])
    strength = _degree("strength", strength, regions)
    return _edit(model, images, keys, strength, indices, blend, masks, harmonise)


@partial(jax.jit, static_argnums=(4, 5, 7))
def _edit(model, images, keys, strength, indices, blend, masks, harmonise):
    structure, style = model.restyler.encode(images)  # S, z = E_SMN(X)
    noise = jax.vmap(lambda k: jax.random.normal(k, style.shape[1:]))(keys)

    def changed(strength):
        return structure, style + strength * noise  # S, z + a n

    return _replace_regions(model, images, changed, strength, indices, blend, masks, harmonise)


def swap(
    model: L2SAE,
    images: Images,
    style_images: Images,
    regions: Sequence[str] = ("lips",),
    amount: Degree = 1.0,
    blend: Blend = "paper",
    masks: Masks | None = None,
    harmonise: bool = False,
) -> Images:
    """Gives regions the style of other images.

    Args:
      model, images, regions, blend, masks, harmonise: as for `edit`.
      style_images: where the style comes from: one for all images, or one for each.
      amount: from 0, the image's own style, to 1, the other's; or one for each region.

    Returns:
      Edited images in [-1, 1].

    Raises:
      ValueError: as for `edit`, or numbers of images that do not match.
    """
    images, masks, indices = _check(model, images, masks, regions, blend)
    style_images = as_array("style_images", style_images)
    check_images(style_images, model.restyler.config.encoder, name="style_images")
    if style_images.shape[0] not in (1, images.shape[0]):
        raise ValueError(
            f"{style_images.shape[0]} style images for {images.shape[0]} images: give one, or one "
            "for each"
        )
    amount = _degree("amount", amount, regions)
    return _swap(model, images, style_images, amount, indices, blend, masks, harmonise)


@partial(jax.jit, static_argnums=(4, 5, 7))
def _swap(model, images, style_images, amount, indices, blend, masks, harmonise):
    structure, style = model.restyler.encode(images)
    _, other = model.restyler.encode(style_images)

    def changed(amount):
        return structure, (1.0 - amount) * style + amount * other

    return _replace_regions(model, images, changed, amount, indices, blend, masks, harmonise)


def edit_structure(
    model: L2SAE,
    images: Images,
    key: Keys,
    regions: Sequence[str] = ("nose",),
    strength: Degree = 0.3,
    blend: Blend = "paper",
    masks: Masks | None = None,
    harmonise: bool = False,
) -> Images:
    """Reshapes regions by disturbing the structure with Gaussian noise.

    A jointly trained SMN has the regions' own slices disturbed, any other SMN all channels; the
    result is blended in through the regions' masks either way.

    Args:
      model, images, key, regions, blend, masks, harmonise: as for `edit`.
      strength: standard deviation of the noise added to every structure value; or one for each
        region.

    Returns:
      Edited images in [-1, 1].

    Raises:
      ValueError: as for `edit`.
    """
    images, masks, indices = _check(model, images, masks, regions, blend)
    keys = sample_keys(key, images.shape[0])
    strength = _degree("strength", strength, regions)
    return _edit_structure(model, images, keys, strength, indices, blend, masks, harmonise)


@partial(jax.jit, static_argnums=(4, 5, 7))
def _edit_structure(model, images, keys, strength, indices, blend, masks, harmonise):
    structure, style = model.restyler.encode(images)
    noise = jax.vmap(lambda k: jax.random.normal(k, structure.shape[1:]))(keys)
    slices = model.restyler.config.slices
    if slices is not None:  # of each channel its own region's strength, in a single decode
        channels = slice_masks(slices, structure.shape[-1])[list(indices)]
        noise *= jnp.max(channels * jnp.reshape(strength, (-1, 1)), axis=0)
        strength = jnp.ones(())

    def changed(strength):
        return structure + strength * noise, style

    return _replace_regions(model, images, changed, strength, indices, blend, masks, harmonise)


def _check(model, images, masks, regions, blend) -> tuple[Images, Masks | None, tuple[int, ...]]:
    """Images and masks as float arrays, and the regions' positions; raises ValueError if wrong."""
    check_model(model)
    images = as_array("images", images)
    check_images(images, model.restyler.config.encoder)
    check_blend(blend)
    if not isinstance(regions, Sequence):
        raise ValueError(f"regions of type {type(regions).__name__}: expected a tuple of names")
    indices = region_indices(regions)
    return images, None if masks is None else _float_masks(masks, images), indices


def _float_masks(masks, images) -> Masks:
    masks = as_array("masks", masks)
    expected = (*images.shape[:3], len(REGION_NAMES))
    if masks.shape != expected:
        raise ValueError(
            f"masks of shape {masks.shape}: expected {expected}, one for each of "
            f"{', '.join(REGION_NAMES)}"
        )
    if masks.dtype != bool and not jnp.issubdtype(masks.dtype, jnp.floating):
        raise ValueError(f"masks of dtype {masks.dtype}: expected bool, or floats in [0, 1]")
    return masks.astype(jnp.float32)


def _degree(name: str, value: Degree, regions: Sequence[str]) -> Float[Array, " *N"]:
    """The array of an argument; raises ValueError unless it is one figure, or one a region."""
    wanted = f"give one number, or one for each of {', '.join(regions)}"
    degree = as_array(name, value, wanted)
    if degree.shape not in ((), (len(regions),)):
        raise ValueError(f"{name} of shape {degree.shape}: {wanted}")
    if not any(jnp.issubdtype(degree.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ValueError(f"{name} of dtype {degree.dtype}: {wanted}")
    return degree.astype(jnp.float32)


def _replace_regions(model, images, changed, degree, indices, blend, masks, harmonise) -> Images:
    """The second half of Algorithm 1: find the regions, and blend what is decoded there in."""
    # M_i = G_SMPN(S_i, z) > 0
    found = model.region_masks(images, indices) if masks is None else masks[..., list(indices)]
    mask = jnp.max(found, axis=-1, keepdims=True)

    def restyle(degree, mask):  # X' = G(S, z + a n), where it will show
        shows = gaussian_blur(mask)[..., 0] > 0
        restyled = decode_where(model.restyler, *changed(degree), shows, images)
        if harmonise:  # X + X' - G(S, z)
            restyled += images - decode_where(model.restyler, *changed(0.0), shows, images)
        return jnp.clip(restyled, -1.0, 1.0)

    if degree.ndim == 0:
        restyled = restyle(degree, mask)
    else:
        by_region = jnp.moveaxis(found, -1, 0)[..., None]
        restyled = mean_through(lax.map(lambda x: restyle(*x), (degree, by_region)), by_region)
    return blend_through(images, restyled, mask, blend)  # Algorithm 2
