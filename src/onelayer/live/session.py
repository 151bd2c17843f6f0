"""A page's training: it runs the solver of the settings in a thread, and answers questions about its layer.

Three threads work for a page. One trains; a second makes frames of the newest state, seldom enough to leave the
training its core; the third answers questions, one after the other. A new setting cancels the training before.
"""

import shlex
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.explanation import explain
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split
from onelayer.errors import DataError, DivergedError, OnelayerError
from onelayer.layer import likeliest
from onelayer.live import keeping
from onelayer.live.frames import (
    HISTORY,
    Frame,
    answers_arrays,
    evaluated,
    images_of,
    interval,
    quick,
    thorough,
)
from onelayer.live.messages import MOST_SHOWN, Message, MessageError
from onelayer.live.optimum import Optimum
from onelayer.live.outbox import Outbox
from onelayer.live.sources import Data, Room
from onelayer.live.teaching import decoded, image_of
from onelayer.model import Model
from onelayer.training.state import Problem, TrainingState
from onelayer.training.train import solve
from onelayer.words import options_apart

FRAME_SECONDS = 1 / 30  # between two frames, at least
QUICK_SHARE, THOROUGH_SHARE = 0.2, 0.15  # of the time, at most, that frames and details take while it trains
NOTE_SECONDS = 0.3  # between two notes on the progress of work
MOST_QUESTIONS = 64  # that wait
MOST_EXPLAINED = 24  # classes, the likeliest


@dataclass(eq=False)
class Training:
    """A training that a page asked for.

    Parameters
    ----------
    run : int
        The page's number for it.
    data : Data
    config : TrainConfig
    mistakes : frozenset of str
    problem : Problem
    cancelled : threading.Event
    state : TrainingState or None
        After the newest epoch; None before the first.
    ended : str
        The reason why it ended; empty while it goes on.
    answers : dict of str to Evaluation
        Of validation rows, by the newest layer that was asked about; of test rows, once they were opened.
    """

    run: int
    data: Data
    config: TrainConfig
    mistakes: frozenset[str]
    problem: Problem
    cancelled: threading.Event
    state: TrainingState | None = None
    ended: str = ""
    answers: dict[str, tuple[int, Evaluation]] = field(default_factory=dict)

    @cached_property
    def model_of_begin(self) -> Model:
        """The model of some layer; `model` has that of the newest."""
        return self.problem.model(self.reached.layer)

    @property
    def reached(self) -> TrainingState:
        """The state after the newest epoch.

        Raises
        ------
        MessageError
            If no epoch has ended yet.
        """
        if self.state is None:
            raise MessageError("no epoch has ended yet; ask again")
        return self.state

    @property
    def model(self) -> Model:
        """The model of the newest layer."""
        state = self.reached
        return replace(self.model_of_begin, layer=state.layer)

    @property
    def command(self) -> str:
        """The command that does the same; empty with a mistake, which no command makes."""
        if self.mistakes:
            return ""
        words = ["onelayer train", f"--data {shlex.quote(self.data.splits.dataset.source)}"]
        return " ".join([*words, *options_apart(self.config, TrainConfig())])


@dataclass(eq=False)
class Picture:
    """An image that the page asks about."""

    id: int
    content: bytes
    rows: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)  # by image shape
    features: tuple[Model, np.ndarray] | None = None

    def row(self, model: Model) -> tuple[np.ndarray, str | None]:
        """Return the image as a raw row (d,) for a model, and a note on its fit.

        Raises
        ------
        DataError
            If it cannot be read, or the model is not one of images.
        """
        if model.image_shape is None:
            raise DataError("the rows of these data are not images, so an image has no answer")
        found = decoded(self.content, model.image_shape, model.fit)
        return found.row, found.fitted


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
            elif len(self._questions) >= MOST_QUESTIONS:
                raise MessageError(f"{message.type}: more than {MOST_QUESTIONS} questions wait for an answer")
            else:
                self._questions.append(message)
            self._condition.notify_all()

    def close(self, seconds: float = 0.0) -> None:
        """Cancel all work, as the page has gone, and wait up to this long for its end."""
        with self._condition:
            self._closed = True
            self._cancelled.set()
            self._condition.notify_all()
        self._optimum.cancel()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

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
        training = None
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
        except InterruptedError:
            why = "cancelled"
        except DivergedError as error:
            why = str(error)
        if training is None:
            self.outbox.put({"type": "ended", "run": message["run"], "why": why, "epoch": 0})
            return
        with self._condition:
            training.ended, self._changed = why, True
            self._condition.notify_all()

    def _begin(self, training: Training, begin: TrainingState) -> None:
        with self._condition:
            self._training, self._changed = training, False
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
                raise InterruptedError
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
                self._end(training, ended)

    def _pause(self, until: float) -> None:
        """Wait until this time, or until the training has ended."""
        with self._condition:
            while (left := until - time.monotonic()) > 0 and not self._closed:
                if self._training is None or self._training.ended:
                    return
                self._condition.wait(left)

    def _draw(self, training: Training, state: TrainingState, details: bool) -> tuple[float, float]:
        """Send the frame of a state, and return the seconds that it and its details took."""
        began = time.monotonic()
        problem = training.problem
        fields, arrays = quick(problem, training.model_of_begin, state)
        frame = Frame(training.run, state.history, fields, arrays)
        if not training.cancelled.is_set() or training.ended:
            self.outbox.put_frame(frame)
        self._answer_again(training, state)
        middle = time.monotonic()
        if not details or training.cancelled.is_set():
            return middle - began, 0.0
        try:
            more, of_rows = thorough(problem, state, training.cancelled.is_set)
        except InterruptedError:
            return middle - began, 0.0
        self.outbox.put_frame(Frame(training.run, state.history, fields | more, arrays | of_rows))
        return middle - began, time.monotonic() - middle

    def _end(self, training: Training, why: str) -> None:
        state = training.state
        self.outbox.put({"type": "ended", "run": training.run, "why": why, "epoch": state.epoch if state else 0})
        if state is not None and not training.mistakes and why != "cancelled" and training.config.l2:
            self._optimum.find(training.run, training.data, training.config)

    # The thread that answers

    def _answer_all(self) -> None:
        answers: dict[str, Callable[[Message], None]] = {
            "cell": self._cell,
            "mistakes": self._mistakes,
            "open-test": self._open_test,
            "image": self._image,
            "explain": self._explain,
            "teach": lambda message: self.outbox.put(self._room.taught.change(message)),
            "keep": self._keep,
        }
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._questions or self._closed)
                if self._closed:
                    return
                message = self._questions.popleft()
            self._guarded(message.type, answers[message.type], message, id=message.fields.get("id"))

    def _guarded(self, about: str, work: Callable[..., Any], *arguments: object, **fields: object) -> Any:
        """Do some work; what goes wrong becomes a message of one line."""
        try:
            return work(*arguments)
        except OnelayerError as error:
            text = " ".join(str(error).split())
        except InterruptedError:
            text = "cancelled"
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

    def _answers(self, training: Training, name: str) -> tuple[Evaluation, Split]:
        """Return the answers on validation rows, or on test rows once they were opened, and their raw rows."""
        state, split = training.reached, getattr(training.problem.splits, name)
        raw = getattr(training.problem.raw, name)
        if name == "test" and "test-on-train" in training.mistakes:
            raw = training.problem.raw.train
        if name == "test" and name not in training.answers:
            raise MessageError("the test rows are closed; open them first")
        if not len(split):
            raise MessageError(f"there are no {name} rows")
        found = training.answers.get(name)
        if found is None or (name != "test" and found[0] != state.epoch):
            answers = evaluated(training.problem, state.layer, split, lambda: self._closed)
            found = training.answers[name] = state.epoch, answers
        return found[1], raw

    def _show(self, message: Message, chosen: Callable[[Evaluation], np.ndarray], **fields: object) -> None:
        """Send the images of the rows that are chosen (n,), bool, the most confident first."""
        training = self._now()
        answers, raw = self._answers(training, message["split"])
        all_chosen = chosen(answers)
        places = answers.most_confident(all_chosen, MOST_SHOWN)
        rows = [
            {
                "row": int(raw.indices[place]),
                "true": int(answers.labels[place]),
                "predicted": int(answers.predictions[place]),
                "probability": float(answers.confidences[place]),
                "true_probability": float(answers.true_class_probabilities[place]),
            }
            for place in places
        ]
        found = {"type": "images", "about": message.type, "run": training.run, "split": message["split"], "rows": rows}
        found |= {"total": int(all_chosen.sum()), **fields}
        shape = raw.dataset.image_shape
        self.outbox.put(found, None if shape is None or not rows else {"images": images_of(raw.rows(places), shape)})

    def _cell(self, message: Message) -> None:
        true, predicted = message["true"], message["predicted"]

        def chosen(answers: Evaluation) -> np.ndarray:
            found: np.ndarray = (answers.labels == true) & (answers.predictions == predicted)
            return found

        self._show(message, chosen, true=true, predicted=predicted)

    def _mistakes(self, message: Message) -> None:
        self._show(message, lambda answers: ~answers.right)

    def _open_test(self, message: Message) -> None:
        training = self._now()
        state, of_train = training.reached, "test-on-train" in training.mistakes
        problem = training.problem
        split = problem.splits.train if of_train else problem.splits.test
        if not len(split):
            raise MessageError("there are no test rows")
        if not of_train:
            training.data.times_read += 1
        answers = evaluated(problem, state.layer, split, lambda: self._closed)
        training.answers["test"] = state.epoch, answers
        figures = {"accuracy": interval(answers.accuracy, split), "loss": answers.loss, "rows": len(answers.labels)}
        told = {"type": "test", "run": training.run, "epoch": state.epoch, "times_read": training.data.times_read}
        self.outbox.put({**told, **figures, "of_train": of_train}, answers_arrays(answers))

    def _image(self, message: Message) -> None:
        self._picture = picture = Picture(message["id"], image_of(message))
        training = self._training
        if training is not None and training.state is not None:
            row, note = picture.row(training.model_of_begin)
            model = training.model
            seen = images_of(row[np.newaxis], model.image_shape)[0] if model.image_shape else None
            answer = self._answer(picture, training, training.reached)
            self.outbox.put(answer | {"note": note}, None if seen is None else {"seen": seen})

    def _answer(self, picture: Picture, training: Training, state: TrainingState) -> dict[str, Any]:
        base = training.model_of_begin
        if picture.features is None or picture.features[0] is not base:
            row, _ = picture.row(base)
            picture.features = base, base.features.transform(row[np.newaxis])
        S = replace(base, layer=state.layer).logits_of_features([picture.features[1]])
        P = np.asarray(base.layer.loss.probabilities(S))[0]
        numbers = {"logits": S[0].tolist(), "probabilities": P.tolist(), "predicted": int(likeliest(S)[0])}
        return {"type": "answer", "id": picture.id, "run": training.run, "epoch": state.epoch, **numbers}

    def _answer_again(self, training: Training, state: TrainingState) -> None:
        """Answer the last image by a new layer."""
        if picture := self._picture:
            try:
                self.outbox.put(self._answer(picture, training, state))
            except DataError as error:
                self._picture = None
                self.outbox.put({"type": "error", "about": "image", "id": picture.id, "message": str(error)})

    def _explain(self, message: Message) -> None:
        picture, training = self._picture, self._now()
        if picture is None or picture.id != message["id"]:
            raise MessageError("there is no such image now; send it again")
        model, epoch = training.model, training.reached.epoch
        row, _ = picture.row(model)
        found = explain(model, row, min(MOST_EXPLAINED, len(model.class_names)))
        shape = model.image_shape or (1, 1, len(row))
        arrays = {"contributions": found.contributions.reshape(-1, *shape).sum(axis=1).astype(np.float32)}
        if found.windows is not None:
            arrays["windows"] = found.windows.astype(np.float32)
        told: dict[str, Any] = {"type": "contributions", "id": picture.id, "run": training.run, "epoch": epoch}
        told |= {"classes": found.classes.tolist(), "bias": found.bias.tolist(), "logits": found.logits.tolist()}
        self.outbox.put(told | {"probabilities": found.probabilities.tolist()}, arrays)

    def _keep(self, message: Message) -> None:
        training = self._now()
        if training.mistakes:
            raise MessageError("a run with a mistake in it is not kept; switch the mistake off")
        if not training.ended or training.state is None:
            raise MessageError("the training has not ended; wait for its end, then keep it")
        if training.ended == "cancelled":
            raise MessageError("the training was cancelled; train again, then keep it")
        training.data.times_read += 1  # a run holds its test accuracy
        progress = self._notes("the run", threading.Event())
        kept = keeping.keep(training.data, training.problem, message, Path("runs"), progress, lambda: self._closed)
        self.outbox.put({"type": "kept", "times_read": training.data.times_read, **kept})
