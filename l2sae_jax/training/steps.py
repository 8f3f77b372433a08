"""The jitted steps: one for each kind of update, and one for validation."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from l2sae_jax.metrics.scores import Sums, mask_sums, reconstruction_sums
from l2sae_jax.model import Autoencoder
from l2sae_jax.objectives import Kind, Objective, branch_targets, pixel_weights, total
from l2sae_jax.parallel import AXIS, ROWS, WHOLE, over_shards, row_numbers, whole
from l2sae_jax.pixels import to_images
from l2sae_jax.regions import REGIONS, region_masks
from l2sae_jax.training.augmentation import Augmentation, augment, jitter_parts
from l2sae_jax.training.scaling import Scaling
from l2sae_jax.training.state import Optimizers, Params, TrainState, moving_average

Batch = dict[str, UInt8[Array, "B H W *C"]]
Terms = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Terms]]

# These set the keys of changed pictures apart from those of the losses.
_AUGMENTATION, _RECOLOURING = 0x617567, 0x726563


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
    mesh: Mesh,
    layout: TrainState,
    scaling: Scaling,
    *,
    average_decay: float | None,
    augmentation: Augmentation,
) -> Step:
    """A jitted update: `(state, batch, key) -> (state, terms)`.

    The state is donated. `terms` holds the mean of every loss term and the norm of the gradient
    of every network trained. Neither the devices nor `scaling` change an update but in rounding.

    Args:
      kind: what it trains.
      objective, optimizers: how.
      mesh: the devices that share every batch.
      layout: the shardings of the state; see `state_layout`.
      scaling: how to compute it.
      average_decay: of the moving average of the generator, None if there is none.
      augmentation: how far to change the pictures.
    """
    side = "generator" if kind == "generator" else "discriminator"
    gradients_of = over_shards(
        partial(_shard_gradients, kind, objective, scaling, augmentation),
        mesh,
        (WHOLE, WHOLE, ROWS, WHOLE),
        WHOLE,
    )

    def step(state: TrainState, batch: Batch, key: Key[Array, ""]):
        trained = getattr(state, side)
        gradients, terms = gradients_of(trained, state.parameters, batch, key)
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
        norms = {
            f"gradient_{kind}_{name}": optax.global_norm(tree) for name, tree in gradients.items()
        }
        return state, terms | norms

    return jax.jit(
        _at_precision(scaling.precision, step),
        donate_argnums=0,
        out_shardings=(layout, whole(mesh)),
    )


def _shard_gradients(
    kind: Kind,
    objective: Objective,
    scaling: Scaling,
    augmentation: Augmentation,
    trained: Params,
    params: Params,
    batch: Batch,
    key: Key[Array, ""],
) -> tuple[Params, Terms]:
    """Gradient and loss terms of the whole batch, of which this device has some rows.

    Every row has random numbers of its own, by its place in the whole batch.
    """
    rows = batch["image"].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_numbers(rows))
    parts = jax.tree.map(lambda x: x.reshape(scaling.accumulate, -1, *x.shape[1:]), (batch, keys))
    # A lazy penalty stands for the steps without one.
    weight = objective.config.r1_every if kind == "penalty" else 1

    def loss(trained, batch, keys):
        inputs = _inputs(kind, objective, augmentation, batch, keys)
        losses = objective.losses(kind, params | trained, *inputs)
        return weight * total(losses), {name: jnp.mean(part) for name, part in losses.items()}

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, jax.grad(loss, has_aux=True)(trained, *part)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(jax.grad(loss, has_aux=True), trained, *first)
    sums, _ = lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)
    return lax.pmean(jax.tree.map(lambda x: x / scaling.accumulate, sums), AXIS)


def _inputs(kind: Kind, objective: Objective, augmentation: Augmentation, batch: Batch, keys):
    """Images, targets, draws and weights of a loss."""

    def keys_for(tag):
        return jax.vmap(jax.random.fold_in, (0, None))(keys, tag)

    images, labels = augment(
        to_images(batch["image"]), batch["labels"], keys_for(_AUGMENTATION), augmentation
    )
    targets = branch_targets(objective.config, images, labels)
    draws = objective.draws(kind, keys, *images.shape[1:3])
    if amount := objective.config.recolouring:
        recoloured = jitter_parts(images, labels, keys_for(_RECOLOURING), amount)
        draws = draws._replace(recoloured=recoloured)
    return images, targets, draws, pixel_weights(objective.config, labels)


def _at_precision(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Traces a function with this precision of matrix products, unless it is the default one."""
    if precision == "default":
        return function

    @wraps(function)
    def traced(*arguments):
        with jax.default_matmul_precision(precision):
            return function(*arguments)

    return traced


def make_validation_step(
    objective: Objective, mesh: Mesh, scaling: Scaling
) -> Callable[[Any, Batch], Sums]:
    """A jitted `(generator parameters, batch) -> sums` for `metrics.summarise`.

    Whole-image reconstruction is scored where the network decodes whole images, masks where it has
    slices.
    """
    autoencoder = objective.autoencoder

    def sums(generator, batch):
        model = Autoencoder(**generator, config=autoencoder)
        images = to_images(batch["image"])
        sums = {}
        if objective.config.kind != "smpn":
            sums |= reconstruction_sums(images, model.decode(*model.encode(images)))
        if autoencoder.slices is not None:
            found = model.region_masks(images, range(len(REGIONS)))
            sums |= mask_sums(found, region_masks(batch["labels"]))
        return lax.psum(sums, AXIS)

    step = over_shards(sums, mesh, (WHOLE, ROWS), WHOLE)
    return jax.jit(_at_precision(scaling.precision, step))
