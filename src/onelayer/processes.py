"""Sums over processes, each of which holds some of the rows. `onelayer.torchrun` makes them of PyTorch's.

The interface has five names. A process takes its part of a sum from its own rows, and every process gets the same bits
back, so that all decide alike. Alone, a process has all rows, and nothing happens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from onelayer.errors import ConfigError
from onelayer.words import listed


class Processes(Protocol):
    """Processes that work on the same data; all of them must ask for the same sums in the same order.

    Attributes
    ----------
    rank : int
        The number of this process, from 0. The process of rank 0 decides, and it alone writes.
    size : int
        The number of processes.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Return the sum over all processes of an array, of the same shape and type in each; the same bits in each."""

    def sum_tensor(self, tensor: Any) -> Any:
        """Return the sum of a tensor of PyTorch, on its device, of the same shape and type in each process.

        It is added up in the order of the ranks, whatever the device and its network.
        """

    def broadcast(self, array: np.ndarray) -> np.ndarray:
        """Return the array of rank 0; that of another process has the same shape and type."""


class _Alone:
    rank, size = 0, 1

    def sum(self, array: np.ndarray) -> np.ndarray:
        return array

    def sum_tensor(self, tensor: Any) -> Any:
        return tensor

    def broadcast(self, array: np.ndarray) -> np.ndarray:
        return array


ALONE: Processes = _Alone()


def summed(processes: Processes, *parts: np.ndarray | float) -> list[np.ndarray]:
    """Return the sums over all processes of some arrays of float64, in one message."""
    arrays = [np.asarray(part, np.float64) for part in parts]
    if processes.size == 1:
        return arrays
    total = processes.sum(np.concatenate([array.ravel() for array in arrays]))
    ends = np.cumsum([array.size for array in arrays])[:-1]
    return [piece.reshape(array.shape) for piece, array in zip(np.split(total, ends), arrays, strict=True)]


def gathered(processes: Processes, array: np.ndarray) -> np.ndarray:
    """Return the arrays of all processes, of the same shape and type, one after the other along a new first axis."""
    placed = np.zeros((processes.size, *array.shape), array.dtype)
    placed[processes.rank] = array
    return processes.sum(placed)


def assembled(processes: Processes, rows: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Return rows (count, d) of all processes, of which this one has those at `places`, in any type."""
    if processes.size == 1:
        return rows
    whole = np.zeros((count, *rows.shape[1:]), rows.dtype)
    whole[places] = rows
    return processes.sum(whole.view(np.uint8)).view(rows.dtype)  # all others have zeros, so bits add up


def largest(processes: Processes, value: float) -> float:
    """Return the largest of a number of each process."""
    return float(gathered(processes, np.array(value, np.float64)).max())


def bytes_of_first(processes: Processes, content: bytes) -> bytes:
    """Return the bytes that rank 0 has; those of the other processes do not count."""
    size = int(processes.broadcast(np.array([len(content)], np.int64))[0])
    mine = np.zeros(size, np.uint8) if processes.rank else np.frombuffer(content, np.uint8).copy()
    return processes.broadcast(mine).tobytes()


def share(count: int, rank: int, size: int) -> slice:
    """Return the part of `count` things in a row that a rank takes; the parts differ by one thing at most."""
    return slice(count * rank // size, count * (rank + 1) // size)


def shares_by_size(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Return the numbers of the things of each part, for things of these sizes: large ones first, to the emptiest."""
    found: list[list[int]] = [[] for _ in range(parts)]
    filled = [0] * parts
    for thing in sorted(range(len(sizes)), key=lambda thing: -sizes[thing]):
        part = filled.index(min(filled))
        found[part].append(thing)
        filled[part] += sizes[thing]
    return [sorted(things) for things in found]


def require_same(processes: Processes, facts: Mapping[str, object]) -> None:
    """Raise a ConfigError in every process if a fact differs between them; facts are compared by their digests."""
    if processes.size == 1:
        return
    texts = [hashlib.sha256(repr(fact).encode()).digest()[:8] for fact in facts.values()]
    digests = gathered(processes, np.frombuffer(b"".join(texts), np.int64).copy())  # (size, facts)
    differ = digests != digests[0]
    if differ.any():
        ranks = [str(rank) for rank in np.flatnonzero(differ.any(axis=1))]
        names = [name for name, at in zip(facts, differ.any(axis=0), strict=True) if at]
        noun = "rank" if len(ranks) == 1 else "ranks"
        raise ConfigError(
            f"{noun} {listed(ranks)} and rank 0 differ in {' and '.join(names)}; start all with the same command, "
            "data and versions"
        )
