"""Sheets of cases: which images are chosen, and that they are shown as they were measured."""

import jax
import numpy as np
import pytest
from PIL import Image

from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.running import Setting
from l2sae_jax.evaluation.sheets import choose, write_sheets
from l2sae_jax.evaluation.systems import Made
from l2sae_jax.parallel import make_mesh
from l2sae_jax.regions import PART_LABELS, REGION_NAMES, REGIONS

SIZE, CELL, COUNT = 8, 192, 9
HAIR, NOSE = REGION_NAMES.index("hair"), REGION_NAMES.index("nose")


def source(count: int = COUNT) -> list[dict]:
    """Grey pictures of level 10 i, all of them nose."""
    return [
        {
            "id": 100 + i,
            "image": np.full((SIZE, SIZE, 3), 10 * i, np.uint8),
            "labels": np.full((SIZE, SIZE), PART_LABELS["nose"], np.uint8),
        }
        for i in range(count)
    ]


class FakeSystem:
    """Finds hair everywhere, and makes pictures brighter by as much as their region says."""

    def __init__(self):
        self.batches = []

    def segment(self, batch, placed):
        self.batches.append(batch)
        masks = np.zeros((len(batch.ids), SIZE, SIZE, len(REGION_NAMES)), np.float32)
        masks[..., HAIR] = 1
        return Made(masks, np.ones(len(batch.ids), bool))

    def make(self, batch, placed, found, kind):
        if kind.sample == 0:
            return None  # as where a folder has no such pictures
        brighter = batch.pixels + np.uint8(kind.sample * (kind.region + 1))
        return Made(brighter, np.ones(len(batch.ids), bool))


def overlaps(ious) -> dict[str, np.ndarray]:
    """Columns of a table: hair of these IoUs, no other region."""
    nothing = np.zeros((len(ious), len(REGION_NAMES)), np.float32)
    found, both = nothing.copy(), nothing.copy()
    found[:, HAIR], both[:, HAIR] = 50, 50 * np.float32(ious)
    return {
        "segmentation/intersection": both,
        "segmentation/found": found,
        "segmentation/truth": both.copy(),
    }


def changes(locality) -> dict[str, np.ndarray]:
    locality = np.float32(locality)
    return {"edit/inside": 8 * locality, "edit/outside": 8 * (1 - locality)}


def write(folder, table, system=None, count=COUNT, batch_size=4, cases=2):
    system = system or FakeSystem()
    mesh = make_mesh(jax.devices()[:1])
    setting = Setting(source(count), count, Protocol(samples=2), mesh, batch_size)
    return write_sheets(folder, system, table, setting, cases)


def centres(path, lines: int) -> np.ndarray:
    """The colour in the middle of every cell, `[lines, 4, 3]`."""
    page = np.asarray(Image.open(path))
    assert page.shape == (6 + lines * (CELL + 22), 6 + 4 * (CELL + 6), 3)
    rows = 6 + (CELL + 22) * np.arange(lines) + CELL // 2
    columns = 6 + (CELL + 6) * np.arange(4) + CELL // 2
    return page[rows][:, columns].astype(int)


# ----------------------------------------------------------------------------------------- choosing


def chosen(scores, cases) -> dict[str, list[int]]:
    """The images of each group."""
    found = choose(np.float32(scores).reshape(len(scores), -1), cases)
    groups = ("best", "median", "worst")
    assert [case.group for case in found] == sorted(
        (case.group for case in found), key=groups.index
    )
    return {g: [case.image for case in found if case.group == g] for g in groups}


def pairs(found, group) -> list[tuple[int, int]]:
    """The images of a group, with their columns."""
    return [(case.image, case.column) for case in found if case.group == group]


def test_cases_are_the_best_the_median_and_the_worst_from_best_to_worst():
    scores = [0.5, 0.9, 0.1, 0.6, 0.4, 0.8, 0.2, 1.0, 0.0]
    assert chosen(scores, 2) == {"best": [7, 1], "median": [3, 0], "worst": [2, 8]}
    assert chosen(scores, 1) == {"best": [7], "median": [0], "worst": [8]}


def test_images_without_a_score_do_not_count():
    assert chosen([np.nan, 0.1, 0.2, np.nan, 0.3], 1) == {"best": [4], "median": [2], "worst": [1]}
    assert chosen([np.nan, np.nan], 2) == {"best": [], "median": [], "worst": []}


@pytest.mark.parametrize("images", range(1, 14))
@pytest.mark.parametrize("columns", [1, 5])
@pytest.mark.parametrize("values", [1, 3, 1000])  # of which but one or a few are ties
def test_no_image_is_shown_twice_however_few_there_are(images, columns, values):
    scores = np.random.default_rng(images).integers(0, values, (images, columns))
    groups = chosen(scores, 4)
    shown = [image for group in groups.values() for image in group]
    assert len(set(shown)) == len(shown) == min(images, 3 * min(4, max(1, images // 3)))
    assert len(groups["best"]) == min(4, max(1, images // 3))


@pytest.mark.parametrize("cases", [1, 3, 5, 7, 10])
def test_a_group_shows_each_region_in_its_turn_however_far_apart_their_scores_are(cases):
    scores = np.random.default_rng(0).random((40, 5)) + 10 * np.arange(5)
    found = choose(scores, cases)
    for group in ("best", "median", "worst"):
        columns = [column for _, column in pairs(found, group)]
        assert columns == sorted(i % 5 for i in range(cases))


def test_a_face_that_is_best_at_all_is_shown_once():
    scores = np.float32([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4], [0.6, 0.3], [0.3, 0.2], [0.2, 0.1]])
    found = choose(scores, 2)
    assert pairs(found, "best") == [(0, 0), (1, 1)]
    assert pairs(found, "worst") == [(5, 0), (4, 1)]
    assert {image for image, _ in pairs(found, "median")} == {2, 3}
    assert [case.score for case in found] == [
        pytest.approx(scores[c.image, c.column]) for c in found
    ]


def test_regions_that_no_face_is_left_for_give_their_place_to_others():
    scores = np.float32([[9, np.nan], [8, np.nan], [7, 5], [6, np.nan], [5, np.nan], [4, np.nan]])
    found = choose(scores, 2)
    assert pairs(found, "best") == [(0, 0), (2, 1)]
    assert pairs(found, "worst") == [(4, 0), (5, 0)]
    assert pairs(found, "median") == [(1, 0), (3, 0)]


@pytest.mark.parametrize("images", range(3, 14))
def test_of_a_region_the_best_are_never_below_the_median_nor_these_below_the_worst(images):
    for case in range(20):
        scores = np.random.default_rng(case).random((images, 3))
        scores[scores < 0.2] = np.nan
        found = choose(scores, 4)
        for column in range(3):
            shown = [c.score for c in found if c.column == column]
            assert shown == sorted(shown, reverse=True)


# ------------------------------------------------------------------------------------------ sheets


def test_masks_are_shown_with_what_is_true_what_is_found_and_where_they_differ(tmp_path):
    written = write(tmp_path / "new", overlaps([0.5, 0.9, 0.1, 0.6, 0.4, 0.8, 0.2, 1.0, 0.0]))
    assert list(written) == ["Masks by IoU"]
    colours = centres(written["Masks by IoU"], lines=6)
    levels = 10 * np.array([7, 1, 3, 0, 2, 8])[:, None]
    np.testing.assert_array_equal(colours[:, 0], levels.repeat(3, axis=1))
    np.testing.assert_allclose(colours[:, 1], (levels + REGIONS[NOSE].colour) / 2, atol=0.5)
    np.testing.assert_allclose(colours[:, 2], (levels + REGIONS[HAIR].colour) / 2, atol=0.5)
    np.testing.assert_array_equal(colours[:, 3], 255)


def test_an_image_is_judged_by_the_mean_of_the_regions_it_has(tmp_path):
    table = overlaps([0.9, 0.6, 0.5])
    for column in ("found", "truth"):
        table[f"segmentation/{column}"][0, NOSE] = 10  # whose intersection is empty: mean 0.45
    written = write(tmp_path, table, count=3)
    levels = centres(written["Masks by IoU"], lines=3)[:, 0, 0]
    assert levels.tolist() == [10, 20, 0]


def test_edits_of_all_regions_are_shown_with_the_true_mask_and_the_change_amplified(tmp_path):
    count, regions = 15, np.arange(len(REGION_NAMES))
    locality = np.full((count, len(REGION_NAMES)), 0.5)
    locality[regions, regions], locality[14 - regions, regions] = 0.9, 0.1
    written = write(tmp_path, changes(locality), count=count, cases=5)
    assert list(written) == ["Edits by locality"]
    colours = centres(written["Edits by locality"], lines=15)
    best, worst = 10 * regions, 10 * (14 - regions)
    before, change = colours[:, 0, 0], np.tile(regions + 1, 3)
    np.testing.assert_array_equal(before[[*regions, *(10 + regions)]], [*best, *worst])
    masks = [REGIONS[NOSE].colour if region == NOSE else (0, 0, 0) for region in regions]
    np.testing.assert_array_equal(colours[:, 1], masks * 3)  # all faces are nose
    np.testing.assert_array_equal(colours[:, 2, 0], before + change)
    np.testing.assert_array_equal(colours[:, 3], 4 * change[:, None].repeat(3, axis=1))


def test_edits_that_changed_nothing_or_were_not_made_do_not_count(tmp_path):
    table = changes(np.full((3, len(REGION_NAMES)), np.nan))
    assert not write(tmp_path, table, count=3)
    for column in table.values():
        column[:] = 0
    assert not write(tmp_path, table, count=3)
    table["edit/inside"][1, HAIR] = 1
    colours = centres(*write(tmp_path, table, count=3).values(), lines=1)
    assert colours[0, 0].tolist() == [10, 10, 10]


def test_images_reach_the_system_as_in_the_run(tmp_path):
    system = FakeSystem()
    write(tmp_path, overlaps(np.arange(COUNT)[::-1] / 10), system)
    assert [batch.ids.tolist() for batch in system.batches] == [
        [100, 101, 103, 104],
        [107, 108, 108, 108],
    ]
    first, last = system.batches
    assert (first.count, last.count) == (4, 2)
    np.testing.assert_array_equal(first.pixels[:, 0, 0, 0], [0, 10, 30, 40])
    np.testing.assert_array_equal(first.reference_pixels[:, 0, 0, 0], [10, 20, 40, 50])
    np.testing.assert_array_equal(last.reference_pixels[:, 0, 0, 0], [80, 0, 0, 0])


def test_nothing_is_written_of_what_was_not_measured(tmp_path):
    assert not write(tmp_path / "new", {})
    assert not (tmp_path / "new").exists()
