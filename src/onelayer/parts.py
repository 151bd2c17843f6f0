"""Work on rows in parts, by several threads. The parts do not depend on the threads, so the sums over them do not."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

PARTS = 8  # at most; each may have a sum of its own in memory
LEAST_WORK, LEAST_ROWS = 2**26, 2048  # multiplications, a millisecond or two, and rows that are worth a part

Stopped = Callable[[], bool] | None  # says whether to end early
Result = TypeVar("Result")


def count_cores() -> int:
    """Return the number of cores that this process may use: its share, where torchrun started several."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // max(1, int(beside))) if beside.isdecimal() else cores


def parts_of(n: int, work: int, least_rows: int | None = None) -> list[slice]:
    """Return slices of about the same length that cover n rows, which need `work` multiplications."""
    count = max(1, min(PARTS, work // LEAST_WORK, n // (least_rows or LEAST_ROWS)))
    edges = [n * i // count for i in range(count + 1)]
    return [slice(*ends) for ends in pairwise(edges)]


def in_parts(
    task: Callable[[slice, Stopped], Result], n: int, work: int, threads: int, least_rows: int | None = None
) -> Iterator[Result]:
    """Yield what a task returns for each part of n rows, in order.

    Parameters
    ----------
    task : callable
        Takes the part, and a function that says whether to end early, or None in the main thread, which hears signals.
    n : int
        Number of rows.
    work : int
        Multiplications for all rows.
    threads : int
        The most that work at the same time; 0 is one for each core.
    least_rows : int, optional
        The fewest rows that are worth a part; by default, `LEAST_ROWS`.
    """
    parts = parts_of(n, work, least_rows)
    workers = min(threads or count_cores(), count_cores(), len(parts))
    if workers == 1:
        yield from (task(part, None) for part in parts)
        return
    stopped = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(lambda part: task(part, stopped.is_set), parts)
        finally:
            stopped.set()
