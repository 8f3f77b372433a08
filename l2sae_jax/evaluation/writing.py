"""The originals as files, for other programs; and what systems make of them, likewise."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from l2sae_jax.data.images import write_picture
from l2sae_jax.evaluation.batches import batches
from l2sae_jax.evaluation.running import Setting
from l2sae_jax.evaluation.systems import SEGMENTATION, System, place
from l2sae_jax.label_maps import label_map
from l2sae_jax.regions import REGION_NAMES, region_masks
from l2sae_jax.whole_files import replace_text

REFERENCES = "references.csv"


def write_originals(setting: Setting, folder: Path) -> None:
    """Writes the images as ID.png, their true regions as segmentation/ID.png, and references.csv.

    The last says which image lends each its style in swaps. Label maps have 0 for the background,
    else the region's place in `REGION_NAMES` from 1.
    """
    (folder / SEGMENTATION).mkdir(parents=True, exist_ok=True)
    ids = []
    for i in range(setting.images):
        example = setting.source[i]
        ids.append(example["id"])
        write_picture(folder / f"{example['id']}.png", example["image"])
        labels = np.asarray(label_map(region_masks(example["labels"]), REGION_NAMES))
        write_picture(folder / SEGMENTATION / f"{example['id']}.png", labels)
    pairs = zip(ids, [*ids[1:], *ids[:1]], strict=True)
    lines = ["id,reference", *(f"{one},{other}" for one, other in pairs)]
    replace_text(folder / REFERENCES, "\n".join(lines) + "\n")


def write_pictures(system: System, setting: Setting, folder: Path) -> None:
    """Writes what a system makes, in the layout that `PictureSystem` reads."""
    with ThreadPoolExecutor() as pool:
        for batch in batches(setting.source, setting.images, setting.batch_size):
            placed = place(batch, setting.mesh)
            found = system.segment(batch, placed)
            made = {
                kind.folder: system.make(batch, placed, found, kind)
                for kind in setting.protocol.kinds()
                if system.lacks(kind.measure) is None
            }
            values = {name: one.value for name, one in made.items() if one is not None}
            if found is not None:
                values[SEGMENTATION] = label_map(found.value, REGION_NAMES)
            for name, pictures in jax.device_get(values).items():
                (folder / name).mkdir(parents=True, exist_ok=True)
                files = [folder / name / f"{identity}.png" for identity in batch.ids]
                list(pool.map(write_picture, files[: batch.count], pictures[: batch.count]))
