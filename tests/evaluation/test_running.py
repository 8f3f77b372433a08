"""What is measured anew, and what is taken from files, as settings, instruments or data change."""

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from evaluation_cases import SIZE, DrawnSystem, examples
from tiny_models import separate_networks

from l2sae_jax.evaluation import Protocol, measuring, running
from l2sae_jax.evaluation.batches import batches
from l2sae_jax.evaluation.measuring import Instruments
from l2sae_jax.evaluation.running import Kept, Setting, run
from l2sae_jax.evaluation.systems import ModelSystem
from l2sae_jax.parallel import make_mesh

MEASURES = {"segmentation", "reconstruction", "edit", "sweep", "swap"}
PROTOCOL = Protocol(strengths=(0.0, 1.0))
IDENTITIES = {"lpips": "1", "inception": "a", "judge": "b"}
INSTRUMENTS = Instruments({}, np.zeros(1), None)  # that there is an Inception network is all
EXAMPLES = examples(4)
FIRST, SECOND = (3, 10), (17, 24)  # the ids of both batches


class Measured(NamedTuple):
    """A measure of a batch by a system, or the originals' features."""

    name: str
    ids: tuple[int, ...]
    system: str = ""


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture
def evaluated(mesh, tmp_path, monkeypatch):
    """Runs an evaluation, by default always the same, and tells what it measured."""
    done: list[Measured] = []

    def measure(task, name):
        ids = task.batch.ids[: task.batch.count]
        done.append(Measured(name, tuple(ids.tolist()), task.system.name))
        return {f"{name}/ids": ids, f"{name}/of": np.full(len(ids), task.system.name)}

    def originals(batch, instruments, mesh):
        ids = batch.ids[: batch.count]
        done.append(Measured("originals", tuple(ids.tolist())))
        return {"features": ids[:, None]}

    monkeypatch.setattr(running, "measure", measure)
    monkeypatch.setattr(running, "originals", originals)

    def evaluate(
        systems=("drawn",),
        source=EXAMPLES,
        identities=IDENTITIES,
        batch_size=2,
        folder="kept",
        instruments=INSTRUMENTS,
        **settings,
    ):
        done.clear()
        systems = [s if isinstance(s, DrawnSystem) else DrawnSystem(mesh, s) for s in systems]
        protocol = replace(PROTOCOL, **settings)
        setting = Setting(source, len(source), protocol, mesh, batch_size)
        kept = Kept(tmp_path / folder, tmp_path / "originals")
        found = run(systems, setting, instruments, identities, kept)
        return found, Counter(done)

    return evaluate


def of_both(names, system="drawn"):
    """Some measures of both batches, each once."""
    return Counter(Measured(name, ids, system) for name in names for ids in (FIRST, SECOND))


ORIGINALS = of_both(["originals"], system="")

OF_THE_NOISE = [
    ({"strength": 0.5}, {"edit"}),
    ({"samples": 3}, {"edit"}),
    ({"strengths": (0.0, 0.5)}, {"sweep"}),
    ({"seed": 1}, {"edit", "sweep"}),
]
OF_BLENDING = [
    ({"blend": "local"}, {"edit", "sweep", "swap"}),
    ({"harmonise": True}, {"edit", "sweep", "swap"}),
]
OF_NO_IMAGE = [
    ({"images": 4}, set()),
    ({"split": "train"}, set()),
    ({"measures": ("edit", "time")}, set()),
]


def test_everything_is_measured_once(evaluated):
    assert evaluated()[1] == of_both(MEASURES) + ORIGINALS
    assert not evaluated()[1]


@pytest.mark.parametrize(("change", "depends"), [*OF_THE_NOISE, *OF_BLENDING, *OF_NO_IMAGE])
def test_a_setting_measures_anew_what_depends_on_it(change, depends, evaluated):
    evaluated()
    assert evaluated(**change)[1] == of_both(depends)
    assert not evaluated()[1]


@pytest.fixture(scope="module")
def figures(mesh):
    """All figures of a model, without instruments but an LPIPS that stands for any."""
    model, instruments = separate_networks(), Instruments({"alexnet": 1.0}, None, None)
    (batch,) = batches(EXAMPLES, 4, 4)

    def measured(**change):
        protocol = replace(PROTOCOL, **change)
        system = ModelSystem("tiny", model, protocol, mesh)
        task = measuring.prepare(system, batch, protocol, instruments, mesh)
        return {name: measuring.measure(task, name) for name in MEASURES}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "lpips", lambda metric, a, b: ((a - b) ** 2).mean(axis=(1, 2, 3)))
        yield measured


@pytest.fixture(scope="module")
def usual_figures(figures):
    return figures()


@pytest.mark.parametrize(("change", "depends"), OF_THE_NOISE)  # others take long to compile
def test_a_setting_changes_the_figures_that_depend_on_it(change, depends, figures, usual_figures):
    found = figures(**change)
    differing = {
        name
        for name, columns in found.items()
        for column, values in columns.items()
        if not np.array_equal(values, usual_figures[name][column], equal_nan=True)
    }
    assert differing == depends


@pytest.mark.parametrize("other", ["another", None])
@pytest.mark.parametrize(
    ("instrument", "depends"),
    [
        ("lpips", {"reconstruction", "edit", "sweep"}),
        ("inception", {"reconstruction", "edit", "sweep"}),
        ("judge", {"edit"}),
    ],
)
def test_an_instrument_measures_anew_what_depends_on_it(instrument, depends, other, evaluated):
    evaluated()
    identities = IDENTITIES | {instrument: other}
    instruments = INSTRUMENTS
    if other is None:
        del identities[instrument]
        if instrument == "inception":
            instruments = INSTRUMENTS._replace(inception=None)
    features = ORIGINALS if instrument == "inception" and other else Counter()
    found = evaluated(identities=identities, instruments=instruments)[1]
    assert found == of_both(depends) + features
    assert not evaluated()[1]


def test_another_system_is_measured_anew_but_shares_the_originals(evaluated):
    evaluated()
    assert evaluated(systems=("other",))[1] == of_both(MEASURES, "other")
    assert evaluated(systems=("drawn", "other", "third"))[1] == of_both(MEASURES, "third")
    # Those of an evaluation written elsewhere, of other measures, too.
    found = evaluated(folder="elsewhere", measures=("segmentation",), seed=5)[1]
    assert found == of_both(["segmentation"])


@pytest.mark.parametrize("name", ["image", "labels", "id"])
def test_an_image_that_changed_is_measured_anew(name, evaluated):
    evaluated()
    last = EXAMPLES[3] | {name: np.zeros_like(EXAMPLES[3][name])}
    ids = 17, int(last["id"])
    expected = Counter(Measured(measure, ids, "drawn") for measure in MEASURES)
    if name == "image":
        expected[Measured("originals", ids)] = 1
    assert evaluated(source=[*EXAMPLES[:3], last])[1] == expected


def test_an_image_that_lends_its_style_is_one_that_changed(evaluated):
    evaluated()
    black = EXAMPLES[2] | {"image": np.zeros((SIZE, SIZE, 3), np.uint8)}
    found = evaluated(source=[*EXAMPLES[:2], black, EXAMPLES[3]])[1]
    assert found == of_both(MEASURES) + Counter([Measured("originals", SECOND)])


def test_rows_that_fill_a_batch_up_do_not_matter(evaluated):
    source = EXAMPLES[:3]
    assert evaluated(source=source, batch_size=3)[1].total() == len(MEASURES) + 1
    assert not evaluated(source=source, batch_size=4)[1]


def test_every_system_has_its_own_rows_in_the_order_of_the_images(evaluated):
    for _ in range(2):  # measured, and from files
        found, _ = evaluated(systems=("drawn", "other"))
        assert found.originals["features"].tolist() == [[3], [10], [17], [24]]
        assert [*found.systems] == ["drawn", "other"]
        for name, table in found.systems.items():
            for measure in MEASURES:
                assert table[f"{measure}/ids"].tolist() == [3, 10, 17, 24]
                assert set(table[f"{measure}/of"]) == {name}


def test_what_a_system_lacks_is_not_measured(evaluated, mesh):
    system = DrawnSystem(mesh, unmade={"sweep", "segmentation"})
    found, done = evaluated(systems=(system,))
    assert done == of_both(MEASURES - {"sweep", "segmentation"}) + ORIGINALS
    assert "edit/ids" in found.systems["drawn"] and "sweep/ids" not in found.systems["drawn"]


def test_without_inception_there_are_no_originals(evaluated):
    found, done = evaluated(instruments=INSTRUMENTS._replace(inception=None))
    assert found.originals is None and done == of_both(MEASURES)


def test_a_batch_too_large_is_told_in_one_line(evaluated, monkeypatch):
    def measure(task, name):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand much more")

    monkeypatch.setattr(running, "measure", measure)
    with pytest.raises(ValueError, match=r"^a batch of 2 cannot be computed.*out of memory$"):
        evaluated()
