"""Run a command: its words, its warnings, and errors in its words."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import BoundArguments
from typing import Any

from cyclopts import UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from onelayer.cli import data, live, models, path, predictions, probe, runs, studies, sweep, training  # noqa: F401, their commands join the app
from onelayer.cli.app import app, canonical, nearest, takes
from onelayer.cli.hints import one_word_too_many, unknown_option
from onelayer.cli.together import require_one_process, said_once
from onelayer.errors import ConfigError, DataError, OnelayerWarning, UnitWarning
from onelayer.words import printable


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show our own warnings as notes on standard error; raise an error for rows in another unit."""
    as_python_does = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, OnelayerWarning):
            print(f"note: {message}", file=sys.stderr)
        else:
            as_python_does(message, category, *where, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("always", OnelayerWarning)
        warnings.simplefilter("error", UnitWarning)
        warnings.showwarning = show
        try:
            yield
        except UnitWarning as warning:
            raise DataError(str(warning)) from None


def run_command(arguments: list[str]) -> None:
    """Run the command of a command line, given as words."""
    with _warnings_as_notes():
        with said_once():
            command, bound = _parsed(arguments)
        command(*bound.args, **bound.kwargs)


def _parsed(arguments: list[str]) -> tuple[Callable[..., object], BoundArguments]:
    """Return the function of a command, and its arguments."""
    if arguments and not arguments[0].startswith("-"):
        require_one_process(arguments[0])
    tokens = []
    for place, argument in enumerate(arguments):
        if argument == "--":  # what follows are names
            tokens += arguments[place:]
            break
        name, equals, value = argument.partition("=")
        if name != canonical(name) and takes(arguments[0], canonical(name)):
            name = canonical(name)  # an unknown option stays as typed, for the message
        tokens.append(name + equals + value)
    try:
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        return command, bound
    except UnknownCommandError:
        near = nearest(tokens[0], app)
        guess = f"did you mean {near}?" if near else "see onelayer --help"
        raise ConfigError(f"unknown command {printable(tokens[0])}; {guess}") from None
    except UnknownOptionError as error:
        known = [name for argument in error.argument_collection for name in argument.names]
        raise unknown_option(error.token.keyword or error.token.value, tokens, known) from None
    except UnusedCliTokensError as error:
        raise one_word_too_many((error.unused_tokens or [""])[0], tokens) from None
