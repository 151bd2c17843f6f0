"""A directory that one process at a time works in.

The first process makes the file `.onelayer-running` in it. This succeeds or fails as a whole, on network file systems
too. The file names the process. A process that was killed leaves the file behind. On the same machine, the next process
sees that the first one has ended, and takes the claim over. It cannot see this for another machine or another
container; then the message says which file to delete.
"""

import hashlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onelayer.errors import RunError

CLAIM = ".onelayer-running"
_held: set[Path] = set()  # the directories that this process has claimed
_lock = threading.Lock()


@contextmanager
def claimed(path: Path | None, default: Path = Path(), patience: float = 0.0) -> Iterator[Path]:
    """Make a directory unless it exists, and claim it; a process may claim the same directory again.

    Parameters
    ----------
    path : Path or None
    default : Path
        If `path` is None, the first of ``<default>-1``, ``<default>-2``, ... that does not exist is made.
    patience : float
        Seconds to wait for another process that works there.

    Raises
    ------
    RunError
        If another process still works there, or the directory cannot be made.
    """
    path, made = _make(path, default)
    place = path.resolve()
    with _lock:
        nested = place in _held
        _held.add(place)
    if nested:
        yield path
        return
    content = b""
    try:
        content = _acquire(path / CLAIM, time.monotonic() + patience)
        yield path
    except BaseException:
        _release(path / CLAIM, content)
        if made:
            with suppress(OSError):  # it is not empty
                path.rmdir()
        raise
    else:
        _release(path / CLAIM, content)
    finally:
        with _lock:
            _held.remove(place)


def _release(claim: Path, content: bytes) -> None:
    with suppress(OSError):
        if content and claim.read_bytes() == content:
            claim.unlink()


def _make(path: Path | None, default: Path) -> tuple[Path, bool]:
    """Make the directory; return it, and whether it is new."""
    try:
        if path:
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            return path, made
        default.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = default.with_name(f"{default.name}-{number}")
            try:
                path.mkdir()
                return path, True
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunError(
            f"cannot make the directory {path or default.parent}: {error.strerror}; choose another --out"
        ) from None


def _acquire(claim: Path, until: float) -> bytes:
    """Make the file of a claim, or take it over from a process that has ended; return its content.

    Until this time of the monotonic clock it waits for a process that has not ended.
    """
    me = {
        "host": platform.node(),
        "pids": name_of_container(),
        "pid": os.getpid(),
        "process": name_of_process(os.getpid()),
    }
    me |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8)}
    content = json.dumps(me).encode()
    while True:
        try:
            if _created(claim, content):
                return content
        except OSError as error:
            raise RunError(f"cannot write {claim}: {error.strerror}; choose another place") from None
        theirs, holder = _read(claim)
        if holder is None:
            continue  # it has just been released
        here = all(holder.get(name, me[name]) == me[name] for name in ("host", "pids"))
        pid = holder.get("pid")
        # This process does not hold the claim, so a claim in its name was left behind by an interruption.
        ended = here and (pid == os.getpid() or name_of_process(pid) != holder.get("process"))
        if holder and not ended and time.monotonic() < until:
            time.sleep(0.05)
            continue
        if holder and not ended:
            raise RunError(
                f"{claim.parent}: process {pid} on {holder.get('host')} has worked there since "
                f"{holder.get('since')}; wait until it has ended, or if it has, delete {claim}"
            )
        # Several processes may find the same claim left behind; the one that makes the file named after it replaces it.
        right = claim.with_name(f"{CLAIM}-{hashlib.sha256(theirs).hexdigest()[:16]}")
        _acquire(right, until)
        try:
            if _read(claim)[0] == theirs:
                right.rename(claim)
                return claim.read_bytes()
        finally:
            right.unlink(missing_ok=True)


def _created(claim: Path, content: bytes) -> bool:
    """Make a file with this content; return False if the file exists."""
    try:
        file = claim.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError:  # a full disk
        claim.unlink()
        raise
    return True


def _read(claim: Path) -> tuple[bytes, dict[str, Any] | None]:
    """Return the content of a claim: None if it is gone, an empty table if it is incomplete, as after a kill."""
    content = b""
    for _ in range(50):
        try:
            content = claim.read_bytes()
            holder = json.loads(content)
            return content, holder if isinstance(holder, dict) else {}
        except FileNotFoundError:
            return b"", None
        except PermissionError:
            return b"", {"host": "?", "pid": "?", "since": "?"}  # another user's
        except (OSError, ValueError):
            time.sleep(0.02)  # it is being written
    return content, {}


def name_of_container() -> str:
    """Return a name for the process numbers of this container, which differs between containers of one machine."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def name_of_process(pid: object) -> str | None:
    """Return a name for a process that no other process on this machine has, or None if it has ended."""
    if not isinstance(pid, int):
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"  # its start, in ticks since then
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    import subprocess  # where there is no /proc

    with suppress(OSError):
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        found = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C", "TZ": "UTC"})  # noqa: S603
        return found.stdout.strip() or None
    return "unknown"
