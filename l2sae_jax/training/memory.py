"""What a training config needs of a device's memory, by the compiler's account."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2sae_jax.objectives import KINDS, Kind
from l2sae_jax.parallel import ROWS, make_mesh, whole
from l2sae_jax.training.scaling import check_batch, make_scaling
from l2sae_jax.training.state import create_state, make_objective, make_optimizers, state_layout
from l2sae_jax.training.steps import make_step


class MemoryUse(NamedTuple):
    """Bytes on each device.

    Attributes:
      arguments: the state, which becomes the next state in place, and the batch.
      temporaries: the most that is alive at a time while the step runs.
    """

    arguments: int
    temporaries: int

    @property
    def total(self) -> int:
        """Bytes that a device must have."""
        return self.arguments + self.temporaries


def memory_use(config, kinds: tuple[Kind, ...] = KINDS) -> dict[Kind, MemoryUse]:
    """Compiles steps of a training config for the devices at hand; allocates none of its arrays.

    A compiler for another backend arranges things otherwise. That of CPU counts too much: it widens
    bfloat16 to float32, and blocks that are to be computed again are kept after all.

    Args:
      config: see configs/; its batch is divided among all devices.
      kinds: which steps.
    """
    lowered = lower_steps(config, kinds)
    return {kind: memory_of_step(step.compile()) for kind, step in lowered.items()}


def memory_of_step(compiled: jax.stages.Compiled) -> MemoryUse:
    """What a compiled step needs."""
    found = compiled.memory_analysis()
    fresh = found.output_size_in_bytes - found.alias_size_in_bytes
    return MemoryUse(found.argument_size_in_bytes, found.temp_size_in_bytes + max(0, fresh))


def lower_steps(config, kinds: tuple[Kind, ...] = KINDS) -> dict[Kind, jax.stages.Lowered]:
    """The steps of a training config, traced for the devices at hand, ready to compile.

    Args:
      config: see configs/; its batch is divided among all devices.
      kinds: which steps, as far as the config has them.
    """
    objective, scaling, mesh = make_objective(config), make_scaling(config), make_mesh()
    check_batch(config.batch_size, objective, scaling, mesh.size)
    if not objective.config.adversarial:
        kinds = tuple(kind for kind in kinds if kind == "generator")
    optimizers = make_optimizers(config, objective.config)
    state = jax.eval_shape(
        lambda params: create_state(params, optimizers, average=bool(config.average_decay)),
        objective.architecture.parameter_shapes(),
    )
    layout = state_layout(state, mesh, scaling)
    size, rows = config.data.size, jax.NamedSharding(mesh, ROWS)
    shape = (config.batch_size, size, size)
    arguments = (
        jax.tree.map(_abstract, state, layout),
        {
            "image": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8, sharding=rows),
            "labels": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=rows),
        },
        _abstract(jax.eval_shape(jax.random.key, 0), whole(mesh)),
    )
    return {
        kind: make_step(
            kind,
            objective,
            optimizers,
            mesh,
            layout,
            scaling,
            average_decay=config.average_decay or None,
            colour_jitter=config.data.colour_jitter,
        ).lower(*arguments)
        for kind in kinds
    }


def _abstract(x, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
