"""A page's training: it runs the solver of the settings in a thread, and answers questions about its layer.

Three threads work for a page. One trains; a second makes frames of the newest state, seldom enough to leave the
training its core; the third answers questions, one after the other. A new setting cancels the training before.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from onelayer.errors import DataError, DivergedError, OnelayerError
from onelayer.live import answers, keeping
from onelayer.live.answers import Picture, Training
from onelayer.live.frames import HISTORY, Frame, quick, thorough
from onelayer.live.messages import Message, MessageError
from onelayer.live.optimum import Optimum
from onelayer.live.outbox import Outbox
from onelayer.live.sources import Room
from onelayer.live.teaching import image_of
from onelayer.training.state import TrainingState
from onelayer.training.train import solve

FRAME_SECONDS = 1 / 30  # between two frames, at least
CANCELLED, FAILED = "cancelled", "an error ended it"
QUICK_SHARE, THOROUGH_SHARE = 0.2, 0.15  # of the time, at most, that frames and details take while it trains
NOTE_SECONDS = 0.3  # between two notes on the progress of work
MOST_QUESTIONS, MOST_QUESTION_BYTES = 64, 2**26  # that wait for an answer


class StoppedError(Exception):
    """Work was cancelled; an InterruptedError would be taken for one of the disk by what writes files."""


class Session:
    """A page.

    Parameters
    ----------
    room : Room
    wake : callable
        Called, from any thread, when the outbox has something to send.
    """

    def __init__(self, room: Room, wake: Callable[[], object]) -> None:
        self._room, self.outbox = room, Outbox(wake)
        self._condition = threading.Condition()
        self._asked: Message | None = None  # the training to begin
        self._training: Training | None = None  # the newest that has begun
        self._cancelled = threading.Event()  # of the training in work
        self._changed = False  # there is a state that was not drawn
        self._questions: deque[Message] = deque()
        self._picture: Picture | None = None
        self._closed = False
        self._optimum = Optimum(self.outbox)
        work = (self._train_all, self._draw_all, self._answer_all)
        self._threads = [threading.Thread(target=one, name=f"live {one.__name__}", daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def handle(self, message: Message) -> None:
        """Take a message; what takes time is done by a thread."""
        with self._condition:
            if message.type == "train":
                self._cancelled.set()
                self._optimum.cancel()
                self._cancelled = threading.Event()
                self._asked = message
            elif message.type == "cancel":
                self._cancelled.set()
                self._optimum.cancel()
            else:
                self._questions.append(message)
            self._condition.notify_all()

    @property
    def is_full(self) -> bool:
        """True while so much waits for an answer that the page must wait, too."""
        with self._condition:
            waiting = [*self._questions]
        size = sum(array.nbytes for message in waiting for array in message.arrays.values())
        return len(waiting) >= MOST_QUESTIONS or size >= MOST_QUESTION_BYTES

    def close(self, seconds: float = 0.0) -> bool:
        """Cancel all work, as the page has gone, wait up to this long for its end, and return whether it came."""
        with self._condition:
            self._closed = True
            self._cancelled.set()
            self._optimum.cancel()
            self._condition.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # The thread that trains

    def _train_all(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._asked or self._closed)
                if self._closed:
                    return
                message, self._asked = self._asked, None
                cancelled = self._cancelled
            if message:
                self._guarded("train", self._train, message, cancelled, run=message["run"])

    def _train(self, message: Message, cancelled: threading.Event) -> None:
        training, why = None, FAILED
        try:
            notes = self._notes("the data", cancelled)
            data = self._room.get(message["data"], notes)
            config, mistakes = message["settings"], message["mistakes"]
            if "init-0.1" in mistakes and config.solver == "sgd":
                config = replace(config, init_std=0.1)
            problem = data.problem(config, mistakes, self._notes("features", cancelled), cancelled.is_set)
            training = Training(message["run"], data, config, mistakes, problem, cancelled)
            begin = data.begin(problem, mistakes)
            self._begin(training, begin)
            on_epoch = self._reached(training)
            why = solve(problem, begin, on_epoch=on_epoch, report_test=False, cancelled=cancelled.is_set).ended
        except (InterruptedError, StoppedError):
            why = CANCELLED
        except DivergedError as error:
            why = str(error)
        finally:
            with self._condition:
                if training is not None:
                    training.ended, self._changed = why, True
                    self._condition.notify_all()
            if training is not None and why == CANCELLED:
                self._tell_end(training)  # the page waits for it, and not for the last frame
        if training is None:
            self.outbox.put({"type": "ended", "run": message["run"], "why": why, "epoch": 0})

    def _begin(self, training: Training, begin: TrainingState) -> None:
        with self._condition:
            before, self._training, self._changed = self._training, training, False
        if before is not None:
            self._tell_end(before)
        config = training.config
        self.outbox.put(
            {
                "type": "started",
                "run": training.run,
                "command": training.command,
                "columns": HISTORY,
                "data": training.data.describe(),
                "rate": None if config.solver == "converged" else training.problem.first_rate(begin),
                "features": training.problem.splits.dataset.rows.shape[1],
                "epochs": config.epochs if config.solver == "sgd" else None,
                "init_std": config.init_std,
                "mistakes": sorted(training.mistakes),
            }
        )

    def _reached(self, training: Training) -> Callable[[TrainingState], None]:
        def on_epoch(state: TrainingState) -> None:
            with self._condition:
                training.state, self._changed = state, True
                self._condition.notify_all()

        return on_epoch

    def _notes(self, what: str, cancelled: threading.Event) -> Callable[[int, int | None], None]:
        """Return a progress that tells the page, and that ends the work if it is cancelled."""
        said = time.monotonic()

        def progress(done: int, total: int | None, _: str = "") -> None:
            nonlocal said
            if cancelled.is_set():
                raise StoppedError
            if (now := time.monotonic()) - said >= NOTE_SECONDS:
                said = now
                self.outbox.put({"type": "note", "about": what, "done": done, "total": total})

        return progress

    # The thread that draws

    def _draw_all(self) -> None:
        quick_at = thorough_at = 0.0
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._changed or self._closed)
                if self._closed:
                    return
            self._pause(quick_at)
            with self._condition:
                training, self._changed = self._training, False
                if training is None:
                    continue
                ended, state = training.ended, training.state
            began = time.monotonic()
            if state is not None:
                drawn = self._guarded("epoch", self._draw, training, state, bool(ended) or began >= thorough_at)
                now = time.monotonic()
                if drawn is not None:
                    quick_at = began + max(FRAME_SECONDS, drawn[0] / QUICK_SHARE)
                    thorough_at = now + drawn[1] / THOROUGH_SHARE if drawn[1] else thorough_at
                quick_at = max(quick_at, now)
            if ended:
                self._tell_end(training)
                self._look_for_best(training)

    def _pause(self, until: float) -> None:
        """Wait until this time, or until the training has ended."""
        with self._condition:
            while (left := until - time.monotonic()) > 0 and not self._closed:
                if self._training is None or self._training.ended:
                    return
                self._condition.wait(left)

    def _look_for_best(self, training: Training) -> None:
        config = training.config
        reached = training.state is not None and training.ended not in (CANCELLED, FAILED)
        if not (reached and config.solver == "sgd" and config.l2 and not training.mistakes):
            return
        with self._condition:  # `handle` and `close` cancel the search: it must not begin after that
            if not (self._closed or self._asked or training.cancelled.is_set()):
                self._optimum.find(training.run, training.data, config)

    def _draw(self, training: Training, state: TrainingState, details: bool) -> tuple[float, float]:
        """Send the frame of a state, and return the seconds that it and its details took."""
        began = time.monotonic()
        problem = training.problem
        fields, arrays = quick(problem, training.model_of_begin, state)
        self._put_frame(training, Frame(training.run, state.history, fields, arrays))
        self._answer_again(training, state)
        middle = time.monotonic()

        def unwanted() -> bool:
            stops = training.cancelled.is_set() and not training.ended
            return stops or self._closed or self._asked is not None or training is not self._training

        if not details or unwanted():
            return middle - began, 0.0
        try:
            more, of_rows = thorough(problem, state, unwanted)
        except InterruptedError:
            return middle - began, 0.0
        self._put_frame(training, Frame(training.run, state.history, fields | more, arrays | of_rows))
        return middle - began, time.monotonic() - middle

    def _put_frame(self, training: Training, frame: Frame) -> None:
        """Send a frame, unless the next training has begun."""
        with self._condition:
            if training is self._training:
                self.outbox.put_frame(frame)

    def _tell_end(self, training: Training) -> None:
        """Tell the page that a training has ended, once."""
        with self._condition:
            told, training.told = training.told, True
        if not told:
            epoch = training.state.epoch if training.state else 0
            self.outbox.put({"type": "ended", "run": training.run, "why": training.ended, "epoch": epoch})

    # The thread that answers

    def _answer_all(self) -> None:
        put, closed = self.outbox.put, lambda: self._closed
        work: dict[str, Callable[[Message], None]] = {
            "cell": lambda message: put(*answers.cell(self._now(), message, closed)),
            "mistakes": lambda message: put(*answers.mistakes(self._now(), message, closed)),
            "open-test": lambda _: put(*answers.opened_test(self._now(), closed)),
            "image": self._image,
            "explain": self._explain,
            "teach": lambda message: put(self._room.taught.change(message)),
            "keep": self._keep,
        }
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._questions or self._closed)
                if self._closed:
                    return
                message = self._questions.popleft()
            self._guarded(message.type, work[message.type], message, id=message.fields.get("id"))

    def _guarded(self, about: str, work: Callable[..., Any], *arguments: object, **fields: object) -> Any:
        """Do some work; what goes wrong becomes a message of one line."""
        try:
            return work(*arguments)
        except OnelayerError as error:
            text = " ".join(str(error).split())
        except (InterruptedError, StoppedError):
            text = CANCELLED
        except OSError as error:
            text = f"{error.filename or 'the disk'}: {error.strerror}; choose another folder to start onelayer in"
        except MemoryError:
            text = "there is not enough memory for it; take fewer features or smaller images"
        except Exception as error:  # the page goes on, and says what to report
            what = " ".join(f"{type(error).__name__}: {error}".split())
            text = f"onelayer made a mistake, please report it: {what:.200}"
        self.outbox.put({"type": "error", "about": about, "message": text, **fields})
        return None

    def _now(self) -> Training:
        if self._training is None:
            raise MessageError("nothing was trained yet; turn a knob")
        return self._training

    def _image(self, message: Message) -> None:
        self._picture = picture = Picture(message["id"], image_of(message))
        training = self._training
        if training is not None and training.state is not None:  # otherwise it is answered after the first epoch
            self.outbox.put(*answers.first_answer(picture, training))

    def _answer_again(self, training: Training, state: TrainingState) -> None:
        """Answer the last image by a new layer."""
        if picture := self._picture:
            try:
                self.outbox.put(answers.answer(picture, training, state))
            except DataError as error:
                self._picture = None
                self.outbox.put({"type": "error", "about": "image", "id": picture.id, "message": str(error)})

    def _explain(self, message: Message) -> None:
        picture = self._picture
        if picture is None or picture.id != message["id"]:
            raise MessageError("there is no such image now; send it again")
        self.outbox.put(*answers.explained(picture, self._now()))

    def _keep(self, message: Message) -> None:
        training = self._now()
        if training.mistakes:
            raise MessageError("a run with a mistake in it is not kept; switch the mistake off")
        if not training.ended or training.state is None:
            raise MessageError("the training has not ended; wait for its end, then keep it")
        if training.ended in (CANCELLED, FAILED):
            raise MessageError("the training did not come to its end; train again, then keep it")
        progress = self._notes("the run", threading.Event())
        kept = keeping.keep(training, message, Path("runs"), progress, lambda: self._closed)
        training.data.times_read += 1  # a run holds its test accuracy
        self.outbox.put({"type": "kept", "times_read": training.data.times_read, **kept})
