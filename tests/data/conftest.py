"""A small CelebAMask-HQ release for each test."""

from pathlib import Path

import pytest
from drawn_release import write_release


@pytest.fixture
def release(tmp_path) -> Path:
    """Folder of a release with 12 faces and no text files."""
    return write_release(tmp_path / "source", range(12))
