import pytest
from found_faces import FACES
from tiny_models import separate_networks

from l2sae_jax.app import portraits
from l2sae_jax.app.portraits import Editor


@pytest.fixture
def finding(monkeypatch):
    """Has these faces found in every photograph."""

    def find(faces):
        monkeypatch.setattr(portraits, "find_faces", lambda pixels: list(faces))

    find(FACES)
    return find


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(separate_networks())
