"""The training objectives: Swapping Autoencoder losses over an axis of structure slices.

A *branch* is one decode of the structure: the SMN has a single branch that keeps every channel, the
SMPN one for each region that keeps the region's slice (Eq. 2), the joint network (approach 1) has
all six. Every loss is computed for each branch against that branch's target and averaged with the
branches' weights, so one code serves all three.

Notation: B images, K branches, N crops of P x P pixels; GAN losses are softplus ones; every
function returns its loss terms unreduced, `[B]` or `[B * N]`, and the loss is the sum of their
means.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key, Shaped, UInt8

from l2sae_jax.metrics.perceptual import Lpips, lpips
from l2sae_jax.model import Autoencoder, AutoencoderConfig
from l2sae_jax.nn import Architecture, NoiseMaps, sample_noise
from l2sae_jax.regions import REGIONS, appearance_images, mask_images, region_masks, slice_masks

Params = dict[str, Any]
Losses = dict[str, Float[Array, "..."]]

# What a step trains: encoder and decoder, or the discriminators by their losses or by R1.
Kind = Literal["generator", "discriminator", "penalty"]
KINDS: tuple[Kind, ...] = ("generator", "discriminator", "penalty")

# How many crops each kind of step takes of every picture.
CROP_CALLS = {"generator": 2, "discriminator": 3, "penalty": 2}

Remat = Literal["none", "blocks", "regions"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and settings of the losses; the defaults are the published ones.

    Attributes:
      kind: "smn", "smpn" (Eq. 2, against masks) or "joint" (approach 1, against appearances).
      l1, gan, patch: weights of reconstruction, image GAN and patch GAN; 0 leaves a term out.
      perceptual: weight of the LPIPS (AlexNet) of the reconstruction, which makes pictures sharp
        long before a GAN would; 0, as published, leaves it out. Needs the package's extra `eval`.
      r1, patch_r1: weights of the gradient penalties.
      r1_every: discriminator steps for each penalty step.
      crops: patches taken from an image.
      crop_scale: least and greatest side of a patch as a share of the image's.
      reconstructed: share of a batch that is reconstructed, in quarters: of every four neighbours
        the first so many.
      reconstruction: "l1", or for masks "logistic": softplus(-2 target decode). L1 has its optimum
        at the median, all black for a small region that is not yet located, and there it stays;
        the logistic loss pulls at every pixel that is wrong.
      region_shares: None for plain losses, or each region's share p of the picture: its pixels
        then weigh ((1 - p) / p)^balance in L1 and the logistic loss, for the masks of other regions
        too; pixels of no region weigh 1.
      balance: 0 counts pixels alike, 1 counts regions nearly alike.
      recolouring: how far to change the colours of each part of the picture that the structure is
        read from, the style being read from the picture itself: a decoder that shall restore the
        colours of hair, skin and lips must take them from the style. 0, as published, leaves that
        to the GANs on mixes, which need millions of images.
    """

    kind: Literal["smn", "smpn", "joint"] = "smn"
    l1: float = 1.0
    gan: float = 1.0
    patch: float = 1.0
    perceptual: float = 0.0
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
        if self.reconstructed not in (0.25, 0.5, 0.75, 1.0):
            raise ValueError(f"reconstructed {self.reconstructed}: expected 0.25, 0.5, 0.75 or 1")
        if self.reconstruction not in ("l1", "logistic"):
            raise ValueError(f"reconstruction {self.reconstruction!r}: choose l1 or logistic")
        if self.reconstruction == "logistic" and self.kind != "smpn":
            raise ValueError("reconstruction 'logistic' is for masks, objective kind smpn")
        if self.perceptual and self.kind == "smpn":
            raise ValueError("perceptual compares pictures, not masks: leave it 0 for smpn")
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
    """

    channel_masks: np.ndarray
    weights: np.ndarray


def make_branches(objective: ObjectiveConfig, config: AutoencoderConfig) -> Branches:
    """The branches of an objective for a network with this slice table."""
    channels = config.encoder.structure_channels
    whole = np.ones((1, channels), np.float32)
    if objective.kind == "smn":
        return Branches(whole, np.ones(1, np.float32))
    slices, regions = slice_masks(config.slices, channels), len(REGIONS)
    if objective.kind == "smpn":
        return Branches(slices, np.full(regions, 1 / regions, np.float32))
    return Branches(
        np.concatenate([whole, slices]),
        np.asarray([0.5] + [0.5 / regions] * regions, np.float32),
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


def pixel_weights(
    objective: ObjectiveConfig, labels: UInt8[Array, "B H W"]
) -> Float[Array, "B H W 1"] | None:
    """What each pixel weighs in every branch's reconstruction; None if all weigh the same."""
    if objective.region_shares is None:
        return None
    shares = np.asarray(objective.region_shares, np.float32)
    gains = ((1 - shares) / shares) ** objective.balance
    return 1.0 + jnp.sum(region_masks(labels) * (gains - 1.0), axis=-1, keepdims=True)


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
      noise: the decoder's noise maps `[n, K, h, w, 1]` for the n samples that are reconstructed,
        then those that are mixed.
      crops: `[B, K, N]` crops, in the order in which the loss takes them.
      recoloured: pictures to read the structure from, where not from the images themselves.
    """

    noise: NoiseMaps | None
    crops: tuple[Crops, ...]
    recoloured: Float[Array, "B H W 3"] | None = None


class Codes(NamedTuple):
    """What the encoder reads from the images."""

    structure: Float[Array, "B h w C"]
    style: Float[Array, "B S"]


class Share(NamedTuple):
    """Some or all of the branches, and what belongs to them: every loss is a sum over shares.

    Attributes:
      branches: K of the objective's branches.
      targets: what they are to decode.
      pixel_weights: what pixels weigh in reconstruction, in all branches alike.
      noise, crops: as in `Draws`.
    """

    branches: Branches
    targets: Float[Array, "B K H W 3"]
    pixel_weights: Float[Array, "B 1 H W 1"] | None
    noise: NoiseMaps | None
    crops: tuple[Crops, ...]


@dataclass(frozen=True)
class Objective:
    """The losses of one network: static, while parameters and data are arguments.

    Attributes:
      config: weights and settings.
      autoencoder, architecture: the networks.
      remat: what is computed again for the gradient instead of being kept: nothing, the inside of
        every residual block ("blocks"), or that and all of a branch but its decodes, one branch
        after the other ("regions").
      perceptual: the network of the perceptual loss, where there is one.
    """

    config: ObjectiveConfig
    autoencoder: AutoencoderConfig
    architecture: Architecture
    remat: Remat = "none"
    perceptual: Lpips | None = None

    @property
    def branches(self) -> Branches:
        """The decodes this objective compares with targets."""
        return make_branches(self.config, self.autoencoder)

    def mixed(self, height: int, width: int) -> float:
        """Share of a batch of images of this size that is mixed: half of it from 1024 px up."""
        if not self.config.adversarial:
            return 0.0
        return 0.5 if min(height, width) >= 1024 else 1.0

    def draws(self, kind: Kind, keys: Key[Array, " B"], height: int, width: int) -> Draws:
        """Random draws for images of this size that depend on each sample's own key alone."""
        k, calls = len(self.branches.weights), CROP_CALLS[kind]
        per_use = jax.vmap(lambda key: jax.random.split(key, (2 + calls, k)))(keys)
        noise_keys = jnp.concatenate(
            [
                leading(per_use[:, 0], self.config.reconstructed),
                leading(per_use[:, 1], self.mixed(height, width)),
            ]
        )
        scale = self.autoencoder.encoder.downsampling
        noise = jax.vmap(
            lambda keys: sample_noise(
                self.autoencoder.decoder, keys, height // scale, width // scale
            )
        )(noise_keys)
        crop = jax.vmap(jax.vmap(lambda key: sample_crops(key, self.config)))
        return Draws(noise, tuple(crop(per_use[:, 2 + i]) for i in range(calls)))

    def losses(
        self,
        kind: Kind,
        params: Params,
        images: Float[Array, "B H W 3"],
        targets: Float[Array, "B K H W 3"],
        draws: Draws,
        pixel_weights: Float[Array, "B H W 1"] | None = None,
    ) -> Losses:
        """The loss terms of one kind of step, summed over branches.

        Args:
          kind: which losses.
          params: parameters of all networks.
          images: in [-1, 1].
          targets: what `branch_targets` makes of them.
          draws: what `draws` draws for this kind.
          pixel_weights: what the function of this name makes of the labels.
        """
        terms = {
            "generator": self._generator_losses,
            "discriminator": self._discriminator_losses,
            "penalty": self._gradient_penalty,
        }[kind]
        losses = partial(terms, params, self.encode(params, images, draws.recoloured))
        branches = jax.tree.map(jnp.asarray, self.branches)
        if pixel_weights is not None:
            pixel_weights = pixel_weights[:, None]
        everything = Share(branches, targets, pixel_weights, draws.noise, draws.crops)
        if self.remat != "regions":
            return losses(everything)

        def one(k):
            def select(axis):
                return lambda x: lax.dynamic_slice_in_dim(x, k, 1, axis)

            data = jax.tree.map(select(1), everything._replace(branches=None, pixel_weights=None))
            of_branch = jax.tree.map(select(0), branches)
            return losses(data._replace(branches=of_branch, pixel_weights=pixel_weights))

        # Decodes are kept, or discriminators would have the decoder run twice for nothing.
        keep = jax.checkpoint_policies.save_only_these_names("decodes")
        each = lax.map(jax.checkpoint(one, policy=keep), jnp.arange(len(branches.weights)))
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)

    def encode(
        self,
        params: Params,
        images: Float[Array, "B H W 3"],
        recoloured: Float[Array, "B H W 3"] | None = None,
    ) -> Codes:
        """Style of the images, and structure of the recoloured ones where there are any."""
        structure, style = self._model(params).encode(images)
        if recoloured is not None:
            structure, _ = self._model(params).encode(recoloured)
        return Codes(structure, style)

    def rec_and_mix(
        self, params: Params, codes: Codes, share: Share
    ) -> tuple[Float[Array, "b K H W 3"], Float[Array, "c K H W 3"]]:
        """Reconstructions, and neighbours' structures swapped in pairs under their own styles."""
        rec = Codes(*(leading(code, self.config.reconstructed) for code in codes))
        mixed = self.mixed(*share.targets.shape[2:4])
        mix = Codes(*(leading(code, mixed) for code in codes))
        if mixed:
            pairs = codes.structure.reshape(-1, 2, *codes.structure.shape[1:])
            swapped = jnp.flip(pairs, axis=1).reshape(codes.structure.shape)
            mix = mix._replace(structure=leading(swapped, mixed))
        noise = share.noise and {
            name: maps.reshape(-1, *maps.shape[2:]) for name, maps in share.noise.items()
        }
        decoded = self._model(params).decode_branches(
            jnp.concatenate([rec.structure, mix.structure]),
            jnp.concatenate([rec.style, mix.style]),
            share.branches.channel_masks,
            noise,
        )
        decoded = checkpoint_name(decoded, "decodes")
        return decoded[: len(rec.style)], decoded[len(rec.style) :]

    def _generator_losses(self, params: Params, codes: Codes, share: Share) -> Losses:
        """Losses of encoder and decoder: L1(rec) + 0.5 GAN(rec) + GAN(mix) + patch(mix).

        Takes two crops: of the targets (reference side) and of the mixes.
        """
        cfg = self.config
        average = partial(_average, share.branches)
        rec, mix = self.rec_and_mix(params, codes, share)
        targets = leading(share.targets, cfg.reconstructed)
        losses = {}
        if cfg.l1:
            error = self._error(rec, targets)
            if share.pixel_weights is not None:
                error *= leading(share.pixel_weights, cfg.reconstructed)
            error = average(jnp.mean(error, axis=(2, 3, 4)))
            losses[f"G_{cfg.reconstruction.upper()}"] = cfg.l1 * jnp.mean(error)
        if cfg.perceptual:
            flat = (x.reshape(-1, *x.shape[2:]) for x in (rec, targets))
            distance = lpips(self.perceptual, *flat).reshape(rec.shape[:2])
            losses["G_LPIPS"] = cfg.perceptual * jnp.mean(average(distance))
        if cfg.gan:
            logits = self._image_logits(params, jnp.concatenate([rec, mix]))
            losses["G_GAN_rec"] = 0.5 * cfg.gan * average(real(logits[: len(rec)]))
            losses["G_GAN_mix"] = cfg.gan * average(real(logits[len(rec) :]))
        if cfg.patch:
            references = (share.targets, share.crops[0])
            reference = self._patch_features(params, *_as_many(references, mix))
            features = self._patch_features(params, mix, _as_many(share.crops[1], mix))
            logits = self._same_style_logits(params, lax.stop_gradient(reference), features)
            losses["G_mix"] = cfg.patch * average(real(logits))
        return losses

    def _discriminator_losses(self, params: Params, codes: Codes, share: Share) -> Losses:
        """Losses of the discriminators: real + 0.5 rec + 0.5 mix, and real and mixed patches.

        Takes three crops: of the targets (reference side), of the targets again, of the mixes.
        """
        cfg = self.config
        average = partial(_average, share.branches)
        rec, mix = self.rec_and_mix(params, codes, share)
        losses = {}
        if cfg.gan:
            pictures = (share.targets, rec, mix)
            logits = self._image_logits(params, jnp.concatenate(pictures))
            ends = np.cumsum([len(picture) for picture in pictures])[:-1]
            of_real, of_rec, of_mix = jnp.split(logits, ends, axis=0)
            losses["D_real"] = cfg.gan * average(real(of_real))
            losses["D_rec"] = 0.5 * cfg.gan * average(fake(of_rec))
            losses["D_mix"] = 0.5 * cfg.gan * average(fake(of_mix))
        if cfg.patch:
            crops = share.crops
            reference = self._patch_features(params, share.targets, crops[0])
            same = self._patch_features(params, share.targets, crops[1])
            mixed = self._patch_features(params, mix, _as_many(crops[2], mix))
            same = self._same_style_logits(params, reference, same)
            mixed = self._same_style_logits(params, _as_many(reference, mix), mixed)
            losses["PatchD_real"] = cfg.patch * average(real(same))
            losses["PatchD_mix"] = cfg.patch * average(fake(mixed))
        return losses

    def _gradient_penalty(self, params: Params, codes: Codes, share: Share) -> Losses:
        """R1: 0.5 r1 |grad D|^2 + 0.25 patch_r1 (|grad real crop|^2 + |grad target crop|^2).

        Takes two crops of the targets and no decode. Lazy regularisation multiplies it by
        `r1_every`.
        """
        del codes
        cfg = self.config
        penalty = jnp.zeros(share.targets.shape[:2])
        if cfg.gan:
            gradient = jax.grad(lambda x: jnp.sum(self._image_logits(params, x)))(share.targets)
            penalty += 0.5 * cfg.r1 * jnp.sum(jnp.square(gradient), axis=(2, 3, 4))
        if cfg.patch:

            def logits(patches):
                reference, other = (self._features(params, patch) for patch in patches)
                return jnp.sum(self._same_style_logits(params, reference, other))

            gradients = jax.grad(logits)([self._patches(share.targets, c) for c in share.crops])
            for gradient in gradients:
                square = jnp.sum(jnp.square(gradient), axis=(2, 3, 4, 5))
                penalty += 0.25 * cfg.patch_r1 * square
        return {"D_R1": _average(share.branches, penalty)}

    def _error(self, rec, targets) -> Float[Array, "b K H W 3"]:
        """How far decodes are from targets."""
        if self.config.reconstruction == "l1":
            return jnp.abs(rec - targets)
        return jax.nn.softplus(-2.0 * targets * rec)

    def _model(self, params: Params) -> Autoencoder:
        return Autoencoder(
            params["encoder"], params["decoder"], self.autoencoder, self.remat != "none"
        )

    def _apply(self, network: str, params: Params, *inputs: Array, **options: Any) -> Array:
        dtype = jnp.dtype(self.autoencoder.dtype)
        module = self.architecture.module(network, dtype, self.remat != "none")
        return module.apply({"params": params[network]}, *inputs, **options)

    def _image_logits(self, params: Params, images: Float[Array, "B K H W 3"]):
        flat = images.reshape(-1, *images.shape[2:])
        return self._apply("image_discriminator", params, flat).reshape(images.shape[:2])

    def _patches(self, images: Float[Array, "B K H W 3"], crops: Crops):
        return take_crops(images, crops, self.architecture.patch_discriminator.patch_size)

    def _features(self, params: Params, patches: Float[Array, "B K N P P 3"]):
        flat = patches.reshape(-1, *patches.shape[3:])
        features = self._apply("patch_discriminator", params, flat, method="features")
        return features.reshape(*patches.shape[:3], *features.shape[1:])

    def _patch_features(self, params: Params, images: Float[Array, "B K H W 3"], crops: Crops):
        return self._features(params, self._patches(images, crops))

    def _same_style_logits(self, params: Params, reference, other) -> Float[Array, "B K N"]:
        """Compares each of `other`'s features with the mean of `reference`'s, image by image."""
        mean = jnp.broadcast_to(jnp.mean(reference, axis=2, keepdims=True), other.shape)
        flat = (features.reshape(-1, *other.shape[3:]) for features in (mean, other))
        logits = self._apply("patch_discriminator", params, *flat, method="compare")
        return logits.reshape(other.shape[:3])


def leading(x: Shaped[Array, "B ..."], share: float) -> Shaped[Array, "b ..."]:
    """The first samples, to this share of them, of every four neighbours.

    Shards of a batch that are multiples of four so take those that the whole batch would. A batch
    that is no multiple of four is one block.
    """
    block = 4 if len(x) % 4 == 0 else len(x)
    blocks = x.reshape(-1, block, *x.shape[1:])[:, : math.ceil(block * share)]
    return blocks.reshape(-1, *x.shape[1:])


def _as_many(tree: Any, mix: Float[Array, "c K H W 3"]) -> Any:
    """Of a tree with all samples, those that were mixed: all, or half of them."""
    return jax.tree.map(lambda x: leading(x, len(mix) / len(x)), tree)


def _average(branches: Branches, losses: Float[Array, "B K *N"]) -> Float[Array, "..."]:
    """Sum over branches by their weights; samples and crops become one axis."""
    return jnp.einsum("bk...,k->b...", losses, branches.weights).reshape(-1)


def real(logits: Array) -> Array:
    """Softplus loss of logits that should say real."""
    return jax.nn.softplus(-logits)


def fake(logits: Array) -> Array:
    """Softplus loss of logits that should say fake."""
    return jax.nn.softplus(logits)


def total(losses: Losses) -> Float[Array, ""]:
    """The loss: the sum of its terms' means."""
    return sum(jnp.mean(term) for term in losses.values())
