"""Advice: sentences on what the curves and the answers of a model show, each with what to type.

A training curve is judged against the loss before the first step, and relative to how far the loss has fallen since, so
that it does not matter how many classes or epochs there are. Nothing is said where nothing is plain.
"""

from dataclasses import replace

import numpy as np

from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.references import Verdict
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split
from onelayer.data.windows import forward_windows, loaded
from onelayer.features.map import Identity
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES, Loss
from onelayer.model import Model
from onelayer.training.class_weights import BY_CLASS
from onelayer.training.history import History

START_ROWS = 2000  # looked at for the loss before the first step
# Shares of the fall of the loss.
STILL_FALLING = 0.01  # within the last tenth of the epochs
STRAIGHT = 0.5  # fall in the second half of the epochs divided by that in the first: a curve that does not bend
# Shares of the loss of guessing.
UNSTEADY = 0.02  # sum of the rises of the training loss in the second half of the epochs
RISEN = 0.01  # above the lowest validation loss
APART, ALIKE = 0.1, 0.05  # validation loss above training loss
HELD_BACK = 0.02  # penalty
FEW = 4  # epochs, with which a curve shows nothing but its fall
MISCALIBRATED = 0.05  # calibration error
CHANCE = 2  # calibration errors that a calibrated model would have by chance
NEARLY_ALL = 0.9  # accuracy, or balanced accuracy where that is compared
UNBALANCED = 0.1  # accuracy above balanced accuracy

SWEEP_L2 = "onelayer sweep with the run's other options and --l2 0 0.001 0.01 0.1"
PATH_OF_L2 = "onelayer path with the run's other options, which lets the validation rows choose --l2"


def loss_before(model: Model, initial: SoftmaxLayer, train: Split) -> float:
    """Return the mean training loss of the initial layer of a model, in nats, on evenly spaced rows."""
    places = np.unique(np.linspace(0, len(train) - 1, min(START_ROWS, len(train))).astype(np.int64))
    of_features = replace(model, layer=initial, features=Identity(len(initial.weights)))
    few, losses = replace(train, indices=train.indices[places]), []
    for piece in loaded(few, forward_windows(few)):  # which holds few pages of a memory map
        S = of_features.unchecked_logits(piece.rows(slice(None)))
        losses.append(np.asarray(initial.loss.of_rows(S, piece.labels)))
    return float(np.average(np.concatenate(losses), weights=few.row_weights(slice(None))))


def advice_on_training(
    history: History,
    kept_epoch: int,
    start: float,
    loss: Loss,
    K: int,
    config: TrainConfig,
    holds_out: bool = True,
    measured: tuple[float, float] | None = None,
) -> list[str]:
    """Return what the curves show of the steps, the epochs and the penalty.

    Parameters
    ----------
    history : tuple of EpochRecord
    kept_epoch : int
        The epoch whose layer was kept, from 1.
    start : float
        Training loss before the first epoch, in nats; see `loss_before`.
    loss : Loss
    K : int
        Number of classes.
    config : TrainConfig
    holds_out : bool
        Whether the validation rows are not trained on; others tell nothing about new rows.
    measured : (float, float), optional
        Loss of the model, and that of the class frequencies, on the rows that judge the model, in nats.
    """
    if not 1 <= kept_epoch <= len(history):
        return []
    unit = loss.of_guessing(K) or 1.0
    train = np.array([start, *(record.train_loss for record in history)])
    held_out = np.array([record.validation_loss if holds_out else np.nan for record in history])
    in_steps = config.solver == "sgd"  # iterations of another solver are few, and its end is the optimum
    rate, kept = history[0].learning_rate, history[kept_epoch - 1]
    lowest, gap = history[int(held_out.argmin())], held_out[kept_epoch - 1] - kept.train_loss
    risen = in_steps and held_out[kept_epoch - 1] - lowest.validation_loss > RISEN * unit
    if measured and not risen and isinstance(config.learning_rate, float):
        found, guessing = measured
        if found > max(guessing, start) + RISEN * unit:
            what = f"the loss is {found:.3g} nats, above the {guessing:.3g} nats of knowing only the class frequencies"
            return [f"steps too long: {what}; try --learning-rate auto or --learning-rate {rate / 10:g}"]
    if in_steps and (said := _on_steps(train, held_out, unit, rate, config)):
        return [said]
    weighted = _weighted(config)
    if risen:
        rise = f"from {lowest.validation_loss:.3g} nats at epoch {lowest.epoch} to {kept.validation_loss:.3g}{weighted}"
        return [f"overfitting: the validation loss rose {rise}; try --keep best, or {SWEEP_L2}"]
    if gap > APART * unit:
        losses = (
            f"the validation loss is {kept.validation_loss:.3g} nats, the training loss {kept.train_loss:.3g}{weighted}"
        )
        return [f"overfitting: {losses}; try more training rows, or {SWEEP_L2 if in_steps else PATH_OF_L2}"]
    penalty = kept.train_cost - kept.train_loss
    if penalty > HELD_BACK * unit and not gap > ALIKE * unit:
        what = f"l2 {config.l2:g} adds {penalty:.2g} nats to the training loss of {kept.train_loss:.3g}{weighted}"
        more = "" if np.isnan(gap) else ", and the validation loss is hardly higher"
        return [f"underfitting: {what}{more}; try --l2 {config.l2 / 10:g}"]
    return []


def _weighted(config: TrainConfig) -> str:
    """Return a remark on the losses of a training whose rows have weights by their class."""
    return "" if config.class_weight == "none" else f" ({BY_CLASS})"


def _on_steps(train: np.ndarray, held_out: np.ndarray, unit: float, rate: float, config: TrainConfig) -> str:
    """Return advice on the length of the steps and the number of epochs, if there is any."""
    epochs = len(held_out)
    auto = ["--learning-rate auto"] if isinstance(config.learning_rate, float) else []
    late = np.diff(train[1 + epochs // 2 :])
    rises = late[late > 0]
    above = train[-1] > train[0] + RISEN * unit
    if above or (epochs >= FEW and len(rises) > len(late) / 4 and rises.sum() > UNSTEADY * unit):
        where = f"ended at {train[-1]:.3g} nats, above {train[0]:.3g} before the first step{_weighted(config)}"
        what = where if above else "goes up and down instead of falling"
        return f"steps too long: the training loss {what}; try {' or '.join([*auto, f'--learning-rate {rate / 10:g}'])}"
    if epochs >= FEW and train[1 + epochs // 2] - train[-1] > STRAIGHT * (train[1] - train[1 + epochs // 2]) > 0:
        what = "the training loss falls in a straight line, far from where it levels off"
        return f"steps too short: {what}; try {' or '.join([*auto, f'--learning-rate {rate * 10:g}'])}"
    curve = train[1:] if np.isnan(held_out).any() else held_out  # rows that were held out decide
    before = curve[-1 - epochs // 10] if epochs >= 10 else np.array([train[0], *curve])[-2]
    if not before - curve[-1] > STILL_FALLING * (train[0] - curve[-1]) > 0:
        return ""
    longer = "--epochs auto" if isinstance(config.epochs, int) else f"--epochs {2 * epochs}"
    return f"underfitting: the loss was still falling; try {' and '.join([longer, *auto])}"


def advice_on_answers(
    evaluation: Evaluation,
    verdict: Verdict | None,
    config: TrainConfig,
    *,
    settled: bool = True,
    pictures: bool = False,
) -> list[str]:
    """Return what the answers show of the rare classes, the limits of one layer, and the probabilities.

    Parameters
    ----------
    evaluation : Evaluation
    verdict : Verdict or None
        The model against its references.
    config : TrainConfig
        The settings that the model was trained with.
    settled : bool
        Whether there is no advice on the training, which would have to be followed first.
    pictures : bool
        Whether the model sees images as they are, pixel by pixel.
    """
    found = []
    accuracy, balanced = (evaluation.estimates[name] for name in ("accuracy", "balanced_accuracy"))
    if config.class_weight == "none" and accuracy.value - balanced.value > UNBALANCED:
        what = f"rare classes are often missed: the mean recall of the classes is {balanced.number()}"
        found.append(f"{what}; if all classes matter alike, try --class-weight balanced")
    if not settled:
        return found
    if verdict and not verdict.better and evaluation.estimates[verdict.figure].high < NEARLY_ALL:
        what = "underfitting: one layer on these numbers may not be able to tell the classes apart"
        network = "features of a trained network: --features onnx:FILE, or vectors as --data"
        found.append(f"{what}; try {'--features patches, or ' * pictures}{network}")
    error, confidence = evaluation.estimates["calibration_error"], evaluation.mean(evaluation.confidences)
    if error.low > MISCALIBRATED and error.value > CHANCE * _calibration_error_by_chance(evaluation):
        what = f"the mean confidence is {100 * confidence:.0f} %, the accuracy {accuracy.number()}"
        in_steps = config.solver == "sgd"
        remedy = f"{'--epochs auto, or ' * in_steps}a smaller --l2"
        if confidence > accuracy.value:
            remedy = SWEEP_L2 if in_steps else PATH_OF_L2
        if not LOSSES[config.loss].exclusive:
            remedy = "--loss softmax, whose probabilities add up to 1"
        elif config.class_weight != "none":
            remedy = "--class-weight none, if the rows to come have classes as frequent as these"
        found.append(f"poor calibration: {what}; try {remedy}")
    return found


def sees_pictures(model: Model) -> bool:
    """Return whether a model sees images as they are, pixel by pixel, so that it could see features of them instead."""
    return model.image_shape is not None and bool(model.pixels) and isinstance(model.features, Identity)


def _calibration_error_by_chance(evaluation: Evaluation) -> float:
    """Return the calibration error to be expected where every confidence is right, because bins have few rows."""
    bins = evaluation.reliability()
    n = bins.counts / bins.counts.sum() * evaluation.effective_rows
    scatter = np.nan_to_num(np.sqrt(n * bins.confidence * (1 - bins.confidence)))
    return float(np.sqrt(2 / np.pi) * scatter.sum() / evaluation.effective_rows)
