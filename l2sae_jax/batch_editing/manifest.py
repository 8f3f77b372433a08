"""manifest.json: what a run did, by which model, to which files, so that it can be done again.

The file is valid JSON after every entry, and each photograph has a line of its own: a run that is
interrupted leaves a record of what is complete, which `--resume` goes on from.
"""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2sae_jax.whole_files import replace_text

MANIFEST = "manifest.json"

# What may differ between a run and the one that resumes it.
_INCIDENTAL = {"command", "checkpoint", "date", "jax", "device", "images"}

_END = b"\n]}\n"

Entry = dict[str, Any]


class Manifest:
    """The growing manifest of a run."""

    def __init__(self, folder: Path, header: Mapping[str, Any], entries: Sequence[Entry] = ()):
        """Starts a manifest, in place of any there is.

        Args:
          folder: exists.
          header: JSON values that hold for the whole run.
          entries: those of photographs that were done before.
        """
        self._file = folder / MANIFEST
        lines = [json.dumps(entry) for entry in entries]
        fields = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
        text = "{" + ",\n".join([*fields, '"images": [']) + "\n" + ",\n".join(lines)
        replace_text(self._file, text.rstrip("\n") + _END.decode())
        self._empty = not lines

    def add(self, entry: Entry) -> None:
        """Adds what was done to one photograph."""
        line = (b"\n" if self._empty else b",\n") + json.dumps(entry).encode() + _END
        with open(self._file, "r+b", buffering=0) as file:
            end = file.seek(-len(_END), os.SEEK_END)
            if file.write(line) < len(line):
                file.truncate(end)
                file.seek(end)
                file.write(_END)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._empty = False


def earlier_entries(folder: Path, header: Mapping[str, Any]) -> list[Entry]:
    """What an earlier run with the same header noted of photographs it completed; [] of none.

    Raises:
      ValueError: the manifest is damaged, or another model or other settings made it.
    """
    file = folder / MANIFEST
    try:
        found = json.loads(file.read_text())
        entries = [_checked(entry) for entry in found["images"] if "skipped" not in entry]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be resumed from, it is damaged: {reason}") from error
    header = json.loads(json.dumps(header))
    for key in (found.keys() | header.keys()) - _INCIDENTAL:
        then, now = found.get(key), header.get(key)
        if then != now:
            raise ValueError(
                f"{file} cannot be resumed from: its {key} is {_difference(then, now)}; say the "
                "same, or give another output folder"
            )
    return entries


def _checked(entry: Entry) -> Entry:
    """An entry with all that a run needs to know of it."""
    if not all(isinstance(entry[key], str) for key in ("name", "file", "sha256")):
        raise ValueError(f"an entry names no file: {str(entry)[:80]}")
    if not all(type(page) is int and page >= 0 for page in entry["pages"].values()):
        raise ValueError(f"an entry names no pages: {str(entry)[:80]}")
    return entry


def _difference(then: Any, now: Any) -> str:
    """Two unequal JSON values, down to where they differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        key = next(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
        return f"{key}: {_difference(then.get(key), now.get(key))}"
    return f"{json.dumps(then)}, not {json.dumps(now)}"
