"""The jitted steps: one for each kind of update, and one for validation."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, UInt8

from l2sae_jax.metrics.scores import Sums, mask_sums, reconstruction_sums
from l2sae_jax.model import Autoencoder
from l2sae_jax.objectives import Losses, Objective, branch_targets, total
from l2sae_jax.pixels import to_images
from l2sae_jax.regions import REGIONS, region_masks
from l2sae_jax.training.augmentation import jitter_colours
from l2sae_jax.training.state import Optimizers, TrainState, moving_average

Kind = Literal["generator", "discriminator", "penalty"]
Batch = dict[str, UInt8[Array, "B H W *C"]]
Terms = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Terms]]

# These set the keys of colours apart from those of the losses.
_JITTER, _RECOLOURING = 0x6A6974, 0x726563

# How many crops each kind of step takes of every picture.
_CROP_CALLS = {"generator": 2, "discriminator": 3, "penalty": 2}


def kinds_of_step(step: int, objective: Objective) -> tuple[Kind, ...]:
    """What batch number `step` trains: discriminators and autoencoder in turn.

    Every `r1_every`-th discriminator batch also takes a gradient penalty step.
    """
    if not objective.config.adversarial or step % 2:
        return ("generator",)
    penalised = (step // 2) % objective.config.r1_every == 0
    return ("discriminator", "penalty") if penalised else ("discriminator",)


def make_step(
    kind: Kind,
    objective: Objective,
    optimizers: Optimizers,
    *,
    average_decay: float | None,
    colour_jitter: float,
) -> Step:
    """A jitted update: `(state, batch, key) -> (state, terms)`.

    The state is donated. `terms` holds the mean of every loss term and the norm of the gradient
    of every network trained.
    """
    cfg = objective.config

    def losses(trained, state: TrainState, images, targets, draws) -> Losses:
        params = state.generator | state.discriminator | trained
        if kind == "generator":
            return objective.generator_losses(params, images, targets, draws)
        if kind == "discriminator":
            return objective.discriminator_losses(params, images, targets, draws)
        return objective.gradient_penalty(params, targets, draws.crops)

    def step(state: TrainState, batch: Batch, key: Key[Array, ""]):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch["image"].shape[0]))
        images = to_images(batch["image"])
        if colour_jitter:
            jitter_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _JITTER)
            images = jitter_colours(images, jitter_keys, colour_jitter)
        targets = branch_targets(cfg, images, batch["labels"])
        scale = objective.autoencoder.encoder.downsampling
        grid = (images.shape[1] // scale, images.shape[2] // scale)
        draws = objective.draws(keys, grid, _CROP_CALLS[kind])
        if cfg.recolouring:
            recolour_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _RECOLOURING)
            draws = draws._replace(
                recoloured=jitter_colours(images, recolour_keys, cfg.recolouring)
            )

        def loss(trained):
            parts = losses(trained, state, images, targets, draws)
            # A lazy penalty stands for the steps without one.
            weight = cfg.r1_every if kind == "penalty" else 1
            return weight * total(parts), parts

        side = "generator" if kind == "generator" else "discriminator"
        trained = getattr(state, side)
        gradients, parts = jax.grad(loss, has_aux=True)(trained)
        updates, optimizer_state = getattr(optimizers, side).update(
            gradients, getattr(state, f"{side}_optimizer"), trained
        )
        trained = optax.apply_updates(trained, updates)
        state = state.replace(**{side: trained, f"{side}_optimizer": optimizer_state})
        if kind != "penalty":
            state = state.replace(step=state.step + 1)
        if kind == "generator" and average_decay is not None:
            average = moving_average(state.average, trained, average_decay, state.step)
            state = state.replace(average=average)
        terms = {name: jnp.mean(part) for name, part in parts.items()}
        norms = {
            f"gradient_{kind}_{name}": optax.global_norm(tree) for name, tree in gradients.items()
        }
        return state, terms | norms

    return jax.jit(step, donate_argnums=0)


def make_validation_step(objective: Objective) -> Callable[[Any, Batch], Sums]:
    """A jitted `(generator parameters, batch) -> sums` for `metrics.summarise`.

    Whole-image reconstruction is scored where the network decodes whole images, masks where it has
    slices.
    """
    autoencoder = objective.autoencoder

    def step(generator, batch):
        model = Autoencoder(**generator, config=autoencoder)
        images = to_images(batch["image"])
        sums = {}
        if objective.config.kind != "smpn":
            sums |= reconstruction_sums(images, model.decode(*model.encode(images)))
        if autoencoder.slices is not None:
            found = model.region_masks(images, range(len(REGIONS)))
            sums |= mask_sums(found, region_masks(batch["labels"]))
        return sums

    return jax.jit(step)
