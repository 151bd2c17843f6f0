"""The command live: a page on this machine, on which a person trains by turning knobs."""

import os
import sys
from pathlib import Path
from threading import Thread
from typing import Annotated

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import OUTPUT, Data
from onelayer.errors import ConfigError


@app.command
def live(
    *,
    data: Data = "auto",
    port: Annotated[int, Parameter(group=OUTPUT)] = 0,
    no_browser: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> None:
    """Open a page on which every turn of a knob trains again; your data do not leave this machine.

    Parameters
    ----------
    port
        Port of this machine at which the page is served; 0 takes a free one.
    no_browser
        Print the address of the page, and open no browser.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port} is not a number from 0 to 65535")
    try:
        from onelayer.live.server import Live, listen, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "websockets", "h11", "anyio"):
            raise
        raise ConfigError("live needs a local server; install it with: pip install 'onelayer[live]'") from None
    from onelayer.cli.screen import Screen
    from onelayer.data import load_splits

    screen = Screen()
    with listen(port) as listening:
        with screen.working("reading") as progress:
            splits = load_splits(data, progress=progress)
        screen.data(splits)
        served = Live(splits, Path())
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/#{served.token}"

        def started() -> None:
            screen.say(f"{address}\nthe page is at this address, on this machine only; Ctrl-C ends it")
            if not no_browser and _has_screen():
                import webbrowser

                Thread(target=webbrowser.open, args=[address], daemon=True).start()

        serve(served, listening, started)


def _has_screen() -> bool:
    """Return whether a browser can have a window; without one, a browser for terminals would take this terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
