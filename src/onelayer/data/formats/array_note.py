"""The note of what made rows that were encoded elsewhere: the metadata of a .safetensors file, or features.json."""

import json
from pathlib import Path
from typing import Any

from onelayer.data.untrusted.reading import reading, require_file
from onelayer.errors import DataError
from onelayer.words import printable

NOTE = "features.json"
MOST_BYTES = 2**16
_LIBRARY = {"format"}  # an entry that programs write for themselves


def note_on_rows(folder: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of the file of the rows, or, if it has none, the table in features.json beside it.

    Raises
    ------
    DataError
        If features.json cannot be read, is not a table in JSON, or is longer than 64 KiB.
    """
    if own := {name: value for name, value in metadata.items() if name not in _LIBRARY}:
        return own
    path = folder / NOTE
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
            json.dumps(note, allow_nan=False)  # as the summary of a run does
        except (ValueError, RecursionError):
            note = None
    if not isinstance(note, dict):
        raise DataError(f"{path}: is not a table in JSON of what made the rows; correct it, or rename it")
    return note


def in_words(note: dict[str, Any]) -> str:
    """Return a sentence that a person should read."""
    parts = (f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in note.items())
    return f"the rows were made by {printable(', '.join(parts), 200)}"
