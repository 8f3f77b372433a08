"""What a protocol asks for, and refuses."""

import pytest

from l2sae_jax.evaluation import MEASURES, PRESETS, Protocol
from l2sae_jax.regions import REGION_NAMES


def test_every_kind_of_picture_has_a_folder_of_its_own():
    protocol = Protocol(samples=3, strengths=(0.25, 1.0))
    folders = [kind.folder for kind in protocol.kinds()]
    assert len(set(folders)) == len(folders) == 1 + 5 * (3 + 2 + 1)
    assert {"reconstruction", "hair", "hair_sample2", "lips_strength0.25", "swap_eyes"} < {*folders}


def test_only_what_is_measured_is_asked_for():
    kinds = Protocol(measures=("segmentation", "swap")).kinds()
    assert [kind.folder for kind in kinds] == [f"swap_{name}" for name in REGION_NAMES]


def test_the_papers_protocol_is_one_edit_a_region_of_862_images():
    paper = PRESETS["paper"]
    assert (paper.images, paper.samples, paper.blend) == (862, 1, "paper")
    edits = [kind for kind in paper.kinds() if kind.measure == "edit"]
    assert [kind.folder for kind in edits] == list(REGION_NAMES)
    assert {"realism", "time"} < {*paper.measures} < {*MEASURES}


BAD = {
    "measure": ({"measures": ("speed",)}, "unknown measure 'speed': choose from segmentation, "),
    "none": ({"measures": ()}, "no measure named: choose from "),
    "images": ({"images": 0}, "images 0: expected a number from 1 to "),
    "samples": ({"samples": 0}, "samples 0: expected a number from 1 to 10"),
    "seed": ({"seed": -1}, "seed -1: expected a number from 0 to "),
    "strength": ({"strength": -0.1}, "strength -0.1: expected a number from 0 up"),
    "strengths": ({"strengths": (0.1, float("nan"))}, "strength nan: expected a number from 0"),
    "blend": ({"blend": "hard"}, "unknown blend 'hard': choose from paper, local"),
    "alike": ({"strengths": (0.2, 0.2000000001)}, "strengths 0.2, 0.2000000001: expected"),
    "no strengths": ({"strengths": ()}, "a sweep without strengths: name some"),
    "realism of nothing": ({"measures": ("realism", "swap")}, "realism is of pictures: name "),
    "twice": ({"strengths": (0.2, 0.2)}, "strengths 0.2, 0.2: expected different ones"),
    "split": ({"split": "dev"}, "unknown split 'dev': choose from train, validation, test"),
}


@pytest.mark.parametrize(("fields", "told"), BAD.values(), ids=BAD)
def test_mistakes_are_named(fields, told):
    with pytest.raises(ValueError) as error:
        Protocol(**fields)
    assert str(error.value).startswith(told)
