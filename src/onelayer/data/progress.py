"""The functions that are told how far a job is."""

from collections.abc import Callable
from itertools import count

Progress = Callable[[int, int | None], None]
"""Called with the amount done and the total (None where unknown): bytes, files, images or rows."""
Told = Callable[[int, int | None, str], None]
"""Called as `Progress` is, and with words on what is being done now."""


def silent(done: int, total: int | None, now: str = "") -> None:
    """Do nothing: the progress of a reading that nobody watches."""


def counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return a function that counts one of `total` parts as done and tells `progress`."""
    numbers = count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(numbers), total)

    return tick
