"""Times training steps: of both networks, by size, with and without rematerialisation.

python benchmarks/bench_train.py --json=train.json
python benchmarks/bench_train.py --sizes=256,512 --batch=16 --dtypes=bfloat16

The networks are those of configs/portraits_128.py at 64 px, and those of the paper's setting above.
GFLOP are XLA's count for the step without rematerialisation, so that a share of the ceiling does
not rise by computing things twice. `--memory_only` compiles, and reports what a device needs,
without running: for sizes that this machine could not hold.
"""

import time

import jax
from measuring import Report, arguments, ceilings
from training_cases import config_for, first_state, median_seconds, random_batch

from l2sae_jax.parallel import make_mesh, shard_rows
from l2sae_jax.training.memory import lower_steps, memory_of_step


def main() -> None:
    on_cpu = jax.default_backend() == "cpu"
    options = arguments(
        __doc__,
        sizes=(64, 128) if on_cpu else (64, 128, 256, 512),
        networks=("smn", "smpn"),
        remat=("none", "blocks", "regions"),
        dtypes=("float32",) if on_cpu else ("float32", "bfloat16"),
        batch=8 * jax.device_count(),
        accumulate=1,
        seconds=5.0,
        memory_only=False,
    )
    report = Report(f"Training, {options.batch} images a step", options.json)
    report.table(
        "Steps",
        (
            *("size", "network", "dtype", "remat", "step", "compile s", "state GB", "working GB"),
            *("median s", "images/s", "GFLOP/image", "of convolution"),
        ),
    )
    for dtype in options.dtypes:
        ceiling = None if options.memory_only else ceilings(dtype).convolution
        for size in options.sizes:
            for network in options.networks:
                _bench(report, options, size, network, dtype, ceiling)
        if ceiling:
            report.note(f"ceiling, {dtype}, 3x3 convolution, GFLOP/s", ceiling)


def _bench(report, options, size, network, dtype, ceiling) -> None:
    config = config_for(size, network, dtype)
    config.batch_size, config.accumulate = options.batch, options.accumulate
    batch = shard_rows(random_batch(config), make_mesh())
    work: dict[str, float] = {}
    for remat in options.remat:
        config.remat = remat
        state = None if options.memory_only else first_state(config)
        for kind, step in lower_steps(config).items():
            if kind not in work:
                work[kind] = step.cost_analysis()["flops"] / 1e9 / options.batch
            start = time.perf_counter()
            compiled = step.compile()
            compile_s = time.perf_counter() - start
            memory = memory_of_step(compiled)
            seconds = rate = share = None
            if state is not None:
                seconds, state = median_seconds(compiled, state, batch, options.seconds)
                rate = options.batch / seconds
                share = rate * work[kind] / ceiling
            report.row(
                *(size, network, dtype, remat, kind, compile_s),
                *(memory.arguments / 1e9, memory.temporaries / 1e9),
                *(seconds, rate, work[kind], share),
            )


if __name__ == "__main__":
    main()
