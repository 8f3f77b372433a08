"""The page: its layout, and what its controls do."""

import html
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from l2sae_jax.app.sessions import MAX_SESSIONS
from l2sae_jax.app.studio import Scene, Studio, Wish
from l2sae_jax.marks import WORDS
from l2sae_jax.regions import REGION_NAMES
from l2sae_jax.variants import MODES

MAX_WAITING = 20  # actions of all visitors together
_AT_A_TIME = 2  # of these

_MODES = (("Restyle", "style"), ("Reshape", "structure"), ("Copy a style", "swap"))
_BLENDS = (("Crisp", "local"), ("Soft, as in the paper", "paper"))
_WELCOME = "Drop a photograph with a face in it, or press one of the examples."


class _Controls(NamedTuple):
    status: gr.HTML
    drop: gr.File
    middle: gr.Button
    found: gr.Image
    compared: gr.ImageSlider
    results: gr.HTML
    replace: gr.UploadButton
    samples: gr.Gallery
    close_up: gr.Image
    face: gr.Radio
    regions: gr.CheckboxGroup
    mode: gr.Radio
    reference: gr.File
    reference_face: gr.Image
    degree: gr.Slider
    separate: gr.Checkbox
    degrees: tuple[gr.Slider, ...]
    blend: gr.Radio
    harmonise: gr.Checkbox
    words: gr.Checkbox
    back: gr.Button
    another: gr.Button

    @property
    def all(self) -> list[gr.components.Component]:
        """Every one."""
        listed = (c if isinstance(c, tuple) else (c,) for c in self)
        return list(itertools.chain.from_iterable(listed))

    @property
    def wish(self) -> list[gr.components.Component]:
        """What `_wish` reads."""
        how = self.blend, self.harmonise, self.words
        return [self.regions, self.mode, self.degree, *how, self.separate, *self.degrees]


def build(studio: Studio, samples: Sequence[Path] = ()) -> gr.Blocks:
    """The page of a studio, with pictures to try it on."""
    with gr.Blocks(title="Edit a face", analytics_enabled=False, fill_width=True) as page:
        controls = _layout(samples)
        _connect(page, controls, studio, samples)
    page.state_session_capacity = 2 * MAX_SESSIONS  # what Gradio itself remembers of visitors
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=_AT_A_TIME)
    return page


# ------------------------------------------------------------------------------------------ layout


def _layout(samples: Sequence[Path]) -> _Controls:
    gr.HTML(
        "<h1>Edit a face</h1><p>Its hair, skin, nose, eyes or lips, and nothing else. "
        "Edit only people who agreed to it.</p>",
        elem_id="title",
    )
    with gr.Row(elem_id="studio"):
        with gr.Column(scale=3, min_width=320, elem_id="left"):
            photograph = _photograph(samples)
        with gr.Column(scale=2, min_width=300, elem_id="right"):
            choices = _choices()
    return _Controls(**photograph, **choices)


def _photograph(samples: Sequence[Path]) -> dict[str, gr.components.Component]:
    picture = {"visible": False, "show_label": False, "format": "jpeg", "buttons": ["fullscreen"]}
    status = gr.HTML(_status(_WELCOME), elem_id="status")
    middle = gr.Button("It is a close-up of one face: use it as it is", visible=False)
    drop = gr.File(file_types=["image"], show_label=False, elem_id="drop")
    found = gr.Image(
        **picture, interactive=False, elem_id="found", alt_text="The photograph and its regions"
    )
    compared = gr.ImageSlider(**picture, interactive=False, elem_id="compared", max_height=560)
    with gr.Row():
        back = gr.Button("Back", interactive=False, scale=1, min_width=80, elem_id="back")
        another = gr.Button(
            "Another sample", variant="primary", interactive=False, scale=3, elem_id="another"
        )
    results = gr.HTML(_results(None), elem_id="results")
    replace = gr.UploadButton(
        "Another photograph", file_types=["image"], size="md", visible=False, elem_id="replace"
    )
    thumbnails = gr.Gallery(
        [str(path) for path in samples],
        show_label=False,
        columns=6,
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=bool(samples),
        elem_id="samples",
    )
    return {
        "status": status,
        "middle": middle,
        "drop": drop,
        "found": found,
        "compared": compared,
        "back": back,
        "another": another,
        "results": results,
        "replace": replace,
        "samples": thumbnails,
    }


def _choices() -> dict[str, Any]:
    off = {"interactive": False}
    return {
        "close_up": gr.Image(
            visible=False,
            interactive=False,
            show_label=False,
            format="jpeg",
            buttons=[],
            elem_id="close_up",
            alt_text="The face from close by: press on a region to choose it",
        ),
        "face": gr.Radio([], label="Which face", visible=False, elem_id="face"),
        "regions": gr.CheckboxGroup(
            [(name.capitalize(), name) for name in REGION_NAMES],
            label="What to change",
            elem_id="regions",
            **off,
        ),
        "mode": gr.Radio(_MODES, value="style", label="How", elem_id="mode", **off),
        "reference": gr.File(
            file_types=["image"], show_label=False, visible=False, height=110, elem_id="reference"
        ),
        "reference_face": gr.Image(
            visible=False,
            interactive=False,
            show_label=False,
            format="jpeg",
            height=110,
            buttons=[],
            elem_id="reference_face",
            alt_text="The face whose style is copied",
        ),
        "degree": gr.Slider(0, 1.5, 0.6, step=0.05, label="Strength", elem_id="degree", **off),
        "degrees": tuple(
            gr.Slider(0, 1.5, 0.6, step=0.05, label=name.capitalize(), visible=False)
            for name in REGION_NAMES
        ),
        "separate": gr.Checkbox(
            label="Set each region by itself", container=False, elem_id="separate", **off
        ),
        "blend": gr.Radio(_BLENDS, value="local", label="Blend", elem_id="blend", **off),
        "harmonise": gr.Checkbox(
            value=True,
            label="Keep the photograph's detail and light",
            container=False,
            elem_id="harmonise",
            **off,
        ),
        "words": gr.Checkbox(
            label=f'Write "{WORDS}" on the download', container=False, elem_id="words", **off
        ),
    }


# ------------------------------------------------------------------------------------------- events


def _connect(page: gr.Blocks, c: _Controls, studio: Studio, samples: Sequence[Path]) -> None:
    common = {
        "outputs": c.all,
        "concurrency_id": "studio",
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": [c.drop, c.found, c.compared],
    }
    loading = {**common, "show_progress": "full"}

    def acting(does: Callable[..., Scene]):
        """An event's function, of what `does` makes of a visitor, the event's input and a wish."""

        def act(request: gr.Request, *values):
            given, wish = values[: -len(c.wish)], _wish(*values[-len(c.wish) :])
            return _updates(c, does(request.session_hash, *given, wish), wish)

        return act

    def pressing(does: Callable[..., Scene]):
        """The same where something was pressed, and it matters what or where."""

        def act(request: gr.Request, pressed: gr.SelectData, *values):
            wish = _wish(*values)
            return _updates(c, does(request.session_hash, pressed.index, wish), wish)

        return act

    def mode_chosen(request: gr.Request, *values):
        wish = _with_usual_degrees(_wish(*values))
        scene = studio.edit(request.session_hash, wish)
        return _updates(c, scene, wish) | _sliders(c, wish)

    def left(request: gr.Request):
        studio.end(request.session_hash)

    for upload in (c.drop, c.replace):
        upload.upload(acting(studio.open), [upload, *c.wish], **loading)
    example = pressing(lambda who, number, wish: studio.open(who, samples[number], wish))
    c.samples.select(example, c.wish, **loading)
    c.middle.click(acting(studio.use_middle), c.wish, **common)
    c.face.input(acting(studio.choose_face), [c.face, *c.wish], **common)
    on_photograph = pressing(lambda who, at, wish: studio.press_photograph(who, *at, wish))
    c.found.select(on_photograph, c.wish, **common)
    on_face = pressing(lambda who, at, wish: studio.press_face(who, *at, wish))
    c.close_up.select(on_face, c.wish, **common)
    c.reference.upload(acting(studio.take_style), [c.reference, *c.wish], **common)
    c.mode.input(mode_chosen, c.wish, **common)
    for control in (c.regions, c.degree, c.separate, *c.degrees, c.blend, c.harmonise, c.words):
        control.input(acting(studio.edit), c.wish, trigger_mode="always_last", **common)
    for button, step in ((c.another, 1), (c.back, -1)):
        further = acting(partial(studio.edit, step=step))
        button.click(further, c.wish, **common)
    page.unload(left)


def _wish(regions, mode, degree, blend, harmonise, words, separate, *degrees) -> Wish:
    apart = tuple(degrees) if separate else None
    chosen = tuple(name for name in REGION_NAMES if name in regions)
    return Wish(chosen, mode, degree, apart, blend, harmonise, words)


def _with_usual_degrees(wish: Wish) -> Wish:
    """The wish with the strengths that its mode has by default."""
    mode = MODES[wish.mode]
    degree = 1.0 if mode.needs_reference else mode.strength
    degrees = None if wish.degrees is None else (degree,) * len(REGION_NAMES)
    return wish._replace(degree=degree, degrees=degrees)


def _updates(c: _Controls, scene: Scene, wish: Wish) -> dict[gr.components.Component, Any]:
    """What becomes of the controls."""
    opened, edited = scene.found is not None, scene.compared is not None
    apart = wish.degrees is not None
    # What was ticked stays with the browser: by now it may be ahead.
    pressed = {} if scene.regions == wish.regions else {"value": list(scene.regions)}
    return {
        c.status: _status(scene.message, scene.failed),
        c.drop: gr.update(value=None, visible=not opened),
        c.middle: gr.update(visible=scene.faceless),
        c.found: gr.update(value=_path(scene.found), visible=opened and not edited),
        c.compared: gr.update(value=_paths(scene.compared), visible=edited),
        c.results: _results(scene.token),
        c.replace: gr.update(value=None, visible=opened),
        c.close_up: gr.update(value=_path(scene.close_up), visible=opened),
        c.face: gr.update(
            choices=list(range(1, scene.faces + 1)), value=scene.number, visible=scene.faces > 1
        ),
        c.regions: gr.update(**pressed, interactive=opened),
        c.reference: gr.update(value=None, visible=wish.mode == "swap"),
        c.reference_face: gr.update(
            value=_path(scene.reference), visible=wish.mode == "swap" and bool(scene.reference)
        ),
        c.degree: gr.update(interactive=opened, visible=not apart),
        **{
            slider: gr.update(visible=apart and name in scene.regions)
            for name, slider in zip(REGION_NAMES, c.degrees, strict=True)
        },
        **{
            control: gr.update(interactive=opened)
            for control in (c.mode, c.separate, c.blend, c.harmonise, c.words)
        },
        c.back: gr.update(interactive=edited and scene.sample > 0),
        c.another: gr.update(interactive=edited and wish.mode != "swap"),
    }


def _sliders(c: _Controls, wish: Wish) -> dict[gr.components.Component, Any]:
    """What becomes of the sliders in another mode."""
    swaps = MODES[wish.mode].needs_reference
    most = 1.0 if swaps else 1.5
    return {
        c.degree: gr.update(
            value=wish.degree, maximum=most, label="Amount" if swaps else "Strength"
        ),
        **{slider: gr.update(value=wish.degree, maximum=most) for slider in c.degrees},
    }


def _status(message: str, failed: bool = False) -> str:
    how = "role='alert' class='failed'" if failed else "role='status'"
    return f"<p {how}>{html.escape(message)}</p>"


def _results(token: str | None) -> str:
    """Links to the results, which lead nowhere without any."""
    where = ["", ""]
    if token is not None:
        where = [f"href='results/{token}/{file}' download" for file in ("photograph", "settings")]
    return (
        f"<div class='results'><a id='download' {where[0]}>Download the picture</a>"
        f"<a id='settings' class='plain' {where[1]}>Its settings</a></div>"
    )


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _paths(paths: tuple[Path, Path] | None) -> tuple[str, str] | None:
    return None if paths is None else (str(paths[0]), str(paths[1]))
