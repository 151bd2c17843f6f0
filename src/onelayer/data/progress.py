"""The type of the functions that are told how far a reading is."""

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with the amount done and the total (None where unknown): bytes, files, images or rows."""


def silent(done: int, total: int | None) -> None:
    """Do nothing: the progress of a reading that nobody watches."""
