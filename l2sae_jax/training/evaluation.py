"""Scores and pictures of images that are not trained on."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from l2sae_jax.data.sources import open_source
from l2sae_jax.metrics import summarise
from l2sae_jax.objectives import Objective
from l2sae_jax.parallel import failing_together, is_first, local_copy, shard_rows
from l2sae_jax.training.logging import make_grid_step, write_grid
from l2sae_jax.training.scaling import Scaling
from l2sae_jax.training.state import Params
from l2sae_jax.training.steps import make_validation_step

# How many images a picture of what is learnt shows.
COLUMNS = 8


def evaluation_batch_size(config, available: int, devices: int) -> int:
    """Images in each batch that is scored.

    Args:
      config: see configs/.
      available: how many validation images there are.
      devices: what a batch is divided among.

    Raises:
      ValueError: there are too few images.
    """
    count = min(config.evaluate_images, available)
    wanted = min(config.evaluate_batch_size, count)
    size = -(-wanted // devices) * devices
    if size > count:
        raise ValueError(
            f"config.evaluate_images: {count} images are fewer than {devices} devices, "
            "or no multiple of them in one batch"
        )
    return size


class Evaluation:
    """The validation images of a run, which all processes share."""

    def __init__(self, config, objective: Objective, mesh: Mesh, scaling: Scaling, workdir: Path):
        self._source = open_source(config.data, "validation")
        self._workdir = workdir
        self._mesh = mesh
        self._count = min(config.evaluate_images, len(self._source))
        self._batch_size = evaluation_batch_size(config, len(self._source), mesh.size)
        self._step = make_validation_step(objective, mesh, scaling)
        self._grid = make_grid_step(objective)

    def __call__(self, generator: Params, images_seen: int) -> dict[str, float]:
        """Scores of the validation images; also writes `grids/IMAGES.png`."""
        sums: dict[str, np.ndarray] = {}
        for batch in self._my_batches():
            update = jax.device_get(self._step(generator, shard_rows(batch, self._mesh)))
            sums = {name: sums.get(name, 0.0) + value for name, value in update.items()}
        with failing_together():
            if is_first():
                self._write_grid(local_copy(generator), images_seen)
        return {f"val_{name}": score for name, score in summarise(sums).items()}

    def _my_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows; of whole batches only, so that one shape is compiled."""
        rows = self._batch_size // jax.process_count()
        for start in range(0, self._count - self._batch_size + 1, self._batch_size):
            yield self._examples(start + jax.process_index() * rows, rows)

    def _examples(self, start: int, count: int) -> dict[str, np.ndarray]:
        examples = [self._source[i] for i in range(start, start + count)]
        return {name: np.stack([e[name] for e in examples]) for name in ("image", "labels")}

    def _write_grid(self, generator: Params, images_seen: int) -> None:
        grid = self._grid(generator, self._examples(0, min(COLUMNS, self._count)))
        (self._workdir / "grids").mkdir(exist_ok=True)
        write_grid(self._workdir / "grids" / f"{images_seen:09d}.png", np.asarray(grid))
