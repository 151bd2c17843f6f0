"""The note of what made rows that were encoded elsewhere: the metadata of a .safetensors file, or features.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onelayer.data.untrusted.reading import reading, require_file
from onelayer.errors import DataError
from onelayer.words import printable

NOTE = "features.json"
MOST_BYTES, MOST_DEPTH = 2**16, 20  # of a note, and of lists and tables in it
_LIBRARY = {"format"}  # an entry that programs write for themselves


def note_on_rows(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of the file of the rows, or, if it has none, the table in features.json beside it.

    Raises
    ------
    DataError
        If features.json cannot be read, or is not a table in JSON, or a note is longer than 64 KiB.
    """
    if own := {name: value for name, value in metadata.items() if name not in _LIBRARY}:
        if len(json.dumps(own)) > MOST_BYTES:
            raise DataError(f"{path}: its metadata are longer than {MOST_BYTES:,} bytes; save the rows without them")
        return own
    path = path.parent / NOTE if path.is_file() else path / NOTE
    if not path.exists():
        return {}
    with reading(path):
        require_file(path)
        if path.stat().st_size > MOST_BYTES:
            raise DataError(
                f"{path}: is longer than {MOST_BYTES:,} bytes; shorten it, or rename it if it is not a note"
            )
        try:
            note = json.loads(path.read_bytes())
            json.dumps(note, allow_nan=False)  # as a run keeps it
            if _depth(note) > MOST_DEPTH:
                note = None
        except (ValueError, RecursionError):
            note = None
    if not isinstance(note, dict):
        raise DataError(f"{path}: is not a table in JSON of what made the rows; correct it, or rename it")
    return note


def in_words(note: Mapping[str, Any]) -> str:
    """Return a note in one line."""
    parts = (f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in note.items())
    return printable(", ".join(parts), 200)


def _depth(value: object) -> int:
    """Return the number of lists and tables within each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)
