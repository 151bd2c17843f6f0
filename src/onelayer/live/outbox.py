"""The messages on their way to a page. Of the pictures of epochs, only the newest wait; the numbers all arrive."""

import threading
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from onelayer.live.frames import Frame, history_rows
from onelayer.live.messages import pack, write_text

MOST_WAITING = 256  # messages; a page that does not read them is given up
MOST_WAITING_BYTES = 2**26


class Outbox:
    """A queue that threads fill, and that the connection empties.

    Parameters
    ----------
    wake : callable
        Called, from any thread, when there is something to send.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake, self._lock = wake, threading.Lock()
        self._waiting: deque[str | bytes | Frame] = deque()
        self._bytes = 0
        self._sent = (-1, 0)  # the last run with a frame that was sent, and the number of its epochs that were
        self.full = False

    def put(self, message: Mapping[str, object], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Add a message."""
        packed = pack(message, arrays) if arrays else write_text(message)
        with self._lock:
            if message["type"] == "started":
                self._drop_frame()  # of the run before
            if len(self._waiting) >= MOST_WAITING or self._bytes > MOST_WAITING_BYTES:
                self.full = True
            if not self.full:
                self._waiting.append(packed)
                self._bytes += len(packed)
        self._wake()

    def put_frame(self, frame: Frame) -> None:
        """Add the frame of an epoch in place of one that still waits."""
        with self._lock:
            before = self._drop_frame()
            if before and before.run == frame.run:  # what is not in every frame is kept
                frame = Frame(frame.run, frame.history, before.fields | frame.fields, before.arrays | frame.arrays)
            self._waiting.append(frame)
        self._wake()

    def take(self) -> str | bytes | None:
        """Return the next message as it is sent; None if none waits."""
        with self._lock:
            if not self._waiting:
                return None
            message = self._waiting.popleft()
            if not isinstance(message, Frame):
                self._bytes -= len(message)
                return message
            run, done = self._sent
            rows = history_rows(message.history[done if run == message.run else 0 :])
            self._sent = message.run, len(message.history)
        return pack({"type": "epoch", "run": message.run, **message.fields, "history": rows}, message.arrays)

    def _drop_frame(self) -> Frame | None:
        for waiting in self._waiting:
            if isinstance(waiting, Frame):
                self._waiting.remove(waiting)
                return waiting
        return None
