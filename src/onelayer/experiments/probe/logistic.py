"""Logistic regression over values of C: a path of optima, each of which starts from the one before.

C is that of scikit-learn and of liblinear, whose cost is C times the sum of the losses plus ||w||^2 / 2. Divided by C n
it is this package's cost, with

    lambda = 1 / (2 C n)         for K > 2 classes
    lambda = 1 / (C n)           for two classes

Two classes have one vector w there, and two here. The loss depends on w = W_1 - W_0 alone, and of all W with this
difference the shortest is W_1 = -W_0 = w / 2, with ||W||^2 = ||w||^2 / 2. So the penalties agree at twice the lambda.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from onelayer.analysis.evaluation import evaluate, logits_of
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split
from onelayer.experiments.probe.encoded import Encoded
from onelayer.experiments.probe.trials import Outcome, Progress, Trial, accuracy, best
from onelayer.layer import likeliest
from onelayer.losses import LOSSES
from onelayer.training.converged import REACHED, SURE, Convergence, Iterate
from onelayer.training.iterations import rows_of
from onelayer.training.state import TrainingState
from onelayer.training.train import solve

# The largest gap, as a share of the bound. A value of C is tried with less care than the chosen one is fitted: on 5,000
# validation rows, a gap of 1e-6 changes two or three answers.
TRIED_TOLERANCE, TOLERANCE = 1e-6, 1e-7
# Passes over the rows. The smallest lambdas need hundreds; the originals stop after 1,000 iterations of plain L-BFGS.
MOST_PASSES, WEAK_L2, WEAK_PASSES = 100, 1e-7, 20
DINO = tuple((10.0 ** np.linspace(-6, 5, 45)).tolist())  # values of C
CLIP, CLIP_STEPS = (-6, -4, -2, 0, 2, 4, 6), (1, 1 / 2, 1 / 4, 1 / 8)  # powers of 10 of C, and how they are refined


def l2_of(C: float, split: Split) -> float:
    """Return the lambda that stands for this C on these rows."""
    K = len(np.unique(split.labels))
    return (1 if K == 2 else 0.5) / (C * split.weight)


class _Capped(Convergence):
    """A path that spends few passes on each lambda below `WEAK_L2`; each goes on from the one before."""

    def iterates(self, l2: float, start: Iterate | None = None, **limits: Any) -> Iterator[Iterate]:
        passes = WEAK_PASSES if l2 < WEAK_L2 else MOST_PASSES
        return super().iterates(l2, start, **{**limits, "max_passes": passes})


class Optima:
    """Optima for values of C on the training rows, and their accuracies on the validation rows.

    Parameters
    ----------
    encoded : Encoded
    """

    def __init__(self, encoded: Encoded) -> None:
        self._encoded = encoded
        rows = rows_of(encoded.problem(encoded.config))
        self._K = len(encoded.splits.dataset.class_names)
        self._convergence = _Capped(rows, LOSSES[TrainConfig.loss], smallest_l2=0)  # any C may come
        self._best: tuple[float, Iterate] | None = None  # its accuracy

    def trials(self, values: Sequence[float], progress: Progress | None = None) -> Iterator[Trial]:
        """Yield what each C gives, from the smallest on."""
        l2s = [l2_of(C, self._encoded.train) for C in values]
        path = self._convergence.path(l2s, tol=TRIED_TOLERANCE)
        for number, (C, at) in enumerate(zip(values, path, strict=True), 1):
            yield self._trial(C, at)
            if progress:
                progress(number, len(values) + 1)

    def try_near_the_best(self, C: float) -> Trial:
        """Return what this C gives, from the best optimum so far on."""
        assert self._best  # noqa: S101, for mypy
        l2 = l2_of(C, self._encoded.train)
        *_, at = self._convergence.iterates(l2, self._best[1], tol=TRIED_TOLERANCE)
        return self._trial(C, at)

    def refit(self, C: float) -> Outcome:
        """Return the optimum for this C on the training and validation rows, from that of the best trial on.

        It goes most of the way in float32, where a pass takes a fourth of the time. The rounding of weights in float32
        alone is a larger gap than the tolerance, so the end is in float64.
        """
        encoded = self._encoded.refitted()
        l2 = l2_of(C, encoded.train)
        near = replace(encoded.config, l2=l2, tol=TRIED_TOLERANCE, max_passes=MOST_PASSES)
        layer = None
        if self._best:
            best = self._convergence.layer(self._best[1])
            layer = self._encoded.standardizer.reexpress(best, encoded.standardizer)
        for config in (near, replace(near, tol=TOLERANCE, dtype="float64")):
            problem = encoded.problem(config)
            state = TrainingState.initial(len(encoded.standardizer.mean), self._K, problem.config)
            result = solve(problem, replace(state, layer=layer) if layer else state, report_test=False)
            layer = result.state.layer
        return Outcome(
            partial(evaluate, result.model),
            result.model,
            l2,
            ended=result.ended,
            converged=result.ended in (REACHED, SURE),
            training=result.state,
            config=problem.config,
        )

    def _trial(self, C: float, at: Iterate) -> Trial:
        encoded = self._encoded
        model = encoded.model(self._convergence.layer(at))
        validation = encoded.raw.validation
        found = accuracy(likeliest(logits_of(model, validation.mine)), validation)
        if self._best is None or found > self._best[0]:
            self._best = found, Iterate(at.T, at.b)
        return Trial(C, found, at.reached, at.passes, at.cost, at.gap)


def dino(encoded: Encoded, progress: Progress | None = None) -> Outcome:
    """Choose C among 45 values on the validation rows, and fit again with them."""
    optima = Optima(encoded)
    trials = tuple(optima.trials(DINO, progress))
    return replace(optima.refit(best(trials).value), trials=trials)


def clip(encoded: Encoded, progress: Progress | None = None) -> Outcome:
    """Choose C among 96 values from 1e-6 to 1e6, 8 to each power of 10, as for CLIP, and fit again.

    Seven values are tried first. Then the interval around the best is halved until its values are neighbours.
    """
    optima = Optima(encoded)
    powers = {float(power): trial for power, trial in zip(CLIP, optima.trials([10.0**p for p in CLIP]), strict=True)}
    for number, step in enumerate(CLIP_STEPS):
        peak = max(sorted(powers), key=lambda power: powers[power].accuracy)
        for power in (peak - step, peak + step):
            if CLIP[0] <= power <= CLIP[-1]:
                powers[power] = optima.try_near_the_best(10.0**power)
        if progress:
            progress(number + 1, len(CLIP_STEPS) + 1)
    trials = tuple(powers[power] for power in sorted(powers))
    return replace(optima.refit(best(trials).value), trials=trials)
