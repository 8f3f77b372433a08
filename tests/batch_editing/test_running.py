"""A run: photographs with their faces edited, a record of it, and going on where it stopped."""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_models
from PIL import ExifTags, Image, ImageCms, ImageSequence

import l2sae_jax as l2
from l2sae_jax.batch_editing import Cropping, plan, results, run, running, sheets, shots
from l2sae_jax.data.alignment import REACH, Placement, own_parts, put_back, take, to_photograph
from l2sae_jax.data.faces import NoFace
from l2sae_jax.data.images import Photograph
from l2sae_jax.data.synthetic import SyntheticFaces
from l2sae_jax.marks import MARKS, SOURCE_TYPE, read_mark, software_name, with_words
from l2sae_jax.variants import Edit

SIZE = 16
FACES = SyntheticFaces(48, 6, seed=3)

# Where the faces of these photographs are said to be: one, two, or none.
PLACES = {
    "one": [Placement(26.0, 24.0, 18.0, 3.0)],
    "two": [Placement(20.0, 24.0, 14.0, -2.0), Placement(76.0, 25.0, 15.0, 0.0)],
    "none": [],
}


@pytest.fixture(scope="module")
def model():
    return tiny_models.separate_networks()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working folder; faces are where `PLACES` says: none in black, two in a wide picture."""
    monkeypatch.chdir(tmp_path)

    def locate(pixels, face, side, raised):
        assert (side, raised) == (1.0, 0.0)
        places = PLACES["none" if not pixels.any() else "two" if pixels.shape[1] > 48 else "one"]
        if not places:
            raise NoFace("no face found in it")
        return places if face == "all" else places[:1]

    monkeypatch.setattr(shots, "locate", locate)
    return tmp_path


def save(path: str, name: str, first: int = 0, **options) -> np.ndarray:
    """Writes a photograph whose faces `locate` knows."""
    faces = [FACES[first + i]["image"] for i in range(len(PLACES[name]))]
    pixels = np.concatenate(faces, axis=1) if faces else np.zeros((48, 48, 3), np.uint8)
    Path(path).parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def edit_photos(model, paths, edit=None, output="out", **options):
    """Plans and runs; the tally and what was reported."""
    said = []
    settings = {key: options.pop(key) for key in ("resume", "about") if key in options}
    batch_size = options.pop("batch_size", 2)
    cropping = options.pop("cropping", Cropping("auto", "all"))
    reference = options.pop("reference", None)
    work = plan(edit or Edit(), paths, reference, Path(output), said.append, cropping, **options)
    return run(work, model, batch_size, said.append, **settings), said


def pixels_of(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def manifest(output: str = "out") -> dict:
    return json.loads(Path(output, "manifest.json").read_text())


def contents(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


# ------------------------------------------------------------------------- faces in photographs


@pytest.mark.parametrize("blend", ["paper", "local"])
def test_edits_are_put_back_and_change_nothing_else(here, model, blend):
    before = save("two.png", "two")
    edit_photos(model, ["two.png"], Edit(blend=blend))
    after = pixels_of("out/two_hair_s0.png")
    assert after.shape == before.shape and (after != before).any()

    expected = before
    outside = np.ones(before.shape[:2], bool)
    for place in PLACES["two"]:
        crop = take(before, place, SIZE)
        images = crop[None] / np.float32(127.5) - 1
        key = jax.random.fold_in(jax.random.key(0), 0)
        edited = np.asarray(l2.edit(model, images, key, blend=blend))
        mask = np.asarray(l2.segment(model, images))[..., :1]
        if blend == "paper":  # which softens all of the crop: through the matte once more
            edited = np.asarray(l2.matting.blend(images, edited, mask, "local"))
        pixels = np.uint8(np.round((np.clip(edited[0], -1, 1) + 1) * 127.5))
        expected = put_back(expected, place, crop, pixels)
        rows, columns = np.indices(outside.shape) + 0.5
        away = np.hypot(columns - place.x, rows - place.y)
        outside &= away > place.side * (0.5**0.5 + REACH / SIZE)
    assert np.abs(np.int16(after) - expected).max() <= 1
    assert outside.any()
    np.testing.assert_array_equal(after[outside], before[outside])


def test_masks_and_labels_are_those_of_the_photograph(here, model):
    before = save("two.png", "two")
    edit_photos(model, ["two.png"], Edit("segment"), grid=True)
    labels = pixels_of("out/two_labels.png")
    assert labels.shape == before.shape[:2] and set(np.unique(labels)) <= set(range(6))
    laid = pixels_of("out/two_overlay.png")
    np.testing.assert_array_equal(laid[labels == 0], before[labels == 0])
    for label, name in enumerate(l2.REGION_NAMES, start=1):
        mask = pixels_of(f"out/two_mask_{name}.png")
        assert mask.shape == labels.shape and set(np.unique(mask)) <= {0, 255}
        assert (mask[labels == label] == 255).sum() >= 0.95 * (labels == label).sum()
    assert {"contact_sheet.png", "grid.png"} <= contents("out").keys()


def test_a_reconstruction_shows_the_faces_alone(here, model):
    save("two.png", "two")
    edit_photos(model, ["two.png"], Edit("reconstruct"))
    assert pixels_of("out/two_reconstruction.png").shape == (SIZE, 2 * SIZE, 3)


def test_faces_are_edited_alike_whatever_batch_they_are_in(here, model):
    for i in range(3):
        save(f"photos/{i}.png", "two", i)
    edit_photos(model, ["photos"], batch_size=4)
    save("photos/2-more.png", "one", 4)
    edit_photos(model, ["photos/2-more.png", "photos/1.png"], output="other", batch_size=4)
    assert contents("other")["1_hair_s0.png"] == contents("out")["1_hair_s0.png"]


def test_one_face_of_several(here, model):
    before = save("two.png", "two")
    edit_photos(model, ["two.png"], cropping=Cropping("auto", "largest"))
    after = pixels_of("out/two_hair_s0.png")
    assert (after[:, :48] != before[:, :48]).any()
    np.testing.assert_array_equal(after[:, 48:], before[:, 48:])


def test_a_photograph_without_a_face_is_skipped_and_noted(here, model):
    save("photos/a.png", "none")
    save("photos/b.png", "one")
    Path("photos/c.png").write_bytes(b"no picture")
    tally, said = edit_photos(model, ["photos"])
    assert tally.edited == 1
    assert said[0] == "skipped photos/a.png: no face found in it"
    assert said[1].startswith("skipped photos/c.png: not a picture")
    noted = {entry["file"]: entry.get("skipped") for entry in manifest()["images"]}
    assert noted["photos/a.png"] == "photos/a.png: no face found in it"
    assert noted["photos/b.png"] is None
    assert "a_hair_s0.png" not in contents("out")


def test_a_colour_profile_goes_with_the_results(here, model):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save("one.jpg", "one", icc_profile=profile, quality=95)
    for picture_format in ("png", "jpg", "webp"):
        edit_photos(model, ["one.jpg"], picture_format=picture_format)
        with Image.open(f"out/one_hair_s0.{picture_format}") as image:
            assert image.info["icc_profile"] == profile
            assert image.size == (48, 48)


def test_a_picture_too_large_for_its_format_loses_nothing_but_itself(here, model, monkeypatch):
    save("photos/a.png", "one")
    save("photos/b.png", "one", 1)
    write = results.write_marked

    def limited(path, *result):
        if path.name.startswith("a_"):
            raise ValueError(f"{path}: too large for this format")
        write(path, *result)

    monkeypatch.setattr(results, "write_marked", limited)
    tally, said = edit_photos(model, ["photos"])
    assert tally.edited == 1
    assert said == ["skipped out/a_hair_s0.png: too large for this format"]


# ---------------------------------------------------------------------------------------- marks


def marks_of(folder: str) -> dict[str, str | None]:
    """What software each picture in a folder names, if it says that it was edited."""
    found = {file.name: read_mark(file) for file in Path(folder).glob("*.*[gp]")}
    assert all(mark is None or mark.source_type == SOURCE_TYPE for mark in found.values())
    return {name: mark and mark.software for name, mark in found.items()}


@pytest.mark.parametrize("picture_format", ["png", "jpg", "webp"])
def test_results_say_so_and_masks_do_not(here, model, picture_format):
    save("one.png", "one")
    edit_photos(model, ["one.png"], picture_format=picture_format, grid=True)
    made = software_name(manifest()["model"]["sha256"])
    assert marks_of("out") == {
        f"one_hair_s0.{picture_format}": made,
        "contact_sheet.png": made,
        "grid.png": made,
        "one_mask_hair.png": None,
    }
    assert manifest()["written"]["mark"] == "metadata"


def test_what_is_only_found_is_not_edited(here, model):
    save("one.png", "one")
    edit_photos(model, ["one.png"], Edit("segment"), mark="both")
    assert set(marks_of("out").values()) == {None}
    labels = pixels_of("out/one_labels.png")
    laid = pixels_of("out/one_overlay.png")
    np.testing.assert_array_equal(laid[labels == 0], pixels_of("one.png")[labels == 0])


@pytest.mark.parametrize("align", ["auto", "off"])
def test_only_what_is_visible_changes_pixels(here, model, align):
    save("one.png", "one")
    for mark in MARKS:
        cropping = Cropping(align)
        edit_photos(model, ["one.png"], output=mark, mark=mark, cropping=cropping)
    results_of = {mark: pixels_of(f"{mark}/one_hair_s0.png") for mark in MARKS}
    plain = results_of["none"]
    np.testing.assert_array_equal(results_of["metadata"], plain)
    np.testing.assert_array_equal(results_of["visible"], with_words(plain))
    np.testing.assert_array_equal(results_of["both"], with_words(plain))
    assert marks_of("none")["one_hair_s0.png"] is marks_of("visible")["one_hair_s0.png"] is None
    for mark in MARKS:
        mask, sheet = (f"{mark}/{name}" for name in ("one_mask_hair.png", "contact_sheet.png"))
        np.testing.assert_array_equal(pixels_of(mask), pixels_of("none/one_mask_hair.png"))
        np.testing.assert_array_equal(pixels_of(sheet), pixels_of("none/contact_sheet.png"))
        assert manifest(mark)["images"] == manifest("none")["images"]


KINDS = {
    "deep.png": lambda image: Image.fromarray(np.uint16(image.convert("L")) * 257),
    "deep.tif": lambda image: Image.fromarray(np.uint16(image.convert("L")) * 257),
    "palette.png": lambda image: image.convert("P"),
    "palette.gif": lambda image: image.convert("P"),
    "alpha.png": lambda image: image.convert("RGBA"),
    "alpha.webp": lambda image: image.convert("LA").convert("RGBA"),
    "ink.jpg": lambda image: image.convert("CMYK"),
}


def test_pictures_of_every_kind_are_marked_alike(here, model):
    Path("photos").mkdir()
    for name, convert in KINDS.items():
        convert(Image.fromarray(FACES[0]["image"])).save(Path("photos", name))
    for mark in ("none", "metadata"):
        edit_photos(model, ["photos"], output=mark, mark=mark)
    assert len(manifest("metadata")["images"]) == len(KINDS)
    for entry in manifest("metadata")["images"]:
        file = entry["results"][0]["file"]
        assert read_mark(f"metadata/{file}").source_type == SOURCE_TYPE
        np.testing.assert_array_equal(pixels_of(f"metadata/{file}"), pixels_of(f"none/{file}"))


@pytest.mark.parametrize("picture_format", ["png", "jpg", "webp"])
def test_the_note_replaces_nothing_and_betrays_nothing(here, model, picture_format):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b"<x DigitalSourceType='digitalCapture' place='home'/>"
    save("one.jpg", "one", exif=exif, icc_profile=profile, xmp=xmp)
    edit_photos(model, ["one.jpg"], picture_format=picture_format)
    with Image.open(f"out/one_hair_s0.{picture_format}") as image:
        assert image.info["icc_profile"] == profile
        assert set(image.getexif()) <= {ExifTags.Base.Software}
        assert b"home" not in image.info["xmp"] and b"digitalCapture" not in image.info["xmp"]


def test_every_frame_of_an_animation_shows_its_words(here, model):
    save("one.png", "one")
    save("style.png", "one", 1)
    edit = Edit("interpolate", frames=3)
    for mark in ("none", "visible"):
        edit_photos(model, ["one.png"], edit, mark, reference="style.png", mark=mark)
    frames = {}
    for mark in ("none", "visible"):
        with Image.open(f"{mark}/one_lips_to_style.gif") as image:
            frames[mark] = [np.array(f.convert("RGB")) for f in ImageSequence.Iterator(image)]
    for plain, marked in zip(frames["none"], frames["visible"], strict=True):
        assert np.abs(np.int16(marked) - with_words(plain)).mean() < 8  # each has its own palette
        assert np.abs(np.int16(marked) - plain)[-8:].mean() > 16


def test_an_unknown_mark_is_told_and_another_is_not_gone_on_with(here, model):
    save("one.png", "one")
    with pytest.raises(ValueError, match="unknown mark 'stamp': choose from none, metadata, "):
        edit_photos(model, ["one.png"], mark="stamp")
    edit_photos(model, ["one.png"])
    with pytest.raises(ValueError, match='its written is mark: "metadata", not "none"'):
        edit_photos(model, ["one.png"], mark="none", resume=True)


def test_faces_that_overlap_share_no_pixel(here, model):
    apart = PLACES["two"]
    near = [apart[0], Placement(apart[0].x + 10.0, apart[0].y, 14.0, 0.0)]
    parts = own_parts(near, SIZE)
    points = [
        {tuple(p) for p in to_photograph(np.argwhere(part > 0)[:, ::-1] + 0.5, place, SIZE).round()}
        for part, place in zip(parts, near, strict=True)
    ]
    assert all(points) and len(points[0] & points[1]) < 0.2 * min(map(len, points))
    assert all(part.all() for part in own_parts(apart, SIZE))


def test_the_middle_is_taken_for_the_face(here, model):
    before = save("two.png", "two")
    edit_photos(model, ["two.png"], cropping=Cropping("middle"))
    after = pixels_of("out/two_hair_s0.png")
    assert after.shape == before.shape and (after[:, 24:72] != before[:, 24:72]).any()
    np.testing.assert_array_equal(after[:, :24], before[:, :24])


def test_names_that_are_too_long_are_cut(here, model):
    for letter in "ab":
        save(f"photos/{'é' * 115}{letter}.png", "one")
    tally, said = edit_photos(model, ["photos"])
    assert (tally.edited, said) == (2, [])
    assert len({entry["name"] for entry in manifest()["images"]}) == 2


def test_strength_of_each_region(here, model):
    before = save("one.png", "one")
    strengths = {"lips": 0.2, "hair": 0.9}
    edit_photos(model, ["one.png"], Edit(strength=strengths), cropping=Cropping("off"))
    images = take(before, Placement(24, 24, 24, 0), SIZE)[None] / np.float32(127.5) - 1
    key = jax.random.fold_in(jax.random.key(0), 0)
    expected = np.asarray(l2.edit(model, images, key, ("lips", "hair"), (0.2, 0.9)))[0]
    assert np.abs(pixels_of("out/one_lips-hair_s0.png") / 127.5 - 1 - expected).max() < 1.1 / 255


# ----------------------------------------------------------------------------- the record of a run


def test_the_manifest_says_what_was_done(here, model):
    save("photos/one.png", "one")
    save("style.png", "one", 2)
    edit = Edit("swap", ("lips",), blend="local")
    edit_photos(model, ["photos"], edit, reference="style.png", about={"command": ["x"]})
    found = manifest()
    assert found["command"] == ["x"] and len(found["model"]["sha256"]) == 64
    assert found["edit"]["mode"] == "swap" and found["edit"]["seed"] == 0
    assert found["references"]["style"]["file"] == "style.png"
    (entry,) = found["images"]
    place = PLACES["one"][0]
    assert entry["faces"][0]["placement"] == {
        "x": place.x,
        "y": place.y,
        "right_x": place.right_x,
        "right_y": place.right_y,
    }
    assert 0 < entry["faces"][0]["share_of_crop"]["lips"] < 1
    (result,) = entry["results"]
    assert result["file"] == "one_lips_from_style.png" and result["reference"] == "style"
    (change,) = result["mean_change"]
    assert change["inside"] > 1 and change["outside"] in (0.0, None)


def test_the_manifest_is_whole_after_every_photograph(here, model, monkeypatch):
    for i in range(3):
        save(f"photos/{i}.png", "one", i)
    monkeypatch.setattr(sheets, "ContactSheet", one_line_a_page)
    add, seen = running.Manifest.add, []

    def watched(self, entry):
        add(self, entry)
        seen.append(len(manifest()["images"]))

    monkeypatch.setattr(running.Manifest, "add", watched)
    edit_photos(model, ["photos"])
    assert seen == [1, 2, 3]
    assert [entry["name"] for entry in manifest()["images"]] == ["0", "1", "2"]


def one_line_a_page(*arguments, **options):
    return original_sheet(*arguments, **options | {"lines": 1})


original_sheet = sheets.ContactSheet


@pytest.fixture
def interrupted(here, model, monkeypatch):
    """Five photographs, of which a run did two and a half."""
    for i in range(5):
        save(f"photos/{i}.png", "one", i)
    with monkeypatch.context() as patch:
        patch.setattr(sheets, "ContactSheet", one_line_a_page)
        edit_photos(model, ["photos"], output="whole")
        write = results.write_picture

        def stops(path, array, icc_profile):
            if path.name.startswith("2_mask"):
                raise KeyboardInterrupt
            write(path, array, icc_profile)

        patch.setattr(results, "write_picture", stops)
        with pytest.raises(KeyboardInterrupt):
            edit_photos(model, ["photos"])
    monkeypatch.setattr(sheets, "ContactSheet", one_line_a_page)
    assert [entry["name"] for entry in manifest()["images"]] == ["0", "1"]
    return model


def test_a_run_goes_on_where_it_stopped_and_ends_as_if_it_never_had(interrupted, monkeypatch):
    read = []
    real = shots.decode_photograph
    monkeypatch.setattr(
        shots, "decode_photograph", lambda data, name: read.append(name) or real(data, name)
    )
    tally, _ = edit_photos(interrupted, ["photos"], resume=True)
    assert tally == (3, 2)
    assert read == [f"photos/{i}.png" for i in (2, 3, 4)]
    assert contents("out") == contents("whole")
    tally, _ = edit_photos(interrupted, ["photos"], resume=True)
    assert tally == (0, 5)
    assert contents("out") == contents("whole")


def test_what_changed_since_is_done_again(interrupted):
    save("photos/0.png", "one", 5)
    Path("out/1_hair_s0.png").unlink()
    tally, _ = edit_photos(interrupted, ["photos"], resume=True)
    assert tally == (5, 0)
    assert len(manifest()["images"]) == 5


def test_other_settings_are_not_gone_on_with(interrupted):
    before = contents("out")
    with pytest.raises(ValueError) as caught:
        edit_photos(interrupted, ["photos"], Edit(strength=0.5), resume=True)
    assert str(caught.value).startswith("out/manifest.json cannot be resumed from: its edit is ")
    assert "strength: 0.6, not 0.5" in str(caught.value)
    assert contents("out") == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}', '{"images": [1]}', "\x00"])
def test_a_damaged_manifest_is_told_in_one_line(interrupted, text):
    Path("out/manifest.json").write_text(text)
    with pytest.raises(ValueError, match="cannot be resumed from, it is damaged") as caught:
        edit_photos(interrupted, ["photos"], resume=True)
    assert "\n" not in str(caught.value)


def test_an_unreadable_reference_does_not_undo_what_was_done(here, model):
    save("photos/0.png", "one")
    save("styles/a.png", "one", 1)
    Path("styles/b.png").write_bytes(b"no picture")
    for done in (0, 1):
        tally, said = edit_photos(model, ["photos"], Edit("swap"), reference="styles", resume=True)
        assert tally == (1 - done, done) and len(said) == 1


def test_pages_of_an_earlier_run_do_not_stay(interrupted):
    assert {"contact_sheet.png", "contact_sheet_2.png"} <= contents("out").keys()
    Path("out/contact_sheet_mine.png").write_bytes(b"")
    edit_photos(interrupted, ["photos/0.png"])
    pages = {name for name in contents("out") if name.startswith("contact")}
    assert pages == {"contact_sheet.png", "contact_sheet_mine.png"}


def test_a_disk_that_fills_up_leaves_the_manifest_whole(interrupted):
    before = Path("out/manifest.json").read_bytes()
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from l2sae_jax.batch_editing.manifest import Manifest\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 10},) * 2)\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "manifest = Manifest.__new__(Manifest)\n"
        "manifest._file, manifest._empty = Path('out/manifest.json'), False\n"
        "try: manifest.add({'name': 'x' * 100})\n"
        "except OSError: sys.exit(7)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(l2.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment)
    assert done.returncode == 7
    assert Path("out/manifest.json").read_bytes() == before


def test_nothing_to_go_on_from_is_a_run_from_the_start(here, model):
    save("one.png", "one")
    tally, _ = edit_photos(model, ["one.png"], resume=True)
    assert tally == (1, 0)


# ------------------------------------------------------------------------------------------- memory


def shot(name: str, pixels: int, faces: int = 1) -> shots.Shot:
    pixels_of_it = np.zeros((SIZE, SIZE, 3), np.uint8)
    crop = shots.Crop(pixels_of_it, PLACES["one"][0], np.ones((SIZE, SIZE), np.uint8))
    whole = Photograph(np.broadcast_to(np.uint8(0), (1, pixels, 3)), None)
    return shots.Shot(name, Path(name), "", whole, (crop,) * faces)


def test_large_photographs_make_small_batches(monkeypatch):
    monkeypatch.setattr(running, "_MOST_PIXELS", 100)
    stream = iter([shot("a", 60), shot("b", 30), shot("c", 30, 3), shot("d", 500), shot("e", 1)])
    found = [[s.name for s, _ in batch] for batch in running._batches(stream, 4)]
    assert found == [["a", "b"], ["c", "c", "c"], ["d"], ["e"]]


def test_batches_are_let_go_of_before_the_next_is_read(model, monkeypatch):
    monkeypatch.setattr(running, "_MOST_PIXELS", 100)
    alive, most = [], []

    def stream():
        for i in range(12):
            one = shot(str(i), 50)
            pixels = np.zeros((1, 50, 3), np.uint8)
            alive.append(weakref.ref(pixels))
            yield one._replace(photograph=Photograph(pixels, None))
            del one, pixels
            most.append(sum(found() is not None for found in alive))

    mesh = running.make_mesh(jax.local_devices())
    edit = Edit("reconstruct")
    for _ in running._edited_shots(model, edit, mesh, stream(), [((), draw_of(edit))], 4):
        pass
    assert max(most) <= 4  # two of a batch, the last one written, and the next


def draw_of(edit):
    return running.draw(edit, running.variants(edit)[0], {})


def test_batches_are_full_where_photographs_are_small():
    stream = iter([shot("a", 1, 3), shot("b", 1), shot("c", 1, 2)])
    found = [[s.name for s, _ in batch] for batch in running._batches(stream, 2)]
    assert found == [["a", "a"], ["a", "b"], ["c", "c"]]
