"""Edits are timed warm, each region apart."""

import time

import numpy as np
from tiny_models import HEIGHT, WIDTH, separate_networks

from l2sae_jax.evaluation import Protocol, timing
from l2sae_jax.regions import REGION_NAMES


def test_every_region_is_timed_without_what_compiling_takes(monkeypatch):
    edited = []

    def edit(model, images, key, regions, *how):
        seconds = 0.01 if regions in edited else 0.5  # the first time
        edited.append(regions)
        time.sleep(seconds)
        return images

    monkeypatch.setattr(timing.editing, "edit", edit)
    pixels = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    found = timing.time_edits(separate_networks(), Protocol(), pixels, seconds=0.1)
    assert tuple(found) == REGION_NAMES
    for region, taken in found.items():
        assert 0.01 <= taken.low <= taken.median <= taken.high < 0.3, region
        assert taken.count >= 5
    assert [*dict.fromkeys(edited)] == [(name,) for name in REGION_NAMES]
