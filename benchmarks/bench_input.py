"""Times the input pipeline alone, against what a training step needs.

python benchmarks/bench_input.py --json=input.json                             # drawn faces
python benchmarks/bench_input.py --data_dir=data --source=CelebAMask-HQ.zip    # records

A pipeline keeps up if it reads more images a second than the fastest step takes: those are timed
too, with the networks that `bench_train.py` uses, on all devices of this machine.
"""

import time

import jax
import ml_collections
from measuring import Report, arguments
from training_cases import config_for, first_state, load_config, median_seconds, random_batch

from l2sae_jax.data.pipeline import make_pipeline
from l2sae_jax.data.sources import open_source
from l2sae_jax.parallel import make_mesh, shard_rows
from l2sae_jax.training.memory import lower_steps


def main() -> None:
    on_cpu = jax.default_backend() == "cpu"
    options = arguments(
        __doc__,
        sizes=(64, 128, 256),
        threads=(1, 4, 16),
        step_sizes=(64,) if on_cpu else (64, 128, 256),
        dtype="float32" if on_cpu else "bfloat16",
        batch=16 * jax.device_count(),
        seconds=5.0,
        data_dir="",
        source="",
    )
    report = Report("Input pipeline", options.json)
    report.table("Images read", ("data", "size", "threads", "batch", "images/s", "MB/s of pixels"))
    fastest = {}
    for size in options.sizes:
        for threads in options.threads:
            name = "celebamask_hq" if options.data_dir else "synthetic"
            data = load_config("smoke", "smn").data.to_dict()
            data |= {"name": name, "size": size, "length": 2_000}
            data |= {"data_dir": options.data_dir, "source": options.source}
            rate = images_per_second(data, threads, options)
            megabytes = rate * 4 * size * size / 1e6
            report.row(name, size, threads, options.batch, rate, megabytes)
            fastest[size] = max(rate, fastest.get(size, 0.0))
    report.table("Images taken by a step of the SMN", ("size", "step", "images/s", "read / taken"))
    for size in options.step_sizes:
        config = config_for(size, "smn", options.dtype)
        config.batch_size, config.accumulate = options.batch, 1
        batch, state = shard_rows(random_batch(config), make_mesh()), first_state(config)
        for kind, step in lower_steps(config, ("generator", "discriminator")).items():
            seconds, state = median_seconds(step.compile(), state, batch, options.seconds)
            taken = options.batch / seconds
            read = fastest[size] / taken if size in fastest else None
            report.row(size, kind, taken, read)


def images_per_second(data: dict, threads: int, options) -> float:
    """How fast batches come, after the first ones."""
    source = open_source(ml_collections.ConfigDict(data), "train")
    pipeline = make_pipeline(source, batch_size=options.batch, seed=0, threads=threads)
    for _ in range(4):
        next(pipeline)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds:
        next(pipeline)
        count += options.batch
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
