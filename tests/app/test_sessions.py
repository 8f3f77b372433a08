import os
import time
from pathlib import Path

import numpy as np
import pytest
from found_faces import photograph

from l2sae_jax.app import sessions
from l2sae_jax.app.sessions import Sessions


@pytest.fixture
def portrait(editor, finding):
    return editor.portrait("someone.jpg", photograph())


def test_nobody_sees_anothers_pictures(tmp_path, portrait):
    open_pages = Sessions(tmp_path)
    one, two = open_pages.of("one"), open_pages.of("two")
    one.show(portrait)
    assert one.before.parent == one.folder != two.folder
    assert two.portrait is None
    assert open_pages.of("one") is one
    assert open_pages.with_token(two.token) is two
    assert open_pages.with_token("guess") is None


def test_the_end_deletes_everything(tmp_path, portrait):
    open_pages = Sessions(tmp_path)
    session = open_pages.of("one")
    session.show(portrait)
    session.picture(np.zeros((8, 8, 3), np.uint8))
    open_pages.end("one")
    assert list(tmp_path.iterdir()) == []
    assert open_pages.with_token(session.token) is None
    open_pages.end("one")
    assert open_pages.of("one").portrait is None


def test_only_the_last_few_pictures_are_kept(tmp_path, portrait):
    session = Sessions(tmp_path).of("one")
    session.show(portrait)
    paths = [session.picture(np.zeros((8, 8, 3), np.uint8)) for _ in range(40)]
    assert session.before.exists() and paths[-1].exists() and not paths[0].exists()
    assert len(list(session.folder.iterdir())) < 20


def test_idle_sessions_end(tmp_path, monkeypatch):
    open_pages = Sessions(tmp_path)
    idle, busy = open_pages.of("idle"), open_pages.of("busy")
    idle.seen -= sessions.IDLE_SECONDS + 1
    open_pages.sweep()
    assert not idle.folder.exists() and busy.folder.exists()


def test_of_too_many_sessions_the_idlest_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    open_pages = Sessions(tmp_path)
    first, second = open_pages.of("first"), open_pages.of("second")
    open_pages.of("first")
    open_pages.of("third")
    assert first.folder.exists() and not second.folder.exists()


def test_of_too_many_pixels_the_idlest_ends(tmp_path, portrait, monkeypatch):
    pixels = 100 * 160
    monkeypatch.setattr(sessions, "MAX_PIXELS", 3 * pixels)
    open_pages = Sessions(tmp_path)
    first, second = open_pages.of("first"), open_pages.of("second")
    first.show(portrait)
    second.show(portrait)
    second.faceless = portrait
    open_pages.of("third")
    assert first.folder.exists()
    first.faceless = portrait
    open_pages.of("third")
    assert not first.folder.exists() and second.folder.exists()


def test_of_a_reference_the_photograph_is_not_kept(tmp_path, portrait):
    session = Sessions(tmp_path).of("one")
    session.take(portrait)
    assert session.reference_shown.exists() and session.pixels_held == 0
    assert session.reference.crop is portrait.crop
    assert not hasattr(session.reference, "photograph")


def test_uploads_are_deleted_soon_and_what_was_there_before_is_not(tmp_path):
    before = tmp_path / "icon.png"
    before.touch()
    open_pages = Sessions(tmp_path)
    session = open_pages.of("one")
    uploads = [tmp_path / name / "me.jpg" for name in ("old", "new")]
    for upload in uploads:
        upload.parent.mkdir()
        upload.touch()
    unfinished = tmp_path / "tmp1"
    unfinished.touch()
    for path in (before, uploads[0], unfinished):
        age(path)
    open_pages.sweep()
    assert not uploads[0].exists() and uploads[0].parent.exists()
    age(uploads[0].parent)
    open_pages.sweep()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"icon.png", "new", session.token}


def test_a_folder_that_was_just_made_for_an_upload_is_left(tmp_path):
    open_pages = Sessions(tmp_path)
    (tmp_path / "hash").mkdir()
    open_pages.sweep()
    assert (tmp_path / "hash").exists()


def test_a_session_that_begins_during_a_sweep_keeps_its_folder(tmp_path, monkeypatch):
    open_pages = Sessions(tmp_path)
    begun = []

    def iterdir(path, original=Path.iterdir):
        if not begun:
            begun.append(open_pages.of("new"))
            age(begun[0].folder)
        return original(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    open_pages.sweep()
    assert begun[0].folder.exists()


def test_what_vanishes_during_a_sweep_does_not_stop_it(tmp_path, monkeypatch):
    open_pages = Sessions(tmp_path)
    uploads = [tmp_path / name for name in "abc"]
    for upload in uploads:
        upload.touch()
        age(upload)

    def stat(path, original=Path.stat, **options):
        found = original(path, **options)
        if path == uploads[1]:
            os.unlink(path)
        return found

    monkeypatch.setattr(Path, "stat", stat)
    open_pages.sweep()
    assert list(tmp_path.iterdir()) == []


def age(path):
    """Has it been there for too long."""
    long_ago = time.time() - sessions.UPLOAD_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
