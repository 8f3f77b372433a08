"""The mesh and the processes, as far as one process with one device shows them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from l2sae_jax.parallel import (
    AXIS,
    ROWS,
    WHOLE,
    failing_together,
    fetch,
    from_first,
    initialise,
    local_copy,
    make_mesh,
    over_shards,
    place,
    row_numbers,
    shard_rows,
    split_shardings,
    whole,
)


@pytest.fixture
def connected(monkeypatch):
    """What JAX would be told; nothing is connected."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(jax.config, "update", lambda *a: None)
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    return calls


def test_one_process_connects_to_nothing(connected, monkeypatch):
    initialise()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    initialise()
    assert connected == []


def test_processes_are_known_by_flags_by_the_environment_or_by_slurm(connected, monkeypatch):
    initialise("host:1", 4, 3)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:2")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    initialise(process_id=1)
    assert [arguments for arguments, _ in connected] == [("host:1", 4, 3), ("host:2", 2, 1)]

    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    initialise()
    assert connected[-1][0] == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", 2, None), "coordinator_address=host:1, num_processes=2 without process_id"),
        ((None, None, 0), "process_id=0 without coordinator_address and num_processes"),
        (("host", 2, 0), "coordinator_address host: expected HOST:PORT"),
        (("host:1", 2, 2), "process_id 2: expected 0 to 1 of 2 processes"),
    ],
)
def test_processes_half_or_wrongly_described_are_refused(given, message, connected):
    with pytest.raises(ValueError, match=message):
        initialise(*given)
    assert connected == []


def test_a_number_in_the_environment_is_one(connected, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES=two: expected a whole number"):
        initialise()


def test_an_error_passes_and_values_come_from_the_first_process():
    assert from_first({"next_index": 3}) == {"next_index": 3} and from_first(None) is None
    with pytest.raises(OSError, match="full"), failing_together():
        raise OSError("full")


def test_arrays_go_to_the_mesh_and_come_back():
    mesh = make_mesh()
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.float64(1)}
    placed = place(tree, whole(mesh))
    split = place(tree, split_shardings(tree, mesh))
    for arrays in (fetch(placed), fetch(split), local_copy(placed)):
        jax.tree.map(np.testing.assert_array_equal, arrays, tree)
    assert split["a"].sharding.spec == PartitionSpec(None, AXIS)
    assert split["b"].sharding.spec == WHOLE


def test_a_function_of_rows_sees_its_own_and_reaches_the_others():
    mesh = make_mesh()

    def centred(scale, rows):
        mean = lax.pmean(jnp.mean(rows), AXIS)
        return scale * (rows - mean), row_numbers(len(rows)), mean

    run = jax.jit(over_shards(centred, mesh, (WHOLE, ROWS), (ROWS, ROWS, WHOLE)))
    rows = shard_rows(np.arange(4.0), mesh)
    centre, numbers, mean = run(place(np.float32(2), whole(mesh)), rows)
    np.testing.assert_array_equal(centre, [-3, -1, 1, 3])
    np.testing.assert_array_equal(numbers, range(4))
    assert mean == 1.5
