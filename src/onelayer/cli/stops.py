"""Add to the message of a stop how to continue."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onelayer.errors import DivergedError, ProcessError

if TYPE_CHECKING:
    from onelayer.runs.directory import Run


@contextmanager
def resumable(run: "Run") -> Iterator[None]:
    """Name the command that goes on with a run, if something stops the run."""
    from onelayer.runs.directory import FollowedRun, resume_command

    try:
        yield
    except KeyboardInterrupt as stop:
        hint = f"; go on with: {resume_command(run.path)}" if run.checkpoint_path.exists() else ""
        raise type(stop)(f"stopped{hint}") from None
    except ProcessError as error:
        follows = isinstance(run, FollowedRun)
        command = "onelayer resume and the run directory of rank 0" if follows else resume_command(run.path)
        raise ProcessError(f"{error}; all have stopped; go on with: {command}") from None
    except DivergedError as error:
        raise DivergedError(f"{error}; {run.path} keeps the weights of epoch {error.epoch - 1}", error.epoch) from None


@contextmanager
def repeated_as_a_whole() -> Iterator[None]:
    """Say that nothing is kept, if Ctrl-C stops the command."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)("stopped; nothing is kept, and the same command begins again") from None


@contextmanager
def begun_again() -> Iterator[None]:
    """Say what to do if one of several processes has ended, where nothing can be resumed."""
    try:
        yield
    except ProcessError as error:
        raise ProcessError(f"{error}; all have stopped; start the same command again") from None


@contextmanager
def repeatable(path: Path, *, given: bool, overwrite: bool) -> Iterator[None]:
    """Name the options with which the same command goes on, if Ctrl-C stops it.

    Parameters
    ----------
    path : Path
        The directory that the command writes.
    given : bool
        The command line names this directory.
    overwrite : bool
        The command line has --overwrite, which would start again from the beginning.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        command = "the same command" + " without --overwrite" * overwrite
        place = "" if given else f" and --out {shlex.quote(str(path))}"
        raise type(stop)(f"stopped; go on with {command}{place}") from None
