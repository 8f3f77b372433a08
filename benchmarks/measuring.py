"""What all benchmarks share: ceilings, timings, and tables that also become JSON."""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from l2sae_jax.training.memory import memory_of_step


class Timing(NamedTuple):
    """One compiled function.

    Attributes:
      compile_s: seconds to trace and compile it.
      median_s, p95_s: seconds of a call.
      memory: bytes of arguments, results and temporaries together.
    """

    compile_s: float
    median_s: float
    p95_s: float
    memory: int


class Compiled(NamedTuple):
    """A function compiled for the shapes of its arguments, and the seconds that took."""

    call: Callable[..., Any]
    seconds: float


def compile_for(function: Callable[..., Any], *arguments) -> Compiled:
    """Compiles a function, for arguments of these shapes or for `jax.ShapeDtypeStruct`s."""
    start = time.perf_counter()
    call = jax.jit(function).lower(*arguments).compile()
    return Compiled(call, time.perf_counter() - start)


def timed(compiled: Compiled, *arguments, seconds: float = 3.0) -> Timing:
    """Calls a function for so many seconds."""
    times = times_of(lambda: compiled.call(*arguments), seconds)
    p95 = times[min(len(times) - 1, round(0.95 * len(times)))]
    memory = memory_of_step(compiled.call).total
    return Timing(compiled.seconds, statistics.median(times), p95, memory)


def times_of(
    call: Callable[[], Any], seconds: float, least: int = 3, most: int = 50
) -> list[float]:
    """Seconds of calls after a first one, sorted, made for so long but neither fewer nor more."""
    times: list[float] = []
    jax.block_until_ready(call())
    while len(times) < least or (sum(times) < seconds and len(times) < most):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return sorted(times)


def measure(function: Callable[..., Any], *arguments, seconds: float = 3.0) -> Timing:
    """Compiles a function and times it."""
    return timed(compile_for(function, *arguments), *arguments, seconds=seconds)


class Ceilings(NamedTuple):
    """What the device reaches on what it does best, in this process.

    Attributes:
      convolution, product: GFLOP/s of a large 3x3 NHWC convolution and of a matrix product.
      copy: GB/s read and written.
    """

    convolution: float
    product: float
    copy: float


def ceilings(dtype: str = "float32") -> Ceilings:
    """Measures them; call it again later to see how steady the machine is."""
    on_cpu = jax.default_backend() == "cpu"
    size, channels, side = (128, 256, 2048) if on_cpu else (256, 512, 8192)
    normal = jax.random.normal
    key = jax.random.key(0)
    x = normal(key, (1 if on_cpu else 8, size, size, channels)).astype(dtype)
    kernel = normal(key, (3, 3, channels, channels)).astype(dtype)

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    matrix = normal(key, (side, side)).astype(dtype)
    vector = jnp.ones((2**25 if on_cpu else 2**30,), jnp.float32)
    return Ceilings(
        2e-9 * 9 * channels * x.size / measure(convolve, x, kernel).median_s,
        2e-9 * side**3 / measure(jnp.matmul, matrix, matrix).median_s,
        2e-9 * vector.nbytes / measure(lambda v: v + 1.0, vector).median_s,
    )


def environment() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


class Report:
    """Prints tables row by row, and writes all of them as JSON after each."""

    def __init__(self, title: str, path: str | None):
        self._path = Path(path) if path else None
        self._content: dict[str, Any] = {"title": title, "environment": environment()}
        print(title)
        print(", ".join(f"{name} {value}" for name, value in environment().items()), flush=True)
        self._columns: tuple[str, ...] = ()

    def note(self, name: str, value: Any) -> None:
        """Prints and keeps a single finding."""
        shown = value._asdict() if hasattr(value, "_asdict") else value
        self._content[name] = shown
        if isinstance(shown, dict):
            shown = ", ".join(f"{key} {number:.4g}" for key, number in shown.items())
        print(f"{name}: {shown}", flush=True)
        self._write()

    def table(self, name: str, columns: tuple[str, ...]) -> None:
        """Begins a table."""
        self._columns = columns
        self._rows: list[dict[str, Any]] = []
        self._content[name] = self._rows
        print(f"\n{name}\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)

    def row(self, *values: Any) -> None:
        """Adds a row to the table."""
        self._rows.append(dict(zip(self._columns, values, strict=True)))
        shown = [_shown(value) for value in values]
        print(f"| {' | '.join(shown)} |", flush=True)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._content, indent=1) + "\n")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def arguments(description: str, **defaults: Any) -> argparse.Namespace:
    """Command line options: lists are comma-separated; `--json=FILE` is always there."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="also write the figures to this file")
    for name, default in defaults.items():
        if isinstance(default, tuple):
            kind = type(default[0])
            parser.add_argument(
                f"--{name}",
                type=lambda text, kind=kind: tuple(kind(part) for part in text.split(",")),
                default=default,
                help=f"by default {','.join(map(str, default))}",
            )
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()
