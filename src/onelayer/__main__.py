"""Where a command starts and ends: signals, errors and exit codes. Little is imported before it can be interrupted."""

import signal
import sys
from typing import NoReturn


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a run as Ctrl-C does."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def main() -> None:
    """Run a command: the entry point."""
    try:
        signal.signal(signal.SIGTERM, _terminate)
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
        number = signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT
        _exit(str(stop) or "stopped", 128 + number)


def _exit(text: str, code: int) -> NoReturn:
    """Print one line and end. It imports nothing: what was being imported may be half loaded."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = " ".join(text.split())
    name = "\x1b[1;31monelayer:\x1b[0m" if sys.stderr.isatty() else "onelayer:"
    print(name, line, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
