"""What a training config needs of a device's memory, by the compiler's account."""

import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from l2sae_jax.objectives import KINDS, Kind
from l2sae_jax.parallel import ROWS, make_mesh
from l2sae_jax.training.augmentation import make_augmentation
from l2sae_jax.training.evaluation import COLUMNS, evaluation_batch_size
from l2sae_jax.training.logging import make_grid_step
from l2sae_jax.training.scaling import check_batch, make_scaling
from l2sae_jax.training.state import (
    TrainState,
    create_state,
    make_objective,
    make_optimizers,
    state_layout,
)
from l2sae_jax.training.steps import make_step, make_validation_step


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


def memory_use(
    config, kinds: tuple[Kind, ...] = KINDS, mesh: Mesh | None = None
) -> dict[Kind, MemoryUse]:
    """Compiles steps of a training config; allocates none of their arrays.

    A compiler for another backend arranges things otherwise. That of CPU counts too much: it widens
    bfloat16 to float32, and blocks that are to be computed again are kept after all.

    Args:
      config: see configs/; its batch is divided among all devices.
      kinds: which steps.
      mesh: the devices to compile for, by default those at hand; others are to be had from
        `jax.experimental.topologies.get_topology_desc`.
    """
    lowered = lower_steps(config, kinds, mesh)
    return {kind: memory_of_step(step.compile()) for kind, step in lowered.items()}


def memory_of_step(compiled: jax.stages.Compiled) -> MemoryUse:
    """What a compiled step needs."""
    found = compiled.memory_analysis()
    fresh = found.output_size_in_bytes - found.alias_size_in_bytes
    return MemoryUse(found.argument_size_in_bytes, found.temp_size_in_bytes + max(0, fresh))


def evaluation_memory_use(config, available: int, mesh: Mesh | None = None) -> dict[str, MemoryUse]:
    """The same for the scores ("validation") and the picture ("grid") between training steps.

    Args:
      config: see configs/.
      available: how many validation images there are.
      mesh: the devices to compile for, by default those at hand.
    """
    objective, scaling, mesh = make_objective(config), make_scaling(config), mesh or make_mesh()
    state = abstract_state(config, mesh)
    scored = evaluation_batch_size(config, available, mesh.size)
    shown = min(COLUMNS, config.evaluate_images, available)
    first = next(d for d in mesh.devices.flat if d.process_index == jax.process_index())
    alone = jax.sharding.SingleDeviceSharding(first)
    copies = jax.tree.map(lambda x: _abstract(x, alone), state.result)
    rows = jax.NamedSharding(mesh, ROWS)
    lowered = {
        "validation": make_validation_step(objective, mesh, scaling).lower(
            state.result, _abstract_batch(scored, config.data.size, rows)
        ),
        "grid": make_grid_step(objective).lower(
            copies, _abstract_batch(shown, config.data.size, None)
        ),
    }
    uses = {name: memory_of_step(step.compile()) for name, step in lowered.items()}
    # All of the state stays where it is meanwhile.
    rest = bytes_on_device(state) - bytes_on_device(state.result)
    return {name: MemoryUse(rest + use.arguments, use.temporaries) for name, use in uses.items()}


def lower_steps(
    config, kinds: tuple[Kind, ...] = KINDS, mesh: Mesh | None = None
) -> dict[Kind, jax.stages.Lowered]:
    """The steps of a training config, traced and ready to compile.

    Args:
      config: see configs/; its batch is divided among all devices.
      kinds: which steps, as far as the config has them.
      mesh: the devices to compile for, by default those at hand.
    """
    objective, scaling, mesh = make_objective(config), make_scaling(config), mesh or make_mesh()
    check_batch(config.batch_size, objective, scaling, mesh.size)
    if not objective.config.adversarial:
        kinds = tuple(kind for kind in kinds if kind == "generator")
    state = abstract_state(config, mesh)
    arguments = (
        state,
        _abstract_batch(config.batch_size, config.data.size, jax.NamedSharding(mesh, ROWS)),
        # On no mesh, as in the loop, which else would not find in the cache what is compiled here.
        jax.eval_shape(jax.random.key, 0),
    )
    return {
        kind: make_step(
            kind,
            objective,
            make_optimizers(config, objective.config),
            mesh,
            jax.tree.map(lambda x: x.sharding, state),
            scaling,
            average_decay=config.average_decay or None,
            augmentation=make_augmentation(config),
        ).lower(*arguments)
        for kind in kinds
    }


def abstract_state(config, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state of a run; no array is allocated."""
    objective, scaling = make_objective(config), make_scaling(config)
    optimizers = make_optimizers(config, objective.config)
    state = jax.eval_shape(
        lambda params: create_state(params, optimizers, average=bool(config.average_decay)),
        objective.architecture.parameter_shapes(),
    )
    return jax.tree.map(_abstract, state, state_layout(state, mesh, scaling))


def bytes_on_device(tree: Any) -> int:
    """What arrays, or shapes with shardings, take on each device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def device_memory() -> int:
    """Bytes that JAX may use on each of this process's devices; on CPU they share the machine's."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return limit
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


def _abstract_batch(images: int, size: int, sharding) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {"image": (images, size, size, 3), "labels": (images, size, size)}
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding)
        for name, shape in shapes.items()
    }


def _abstract(x, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
