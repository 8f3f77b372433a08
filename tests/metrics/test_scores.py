import jax.numpy as jnp
import numpy as np
import pytest

from l2sae_jax.metrics import mask_sums, reconstruction_sums, summarise


def test_masks_that_overlap_by_half():
    truth, found = np.zeros((2, 2, 4, 5)), np.zeros((2, 2, 4, 5))
    truth[:, :, :2, 0] = found[:, :, 1:3, 0] = 1  # 4 of 12 pixels
    truth[0, 0, 0, 4] = found[0, 0, 0, 4] = 1
    found[0, 0, 0, 1] = 1
    scores = summarise(mask_sums(jnp.asarray(found), jnp.asarray(truth)))
    assert scores["iou_hair"] == pytest.approx(1 / 3)
    assert scores["iou_lips"] == 1.0
    assert scores["iou_skin"] == scores["iou_nose"] == scores["iou_eyes"] == 0.0
    assert scores["iou_mean"] == pytest.approx((1 / 3 + 1) / 5)


def test_sums_add_up_over_batches():
    rng = np.random.default_rng(0)
    images, decoded = rng.uniform(-1, 1, (2, 6, 4, 4, 3))
    whole = reconstruction_sums(images, decoded)
    parts = [reconstruction_sums(images[i : i + 2], decoded[i : i + 2]) for i in (0, 2, 4)]
    added = {name: sum(part[name] for part in parts) for name in whole}
    assert summarise(added)["l1"] == pytest.approx(np.abs(images - decoded).mean(), rel=1e-5)
    assert summarise(whole)["l1"] == pytest.approx(summarise(added)["l1"], rel=1e-5)
