"""Figures of hand-made rows, and the report that tells them."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from l2sae_jax.evaluation import Protocol, summary
from l2sae_jax.evaluation.report import report
from l2sae_jax.evaluation.running import Measured
from l2sae_jax.evaluation.scores import scores
from l2sae_jax.evaluation.store import Table, kept_rows
from l2sae_jax.evaluation.timing import Timing
from l2sae_jax.regions import REGION_NAMES

PROTOCOL = Protocol(strengths=(0.5, 1.0), seed=3)
IMAGES, REGIONS = 40, 5


def rows(better: float = 0.0) -> dict[str, np.ndarray]:
    """Rows whose figures can be told at a glance."""
    generator = np.random.default_rng(0)
    truth = np.full((IMAGES, REGIONS), 100.0)
    coverage = np.zeros((IMAGES, REGIONS, 1 + REGIONS))
    coverage[:, 1, 0] = 30  # the skin's slice covers a quarter of the background
    confusion = np.zeros((IMAGES, 6, 6))
    confusion[:, 0, 0], confusion[:, 0, 1] = 90, 30
    inside = np.full((IMAGES, REGIONS), 12.0)
    inside[:10, 0] = np.nan
    lpips = generator.normal(0.2, 0.1, (IMAGES, REGIONS))
    both = np.zeros((IMAGES, REGIONS, REGIONS))
    both[:, 2, 2] = 50
    features = generator.normal(size=(IMAGES, REGIONS, 4))
    return {
        "segmentation/intersection": np.full_like(truth, 50),
        "segmentation/found": truth,
        "segmentation/truth": truth,
        "segmentation/coverage": coverage,
        "segmentation/confusion": confusion,
        "segmentation/boundary_f": np.full_like(truth, 0.5),
        "edit/inside": inside,
        "edit/outside": np.full_like(truth, 4.0),
        "edit/lpips_alexnet": lpips - better,
        "edit/structure_intersection": both,
        "edit/structure_union": np.full_like(both, 100),
        "edit/features": features,
        "sweep/inside": np.stack([inside, 2 * inside], axis=1),
    }


def table(folder: Path, made: dict[str, np.ndarray]) -> Table:
    folder.mkdir()
    files = {}
    for i, part in enumerate((slice(25), slice(25, None))):
        half = {name: column[part] for name, column in made.items()}
        file = kept_rows(folder, str(i), lambda half=half: half)
        for name in made:
            files.setdefault(name.partition("/")[0], {})[i] = file
    return Table({name: [*found.values()] for name, found in files.items()})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    generator = np.random.default_rng(1)
    originals = table(folder / "originals", {"features": generator.normal(3, 1, (IMAGES, 4))})
    systems = {
        "old": table(folder / "old", rows()),
        "new": table(folder / "new", rows(better=0.05)),
    }
    timings = {"old": {name: Timing(0.02, 0.01, 0.03, 9) for name in REGION_NAMES}}
    return scores(Measured(systems, originals), timings, PROTOCOL)


def test_figures_have_the_values_of_their_definitions(found):
    old = found["systems"]["old"]
    masks = old["segmentation"]
    assert masks["iou"]["hair"]["value"] == pytest.approx(1 / 3)
    assert masks["f1"]["mean"]["value"] == pytest.approx(1 / 2)
    assert masks["boundary_f"]["lips"]["value"] == 0.5
    assert masks["pixel_accuracy"]["value"] == 0.75
    assert masks["leakage"]["skin"]["background"]["value"] == 0.25
    assert masks["leakage"]["hair"]["background"]["value"] == 0
    assert masks["confusion"]["background"]["hair"]["value"] == 0.25
    assert masks["confusion"]["nose"]["nose"]["value"] is None  # no pixel is truly nose
    edits = old["edit"]
    assert edits["locality"]["hair"]["value"] == pytest.approx(12 / 16)
    assert edits["region_iou"]["nose"]["value"] == 0.5 and edits["region_iou"]["eyes"]["value"] == 0
    assert edits["structure_iou"]["nose"]["value"] == pytest.approx(50 / 500)
    assert old["sweep"]["change_inside"]["1"]["lips"]["value"] == 24


def test_every_figure_has_its_count_seed_error_and_interval(found):
    edits = found["systems"]["old"]["edit"]
    assert edits["change_inside"]["hair"]["count"] == 30
    assert edits["change_inside"]["mean"]["count"] == IMAGES
    lpips = edits["lpips_alexnet"]["hair"]
    assert set(lpips) == {"value", "standard_error", "low", "high", "count", "seed"}
    assert lpips["seed"] == 3 and lpips["low"] < lpips["value"] < lpips["high"]
    assert lpips["standard_error"] == pytest.approx(0.1 / np.sqrt(IMAGES), rel=0.3)


def test_systems_are_compared_on_the_same_images(found):
    (name,) = found["differences"]
    apart = found["differences"][name]["edit"]["lpips_alexnet"]["hair"]
    assert name == "new less old" and apart["value"] == pytest.approx(-0.05)
    assert apart["standard_error"] < 1e-6  # though each alone is only known to 0.016


def test_distances_are_of_all_edits_together_and_of_each_region(found):
    realism = found["systems"]["old"]["realism"]
    assert realism["fid"]["value"] == pytest.approx(4 * 3**2, rel=0.2)  # means 3 apart in 4 values
    assert realism["fid"]["count"] == IMAGES * REGIONS
    assert realism["kid"]["value"] > 1
    assert realism["fid_by_region"]["eyes"]["count"] == IMAGES
    assert 0 < realism["fid"]["standard_error"] < realism["fid"]["value"] / 2
    assert "fid_by_strength" not in realism  # no features of those


def test_what_table_1_of_the_paper_has(found):
    old, new = (found["systems"][name]["table_1"] for name in ("old", "new"))
    assert old["fid"] == found["systems"]["old"]["realism"]["fid"]
    assert old["lpips"] == found["systems"]["old"]["edit"]["lpips_alexnet"]["mean"]
    assert old["seconds"]["median"] == pytest.approx(0.02) and new["seconds"] is None
    assert found["paper"]["L2SAE (paper)"] == {"fid": 26.61, "lpips": 0.203, "seconds": 0.07}


def test_the_report_tells_it_in_tables(found, tmp_path):
    about = {"date": "today", "device": "cpu", "jax": "1", "version": "0", "instruments": {}}
    about["systems"] = {"old": {"kind": "SMN"}, "new": {"kind": "pictures"}}
    whole = json.loads(json.dumps(found)) | {
        "about": about | {"command": "evaluate.py --data=data"},
        "data": {"images": IMAGES, "split": "test", "size": 64, "band": 2, "judge": "old"},
        "protocol": asdict(PROTOCOL),
        "notes": ["LPIPS: not there"],
    }
    plots, sheets = {"IoU": tmp_path / "plots" / "iou.png"}, {"Worst": tmp_path / "worst.png"}
    text = report(whole, plots, sheets, tmp_path)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert "| L2SAE (paper) | 26.61 | 0.203 | 0.07 |" in tables
    assert any(line.startswith("| old | 3") and "0.02 (0.01 to 0.03)" in line for line in tables)
    assert any(line.startswith("| IoU ↑, new | 0.333 ± 0.000 |") for line in tables)
    assert any(
        line.startswith("| LPIPS, new less old | -0.050 (-0.050 to -0.050) |") for line in tables
    )
    assert "![IoU](plots/iou.png)" in text and "![Worst](worst.png)" in text
    assert "- LPIPS: not there" in text and "    evaluate.py --data=data" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    for block in blocks:  # every table is one
        assert len({line.count("|") for line in block}) == 1, block[0]
    assert "nan" not in text and "None" not in text
    assert summary(whole).splitlines()[0].startswith("old: IoU 0.333 ± 0.000, ")
