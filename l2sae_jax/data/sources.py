"""Random-access sources of `{"image", "labels", "id"}`, chosen by a configuration."""

from collections.abc import Mapping
from typing import Protocol

import ml_collections
import numpy as np

from l2sae_jax.data.images import decode_image, decode_mask

NAMES = ("celebamask_hq", "synthetic")
SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """A sequence of examples that may be read in any order and from several threads.

    An example is `{"image": uint8 [H, W, 3], "labels": uint8 [H, W], "id": int}`; labels are
    those of `l2sae_jax.regions.PART_LABELS`, 0 for the background.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray | int]: ...


def open_source(
    data_config: ml_collections.ConfigDict, split: str, *, make_records: bool = True
) -> Source:
    """Opens the data set that a configuration names.

    Args:
      data_config: fields `name` ("celebamask_hq" or "synthetic") and `size` in pixels; for
        celebamask_hq `data_dir`, where records are or will be, and `source`, the release to make
        them from if they are not there yet; for synthetic `length` and `seed`.
      split: "train", "validation" or "test".
      make_records: where records are still to be made, make them, which takes a while, or else read
        from the release what they would hold.

    Raises:
      ValueError: an unknown name or split, neither records nor a source to make them from, or
        records made from another source.
      FileNotFoundError: the source does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    if data_config.name == "synthetic":
        return _synthetic(data_config, split)
    if data_config.name == "celebamask_hq":
        return _celebamask(data_config, split, make_records)
    raise ValueError(f"unknown data.name {data_config.name!r}: choose from {', '.join(NAMES)}")


def _synthetic(data_config: ml_collections.ConfigDict, split: str) -> Source:
    from l2sae_jax.data.synthetic import SyntheticFaces

    # Splits share no face: each has a seed of its own.
    seed = len(SPLITS) * data_config.seed + SPLITS.index(split)
    return SyntheticFaces(data_config.size, data_config.length, seed)


def _celebamask(data_config: ml_collections.ConfigDict, split: str, make_records: bool) -> Source:
    if not data_config.data_dir:
        raise ValueError("data.data_dir is empty: set it to the folder for CelebAMask-HQ records")
    # Imported here: TFDS takes a while and the synthetic faces do not need it.
    from l2sae_jax.data.celebamask import prepare, records_exist

    exist = records_exist(data_config.data_dir, data_config.size)
    if not data_config.source and not exist:
        raise ValueError(
            f"no CelebAMask-HQ records of {data_config.size} px in {data_config.data_dir}: set "
            "data.source to the release (folder, zip or tar) to make them, or data.data_dir to "
            "where they are"
        )
    if not exist and not make_records:
        return CelebAMaskRelease(data_config.source, split, data_config.size)
    builder = prepare(data_config.source, data_config.data_dir, data_config.size)
    if split not in builder.info.splits:
        raise ValueError(f"the records in {data_config.data_dir} have no {split} images")
    return CelebAMaskRecords(builder, split)


class CelebAMaskRecords:
    """One split of prepared CelebAMask-HQ records."""

    def __init__(self, builder, split: str):
        import tensorflow_datasets as tfds

        # Decoded here, since TFDS would choose between OpenCV and Pillow by what is installed,
        # and the two differ in the last bit of a JPEG.
        skip = tfds.decode.SkipDecoding()
        self._records = builder.as_data_source(split, decoders={"image": skip, "labels": skip})

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        return _decoded(self._records[index])


class CelebAMaskRelease:
    """One split of the CelebAMask-HQ release itself: what records of some size would hold.

    Reading an example takes as long as making its record. One that cannot be read is an error here,
    and skipped where records are made.

    Attributes:
      total: number of pictures in all splits.
    """

    def __init__(self, source: str, split: str, size: int):
        from l2sae_jax.data.archives import open_archive
        from l2sae_jax.data.celebamask import find_release

        self._release, self._size = find_release(open_archive(source)), size
        self.total = len(self._release.images)
        ids = sorted(self._release.images)
        self._ids = [i for i in ids if self._release.split_of(i) == split]
        if not self._ids:
            raise ValueError(f"{source} has no {split} images")

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        return _decoded(self.record(index))

    def record(self, index: int) -> dict[str, bytes | int]:
        """An example with its pictures as encoded bytes.

        Raises:
          ValueError, FileNotFoundError: something it needs is missing or damaged.
        """
        from l2sae_jax.data.celebamask import read_example

        return read_example(self._release, self._ids[index], self._size)


def _decoded(record: Mapping[str, bytes | int]) -> dict[str, np.ndarray | int]:
    name = f"record {int(record['id'])}"
    return {
        "image": decode_image(record["image"], name),
        "labels": decode_mask(record["labels"], name),
        "id": int(record["id"]),
    }
