"""One thread for BLAS: how it splits a product among its threads decides the order of the sums, hence their bits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController

_lock = threading.Lock()
_inside = 0  # how many are in `one_blas_thread` now, in all threads
_limit: Any = None  # what the first of them set


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # to look for the libraries takes longer than to answer for a hundred rows


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread, in the whole process.

    The number belongs to the process. The first to come sets it and the last to go takes it back: if each restored what
    it had found, models that are used in several threads at a time would change it under each other, or leave it at 1.
    """
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _take_control()
            _limit = _libraries().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _take_control()
                _limit.restore_original_limits()
                _take_control()  # so that others may have it


def _take_control() -> None:
    """Let this thread set the number: threadpoolctl 3.8 lets only the one that did last, and ignores all others."""
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear:
        clear(force=True)
