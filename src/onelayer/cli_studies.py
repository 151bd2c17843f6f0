"""The commands on runs that were made. `onelayer.cli` loads them."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onelayer.cli import app


@app.command
def report(
    paths: Annotated[list[Path], Parameter(name="PATH")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html"),
    data: str | None = None,
) -> None:
    """Write one HTML file that shows what runs learned; exit 1 if some of it had to be left out.

    Parameters
    ----------
    paths
        Run directories.
    out
        The file to write.
    data
        Where the runs' data are now, if they were moved.
    """
    import sys

    from onelayer.report import read_subject, render, write_page
    from onelayer.screen import Screen

    screen = Screen()
    subject = read_subject(paths)
    with screen.working("reading") as progress:
        splits = subject.plan.load_splits(data, progress)
    with screen.working("drawing") as progress:
        page = render(subject, splits, progress)
    write_page(out, page)
    for problem in subject.problems:
        screen.say(f"left out: {problem}")
    screen.say(f"{out}: {len(page.encode()) / 1e6:.1f} MB")
    if subject.problems:
        sys.exit(1)
