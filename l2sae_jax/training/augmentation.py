"""Changes of pictures that leave their labels true: what photographs do to faces, before and after.

All work on a batch with one key a sample, and give a sample the same whatever its neighbours.
"""

import math
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from l2sae_jax.configuration import from_dict
from l2sae_jax.nn.layers import blur
from l2sae_jax.regions import REGION_NAMES, region_masks

_BLOCK = 8  # pixels along the side of what JPEG compresses at a time
_BLUR_REACH = 3
_INNER = 0.98  # of the range of pixels, that its ends stay finite where they are stretched

# The greatest amounts that make sense, 2 for all others.
_MOST = {"turn": 180.0, "zoom": 1.0, "shift": 1.0, "grey": 1.0, "damaged": 1.0}


@dataclass(frozen=True)
class Augmentation:
    """Section `augmentation` of a training config; fields may be absent, and 0 changes nothing.

    Attributes:
      turn: greatest rotation, in degrees.
      zoom: greatest change of scale, as a share of it.
      shift: greatest move along each axis, as a share of the picture's side.
      colour: greatest relative change of saturation and contrast, greatest shift of every channel,
        and half the greatest shift of brightness, on a scale on which pixels go from -2.3 to 2.3.
      grey: share of pictures that lose their colours.
      damaged: share of pictures that are blurred, made noisy and compressed, each up to the
        following.
      blur: greatest standard deviation of a Gaussian blur, in pixels.
      noise: greatest standard deviation of noise, on the scale from -1 to 1.
      compression: greatest step that frequencies of 8 x 8 blocks are rounded to, on the same scale.
    """

    turn: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    colour: float = 0.0
    grey: float = 0.0
    damaged: float = 0.0
    blur: float = 1.2
    noise: float = 0.12
    compression: float = 0.3

    def __post_init__(self):
        for name, value in asdict(self).items():
            most = _MOST.get(name, 2.0)
            if not 0.0 <= value <= most:
                raise ValueError(f"config.augmentation.{name} {value}: expected 0 to {most:g}")


def make_augmentation(config) -> Augmentation:
    """The augmentation that a training config asks for: none where it has no such section."""
    return from_dict(Augmentation, dict(config.get("augmentation", {})), "config.augmentation")


def augment(
    images: Float[Array, "B H W 3"],
    labels: UInt8[Array, "B H W"],
    keys: Key[Array, " B"],
    amount: Augmentation,
) -> tuple[Float[Array, "B H W 3"], UInt8[Array, "B H W"]]:
    """Places, recolours and damages each image; places its labels alike.

    Args:
      images: in [-1, 1].
      labels: of every pixel.
      keys: one a sample.
      amount: how far to go.

    Returns:
      Images in [-1, 1], and labels.
    """
    place_keys, colour_keys, grey_keys, damage_keys = _split(keys, 4)
    if amount.turn or amount.zoom or amount.shift:
        images, labels = place(images, labels, place_keys, amount)
    if amount.colour:
        images = jitter_colours(images, colour_keys, amount.colour)
    if amount.grey:
        plain = jnp.broadcast_to(jnp.mean(images, axis=-1, keepdims=True), images.shape)
        images = _some(plain, images, grey_keys, amount.grey)
    if amount.damaged:
        chosen, damage_keys = _split(damage_keys, 2)
        images = _some(damage(images, damage_keys, amount), images, chosen, amount.damaged)
    return images, labels


def place(
    images: Float[Array, "B H W 3"],
    labels: UInt8[Array, "B H W"],
    keys: Key[Array, " B"],
    amount: Augmentation,
) -> tuple[Float[Array, "B H W 3"], UInt8[Array, "B H W"]]:
    """Turns, scales and moves each image with its labels; what comes in from outside is its edge.

    Images are interpolated bilinearly, labels are the nearest ones.
    """
    height, width = images.shape[1:3]
    centre = jnp.asarray([height - 1, width - 1]) / 2
    grid = jnp.stack(jnp.mgrid[:height, :width], axis=-1) - centre

    def one(image, label, key):
        turn, zoom, down, right = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
        angle = turn * math.radians(amount.turn)
        scale = (1.0 + amount.zoom) ** zoom
        cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
        moved = amount.shift * jnp.stack([down * height, right * width])
        at = grid @ jnp.asarray([[cos, -sin], [sin, cos]]) + centre + moved
        at = jnp.clip(at, 0.0, 2.0 * centre)
        near = jnp.round(at).astype(jnp.int32)
        return _bilinear(image, at), label[near[..., 0], near[..., 1]]

    return jax.vmap(one)(images, labels, keys)


def _bilinear(image: Float[Array, "H W 3"], at: Float[Array, "h w 2"]) -> Float[Array, "h w 3"]:
    low = jnp.floor(at).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.asarray(image.shape[:2]) - 1)
    down, right = jnp.moveaxis((at - low)[..., None, :], -1, 0)
    upper = (1 - right) * image[low[..., 0], low[..., 1]] + right * image[low[..., 0], high[..., 1]]
    lower = (1 - right) * image[high[..., 0], low[..., 1]]
    lower += right * image[high[..., 0], high[..., 1]]
    return (1 - down) * upper + down * lower


def jitter_colours(
    images: Float[Array, "B H W 3"], keys: Key[Array, " B"], amount: float
) -> Float[Array, "B H W 3"]:
    """Changes saturation, contrast, white balance and brightness of each image.

    Photographs differ from the pictures a network was trained on most of all in these.

    Args:
      images: in [-1, 1].
      keys: one a sample.
      amount: as `Augmentation.colour`.

    Returns:
      Images in [-1, 1].
    """
    return _change_colours(images, _colour_changes(keys, 1, amount)[:, None])


def jitter_parts(
    images: Float[Array, "B H W 3"],
    labels: UInt8[Array, "B H W"],
    keys: Key[Array, " B"],
    amount: float,
) -> Float[Array, "B H W 3"]:
    """Changes the colours of each region, and of all that belongs to none, by draws of its own.

    Skin and nose change together.

    Args:
      images: in [-1, 1].
      labels: which part every pixel belongs to.
      keys: one a sample.
      amount: as `Augmentation.colour`.

    Returns:
      Images in [-1, 1].
    """
    changes = _colour_changes(keys, len(REGION_NAMES) + 1, amount)
    # Each pixel's row of the changes: 1 + the position of its region, or 0.
    rows = [1 + REGION_NAMES.index({"nose": "skin"}.get(name, name)) for name in REGION_NAMES]
    parts = jnp.sum(region_masks(labels) * jnp.asarray(rows), axis=-1).astype(jnp.int32)
    return _change_colours(images, jax.vmap(lambda change, part: change[part])(changes, parts))


def _colour_changes(keys, parts: int, amount: float) -> Float[Array, "B parts 6"]:
    def one(key):
        return amount * jax.random.uniform(key, (parts, 6), minval=-1.0, maxval=1.0)

    return jax.vmap(one)(keys)


def _change_colours(images, changes: Float[Array, "B h w 6"]) -> Float[Array, "B H W 3"]:
    """Applies changes, one for each pixel or one for all of them.

    What is added and multiplied is a stretched scale without ends, so that nothing is clipped and
    no detail lost: from the new colours the old ones could be told.
    """
    saturation, contrast, brightness = (changes[..., i : i + 1] for i in range(3))
    stretched = jnp.arctanh(_INNER * images)
    grey = jnp.mean(stretched, axis=-1, keepdims=True)
    stretched = grey + (1.0 + saturation) * (stretched - grey)
    stretched = (1.0 + contrast) * stretched + 2.0 * brightness + changes[..., 3:]
    return jnp.clip(jnp.tanh(stretched) / _INNER, -1.0, 1.0)


def damage(
    images: Float[Array, "B H W 3"], keys: Key[Array, " B"], amount: Augmentation
) -> Float[Array, "B H W 3"]:
    """Blurs each image, adds noise, and compresses it as JPEG does, each by a draw of its own."""
    most = jnp.asarray([amount.blur, amount.noise, amount.compression])
    draw_keys, noise_keys = _split(keys, 2)
    draws = jax.vmap(lambda key: jax.random.uniform(key, (3, 1, 1, 1)))(draw_keys)
    deviation, noise, step = jnp.moveaxis(draws * most[:, None, None, None], 1, 0)
    images = _blurred(images, deviation)
    images += noise * jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(noise_keys)
    return jnp.clip(_compressed(images, step), -1.0, 1.0)


def _blurred(images, deviation: Float[Array, "B 1 1 1"]):
    offsets = range(-_BLUR_REACH, _BLUR_REACH + 1)
    taps = [jnp.exp(-0.5 * jnp.square(offset / (deviation + 1e-3))) for offset in offsets]
    around = (_BLUR_REACH, _BLUR_REACH)
    return blur(jnp.pad(images, ((0, 0), around, around, (0, 0)), mode="edge"), taps)


def _compressed(images, step: Float[Array, "B 1 1 1"]):
    """Rounds the cosine transform of blocks to multiples of a step that grows with frequency."""
    edges = [(0, 0), *((0, -size % _BLOCK) for size in images.shape[1:3]), (0, 0)]
    padded = jnp.pad(images, edges, mode="edge")
    batch, height, width, channels = padded.shape
    blocks = padded.reshape(batch, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, channels)
    n = np.arange(_BLOCK)
    cosine = np.sqrt(2 / _BLOCK) * np.cos(np.pi * n[:, None] * (2 * n + 1) / (2 * _BLOCK))
    cosine[0] /= math.sqrt(2)
    coarseness = (1 + n[:, None] + n)[:, None, :, None] / _BLOCK
    steps = step[..., None, None] * coarseness + 1e-3
    waves = jnp.einsum("ui,bhiwjc,vj->bhuwvc", cosine, blocks, cosine)
    waves = jnp.round(waves / steps) * steps
    restored = jnp.einsum("ui,bhuwvc,vj->bhiwjc", cosine, waves, cosine).reshape(padded.shape)
    return restored[:, : images.shape[1], : images.shape[2]]


def _some(changed, images, keys, share: float):
    """The changed images for this share of the samples, the others as they are."""
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, share))(keys)
    return jnp.where(chosen[:, None, None, None], changed, images)


def _split(keys: Key[Array, " B"], count: int) -> Key[Array, "count B"]:
    return jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key, count))(keys), 0, 1)
