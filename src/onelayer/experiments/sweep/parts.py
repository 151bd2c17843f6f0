"""A sweep that several processes share, such as the tasks of an array of jobs: each trains a part of the runs.

The parts need nothing but a common directory. They may start at the same moment and in any order, at any time. None
waits for another, and the last one to end collects what all have trained.
"""

import re
from contextlib import ExitStack
from pathlib import Path

from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, RunError
from onelayer.experiments.sweep.directory import Sweep, results
from onelayer.experiments.sweep.plan import SweepPlan
from onelayer.experiments.sweep.results import SweepRun
from onelayer.experiments.sweep.running import Told, run_sweep
from onelayer.runs.claim import CLAIM, claimed
from onelayer.words import counted


def part_of(words: str) -> tuple[int, int]:
    """Return the number of a part, counted from 1, and the number of parts, of words such as ``3/16``.

    Raises
    ------
    ConfigError
        If there is no such part.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", words)
    number, parts = map(int, found.groups()) if found else (1, 0)
    if number > parts:
        raise ConfigError(f"part {words!r} is not a part and their number, such as 3/16 for the third of 16 parts")
    return number, parts


def train_part(
    path: str | Path,
    plan: SweepPlan,
    part: int,
    splits: Splits,
    *,
    report_test: bool = False,
    workers: int = 0,
    on_progress: Told | None = None,
) -> Sweep:
    """Train the runs of a part, and make the directory of the sweep if this part is the first. The same call goes on.

    Parameters
    ----------
    path : str or Path
        Directory of the sweep, which all parts share.
    plan : SweepPlan
        The same for all parts.
    part : int
        Number of the part, from 1 to ``plan.parts``.
    splits, report_test, workers, on_progress
        As for `run_sweep`.

    Raises
    ------
    RunError
        If the directory holds something else, or another process works on this part.
    ConfigError, DataError
        As `run_sweep`.
    """
    sweep = Sweep.create(path, plan)
    with claimed(sweep.part_path(part)):
        for setting, seed in plan.runs_of(part):  # a process that worked on this part before has ended
            (sweep.run(setting, seed).path / CLAIM).unlink(missing_ok=True)
        run_sweep(sweep, splits, part=part, report_test=report_test, workers=workers, on_progress=on_progress)
    return sweep


def missing_runs(sweep: Sweep) -> dict[int, list[SweepRun]]:
    """Return the runs that are still to be trained, by their part."""
    missing = {(run.setting, run.seed): run for of in results(sweep) for run in of.runs if run.status == "missing"}
    by_part = {part: sweep.plan.runs_of(part) for part in range(1, sweep.plan.parts + 1)}
    return {
        part: found for part, runs in by_part.items() if (found := [missing[run] for run in runs if run in missing])
    }


def require_trained(sweep: Sweep) -> None:
    """Raise a RunError that names the parts of which runs are still to be trained."""
    missing, parts = missing_runs(sweep), sweep.plan.parts
    if not missing:
        return
    count = counted(sum(map(len, missing.values())), "run")
    if parts == 1:
        raise RunError(f"{sweep.path}: {count} missing; go on with the command that began the sweep")
    named = [f"{part}/{parts}" for part in missing]
    of = f"{', '.join(named[:8])}{', ...' if len(named) > 8 else ''}"
    raise RunError(f"{sweep.path}: {count} missing, of part {of}; wait for them, or run these parts again")


def claim_to_collect(sweep: Sweep, held: ExitStack) -> bool:
    """Return whether this process is to collect: no run is missing, and no other process collects already.

    The claim of the directory is `held` then.
    """
    if missing_runs(sweep):
        return False
    try:
        held.enter_context(claimed(sweep.path))
    except RunError:  # another part has ended at the same moment, and collects
        return False
    return True
