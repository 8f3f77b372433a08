"""Configs, and runs of `configs/smoke.py`, in this process and in others."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load_config(name, kind="smn"):
    """What configs/NAME.py gives for "smn", "smpn" or "joint"."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(kind)


def smoke_config(kind="smn", **changes):
    config = load_config("smoke", kind)
    config.images, config.checkpoint_every, config.evaluate_every = 32, 16, 32
    config.log_every = 8
    config.update_from_flattened_dict(changes)
    return config


def log_lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def environment(**changes: str) -> dict[str, str]:
    """That of a program which compiles as quickly as the tests do."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    return os.environ | quick | changes


def start_training(workdir: Path, *flags: str, preexec_fn=None) -> subprocess.Popen:
    """train.py with the smoke config; its one line of errors is the last of stderr."""
    command = [sys.executable, "train.py", *flags]
    if not any(flag.startswith("--config=") for flag in flags):
        command.append("--config=configs/smoke.py")
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec_fn,
    )


def start_processes(workdir: Path, count: int, *flags: str) -> list[subprocess.Popen]:
    """The processes of one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start_training(
            workdir,
            *flags,
            f"--coordinator_address={address}",
            f"--num_processes={count}",
            f"--process_id={index}",
        )
        for index in range(count)
    ]


def finish(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    """Exit code and stderr of a program; it is killed if it takes longer."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    return process.returncode, errors
