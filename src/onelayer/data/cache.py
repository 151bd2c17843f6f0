"""The user's cache: downloaded files, and rows that took long to read, as memory maps.

An entry is two files: ``<key>.rows`` has the numbers of the rows one after the other, and ``<key>.json`` has their
shape, other facts, and a checksum of these. The second is written last; an entry without it does not count.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from onelayer.errors import DataError

MEMORY_BYTES = 256 * 2**20  # rows up to this size may be in memory instead of the cache
LEFT_AFTER = 60  # seconds after which a file that is not locked was left by a process that was killed

_ZEROS = bytes(2**20)


def cache_directory() -> Path:
    """Return the folder of the cache, which may not exist yet."""
    import platformdirs

    return platformdirs.user_cache_path("onelayer")


def state_of(status: os.stat_result) -> tuple[int, int]:
    """Return the size and the change time of a file, which are part of the keys of its rows.

    They change with the file's content and with the permission to read it. The time of modification does not count, as
    copying may set it to that of another file.
    """
    return status.st_size, status.st_ctime_ns


def cached_rows(
    key: str,
    shape: tuple[int, int],
    fill: Callable[[np.ndarray], tuple[int, Mapping[str, Any]]],
    dtype: DTypeLike = np.uint8,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return rows from the cache, after making them if they are not there.

    Parameters
    ----------
    key : str
        A hexadecimal digest of everything that decides the rows and their type.
    shape : (n, d)
        The shape of the rows to make.
    fill : callable
        Fills an array (n, d); returns the number m of its first rows to keep, and facts to keep with them, which JSON
        can hold.
    dtype : dtype
        The type of the numbers, uint8 by default.

    Returns
    -------
    rows : ndarray (m, d)
        A read-only memory map. An array in memory, which is not kept, if they are few and the cache cannot be written.
    facts : dict
        The facts that `fill` returned.

    Raises
    ------
    DataError
        If the cache cannot be written and the rows take more than 256 MiB.
    """
    dtype = np.dtype(dtype)
    if (found := find_rows(key, dtype)) is not None:
        return found
    if (made := _make_rows(key, shape, fill, dtype)) is not None:
        return made
    if (found := find_rows(key, dtype)) is None:
        raise DataError(f"{_paths(key)[0]}: changed while it was written; try again")
    return found


def sparse_rows(shape: tuple[int, int], dtype: DTypeLike, pieces: Sequence[slice]) -> np.ndarray:
    """Return zeros (n, d) that can be written to and take room for some rows only, in memory or in a file of the cache.

    Parameters
    ----------
    shape : (n, d)
    dtype : dtype
    pieces : sequence of slice
        The places of the rows that need room; nobody writes into others.

    Raises
    ------
    DataError
        If the cache cannot be written, and all rows take more than 256 MiB.
    """
    dtype = np.dtype(dtype)
    row = shape[1] * dtype.itemsize
    if shape[0] * row <= MEMORY_BYTES:
        return np.zeros(shape, dtype)
    folder = cache_directory() / "rows"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:  # it has no name, so it goes with this process
            os.truncate(file.fileno(), shape[0] * row)
            for piece in pieces if hasattr(os, "posix_fallocate") else ():
                os.posix_fallocate(file.fileno(), piece.start * row, (piece.stop - piece.start) * row)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        needed = row * sum(piece.stop - piece.start for piece in pieces)
        what = f"cannot write {needed:,} bytes to the cache {folder}: {error.strerror}"
        raise DataError(f"{what}; free some space, or move the cache (XDG_CACHE_HOME)") from None


def _make_rows(
    key: str, shape: tuple[int, int], fill: Callable[[np.ndarray], tuple[int, Mapping[str, Any]]], dtype: np.dtype
) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Make rows in the cache; return rows and facts if they are in memory instead."""
    folder = _paths(key)[0].parent
    temporary = folder / f".{key}-{secrets.token_hex(8)}"
    size, opened = shape[0] * shape[1] * dtype.itemsize, ExitStack()
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_left(folder)
            file = opened.enter_context(temporary.open("xb"))
            with suppress(OSError):  # not every file system has locks
                fcntl.flock(file, fcntl.LOCK_EX)  # until this process closes it, or ends
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
        _keep(key, temporary, (n, shape[1]), dtype, facts)
    except InterruptedError:  # raised by a progress, to cancel; it is an OSError
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"{error.strerror or error}; {'free some space' if full else 'make it writable'}"
        raise DataError(f"cannot write to the cache {folder}: {reason}, or move the cache (XDG_CACHE_HOME)") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        opened.close()
    return None


def _remove_left(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: nobody holds their locks."""
    for path in folder.glob(".*-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_AFTER:
                with path.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error if its process goes on
                    path.unlink()


def _keep(key: str, temporary: Path, shape: tuple[int, int], dtype: np.dtype, facts: Mapping[str, Any]) -> None:
    """Make an entry of the rows in a temporary file, which may be longer than they are."""
    path, facts_path = _paths(key)
    os.truncate(temporary, shape[0] * shape[1] * dtype.itemsize)
    temporary.replace(path)
    content = {"shape": list(shape), "facts": facts}
    temporary.write_text(json.dumps({"sha256": _checksum(content), **content}), encoding="utf-8")
    temporary.replace(facts_path)


def find_rows(key: str, dtype: DTypeLike = np.uint8) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Return the entry of the cache with this key, like `cached_rows`; None if it is missing or damaged."""
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
    """Remove rows from the cache; an open memory map of them stays usable."""
    for path in reversed(_paths(key)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_directory() / "rows"
    return folder / f"{key}.rows", folder / f"{key}.json"


def _allocate(file: int, size: int) -> None:
    """Take the space now: the process would be killed if a write to a memory map found the disk full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        for start in range(0, size, len(_ZEROS)):
            os.write(file, _ZEROS[: size - start])
