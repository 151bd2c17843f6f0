"""The data of the page: read once, with all that does not depend on the knobs."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from onelayer.config import SourceConfig, SplitConfig, TrainConfig
from onelayer.data import load_splits
from onelayer.data.dataset import Split, Splits
from onelayer.data.progress import Progress
from onelayer.features.standardizer import Standardizer
from onelayer.live.messages import DATA
from onelayer.live.teaching import Taught
from onelayer.runs.plan import Plan
from onelayer.training.backends import Backend
from onelayer.training.backends.registry import choose_backend
from onelayer.training.state import Problem, TrainingState

MOST_PROBLEMS = 6  # of a data set that are kept: they differ in features and flips
MOST_RATES = 256  # that were measured and are kept


class Data:
    """A data set with its splits, the problems that were made of it, and the number of times its test rows were read.

    Parameters
    ----------
    name : {"given", "digits", "taught"}
    splits : Splits
    """

    def __init__(self, name: str, splits: Splits) -> None:
        self.name, self.splits = name, splits
        self.times_read = 0
        self._lock = threading.Lock()
        self._problems: OrderedDict[tuple[object, ...], Problem] = OrderedDict()
        self._rates: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        dataset = self.splits.dataset
        return {
            "name": self.name,
            "title": dataset.name,
            "source": dataset.source,
            "classes": list(dataset.class_names),
            "image_shape": dataset.image_shape,
            "numbers": dataset.rows.shape[1],
            "sizes": {split.name: len(split) for split in self.splits},
            "protocol": self.splits.protocol,
            "fingerprint": dataset.fingerprint,
            "notes": list(dataset.notes),
            "times_read": self.times_read,
        }

    def problem(
        self, config: TrainConfig, mistakes: frozenset[str], progress: Progress, cancelled: Callable[[], bool]
    ) -> Problem:
        """Return the problem of these settings, with these mistakes; features and standardizers are computed once."""
        base = self._base(config, "raw-pixels" in mistakes, progress, cancelled)
        backend = choose_backend(base.splits.dataset, config)
        if "no-shuffle" in mistakes:
            backend = unshuffled(backend, base.splits.train)
        return replace(base, config=config, backend=backend)

    def _base(self, config: TrainConfig, raw: bool, progress: Progress, cancelled: Callable[[], bool]) -> Problem:
        key = config.features, config.flip, config.solver if config.flip else "", raw
        while not self._lock.acquire(timeout=0.01):  # another page computes features
            if cancelled():
                raise InterruptedError
        try:
            if key not in self._problems:
                base = Problem.of(self.splits, config, progress=progress)
                if raw:
                    d = len(base.standardizer.mean)
                    base = replace(base, standardizer=Standardizer(np.zeros(d), np.ones(d), base.standardizer.constant))
                self._problems[key] = base
                while len(self._problems) > MOST_PROBLEMS:
                    self._problems.popitem(last=False)
            self._problems.move_to_end(key)
            return self._problems[key]
        finally:
            self._lock.release()

    def begin(self, problem: Problem, mistakes: frozenset[str]) -> TrainingState:
        """Return the state to start from; a learning rate that was measured once is not measured again."""
        config = problem.config
        if config.learning_rate != "auto" or config.solver != "sgd":
            return problem.begin()
        key = (
            *(config.features, config.flip, "raw-pixels" in mistakes, config.loss, config.l2),
            *(config.batch_size, config.init_std > 0),
        )
        d, K = problem.splits.dataset.rows.shape[1], len(problem.splits.dataset.class_names)
        state = problem.begin(replace(problem.initial(d, K), first_rate=self._rates.get(key)))
        if state.first_rate is not None:
            self._rates[key] = state.first_rate
            while len(self._rates) > MOST_RATES:
                self._rates.popitem(last=False)
        return state

    def plan(self, config: TrainConfig) -> Plan:
        """Return the plan with which `onelayer train` does the same."""
        dataset = self.splits.dataset
        source_config = SourceConfig(fit=dataset.fit or "auto")
        return Plan(config, SplitConfig(), dataset.source, dataset.fingerprint, source_config)


def unshuffled(backend: type[Backend], train: Split) -> type[Backend]:
    """Return a backend that visits the training rows in the order of the source, whatever order was drawn."""

    class Unshuffled(backend):  # type: ignore[valid-type, misc]
        def run_epoch(
            self, _: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
        ) -> None:
            super().run_epoch(train, learning_rate, flipped, cancelled)

    found: type[Backend] = Unshuffled
    return found


class Room:
    """The data that all pages of a server share.

    Parameters
    ----------
    splits : Splits
        The data that the server was started with.
    taught : Taught
        The classes and images that are made on the pages.
    """

    def __init__(self, splits: Splits, taught: Taught) -> None:
        self.taught = taught
        self._reading = {name: threading.Lock() for name in DATA}  # by one page at a time
        self._data = {"given": Data("given", splits)}
        self._version = 0  # of the taught images that were read

    def get(self, name: str, progress: Progress) -> Data:
        """Return a data set, read if it was not yet, or if images were taught since.

        Raises
        ------
        DataError
            If it cannot be read, such as too few taught images.
        """
        while not self._reading[name].acquire(timeout=0.01):
            progress(0, None)  # it ends the wait of a page that wants something else by now
        try:
            if name == "taught":
                path, version = self.taught.to_read()
                if name not in self._data or version != self._version:
                    self._data[name] = Data(name, load_splits(path, progress=progress))
                    self._version = version
            elif name not in self._data:
                self._data[name] = Data(name, load_splits(name, progress=progress))
            return self._data[name]
        finally:
            self._reading[name].release()

    def describe(self) -> list[dict[str, Any]]:
        """Return the data sets that the page offers; one that was not read yet has its name alone."""
        return [self._data[name].describe() if name in self._data else {"name": name} for name in DATA]
