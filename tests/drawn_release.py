"""A small CelebAMask-HQ release, drawn."""

from pathlib import Path

import numpy as np
from PIL import Image

from l2sae_jax.data.synthetic import SyntheticFaces
from l2sae_jax.regions import PART_LABELS


def write_release(folder: Path, ids: range, size: int = 48) -> Path:
    """Writes `CelebAMask-HQ/...` into a folder: pictures of `size`, masks of half of it."""
    top = folder / "CelebAMask-HQ"
    faces = SyntheticFaces(size, max(ids) + 1, seed=7)
    (top / "CelebA-HQ-img").mkdir(parents=True)
    for i in ids:
        face = faces[i]
        Image.fromarray(face["image"]).save(top / "CelebA-HQ-img" / f"{i}.jpg", quality=95)
        masks = top / "CelebAMask-HQ-mask-anno" / str(i // 2000)
        masks.mkdir(parents=True, exist_ok=True)
        labels = face["labels"][::2, ::2]
        for part, label in PART_LABELS.items():
            if (labels == label).any():
                mask = Image.fromarray(np.uint8(255) * (labels == label))
                # The public masks are stored as RGB.
                mask.convert("RGB").save(masks / f"{i:05d}_{part}.png")
    return top
