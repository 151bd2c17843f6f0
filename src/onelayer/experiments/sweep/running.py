"""Training the runs of a sweep, several at a time."""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import replace
from typing import Any

import numpy as np

from onelayer.analysis.evaluation import evaluate
from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, DataError, DivergedError, RunError
from onelayer.experiments.sweep.directory import BALANCED, DIVERGED, Sweep
from onelayer.experiments.sweep.results import SweepRun
from onelayer.experiments.sweep.stacks import STACK, backend_of, epochs_done, stacks_of
from onelayer.files import write_file, write_json
from onelayer.parts import count_cores
from onelayer.runs import training as runs
from onelayer.runs.directory import Run
from onelayer.training.stacking import Seat, Stacking
from onelayer.training.state import Problem, TrainingState

Told = Callable[[int, int | None, tuple[int, int]], None]


def run_sweep(
    sweep: Sweep,
    splits: Splits,
    *,
    workers: int = 0,
    settings: Collection[int] | None = None,
    part: int = 0,
    report_test: bool = False,
    on_progress: Told | None = None,
) -> None:
    """Train the runs that are not complete, each on one thread. Diverged and damaged runs are left as they are.

    After an interruption the same call goes on.

    Parameters
    ----------
    sweep : Sweep
    splits : Splits
        Of the sweep's own data.
    workers : int
        Number of runs at a time; 0 is the number of cores. The results do not depend on it.
    settings : collection of int, optional
        Train these settings only.
    part : int
        Train the runs of this part of the plan only, counted from 1; 0 is all.
    report_test : bool
        Evaluate the test rows, also for runs that are complete without test scores.
    on_progress : callable, optional
        Called now and then, in other threads too, with the number of epochs or iterations done, their total (None if
        a run ends by itself), and the numbers of runs done and to be done.

    Raises
    ------
    DataError
        If the splits are of other data.
    ConfigError
        If a setting does not fit the data.
    """
    plan = sweep.plan
    if workers < 0:
        raise ConfigError(f"workers {workers} is not a whole number of at least 0")
    if splits.dataset.fingerprint != plan.fingerprint:
        raise DataError(f"{splits.dataset.name} is not the data of the sweep {sweep.path}; pass the right --data")
    named = range(len(plan.configs)) if settings is None else settings
    asked = plan.runs_of(part) if part else [(setting, seed) for setting in named for seed in plan.seeds]
    todo = _to_train(sweep, asked, report_test)
    missing = [plan.configs[run.setting].epochs for run in todo if run.status == "missing"]
    total = sum(epochs for epochs in missing if epochs != "auto")
    progress = _Progress(None if "auto" in missing else total, len(missing), on_progress)
    stopping = threading.Event()

    def train(rows: Sequence[SweepRun]) -> None:
        if not stopping.is_set():
            _train_together(sweep, rows, splits, report_test, progress.advance, stopping)

    splits.standardizer, splits.duplicates  # noqa: B018, computed once, before the workers share them
    with one_blas_thread(), ThreadPoolExecutor(workers or count_cores()) as pool:
        try:
            pending = {pool.submit(train, rows) for rows in stacks_of(plan, todo, splits)}
            while pending:  # a signal that comes just before a thread falls asleep is not seen until it wakes
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
        except BaseException:  # Ctrl-C and SIGTERM among them
            stopping.set()  # every run leaves a checkpoint to go on from
            raise


def _to_train(sweep: Sweep, runs: Iterable[tuple[int, int]], report_test: bool) -> list[SweepRun]:
    """Return the runs that are not complete, and those that lack the test scores asked for."""
    return [
        run
        for run in (sweep.read(setting, seed) for setting, seed in runs)
        if run.status == "missing" or (run.status == "complete" and report_test and "test" not in run.scores)
    ]


def _train_together(
    sweep: Sweep,
    rows: Sequence[SweepRun],
    splits: Splits,
    report_test: bool,
    advance: Callable[..., None],
    stopping: threading.Event,
) -> None:
    """Train the runs of a stack, each in a thread of its own, or a single run."""
    if not sweep.plan.stack or rows[0].status != "missing":
        for row in rows:
            _train(sweep, row, splits, report_test, advance, stopping.is_set)
        return
    done = [epochs_done(sweep.run(row.setting, row.seed)) for row in rows]
    stacking = Stacking(done, backend_of(sweep.plan.configs[rows[0].setting]))

    def train(row: SweepRun, seat: Seat) -> None:
        with seat.taken():
            _train(sweep, row, splits, report_test, advance, stopping.is_set, seat)

    futures: list[Future[None]] = []
    with ThreadPoolExecutor(len(rows)) as pool:
        try:
            futures += (pool.submit(train, *pair) for pair in zip(rows, stacking.seats, strict=True))
            for future in as_completed(futures):
                future.result()
        except BaseException as error:
            stopping.set()  # the others leave a checkpoint as well
            for _ in rows[len(futures) :]:  # of which no thread was started
                stacking.leave()
            if isinstance(error, RuntimeError) and "start new thread" in str(error):
                what = f"the system starts no more threads, of which a stack of {len(rows)} runs has one for each"
                raise RunError(f"{what}; raise its limit (ulimit -u), or leave --stack out") from None
            raise


def _train(
    sweep: Sweep,
    row: SweepRun,
    splits: Splits,
    report_test: bool,
    advance: Callable[..., None],
    cancelled: Callable[[], bool],
    seat: Seat | None = None,
) -> None:
    """Train a run from the beginning, or go on with it; with a seat, in a stack."""
    backend: Any = seat  # which stands for one
    run, seen, expected = sweep.run(row.setting, row.seed), 0, sweep.plan.configs[row.setting].epochs
    before = run.summary if run.summary_path.exists() else {}  # to read the test rows writes another

    def on_epoch(state: TrainingState) -> None:
        nonlocal seen
        advance(state.epoch - seen)
        seen = state.epoch

    try:
        if run.checkpoint_path.exists():
            runs.resume(run, splits, None, on_epoch, report_test, cancelled, backend=backend)
        else:
            plan = sweep.plan.of_run(row.setting, row.seed)
            problem = Problem.of(splits, plan.config)
            problem = replace(problem, backend=backend or problem.backend)
            runs.start(Run.create(run.path), plan, problem, on_epoch, report_test, cancelled)
        if sweep.plan.select == "balanced-accuracy":
            of_classes = evaluate(run.model, splits.validation).class_accuracies
            write_json(run.summary_path, run.summary | {BALANCED: float(np.nanmean(of_classes))})
        if heads := len(seat.stacking.seats) if seat else before.get(STACK):
            write_json(run.summary_path, run.summary | {STACK: heads})
    except DivergedError as error:
        write_file(run.path / DIVERGED, f"{error}\n".encode())
    if row.status == "missing":  # a run that diverged has epochs left
        advance(0 if expected == "auto" else expected - seen, runs=1)


class _Progress:
    """The numbers of epochs and runs done, counted over all threads."""

    def __init__(self, total: int | None, runs: int, tell: Told | None) -> None:
        self._total, self._runs, self._tell = total, runs, tell
        self._done, self._ended, self._lock = 0, 0, threading.Lock()

    def advance(self, epochs: int, runs: int = 0) -> None:
        """Count more epochs and runs as done, and tell so."""
        with self._lock:
            self._done += epochs
            self._ended += runs
            if self._tell:
                self._tell(self._done, self._total, (self._ended, self._runs))
