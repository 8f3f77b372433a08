import os
import time

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
        long_ago = time.time() - sessions.UPLOAD_SECONDS - 1
        os.utime(path, (long_ago, long_ago))
    open_pages.sweep()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"icon.png", "new", session.token}
