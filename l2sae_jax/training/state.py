"""What training carries from step to step, and the optimisers that change it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Int

from l2sae_jax.checkpoints import DISCRIMINATORS
from l2sae_jax.configuration import from_dict
from l2sae_jax.metrics.perceptual import load_lpips
from l2sae_jax.model import AutoencoderConfig
from l2sae_jax.nn import Architecture
from l2sae_jax.objectives import Objective, ObjectiveConfig
from l2sae_jax.parallel import split_shardings, whole
from l2sae_jax.training.scaling import Scaling, make_scaling

GENERATOR = ("encoder", "decoder")

Params = dict[str, Any]


@struct.dataclass
class TrainState:
    """A training run between two steps.

    Attributes:
      step: batches seen.
      generator, discriminator: parameters `{network: tree}` of either side.
      generator_optimizer, discriminator_optimizer: their Adam states.
      average: exponential moving average of `generator`, or None.
    """

    step: Int[Array, ""]
    generator: Params
    discriminator: Params
    generator_optimizer: Any
    discriminator_optimizer: Any
    average: Params | None

    @property
    def parameters(self) -> Params:
        """Those of all networks."""
        return self.generator | self.discriminator

    @property
    def result(self) -> Params:
        """The encoder and decoder to use: the averaged ones where an average is kept."""
        return self.generator if self.average is None else self.average


@struct.dataclass
class Optimizers:
    """The two Adams (static)."""

    generator: optax.GradientTransformation = struct.field(pytree_node=False)
    discriminator: optax.GradientTransformation = struct.field(pytree_node=False)


def make_objective(config) -> Objective:
    """The objective a training config describes.

    Raises:
      ValueError: fields missing, unknown, or at odds with each other.
    """
    config = config.to_dict()
    nets, kind = config["networks"], config["objective"]["kind"]
    sliced = kind != "smn"
    autoencoder = {
        "encoder": nets["encoder"],
        "decoder": nets["decoder"],
        "image_size": config["data"]["size"],
        "dtype": config.get("dtype", "float32"),
        "framing": config["data"].get("framing", (1.0, 0.0)),
        "slices": config.get("slices") if sliced else None,
        "targets": {"smn": None, "smpn": "masks", "joint": "appearance"}.get(kind),
    }
    if sliced and not config.get("slices"):
        raise ValueError(f"config.slices is missing: objective {kind} needs a slice table")
    objective = from_dict(ObjectiveConfig, config["objective"], "config.objective")
    scaling = make_scaling(config)
    used = {
        "image_discriminator": objective.gan > 0,
        "patch_discriminator": objective.patch > 0,
    }
    for name, needed in used.items():
        if needed and name not in nets:
            raise ValueError(f"config.networks.{name} is missing: its loss has a weight above 0")
    kept = {name: value for name, value in nets.items() if used.get(name, True)}
    return Objective(
        objective,
        from_dict(AutoencoderConfig, autoencoder, "config"),
        from_dict(Architecture, kept, "config.networks"),
        scaling.remat,
        load_lpips("alexnet") if objective.perceptual else None,
    )


def make_optimizers(config, objective: ObjectiveConfig) -> Optimizers:
    """Adam as published: lr 0.002, betas (0, 0.99).

    Lazy regularisation gives the discriminators r1_every + 1 updates for r1_every steps, so their
    rate and the betas' exponents are scaled by r1_every / (r1_every + 1).
    """
    adam = config.optimizer
    lazy = objective.r1_every / (objective.r1_every + 1)
    return Optimizers(
        optax.adam(
            _schedule(config, adam.learning_rate, objective.adversarial), b1=adam.b1, b2=adam.b2
        ),
        optax.adam(adam.learning_rate * lazy, b1=adam.b1**lazy, b2=adam.b2**lazy),
    )


def _schedule(config, learning_rate: float, adversarial: bool):
    """Constant, or falling to zero along a half cosine over the last `cooldown` of the run."""
    cooldown = config.optimizer.get("cooldown", 0.0)
    if not cooldown:
        return learning_rate
    updates = config.images // config.batch_size
    if adversarial:
        updates //= 2
    decay = max(1, round(updates * cooldown))
    return optax.join_schedules(
        [
            optax.constant_schedule(learning_rate),
            optax.cosine_decay_schedule(learning_rate, decay),
        ],
        [updates - decay],
    )


def create_state(params: Params, optimizers: Optimizers, *, average: bool) -> TrainState:
    """The state of a run that starts from these parameters."""
    generator = {name: params[name] for name in GENERATOR}
    discriminator = {name: params[name] for name in DISCRIMINATORS if name in params}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        discriminator=discriminator,
        generator_optimizer=optimizers.generator.init(generator),
        discriminator_optimizer=optimizers.discriminator.init(discriminator),
        # Copied: a step donates its state, and no buffer may be given away twice.
        average=jax.tree.map(jnp.copy, generator) if average else None,
    )


def state_layout(state: TrainState, mesh: Mesh, scaling: Scaling) -> TrainState:
    """The sharding of everything in a state, or in its shapes.

    All of it lies whole on every device but, where they are sharded, the optimisers' states.
    """
    layout = jax.tree.map(lambda _: whole(mesh), state)
    if not scaling.shard_optimizer:
        return layout
    return layout.replace(
        generator_optimizer=split_shardings(state.generator_optimizer, mesh),
        discriminator_optimizer=split_shardings(state.discriminator_optimizer, mesh),
    )


def moving_average(
    average: Params, latest: Params, decay: float, updates: Int[Array, ""]
) -> Params:
    """One step of an exponential moving average.

    The decay rises to its final value as (1 + n) / (10 + n), or the first thousands of averages
    would be mostly the random numbers that training began with.
    """
    decay = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
    return jax.tree.map(lambda a, b: decay * a + (1.0 - decay) * b, average, latest)
