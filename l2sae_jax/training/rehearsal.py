"""A dry run: what a training run needs is checked, and told, before hours are spent on it."""

import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from l2sae_jax.checkpoints import saved_steps
from l2sae_jax.data.sources import CelebAMaskRelease, Source, open_source
from l2sae_jax.objectives import Objective
from l2sae_jax.parallel import failing_together, is_first, make_mesh
from l2sae_jax.regions import PART_LABELS, REGION_NAMES, region_masks
from l2sae_jax.training.checkpointing import check_workdir
from l2sae_jax.training.evaluation import evaluation_batch_size
from l2sae_jax.training.loop import loaded_parameters, read_config
from l2sae_jax.training.memory import (
    MemoryUse,
    abstract_state,
    device_memory,
    evaluation_memory_use,
    memory_use,
)


def dry_run(config, workdir: str | Path) -> None:
    """Checks and prints what a run of this config needs, and trains nothing.

    It reads a batch, and compiles every step for the devices at hand, which takes minutes for large
    networks; the run itself then finds them in the compilation cache. Nothing is written, neither
    in `workdir` nor in `config.data.data_dir`: records still to be made are read from the release.

    Args:
      config: see configs/; an `ml_collections.ConfigDict`.
      workdir: where the run shall be.

    Raises:
      ValueError, OSError: what would stop the run, in one line.
    """
    workdir, mesh = Path(workdir), make_mesh()
    objective, _ = read_config(config, mesh)
    with failing_together():
        _tell("config", _describe_run(config, mesh))
        train = open_source(config.data, "train", make_records=False)
        validation = open_source(config.data, "validation", make_records=False)
        evaluation_batch_size(config, len(validation), mesh.size)
        _check_data(config, train, len(validation))
        _check_networks(config, objective, workdir)
        if is_first():
            _check_workdir(config, abstract_state(config, mesh), workdir)
    _check_memory(memory_use(config) | evaluation_memory_use(config, len(validation)))
    _tell("dry run", "nothing stands in the way; nothing was written")


def _tell(subject: str, text: str) -> None:
    if is_first():
        print(f"{subject:<10} {text}", flush=True)


def _describe_run(config, mesh: Mesh) -> str:
    device = mesh.devices.flat[0].device_kind
    return (
        f"{config.objective.kind} at {config.data.size} px in {config.dtype}, {config.images:,} "
        f"images in {config.images // config.batch_size:,} batches of {config.batch_size}, "
        f"on {mesh.size} x {device}"
    )


# Data --------------------------------------------------------------------------------------------


def _check_data(config, source: Source, validation: int) -> None:
    chosen = np.random.default_rng(config.seed).choice(len(source), config.batch_size)
    examples = [source[int(i)] for i in chosen]
    for example in examples:
        _check_example(example, config.data.size)
    masks = region_masks(np.stack([example["labels"] for example in examples]))
    shares = np.asarray(masks).mean(axis=(0, 1, 2))
    _tell(
        "data",
        f"{len(source):,} images an epoch, {config.images / len(source):.1f} epochs; "
        f"{validation:,} images to validate with",
    )
    found = ", ".join(f"{n} {100 * s:.1f} %" for n, s in zip(REGION_NAMES, shares, strict=True))
    _tell("labels", f"of the pixels of {config.batch_size} images {found}")
    if isinstance(source, CelebAMaskRelease) and is_first():
        _check_room_for_records(config.data, source, [int(i) for i in chosen])


def _check_example(example, size: int) -> None:
    """Raises ValueError unless it is what a step reads: so large, and with labels that exist."""
    where, highest = f"training image {example['id']}", max(PART_LABELS.values())
    if example["image"].shape != (size, size, 3) or example["labels"].shape != (size, size):
        raise ValueError(
            f"{where} is {example['image'].shape}, its labels {example['labels'].shape}: expected "
            f"{size} x {size} pixels"
        )
    if example["labels"].max() > highest:
        raise ValueError(
            f"{where} has a label {example['labels'].max()}: expected 0 to {highest}, see "
            "l2sae_jax.regions.PART_LABELS"
        )


def _check_room_for_records(data_config, release: CelebAMaskRelease, chosen: list[int]) -> None:
    records = [release.record(i) for i in chosen]
    each = np.mean([len(record["image"]) + len(record["labels"]) for record in records])
    # They are written twice: in chunks that survive a killed run, then as records.
    needed, folder = 2 * each * release.total, _existing(Path(data_config.data_dir).expanduser())
    free = shutil.disk_usage(folder).free
    _tell(
        "records",
        f"to be made of {release.total:,} images in {data_config.data_dir}: {_size(needed)} while "
        f"they are, half of that then; {_size(free)} free",
    )
    _check_writable(folder)
    if needed > free:
        raise ValueError(
            f"config.data.data_dir {data_config.data_dir} has {_size(free)} free, and making the "
            f"records takes {_size(needed)}: make room, or give another folder"
        )


# Networks and workdir ----------------------------------------------------------------------------


def _check_networks(config, objective: Objective, workdir: Path) -> None:
    names, shapes = objective.architecture.present(), objective.architecture.parameter_shapes()
    counts = [sum(x.size for x in jax.tree.leaves(shapes[name])) for name in names]
    parts = ", ".join(f"{name} {n:,}" for name, n in zip(names, counts, strict=True))
    _tell("networks", f"{sum(counts):,} parameters: {parts}")
    if steps := saved_steps(workdir):
        _tell("start", f"checkpoint {steps[-1]} in {workdir}")
        return
    loaded = loaded_parameters(config, objective)
    if not loaded:
        _tell("start", "every network fresh: config.init_from is empty")
        return
    parts = ", ".join(
        f"{name} in part" if tree.keys() < shapes[name].keys() else name
        for name, tree in loaded.items()
    )
    fresh = ", ".join(name for name in names if name not in loaded) or "none"
    spread = f"; styles spread by {n:,} pictures" if (n := config.get("spread_styles", 0)) else ""
    _tell("start", f"{parts} from {config.init_from}; fresh: {fresh}{spread}")


def _check_workdir(config, state, workdir: Path) -> None:
    check_workdir(workdir, config)
    folder = _existing(workdir)
    _check_writable(folder)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    # A new checkpoint is whole before the oldest goes.
    wanted = config.keep_checkpoints + 1 - len(saved_steps(workdir))
    free = shutil.disk_usage(folder).free
    _tell(
        "workdir",
        f"{workdir}, {_size(free)} free; a checkpoint takes {_size(size)}, "
        f"{config.keep_checkpoints} are kept",
    )
    if wanted * size > free:
        raise ValueError(
            f"{workdir} has {_size(free)} free, and {wanted} more checkpoints take "
            f"{_size(wanted * size)}: make room, or lower config.keep_checkpoints"
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}") from None


# Memory ------------------------------------------------------------------------------------------


def _check_memory(uses: dict[str, MemoryUse]) -> None:
    available = device_memory()
    state = min(use.arguments for use in uses.values())
    found = ", ".join(f"{name} {_size(use.total)}" for name, use in uses.items())
    _tell("memory", f"{found}; of it the state {_size(state)}; each device has {_size(available)}")
    largest = max(uses, key=lambda name: uses[name].total)
    if uses[largest].total > available:
        remedy = (
            "a smaller config.evaluate_batch_size"
            if largest in ("validation", "grid")
            else "config.remat=regions, a larger config.accumulate or more devices"
        )
        on_cpu = ", or the machine that is to train, if it has GPUs: they need less"
        raise ValueError(
            f"the {largest} step needs {_size(uses[largest].total)} on each device, which has "
            f"{_size(available)}: try {remedy}{on_cpu if jax.default_backend() == 'cpu' else ''}"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
