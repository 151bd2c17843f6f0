"""Where a command starts and ends: signals, errors and exit codes. Little is imported before it can be interrupted."""

import os
import signal
import sys
from typing import NoReturn

_stopped_by = 0  # the number of the signal that came


def _stop(number: int, _: object) -> NoReturn:
    """SIGTERM stops a run as Ctrl-C does."""
    global _stopped_by
    _stopped_by = number
    raise KeyboardInterrupt


def main() -> None:
    """Run a command: the entry point."""
    global _stopped_by
    _stopped_by = 0
    os.environ["MPLBACKEND"] = "Agg"  # a notebook's own, which its shells inherit, may not even be installed here
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup and the like ignore it
            signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        from cyclopts.exceptions import CycloptsError

        from onelayer.cli import run
        from onelayer.errors import OnelayerError

        try:
            run(sys.argv[1:])
            sys.stdout.flush()
        except (OnelayerError, CycloptsError) as error:
            _exit(str(error), 2)
        except BrokenPipeError:  # the reader of our output has gone
            sys.stderr.close()
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            _exit(f"{error.strerror or error}; is there room for the output?", 2)
    except KeyboardInterrupt as stop:
        _exit(str(stop) or "stopped", 128 + (_stopped_by or signal.SIGINT))
    except Exception as error:
        if not _stopped_by:
            raise
        _exit(str(error), 1)


def _exit(text: str, code: int) -> NoReturn:
    """Print one line and end. It imports nothing: what was being imported may be half loaded."""
    if _stopped_by and code < 128:  # what was being imported when the signal came can make an error of its own of it
        text, code = "stopped", 128 + _stopped_by
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = " ".join(text.split())
    name = "\x1b[1;31monelayer:\x1b[0m" if sys.stderr.isatty() else "onelayer:"
    print(name, line, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
