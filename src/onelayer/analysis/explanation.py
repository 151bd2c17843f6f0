"""The reasons for an answer: the amount that each pixel adds to the logits. For one layer this is exact.

A linear feature map is multiplied into the layer first. Any other map divides the contributions of its features among
the numbers of the row (`FeatureMap.attribute`), or refuses.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from onelayer.errors import ConfigError
from onelayer.features.map import Attribution
from onelayer.layer import ranked
from onelayer.model import Model
from onelayer.words import percent

CAVEAT = "this shows how the score came about, not what would change it"  # where a map is not linear


@dataclass(frozen=True, eq=False)
class Explanation:
    """The logits of one row as sums over its numbers.

    Parameters
    ----------
    classes : ndarray (t,), int64
        The likeliest classes, the first the prediction.
    probabilities : ndarray (t,)
        Probabilities of these classes, as `Model.probabilities` returns them.
    contributions : ndarray (t, d), float64
        The amount that each number of the row adds to each logit, (R_j - m_j) / s_j * W_jk; a number at its mean adds
        nothing. With a feature map that is not linear, the amount that the map attributes to the number.
    bias : ndarray (t,), float64
    logits : ndarray (t,), float64
        The exact sums of contributions and bias, rounded once (`math.fsum`). `Model.logits` differs only by the
        rounding of its sums.
    windows : ndarray (t, down, across), float64, or None
        With patch features, the amount that each window of the image adds to each logit: the contributions, divided
        otherwise. A window with the average activations of the training images adds nothing.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    contributions: np.ndarray
    bias: np.ndarray
    logits: np.ndarray
    windows: np.ndarray | None = None

    def __repr__(self) -> str:
        shares = ", ".join(f"{k} with {percent(p)}" for k, p in zip(self.classes, self.probabilities, strict=True))
        return f"<Explanation of the classes {shares}>"


def explain(model: Model, row: ArrayLike, top: int = 3) -> Explanation:
    """Return the logits of a raw row (d,) as sums over its numbers, for its `top` likeliest classes.

    Raises
    ------
    ConfigError
        If `top` is less than 1.
    DataError
        If the row does not have d numbers, or the model's features cannot be traced back to them.
    """
    if top < 1:
        raise ConfigError(f"top {top} is not a whole number of at least 1")
    R = np.asarray(row)[np.newaxis]  # (1, d)
    S = model.unchecked_logits(R)  # (1, K)
    model.warn_of(R, stacklevel=3)
    probabilities = np.asarray(model.layer.loss.probabilities(S))[0]  # (K,)
    classes = ranked(S[0])[:top]
    exact = model.without_linear_map.in_float64()
    W, bias = exact.layer.weights[:, classes], exact.layer.bias[classes]
    if exact.features.linear:
        found = Attribution(W.T * exact.standardizer.transform(R)[0])
    else:
        found = exact.features.attribute((W.T / exact.standardizer.scale).T, exact.standardizer.mean, R[0])
    logits = np.array([math.fsum([*terms, b]) for terms, b in zip(found.numbers, bias, strict=True)])
    return Explanation(classes, probabilities[classes], found.numbers, bias, logits, found.windows)
