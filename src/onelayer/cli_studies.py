"""The commands that look at several runs at once. `onelayer.cli` has the others, and loads these."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from onelayer.cli import app


@app.command
def compare(
    a: Annotated[Path, Parameter(name="A")],
    b: Annotated[Path, Parameter(name="B")],
    /,
    *,
    data: str | None = None,
    split: Literal["test", "validation"] = "test",
) -> None:
    """Tell whether B is better than A, or whether noise would do as much.

    Parameters
    ----------
    a
        A run directory, or a folder of the runs of one setting with several seeds.
    b
        As A; several runs are matched by seed.
    data
        Where the runs' own data are now, if they were moved.
    split
        On which rows.
    """
    from onelayer.comparison import compare_runs, find_runs, pair
    from onelayer.screen import Screen, percent

    screen = Screen()
    runs_a, runs_b = find_runs(a), find_runs(b)
    pairing = pair(runs_a, runs_b)
    plan, _ = pairing.runs_a[0].read_checkpoint()
    with screen.working("reading") as progress:
        splits = plan.load_splits(data, progress)
    comparison = compare_runs(runs_a, runs_b, split, splits)
    screen.notes(splits.dataset)
    for side, seeds in pairing.alone.items():
        if seeds:
            screen.say(f"note: without a partner, left out: seed {', '.join(map(str, seeds))} of {side}")
    screen.say(f"{splits.dataset.name}, {split}: {comparison.rows:,} rows; {pairing.settings}")
    screen.say(f"A {a}: {percent(comparison.accuracy_a)}")
    screen.say(f"B {b}: {percent(comparison.accuracy_b)}")
    screen.comparison(comparison)
