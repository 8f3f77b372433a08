"""Many devices as one: a mesh with a single axis, "data", over all devices of all processes.

A process is one running Python program with some of the devices. All processes run the same
program; each reads its own rows of every batch, and arrays are global: `jit` sees whole batches,
whichever devices hold their rows. One device is the smallest mesh, not a special case.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

AXIS = "data"

# How an array lies on the mesh: its first axis split over the devices, or all of it on each.
ROWS = PartitionSpec(AXIS)
WHOLE = PartitionSpec()


# Processes ---------------------------------------------------------------------------------------


def initialise(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connects the processes of a run; before JAX is used, and nothing where there is but one.

    What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    where nothing is given at all and SLURM started several tasks, JAX asks SLURM, and each task
    then has the GPU of its own number.

    Args:
      coordinator_address: HOST:PORT where process 0 listens.
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      ValueError: only some of the three are given, or they cannot be; in one line.
    """
    address = coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _whole_number(num_processes, "JAX_NUM_PROCESSES")
    index = _whole_number(process_id, "JAX_PROCESS_ID")
    given = {"coordinator_address": address, "num_processes": count, "process_id": index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            _connect()
        return
    if missing:
        known = ", ".join(f"{name}={given[name]}" for name in given if name not in missing)
        raise ValueError(
            f"{known} without {' and '.join(missing)}: give all three, as flags or as JAX_"
            "COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        )
    if not address.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator_address {address}: expected HOST:PORT")
    if not 0 <= index < count:
        raise ValueError(f"process_id {index}: expected 0 to {count - 1} of {count} processes")
    # Undetected, a process would take but one GPU wherever SLURM's variables are about.
    _connect(address, count, index, cluster_detection_method="deactivate")


def _connect(*arguments: Any, **options: Any) -> None:
    # SIGTERM is the program's to answer, and whoever is left behind by a crash shall not wait long.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*arguments, shutdown_timeout_seconds=30, **options)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the processes could not be connected: {reason}") from error


def _whole_number(value: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if value is not None or text is None:
        return value
    if not text.isdigit():
        raise ValueError(f"{variable}={text}: expected a whole number")
    return int(text)


def is_first() -> bool:
    """Whether this is process 0, which alone writes files and messages."""
    return jax.process_index() == 0


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Lets an error that one process meets within stop them all, instead of being waited for.

    Every process must enter, and none may within wait for another.

    Raises:
      ValueError: on processes without an error of their own, naming the process that had one.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages = _texts_of_all(" ".join(str(error).split()) or repr(error) if error else "")
    if error is not None:
        raise error
    for process, message in enumerate(messages):
        if message:
            raise ValueError(f"process {process} stopped: {message}")


def from_first(value: Any) -> Any:
    """What process 0 calls this with, on every process; a value that JSON can hold."""
    return json.loads(_texts_of_all(json.dumps(value))[0])


def _texts_of_all(text: str) -> list[str]:
    data = np.frombuffer(text.encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(data.size))))
    rows = multihost_utils.process_allgather(np.pad(data, (0, longest - data.size)))
    return [bytes(row).rstrip(b"\0").decode() for row in rows]


# Arrays ------------------------------------------------------------------------------------------


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over these devices, by default all devices of all processes.

    Those of one process lie next to each other, so that its rows of a batch do.
    """
    devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def shard_rows(local: Any, mesh: Mesh) -> Any:
    """A global batch of which every process gives its own rows.

    Args:
      local: a tree of arrays `[b, ...]`; process p has rows `[p * b : (p + 1) * b]`.
      mesh: on each of its devices then lie equally many rows.
    """
    rows = NamedSharding(mesh, ROWS)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(rows, np.asarray(x)), local
    )


def place(tree: Any, shardings: Any) -> Any:
    """Global arrays of a tree that every process has as a whole.

    Args:
      tree: arrays.
      shardings: a sharding for each of them, or one for all.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def one(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(one, tree, shardings)


def fetch(tree: Any) -> Any:
    """The whole of every global array, as numpy arrays on every process; all call it."""

    def one(x):
        if x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)


def local_copy(tree: Any) -> Any:
    """Arrays that lie whole on every device, as arrays of this process's first; none is copied."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def whole(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that lie whole on every device."""
    return NamedSharding(mesh, WHOLE)


def split_shardings(tree: Any, mesh: Mesh) -> Any:
    """A sharding for every array, or shape, that gives each device an equal part where it can.

    It splits the longest axis that the number of devices divides; without one, as with scalars, the
    array is whole on every device.
    """

    def one(x):
        divisible = [axis for axis, size in enumerate(x.shape) if size % mesh.size == 0]
        if not divisible:
            return whole(mesh)
        longest = max(divisible, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, AXIS))

    return jax.tree.map(one, tree)


# Functions ---------------------------------------------------------------------------------------


def over_shards(
    function: Callable[..., Any], mesh: Mesh, inputs: Sequence[PartitionSpec], outputs: Any
) -> Callable[..., Any]:
    """A function of global arrays that runs `function` on every device's part of them.

    Within it `lax.pmean` and the like over `AXIS` reach the other devices. To be called within
    `jit`.

    Args:
      function: of one device's rows of some arguments and the whole of others.
      mesh: the devices.
      inputs: `ROWS` or `WHOLE` for each argument.
      outputs: the same for the result, or for each part of it; what is `WHOLE` must be equal on all
        devices.
    """
    # Unchecked: neither custom gradients nor branches by platform say over which axes they vary.
    return jax.shard_map(
        function, mesh=mesh, in_specs=tuple(inputs), out_specs=outputs, check_vma=False
    )


@contextlib.contextmanager
def computing(batch_size: int) -> Iterator[None]:
    """Raises ValueError, in one line, where a batch cannot be computed, for want of memory say."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"a batch of {batch_size} cannot be computed, try a smaller one: "
            f"{str(error).splitlines()[0]}"
        ) from error


def row_numbers(count: int) -> Int[Array, " count"]:
    """Positions in the global batch of this device's `count` rows; within `over_shards`."""
    return lax.axis_index(AXIS) * count + jnp.arange(count)
