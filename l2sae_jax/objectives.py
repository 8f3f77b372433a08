"""The training objectives: Swapping Autoencoder losses over an axis of structure slices.

A *branch* is one decode of the structure: the SMN has a single branch that keeps every channel, the
SMPN one for each region that keeps the region's slice (Eq. 2), the joint network (approach 1) has
all six. Every loss is computed for each branch against that branch's target and averaged with the
branches' weights, so one code serves all three.

Notation: B images, K branches, N crops of P x P pixels; GAN losses are softplus ones; every
function returns its loss terms unreduced, `[B]` or `[B * N]`, and the loss is the sum of their
means.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key, UInt8

from l2sae_jax.model import Autoencoder, AutoencoderConfig
from l2sae_jax.nn import Architecture, NoiseMaps, sample_noise
from l2sae_jax.regions import REGIONS, appearance_images, mask_images, region_masks, slice_masks

Params = dict[str, Any]
Losses = dict[str, Float[Array, "..."]]


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and settings of the losses; the defaults are the published ones.

    Attributes:
      kind: "smn", "smpn" (Eq. 2, against masks) or "joint" (approach 1, against appearances).
      l1, gan, patch: weights of reconstruction, image GAN and patch GAN; 0 leaves a term out.
      r1, patch_r1: weights of the gradient penalties.
      r1_every: discriminator steps for each penalty step.
      crops: patches taken from an image.
      crop_scale: least and greatest side of a patch as a share of the image's.
      reconstructed: share of a batch that is reconstructed.
      reconstruction: "l1", or for masks "logistic": softplus(-2 target decode). L1 has its optimum
        at the median, all black for a small region that is not yet located, and there it stays;
        the logistic loss pulls at every pixel that is wrong.
      region_shares: None for plain losses, or each region's share p of the picture: pixels inside
        then weigh ((1 - p) / p)^balance.
      balance: 0 counts pixels alike, 1 counts regions alike.
      recolouring: how far to change the colours of the picture that the structure is read from, the
        style being read from the picture itself: a decoder that shall restore its colours must
        take them from the style. 0, as published, leaves that to the GANs on mixes, which need
        millions of images.
    """

    kind: Literal["smn", "smpn", "joint"] = "smn"
    l1: float = 1.0
    gan: float = 1.0
    patch: float = 1.0
    r1: float = 10.0
    patch_r1: float = 1.0
    r1_every: int = 16
    crops: int = 8
    crop_scale: tuple[float, float] = (1 / 8, 1 / 4)
    reconstructed: float = 0.5
    reconstruction: Literal["l1", "logistic"] = "l1"
    region_shares: tuple[float, ...] | None = None
    balance: float = 0.5
    recolouring: float = 0.0

    def __post_init__(self):
        if self.kind not in ("smn", "smpn", "joint"):
            raise ValueError(f"objective kind {self.kind!r}: choose smn, smpn or joint")
        if not 0 < self.reconstructed <= 1:
            raise ValueError(f"reconstructed {self.reconstructed}: expected a share in (0, 1]")
        if self.reconstruction not in ("l1", "logistic"):
            raise ValueError(f"reconstruction {self.reconstruction!r}: choose l1 or logistic")
        if self.reconstruction == "logistic" and self.kind != "smpn":
            raise ValueError("reconstruction 'logistic' is for masks, objective kind smpn")
        shares = self.region_shares
        if shares is not None and (
            len(shares) != len(REGIONS) or not all(0 < p < 1 for p in shares)
        ):
            raise ValueError(f"region_shares {shares}: expected {len(REGIONS)} numbers in (0, 1)")
        for name in ("crops", "r1_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected 1 or more")

    @property
    def adversarial(self) -> bool:
        """Whether any discriminator takes part."""
        return self.gan > 0 or self.patch > 0


# Branches ----------------------------------------------------------------------------------------


class Branches(NamedTuple):
    """The decodes of one structure.

    Attributes:
      channel_masks: `[K, C]`, 0/1, the structure channels each branch keeps.
      weights: `[K]`, summing to 1.
      gains: `[K]`, what a target pixel above black weighs in L1 relative to a black one.
    """

    channel_masks: np.ndarray
    weights: np.ndarray
    gains: np.ndarray


def make_branches(objective: ObjectiveConfig, config: AutoencoderConfig) -> Branches:
    """The branches of an objective for a network with this slice table."""
    channels = config.encoder.structure_channels
    whole = np.ones((1, channels), np.float32)
    if objective.kind == "smn":
        return Branches(whole, np.ones(1, np.float32), np.ones(1, np.float32))
    slices = slice_masks(config.slices, channels)
    shares = np.asarray(objective.region_shares or [0.5] * len(REGIONS), np.float32)
    gains = ((1 - shares) / shares) ** objective.balance
    regions = len(REGIONS)
    if objective.kind == "smpn":
        return Branches(slices, np.full(regions, 1 / regions, np.float32), gains)
    return Branches(
        np.concatenate([whole, slices]),
        np.asarray([0.5] + [0.5 / regions] * regions, np.float32),
        np.concatenate([[1.0], gains]).astype(np.float32),
    )


def branch_targets(
    objective: ObjectiveConfig, images: Float[Array, "B H W 3"], labels: UInt8[Array, "B H W"]
) -> Float[Array, "B K H W 3"]:
    """What each branch is to decode: the image, region masks, or the image and appearances."""
    if objective.kind == "smn":
        return images[:, None]
    masks = region_masks(labels)
    if objective.kind == "smpn":
        return mask_images(masks)
    return jnp.concatenate([images[:, None], appearance_images(images, masks)], axis=1)


# Random crops ------------------------------------------------------------------------------------


class Crops(NamedTuple):
    """Where crops lie: at (x * flip, y) * scale + offset for x, y in [-1, 1] over the patch.

    Attributes:
      flip: `[*B, N]`, +1 or -1, mirrors x.
      scale, offset: `[*B, N, 2]`, in x and y; the image spans [-1, 1].
    """

    flip: Float[Array, "*B N"]
    scale: Float[Array, "*B N 2"]
    offset: Float[Array, "*B N 2"]


def sample_crops(key: Key[Array, ""], objective: ObjectiveConfig) -> Crops:
    """Crops of one image: uniform scale for each axis, uniform offset that stays inside."""
    flip_key, scale_key, offset_key = jax.random.split(key, 3)
    n = objective.crops
    low, high = objective.crop_scale
    scale = jax.random.uniform(scale_key, (n, 2), minval=low, maxval=high)
    offset = jax.random.uniform(offset_key, (n, 2), minval=-1.0, maxval=1.0) * (1.0 - scale)
    return Crops(jax.random.rademacher(flip_key, (n,), jnp.float32), scale, offset)


def take_crops(
    images: Float[Array, "*B H W 3"], crops: Crops, size: int
) -> Float[Array, "*B N P P 3"]:
    """Bilinear patches with zeros outside the image.

    Crops are aligned with the axes, so sampling is separable: a matrix of hat functions for the
    rows, another for the columns, and no gather whose gradient would scatter.
    """
    grid = jnp.linspace(-1.0, 1.0, size)
    x = grid * (crops.flip * crops.scale[..., 0])[..., None] + crops.offset[..., 0, None]
    y = grid * crops.scale[..., 1, None] + crops.offset[..., 1, None]

    def hats(position, pixels):
        centre = ((position + 1.0) * pixels - 1.0) / 2.0
        return jax.nn.relu(1.0 - jnp.abs(centre[..., None] - jnp.arange(pixels)))

    height, width = images.shape[-3:-1]
    return jnp.einsum(
        "...npi,...ijc,...nqj->...npqc",
        hats(y, height),
        images,
        hats(x, width),
        precision=lax.Precision.HIGHEST,
        optimize="optimal",
    )


# Losses ------------------------------------------------------------------------------------------


class Draws(NamedTuple):
    """Everything random in one evaluation of a loss.

    Attributes:
      noise: the decoder's noise maps for all rec branches, then all mix branches.
      crops: `[B, K, N]` crops, in the order in which the loss takes them.
      recoloured: pictures to read the structure from, where not from the images themselves.
    """

    noise: NoiseMaps | None
    crops: tuple[Crops, ...]
    recoloured: Float[Array, "B H W 3"] | None = None


@dataclass(frozen=True)
class Objective:
    """The losses of one network: static, while parameters and data are arguments."""

    config: ObjectiveConfig
    autoencoder: AutoencoderConfig
    architecture: Architecture

    @property
    def branches(self) -> Branches:
        """The decodes this objective compares with targets."""
        return make_branches(self.config, self.autoencoder)

    def draws(
        self, keys: Key[Array, " B"], structure_size: tuple[int, int], crop_calls: int
    ) -> Draws:
        """Random draws that depend on each sample's own key alone."""
        k = len(self.branches.weights)
        b = keys.shape[0]
        per_use = jax.vmap(lambda key: jax.random.split(key, (2 + crop_calls, k)))(keys)
        n_rec, n_mix = self._counts(b, structure_size)
        noise_keys = jnp.concatenate(
            [per_use[:n_rec, 0].reshape(-1), per_use[:n_mix, 1].reshape(-1)]
        )
        noise = sample_noise(self.autoencoder.decoder, noise_keys, *structure_size)
        crop = jax.vmap(jax.vmap(lambda key: sample_crops(key, self.config)))
        return Draws(noise, tuple(crop(per_use[:, 2 + i]) for i in range(crop_calls)))

    def _counts(self, batch: int, structure_size: tuple[int, int]) -> tuple[int, int]:
        """How many of a batch are reconstructed and how many mixed."""
        n_rec = max(1, round(batch * self.config.reconstructed))
        large = min(structure_size) * self.autoencoder.encoder.downsampling >= 1024
        n_mix = batch // 2 if large else batch
        return n_rec, n_mix if self.config.adversarial else 0

    def rec_and_mix(
        self, params: Params, images: Float[Array, "B H W 3"], draws: Draws
    ) -> tuple[Float[Array, "b K H W 3"], Float[Array, "B K H W 3"]]:
        """Reconstructions, and neighbours' structures swapped in pairs under their own styles."""
        model = Autoencoder(params["encoder"], params["decoder"], self.autoencoder)
        structure, style = model.encode(images)
        if draws.recoloured is not None:
            structure, _ = model.encode(draws.recoloured)
        n_rec, n_mix = self._counts(images.shape[0], structure.shape[1:3])
        neighbour = jnp.flip(structure.reshape(-1, 2, *structure.shape[1:]), axis=1)
        neighbour = neighbour.reshape(structure.shape)
        decoded = model.decode_branches(
            jnp.concatenate([structure[:n_rec], neighbour[:n_mix]]),
            jnp.concatenate([style[:n_rec], style[:n_mix]]),
            jnp.asarray(self.branches.channel_masks),
            draws.noise,
        )
        return decoded[:n_rec], decoded[n_rec:]

    def _average(self, losses: Float[Array, "B K *N"]) -> Float[Array, "..."]:
        """Weighted mean over branches; samples and crops become one axis."""
        return jnp.einsum("bk...,k->b...", losses, self.branches.weights).reshape(-1)

    def _image_logits(self, params: Params, images: Float[Array, "B K H W 3"]):
        discriminator = self.architecture.module("image_discriminator", self._dtype)
        flat = images.reshape(-1, *images.shape[2:])
        logits = discriminator.apply({"params": params["image_discriminator"]}, flat)
        return logits.reshape(images.shape[:2])

    def _patches(self, images: Float[Array, "B K H W 3"], crops: Crops):
        size = self.architecture.patch_discriminator.patch_size
        return take_crops(images, jax.tree.map(lambda x: x[: images.shape[0]], crops), size)

    def _patch_features(self, params: Params, patches: Float[Array, "B K N P P 3"]):
        discriminator = self.architecture.module("patch_discriminator", self._dtype)
        flat = patches.reshape(-1, *patches.shape[3:])
        features = discriminator.apply(
            {"params": params["patch_discriminator"]}, flat, method="features"
        )
        return features.reshape(*patches.shape[:3], *features.shape[1:])

    def _same_style_logits(self, params: Params, reference, other) -> Float[Array, "B K N"]:
        """Compares each of `other`'s features with the mean of `reference`'s, image by image."""
        discriminator = self.architecture.module("patch_discriminator", self._dtype)
        reference = jnp.broadcast_to(
            jnp.mean(reference[: other.shape[0]], axis=2, keepdims=True), other.shape
        )
        logits = discriminator.apply(
            {"params": params["patch_discriminator"]},
            reference.reshape(-1, *other.shape[3:]),
            other.reshape(-1, *other.shape[3:]),
            method="compare",
        )
        return logits.reshape(other.shape[:3])

    @property
    def _dtype(self):
        return jnp.dtype(self.autoencoder.dtype)

    def generator_losses(
        self,
        params: Params,
        images: Float[Array, "B H W 3"],
        targets: Float[Array, "B K H W 3"],
        draws: Draws,
    ) -> Losses:
        """Losses of encoder and decoder: L1(rec) + 0.5 GAN(rec) + GAN(mix) + patch(mix).

        Takes two crops: of the targets (reference side) and of the mixes.
        """
        cfg = self.config
        rec, mix = self.rec_and_mix(params, images, draws)
        losses = {}
        if cfg.l1:
            losses[f"G_{cfg.reconstruction.upper()}"] = cfg.l1 * jnp.mean(
                self._reconstruction(rec, targets[: rec.shape[0]])
            )
        if cfg.gan:
            logits = self._image_logits(params, jnp.concatenate([rec, mix]))
            losses["G_GAN_rec"] = 0.5 * cfg.gan * self._average(real(logits[: rec.shape[0]]))
            losses["G_GAN_mix"] = cfg.gan * self._average(real(logits[rec.shape[0] :]))
        if cfg.patch:
            reference = self._patch_features(params, self._patches(targets, draws.crops[0]))
            features = self._patch_features(params, self._patches(mix, draws.crops[1]))
            logits = self._same_style_logits(params, lax.stop_gradient(reference), features)
            losses["G_mix"] = cfg.patch * self._average(real(logits))
        return losses

    def _reconstruction(self, rec, targets) -> Float[Array, " b"]:
        """How far decodes are from targets, pixels above black weighted by their branch's gain."""
        if self.config.reconstruction == "l1":
            error = jnp.abs(rec - targets)
        else:
            error = jax.nn.softplus(-2.0 * targets * rec)
        gains = self.branches.gains[:, None, None, None]
        weight = jnp.where(targets > -1.0, gains, 1.0)
        return self._average(jnp.mean(weight * error, axis=(2, 3, 4)))

    def discriminator_losses(
        self,
        params: Params,
        images: Float[Array, "B H W 3"],
        targets: Float[Array, "B K H W 3"],
        draws: Draws,
    ) -> Losses:
        """Losses of the discriminators: real + 0.5 rec + 0.5 mix, and real and mixed patches.

        Takes three crops: of the targets (reference side), of the targets again, of the mixes.
        """
        cfg = self.config
        rec, mix = self.rec_and_mix(params, images, draws)
        losses = {}
        if cfg.gan:
            logits = self._image_logits(params, jnp.concatenate([targets, rec, mix]))
            of_real, of_rec, of_mix = jnp.split(
                logits, [len(targets), len(targets) + len(rec)], axis=0
            )
            losses["D_real"] = cfg.gan * self._average(real(of_real))
            losses["D_rec"] = 0.5 * cfg.gan * self._average(fake(of_rec))
            losses["D_mix"] = 0.5 * cfg.gan * self._average(fake(of_mix))
        if cfg.patch:
            pictures = (targets, targets, mix)
            reference, same, mixed = (
                self._patch_features(params, self._patches(picture, crops))
                for picture, crops in zip(pictures, draws.crops, strict=True)
            )
            same = self._same_style_logits(params, reference, same)
            mixed = self._same_style_logits(params, reference, mixed)
            losses["PatchD_real"] = cfg.patch * self._average(real(same))
            losses["PatchD_mix"] = cfg.patch * self._average(fake(mixed))
        return losses

    def gradient_penalty(
        self, params: Params, targets: Float[Array, "B K H W 3"], crops: tuple[Crops, Crops]
    ) -> Losses:
        """R1: 0.5 r1 |grad D|^2 + 0.25 patch_r1 (|grad real crop|^2 + |grad target crop|^2).

        Takes two crops of the targets. Lazy regularisation multiplies it by `r1_every`.
        """
        cfg = self.config
        penalty = jnp.zeros(targets.shape[:2])
        if cfg.gan:
            gradient = jax.grad(lambda x: jnp.sum(self._image_logits(params, x)))(targets)
            penalty += 0.5 * cfg.r1 * jnp.sum(jnp.square(gradient), axis=(2, 3, 4))
        if cfg.patch:

            def total(patches):
                reference, other = (self._patch_features(params, patch) for patch in patches)
                return jnp.sum(self._same_style_logits(params, reference, other))

            gradients = jax.grad(total)([self._patches(targets, crop) for crop in crops])
            for gradient in gradients:
                square = jnp.sum(jnp.square(gradient), axis=(2, 3, 4, 5))
                penalty += 0.25 * cfg.patch_r1 * square
        return {"D_R1": self._average(penalty)}


def real(logits: Array) -> Array:
    """Softplus loss of logits that should say real."""
    return jax.nn.softplus(-logits)


def fake(logits: Array) -> Array:
    """Softplus loss of logits that should say fake."""
    return jax.nn.softplus(logits)


def total(losses: Losses) -> Float[Array, ""]:
    """The loss: the sum of its terms' means."""
    return sum(jnp.mean(term) for term in losses.values())
