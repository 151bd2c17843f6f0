"""Work on rows in parts, by several threads. The parts do not depend on the threads, so the sums over them do not."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
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


def count_threads(asked: int) -> int:
    """Return the number of threads that work where this many were asked for: at most one for each core, as 0 is."""
    cores = count_cores()
    return min(asked or cores, cores)


def parts_of(n: int, work: int, least_rows: int | None = None, least: int = 1) -> list[slice]:
    """Return slices of about the same length that cover n rows, which need `work` multiplications.

    There are at least `least` slices, or as many more as are worth it.
    """
    count = max(1, least, min(PARTS, work // LEAST_WORK, n // (least_rows or LEAST_ROWS)))
    edges = [n * i // count for i in range(count + 1)]
    return [slice(*ends) for ends in pairwise(edges)]


def in_parts(task: Callable[[slice, Stopped], Result], parts: Sequence[slice], threads: int) -> Iterator[Result]:
    """Yield what a task returns for each part, in order.

    Parameters
    ----------
    task : callable
        Takes the part, and a function that says whether to end early, or None in the main thread, which hears signals.
    parts : sequence of slice
    threads : int
        The most that work at the same time. There are at most as many results in memory, and two more.
    """
    if min(threads, len(parts)) == 1:
        yield from (task(part, None) for part in parts)
        return
    stopped = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        coming = (pool.submit(task, part, stopped.is_set) for part in parts)
        ahead = deque(islice(coming, threads + 1))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(islice(coming, 1))
                yield result
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
