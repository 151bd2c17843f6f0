"""The certificate of a layer: a proven bound on how far its cost is above the lowest cost of any layer.

The cost is convex, and duality bounds it from below. Let P (n, K) be any array whose rows are probabilities, H the mean
of their entropies and A = X^T (P - Y) / n. As log sum_k exp(s_k) >= p . s + H(p) for all s and p, every layer has ::

    J(W, b) >= H + A . W + (p - pi) . b + lambda ||W||^2            p, pi (K,): the means of the rows of P and of Y

If p = pi, the right side is least at W = -A / (2 lambda), so that no layer has a lower cost than ::

    D(P) = H - ||A||^2 / (4 lambda)

At the optimum, P = softmax(S) attains it, and where b is solved out, J - D = ||dJ/dW||^2 / (4 lambda).
``docs/certificate.md`` derives this, the repair of a P whose means are others, and the same for K sigmoids. Everything
is in float64, and rounded outwards: the bounds on the rounding errors, which `onelayer.training.sums` states, are added
to the cost and subtracted from the bound.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from functools import reduce
from operator import add

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.data.progress import Progress, counter
from onelayer.data.windows import forward_windows, loaded
from onelayer.errors import ConfigError
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import Loss, dual_of
from onelayer.training.sums import TINY, UNIT, Sums, gamma, row_error
from onelayer.words import counted

BLOCK = 2**20  # features in a block of rows: few enough for a cache, and enough to make Python's own time small


@dataclass(frozen=True)
class Certificate:
    """The cost of a layer, and a proven bound on how far it is above the lowest cost possible.

    Parameters
    ----------
    cost : float
        J, in nats, with a bound on the rounding errors added: never below the true cost.
    bound : float
        No layer has a lower cost; with an `l2` of 0, no layer whose weights have a norm of at most `radius`.
    loss : float
        Mean loss of the rows, in nats, without the penalty.
    l2 : float
        lambda.
    gradient : float
        Norm of dJ/dW, over the classes that have rows.
    radius : float
        Norm of the weights W.
    separable : bool
        True if `l2` is 0 and the layer is right on every row, among the classes that have rows: larger weights and
        biases lower the cost towards 0 without end.
    rows : str
        The rows of the cost, in words.
    problem : str
        A mark of the rows, their weights and standardisation, the loss and lambda. Two certificates of rows in the same
        order have the same mark only if the bound of each holds for the layer of the other, too.
    """

    cost: float
    bound: float
    loss: float
    l2: float
    gradient: float
    radius: float
    separable: bool
    rows: str
    problem: str

    @property
    def gap(self) -> float:
        """The cost less the bound: the cost is at most this far above the lowest."""
        return math.nextafter(self.cost - self.bound, math.inf)

    @property
    def relative_gap(self) -> float:
        """The gap as a fraction of the bound; infinite if the bound is 0."""
        return self.gap / self.bound if self.bound else math.inf

    def bounded_by(self, other: "Certificate") -> "Certificate":
        """Return the certificate of this layer with the bound of another layer, if that is higher.

        A bound holds for every layer of the same problem. That of a layer near the optimum says the most.

        Raises
        ------
        ConfigError
            If the other certificate is of other rows, in whatever way, or of another cost.
        """
        if self.problem != other.problem or not self.l2:
            raise ConfigError(
                f"a bound for {other.rows} at lambda {other.l2:g} says nothing of {self.rows} at lambda {self.l2:g}; "
                "pass two certificates for the same rows, standardisation, loss and lambda above 0"
            )
        return replace(self, bound=max(self.bound, other.bound))

    def sentence(self) -> str:
        """Return cost and gap in words: the cost is rounded to nearest, the gap up, the norm of the weights down."""
        cost, gap = f"cost {_rounded(self.cost, ROUND_HALF_EVEN)}", _rounded(self.gap, ROUND_CEILING)
        if self.l2:
            return f"{cost}, at most {gap} above the best possible for lambda {self.l2:.15g}"
        if self.separable:
            return f"{cost}; the classes are separable: there is no optimum"
        radius = _rounded(self.radius, ROUND_FLOOR)
        if self.bound <= 0:
            return f"{cost}; nothing is proven about layers with ||W|| <= {radius}"
        return f"{cost}; no layer with ||W|| <= {radius} is better by more than {gap}"


def certificate_of(sums: Sums, layer: SoftmaxLayer, classes: np.ndarray, l2: float, rows: str) -> Certificate:
    """Return the certificate of the layer of these sums.

    Parameters
    ----------
    sums : Sums
        Over all rows, as products with standardised rows.
    layer : SoftmaxLayer
        In float64.
    classes : ndarray (C,), int64
        The classes of the sums.
    l2 : float
        lambda.
    rows : str
        The rows in words.

    Raises
    ------
    ConfigError
        If the cost is not a finite number.
    """
    W, b, w = layer.weights, float(np.abs(layer.bias).max()), sums.weight
    d, K = W.shape
    of_classes = (W * W).sum(axis=0)  # (K,), squared norms
    squared, largest = float(of_classes.sum()), math.sqrt(of_classes.max()) * (1 + gamma(d + 4))
    radius = math.sqrt(squared)
    # A score differs by at most gamma (||x|| ||w_k|| + |b_k|), and a loss by at most twice the largest of these.
    of_longest, of_mean = (2 * gamma(d + 8) * (x * largest + b) for x in (sums.longest, sums.reach))
    loss = sums.loss / w
    cost = loss * (1 + sums.error) + row_error(K) * (1 + loss) + of_mean + l2 * squared * (1 + gamma(d + K + 4))
    cost *= 1 + 16 * UNIT
    if not math.isfinite(cost):
        raise ConfigError(f"the cost of this layer on {rows} is {cost}, so it has no certificate; train it again")
    separable = not l2 and sums.margin > of_longest and max(K, len(sums.answers)) > 1
    return Certificate(
        cost=cost,
        bound=0.0 if separable else lowest_cost(sums, l2, radius),
        loss=loss,
        l2=l2,
        gradient=float(np.linalg.norm(sums.product / (w * sums.questions) + 2 * l2 * W[:, classes])),
        radius=radius,
        separable=separable,
        rows=rows,
        problem=_mark(sums, layer.loss, l2),
    )


def lowest_cost(sums: Sums, l2: float, radius: float) -> float:
    """Return a number that no layer's cost is below; for an `l2` of 0, no layer's whose weights have at most this norm.

    It is D of the P of the sums, repaired, and rounded downwards.
    """
    d, C = sums.product.shape
    w, Q, error, rows = sums.weight, sums.questions, sums.error, row_error(C)
    # P' = keep P + theta 1 q^T has the means pi if theta q = pi - keep p, which is not negative as keep <= pi / p. The
    # entropy is concave, so that the mean of P' is at least keep H + theta H(q).
    p, pi = sums.answers / w, sums.truth / w  # (C, 1) or (2, K): answers by questions
    with np.errstate(over="ignore"):
        keep = np.minimum(1, (pi * (1 - error) / (p * (1 + error) + TINY)).min(axis=0)) * (1 - 8 * UNIT)  # (Q,)
    theta = 1 - keep
    mixed, off = pi - keep * p, 2 * error * (p + pi)  # theta q, and its error
    # theta H(q) is a sum of concave functions of theta q: each is least at an end of the interval.
    of_mixed = np.minimum(*(_times_log(np.clip(end, 0, theta), theta) for end in (mixed - off, mixed + off)))
    H = sums.entropy / w  # (Q,)
    H = keep * np.maximum(0, H * (1 - error) - rows * (1 + H)) + of_mixed.sum(axis=0) * (1 - 2 * rows) - rows * theta
    H = np.maximum(0, H) / Q * (1 - 8 * UNIT)

    A, labelled = (array.reshape(d, -1, Q) / w for array in (sums.product, sums.labelled))  # (d, C / Q, Q)
    mean = sums.labelled.sum(axis=1) / w  # (d,), as each row has one label
    A = keep * A + mean[:, None, None] * mixed[: C // Q] - theta * labelled
    norms = np.sqrt((A * A).sum(axis=0).sum(axis=0)) * (1 + gamma(d + C + 8))  # (Q,)
    norms = (norms + 12 * error * sums.reach + TINY) / Q * (1 + 4 * UNIT)
    slack = gamma(Q + 16) * float(H.sum())  # of the last lines, none of whose terms is above H
    if not l2:  # A . W >= -||A|| ||W||
        return max(0.0, float(H.sum()) - radius * float(np.linalg.norm(norms)) * (1 + gamma(Q + 8)) - slack)
    with np.errstate(over="ignore"):
        descent = (norms**2 + TINY) / (4 * l2) * (1 + 8 * UNIT)
    # t P' + (1 - t) Y has these means too, with t A and at least the entropy t H: the best t is H / (2 descent), or 1.
    return max(0.0, float(np.where(2 * descent <= H, H - descent, H * (H / (4 * descent))).sum()) - slack)


def _mark(sums: Sums, loss: Loss, l2: float) -> str:
    """Return the mark of a problem, of sums that do not depend on the layer."""
    digest = hashlib.blake2b(repr((loss.name, l2, sums.weight, sums.squares)).encode(), digest_size=8)
    for array in (sums.truth, sums.labelled):
        digest.update(array.tobytes())
    return digest.hexdigest()


def certify(
    layer: SoftmaxLayer,
    standardizer: Standardizer,
    split: Split,
    l2: float,
    flip: bool = False,
    progress: Progress | None = None,
    rows: str = "",
) -> Certificate:
    """Return the certificate of a layer on the rows of a split, in one pass over them in float64.

    Parameters
    ----------
    layer : SoftmaxLayer
        With weights for standardised rows, in any floating-point type.
    standardizer : Standardizer
    split : Split
        Rows of features. They count by their weights, of which at least one is above 0.
    l2 : float
        lambda, at least 0.
    flip : bool
        Take the images and their mirror images.
    progress : callable, optional
        Called with the number of windows of rows that are done and their total.
    rows : str
        The rows in words; by default those of `rows_in_words`.

    Raises
    ------
    ConfigError
        If no bound is known for the loss, no row has weight, the rows to mirror are not images, or the cost is not a
        finite number.
    """
    dual_of(layer.loss)  # refuses a loss without one, before a row is read
    if split.weight == 0:
        raise ConfigError(f"{split.dataset.name} has no {split.name} rows of a weight above 0; certify on other rows")
    if flip and split.dataset.image_shape is None:
        raise ConfigError(f"mirror images need images, but the rows of {split.dataset.name} are not images")
    exact = standardizer.for_training.to(lambda array: array.astype(np.float64))
    in_float64 = SoftmaxLayer(layer.weights.astype(np.float64), layer.bias.astype(np.float64), layer.loss)
    K = layer.weights.shape[1]
    totals = np.bincount(split.labels, split.row_weights(slice(None)), K)
    classes = np.flatnonzero(totals > 0) if layer.loss.exclusive else np.arange(K)
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # `certificate` looks for what is not finite
        total = reduce(add, _sums(in_float64, exact, split.mine, classes, flip, progress))
        total = total.over(split.dataset.processes)
        first = split.rows(slice(0, 1))
        shares = total.answers.ravel()[: len(classes)], total.truth.ravel()[: len(classes)]
        product = exact.unfold_gradient(total.product, shares[0] - shares[1], first)
        total = replace(total, product=product, labelled=exact.unfold_gradient(total.labelled, shares[1], first))
        return certificate_of(total, in_float64, classes, float(l2), rows or rows_in_words(split, flip))


def rows_in_words(split: Split, flip: bool, *, by_class: bool = False) -> str:
    """Return the rows of a certificate in words.

    Parameters
    ----------
    split : Split
        Rows that have no weights except their own.
    flip : bool
        The mirror images of the rows count, too.
    by_class : bool
        The rows have the weights of their classes, too.
    """
    weighted = "weighted " if split.dataset.row_weights is not None else ""
    views = split.dataset.views
    rows = counted(len(split) // views, f"{weighted}{'training' if split.name == 'train' else split.name} row")
    rows = f"{rows} of {split.dataset.name}" + f", each of {views} views by itself, which scores average" * (views > 1)
    return rows + " and their mirror images" * flip + ", weighted by class" * by_class


def _sums(
    layer: SoftmaxLayer,
    standardizer: Standardizer,
    split: Split,
    classes: np.ndarray,
    flip: bool,
    progress: Progress | None,
) -> Iterator[Sums]:
    """Yield the sums over the windows of a split."""
    first = split.rows(slice(0, 1))
    folded = standardizer.input_layer(layer, first)
    # Pixels are multiplied as they are, 0 to 255, and the mean is subtracted from the products.
    length = None
    if first.dtype == np.uint8:
        length = float(np.linalg.norm((255 + np.abs(standardizer.mean)) / standardizer.scale))
        length *= 1 + gamma(len(standardizer.mean) + 8)
    if not len(split):  # the rows of this process, if others have them all
        none = np.zeros(0, np.int64)
        yield Sums.of(folded, np.zeros((0, len(layer.weights))), none, None, classes, length)
        return
    windows = forward_windows(split)
    tick = counter(progress, len(windows))
    for window in loaded(split, windows):
        blocks = _blocks(window, layer, standardizer, flip)
        yield reduce(add, (Sums.of(folded, X, y, w, classes, length) for X, y, w in blocks))
        tick()


def _blocks(
    split: Split, layer: SoftmaxLayer, standardizer: Standardizer, flip: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield the inputs (k, d), labels (k,) and weights (k,) of blocks of rows, and of their mirror images."""
    d, K = layer.weights.shape
    # More rows for many classes, as the products of the blocks are added up.
    size = int(np.clip(max(BLOCK // d, min(K, 2**22 // d)), 16, 2048))
    for places in split.blocks(size):
        R, y, w = split.rows(places), split.labels[places], split.row_weights(places)
        yield standardizer.inputs(R), y, w
        if flip and (shape := split.dataset.image_shape):
            yield standardizer.inputs(R.reshape(-1, *shape)[:, :, :, ::-1].reshape(R.shape)), y, w


def _times_log(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return x log(theta / x), 0 where x is."""
    return x * np.log(theta / np.where(x > TINY, x, theta))


def _rounded(value: float, rounding: str) -> str:
    """Return a number in words: with four decimals, if that leaves it two digits, else with two or three digits."""
    number = Decimal(value)
    plain = 1e-3 <= value < 1e6
    number = number.quantize(Decimal(1).scaleb(-4 if plain else number.adjusted() - 1), rounding)
    return f"{number:f}" if 1e-4 <= value < 1e6 or not value else f"{number:e}"
