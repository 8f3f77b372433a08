"""Runs of several processes, signals to them, and a disk that is full."""

import errno
import os
import resource
import signal
import time

import pytest
from training_runs import finish, log_lines, start_processes, start_training

from l2sae_jax.training.checkpointing import DiskFullError, telling_of_a_full_disk

# L1 alone compiles in seconds; batches of eight leave each of two processes four rows.
QUICK = (
    "--config=configs/smoke.py",
    *("--config.objective.gan=0", "--config.objective.patch=0", "--config.batch_size=8"),
    *("--config.log_every=8", "--config.evaluate_every=8000", "--config.checkpoint_every=8000"),
)
SHARDED = "--config.shard_optimizer"
ALL_LOSSES = ("--config=configs/smoke.py", "--config.batch_size=8", "--config.log_every=8")


def losses(workdir):
    return [
        {name: value for name, value in line.items() if name != "images_per_second"}
        for line in log_lines(workdir)
    ]


def assert_same_losses(one, other):
    one, other = losses(one), losses(other)
    assert [sorted(line) for line in one] == [sorted(line) for line in other]
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def wait_until(condition, processes, seconds=300):
    """Waits for a run to come somewhere."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        codes = [process.poll() for process in processes]
        assert codes == [None] * len(codes), processes[0].stderr.read()
        time.sleep(0.05)


def steps_logged(workdir):
    return log_lines(workdir)[-1]["step"] if (workdir / "metrics.jsonl").exists() else 0


@pytest.mark.slow
def test_two_processes_stop_at_one_step_and_one_goes_on_as_if_alone(tmp_path):
    workdir = tmp_path / "two"
    processes = start_processes(workdir, 2, *QUICK, "--config.images=800000", SHARDED)
    wait_until(lambda: steps_logged(workdir) >= 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    ends = [finish(process) for process in processes]
    assert [code for code, _ in ends] == [os.EX_TEMPFAIL] * 2
    (saved,) = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    for _, errors in ends:
        assert errors.splitlines()[-1] == (
            f"train.py: stopped by SIGTERM at step {saved}, saved in {workdir}; "
            "the same command continues"
        )
    assert steps_logged(workdir) == saved

    longer = f"--config.images={8 * (saved + 3)}"
    for run in (workdir, tmp_path / "alone"):
        code, errors = finish(start_training(run, *QUICK, longer))
        assert code == 0, errors
    assert_same_losses(workdir, tmp_path / "alone")


def test_an_error_of_one_process_ends_both(tmp_path):
    (tmp_path / "config.json").write_text('{"format": 1, "weights": "weights-00000000"}')
    processes = start_processes(tmp_path, 2, *QUICK)
    ends = [finish(process) for process in processes]
    assert [code for code, _ in ends] == [1, 1]
    first, second = (errors.splitlines()[-1] for _, errors in ends)
    assert first.startswith(f"train.py: error: {tmp_path} holds a saved model")
    assert second.startswith(f"train.py: error: process 0 stopped: {tmp_path} holds a saved model")


def test_whatever_a_library_says_of_a_full_disk_becomes_a_line(tmp_path):
    def full():
        try:
            raise RuntimeError(f"write failed [{os.strerror(errno.ENOSPC)}]\nin some file")
        except RuntimeError as error:
            raise ValueError("a screenful") from error

    with (
        pytest.raises(DiskFullError, match="No space left on device; none was saved yet: make"),
        telling_of_a_full_disk(tmp_path),
    ):
        full()
    for name in ("9", "10", "11.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    with (
        pytest.raises(DiskFullError, match=f"{tmp_path}: .*; checkpoint 10 is intact: make room"),
        telling_of_a_full_disk(tmp_path),
    ):
        full()
    with pytest.raises(KeyError), telling_of_a_full_disk(tmp_path):
        raise KeyError("another matter")


@pytest.mark.slow
def test_a_full_disk_stops_a_run_which_goes_on_later(tmp_path):
    def no_large_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))

    assert finish(start_training(tmp_path, *QUICK, "--config.images=16"))[0] == 0
    # Saved at step 3 already, before the last one and its picture.
    longer = (*QUICK, "--config.images=32", "--config.checkpoint_every=24")
    code, errors = finish(start_training(tmp_path, *longer, preexec_fn=no_large_files))
    assert code == 1 and "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        f"train.py: error: {tmp_path}: File too large; checkpoint 2 is intact: make room, and the "
        "same command continues from there"
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    code, errors = finish(start_training(tmp_path, *longer))
    assert code == 0, errors
    assert steps_logged(tmp_path) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "num_processes=2 without coordinator_address and process_id: give"),
        (["--process_id=0", "--num_processes=1"], "without coordinator_address: give all three"),
    ],
)
def test_processes_half_described_are_refused(flags, message, tmp_path):
    code, errors = finish(start_training(tmp_path / "run", *flags))
    (line,) = errors.splitlines()
    assert code == 1 and line.startswith("train.py: error: ") and message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_all_losses_as_one_does(tmp_path):
    flags = (*ALL_LOSSES, "--config.images=64")
    for process in start_processes(tmp_path / "two", 2, *flags):
        assert finish(process)[0] == 0
    assert finish(start_training(tmp_path / "one", *flags))[0] == 0
    assert_same_losses(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_after_a_kill_of_one_process_both_go_on_from_the_checkpoint(victim, tmp_path):
    workdir = tmp_path / "two"
    flags = (*QUICK, "--config.checkpoint_every=40")
    processes = start_processes(workdir, 2, *flags, "--config.images=800000")
    wait_until(lambda: (workdir / "checkpoints" / "5").exists(), processes)
    processes[victim].kill()
    codes = [finish(process)[0] for process in processes]
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] != 0

    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir()) + 10
    for run, count in ((workdir, 2), (tmp_path / "alone", 1)):
        ends = map(finish, start_processes(run, count, *flags, f"--config.images={8 * last}"))
        assert [code for code, _ in ends] == [0] * count
    assert_same_losses(workdir, tmp_path / "alone")
