"""Every column of a batch, worked out on the host from pictures that are known.

LPIPS and Inception are played by functions of which the host tells what they give.
"""

import jax
import numpy as np
import pytest
from evaluation_cases import SIZE, DrawnSystem, drawn_labels, drawn_picture, examples
from tiny_models import separate_networks

import l2sae_jax as l2
from l2sae_jax.evaluation import Protocol, measuring
from l2sae_jax.evaluation.batches import batches
from l2sae_jax.evaluation.measuring import Instruments, Task, band_width, measure, prepare
from l2sae_jax.evaluation.systems import Made, place
from l2sae_jax.metrics.reconstruction import ssim
from l2sae_jax.parallel import make_mesh
from l2sae_jax.regions import REGION_NAMES, region_masks

EXAMPLES = examples(3)
IDS = [example["id"] for example in EXAMPLES]
ORIGINALS = np.stack([example["image"] for example in EXAMPLES])
TRUTH = np.asarray(region_masks(np.stack([example["labels"] for example in EXAMPLES])))
PROTOCOL = Protocol(
    measures=("segmentation", "reconstruction", "edit", "sweep", "swap"),
    samples=3,
    strengths=(0.0, 0.6),
)
FACTORS = {"alexnet": np.float32(1), "vgg16": np.float32(10)}
WEIGHTS = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
INSTRUMENTS = Instruments(FACTORS, WEIGHTS, separate_networks())
NOTHING = Instruments({}, None, None)


def squared_error(factor, a, b):
    return factor * ((a - b) ** 2).mean(axis=(1, 2, 3))


def features_of(images, weights=WEIGHTS):
    half = images.shape[1] // 2
    blocks = images.reshape(len(images), 2, half, 2, half, 3)
    return blocks.mean(axis=(2, 4)).reshape(len(images), -1) @ weights


class BlockMeans:
    def apply(self, variables, images):
        return features_of(images, variables["params"])


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module", autouse=True)
def instruments_the_host_knows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "lpips", squared_error)
        patch.setattr(measuring, "Inception", BlockMeans)
        yield


def rows_of(system, instruments, mesh, names=PROTOCOL.measures):
    (batch,) = batches(EXAMPLES, 3, 4)  # of which the last row is no image
    task = prepare(system, batch, PROTOCOL, instruments, mesh)
    return {column: rows for name in names for column, rows in measure(task, name).items()}


@pytest.fixture(scope="module")
def rows(mesh):
    return rows_of(DrawnSystem(mesh), INSTRUMENTS, mesh)


def as_images(pixels):
    return pixels.astype(np.float32) / 127.5 - 1


def shown(folder):
    """A system's pictures of a kind, in [-1, 1]."""
    return as_images(np.stack([drawn_picture(folder, identity) for identity in IDS]))


def by_region(function, suffix=""):
    """What a function tells of the pictures of each region, whose masks it is given."""
    found = [function(shown(name + suffix), TRUTH[..., r]) for r, name in enumerate(REGION_NAMES)]
    return np.stack(found, axis=1)


def close(found, expected, **tolerances):
    np.testing.assert_allclose(found, expected, **{"rtol": 1e-4, "atol": 1e-6} | tolerances)


def mean_within(values, zone):
    count = zone.sum(axis=(1, 2))
    return np.where(count > 0, (values * zone).sum(axis=(1, 2)) / np.maximum(count, 1), np.nan)


# ----------------------------------------------------------------------------------------- pictures


def test_reconstructions_are_measured_by_every_network(rows):
    images, decoded = as_images(ORIGINALS), shown("reconstruction")
    for net, factor in FACTORS.items():
        close(rows[f"reconstruction/lpips_{net}"], squared_error(factor, images, decoded))
    close(rows["reconstruction/l1"], np.abs(images - decoded).mean(axis=(1, 2, 3)))
    close(rows["reconstruction/ssim"], ssim(images, decoded))


def test_lpips_of_edits_is_from_their_originals(rows):
    images = as_images(ORIGINALS)
    close(rows["edit/lpips_alexnet"], by_region(lambda edited, _: squared_error(1, images, edited)))
    assert "edit/lpips_vgg16" not in rows


@pytest.mark.parametrize(("name", "suffix"), [("edit", ""), ("sweep", "_strength0.6")])
def test_lpips_inside_is_of_what_changed_in_the_region_alone(name, suffix, rows):
    def inside(edited, truth):
        within = np.where(truth[..., None] > 0, edited, as_images(ORIGINALS))
        distance = squared_error(1, as_images(ORIGINALS), within)
        return np.where(truth.any(axis=(1, 2)), distance, np.nan)

    found = rows[f"{name}/lpips_inside"]
    close(found[:, 1] if name == "sweep" else found, by_region(inside, suffix))
    assert np.isnan(found[1, ..., [0, 4]]).all()  # an image without hair and lips


def test_diversity_is_how_far_the_draws_are_from_each_other(rows):
    def apart(name):
        first, second, third = (shown(name + suffix) for suffix in ("", "_sample1", "_sample2"))
        pairs = (first, second), (first, third), (second, third)
        return np.mean([squared_error(1, *pair) for pair in pairs], axis=0)

    close(rows["edit/diversity"], np.stack([apart(name) for name in REGION_NAMES], axis=1))


def test_change_is_told_by_image_strength_and_region(rows):
    def change(edited, truth):
        return mean_within(127.5 * np.abs(edited - as_images(ORIGINALS)).mean(axis=-1), truth)

    expected = [by_region(change, suffix) for suffix in ("_strength0", "_strength0.6")]
    close(rows["sweep/inside"], np.stack(expected, axis=1))
    close(rows["edit/inside"], by_region(change))


def test_swaps_are_measured_from_the_source_and_from_the_reference(rows):
    images, references = as_images(ORIGINALS), as_images(np.roll(ORIGINALS, -1, axis=0))
    either = np.maximum(TRUTH, np.roll(TRUTH, -1, axis=0))
    for region, name in enumerate(REGION_NAMES):
        swapped, inside = shown(f"swap_{name}"), either[..., region]
        expected = {
            "mse_src": mean_within(((swapped - images) ** 2).mean(axis=-1), 1 - inside),
            "mse_ref": mean_within(((swapped - references) ** 2).mean(axis=-1), inside),
            "mse_ref_before": mean_within(((images - references) ** 2).mean(axis=-1), inside),
        }
        for column, errors in expected.items():
            close(rows[f"swap/{column}"][:, region], errors, err_msg=column)


def test_features_are_of_the_pictures_by_image_strength_and_region(rows):
    close(rows["reconstruction/features"], features_of(shown("reconstruction")), atol=1e-5)
    edits = by_region(lambda edited, _: features_of(edited))
    close(rows["edit/features"], edits, atol=1e-5)
    sweep = [
        by_region(lambda edited, _: features_of(edited), suffix)
        for suffix in ("_strength0", "_strength0.6")
    ]
    close(rows["sweep/features"], np.stack(sweep, axis=1), atol=1e-5)


def test_features_of_originals_are_of_the_images_themselves(mesh):
    (batch,) = batches(EXAMPLES, 3, 4)
    found = measuring.originals(batch, INSTRUMENTS, mesh)
    assert found.keys() == {"features"}
    close(found["features"], features_of(as_images(ORIGINALS)), atol=1e-5)


# -------------------------------------------------------------------------------------------- masks


def test_the_judge_compares_the_regions_of_edits_with_those_of_originals(rows):
    before = np.asarray(l2.segment(INSTRUMENTS.judge, as_images(ORIGINALS))) > 0
    for region, name in enumerate(REGION_NAMES):
        after = np.asarray(l2.segment(INSTRUMENTS.judge, shown(name))) > 0
        for column, both in (("intersection", before & after), ("union", before | after)):
            found = rows[f"edit/structure_{column}"][:, :, region]
            # A pixel may lie on the threshold, to rounding.
            np.testing.assert_allclose(found, both.sum(axis=(1, 2)), atol=1)


def test_confusion_has_a_row_for_each_true_label(rows):
    background = 1 - TRUTH.max(axis=-1, keepdims=True)
    truth = np.concatenate([background, TRUTH], axis=-1) > 0
    labels = np.stack([drawn_labels(identity) for identity in IDS])
    found = labels[..., None] == np.arange(6)
    counts = np.einsum("bhwi,bhwj->bij", truth, found, dtype=int)
    np.testing.assert_array_equal(rows["segmentation/confusion"], counts)
    covered = np.swapaxes(counts, 1, 2)[:, 1:]  # slices are told by their region, not by the truth
    np.testing.assert_array_equal(rows["segmentation/coverage"], covered)


@pytest.mark.parametrize(("shift", "score"), [(0, 1), (2, 1), (3, 0)])
def test_boundaries_may_lie_two_pixels_apart(shift, score, mesh):
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[:, :8] = 1  # skin
    (batch,) = batches([EXAMPLES[0] | {"labels": labels}], 1, 1)
    masks = np.zeros((1, SIZE, SIZE, 5), np.float32)
    masks[:, :, : 8 + shift, 1] = 1
    found, system = Made(masks, np.array([True])), DrawnSystem(mesh)
    task = Task(system, batch, place(batch, mesh), found, PROTOCOL, NOTHING, mesh)
    assert measure(task, "segmentation")["segmentation/boundary_f"][0, 1] == score


def test_the_band_round_a_region_is_a_32nd_of_the_image(mesh):
    assert [band_width(size) for size in (16, 32, 64, 128, 1024)] == [1, 1, 2, 4, 32]
    labels = np.zeros((64, 64), np.uint8)
    labels[20:40, 20:40] = 1  # skin
    black = np.zeros((64, 64, 3), np.uint8)
    (batch,) = batches([{"image": black, "labels": labels, "id": 0}], 1, 1)
    edited = black.copy()
    edited[18:42, 18:42] = 10  # two pixels beyond the region

    class Beyond(DrawnSystem):
        def make(self, batch, placed, found, kind):
            return Made(edited[None], np.array([True]))

    task = prepare(Beyond(mesh, size=64), batch, PROTOCOL, NOTHING, mesh)
    found = measure(task, "edit")
    for zone, change in (("inside", 10), ("band", 10), ("outside", 0)):
        close(found[f"edit/{zone}"][0, 1], change, err_msg=zone)


# ---------------------------------------------------------------------------------- what is lacking


def test_without_instruments_there_are_columns_of_pixels_alone(mesh):
    found = rows_of(DrawnSystem(mesh), NOTHING, mesh, ("reconstruction", "edit", "sweep"))
    assert found.keys() == {
        *(f"reconstruction/{name}" for name in ("l1", "psnr", "ssim")),
        *(f"{name}/{zone}" for name in ("edit", "sweep") for zone in ("inside", "band", "outside")),
    }


def test_masks_that_cannot_overlap_have_no_coverage(mesh):
    system = DrawnSystem(mesh)
    system.has_slices = False
    found = rows_of(system, NOTHING, mesh, ("segmentation",))
    assert "segmentation/confusion" in found and "segmentation/coverage" not in found


def test_rows_without_a_picture_are_not_numbers(rows, mesh):
    lacking = {
        ("segmentation", IDS[0]),
        ("reconstruction", IDS[1]),
        ("hair", IDS[0]),
        ("nose_sample2", IDS[2]),
        ("eyes_strength0.6", IDS[0]),
        ("swap_skin", IDS[1]),
    }
    found = rows_of(DrawnSystem(mesh, lacking=lacking), INSTRUMENTS, mesh)
    expected = {name: column.copy() for name, column in rows.items()}
    for name, column in expected.items():
        match name.partition("/")[0]:
            case "segmentation":
                column[0] = np.nan
            case "reconstruction":
                column[1] = np.nan
            case "edit" if name != "edit/features":
                column[0, ..., 0] = np.nan
            case "swap":
                column[1, ..., 1] = np.nan
            case "sweep" if name != "sweep/features":
                column[0, 1, 3] = np.nan
    expected["edit/features"][0, 0] = np.nan
    expected["edit/diversity"][2, 2] = np.nan  # though there are two others
    expected["sweep/features"][0, 1, 3] = np.nan
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        close(found[name], column, err_msg=name)


def test_kinds_that_a_system_does_not_make_leave_their_places_empty(rows, mesh):
    hair = {"hair", "hair_sample1", "hair_sample2"}
    unmade = hair | {"reconstruction", "nose_sample1", "eyes_strength0.6", "swap_skin"}
    found = rows_of(DrawnSystem(mesh, unmade=unmade), INSTRUMENTS, mesh)
    places = {
        "edit/inside": np.s_[:, 0],
        "edit/structure_union": np.s_[:, :, 0],
        "edit/features": np.s_[:, 0],
        "sweep/inside": np.s_[:, 1, 3],
        "sweep/features": np.s_[:, 1, 3],
        "swap/mse_src": np.s_[:, 1],
    }
    for name, place_of in places.items():
        expected = rows[name].copy()
        expected[place_of] = np.nan
        close(found[name], expected, err_msg=name)
    apart = squared_error(1, shown("nose"), shown("nose_sample2"))
    close(found["edit/diversity"][:, 2], apart)
    assert not any(name.startswith("reconstruction/") for name in found)
