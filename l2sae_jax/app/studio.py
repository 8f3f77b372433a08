"""What visitors of the page do, and what they see then."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from l2sae_jax.app.portraits import Editor, Portrait, Result, settings
from l2sae_jax.app.sessions import Session, Sessions
from l2sae_jax.data.images import decode_photograph
from l2sae_jax.marks import write_marked
from l2sae_jax.regions import REGION_NAMES
from l2sae_jax.variants import MODES, Edit

_LOST = "The photograph is no longer here: choose it again."
_CHOOSE = "Choose what to change: press on the hair, the skin, the nose, the eyes or the lips."


class Wish(NamedTuple):
    """What the controls of the page say.

    Attributes:
      regions: those to edit, in the order of `REGION_NAMES`.
      mode: "style", "structure" or "swap".
      degree: strength of the noise, or the amount of the reference's style.
      degrees: one for each of `REGION_NAMES` instead; None for one for all.
      blend: see `matting.blend`.
      harmonise: see `editing.edit`.
      words: whether the result says in a corner that it was edited; its file always does.
    """

    regions: tuple[str, ...] = ()
    mode: str = "style"
    degree: float = 0.6
    degrees: tuple[float, ...] | None = None
    blend: str = "local"
    harmonise: bool = True
    words: bool = False

    def as_edit(self, sample: int) -> Edit:
        """The edit whose last sample is meant.

        Raises:
          ValueError: no region, or a figure out of range.
        """
        degree = self.degree
        if self.degrees is not None:
            by_name = dict(zip(REGION_NAMES, self.degrees, strict=True))
            degree = {name: by_name[name] for name in self.regions}
        how = {"blend": self.blend, "harmonise": self.harmonise}
        if MODES[self.mode].needs_reference:
            return Edit(self.mode, self.regions, amount=degree, **how)
        return Edit(self.mode, self.regions, strength=degree, samples=sample + 1, **how)


class Scene(NamedTuple):
    """What a visitor sees.

    Attributes:
      message: in a line; what went wrong, where `failed`.
      regions: those chosen.
      found: the file of the photograph with its regions; None without a photograph.
      compared: files of the photograph before and after its edit; None without any.
      close_up: the file of the face with its regions.
      faces, number: how many there are, and which of them is edited.
      faceless: whether a photograph without a face waits to be used as it is.
      token: names the results, where there are any.
      sample: which draw of the noise is shown, from 0.
      reference: the file of the face whose style is taken, if there is one.
    """

    message: str
    failed: bool = False
    regions: tuple[str, ...] = ()
    found: Path | None = None
    compared: tuple[Path, Path] | None = None
    close_up: Path | None = None
    faces: int = 0
    number: int | None = None
    faceless: bool = False
    token: str | None = None
    sample: int = 0
    reference: Path | None = None


_Outcome = tuple[Wish, str]  # what is wished for then, and what the visitor is told


class Studio:
    """The page's doings, for any number of visitors; each is told by the name of a session.

    Args:
      checkpoint: what results say they were made with; None is the model shipped.
    """

    def __init__(self, editor: Editor, sessions: Sessions, checkpoint: str | None = None):
        self._editor = editor
        self._sessions = sessions
        self._checkpoint = checkpoint

    def open(self, visitor: str, file: str | Path, wish: Wish) -> Scene:
        """Takes a photograph, and finds its faces."""
        return self._act(visitor, wish, lambda session: self._open(session, file))

    def use_middle(self, visitor: str, wish: Wish) -> Scene:
        """Takes the photograph without a face as a picture of one."""
        return self._act(visitor, wish, lambda session: _show(session, session.faceless))

    def choose_face(self, visitor: str, number: int, wish: Wish) -> Scene:
        """Edits another face of the photograph."""
        return self._act(visitor, wish, lambda session: self._choose_face(session, number))

    def press_photograph(self, visitor: str, x: int, y: int, wish: Wish) -> Scene:
        """Chooses the region at a pixel of the photograph, or leaves it out; or another face."""
        views = self._sessions.of(visitor).views
        region = views and views.photograph.region_at(x, y)
        number = views and views.face_at(x, y)
        if region is None and number and number != views.portrait.number:
            return self.choose_face(visitor, number, wish)
        return self.edit(visitor, _toggled(wish, region))

    def press_face(self, visitor: str, x: int, y: int, wish: Wish) -> Scene:
        """Chooses the region at a pixel of the close-up, or leaves it out."""
        views = self._sessions.of(visitor).views
        return self.edit(visitor, _toggled(wish, views and views.close_up.region_at(x, y)))

    def take_style(self, visitor: str, file: str | Path, wish: Wish) -> Scene:
        """Takes a photograph as the one whose style is to be copied."""
        return self._act(visitor, wish, lambda session: self._take_style(session, file, wish))

    def edit(self, visitor: str, wish: Wish, step: int = 0) -> Scene:
        """Does what the controls say; `step` samples further, or back."""
        return self._act(visitor, wish, lambda session: self._edit(session, wish, step))

    def end(self, visitor: str) -> None:
        """Forgets a visitor and what they brought."""
        self._sessions.end(visitor)

    def write_result(self, token: str) -> tuple[Path, str] | None:
        """Writes the whole photograph as it was edited last: the file, and what to call it."""
        session = self._sessions.with_token(token)
        result = session and session.result
        if result is None:
            return None
        path = session.folder / "result.png"
        try:
            profile = result.portrait.photograph.icc_profile
            write_marked(path, result.pixels, session.mark, self._editor.software, profile)
        except FileNotFoundError:  # the session has ended meanwhile
            return None
        return path, f"{result.name}.png"

    def settings_of(self, token: str) -> tuple[dict, str] | None:
        """What makes the last edit again, and the name of a file for it."""
        session = self._sessions.with_token(token)
        result = session and session.result
        told = result and settings(result, self._checkpoint, session.mark)
        return result and (told, f"{result.name}.json")

    def _act(self, visitor: str, wish: Wish, does: Callable[[Session], _Outcome]) -> Scene:
        """Does something to a session, when nothing else is done to it; says what went wrong."""
        session = self._sessions.of(visitor)
        with session.at_work, contextlib.suppress(FileNotFoundError):  # it may end meanwhile
            try:
                return _scene(session, *does(session))
            except ValueError as error:
                return _scene(session, wish, str(error), failed=True)
        return Scene(_LOST, failed=True)

    def _open(self, session: Session, file: str | Path) -> _Outcome:
        portrait = self._read(file)
        if portrait.number is None:
            session.faceless = portrait
            raise ValueError(
                f"No face found in {portrait.name}. Choose a photograph where it is larger and "
                "upright; or, if this is a close-up of one, use it as it is."
            )
        return _show(session, portrait)

    def _choose_face(self, session: Session, number: int) -> _Outcome:
        return _show(session, self._editor.at_face(_present(session.portrait), number))

    def _take_style(self, session: Session, file: str | Path, wish: Wish) -> _Outcome:
        portrait = self._read(file)
        if portrait.number is None:
            raise ValueError(f"No face found in {portrait.name}.")
        session.take(portrait)
        return self._edit(session, wish)

    def _edit(self, session: Session, wish: Wish, step: int = 0) -> _Outcome:
        portrait = _present(session.portrait)
        session.sample = max(0, session.sample + step)
        if not wish.regions:
            session.result = None
            return wish, _CHOOSE
        swaps = MODES[wish.mode].needs_reference
        if swaps and session.reference is None:
            session.result = None
            return wish, "Now add a photograph to copy from."
        edit = wish.as_edit(session.sample)
        session.mark = "both" if wish.words else "metadata"
        session.result = self._editor.edit(portrait, edit, session.reference if swaps else None)
        return wish, _told(session.result)

    def _read(self, file: str | Path) -> Portrait:
        file = Path(file)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file.name} did not arrive: choose it again") from error
        try:
            photograph = decode_photograph(data, file.name)
        except ValueError as error:
            raise ValueError(f"{error}. Try a JPEG, PNG or WebP file.") from error
        return self._editor.portrait(file.name, photograph)


def _show(session: Session, portrait: Portrait | None) -> _Outcome:
    session.show(_present(portrait))
    return Wish(), _CHOOSE


def _present(portrait: Portrait | None) -> Portrait:
    if portrait is None:
        raise ValueError(_LOST)
    return portrait


def _toggled(wish: Wish, region: str | None) -> Wish:
    chosen = set(wish.regions) ^ ({region} if region else set())
    return wish._replace(regions=tuple(name for name in REGION_NAMES if name in chosen))


def _told(result: Result) -> str:
    edit = result.edit
    regions = " and ".join(", ".join(edit.regions).rsplit(", ", 1)).capitalize()
    match edit.mode:
        case "swap":
            return f"{regions} in the style of {result.reference.name}."
        case "structure":
            return f"{regions} reshaped, sample {edit.samples}."
        case _:
            return f"{regions} restyled, sample {edit.samples}."


def _scene(session: Session, wish: Wish, message: str, failed: bool = False) -> Scene:
    scene = Scene(message, failed, faceless=session.faceless is not None)
    if session.portrait is None:
        return scene
    views, portrait = session.views, session.portrait
    compared = None
    if session.result is not None:
        compared = session.before, session.picture(views.edited(session.result.crop))
    return scene._replace(
        regions=wish.regions,
        found=session.picture(views.found(wish.regions)),
        compared=compared,
        close_up=session.picture(views.close_up.tinted(wish.regions)),
        faces=len(portrait.faces),
        number=portrait.number,
        token=None if session.result is None else session.token,
        sample=session.sample,
        reference=session.reference_shown,
    )
