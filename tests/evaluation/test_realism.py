"""FID and KID of features whose distances can be worked out by hand.

Features lie on a line here: FID is then the square of how far the means and the deviations are
apart.
"""

from itertools import count

import numpy as np
import pytest

from l2sae_jax.evaluation import Protocol
from l2sae_jax.evaluation.realism import (
    Distance,
    difference_of,
    estimate_of,
    frechet_distances,
    kernel_estimate,
)
from l2sae_jax.evaluation.store import Table, kept_rows
from l2sae_jax.regions import REGION_NAMES

PROTOCOL = Protocol(strengths=(0.2, 1.0))
IMAGES = 43  # tenths of 4 and of 5, which no batch of 8 ends with
ENDS = [IMAGES * k // 10 for k in range(11)]

REAL = np.random.default_rng(0).normal(size=IMAGES)
SHIFTS, SCALES = np.arange(1.0, 6.0), np.array([1.0, 2.0, 0.5, 1.0, 3.0])
EDITS = SCALES * REAL[:, None] + SHIFTS
SWEEP = np.stack([REAL[:, None] + 0.1 * SHIFTS, 3.0 * EDITS], axis=1)
RECONSTRUCTIONS = 1.5 * REAL - 7.0


def on_a_line(values):
    return values[..., None] * [0.6, 0.8]


def fid(real, made):
    """By its definition, of numbers of which some may be lacking."""
    made = made[~np.isnan(made)]
    return (real.mean() - made.mean()) ** 2 + (real.std(ddof=1) - made.std(ddof=1)) ** 2


def without(tenth, values):
    return np.delete(values, range(ENDS[tenth], ENDS[tenth + 1]), axis=0)


@pytest.fixture
def table(tmp_path):
    """Makes a table of features, kept in batches of 8 images."""
    numbers = count()

    def made(**columns):
        files = {}
        for name, values in columns.items():
            column = "features" if name == "originals" else f"{name}/features"
            files[column.partition("/")[0]] = [
                kept_rows(tmp_path, str(next(numbers)), lambda c=column, p=part: {c: on_a_line(p)})
                for part in np.split(values, range(8, len(values), 8))
            ]
        return Table(files)

    return made


@pytest.fixture
def originals(table):
    return table(originals=REAL)


def test_every_distance_is_of_its_own_pictures(table, originals):
    system = table(edit=EDITS, sweep=SWEEP, reconstruction=RECONSTRUCTIONS)
    found = frechet_distances(system, originals, PROTOCOL)
    assert set(found) == {"fid", "fid_reconstruction", "fid_by_region", "fid_by_strength"}
    assert found["fid"].value == pytest.approx(fid(REAL, EDITS))
    assert found["fid_reconstruction"].value == pytest.approx(fid(REAL, RECONSTRUCTIONS))
    assert [*found["fid_by_region"]] == [*REGION_NAMES]
    for r, distance in enumerate(found["fid_by_region"].values()):
        assert distance.value == pytest.approx(fid(REAL, EDITS[:, r]))
        closed_form = SHIFTS[r] + (SCALES[r] - 1) * REAL.mean(), (SCALES[r] - 1) * REAL.std(ddof=1)
        assert distance.value == pytest.approx(np.square(closed_form).sum())
    assert [*found["fid_by_strength"]] == ["0.2", "1"]
    for s, distance in enumerate(found["fid_by_strength"].values()):
        assert distance.value == pytest.approx(fid(REAL, SWEEP[:, s]))
        assert distance.count == 5 * IMAGES
    counts = found["fid"].count, found["fid_by_region"]["hair"].count
    assert (*counts, found["fid_reconstruction"].count) == (5 * IMAGES, IMAGES, IMAGES)


def test_tenths_of_the_images_are_left_out_with_all_their_pictures(table, originals):
    system = table(edit=EDITS, sweep=SWEEP, reconstruction=RECONSTRUCTIONS)
    found = frechet_distances(system, originals, PROTOCOL)
    for distance, made in (
        (found["fid"], EDITS),
        (found["fid_by_region"]["nose"], EDITS[:, 2]),
        (found["fid_by_strength"]["1"], SWEEP[:, 1]),
        (found["fid_reconstruction"], RECONSTRUCTIONS),
    ):
        left_out = [fid(without(k, REAL), without(k, made)) for k in range(10)]
        np.testing.assert_allclose(distance.left_out, left_out, rtol=1e-6)


def test_what_was_not_made_has_no_distance(table, originals):
    assert frechet_distances(table(), originals, PROTOCOL) == {}
    found = frechet_distances(table(reconstruction=RECONSTRUCTIONS), originals, PROTOCOL)
    assert set(found) == {"fid_reconstruction"}
    edits = EDITS.copy()
    edits[:, 1] = np.nan
    found = frechet_distances(table(edit=edits), originals, PROTOCOL)
    assert set(found) == {"fid_by_region"}  # without skin there is nothing of all regions
    assert set(found["fid_by_region"]) == {"hair", "nose", "eyes", "lips"}


def test_missing_pictures_do_not_count_but_their_originals_do(table, originals):
    edits = EDITS.copy()
    edits[:7, 0] = np.nan  # a tenth and a half
    edits[20, :] = np.nan
    found = frechet_distances(table(edit=edits), originals, PROTOCOL)
    assert found["fid"].value == pytest.approx(fid(REAL, edits))
    assert found["fid"].count == 5 * IMAGES - 7 - 5
    hair = found["fid_by_region"]["hair"]
    assert hair.value == pytest.approx(fid(REAL, edits[:, 0])) and hair.count == IMAGES - 8
    left_out = [fid(without(k, REAL), without(k, edits[:, 0])) for k in range(10)]
    np.testing.assert_allclose(hair.left_out, left_out, rtol=1e-6)


@pytest.mark.parametrize(("images", "enough"), [(29, False), (30, True)])
def test_of_fewer_than_30_images_there_is_nothing(images, enough, table):
    system = table(edit=EDITS[:images], reconstruction=RECONSTRUCTIONS[:images])
    real = table(originals=REAL[:images])
    assert bool(frechet_distances(system, real, PROTOCOL)) is enough
    assert (kernel_estimate(system, real, 0) is not None) is enough


def test_a_region_of_few_pictures_has_no_distance(table, originals):
    edits = EDITS.copy()
    edits[14:, 4] = np.nan
    system = table(edit=edits)
    found = frechet_distances(system, originals, PROTOCOL)
    assert set(found) == {"fid_by_region"} and "lips" not in found["fid_by_region"]
    assert kernel_estimate(system, originals, 0) is None


# ---------------------------------------------------------------------------------------------- KID


def kid(real, made, without=None):
    """By its definition: kernels of pictures of different images, of which one may be left out."""
    image = np.broadcast_to(np.arange(IMAGES)[:, None], made.shape)
    there = ~np.isnan(made)
    sets = (real, np.arange(IMAGES)), (made[there], image[there])

    def mean_kernel(a, b):
        (x, of_x), (y, of_y) = a, b
        kernel = (x[:, None] * y / 2 + 1) ** 3  # two features, of which the squares add up to one
        counts = (of_x[:, None] != of_y) & (of_x != without)[:, None] & (of_y != without)
        return kernel[counts].mean()

    real, made = sets
    return mean_kernel(real, real) + mean_kernel(made, made) - 2 * mean_kernel(real, made)


def test_kid_leaves_each_image_out_with_all_its_edits(table, originals):
    edits = EDITS.copy()
    edits[:5, 1] = np.nan
    found = kernel_estimate(table(edit=edits), originals, 0)
    assert found.value == pytest.approx(kid(REAL, edits))
    left_out = np.array([kid(REAL, edits, image) for image in range(IMAGES)])
    error = np.sqrt((IMAGES - 1) / IMAGES * np.sum((left_out - left_out.mean()) ** 2))
    assert found.standard_error == pytest.approx(error)
    assert found.count == 5 * IMAGES - 5
    assert kernel_estimate(table(reconstruction=RECONSTRUCTIONS), originals, 0) is None


# -------------------------------------------------------------------------------------- uncertainty

A = Distance(7.0, np.array([6.0, 8.0, *[7.0] * 8]), 50)
B = Distance(4.0, np.array([3.0, 5.0, *[4.0] * 6, 3.0, 5.0]), 40)


def test_an_estimate_has_its_jackknife_error_and_interval():
    found = estimate_of(A)
    error = np.sqrt(9 / 10 * 2)
    assert found == pytest.approx((7.0, error, 7.0 - 1.96 * error, 7.0 + 1.96 * error, 50))


def test_a_difference_is_of_the_same_images_left_out():
    found = difference_of(A, B)
    error = np.sqrt(9 / 10 * 2)  # of the last two tenths: what they share is no difference
    assert found == pytest.approx((3.0, error, 3.0 - 1.96 * error, 3.0 + 1.96 * error, 40))
    assert difference_of(A, A).standard_error == 0
