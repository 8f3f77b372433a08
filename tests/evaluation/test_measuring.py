"""A batch measured, against the same figures worked out image by image; and from files."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from evaluation_cases import SIZE, examples
from tiny_models import separate_networks

import l2sae_jax as l2
from l2sae_jax.data.images import write_picture
from l2sae_jax.evaluation import Protocol
from l2sae_jax.evaluation.batches import batches
from l2sae_jax.evaluation.measuring import Instruments, measure, prepare
from l2sae_jax.evaluation.running import Setting
from l2sae_jax.evaluation.systems import ModelSystem, PictureSystem
from l2sae_jax.evaluation.writing import write_originals, write_pictures
from l2sae_jax.metrics.locality import change_by_zone, swap_errors
from l2sae_jax.metrics.reconstruction import psnr
from l2sae_jax.metrics.segmentation import overlap
from l2sae_jax.parallel import make_mesh
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.regions import region_masks

IMAGES = examples(3)
NOTHING = Instruments({}, None, None)
PROTOCOL = Protocol(
    measures=("segmentation", "reconstruction", "edit", "sweep", "swap"), strengths=(0.0, 0.6)
)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def system(mesh):
    return ModelSystem("tiny", separate_networks(), PROTOCOL, mesh)


def rows_of(system, protocol, instruments, mesh, batch_size=3):
    found = []
    for batch in batches(IMAGES, 3, batch_size):
        task = prepare(system, batch, protocol, instruments, mesh)
        names = [name for name in protocol.measures if system.lacks(name) is None]
        found.append({k: v for name in names for k, v in measure(task, name).items()})
    return {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}


@pytest.fixture(scope="module")
def rows(system, mesh):
    judged = NOTHING._replace(judge=system.model)
    return rows_of(system, PROTOCOL, judged, mesh)


def alone(index):
    """An image, the key of its noise, and its true masks, as a batch of one."""
    example = IMAGES[index]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), example["id"])
    return to_images(example["image"][None]), key, region_masks(example["labels"][None])


def shown(images):
    return to_images(to_pixels(images))


@pytest.mark.parametrize("index", range(3))
def test_the_figures_of_an_edit_are_those_of_the_public_function(index, rows, system):
    images, key, truth = alone(index)
    edited = shown(l2.edit(system.model, images, key, ("nose",), 0.6))
    for zone, change in change_by_zone(images, edited, truth[..., 2], 1).items():
        np.testing.assert_allclose(rows[f"edit/{zone}"][index, 2], change[0], rtol=1e-4)
        np.testing.assert_array_equal(rows[f"sweep/{zone}"][:, 1], rows[f"edit/{zone}"])
    counts = overlap(l2.segment(system.model, edited), l2.segment(system.model, images))
    found = rows["edit/structure_intersection"][index, :, 2]
    np.testing.assert_array_equal(found, counts["intersection"][0])


def test_the_figures_of_masks_swaps_and_reconstructions_are(rows, system):
    images, _, truth = alone(0)
    others, _, other_truth = alone(1)
    counts = overlap(l2.segment(system.model, images), truth)
    for name, count in counts.items():
        np.testing.assert_array_equal(rows[f"segmentation/{name}"][0], count[0])
    covered = rows["segmentation/coverage"]
    np.testing.assert_array_equal(
        np.diagonal(covered, 1, axis1=1, axis2=2), rows["segmentation/intersection"]
    )
    background = np.asarray(1 - truth.max(axis=-1, keepdims=True))
    masks = np.asarray(l2.segment(system.model, images))
    np.testing.assert_array_equal(covered[0, :, 0], (masks * background).sum(axis=(0, 1, 2)))
    assert (rows["segmentation/confusion"].sum(axis=(1, 2)) == SIZE * SIZE).all()
    swapped = shown(l2.swap(system.model, images, others, ("eyes",)))
    masks = truth[..., 3], other_truth[..., 3]
    for name, error in swap_errors(images, others, swapped, *masks).items():
        np.testing.assert_allclose(rows[f"swap/{name}"][0, 3], error[0], rtol=1e-4)
    decoded = shown(l2.decode(system.model, *l2.encode(system.model, images)))
    np.testing.assert_allclose(rows["reconstruction/psnr"][0], psnr(decoded, images)[0], rtol=1e-4)


def test_what_an_image_does_not_have_is_not_a_number(rows):
    hairless = np.isnan(rows["edit/inside"])
    assert hairless[1].tolist() == [True, False, False, False, True]
    assert not hairless[[0, 2]].any()
    assert rows["sweep/inside"].shape == (3, 2, 5)
    assert not np.isnan(rows["edit/outside"]).any()


def test_figures_do_not_depend_on_the_batch(rows, system, mesh):
    judged = NOTHING._replace(judge=system.model)
    for name, column in rows_of(system, PROTOCOL, judged, mesh, batch_size=2).items():
        np.testing.assert_allclose(column, rows[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_model_without_a_network_is_measured_in_what_it_can(mesh, system):
    model = replace(system.model, smpn=None)
    smn = ModelSystem("smn", model, PROTOCOL, mesh)
    assert {n.partition("/")[0] for n in rows_of(smn, PROTOCOL, NOTHING, mesh)} == {
        "reconstruction"
    }
    smpn = ModelSystem("smpn", replace(system.model, smn=None), PROTOCOL, mesh)
    assert {n.partition("/")[0] for n in rows_of(smpn, PROTOCOL, NOTHING, mesh)} == {"segmentation"}


# ------------------------------------------------------------------------------------------ folders


@pytest.fixture(scope="module")
def folder(system, mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(system, Setting(IMAGES, 3, PROTOCOL, mesh, 2), folder)
    return folder


def test_a_models_pictures_as_files_have_the_models_figures(folder, rows, system, mesh):
    files = PictureSystem("files", folder, PROTOCOL, mesh)
    assert files.image_size == SIZE
    found = rows_of(files, PROTOCOL, NOTHING._replace(judge=system.model), mesh)
    assert found.keys() == rows.keys() - {"segmentation/coverage"}  # label maps have no slices
    for name, column in found.items():
        if name.startswith("segmentation/"):  # masks may overlap, label maps may not
            continue
        np.testing.assert_allclose(column, rows[name], rtol=1e-6, err_msg=name)


def test_images_without_a_picture_do_not_count(folder, mesh, tmp_path):
    (tmp_path / "hair").mkdir()
    (tmp_path / "hair" / "0010.png").write_bytes((folder / "hair" / "10.png").read_bytes())
    (tmp_path / "hair" / "notes.txt").write_text("not a picture")
    files = PictureSystem("some", tmp_path, PROTOCOL, mesh)
    found = rows_of(files, PROTOCOL, NOTHING, mesh)
    assert set(found) == {"edit/inside", "edit/band", "edit/outside"}
    present = ~np.isnan(found["edit/outside"])
    assert present[1].tolist() == [True, False, False, False, False]
    assert not present[[0, 2]].any()


def test_a_digest_is_of_the_files_of_a_batch(folder, mesh, tmp_path):
    (batch,) = batches(IMAGES, 1, 1)
    (tmp_path / "hair").mkdir()
    write_picture(tmp_path / "hair" / "3.png", IMAGES[0]["image"])
    files = partial(PictureSystem, "files", tmp_path, PROTOCOL, mesh)
    before = files().digest(batch)
    write_picture(tmp_path / "hair" / "10.png", IMAGES[0]["image"])
    assert files().digest(batch) == before
    write_picture(tmp_path / "hair" / "3.png", IMAGES[1]["image"])
    assert files().digest(batch) != before


def test_mistakes_in_a_folder_are_named(mesh, tmp_path):
    def files():
        return PictureSystem("files", tmp_path / "pictures", PROTOCOL, mesh)

    with pytest.raises(ValueError, match="pictures: no such folder"):
        files()
    hair = tmp_path / "pictures" / "hair"
    hair.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no pictures such as swap_lips/1\.png: give a folder"):
        files()
    write_picture(hair / "3.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"3\.png has 8 x 8 pixels, but the originals 16 x 16"):
        rows_of(files(), PROTOCOL, NOTHING, mesh)
    write_picture(hair / "03.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="are of the same image"):
        files()
    (hair / "03.png").unlink()
    (hair / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"3\.png: not a picture"):
        files()


def test_originals_are_written_for_other_programs(tmp_path):
    write_originals(Setting(IMAGES, 3, PROTOCOL, None, 1), tmp_path)
    names = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*"))
    assert names == sorted(
        ["references.csv", *(f"{d}{i}.png" for d in ("", "segmentation/") for i in (3, 10, 17))]
    )
    assert (tmp_path / "references.csv").read_text() == "id,reference\n3,10\n10,17\n17,3\n"


# ------------------------------------------------------------------------------------------ devices


@pytest.mark.slow
def test_eight_devices_find_the_figures_of_one():
    script = Path(__file__).parents[1] / "evaluation_on_eight_devices.py"
    subprocess.run([sys.executable, script], check=True, timeout=500)
