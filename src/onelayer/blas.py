"""One thread for BLAS. The number of threads decides the order of the sums in a product, and so their bits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController

_lock = threading.Lock()
_inside = 0  # number of `one_blas_thread` blocks that run now, in all threads
_limit: Any = None  # the limit that the first of them set


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes longer than classifying a hundred rows


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread, in the whole process.

    The number belongs to the process. The first block that begins sets it, and the last that ends restores it. If each
    block restored the number that it found, blocks in several threads would change it for each other, or leave it at 1.
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
    """Let this thread set the number: threadpoolctl 3.8 ignores all threads except the last that set it."""
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear:
        clear(force=True)
