"""Progress of a training that is called from Python: a bar in a notebook, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

SECONDS = 0.1  # between two pictures of the progress


@contextmanager
def watching(progress: bool | None) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a function ``show(line, done, total)``; the last line stays, even where the work is interrupted.

    Parameters
    ----------
    progress : bool or None
        None shows it in notebooks only. There, one output is drawn again and again, by nothing but Jupyter itself.
    """
    display = _notebook_display()
    draw = _draw_in_notebook(display) if display else _draw_on_terminal
    shown = display is not None if progress is None else progress
    last, drawn = "", 0.0

    def show(line: str, done: int, total: int | None) -> None:
        nonlocal last, drawn
        last = line
        if shown and time.monotonic() - drawn >= SECONDS:
            draw(
                line, f'<progress value="{done}" max="{total}"></progress>' if total else "<progress></progress>", "\r"
            )
            drawn = time.monotonic()

    try:
        yield show
    finally:
        if shown and last:
            draw(last, "", "\n")


def _notebook_display() -> Any:
    """Return what publishes outputs of this notebook's cell; None where Python does not run in a notebook."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell.display_pub if getattr(shell, "kernel", None) is not None else None


def _draw_in_notebook(display: Any) -> Callable[[str, str, str], None]:
    place = {"display_id": f"onelayer-{time.monotonic_ns()}"}
    update = False

    def draw(line: str, bar: str, _: str) -> None:
        nonlocal update
        html = f"{bar} <code>{escape(line)}</code>".strip()
        display.publish({"text/plain": line, "text/html": html}, transient=place, update=update)
        update = True

    return draw


def _draw_on_terminal(line: str, _: str, end: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end=end.replace("\r", ""), file=sys.stderr, flush=True)
    elif end == "\n":  # a file gets the last line alone
        print(line, file=sys.stderr)
