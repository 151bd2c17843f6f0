"""Answers to a page's questions about the layer of this moment: images, mistakes, test rows, an image of its own."""

import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.explanation import explain
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split
from onelayer.errors import DataError
from onelayer.layer import likeliest
from onelayer.live.frames import answers_arrays, evaluated, images_of, interval
from onelayer.live.messages import MOST_SHOWN, Message, MessageError
from onelayer.live.sources import Data
from onelayer.live.teaching import decoded
from onelayer.model import Model
from onelayer.training.state import Problem, TrainingState
from onelayer.words import options_apart

MOST_EXPLAINED = 24  # classes, the likeliest

Reply = tuple[dict[str, Any], dict[str, np.ndarray] | None]  # a message, and its arrays if it has any


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
    told : bool
        Whether the page knows that it ended.
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
    told: bool = False
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
    """An image that the page asks about.

    Parameters
    ----------
    id : int
        The page's number for it.
    content : bytes
        Of an image file.
    """

    id: int
    content: bytes
    _for: Model | None = None

    def look(self, model: Model) -> None:
        """Decode the image for a model, and compute its features; the second time for the same model, do nothing.

        Raises
        ------
        DataError
            If it cannot be read, or the model is not one of images.
        """
        if self._for is model:
            return
        if model.image_shape is None:
            raise DataError("the rows of these data are not images, so an image has no answer")
        found = decoded(self.content, model.image_shape, model.fit)
        doubt = model.doubt(found.row[np.newaxis])
        self.note = "; ".join(filter(None, [found.fitted, str(doubt) if doubt else None]))
        self.row, self.seen = found.row, images_of(found.row[np.newaxis], model.image_shape)[0]
        self.features, self._for = model.features.transform(found.row[np.newaxis]), model


def answer(picture: Picture, training: Training, state: TrainingState) -> dict[str, Any]:
    """Return the message that answers an image by the layer of a state."""
    base = training.model_of_begin
    picture.look(base)
    S = replace(base, layer=state.layer).logits_of_features([picture.features])
    P = np.asarray(base.layer.loss.probabilities(S))[0]
    numbers = {"logits": S[0].tolist(), "probabilities": P.tolist(), "predicted": int(likeliest(S)[0])}
    return {"type": "answer", "id": picture.id, "run": training.run, "epoch": state.epoch, **numbers}


def first_answer(picture: Picture, training: Training) -> Reply:
    """Return the answer on a new image, with the image as the model sees it."""
    found = answer(picture, training, training.reached)
    return found | {"note": picture.note}, {"seen": picture.seen}


def explained(picture: Picture, training: Training) -> Reply:
    """Return the amount that each pixel of an image adds to the logits; with the bias they are the logits."""
    base, state = training.model_of_begin, training.reached
    picture.look(base)
    model = replace(base, layer=state.layer)
    found = explain(model, picture.row, min(MOST_EXPLAINED, len(model.class_names)))
    _, h, w = model.image_shape or (1, 1, len(picture.row))
    arrays = {"contributions": found.contributions.reshape(len(found.classes), -1, h, w).sum(axis=1).astype(np.float32)}
    if found.windows is not None:
        arrays["windows"] = found.windows.astype(np.float32)
    told: dict[str, Any] = {"type": "contributions", "id": picture.id, "run": training.run, "epoch": state.epoch}
    told |= {"classes": found.classes.tolist(), "bias": found.bias.tolist(), "logits": found.logits.tolist()}
    return told | {"probabilities": found.probabilities.tolist()}, arrays


def opened_test(training: Training, cancelled: Callable[[], bool]) -> Reply:
    """Return the figures of the test rows, and count that they were read; training rows where that is the mistake."""
    state, of_train, problem = training.reached, "test-on-train" in training.mistakes, training.problem
    split = problem.splits.train if of_train else problem.splits.test
    if not len(split):
        raise MessageError("there are no test rows")
    if not of_train:
        training.data.times_read += 1
    answers = evaluated(problem, state.layer, split, cancelled)
    training.answers["test"] = state.epoch, answers
    figures = {"accuracy": interval(answers.accuracy, split), "loss": answers.loss, "rows": len(answers.labels)}
    told = {"type": "test", "run": training.run, "epoch": state.epoch, "times_read": training.data.times_read}
    return {**told, **figures, "of_train": of_train}, answers_arrays(answers)


def cell(training: Training, message: Message, cancelled: Callable[[], bool]) -> Reply:
    """Return the images in a cell of the confusion matrix."""
    true, predicted = message["true"], message["predicted"]
    answers, raw = _answers(training, message["split"], cancelled)
    chosen: np.ndarray = (answers.labels == true) & (answers.predictions == predicted)
    found, arrays = _images(training, message, answers, raw, chosen)
    return found | {"true": true, "predicted": predicted}, arrays


def mistakes(training: Training, message: Message, cancelled: Callable[[], bool]) -> Reply:
    """Return the images of the most confident mistakes."""
    answers, raw = _answers(training, message["split"], cancelled)
    return _images(training, message, answers, raw, ~answers.right)


def _answers(training: Training, name: str, cancelled: Callable[[], bool]) -> tuple[Evaluation, Split]:
    """Return the answers on validation rows, or on test rows once they were opened, and their raw rows."""
    state, problem = training.reached, training.problem
    if name == "test":
        if name not in training.answers:
            raise MessageError("the test rows are closed; open them first")
        raw = problem.raw.train if "test-on-train" in training.mistakes else problem.raw.test
        return training.answers[name][1], raw
    if not len(problem.splits.validation):
        raise MessageError("there are no validation rows")
    found = training.answers.get(name)
    if found is None or found[0] != state.epoch:
        answers = evaluated(problem, state.layer, problem.splits.validation, cancelled)
        found = training.answers[name] = state.epoch, answers
    return found[1], problem.raw.validation


def _images(training: Training, message: Message, answers: Evaluation, raw: Split, chosen: np.ndarray) -> Reply:
    """Return the images of the rows that are chosen (n,), bool, the most confident answers first."""
    places = answers.most_confident(chosen, MOST_SHOWN)
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
    shape = raw.dataset.image_shape
    arrays = None if shape is None or not rows else {"images": images_of(raw.rows(places), shape)}
    return found | {"total": int(chosen.sum())}, arrays
