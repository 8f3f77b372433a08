"""Who has which photograph open, and for how long it is kept."""

import contextlib
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from l2sae_jax.app.portraits import Portrait, Reference, Result
from l2sae_jax.app.views import Views
from l2sae_jax.data.images import write_picture

IDLE_SECONDS = 3600
UPLOAD_SECONDS = 60  # long enough to be read; the visitor has the file
MAX_SESSIONS = 30
MAX_PIXELS = 500_000_000  # of all photographs in memory, but for those just being opened

_PICTURES_KEPT = 12  # a slow connection may still be fetching the last few


@dataclass(eq=False)
class Session:
    """One open page.

    Attributes:
      token: names the session's folder and results; nobody else can guess it.
      folder: holds the pictures that the page shows.
      views, before: of the photograph, if there is one yet, and the file that shows it.
      faceless: a photograph without a face, which may yet be edited as it is.
      reference, reference_shown: whose style is taken, and the file that shows it.
      sample: which draw of the noise is shown, from 0.
      result: what came of the last edit; None without any.
      mark: of `marks.MARKS`, how the result tells that it was edited.
      seen: when the visitor last did something, by the monotonic clock.
      at_work: held by whoever changes the session: one thing is done after the other.
    """

    token: str
    folder: Path
    views: Views | None = None
    before: Path | None = None
    faceless: Portrait | None = None
    reference: Reference | None = None
    reference_shown: Path | None = None
    sample: int = 0
    result: Result | None = None
    mark: str = "metadata"
    seen: float = field(default_factory=time.monotonic)
    at_work: threading.Lock = field(default_factory=threading.Lock)
    _shown: list[Path] = field(default_factory=list)

    @property
    def portrait(self) -> Portrait | None:
        """The photograph and its face, if there is one yet."""
        return self.views and self.views.portrait

    @property
    def pixels_held(self) -> int:
        """How many pixels its photographs have."""
        held = [p.photograph.pixels for p in (self.portrait, self.faceless) if p is not None]
        return sum(pixels.shape[0] * pixels.shape[1] for pixels in held)

    def show(self, portrait: Portrait) -> None:
        """Starts anew with a portrait."""
        views = Views(portrait)
        self.before = self._file(views.photograph.pixels, portrait)
        self.views, self.faceless, self.sample, self.result = views, None, 0, None

    def take(self, portrait: Portrait) -> None:
        """Takes a portrait's face as the one whose style is copied."""
        self.reference_shown = self._file(Views(portrait).close_up.pixels, portrait)
        self.reference = Reference(portrait.name, portrait.crop)

    def picture(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Path:
        """A new file of a picture, in the photograph's colours; later ones take its place."""
        self._shown.append(self._file(pixels, self.portrait))
        while len(self._shown) > _PICTURES_KEPT:
            self._shown.pop(0).unlink(missing_ok=True)
        return self._shown[-1]

    def _file(self, pixels: UInt8[np.ndarray, "h w 3"], portrait: Portrait) -> Path:
        path = self.folder / f"{secrets.token_hex(4)}.jpg"
        write_picture(path, pixels, portrait.photograph.icc_profile)
        return path


class Sessions:
    """All open pages, by the name that the browser gives each.

    Args:
      folder: takes a folder for each session. Whatever else is put there later counts as an upload,
        and is deleted `UPLOAD_SECONDS` after it was written.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._kept = set(folder.iterdir())
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Session:
        """The session of this name, a new one if it is not known; of too many the idlest end."""
        with self._lock:
            session = self._sessions.pop(name, None)
            if session is None:
                token = secrets.token_urlsafe(16)
                session = Session(token, self._folder / token)
                session.folder.mkdir()
            session.seen = time.monotonic()
            self._sessions[name] = session  # the most recent one is last
            while self._are_too_many():
                self._end(next(iter(self._sessions)))
        return session

    def with_token(self, token: str) -> Session | None:
        """The session of this token, if it is still open."""
        with self._lock:
            return next((s for s in self._sessions.values() if s.token == token), None)

    def end(self, name: str) -> None:
        """Forgets a session, and deletes its files."""
        with self._lock:
            self._end(name)

    def sweep(self) -> None:
        """Ends idle sessions, and deletes old uploads."""
        found = set(self._folder.iterdir())  # first, so that no session begins in between
        with self._lock:
            oldest = time.monotonic() - IDLE_SECONDS
            for name in [n for n, session in self._sessions.items() if session.seen < oldest]:
                self._end(name)
            folders = {session.folder for session in self._sessions.values()}
        oldest = time.time() - UPLOAD_SECONDS
        for path in found - folders - self._kept:
            _delete_older(path, oldest)

    def _are_too_many(self) -> bool:
        pixels = sum(session.pixels_held for session in self._sessions.values())
        return len(self._sessions) > MAX_SESSIONS or pixels > MAX_PIXELS

    def _end(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            shutil.rmtree(session.folder, ignore_errors=True)


def _delete_older(path: Path, oldest: float) -> None:
    """Deletes a file, or a folder with what is in it, as far as it is that old."""
    with contextlib.suppress(OSError):  # it is gone already, or a folder and still holds something
        for inside in path.iterdir() if path.is_dir() else ():
            _delete_older(inside, oldest)
        if path.stat().st_mtime < oldest:
            path.rmdir() if path.is_dir() else path.unlink()
