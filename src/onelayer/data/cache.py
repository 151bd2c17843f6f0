"""The user's cache: what was downloaded, and rows that took long to read, as memory maps.

An entry is two files, ``<key>.rows`` with the numbers of the rows one after the other and ``<key>.json`` with their
shape and whatever else is known of them, and a checksum of these, written last: an entry without it is not there.
"""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from onelayer.errors import DataError

MEMORY_BYTES = 256 * 2**20  # of rows that may be in memory instead of the cache

_ZEROS = bytes(2**20)


def cache_directory() -> Path:
    """Where the cache is; it need not exist yet."""
    import platformdirs

    return platformdirs.user_cache_path("onelayer")


def state_of(status: os.stat_result) -> tuple[int, int]:
    """What changes whenever a file's content does, or the permission to read it: part of the keys of its rows.

    Not the time of modification, which copying may set to that of another file.
    """
    return status.st_size, status.st_ctime_ns


def cached_rows(
    key: str,
    shape: tuple[int, int],
    fill: Callable[[np.ndarray], tuple[int, Mapping[str, Any]]],
    dtype: DTypeLike = np.uint8,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read rows from the cache, or make them and keep them there.

    Parameters
    ----------
    key : str
        What decides the rows and their type, as a hexadecimal digest.
    shape : (n, d)
        Of the rows to make.
    fill : callable
        Fills an array (n, d) and returns how many of its first rows count and what is to be kept with them, as
        JSON can hold it.
    dtype : dtype
        Of the numbers, uint8 by default.

    Returns
    -------
    rows : ndarray (m, d)
        A read-only memory map; in memory, and not kept, where they are few and the cache cannot be written.
    facts : dict
        What `fill` returned with them.

    Raises
    ------
    DataError
        If the cache cannot be written, and the rows take more than 256 MiB.
    """
    dtype = np.dtype(dtype)
    if (found := find_rows(key, dtype)) is not None:
        return found
    path, facts_path = _paths(key)
    folder = path.parent
    temporary = folder / f".{key}-{secrets.token_hex(8)}"
    size = shape[0] * shape[1] * dtype.itemsize
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                _allocate(file.fileno(), size)
        except OSError:
            if size > MEMORY_BYTES:
                raise
            rows = np.empty(shape, dtype)
            n, facts = fill(rows)
            return rows[:n], dict(facts)
        made = np.memmap(temporary, dtype, "r+", shape=shape)
        n, facts = fill(made)
        made.flush()
        del made
        os.truncate(temporary, n * shape[1] * dtype.itemsize)
        temporary.replace(path)
        content = {"shape": [n, shape[1]], "facts": facts}
        temporary.write_text(json.dumps({"sha256": _checksum(content), **content}), encoding="utf-8")
        temporary.replace(facts_path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"{error.strerror or error}; {'free some space' if full else 'make it writable'}"
        raise DataError(f"cannot write to the cache {folder}: {reason}, or move the cache (XDG_CACHE_HOME)") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    found = find_rows(key, dtype)
    if found is None:
        raise DataError(f"{path}: is not what was written a moment ago; try again")
    return found


def find_rows(key: str, dtype: DTypeLike = np.uint8) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What the cache holds under a key, as `cached_rows` returns it; None if it is not there, or not sound."""
    path, facts_path = _paths(key)
    size = np.dtype(dtype).itemsize
    try:
        content = json.loads(facts_path.read_bytes())
        checksum = content.pop("sha256", None)  # older entries have none
        if checksum is not None and checksum != _checksum(content):
            return None
        n, d = content["shape"]
        if path.stat().st_size != n * d * size:
            return None
        return np.memmap(path, dtype, "r", shape=(n, d)), dict(content["facts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def forget_rows(key: str) -> None:
    """Keep rows no longer than they are in use."""
    for path in reversed(_paths(key)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


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
