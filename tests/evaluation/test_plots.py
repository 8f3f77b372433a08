"""Plots of scores: which are drawn, and that gaps and odd names do them no harm."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from l2sae_jax.regions import REGION_NAMES

pytest.importorskip("matplotlib")

from l2sae_jax.evaluation.plots import write_plots

FIRST_COLOUR = (0, 114, 178)
STRENGTHS = ("0.2", "0.6", "1")


def estimate(value: float | None, spread: float | None = 0.1) -> dict:
    ends = None if value is None or spread is None else (value - spread, value + spread)
    low, high = ends or (None, None)
    return {"value": value, "standard_error": spread, "low": low, "high": high, "count": 9}


def regions(value: float | None, **how) -> dict:
    return dict.fromkeys(REGION_NAMES, estimate(value, **how))


def groups(iou: float | None = 0.8, strengths=STRENGTHS) -> dict:
    sweep = {
        f"change_{zone}": {s: regions(level * float(s)) for s in strengths}
        for zone, level in (("inside", 20), ("outside", 1))
    }
    fid = {s: estimate(30 * float(s), 2) for s in strengths}
    return {
        "segmentation": {"iou": regions(iou) | {"mean": estimate(iou)}},
        "sweep": sweep,
        "realism": {"fid": estimate(40, 2), "fid_by_strength": fid},
    }


def plots(folder, **systems) -> dict[str, np.ndarray]:
    """The plots by the names of their files."""
    scores = json.loads(json.dumps({"systems": systems}))
    files = write_plots(folder, scores).values()
    assert sorted(files) == sorted(folder.glob("*"))
    return {file.stem: np.asarray(Image.open(file).convert("RGB")) for file in files}


def coloured(picture: np.ndarray) -> int:
    return np.sum(np.all(picture == FIRST_COLOUR, axis=-1))


def test_there_is_a_plot_of_all_that_was_measured_twice_as_wide_as_a_report(tmp_path):
    drawn = plots(tmp_path / "new", ours=groups(), theirs=groups(0.5))
    assert set(drawn) == {"iou", "locality", "fid"}
    assert {picture.shape[1] for picture in drawn.values()} == {1600}


def test_there_is_no_plot_of_what_was_not_measured(tmp_path):
    some = {"segmentation": groups()["segmentation"], "table_1": {"fid": None}}
    assert set(plots(tmp_path / "a", ours=some, theirs={})) == {"iou"}
    some = {"segmentation": groups(iou=None)["segmentation"], "realism": {"fid": estimate(1)}}
    assert not plots(tmp_path / "b", ours=some)
    assert not (tmp_path / "b").exists()


def test_bars_are_as_high_as_their_figures(tmp_path):
    low, high = (
        coloured(
            plots(tmp_path / name, ours={"segmentation": {"iou": regions(iou, spread=None)}})["iou"]
        )
        for name, iou in (("low", 0.3), ("high", 0.9))
    )
    assert high == pytest.approx(3 * low, rel=0.05)


def test_gaps_are_left_where_there_is_no_figure_or_no_interval(tmp_path):
    gaps = groups()
    gaps["segmentation"]["iou"]["hair"] = estimate(None)
    gaps["segmentation"]["iou"]["skin"] = estimate(0.5, spread=None)
    del gaps["segmentation"]["iou"]["mean"]
    gaps["sweep"]["change_inside"]["0.6"]["eyes"] = estimate(None)
    gaps["sweep"]["change_outside"]["0.2"] = regions(None)
    gaps["realism"]["fid_by_strength"]["1"] = estimate(30, spread=None)
    whole, drawn = (plots(tmp_path / str(i), ours=x) for i, x in enumerate((groups(), gaps)))
    for name, picture in drawn.items():
        assert 0 < coloured(picture) < coloured(whole[name])


def test_strengths_are_in_the_order_of_numbers(tmp_path):
    one, other = (
        plots(tmp_path / str(i), ours={"realism": groups(strengths=strengths)["realism"]})["fid"]
        for i, strengths in enumerate((("0.5", "2", "10"), ("10", "0.5", "2")))
    )
    np.testing.assert_array_equal(one, other)


def test_what_is_left_at_strength_0_is_named_no_edit_and_drawn_on_to_the_right(tmp_path):
    def drawn(lowest: str, value: float | None) -> tuple[int, int]:
        """The column of the rightmost coloured pixel; how much is written below the lowest."""
        by_strength = {lowest: estimate(value, None), "0.5": estimate(20, None)}
        by_strength["1"] = estimate(30, None)
        picture = plots(
            tmp_path / f"{lowest} {value}", ours={"realism": {"fid_by_strength": by_strength}}
        )["fid"]
        columns = np.flatnonzero(np.all(picture == FIRST_COLOUR, axis=-1).any(axis=0))
        return columns.max(), np.sum(picture[-100:, 100:300] < 128)

    (last, written), (other_last, other_written) = drawn("0", 10), drawn("0.1", 10)
    assert last > other_last + 20  # as far as the axis goes: further than the strengths
    assert written > 1.3 * other_written
    assert drawn("0", None)[0] < last - 20


@pytest.mark.parametrize("name", ["_private", "5$ or $x_{", "顔", "\udcff", "a\n\tb", "a" * 200])
@pytest.mark.filterwarnings("ignore:.*missing from font")
def test_systems_of_any_name_are_in_the_legend(tmp_path, name):
    picture = plots(tmp_path, **{name: {"segmentation": groups()["segmentation"]}})["iou"]
    assert coloured(picture[:60]) > 0


def test_pyplot_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    plots(tmp_path, ours={"segmentation": groups()["segmentation"]})
    assert "matplotlib.pyplot" not in sys.modules
