"""The user's cache: what was downloaded, and rows that took long to read, as memory maps.

An entry is two files, ``<key>.rows`` with the numbers of the rows one after the other and ``<key>.json`` with their
shape and whatever else is known of them, written last: an entry without it is not there.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.errors import DataError

_ZEROS = bytes(2**20)


def cache_directory() -> Path:
    """Where the cache is; it need not exist yet."""
    import platformdirs

    return platformdirs.user_cache_path("onelayer")


def cached_rows(
    key: str, shape: tuple[int, int], fill: Callable[[np.ndarray], tuple[int, Mapping[str, Any]]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read rows of pixels from the cache, or make them and keep them there.

    Parameters
    ----------
    key : str
        What decides the rows, as a hexadecimal digest.
    shape : (n, d)
        Of the rows to make.
    fill : callable
        Fills an array (n, d), uint8, and returns how many of its first rows count and what is to be kept with them, as
        JSON can hold it.

    Returns
    -------
    rows : ndarray (m, d), uint8
        A read-only memory map.
    facts : dict
        What `fill` returned with them.

    Raises
    ------
    DataError
        If the cache cannot be written.
    """
    if (found := find_rows(key)) is not None:
        return found
    path, facts_path = _paths(key)
    folder = path.parent
    temporary = folder / f".{key}-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                _allocate(file.fileno(), shape[0] * shape[1])
            made = np.memmap(temporary, np.uint8, "r+", shape=shape)
            n, facts = fill(made)
            made.flush()
            del made
            os.truncate(temporary, n * shape[1])
            temporary.replace(path)
            temporary.write_text(json.dumps({"shape": [n, shape[1]], "facts": facts}), encoding="utf-8")
            temporary.replace(facts_path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write to the cache {folder}: {reason}; free some space, or move the cache") from None
    found = find_rows(key)
    if found is None:
        raise DataError(f"{path}: is not what was written a moment ago; try again")
    return found


def find_rows(key: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What the cache holds under a key, as `cached_rows` returns it; None if it is not there, or not sound."""
    path, facts_path = _paths(key)
    try:
        content = json.loads(facts_path.read_bytes())
        n, d = content["shape"]
        if path.stat().st_size != n * d:
            return None
        return np.memmap(path, np.uint8, "r", shape=(n, d)), dict(content["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_directory() / "rows"
    return folder / f"{key}.rows", folder / f"{key}.json"


def _allocate(file: int, size: int) -> None:
    """Take the space now: a memory map that finds the disk full ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        for start in range(0, size, len(_ZEROS)):
            os.write(file, _ZEROS[: size - start])
