"""Trains an SMN, an SMPN or a joint network.

python train.py --config=configs/portraits_128.py:smpn --workdir=DIR [--config.field=value ...]
python train.py ... --config.dry_run=True      # checks data, networks, disk and memory, and stops

A run that was stopped, by whatever means, continues from its workdir by the same command. SIGTERM
stops it after the step it is at: it saves and exits with code 75, upon which a scheduler may queue
it again. On several hosts, start it on each; see docs/scaling.md.
"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags


def define_flags() -> flags.FlagValues:
    """This program's flags, apart from absl's global ones."""
    values = flags.FlagValues()
    new = {"flag_values": values}
    config_flags.DEFINE_config_file("config", None, "What to train; see configs/.", **new)
    flags.DEFINE_string("workdir", None, "Where checkpoints, logs and pictures go.", **new)
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0, in a run of several.", **new
    )
    flags.DEFINE_integer("num_processes", None, "How many processes the run has.", **new)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", **new)
    flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", **new)
    return values


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    options = define_flags()
    try:
        unexpected = _parse(options, argv)
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return 0
        if unexpected:
            raise ValueError(
                f"unexpected argument {unexpected[0]!r}: fields are --config.NAME=VALUE"
            )
        if options.config is None or options.workdir is None:
            raise ValueError("give both --config and --workdir")
        from l2sae_jax.parallel import initialise

        initialise(options.coordinator_address, options.num_processes, options.process_id)
        return _train(options.config, options.workdir)
    except (ValueError, OSError, flags.Error) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 130


def _train(config, workdir: str) -> int:
    import jax

    from l2sae_jax.compilation_cache import keep_compiled_programs
    from l2sae_jax.training import StoppedError, dry_run, train_and_evaluate

    if jax.process_count() == 1:  # others might find nothing where process 0 finds, and wait
        keep_compiled_programs()
    try:
        (dry_run if config.get("dry_run") else train_and_evaluate)(config, workdir)
    except StoppedError as stopped:
        print(f"train.py: {stopped}; the same command continues", file=sys.stderr)
        return os.EX_TEMPFAIL
    except jax.errors.JaxRuntimeError as error:
        return _fail(f"{str(error).splitlines()[0]} (if memory ran out: a smaller batch_size)")
    return 0


def _parse(options: flags.FlagValues, argv: list[str]) -> list[str]:
    """What is left of the arguments; says plainly what `config_flags` takes a paragraph for."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        value = value if equals else following
        if name in ("--config", "-config") and not Path(value.split(":")[0]).is_file():
            raise ValueError(f"--config={value}: there is no such file")
    try:
        return options(argv)[1:]
    except (AttributeError, KeyError) as error:  # how a ConfigDict says that a field is unknown
        raise ValueError(f"the config has no field {error}") from error


def _fail(message: object) -> int:
    print(f"train.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))
