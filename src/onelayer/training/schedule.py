"""Decisions that the settings leave to the course of the training: the learning rate of an epoch, and the end.

Each is a function of the settings and the history alone. So an interrupted run, or one that is resumed for longer, goes
on as if it had never stopped.

The *watched* loss is that of the validation rows, or the cost of the training rows where there are none. It has fallen
if it is lower than before by a ten-thousandth of its first value. When it has not fallen for `patience` epochs, the
steps are too long for it to settle, or the layer begins to learn its training rows by heart: the learning rate is
multiplied by `decay_factor`, and training goes on from the best epoch. After two decays this is the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onelayer.config import TrainConfig
from onelayer.training.history import EpochRecord

DECAYS = 2  # of --decay-every auto; after a third the steps would be too short to change anything
MOST_EPOCHS = 1000  # of --epochs auto
LEAST_FALL = 1e-4  # of the first watched loss
AT_THE_CAP = f"{MOST_EPOCHS:,} epochs are done, the most that auto trains, and the loss was still falling"


def watched(record: EpochRecord) -> float:
    """Return the loss of an epoch by which decays and the end are decided."""
    return record.train_cost if math.isnan(record.validation_loss) else record.validation_loss


@dataclass(frozen=True)
class Decision:
    """The decision about the epoch after a history.

    Parameters
    ----------
    decays : int
        Times that the factor has multiplied the learning rate.
    from_best : bool
        Whether the epoch starts from the best epoch so far, and not from the last.
    stalled : bool
        Whether the loss has stopped falling.
    ended : str
        The reason why there is no next epoch; empty if there is one.
    lowest : float
        The lowest watched loss.
    waited : int
        Epochs since it fell, or since the last decay.
    holds_out : bool
        Whether the validation rows are not trained on.
    """

    decays: int = 0
    from_best: bool = False
    stalled: bool = False
    ended: str = ""
    lowest: float = math.inf
    waited: int = 0
    holds_out: bool = True

    def after(self, config: TrainConfig, history: Sequence[EpochRecord]) -> "Decision":
        """Return the decision after a history, from that on all of it except its last epoch."""
        loss = watched(history[-1])
        fell = loss < self.lowest - LEAST_FALL * watched(history[0])
        decays, waited, stalled = self.decays, 0 if fell else self.waited + 1, self.stalled
        from_best = waited >= config.patience and config.decay_every == "auto" and decays < DECAYS
        if from_best:
            decays, waited = decays + 1, 0
        stalled = stalled or waited >= config.patience
        ended, lowest = _end(config, history, stalled, self.holds_out), min(self.lowest, loss)
        return Decision(decays, from_best, stalled, ended, lowest, waited, self.holds_out)


def decide(config: TrainConfig, history: Sequence[EpochRecord], holds_out: bool = True) -> Decision:
    """Return the decision after a history; `holds_out` is false if the validation rows are trained on."""
    decision = Decision(ended=_end(config, (), False, holds_out), holds_out=holds_out)
    for done in range(1, len(history) + 1):
        decision = decision.after(config, history[:done])
    return decision


def _end(config: TrainConfig, history: Sequence[EpochRecord], stalled: bool, holds_out: bool) -> str:
    done = len(history)
    if config.epochs != "auto":
        all_of_them = "the one epoch is done" if config.epochs == 1 else f"all {config.epochs:,} epochs are done"
        return all_of_them if done >= config.epochs else ""
    if stalled:
        which = "validation loss" if holds_out else "loss of the validation rows, which are trained on,"
        which = "training cost" if math.isnan(history[-1].validation_loss) else which
        return f"the {which} has stopped falling"
    return f"{AT_THE_CAP}; pass --epochs for more" if done >= MOST_EPOCHS else ""


def learning_rate_of(config: TrainConfig, first: float, epoch: int, decays: int) -> float:
    """Return the learning rate of an epoch, counted from 1, after this many decays of ``--decay-every auto``."""
    if config.decay_every != "auto":
        decays = (epoch - 1) // config.decay_every if config.decay_every else 0
    return first * config.decay_factor**decays
