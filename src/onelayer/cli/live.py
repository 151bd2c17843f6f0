"""The command live: a page on this machine, on which a person trains by turning knobs."""

import os
import shlex
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
    static: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
) -> None:
    """Open a page on which every turn of a knob trains again; your data do not leave this machine.

    Parameters
    ----------
    port
        Port of this machine at which the page is served; 0 takes a free one.
    no_browser
        Print the address of the page, and open no browser.
    static
        Folder in which to write the page as plain files, with some of the rows, instead of serving it.
    """
    if static is not None:
        _write(data, static, port, no_browser)
        return
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
    from onelayer.live.redirect import redirect_to

    screen = Screen()
    with listen(port) as listening:
        with screen.working("reading") as progress:
            splits = load_splits(data, progress=progress)
        screen.data(splits)
        served = Live(splits, Path())
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/#{served.token}"

        with redirect_to(address) as file:

            def started() -> None:
                screen.say(f"the page is at this address, on this machine only; Ctrl-C ends it:\n{address}")
                if not no_browser and _has_screen():
                    import webbrowser

                    Thread(target=webbrowser.open, args=[file.as_uri()], daemon=True).start()

            serve(served, listening, started)


def _write(data: str, out: Path, port: int, no_browser: bool) -> None:
    """Write the page that needs no server of onelayer, and say how it is opened."""
    if port or no_browser:
        raise ConfigError("--static starts no server; leave --port and --no-browser out")
    from onelayer.cli.screen import Screen
    from onelayer.data import load_splits
    from onelayer.live.static import write_static

    screen = Screen()
    with screen.working("reading") as progress:
        splits = load_splits(data, progress=progress)
    screen.data(splits)
    files = write_static(splits, out)
    size = sum(file.stat().st_size for file in files) / 1e6
    screen.say(f"{len(files)} files, {size:.1f} MB, are in {out}; to look at them:")
    screen.say(f"  python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(out))}")


def _has_screen() -> bool:
    """Return whether a browser can have a window; without one, a browser for terminals would take this terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
