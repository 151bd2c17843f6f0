"""Entry point of the commands: signals, errors and exit codes. Little is imported before signals are handled."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO, cast

_stopped_by = 0  # the number of the signal that came
# Commands and options that only print, so that they fail if their output is lost.
PRINTING = {"check", "compare", "data", "diagnose", "evaluate", "predict", "runs"}
ABOUT = {"--help", "-h", "--version"}


class _Output:
    """A stream whose errors do not stop a command, because the files of a run matter more than its messages.

    Attributes
    ----------
    lost : OSError or None
        Why some of the output could not be written, such as a full disk; a reader that went away lost nothing.
    unread : bool
        Whether the reader went away, as head does.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        self.unread = False
        if hasattr(stream, "reconfigure"):  # for letters such as ± in ASCII
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[..., object], *values: str) -> None:
        try:
            action(*values)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                self.unread = True
            else:
                self.lost = error
            # The rest of the output goes to the null device.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _open_streams() -> None:
    """Open standard streams that are closed (``>&-``); a file opened later would take their numbers and text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _is_one_of_several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _stop(number: int, _: object) -> NoReturn:
    """Stop a run on SIGTERM as on Ctrl-C."""
    global _stopped_by
    _stopped_by = number
    if _is_one_of_several():  # they get a signal from the keyboard and one from torchrun
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Run a command: the entry point."""
    global _stopped_by
    _stopped_by = 0
    os.environ["MPLBACKEND"] = "Agg"  # a notebook's own, which its shells inherit, may not even be installed here
    os.environ.pop("SOURCE_DATE_EPOCH", None)  # a build's, without which NumPy starts even if it is not a number
    _open_streams()
    said = _Output(sys.stdout)
    sys.stdout, sys.stderr = cast(TextIO, said), cast(TextIO, _Output(sys.stderr))
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup and the like ignore it
            signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        from cyclopts.exceptions import CycloptsError

        from onelayer.cli.main import run_command
        from onelayer.errors import OnelayerError

        try:
            run_command(sys.argv[1:])
            sys.stdout.flush()
        except (OnelayerError, CycloptsError) as error:
            _exit(str(error), 2)
        except MemoryError as error:
            why = f": {error}" if str(error) else ""  # NumPy says how much it asked for
            _exit(f"there is not enough memory{why}; close other programs, or take less data", 2)
        if said.lost:
            only_prints = not sys.argv[1:] or sys.argv[1] in PRINTING or ABOUT & set(sys.argv)
            _exit(f"cannot write to standard output: {said.lost.strerror}; its text is lost", 2 if only_prints else 0)
    except KeyboardInterrupt as stop:
        _exit(str(stop) or "stopped", 128 + (_stopped_by or signal.SIGINT))
    except Exception as error:
        if not _stopped_by:
            raise
        _exit(str(error), 1)


def _exit(text: str, code: int) -> NoReturn:
    """Print one line and exit. It imports nothing, because modules may be half loaded."""
    if _stopped_by and code < 128:  # a module that was being imported can turn the signal into its own error
        text, code = "stopped", 128 + _stopped_by
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if text == "stopped" and _is_one_of_several() and os.environ.get("RANK") != "0":
        sys.exit(code)  # rank 0 says it
    line = " ".join(text.split())
    name = "\x1b[1;31monelayer:\x1b[0m" if sys.stderr.isatty() else "onelayer:"
    print(name, line, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
