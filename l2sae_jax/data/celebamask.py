"""CelebAMask-HQ as a `tensorflow_datasets` builder that needs no TensorFlow.

    python -m l2sae_jax.data.celebamask --source=CelebAMask-HQ.zip --data_dir=DIR --size=64

reads the public release as it is distributed, a folder or an archive of

    CelebAMask-HQ/CelebA-HQ-img/{id}.jpg
    CelebAMask-HQ/CelebAMask-HQ-mask-anno/{id // 2000}/{id:05d}_{part}.png
    CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt        (optional: gives the official split)
    CelebAMask-HQ/CelebAMask-HQ-attribute-anno.txt       (optional)
    CelebAMask-HQ/CelebAMask-HQ-pose-anno.txt            (optional)

and writes array_record files of one picture size. What cannot be used is skipped, counted and
named in `report.json` beside the records. The work is done in chunks that survive a killed run,
and `tensorflow_datasets` renames the finished folder into place, so nothing half-made looks whole.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgpack
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, UInt8
from PIL import Image
from tqdm import tqdm

from l2sae_jax.data.archives import Archive, open_archive
from l2sae_jax.data.images import decode_image, decode_mask, resize
from l2sae_jax.data.sources import SPLITS
from l2sae_jax.regions import PART_LABELS

SIZES = (64, 128, 256, 512, 1024)
ATTRIBUTES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
).split()

_CHUNK = 128  # examples lost at most, per worker, when a run is killed
_LOSSLESS_UP_TO = 256  # pixels; above, PNG would make the records of 512 px some 15 GB


# ---------------------------------------------------------------------------------------------
# The release: what is where.


@dataclasses.dataclass(frozen=True)
class Release:
    """The public release, found inside an archive.

    Attributes:
      archive: where everything is read from.
      images: member name of each picture, by id.
      masks: member names of the part masks of each id, by part.
      celeba_index: index in CelebA of each id; empty without a mapping file.
      attributes: the 40 attributes, -1 or 1, of each id; empty without an attribute file.
      poses: yaw, pitch and roll in degrees of each id; empty without a pose file.
    """

    archive: Archive
    images: Mapping[int, str]
    masks: Mapping[int, Mapping[str, str]]
    celeba_index: Mapping[int, int]
    attributes: Mapping[int, Sequence[int]]
    poses: Mapping[int, Sequence[float]]

    def split_of(self, image_id: int) -> str:
        """CelebA's official split where the mapping file knows the id, else 90/5/5 by hash."""
        if image_id in self.celeba_index:
            index = self.celeba_index[image_id]
            return "train" if index < 162770 else "validation" if index < 182637 else "test"
        digest = hashlib.blake2b(str(image_id).encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64
        return "test" if position < 0.05 else "validation" if position < 0.10 else "train"


_IMAGE = re.compile(r"(?P<top>(?:.*/)?)CelebA-HQ-img/(?P<id>\d+)\.jpg")
_MASK = re.compile(r"(?:.*/)?CelebAMask-HQ-mask-anno/\d+/(?P<id>\d+)_(?P<part>[a-z_]+)\.png")


def find_release(archive: Archive) -> Release:
    """Locates the release in an archive, at its top or nested in folders.

    Raises:
      ValueError: there is no such layout, or more than one, or a text file is malformed.
    """
    names = sorted(archive.names())
    images, masks = {}, defaultdict(dict)
    tops = set()
    for name in names:
        if found := _IMAGE.fullmatch(name):
            images[int(found["id"])] = name
            tops.add(found["top"])
        elif (found := _MASK.fullmatch(name)) and found["part"] in PART_LABELS:
            masks[int(found["id"])][found["part"]] = name
    if not images or not masks:
        raise ValueError(
            f"{archive.path}: not the CelebAMask-HQ release "
            f"(no {'CelebAMask-HQ-mask-anno/*/*.png' if images else 'CelebA-HQ-img/*.jpg'} in it)"
        )
    if len(tops) > 1:
        raise ValueError(f"{archive.path}: holds several releases, in {', '.join(sorted(tops))}")
    (top,) = tops
    present = set(names)

    def table(file: str) -> list[list[str]]:
        return _rows(archive, top + file) if top + file in present else []

    return Release(
        archive=archive,
        images=images,
        masks=dict(masks),
        celeba_index=_parse_mapping(table("CelebA-HQ-to-CelebA-mapping.txt")),
        attributes=_parse_attributes(table("CelebAMask-HQ-attribute-anno.txt")),
        poses=_parse_poses(table("CelebAMask-HQ-pose-anno.txt")),
    )


def _rows(archive: Archive, name: str) -> list[list[str]]:
    """The words of each line that is not empty."""
    text = archive.read(name).decode("utf-8", errors="replace")
    return [line.split() for line in text.splitlines() if line.strip()]


def _parse_mapping(rows: list[list[str]]) -> dict[int, int]:
    """`idx orig_idx orig_file` under one line of titles."""
    with _malformed("CelebA-HQ-to-CelebA-mapping.txt"):
        return {int(idx): int(original) for idx, original, *_ in rows[1:]}


def _parse_attributes(rows: list[list[str]]) -> dict[int, list[int]]:
    """A count, the attribute names, then `{id}.jpg` and one number per attribute."""
    with _malformed("CelebAMask-HQ-attribute-anno.txt"):
        if rows and rows[1] != ATTRIBUTES:
            raise ValueError("its second line does not name CelebA's 40 attributes")
        return {_stem(file): _numbers(int, values, 40) for file, *values in rows[2:]}


def _parse_poses(rows: list[list[str]]) -> dict[int, list[float]]:
    """A count, `Yaw Pitch Raw` (sic), then `{id}.jpg` and three angles."""
    with _malformed("CelebAMask-HQ-pose-anno.txt"):
        return {_stem(file): _numbers(float, values, 3) for file, *values in rows[2:]}


def _stem(file: str) -> int:
    return int(file.removesuffix(".jpg"))


def _numbers(kind: type, words: list[str], count: int) -> list:
    if len(words) != count:
        raise ValueError(f"a line has {len(words)} numbers where {count} were expected")
    return [kind(word) for word in words]


@contextlib.contextmanager
def _malformed(file: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file}: malformed ({error})") from error


# ---------------------------------------------------------------------------------------------
# One example: a picture and its labels.


def merge_parts(masks: Mapping[str, Bool[np.ndarray, "H W"]]) -> UInt8[np.ndarray, "H W"]:
    """One label map from the masks of the parts: later entries of `PARTS` overwrite earlier ones.

    Args:
      masks: at least one mask by part name.

    Raises:
      ValueError: the masks differ in size.
    """
    shapes = sorted({mask.shape for mask in masks.values()})
    if len(shapes) > 1:
        raise ValueError(f"masks of different sizes, {' and '.join(_times(s) for s in shapes)}")
    labels = np.zeros(shapes[0], np.uint8)
    for part, label in PART_LABELS.items():
        if part in masks:
            labels[masks[part]] = label
    return labels


def resize_labels(labels: UInt8[np.ndarray, "H W"], size: int) -> UInt8[np.ndarray, "size size"]:
    """Gives each pixel the label that covers most of its area.

    On 150 portraits reduced from 256 to 64 px this overlapped the exact coverage better than the
    nearest label did (IoU of eyes and brows 0.795 against 0.777, lower lip 0.806 against 0.791)
    and drew smoother outlines. Ties, frequent at whole ratios, go to the later part, as in
    `merge_parts`: thin parts live on them. Only a mouth opened by a hair's breadth suffers, and it
    goes to the lips, which are its region.
    """
    if labels.shape == (size, size):
        return labels
    if labels.shape[0] < size:
        return np.array(Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST))
    present = np.flatnonzero(np.bincount(labels.ravel()))[::-1].astype(np.uint8)
    coverage = [
        Image.fromarray(np.where(labels == label, np.uint8(255), np.uint8(0))).resize(
            (size, size), Image.Resampling.BOX
        )
        for label in present
    ]
    return present[np.argmax(np.stack(coverage), axis=0)]


def read_example(release: Release, image_id: int, size: int) -> dict:
    """Reads, merges, resizes and encodes one record.

    Returns:
      The features of `CelebAMaskHQ`, with pictures as encoded bytes.

    Raises:
      ValueError, FileNotFoundError: something it needs is missing, damaged or of a wrong size.
    """
    if image_id not in release.masks:
        raise ValueError("no masks")
    name = release.images[image_id]
    data = release.archive.read(name)
    image = decode_image(data, name)
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"{name}: {_times(image.shape)} pixels, not square")
    labels = merge_parts(
        {
            part: decode_mask(release.archive.read(mask), mask) > 127
            for part, mask in release.masks[image_id].items()
        }
    )
    if labels.shape[0] != labels.shape[1]:
        raise ValueError(f"masks of {_times(labels.shape)} pixels, not square")
    return {
        "id": image_id,
        "image": _encode_image(image, data, size),
        "labels": _encode(resize_labels(labels, size), format="PNG"),
        "attributes": release.attributes.get(image_id, [0] * 40),
        "pose": release.poses.get(image_id, [float("nan")] * 3),
    }


def _encode_image(image: UInt8[np.ndarray, "H W 3"], original: bytes, size: int) -> bytes:
    if image.shape[0] == size:
        return original  # a second JPEG compression would only lose quality
    resized = resize(image, (size, size))
    if size <= _LOSSLESS_UP_TO:
        return _encode(resized, format="PNG")
    return _encode(resized, format="JPEG", quality=95, subsampling="4:4:4")


def _encode(array: UInt8[np.ndarray, "H W *C"], **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, **options)
    return buffer.getvalue()


def _times(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


# ---------------------------------------------------------------------------------------------
# All examples: chunk files, so that a killed run is resumed.


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Some ids of one split, and the file their records go to first."""

    split: str
    ids: tuple[int, ...]
    path: Path

    def write(self, release: Release, size: int) -> None:
        examples, problems = [], []
        for image_id in self.ids:
            try:
                examples.append(read_example(release, image_id, size))
            except (ValueError, FileNotFoundError) as error:
                problems.append([image_id, " ".join(str(error).split())])
        partial = self.path.with_suffix(".partial")
        partial.write_bytes(msgpack.packb({"examples": examples, "problems": problems}))
        os.replace(partial, self.path)

    def read(self, field: str) -> list:
        return msgpack.unpackb(self.path.read_bytes())[field]


def _plan_chunks(release: Release, folder: Path) -> list[_Chunk]:
    ids = defaultdict(list)
    for image_id in sorted(release.images):
        ids[release.split_of(image_id)].append(image_id)
    return [
        _Chunk(split, tuple(ids[split][i : i + _CHUNK]), folder / f"{split}-{i:06d}.msgpack")
        for split in SPLITS
        for i in range(0, len(ids[split]), _CHUNK)
    ]


def _write_chunks(
    chunks: Sequence[_Chunk], release: Release, size: int, workers: int, progress: bool
) -> None:
    """Writes the chunks that are not there yet.

    Threads, not processes: decoding, resizing and inflating release the interpreter lock, and
    nothing has to be started or reopened.
    """
    todo = [chunk for chunk in chunks if not chunk.path.exists()]
    done = sum(len(chunk.ids) for chunk in chunks) - sum(len(chunk.ids) for chunk in todo)
    with (
        tqdm(
            total=len(release.images),
            initial=done,
            unit="image",
            desc=f"CelebAMask-HQ at {size} px",
            disable=not progress,
        ) as bar,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        futures = {pool.submit(chunk.write, release, size): chunk for chunk in todo}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                bar.update(len(futures[future].ids))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _report(release: Release, chunks: Sequence[_Chunk], size: int) -> dict:
    """What was written and what was not, with the reason by id."""
    written, skipped = Counter(), {}
    for chunk in chunks:
        written[chunk.split] += len(chunk.read("examples"))
        skipped.update(chunk.read("problems"))
    return {
        "source": release.archive.path.name,
        "size": size,
        "split": "official" if release.celeba_index else "hash of the id, 90/5/5",
        "images": len(release.images),
        "written": {split: written[split] for split in SPLITS},
        "skipped": {str(image_id): reason for image_id, reason in sorted(skipped.items())},
        "masks_without_image": sorted(set(release.masks) - set(release.images)),
    }


def _summary(report: dict) -> str:
    written = ", ".join(f"{count} {split}" for split, count in report["written"].items())
    return (
        f"CelebAMask-HQ at {report['size']} px: {sum(report['written'].values())} of "
        f"{report['images']} images written ({written}), {len(report['skipped'])} skipped, "
        f"{len(report['masks_without_image'])} with masks but no image"
    )


# ---------------------------------------------------------------------------------------------
# The builder.


@dataclasses.dataclass(kw_only=True)
class CelebAMaskHQConfig(tfds.core.BuilderConfig):
    """Attributes: size: height and width of pictures and labels, in pixels."""

    size: int = 64


def config_for(size: int) -> CelebAMaskHQConfig:
    """The builder configuration of any picture size, called by its number.

    Raises:
      ValueError: the size is not a positive number of pixels.
    """
    if size < 1:
        raise ValueError(f"size must be a positive number of pixels, not {size}")
    return CelebAMaskHQConfig(name=str(size), size=size, description=f"{size}x{size} pixels")


class CelebAMaskHQ(
    tfds.core.GeneratorBasedBuilder,
    # `python -m` runs this file under a second name; only one of the two may take the name.
    skip_registration=__name__ == "__main__",
):
    """Face portraits with labels of 18 parts (`l2sae_jax.regions.PART_LABELS`), 0 elsewhere.

    Records are in the order of their ids. `prepare` is the convenient way in.
    """

    name = "celebamask_hq"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [config_for(size) for size in SIZES]
    # Only used to find recorded checksums of downloads, of which there are none; looking them up
    # would need `importlib_resources`.
    code_path = None

    def __init__(
        self,
        *,
        source: str | os.PathLike | None = None,
        workers: int | None = None,
        progress: bool = True,
        **kwargs,
    ):
        """See `prepare` for `source`, `workers` and `progress`; the rest is TFDS's."""
        self._source = source
        self._workers = workers or os.cpu_count() or 1
        self._progress = progress
        super().__init__(**kwargs)

    @property
    def report_path(self) -> Path:
        """JSON file that says what was written and names what was skipped."""
        return Path(self.data_path) / "report.json"

    @property
    def work_path(self) -> Path:
        """Folder that holds finished chunks until all are there."""
        return Path(self._data_dir_root) / self.name / f".chunks-{self.builder_config.name}"

    @functools.cached_property
    def release(self) -> Release:
        """What records are made from; opened when first asked for.

        Raises:
          FileNotFoundError, ValueError: there is no source, or it is not the release.
        """
        if not self._source:
            raise ValueError(
                f"no CelebAMask-HQ records of {self.builder_config.size} px in "
                f"{self._data_dir_root}, and no source given"
            )
        return find_release(open_archive(self._source))

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage="https://github.com/switchablenorms/CelebAMask-HQ",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Scalar(np.int64),
                    "image": tfds.features.Image(shape=(size, size, 3)),
                    "labels": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
                    "attributes": tfds.features.Tensor(shape=(40,), dtype=np.int8),
                    "pose": tfds.features.Tensor(shape=(3,), dtype=np.float32),
                }
            ),
            disable_shuffling=True,  # the pipeline shuffles; a fixed order keeps evaluation fixed
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        size, release = self.builder_config.size, self.release
        folder = self.work_path / _fingerprint(release)
        folder.mkdir(parents=True, exist_ok=True)
        chunks = _plan_chunks(release, folder)
        _write_chunks(chunks, release, size, self._workers, self._progress)
        report = _report(release, chunks, size)
        # TFDS has put a temporary folder in the place of `data_path` by now.
        self.report_path.write_text(json.dumps(report, indent=1) + "\n")
        if not any(report["written"].values()):
            first = next(iter(report["skipped"].values()))
            raise ValueError(f"{self._source}: none of its images could be used; first: {first}")
        return {
            split: self._generate_examples([chunk for chunk in chunks if chunk.split == split])
            for split in SPLITS
            if report["written"][split]
        }

    def _generate_examples(self, chunks: Sequence[_Chunk]) -> Iterator[tuple[int, dict]]:
        for chunk in chunks:
            for example in chunk.read("examples"):
                encoded = {key: io.BytesIO(example[key]) for key in ("image", "labels")}
                attributes = np.array(example["attributes"], np.int8)
                pose = np.array(example["pose"], np.float32)
                yield example["id"], {**example, **encoded, "attributes": attributes, "pose": pose}


def _fingerprint(release: Release) -> str:
    """Tells releases apart, so that chunks of one are never taken for another's."""
    status = release.archive.path.stat()
    identity = {
        "format": [str(CelebAMaskHQ.VERSION), _CHUNK],
        "file": [release.archive.path.name, status.st_size, status.st_mtime],
        "members": [sorted(release.images.values()), sorted(map(str, release.masks.items()))],
    }
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()


def records_exist(data_dir: str | os.PathLike, size: int) -> bool:
    """Whether finished records of this size are in `data_dir`."""
    # The last file written. TFDS's own `is_prepared` logs a warning where there is none.
    return (Path(_builder(data_dir, size).data_path) / "dataset_info.json").exists()


def _builder(data_dir: str | os.PathLike, size: int, **kwargs) -> CelebAMaskHQ:
    return CelebAMaskHQ(
        data_dir=Path(data_dir).expanduser(),
        config=str(size) if size in SIZES else config_for(size),
        file_format="array_record",
        **kwargs,
    )


def prepare(
    source: str | os.PathLike | None,
    data_dir: str | os.PathLike,
    size: int,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> CelebAMaskHQ:
    """The builder, with its records made first if they are not there.

    Args:
      source: the release, as a folder, zip or tar; may be empty if the records exist.
      data_dir: where records are kept, for any number of sizes.
      size: height and width in pixels.
      workers: threads; by default one per core.
      progress: show a progress bar and print the summary.

    Raises:
      FileNotFoundError, ValueError: the source is missing, not the release, or holds nothing
        usable; there are neither records nor a source; or the records are of another source.
    """
    builder = _builder(data_dir, size, source=source, workers=workers, progress=progress)
    if records_exist(data_dir, size):
        _check_same_source(builder, source)
        return builder
    _ = builder.release  # a source that cannot be used is an error before anything is touched
    with _only_one_process(builder.work_path.with_name(f".lock-{size}")), _tfds_bars_hidden():
        if records_exist(data_dir, size):  # another process made them while this one waited
            _check_same_source(builder, source)
            return _builder(data_dir, size)
        _remove_leftovers(builder)
        builder.download_and_prepare(download_dir=builder.work_path / "downloads")
        shutil.rmtree(builder.work_path)
    if progress:
        report = json.loads(builder.report_path.read_text())
        print(f"{_summary(report)}; see {builder.report_path}")
    return builder


def _check_same_source(builder: CelebAMaskHQ, source: str | os.PathLike | None) -> None:
    """Raises ValueError if the records were made from a release of another name than `source`."""
    if not source:
        return
    # As `open_archive` names it, whose name the report holds.
    given = Path(source).expanduser().name
    recorded = json.loads(builder.report_path.read_text())["source"]
    if given != recorded:
        raise ValueError(
            f"{builder.data_path} holds records of {recorded}, not of {given}: give another "
            "data_dir for these, or no source to use the records there"
        )


@contextlib.contextmanager
def _only_one_process(path: Path) -> Iterator[None]:
    """Waits for other processes; the lock of a killed one is released by the system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _tfds_bars_hidden() -> Iterator[None]:
    """TFDS's bars show the seconds of copying after the conversion, which has a bar of its own."""
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()


def _remove_leftovers(builder: CelebAMaskHQ) -> None:
    """Temporary folders of killed runs, which TFDS does not look for."""
    final = Path(builder.data_path)
    for leftover in final.parent.glob(f"incomplete.*_{final.name}"):
        shutil.rmtree(leftover)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: prepares the records of one size."""
    parser = argparse.ArgumentParser(
        prog="python -m l2sae_jax.data.celebamask",
        description="Make array_record files from the CelebAMask-HQ release.",
    )
    parser.add_argument("--source", required=True, help="the release: a folder, zip or tar file")
    parser.add_argument("--data_dir", required=True, help="where the records go")
    parser.add_argument("--size", type=int, default=256, help="pixels (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads (default: one per core)")
    args = parser.parse_args(argv)
    try:
        there = records_exist(args.data_dir, args.size)
        builder = prepare(args.source, args.data_dir, args.size, workers=args.workers)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    if there:
        print(f"nothing to do: the records are already in {builder.data_path}")


if __name__ == "__main__":
    # Under its real name, which is the one the records remember.
    from l2sae_jax.data.celebamask import main

    main()
