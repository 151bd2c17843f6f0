"""Processes that are threads of one, with sums in the order of the ranks: the same interface without PyTorch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from onelayer.data.dataset import Holding, Splits
from onelayer.processes import Processes

Result = TypeVar("Result")


class Threads:
    """One of `size` threads; those that share `places` and `barrier` are one group."""

    def __init__(self, rank: int, size: int, places: list[np.ndarray], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._places, self._barrier = rank, size, places, barrier
        self.messages: list[int] = []  # bytes of each sum

    def _exchanged(self, array: np.ndarray) -> list[np.ndarray]:
        self._places[self.rank] = array.copy()
        self._barrier.wait(10)
        found = [one.copy() for one in self._places]
        self._barrier.wait(10)
        assert {(one.shape, one.dtype) for one in found} == {(array.shape, array.dtype)}
        return found

    def sum(self, array: np.ndarray) -> np.ndarray:
        self.messages.append(array.nbytes)
        total = np.zeros_like(array)
        for one in self._exchanged(array):
            total += one
        return total

    def sum_tensor(self, tensor: Any) -> Any:
        import torch

        return torch.from_numpy(self.sum(tensor.numpy()))

    def broadcast(self, array: np.ndarray) -> np.ndarray:
        return self._exchanged(array)[0]


def in_threads(size: int, work: Callable[[Processes], Result]) -> list[Result]:
    """Return what the work returns in each of `size` threads; an error in one ends all."""
    places, barrier = [np.empty(0)] * size, threading.Barrier(size)

    def one(rank: int) -> Result:
        try:
            return work(Threads(rank, size, places, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]


def held_by(splits: Splits, owner: np.ndarray, processes: Processes) -> Splits:
    """Return the splits with the rows of the owner `rank`; those of others are zeros, which nobody may read."""
    held = owner == processes.rank
    rows = np.where(held[:, None], splits.dataset.rows, np.zeros((), splits.dataset.rows.dtype))
    dataset = replace(splits.dataset, rows=rows, mark="toy", holding=Holding(processes, held, complete=False))
    return Splits(*(replace(part, dataset=dataset) for part in splits), splits.protocol)
