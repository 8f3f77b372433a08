"""What a run writes down: scalars as TensorBoard events and JSON lines, pictures as PNG grids."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from clu import metrics
from jaxtyping import Float

from l2sae_jax.data.images import write_picture
from l2sae_jax.label_maps import colour_map, label_map
from l2sae_jax.model import Autoencoder
from l2sae_jax.objectives import Objective
from l2sae_jax.parallel import failing_together, is_first
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.regions import REGION_NAMES, region_masks
from l2sae_jax.whole_files import replace_text

METRICS_FILE = "metrics.jsonl"


class ScalarLog:
    """Appends scalars to `metrics.jsonl` and to TensorBoard event files in a workdir.

    Process 0 does; the others call it too, to learn of its errors.

    Lines of steps after `first_step`, left by a run that was killed after its last checkpoint, are
    dropped, so that a resumed run leaves the file an uninterrupted one would.

    Events are written as the lines are, by the caller: a summary writer's thread would answer a
    full disk with a traceback and silence.
    """

    def __init__(self, workdir: Path, first_step: int):
        with failing_together():
            if is_first():
                self._open(workdir, first_step)

    def _open(self, workdir: Path, first_step: int) -> None:
        # Takes two seconds, and only training needs it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._path = workdir / METRICS_FILE
        if self._path.exists():
            lines = [
                line for line in self._path.read_text().splitlines() if _step(line) is not None
            ]
            kept = [line for line in lines if _step(line) <= first_step]
            replace_text(self._path, "".join(line + "\n" for line in kept))
        (workdir / "events").mkdir(exist_ok=True)
        self._events = EventsWriter(str(workdir / "events" / "events"))
        started = SessionLog(status=SessionLog.START)
        self._events.write_event(
            Event(wall_time=time.time(), step=first_step + 1, session_log=started)
        )

    def write(self, step: int, images: int, scalars: Mapping[str, float]) -> None:
        """Notes scalars at a step."""
        with failing_together():
            if is_first():
                self._append(step, images, scalars)

    def _append(self, step: int, images: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        line = json.dumps({"step": step, "images": images, **scalars})
        with self._path.open("a") as file:
            file.write(line + "\n")
        for name, value in scalars.items():
            event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        if is_first():
            self._events.close()


def _step(line: str) -> int | None:
    """The step of a log line; None for one cut off by a kill."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None


class Averages:
    """Running means of the loss terms between two log lines.

    The kinds of step have different terms, so each set of names has a collection of its own.
    """

    def __init__(self):
        self._classes: dict[tuple[str, ...], type[metrics.Collection]] = {}
        self._seen: dict[tuple[str, ...], metrics.Collection] = {}

    def add(self, terms: Mapping[str, float]) -> None:
        """Adds one step's terms."""
        names = tuple(sorted(terms))
        if names not in self._classes:
            means = {name: metrics.Average.from_output(name) for name in names}
            self._classes[names] = metrics.Collection.create(**means)
        update = self._classes[names].single_from_model_output(**terms)
        seen = self._seen.get(names)
        self._seen[names] = update if seen is None else seen.merge(update)

    def pop(self) -> dict[str, float]:
        """The means since the last call."""
        means = {
            name: float(value)
            for collection in self._seen.values()
            for name, value in collection.compute().items()
        }
        self._seen.clear()
        return means


def write_grid(path: Path, rows: np.ndarray) -> None:
    """Writes `[rows, columns, H, W, 3]` float images in [-1, 1] as one PNG."""
    pixels = np.asarray(to_pixels(rows))
    n, m, height, width, _ = pixels.shape
    write_picture(path, pixels.transpose(0, 2, 1, 3, 4).reshape(n * height, m * width, 3))


def make_grid_step(objective: Objective):
    """A jitted `(generator parameters, batch) -> [rows, B, H, W, 3]` picture of what is learnt.

    Rows: the input; where whole images are decoded, its reconstruction and the mix of neighbours;
    where there are slices, the labels and the predicted masks in the regions' colours.
    """
    autoencoder = objective.autoencoder

    def paint(masks: Float[jax.Array, "B H W R"]) -> Float[jax.Array, "B H W 3"]:
        return to_images(colour_map(label_map(masks, REGION_NAMES)))

    def step(generator, batch):
        model = Autoencoder(**generator, config=autoencoder)
        images = to_images(batch["image"])
        rows = [images]
        if objective.config.kind != "smpn":
            structure, style = model.encode(images)
            rows.append(model.decode(structure, style))
            swapped = jax.numpy.roll(style, 1, axis=0)
            rows.append(model.decode(structure, swapped))
        if autoencoder.slices is not None:
            rows.append(paint(region_masks(batch["labels"])))
            rows.append(paint(model.region_masks(images, range(len(REGION_NAMES)))))
        return jax.numpy.stack(rows)

    return jax.jit(step)
