"""The model as a value: networks are pytrees, operations on them pure functions.

`L2SAE` holds up to two autoencoders: the SMN, which restyles, and the SMPN, whose sliced decodes
are region masks (approach 2). A jointly trained SMN (approach 1) does both and has no SMPN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Key

from l2sae_jax.nn import (
    Decoder,
    DecoderConfig,
    Encoder,
    EncoderConfig,
    NoiseMaps,
    Window,
    sample_noise,
)
from l2sae_jax.nn.layers import upsample_bilinear
from l2sae_jax.regions import REGION_NAMES, slice_masks

Params = Any


@dataclass(frozen=True)
class AutoencoderConfig:
    """What an autoencoder is and how it was trained.

    Attributes:
      encoder, decoder: widths; their code sizes agree.
      image_size: height and width of its training images; other sizes work, less well.
      slices: channels (first, last + 1) of each region, or None if trained without slices.
      targets: what a sliced decode shows: "masks", white on black (approach 2), or "appearance",
        the region's pixels on black (approach 1).
      dtype: dtype of the computation, "float32" or "bfloat16".
      framing: how its training images were cropped from FFHQ's square round a face: their side, as
        a share of the square's, and how much higher than its their centre lies, likewise.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    image_size: int
    slices: tuple[tuple[int, int], ...] | None = None
    targets: Literal["masks", "appearance"] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    framing: tuple[float, float] = (1.0, 0.0)

    def __post_init__(self):
        e, d = self.encoder, self.decoder
        if (e.structure_channels, e.style_channels) != (d.structure_channels, d.style_channels):
            raise ValueError(
                f"encoder and decoder disagree on the codes: structure {e.structure_channels} and "
                f"{d.structure_channels} channels, style {e.style_channels} and {d.style_channels}"
            )
        if len(e.widths) - 1 != len(d.up_widths):
            raise ValueError(
                f"the encoder halves {len(e.widths) - 1} times but the decoder doubles "
                f"{len(d.up_widths)} times"
            )
        if self.image_size < 1:
            raise ValueError(f"image_size {self.image_size}: expected 1 or more pixels")
        if (self.slices is None) != (self.targets is None):
            raise ValueError("slices and targets go together: give both or neither")
        if self.slices is not None and (
            len(self.slices) != len(REGION_NAMES)
            or any(not 0 <= lo < hi <= e.structure_channels for lo, hi in self.slices)
        ):
            raise ValueError(
                f"slices {self.slices} do not name channels (first, last + 1) of a "
                f"{e.structure_channels}-channel structure for {', '.join(REGION_NAMES)}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r}: choose float32 or bfloat16")
        if len(self.framing) != 2 or not 0 < self.framing[0] < 10 or not abs(self.framing[1]) < 1:
            raise ValueError(
                f"framing {self.framing}: expected the side of a crop, in (0, 10), and how much "
                "higher its centre lies, in (-1, 1), both as shares of FFHQ's square"
            )


@struct.dataclass
class Autoencoder:
    """An encoder's and a decoder's parameters with their (static) configuration.

    With `remat`, gradients compute the inside of every block again instead of keeping it.
    """

    encoder: Params
    decoder: Params
    config: AutoencoderConfig = struct.field(pytree_node=False)
    remat: bool = struct.field(pytree_node=False, default=False)

    def encode(
        self, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B S"]]:
        """Structure and style of images in [-1, 1], each of unit length over its channels.

        Raises:
          ValueError: images of a shape, size or dtype the encoder cannot read.
        """
        check_images(images, self.config.encoder)
        module = Encoder(self.config.encoder, jnp.dtype(self.config.dtype), self.remat)
        return module.apply({"params": self.encoder}, images)

    def decode(
        self,
        structure: Float[Array, "B h w C"],
        style: Float[Array, "B S"],
        noise: NoiseMaps | None = None,
        window: Window | None = None,
    ) -> Float[Array, "B H W 3"]:
        """Image of a structure and a style, or a window of it; no noise unless maps are given."""
        module = Decoder(self.config.decoder, jnp.dtype(self.config.dtype), self.remat)
        return module.apply({"params": self.decoder}, structure, style, noise, window)

    def decode_branches(
        self,
        structure: Float[Array, "B h w C"],
        style: Float[Array, "B S"],
        channel_masks: Float[Array, "K C"],
        noise: NoiseMaps | None = None,
    ) -> Float[Array, "B K H W 3"]:
        """Siamese decoding: one decoder over an axis of differently masked structures (Eq. 2).

        Args:
          structure, style: codes of the images.
          channel_masks: 0/1, which structure channels each of the K branches keeps.
          noise: noise maps for the B * K decodes, those of one image next to each other.
        """
        batch, branches = structure.shape[0], channel_masks.shape[0]
        masked = structure[:, None] * channel_masks[:, None, None, :]
        images = self.decode(
            masked.reshape(batch * branches, *structure.shape[1:]),
            jnp.repeat(style, branches, axis=0),
            noise,
        )
        return images.reshape(batch, branches, *images.shape[1:])

    def region_masks(
        self, images: Float[Array, "B H W 3"], regions: Sequence[int], reduction: int = 1
    ) -> Float[Array, "B H W R"]:
        """Hard masks in {0, 1} of the regions at these positions, each from its own slice.

        Args:
          images: in [-1, 1].
          regions: positions in `REGION_NAMES`.
          reduction: a power of two; images are averaged to so many times smaller ones, and what is
            decoded from those enlarged before it becomes a hard mask.
        """
        check_images(images, self.config.encoder, reduction)
        structure, style = self.encode(reduce_images(images, reduction))
        channel_masks = slice_masks(self.config.slices, structure.shape[-1])[list(regions)]

        def brightness_of(channel_mask):
            return jnp.mean(self.decode(structure * channel_mask, style), axis=-1)

        # One region after the other: in a fifth of the memory, and on CPU faster than all at once.
        brightness = jnp.moveaxis(lax.map(brightness_of, jnp.asarray(channel_masks)), 0, -1)
        threshold = 0.0 if self.config.targets == "masks" else -0.9
        for _ in range(reduction.bit_length() - 1):
            brightness = upsample_bilinear(brightness)
        return (brightness > threshold).astype(jnp.float32)


@struct.dataclass
class L2SAE:
    """The Latents2Semantics Autoencoder: an immutable pytree.

    Attributes:
      smn: restyles whole images; None in a model that only segments.
      smpn: predicts region masks; None where the SMN was trained jointly, or in a model converted
        from an SMN alone.
      mask_reduction: a power of two (static): how many times smaller pictures the masks are
        predicted from, and then enlarged; for an SMPN trained at a lower resolution.
    """

    smn: Autoencoder | None
    smpn: Autoencoder | None = None
    mask_reduction: int = struct.field(pytree_node=False, default=1)

    @property
    def image_size(self) -> int:
        """Height and width of the pictures it was trained for."""
        if self.smn is not None:
            return self.smn.config.image_size
        return self.segmenter.config.image_size * self.mask_reduction

    @property
    def framing(self) -> tuple[float, float]:
        """How its pictures are cropped round a face; see `AutoencoderConfig`."""
        network = self.segmenter if self.smn is None else self.smn
        return network.config.framing

    @property
    def restyler(self) -> Autoencoder:
        """The network that encodes, restyles and decodes whole images.

        Raises:
          ValueError: the model has no SMN.
        """
        if self.smn is None:
            raise ValueError("this model has no SMN, so it can segment but not restyle images")
        return self.smn

    @property
    def has_segmenter(self) -> bool:
        """Whether it can predict region masks."""
        return self.smpn is not None or (
            self.smn is not None and self.smn.config.slices is not None
        )

    @property
    def segmenter(self) -> Autoencoder:
        """The network whose sliced decodes show the regions.

        Raises:
          ValueError: the model has no network trained on region slices.
        """
        if not self.has_segmenter:
            raise ValueError(
                "this model has no SMPN, so it cannot predict region masks: load one that has"
            )
        return self.smn if self.smpn is None else self.smpn

    def region_masks(
        self, images: Float[Array, "B H W 3"], regions: Sequence[int]
    ) -> Float[Array, "B H W R"]:
        """Hard masks in {0, 1} of the regions at these positions in `REGION_NAMES`.

        Raises:
          ValueError: a model without region slices, or images it cannot read.
        """
        return self.segmenter.region_masks(images, regions, self.mask_reduction)


def check_model(model: Any) -> None:
    """Raises ValueError unless `model` is one."""
    if not isinstance(model, L2SAE):
        raise ValueError(
            f"model of type {type(model).__name__}: expected an L2SAE, as l2sae_jax.load returns it"
        )


def as_array(name: str, value: Any, wanted: str = "expected an array") -> Array:
    """The array of an argument; raises ValueError, saying what is wanted, if it cannot be one."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} of type {type(value).__name__}: {wanted}") from error


def sample_keys(key: Key[Array, ""] | Key[Array, " B"], batch: int) -> Key[Array, " B"]:
    """One key a sample: a single key serves all alike, so no sample depends on its neighbours.

    Raises:
      ValueError: neither a single key nor one for each of the `batch` samples.
    """
    wanted = "expected a key such as jax.random.key(0)"
    key = as_array("key", key, wanted)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        try:
            key = jax.random.wrap_key_data(key)
        except (TypeError, ValueError) as error:
            raise ValueError(f"key of dtype {key.dtype}, shape {key.shape}: {wanted}") from error
    if key.shape not in ((), (batch,)):
        raise ValueError(f"keys of shape {key.shape}: give one key, or one for each of {batch}")
    return jnp.broadcast_to(key, (batch,))


def reduce_images(images: Float[Array, "B H W 3"], factor: int) -> Float[Array, "B h w 3"]:
    """Images `factor` times smaller along each axis: means of squares of pixels."""
    batch, height, width, channels = images.shape
    squares = (batch, height // factor, factor, width // factor, factor, channels)
    return jnp.mean(images.reshape(squares), axis=(2, 4)) if factor > 1 else images


def check_images(
    images: Float[Array, "B H W 3"],
    encoder: EncoderConfig,
    reduction: int = 1,
    name: str = "images",
) -> None:
    """Raises ValueError, naming what is wrong, unless `encoder` can read `images` so reduced."""
    shape = jnp.shape(images)
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"{name} of shape {shape}: expected [batch, height, width, 3]")
    if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
        raise ValueError(
            f"{name} of dtype {jnp.result_type(images)}: expected floats in [-1, 1], "
            "for uint8 pixels x / 127.5 - 1"
        )
    step, smallest = encoder.downsampling * reduction, encoder.smallest_image * reduction
    for side, size in zip(("height", "width"), shape[1:3], strict=True):
        if size % step or size < smallest:
            raise ValueError(
                f"{name} of {side} {size}: this network reads multiples of {step} from "
                f"{smallest} up"
            )


def check_codes(
    structure: Float[Array, "B h w C"], style: Float[Array, "B S"], decoder: DecoderConfig
) -> None:
    """Raises ValueError, naming what is wrong, unless `decoder` can read these codes."""
    channels = decoder.structure_channels
    if structure.ndim != 4 or structure.shape[-1] != channels:
        raise ValueError(
            f"structure of shape {structure.shape}: expected [batch, height, width, {channels}]"
        )
    expected = (structure.shape[0], decoder.style_channels)
    if style.shape != expected:
        raise ValueError(f"style of shape {style.shape}: expected {expected}")
    for name, code in (("structure", structure), ("style", style)):
        if not jnp.issubdtype(code.dtype, jnp.floating):
            raise ValueError(f"{name} of dtype {code.dtype}: expected floats")


def encode(
    model: L2SAE, images: Float[Array, "B H W 3"]
) -> tuple[Float[Array, "B h w C"], Float[Array, "B S"]]:
    """Structure and style of images by the SMN.

    Args:
      model: a model with an SMN.
      images: float images in [-1, 1].

    Returns:
      The structure `[B, h, w, C]` and the style `[B, S]`, of unit length over their channels.

    Raises:
      ValueError: no SMN, or images it cannot read.
    """
    check_model(model)
    return _encode(model, as_array("images", images))


@jax.jit
def _encode(model, images):
    return model.restyler.encode(images)


def decode(
    model: L2SAE,
    structure: Float[Array, "B h w C"],
    style: Float[Array, "B S"],
    key: Key[Array, ""] | Key[Array, " B"] | None = None,
) -> Float[Array, "B H W 3"]:
    """Image of a structure and a style by the SMN.

    Args:
      model: a model with an SMN.
      structure, style: codes as `encode` returns them; the decoder rescales them to unit length.
      key: adds the decoder's noise maps; one key serves every sample alike, or give one a sample.

    Returns:
      Images in about [-1, 1]: the decoder has no output activation.

    Raises:
      ValueError: no SMN, or codes of other shapes than its own.
    """
    check_model(model)
    structure, style = as_array("structure", structure), as_array("style", style)
    check_codes(structure, style, model.restyler.config.decoder)
    keys = None if key is None else sample_keys(key, structure.shape[0])
    return _decode(model, structure, style, keys)


@jax.jit
def _decode(model, structure, style, keys):
    network, noise = model.restyler, None
    if keys is not None:
        noise = sample_noise(network.config.decoder, keys, *structure.shape[1:3])
    return network.decode(structure, style, noise)
