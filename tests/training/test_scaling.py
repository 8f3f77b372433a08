"""A step, and a checkpoint, are the same on however many devices and computed in whatever way."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from training_runs import environment, smoke_config

from l2sae_jax.training import memory_use
from l2sae_jax.training.scaling import check_batch, make_scaling
from l2sae_jax.training.state import make_objective


def checked(batch_size, devices, **changes):
    config = smoke_config(**changes)
    check_batch(batch_size, make_objective(config), make_scaling(config), devices)


def test_neighbours_of_four_stay_together_where_a_batch_is_divided():
    checked(2, 1)
    checked(6, 1)
    checked(64, 8, accumulate=2)
    with pytest.raises(ValueError, match=r"config.batch_size 48: expected a multiple of 64, 4 for"):
        checked(48, 8, accumulate=2)
    with pytest.raises(ValueError, match=r"config.batch_size 5: mixing needs an even number"):
        checked(5, 1)


def test_without_neighbours_any_division_will_do():
    alone = {"objective.gan": 0.0, "objective.patch": 0.0, "objective.reconstructed": 1.0}
    checked(1, 1, **alone)
    checked(8, 8, **alone)
    with pytest.raises(ValueError, match="batch_size 6: expected a multiple of 4, 1 for each of 2"):
        checked(6, 2, accumulate=2, **alone)


@pytest.mark.slow
def test_memory_is_counted_without_being_taken():
    config = smoke_config()
    config.objective.update(gan=0.0, patch=0.0)
    (use,) = memory_use(config).values()
    shapes = jax.tree.leaves(make_objective(config).architecture.parameter_shapes())
    networks = 4 * sum(x.size for x in shapes)
    # Parameters, their average, and two moments.
    assert 4 * networks < use.arguments < 4 * networks + 50_000
    assert use.temporaries > networks and use.total == use.arguments + use.temporaries


def on_eight_devices(scope: str, workdir: Path) -> dict[str, float]:
    """Relative differences by case, as on_eight_devices.py finds them."""
    script = Path(__file__).parent / "on_eight_devices.py"
    eight = environment(XLA_FLAGS="--xla_force_host_platform_device_count=8")
    done = subprocess.run(
        [sys.executable, script, scope, workdir], env=eight, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_equal_to_rounding(found: dict[str, float]) -> None:
    assert {case: size for case, size in found.items() if not size < 1e-3} == {}


def test_eight_devices_do_what_one_does(tmp_path):
    found = on_eight_devices("quick", tmp_path)
    assert_equal_to_rounding(found)
    moved = [size for case, size in found.items() if case.startswith("checkpoint")]
    assert moved == [0.0] * 3


@pytest.mark.slow
def test_every_step_is_the_same_in_every_way_of_computing_it(tmp_path):
    found = on_eight_devices("all", tmp_path)
    assert len(found) == 2 * 2 * 3 * 7
    assert_equal_to_rounding(found)
