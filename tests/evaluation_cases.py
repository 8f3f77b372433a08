"""Images, and systems whose pictures and masks are known, for tests of the evaluation."""

from collections.abc import Collection

import numpy as np

from l2sae_jax.evaluation.systems import Made
from l2sae_jax.parallel import shard_rows

SIZE = 16


def examples(count: int, size: int = SIZE) -> list[dict]:
    """A data set of images and labels at random; the second has neither hair nor lips."""
    return [_example(number, size) for number in range(count)]


def _example(number, size):
    generator = np.random.default_rng(number)
    labels = generator.integers(0, 19, (size, size)).astype(np.uint8)
    if number == 1:
        labels[np.isin(labels, (10, 11, 12, 13))] = 0
    image = generator.integers(0, 256, (size, size, 3)).astype(np.uint8)
    return {"image": image, "labels": labels, "id": 7 * number + 3}


def drawn_picture(folder: str, identity: int, size: int = SIZE) -> np.ndarray:
    """The picture of a kind that `DrawnSystem` has of an image: pixels at random."""
    generator = np.random.default_rng([identity, *folder.encode()])
    return generator.integers(0, 256, (size, size, 3)).astype(np.uint8)


def drawn_labels(identity: int, size: int = SIZE) -> np.ndarray:
    """The regions that `DrawnSystem` finds: 0 for the background, else the place from 1."""
    return np.random.default_rng(identity).integers(0, 6, (size, size))


class DrawnSystem:
    """A system that has `drawn_picture` and `drawn_labels` of every image, but for some."""

    has_slices = True

    def __init__(
        self,
        mesh,
        name: str = "drawn",
        size: int = SIZE,
        lacking: Collection[tuple[str, int]] = (),
        unmade: Collection[str] = (),
    ):
        """Args: lacking: pictures that are not there, by kind and id; unmade: kinds that are not.

        All are named by their folders, as `PictureSystem` does; the name serves as digest too.
        """
        self.name, self.image_size = name, size
        self._mesh, self._lacking, self._unmade = mesh, lacking, unmade

    def digest(self, batch) -> str:
        return self.name

    def unreadable(self):
        return []

    def lacks(self, measure) -> str | None:
        return "it has none" if measure in self._unmade else None

    def segment(self, batch, placed) -> Made:
        labels = np.stack([drawn_labels(i, self.image_size) for i in batch.ids.tolist()])
        masks = np.float32(labels[..., None] == np.arange(1, 6))
        return self._made("segmentation", batch, masks)

    def make(self, batch, placed, found, kind) -> Made | None:
        if kind.folder in self._unmade:
            return None
        drawn = [drawn_picture(kind.folder, i, self.image_size) for i in batch.ids.tolist()]
        return self._made(kind.folder, batch, np.stack(drawn))

    def _made(self, folder, batch, value):
        present = [(folder, identity) not in self._lacking for identity in batch.ids.tolist()]
        return Made(shard_rows(value, self._mesh), np.array(present))
