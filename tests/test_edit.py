"""`edit.py`: which files come of which flags, and what is said where nothing can."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_models
from PIL import Image

import edit as program
import l2sae_jax as l2
from l2sae_jax.batch_editing import plan, results, running
from l2sae_jax.data.alignment import central_square, take
from l2sae_jax.data.synthetic import SyntheticFaces
from l2sae_jax.marks import MARKS, read_mark
from l2sae_jax.regions import REGION_NAMES
from l2sae_jax.variants import MODES, Edit

SIZE = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "both", ("smn", "smpn"))


@pytest.fixture(scope="module")
def without_smpn(tmp_path_factory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "smn", ("smn",))


FACES = SyntheticFaces(24, 4, seed=0)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working folder, with three drawn faces in photos/ and one in references/."""
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        save(FACES[i]["image"], tmp_path / "photos" / f"face{i}.png")
    save(FACES[3]["image"], tmp_path / "references" / "smile.png")
    return tmp_path


def save(picture, path: Path, **options) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(path, **options)


def call(model: Path, *arguments: str) -> int:
    """Runs the program, on crops of faces unless told otherwise."""
    flags = [f"--checkpoint={model}", "--batch_size=2", "--align=off"]
    return program.main(["edit.py", *flags, *arguments])


def prepare(picture, size: int) -> np.ndarray:
    """What the model sees of a picture that is a crop already."""
    return take(picture, central_square(*picture.shape[:2]), size)


def names_in(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.slow
def test_eight_devices_share_a_batch(here, model):
    script = Path(program.__file__)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    arguments = [f"--checkpoint={model}", "--regions=hair,eyes", "--batch_size=2", "--align=off"]
    done = subprocess.run(
        [sys.executable, script, "photos", *arguments, "--output=eight"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Device: 8 x cpu" in done.stdout, done.stderr
    assert call(model, "photos", "--regions=hair,eyes", "--output=one") == 0
    assert names_in("eight") == names_in("one")
    for name in names_in("one") - SHARED:
        difference = pixels(f"eight/{name}").astype(int) - pixels(f"one/{name}")
        assert (abs(difference) <= 1).mean() > 0.99  # a hard mask's pixel may flip by rounding


# ---------------------------------------------------------------------------------------------
# What is written.


SHARED = {"contact_sheet.png", "manifest.json"}
ENDS = ("_0.png", "_1.png", "_2.png", ".gif")


def expected_files(of_each: list[str]) -> set[str]:
    return {f"face{i}_{name}" for i in range(3) for name in of_each} | SHARED


@pytest.mark.parametrize(
    ("arguments", "of_each"),
    [
        (["--samples=2"], ["hair_s0.png", "hair_s1.png", "mask_hair.png"]),
        (
            ["--style_reference=references", "--regions=hair,lips", "--amount=0.5"],
            ["hair-lips_from_smile.png", "mask_hair.png", "mask_lips.png"],
        ),
        (["--mode=structure"], ["nose_structure_s0.png", "mask_nose.png"]),
        (
            ["--mode=segment"],
            ["labels.png", "overlay.png", *(f"mask_{name}.png" for name in REGION_NAMES)],
        ),
        (["--mode=reconstruct"], ["reconstruction.png"]),
        (
            ["--mode=interpolate", "--style_reference=references/smile.png", "--frames=3"],
            ["mask_lips.png", *(f"lips_to_smile{end}" for end in ENDS)],
        ),
    ],
    ids=["style", "swap", "structure", "segment", "reconstruct", "interpolate"],
)
def test_every_mode_writes_its_files(here, model, capsys, arguments, of_each):
    assert call(model, "photos", "--output=out", *arguments) == 0
    assert names_in("out") == expected_files(of_each)
    for name in of_each:
        assert pixels(f"out/face0_{name}").shape[:2] == (SIZE, SIZE)
    said = capsys.readouterr()
    assert said.out.startswith(f"Model: {model}, 16 x 16 pixels\nDevice: ")
    assert "Edited 3, skipped 0, in " in said.out.splitlines()[-1]
    assert "3/3" in said.err and "image" in said.err  # the progress bar


def test_results_are_marked_unless_told_otherwise(here, model):
    assert call(model, "photos/face0.png", "--output=out") == 0
    assert read_mark("out/face0_hair_s0.png").software.startswith("l2sae_jax ")
    assert call(model, "photos/face0.png", "--output=out", "--mark=none") == 0
    assert read_mark("out/face0_hair_s0.png") is None


def test_regions_edited_separately(here, model):
    arguments = ["photos", "--output=out", "--regions=hair,lips", "--separately"]
    assert call(model, *arguments) == 0
    photo = sorted(here.glob("photos/*"))[0].stem
    made = {path.name.removeprefix(f"{photo}_") for path in here.glob(f"out/{photo}_*")}
    assert made == {"hair_s0.png", "lips_s0.png", "mask_hair.png", "mask_lips.png"}
    alone = (here / "out" / f"{photo}_lips_s0.png").read_bytes()
    assert call(model, "photos", "--output=lips", "--regions=lips") == 0
    assert (here / "lips" / f"{photo}_lips_s0.png").read_bytes() == alone


def test_files_are_those_planned(here, model):
    edit = Edit("interpolate", frames=2)
    work = plan(edit, ["photos"], "references", Path("out"), print)
    planned = {path.name for name in work.photos for path in work.files_of(name)}
    call(
        model,
        "photos",
        "--mode=interpolate",
        "--style_reference=references",
        "--frames=2",
        "--output=out",
    )
    assert names_in("out") == planned | SHARED


def test_results_are_what_the_library_says(here, model):
    call(model, "photos/face1.png", "--output=out", "--samples=2", "--seed=5", "--strength=0.4")
    loaded = l2.load(model)
    images = prepare(FACES[1]["image"], SIZE)[None] / np.float32(127.5) - 1
    for k in range(2):
        key = jax.random.fold_in(jax.random.key(5), k)
        edited = np.asarray(l2.edit(loaded, images, key, ("hair",), 0.4))[0]
        written = pixels(f"out/face1_hair_s{k}.png") / 127.5 - 1
        assert np.abs(written - edited).max() < 1.1 / 255
    mask = np.asarray(l2.segment(loaded, images))[0, ..., 0]
    np.testing.assert_array_equal(pixels("out/face1_mask_hair.png"), 255 * mask)


def test_local_edits_leave_the_rest_of_the_photograph_as_it_was(here, model):
    call(model, "photos/face0.png", "photos/face1.png", "--blend=local", "--output=out")
    for i in range(2):
        mask = np.pad(pixels(f"out/face{i}_mask_hair.png"), 1, mode="edge")
        near = [mask[r : r + SIZE, c : c + SIZE] for r in range(3) for c in range(3)]
        outside = np.max(near, axis=0) == 0
        before, after = prepare(FACES[i]["image"], SIZE), pixels(f"out/face{i}_hair_s0.png")
        assert outside.any() and not outside.all()
        np.testing.assert_array_equal(after[outside], before[outside])
        assert (after[~outside] != before[~outside]).any()


def test_a_photograph_is_edited_alike_whatever_comes_with_it(here, model):
    call(model, "photos", "--output=all", "--samples=2")
    call(model, "photos/face2.png", "photos/face0.png", "--output=two")
    for name in ("face0_hair_s0.png", "face2_hair_s0.png", "face2_mask_hair.png"):
        np.testing.assert_array_equal(pixels(f"all/{name}"), pixels(f"two/{name}"))
    call(model, "photos/face2.png", "--output=alone")
    difference = np.int16(pixels("alone/face2_hair_s0.png")) - pixels("all/face2_hair_s0.png")
    assert np.abs(difference).max() <= 1  # another batch size is another computation


def test_samples_and_seeds_differ_and_a_run_may_be_repeated(here, model):
    arguments = ("photos/face0.png", "photos/face1.png", "--output=out", "--samples=2")
    call(model, *arguments)
    first = {k: pixels(f"out/face0_hair_s{k}.png") for k in range(2)}
    assert (first[0] != first[1]).any()
    assert call(model, *arguments) == 0
    np.testing.assert_array_equal(pixels("out/face0_hair_s0.png"), first[0])
    call(model, *arguments, "--seed=1")
    assert (pixels("out/face0_hair_s0.png") != first[0]).any()


def test_any_kind_of_picture_is_read_upright(here, model):
    face = FACES[0]["image"]
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    save(np.rot90(face).copy(), here / "kinds" / "turned.png", exif=exif)
    save(face, here / "kinds" / "upright.png")
    Image.fromarray(face).convert("L").save(here / "kinds" / "grey.png")
    Image.fromarray(face).convert("P").save(here / "kinds" / "palette.gif")
    Image.fromarray(face).convert("RGBA").save(here / "kinds" / "transparent.webp")
    assert call(model, "kinds", "--output=out") == 0
    for name in ("turned", "upright", "grey", "palette", "transparent"):
        assert pixels(f"out/{name}_hair_s0.png").shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(
        pixels("out/turned_hair_s0.png"), pixels("out/upright_hair_s0.png")
    )


def test_pictures_are_cropped_to_the_central_square_and_resized():
    picture = np.zeros((10, 40, 3), np.uint8)
    picture[:, 15:25] = 200
    np.testing.assert_array_equal(prepare(picture, 16), np.full((16, 16, 3), 200))
    np.testing.assert_array_equal(prepare(picture.swapaxes(0, 1), 4), np.full((4, 4, 3), 200))
    assert prepare(picture[:1, :1], 16).shape == (16, 16, 3)


def test_interpolation_goes_from_one_style_to_the_other(here, model):
    shared = ("photos/face0.png", "photos/face1.png", "--regions=hair", "--output=out")
    reference = "--style_reference=references/smile.png"
    call(model, *shared, reference, "--mode=interpolate", "--frames=3")
    call(model, *shared, reference)
    last = pixels("out/face0_hair_to_smile_2.png")
    np.testing.assert_array_equal(last, pixels("out/face0_hair_from_smile.png"))
    assert (pixels("out/face0_hair_to_smile_0.png") != last).any()
    with Image.open("out/face0_hair_to_smile.gif") as animation:
        assert animation.n_frames == 3


# ---------------------------------------------------------------------------------------------
# Which files are read, and never written.


def planned(paths, output="out", **options):
    """A plan and what was reported meanwhile."""
    reports = []
    return plan(Edit(**options), paths, None, Path(output), reports.append), reports


def test_results_of_equal_stems_do_not_collide(here):
    for folder in ("a", "b"):
        save(FACES[0]["image"], here / folder / "me.png")
    save(FACES[1]["image"], here / "b" / "ME.jpg")
    save(FACES[1]["image"], here / "b" / "b-me.png")
    work, _ = planned(["a", "b", "photos"])
    assert list(work.photos)[:4] == ["a-me", "ME-jpg", "b-me", "me-2"]
    files = [file for name in work.photos for file in work.files_of(name)]
    assert len(set(files)) == len(files) == 2 * 7


def test_names_that_run_together_are_refused(here):
    save(FACES[0]["image"], here / "clash" / "x.png")
    save(FACES[0]["image"], here / "clash" / "x_lips_from_a.png")
    save(FACES[0]["image"], here / "styles" / "b.png")
    save(FACES[0]["image"], here / "styles" / "a_lips_from_b.png")
    with pytest.raises(ValueError, match="two results would both be written to .*: rename"):
        plan(Edit("swap"), ["clash"], "styles", Path("out"), print)


def test_a_photograph_named_twice_is_edited_once(here):
    work, _ = planned(["photos", "photos/face1.png", "./photos/../photos/face2.png"])
    assert list(work.photos) == ["face0", "face1", "face2"]


def test_inputs_are_never_replaced(here, model, capsys):
    shutil.copy("photos/face0.png", "photos/face0_hair_s0.png")
    before = Path("photos/face0_hair_s0.png").read_bytes()
    assert call(model, "photos", "--output=./photos/../photos") == 2
    assert "a result would replace the input" in capsys.readouterr().err
    assert Path("photos/face0_hair_s0.png").read_bytes() == before
    assert len(names_in("photos")) == 4


def test_an_input_called_contact_sheet_is_not_replaced(here):
    save(FACES[0]["image"], here / "photos" / "contact_sheet_2.png")
    with pytest.raises(ValueError, match="replace the input photos/contact_sheet_2.png"):
        planned(["photos"], output="photos")


def test_earlier_results_below_a_folder_are_no_inputs(here):
    save(FACES[0]["image"], here / "photos" / "results" / "face0_hair_s0.png")
    work, _ = planned(["photos"], output="photos/results")
    assert list(work.photos) == ["face0", "face1", "face2"]
    named, _ = planned(["photos/results/face0_hair_s0.png"], output="photos/results")
    assert list(named.photos) == ["face0_hair_s0"]


def test_unreadable_files_are_reported_and_skipped(here, model, capsys):
    Path("photos/broken.jpg").write_bytes(b"no picture")
    Path("references/broken.jpg").write_bytes(b"")
    assert (
        call(
            model,
            "missing.png",
            "photos",
            "--style_reference=references",
            "--regions=hair",
            "--output=out",
        )
        == 1
    )
    said = capsys.readouterr()
    lines = [line for line in said.err.replace("\r", "\n").splitlines() if "skipped" in line]
    assert [line.split(": ")[1] for line in lines] == [
        "skipped missing.png",
        "skipped references/broken.jpg",
        "skipped photos/broken.jpg",
    ]
    assert names_in("out") == expected_files(["hair_from_smile.png", "mask_hair.png"])
    assert "Edited 3, skipped 3" in said.out


def test_an_edit_is_exported_for_other_programs(here, model, capsys):
    arguments = ["--regions=hair,lips", "--strength=hair=0.5,lips=0.2", "--harmonise"]
    told = ["edit.py", f"--checkpoint={model}", "--export=out.exported"]
    assert program.main([*told, *arguments]) == 0
    about = json.loads(Path("out.exported.json").read_text())
    assert about["regions"] == ["hair", "lips"] and about["harmonise"]
    assert [array["shape"] for array in about["inputs"]][-1] == [2]
    assert Path("out.exported").stat().st_size > 1000
    refused = (["photos"], ["--samples=2"], ["--align=off"], ["--mode=segment"])
    for arguments in refused:
        assert program.main([*told, *arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [error.partition("edit.py: error: ")[2][:28] for error in errors] == [
        "--export takes no photograph",
        "--export takes no --samples,",
        "--export takes no --align, o",
        "no export for mode 'segment'",
    ]


# ---------------------------------------------------------------------------------------------
# What is refused, before anything is written.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no photograph given"),
        ([""], "no photograph given"),
        (["missing.png"], "no photograph found"),
        (["empty"], "no photograph found"),
        (["photos", "--regions=hare"], "unknown region 'hare': choose from hair, skin"),
        (["photos", "--regions="], "no region named"),
        (["photos", "--regions=hair,hair"], "a region is named twice"),
        (["photos", "--mode=stile"], "flag --mode=stile: value should be one of"),
        (["photos", "--blend=soft"], "flag --blend=soft: value should be one of"),
        (["photos", "--samples=0"], "samples 0: expected a number from 1 to 1000"),
        (["photos", "--samples=two"], "flag --samples=two"),
        (["photos", "--strength=much"], "strength 'much': expected a number, or as hair=0.8,lips"),
        (["photos", "--strength=hair=0.1,hair=0.2"], "strength 'hair=0.1,hair=0.2': expected"),
        (["photos", "--strength=hare=0.1"], "unknown region 'hare': choose from hair, skin"),
        (["photos", "--strength=hair=-1"], "strength -1.0: expected a number from 0 up"),
        (
            ["photos", "--regions=hair,lips", "--strength=hair=0.1"],
            "strength of hair, where hair, lips are edited: name the same regions",
        ),
        (["photos", "--align=on"], "flag --align=on: value should be one of"),
        (["photos", "--face=left"], "face left: expected largest, all, or a number from 1 up"),
        (["photos", "--face=0"], "face 0: expected largest, all, or a number from 1 up"),
        (["photos", "--format=gif"], "flag --format=gif: value should be one of"),
        (["photos", "--strength=nan"], "strength nan: expected a number from 0 up"),
        (["photos", "--strength=-1"], "strength -1.0: expected a number from 0 up"),
        (["photos", "--strength=inf"], "strength inf: expected a number from 0 up"),
        (["photos", "--style_reference=references", "--amount=nan"], "amount nan: expected"),
        (["photos", "--seed=-1"], "seed -1: expected a number from 0 to"),
        (["photos", "--seed=99999999999"], "seed 99999999999: expected"),
        (["photos", "--batch_size=0"], "flag --batch_size=0: "),
        (["photos", "--frames=1"], "frames 1: expected a number from 2 to 1000"),
        (["photos", "--style_reference=missing.png"], "missing.png: no such file or folder"),
        (["photos", "--style_reference=empty"], "empty: no pictures"),
        (["photos", "--mode=swap"], "mode swap needs a style_reference: a picture or a folder"),
        (["photos", "--mode=style", "--style_reference=references"], "mode style takes no"),
        (["photos", "--checkpoint=photos"], "photos is not a model directory"),
        (["photos", "--checkpoint=missing"], "missing is not a model directory"),
        (["photos", "--colour=red"], "Unknown command line flag 'colour'"),
        (["photos", "--output=photos/face0.png"], "photos/face0.png: cannot be made"),
        (["photos", "--output=photos/face0.png/out"], "photos/face0.png/out: cannot be made"),
    ],
)
def test_mistakes_are_told_in_one_line(here, model, capsys, arguments, message):
    Path("empty").mkdir()
    before = sorted(here.rglob("*"))
    assert call(model, "--output=out", *arguments) == 2
    said = capsys.readouterr().err
    *reports, error = said.splitlines()
    assert error.startswith(f"edit.py: error: {message}")
    assert all(line.startswith("edit.py: skipped ") for line in reports)
    assert sorted(here.rglob("*")) == before


def test_a_model_without_smpn_reconstructs_and_nothing_else(here, without_smpn, capsys):
    assert call(without_smpn, "photos", "--output=out") == 2
    assert call(without_smpn, "photos", "--output=out", "--mode=segment") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line[:40] for line in lines] == ["edit.py: error: this model has no SMPN, "] * 2
    assert not Path("out").exists()
    assert call(without_smpn, "photos", "--output=out", "--mode=reconstruct") == 0


def test_a_folder_of_unreadable_references_is_an_error(here, model, capsys):
    Path("references/smile.png").write_bytes(b"")
    assert call(model, "photos", "--style_reference=references", "--output=out") == 2
    assert "edit.py: error: no style reference can be read" in capsys.readouterr().err


def test_references_that_are_all_earlier_results_are_an_error(here, model, capsys):
    (here / "styles").mkdir()
    shutil.move("references", "styles/out")
    before = sorted(here.rglob("*"))
    assert call(model, "photos", "--style_reference=styles", "--output=styles/out") == 2
    assert "edit.py: error: no style reference found" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_full_disk_is_told_in_one_line(here, model, capsys, monkeypatch):
    def full(path, array, icc_profile):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results, "write_picture", full)
    assert call(model, "photos", "--output=out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "edit.py: error: out: results cannot be written (No space left on device)"


def test_too_large_a_batch_is_told_in_one_line(here, model, capsys, monkeypatch):
    def too_large(model, edit, regions, mesh, pixels, found, draw, confine):
        if not isinstance(pixels, jax.core.Tracer):  # not while it is only traced
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\ndetails")

    monkeypatch.setattr(running, "edit_batch", too_large)
    assert call(model, "photos", "--output=out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("edit.py: error: a batch of 2 cannot be computed, try a smaller")
    assert error.endswith("RESOURCE_EXHAUSTED: out of memory")


def test_flags_offer_what_the_library_knows():
    flags = program.define_flags()
    assert flags["mode"].parser.enum_values == list(MODES)
    assert flags["mark"].parser.enum_values == list(MARKS)
    assert all(name in flags["regions"].help for name in REGION_NAMES)


def test_help_is_quick_and_wrong_flags_are_found_without_jax():
    script = Path(program.__file__)
    code = (
        "import sys, edit; assert edit.main(['edit.py', '--help']) == 0; "
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=script.parent, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--style_reference" in done.stdout, done.stderr
    done = subprocess.run(
        [sys.executable, str(script), "--nonsense"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("edit.py: error: ") and done.stderr.count("\n") == 1
