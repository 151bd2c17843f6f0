"""The lowest cost for a lambda, found by the converged solver while the page is idle."""

import os
import sys
import threading
from collections import OrderedDict

from onelayer.config import TrainConfig
from onelayer.data.progress import silent
from onelayer.errors import OnelayerError
from onelayer.live.outbox import Outbox
from onelayer.live.sources import Data
from onelayer.training.train import solve

IDLE_SECONDS = 0.5  # after the end of a training, before the search begins
MOST_KEPT = 256
MOST_PASSES = 300
MOST_NUMBERS = 2**29  # of the training rows, above which the search would take too long


class Optimum:
    """A thread that looks for the lowest cost; a new training cancels it.

    Parameters
    ----------
    outbox : Outbox
        Takes the message ``best``.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._cancelled = threading.Event()
        self._known: OrderedDict[tuple[object, ...], dict[str, object]] = OrderedDict()

    def find(self, run: int, data: Data, config: TrainConfig) -> None:
        """Look for the lowest cost of these settings, and send it once it is known."""
        self.cancel()
        key = data.splits.dataset.fingerprint, config.l2, config.loss, config.features, config.flip
        if key in self._known:
            self._outbox.put(self._known[key] | {"run": run})
            return
        if data.splits.train.indices.size * data.splits.dataset.rows.shape[1] > MOST_NUMBERS:
            return
        cancelled = self._cancelled = threading.Event()
        threading.Thread(target=self._find, args=(run, data, config, key, cancelled), daemon=True).start()

    def cancel(self) -> None:
        """End the search, soon."""
        self._cancelled.set()

    def _find(
        self, run: int, data: Data, config: TrainConfig, key: tuple[object, ...], cancelled: threading.Event
    ) -> None:
        if cancelled.wait(IDLE_SECONDS):
            return
        if sys.platform == "linux":  # elsewhere, a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        same = {name: getattr(config, name) for name in ("l2", "loss", "features", "flip", "seed")}
        try:
            config = TrainConfig(solver="converged", max_passes=MOST_PASSES, threads=1, **same)
            problem = data.problem(config, frozenset(), silent, cancelled.is_set)
            result = solve(problem, report_test=False, cancelled=cancelled.is_set)
        except (InterruptedError, OnelayerError):
            return
        record = result.state.history[-1]
        found = {
            "type": "best",
            **{"l2": config.l2, "loss": config.loss, "cost": record.train_cost, "gap": record.gap},
            **{"train_accuracy": record.train_accuracy, "validation_loss": record.validation_loss},
            **{"validation_accuracy": record.validation_accuracy, "why": result.ended},
        }
        self._known[key] = found
        while len(self._known) > MOST_KEPT:
            self._known.popitem(last=False)
        self._outbox.put(found | {"run": run})
