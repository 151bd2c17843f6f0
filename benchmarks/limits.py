"""Memory, for the benchmarks: a process with little of it, a file that is not cached, and what a process takes."""

import contextlib
import os
import secrets
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


class Group:
    """A control group of Linux with a limit on all memory, that for cached files too.

    Raises
    ------
    OSError
        If none may be made.
    """

    def __init__(self, limit: int) -> None:
        first = (CGROUPS / "memory").is_dir()  # version 1 has a tree for each resource
        self.path = (CGROUPS / "memory" if first else CGROUPS) / f"onelayer-{secrets.token_hex(4)}"
        self.path.mkdir()
        self._peak = self.path / ("memory.max_usage_in_bytes" if first else "memory.peak")
        try:
            (self.path / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
            with contextlib.suppress(OSError):  # a kernel without swap has no such file
                (self.path / ("memory.memsw.limit_in_bytes" if first else "memory.swap.max")).write_text(
                    str(limit if first else 0)
                )
        except OSError:
            self.path.rmdir()
            raise

    def peak(self) -> int:
        """The most that was taken, in bytes."""
        return int(self._peak.read_text())


@contextlib.contextmanager
def limited(limit: int) -> Iterator[Group | None]:
    """A group with a limit, removed in the end; None where the system lets us make none."""
    try:
        group = Group(limit)
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.path.rmdir()


def run(command: Sequence[str], group: Group | None, limit: int | None) -> str:
    """Return the output of a command that runs with a memory limit: of the group, or else RLIMIT_DATA."""
    before = ""
    if group:
        before = f'echo $$ > "{group.path}/cgroup.procs" && '
    elif limit:
        before = f"ulimit -d {limit // 1024} && "
    # The shell is in the group before anything of the command is loaded.
    shell = ["/bin/sh", "-c", before + 'exec "$@"', "sh"]
    return subprocess.run([*shell, *command], stdout=subprocess.PIPE, text=True, check=True).stdout


def forget(path: Path) -> None:
    """Let the system drop what it has cached of a file."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


class AnonymousPeak:
    """The most memory that this process has taken for itself, without pages of files; asked every 20 ms, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.bytes = max(self.bytes, 1024 * kilobytes)
