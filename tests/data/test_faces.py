"""Faces are looked for in photographs made hard; what is done with them, in those of a stand-in."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2sae_jax.data import faces
from l2sae_jax.data.alignment import Placement, ffhq_placement, take, to_crop
from l2sae_jax.data.faces import Face, NoFace, find_faces, locate
from l2sae_jax.data.images import read_image, resize

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"

# Where a careful eye sees the pupils, the tip of the nose and the corners of the mouth.
LANDMARKS = {
    "astronaut": [[203, 103], [247, 105], [224, 129], [202, 143], [246, 144]],
    "grace_hopper": [[222, 196], [309, 193], [267, 243], [231, 284], [306, 281]],
    "portrait_1": [[92, 129], [164, 129], [128, 174], [97, 212], [158, 212]],
    "portrait_2": [[92, 133], [161, 133], [128, 178], [99, 213], [156, 213]],
}


def photograph(name: str) -> np.ndarray:
    return read_image(PHOTOGRAPHS / f"{name}.jpg")


def lay_out(canvas: np.ndarray, *placed: tuple[np.ndarray, int, int]) -> np.ndarray:
    for picture, left, top in placed:
        canvas[top : top + len(picture), left : left + picture.shape[1]] = picture
    return canvas


def texture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(60, 200, (height // 16, width // 16, 3), np.uint8)
    return resize(noise, (height, width))
