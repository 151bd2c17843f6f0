"""The check of the hand-written gradients: each element is compared with independent oracles.

The relative error of an element ga against an oracle's gn is::

    |ga - gn| / max(eps, |ga| + |gn|)

as in the CS231n notes on gradient checks (https://cs231n.github.io/neural-networks-3/#gradcheck). The oracles are

- **PyTorch**: its own form of the loss, differentiated by its autograd; skipped where PyTorch is not installed or has
  no such loss.
- **complex step**: the derivative of an analytic f at x is Im f(x + ih) / h. No difference is taken, hence nothing
  cancels, h can be 1e-30, and the result is exact except for rounding (Squire and Trapp, "Using complex variables to
  estimate derivatives of real functions", SIAM Review 40, 1998). It differentiates the cost of `SoftmaxLayer`.
- **central differences**: (f(x + h) - f(x - h)) / 2h of the cost that the checked function itself returns. They are
  exact to about 1e-8 only, but they tell a wrong gradient from the right gradient of another cost.

The last two evaluate the cost again for each element. They check a sample of a large gradient, drawn with the seed:
some elements of dW and some of db.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onelayer.data.dataset import Dataset
from onelayer.data.progress import Progress, counter
from onelayer.drawing import html_table
from onelayer.errors import ConfigError
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import LOSSES, Array, Loss
from onelayer.words import counted

Function = Callable[[Array, Array, Array, Array, float], tuple[Any, Array, Array]]

# A right gradient is off by rounding alone, but an element whose terms nearly cancel is off by the rounding of the
# terms. The residual of a row moves by at most the loss's curvature times what its logits are off by. So eps is a
# quarter of an element of the gradient if every residual is twice the curvature (1 for softmax), or of the largest
# element, whichever is more. The worst of softmax and sigmoids against PyTorch is then 9.8e-16 at n = 3, d = 10, K = 10
# (1000 seeds, ordinary logits) and 4.7e-15 at n = 1, d = 3072 (400 seeds): hence sqrt(n d). A logit of 1e4 is itself
# rounded by 1e-12, and P moves by as much (3.7e-13 measured at the small size): hence the tolerance grows with it.
# Central differences are off by up to 1.2e-9, at large logits 1.8e-7; each mistake in the tests is off by over 1e-2.
_EPS = 0.25
_EXACT = 1e-14
_DIFFERENCES = 1e-6
ALL_ELEMENTS, SAMPLED_ELEMENTS = 2000, 200  # larger gradients are checked in a sample


@dataclass(frozen=True)
class GradientComparison:
    """The worst element of the cost or of a gradient, against one oracle at one point."""

    loss: str
    l2: float
    point: str  # ordinary or large: the size of the logits
    oracle: str
    parameter: str  # cost, dW or db
    index: tuple[int, ...]
    value: float
    expected: float
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if the relative error is within the tolerance."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        place = str(list(self.index)) if self.index else ""
        verdict = f"relative error {self.error:.1e}, {'within' if self.passed else 'over'} {self.tolerance:.0e}"
        if not np.isfinite([self.value, self.expected]).all():
            verdict = "not a finite number, does an exponential overflow or a logarithm see 0?"
        return (
            f"{self.parameter}{place} is {self.value:.6g}, according to {self.oracle} {self.expected:.6g}: {verdict} "
            f"({self.loss}, l2 {self.l2:g}, {self.point} logits)"
        )


COLUMNS = ("l2", "logits", "dW", "db", "at most", "")


@dataclass(frozen=True, repr=False)
class GradientReport:
    """The result of a check; it shows itself as a table of the largest relative errors.

    Parameters
    ----------
    comparisons : tuple of GradientComparison
        One for each parameter, oracle, point and penalty.
    skipped : dict of str to str
        The oracles that were skipped, each with the reason.
    sample : str
        How many elements were checked where these are not all; else empty.
    """

    comparisons: tuple[GradientComparison, ...]
    skipped: dict[str, str]
    sample: str = ""

    @property
    def gradients(self) -> list[tuple[GradientComparison, GradientComparison]]:
        """The comparisons of dW and db at each point, in pairs."""
        gradients = [c for c in self.comparisons if c.parameter != "cost"]
        return list(zip(gradients[::2], gradients[1::2], strict=True))

    @property
    def passed(self) -> bool:
        """True if something was compared and all of it agrees."""
        return bool(self.comparisons) and all(c.passed for c in self.comparisons)

    @property
    def agreement(self) -> str:
        """First what agrees, then what does not, in one line."""
        if not self.comparisons:
            return self.message
        whole = f"{sum(c.passed for c in self.comparisons)} of {counted(len(self.comparisons), 'comparison')}"
        failed = "" if self.passed else f"; wrong: {self.message}"
        ordinary = [c for c in self.comparisons if c.point == "ordinary"]
        no_penalty = [c for c in ordinary if c.l2 == 0]
        scopes = {"": self.comparisons, " at ordinary logits": ordinary, " at ordinary logits and l2 0": no_penalty}
        for scope, comparisons in scopes.items():
            if right := sorted({c.parameter for c in comparisons} - {c.parameter for c in comparisons if not c.passed}):
                agree = " and ".join([", ".join(right[:-1]), right[-1]] if right[1:] else right)
                return f"{agree} agree{'' if right[1:] else 's'} with every oracle{scope} ({whole}){failed}"
        return f"nothing agrees with every oracle ({whole}){failed}"

    def in_words(self) -> list[list[str]]:
        """Return the oracle and the `COLUMNS` of each point."""
        return [
            [dW.oracle, f"{dW.l2:g}", dW.point, f"{dW.error:.1e}", f"{db.error:.1e}", f"{dW.tolerance:.0e}", verdict]
            for dW, db in self.gradients
            for verdict in ["right" if dW.passed and db.passed else "wrong"]
        ]

    def __repr__(self) -> str:
        table = [["", *COLUMNS], *self.in_words()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join([self._caption, *map(str.rstrip, lines)])

    def _repr_html_(self) -> str:
        return html_table(self._caption, COLUMNS, self.in_words())

    @property
    def _caption(self) -> str:
        return "; ".join([self.agreement, *self.skipped.values()] if self.comparisons else [self.agreement])

    @property
    def message(self) -> str:
        """The first comparison that failed, or else the one that came closest to failing, in one line.

        A failure at large logits is named beside one at ordinary logits if it has a cause of its own: an overflow does
        not hide a wrong gradient, nor the other way round.
        """
        if not self.comparisons:
            return "; ".join(["nothing was compared", *self.skipped.values()])
        failed = [c for c in self.comparisons if not c.passed]
        ordinary = [c for c in failed if c.point == "ordinary"]
        known = {(c.l2, c.oracle, c.parameter) for c in ordinary}
        large = [c for c in failed if c.point == "large" and (c.l2, c.oracle, c.parameter) not in known]
        shown = [*ordinary[:1], *large[:1]] or [max(self.comparisons, key=lambda c: c.error / c.tolerance)]
        return "; ".join([*map(str, shown), *filter(None, [self.sample])])


@dataclass(frozen=True, eq=False)
class _Point:
    """A function to check, and the point at which it is compared."""

    name: str
    loss: Loss
    l2: float
    X: Array
    y: Array
    W: Array
    b: Array
    function: Function
    places: Array  # the elements of `parameters` that are checked by oracles that take them one after the other

    @property
    def largest_logit(self) -> float:
        return max(1.0, float(np.abs(self.X @ self.W + self.b).max()))

    def parameters(self) -> Array:
        """Return W and b as one vector, a new one at each call."""
        return np.concatenate([self.W.ravel(), self.b])

    def split(self, theta: Array) -> tuple[Array, Array]:
        """Return W (d, K) and b (K,) of a vector as `parameters` makes it, not copied."""
        return theta[: self.W.size].reshape(self.W.shape), theta[self.W.size :]


def check_gradients(
    X: Array,
    y: Array,
    *,
    n_classes: int | None = None,
    function: Function | None = None,
    loss: str = "softmax",
    l2: Sequence[float] = (0.0, 0.1),
    oracles: Sequence[str] | None = None,
    layout: Literal["rows", "columns"] = "rows",
    seed: int = 42,
    progress: Progress | None = None,
) -> GradientReport:
    """Compare hand-written gradients of the cost with independent oracles.

    Each `l2` is checked at two points: with logits of order 1, and with a largest logit of 1e4, at which a softmax
    overflows unless it subtracts the row's maximum. All oracles except PyTorch check 200 random elements of a gradient
    that has more than 2,000.

    Parameters
    ----------
    X : array (n, d)
        Standardised rows; with the layout of columns (d, n).
    y : array (n,)
        Labels 0..K-1; with the layout of columns they may be one-hot, (K, n).
    n_classes : int, optional
        K; by default the largest label plus one, or that of one-hot labels.
    function : callable, optional
        The function to check, ``function(W, b, X, y, l2) -> (cost, dW, db)`` with W and dW (d, K), b and db (K,). By
        default it computes the cost and the gradients of `SoftmaxLayer`. With the layout of columns, it is
        ``function(W, b, X, Y, l2)`` with W and dW (K, d), b and db (K, 1), X (d, n) and one-hot Y (K, n).
    loss : str
        The loss that `function` computes: "softmax", "sigmoid" or another name in `onelayer.losses.LOSSES`.
    l2 : sequence of float
        Weights of the penalty, checked one after the other.
    oracles : sequence of str, optional
        Names from `ORACLES`; by default all of them.
    layout : "rows" or "columns"
        Whether a sample is a row, as everywhere in onelayer, or a column, as in KTH's course DD2424.
    seed : int
        Seed for the random weights, biases and sample of elements.
    progress : callable, optional
        Called as ``progress(done, total)`` after each element of a gradient that the oracles compute one by one.

    Raises
    ------
    ConfigError
        If an argument is wrong, or `function` does not return a cost and two gradients of the right shapes.
    """
    if layout not in ("rows", "columns"):
        raise ConfigError(f"layout {layout!r} is not known: choose from rows, columns")
    X, y = np.asarray(X, np.float64), np.asarray(y)
    if layout == "columns":
        X, y, n_classes = _of_columns(X, y, n_classes)
    K = _checked_classes(X, y, n_classes)
    names, skipped = _chosen_oracles(loss, oracles)
    one_by_one = [name for name in names if name != "PyTorch"]
    places, elements = _places(X.shape[1], K, seed), (X.shape[1] + 1) * K
    sample = f"{' and '.join(one_by_one)}: {len(places):,} of {elements:,} elements, drawn with seed {seed}"
    tick = counter(progress, len(l2) * 2 * len(places) * len(one_by_one))
    if function and layout == "columns":
        function = _on_columns(function)
    function = function or _layer_function(LOSSES[loss])
    comparisons = []
    for penalty, (name, W, b) in itertools.product(l2, _weights(X, y, K, seed)):
        point = _Point(name, LOSSES[loss], penalty, X, y.astype(np.int64), W, b, function, places)
        comparisons += _compare_at(point, names, tick)
    sampled = bool(one_by_one) and len(places) < elements
    if layout == "columns":
        comparisons = [replace(c, index=(*c.index[::-1], 0)[:2] if c.index else ()) for c in comparisons]
    return GradientReport(tuple(comparisons), skipped, sample if sampled else "")


def _checked_classes(X: Array, y: Array, n_classes: int | None) -> int:
    """Return the number of classes K; refuse rows X (n, d) and labels y (n,) that cannot be checked."""
    if X.ndim != 2 or X.size == 0 or not np.isfinite(X).all():
        raise ConfigError(f"X must be rows (n, d) of finite numbers, at least one, not an array {X.shape}")
    if y.shape != X.shape[:1] or y.dtype.kind not in "iu":
        hint = ""
        if y.ndim and y.shape[-1] == X.shape[1]:
            hint = '; if each column of X is a sample, pass layout="columns"'
        elif y.ndim == 2 and len(y) == len(X):
            hint = "; pass labels: y.argmax(axis=1)"
        raise ConfigError(f"y must be {len(X)} integers, a label for each row of X, not {y.dtype} {y.shape}{hint}")
    K = int(y.max()) + 1 if n_classes is None else n_classes
    if y.min() < 0 or y.max() >= K:
        raise ConfigError(f"labels must lie in 0..{K - 1}, these go from {y.min()} to {y.max()}")
    return K


def _of_columns(X: Array, y: Array, n_classes: int | None) -> tuple[Array, Array, int | None]:
    """Return the columns X (d, n) as rows (n, d), and labels or one-hot labels (K, n) as labels, and K if it is known.

    Raises
    ------
    ConfigError
        If the labels are not those of the columns.
    """
    if X.ndim != 2 or y.ndim not in (1, 2) or y.shape[-1] != X.shape[1]:
        hint = "; if each row of X is a sample, leave layout out" if y.ndim and len(y) == len(X) else ""
        raise ConfigError(f"X must be (d, n) and Y one-hot (K, n) or labels (n,), not {X.shape} and {y.shape}{hint}")
    if y.ndim == 1:
        return X.T, y, n_classes
    if not (((y == 0) | (y == 1)).all() and (y.sum(axis=0) == 1).all()):
        raise ConfigError("Y (K, n) must be one-hot: a single 1 in each column, and 0 elsewhere")
    if n_classes not in (None, len(y)):
        raise ConfigError(f"Y has a row for each of {len(y)} classes, but n_classes is {n_classes}; leave it out")
    return X.T, y.argmax(axis=0), len(y)


def _on_columns(function: Function) -> Function:
    """Return a function of rows that calls one of columns."""

    def of_rows(W: Array, b: Array, X: Array, y: Array, l2: float) -> tuple[Any, Array, Array]:
        Y = np.eye(b.size)[:, y]  # (K, n)
        W, b, X = np.ascontiguousarray(W.T), b[:, np.newaxis], np.ascontiguousarray(X.T)
        cost, dW, db = _checked_result(function(W, b, X, Y, l2), W.shape, b.shape)
        return cost, dW.T, db[:, 0]

    return of_rows


def _chosen_oracles(loss: str, oracles: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Return the names of the oracles to compare with, and those that are skipped, each with the reason."""
    names = list(ORACLES) if oracles is None else list(oracles)
    for name, known in [(loss, list(LOSSES)), *((name, list(ORACLES)) for name in names)]:
        if name not in known:
            raise ConfigError(f"{name!r} is not known: choose from {', '.join(known)}")
    skipped = {}
    if "PyTorch" in names and LOSSES[loss].pytorch is None:
        skipped["PyTorch"] = f"PyTorch is not compared: the loss {loss} has no PyTorch reference"
    elif "PyTorch" in names and not _has_torch():
        skipped["PyTorch"] = "PyTorch is not installed; with it (pip install torch) its autograd is compared too"
    return [name for name in names if name not in skipped], skipped


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def sample_rows(dataset: Dataset, n: int, d: int, K: int) -> tuple[Array, Array]:
    """Return rows of a data set to check gradients on: the first n of the first K classes, d features, standardised.

    Returns
    -------
    X : ndarray (n, d), float64
        Features evenly spaced over the row, standardised with the mean and deviation of all rows.
    y : ndarray (n,), int64

    Raises
    ------
    ConfigError
        If the data set has fewer rows, features or classes, or a size is below 1 (below 2 for K).
    """
    rows, labels = dataset.rows, dataset.labels
    chosen = np.flatnonzero(labels < K)[: max(n, 0)]
    if n < 1 or d < 1 or not 2 <= K <= len(dataset.class_names) or len(chosen) < n or d > rows.shape[1]:
        raise ConfigError(
            f"cannot take {n} rows of {d} features in {K} classes from {dataset.name}, which has {len(rows)} rows of "
            f"{rows.shape[1]} in {len(dataset.class_names)} classes; at least 1 row, 1 feature and 2 classes are needed"
        )
    columns = np.linspace(0, rows.shape[1] - 1, d).astype(int)
    standardizer = Standardizer.fit(block[:, columns] for block in dataset.everything.row_blocks(BLOCK_ROWS))
    return standardizer.transform(rows[chosen[:, np.newaxis], columns]), labels[chosen]


def _weights(X: Array, y: Array, K: int, seed: int) -> list[tuple[str, Array, Array]]:
    """Return the name, W (d, K) and b (K,) of both points."""
    rng = np.random.default_rng(seed)
    length = np.sqrt(np.mean(np.sum(X * X, axis=1))) or 1.0  # of a row
    W, b = rng.standard_normal((X.shape[1], K)) / length, rng.standard_normal(K)
    S = X @ W + b  # (n, K)
    scale = 1e4 / np.abs(S).max()
    if (likeliest(S) == y).all():
        scale = -scale  # a row that is right with such certainty has no gradient; now all are wrong
    return [("ordinary", W, b), ("large", scale * W, scale * b)]


def _places(d: int, K: int, seed: int) -> Array:
    """Return the elements of W and b, as one vector, that are checked one after the other: all, or a sample of both."""
    elements = (d + 1) * K
    if elements <= ALL_ELEMENTS:
        return np.arange(elements)
    rng = np.random.default_rng((seed, elements))  # other numbers than those of the weights
    biases = min(K, SAMPLED_ELEMENTS // 2)
    of_weights = rng.choice(d * K, min(d * K, SAMPLED_ELEMENTS - biases), replace=False)
    return np.concatenate([np.sort(of_weights), d * K + np.sort(rng.choice(K, biases, replace=False))])


def _compare_at(point: _Point, oracles: Sequence[str], tick: Callable[[], None]) -> list[GradientComparison]:
    with np.errstate(all="ignore"):  # an overflow is found in the numbers
        result = _call(point, point.parameters())
        return [c for oracle in oracles for c in _compare(point, oracle, result, ORACLES[oracle](point, tick))]


def _compare(
    point: _Point, oracle: str, result: Sequence[Array], expected: Sequence[Array]
) -> list[GradientComparison]:
    n, d = point.X.shape
    logit = point.largest_logit
    uncertain = 2 * point.loss.curvature(point.b.size) * max(1.0, np.abs(point.X).mean(axis=0).max())
    eps = _EPS * max(uncertain, *(np.abs(g).max() for g in expected[1:]))
    tolerance = _EXACT * max(1.0, np.sqrt(n * d / 30)) * max(1.0, logit / 10)
    checked = np.full(point.W.size + point.b.size, oracle == "PyTorch")
    checked[point.places] = True
    masks = (np.True_, *point.split(checked))
    floors = (_EPS * logit, eps, eps)
    comparisons = []
    for parameter, ga, gn, floor, mask in zip(("cost", "dW", "db"), result, expected, floors, masks, strict=True):
        if oracle == "central differences":
            tolerance = _DIFFERENCES
        error = np.abs(ga - gn) / np.maximum(floor, np.abs(ga) + np.abs(gn))
        error = np.where(mask, np.where(np.isfinite(error), error, np.inf), -1)
        place = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
        value, expected_value, worst = (float(array[place]) for array in (ga, gn, error))
        case = (point.loss.name, point.l2, point.name, oracle, parameter, place)
        comparisons.append(GradientComparison(*case, value, expected_value, worst, float(tolerance)))
    return comparisons[1:] if oracle == "central differences" else comparisons  # the cost is the function's own


def _layer_function(loss: Loss) -> Function:
    def function(W: Array, b: Array, X: Array, y: Array, l2: float) -> tuple[Any, Array, Array]:
        layer = SoftmaxLayer(W, b, loss)
        return layer.cost(X, y, l2), *layer.gradients(X, y, l2)

    return function


def _call(point: _Point, theta: Array) -> tuple[Array, Array, Array]:
    """Return the function's cost (), dW (d, K) and db (K,)."""
    # Copies, as the function may write to its arguments, or return the same memory each time.
    result = point.function(*point.split(theta.copy()), point.X.copy(), point.y.copy(), point.l2)
    return _checked_result(result, point.W.shape, point.b.shape)


def _checked_result(result: Any, of_weights: tuple[int, ...], of_bias: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Return what a function returned, a cost () and two gradients of these shapes, as arrays."""
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise ConfigError("the function must return three things: cost, dW, db")
    cost, dW, db = (np.array(value, np.float64) for value in result)
    for name, value, shape in ("cost", cost, ()), ("dW", dW, of_weights), ("db", db, of_bias):
        if value.shape != shape:
            hint = f"; transpose it: {name}.T" if value.shape == shape[::-1] else ""
            if len(shape) == 2 and value.shape == shape[:1]:
                hint = f"; make it a column: {name}[:, np.newaxis], or sum with keepdims=True"
            raise ConfigError(f"{name} must have shape {shape}, the function returned {value.shape}{hint}")
    return cost, dW, db


def _autograd(point: _Point, tick: Callable[[], None]) -> tuple[Array, Array, Array]:
    import torch
    from torch.nn import functional

    X, y = torch.tensor(point.X), torch.tensor(point.y)
    W, b = torch.tensor(point.W, requires_grad=True), torch.tensor(point.b, requires_grad=True)
    S = X @ W + b
    mean_loss: Any = point.loss.pytorch  # not None, or PyTorch would be skipped
    cost = mean_loss(functional, S, y) + point.l2 * torch.sum(W**2)
    dW, db = torch.autograd.grad(cost, (W, b))
    return cost.detach().numpy(), dW.numpy(), db.numpy()


def _complex_step(point: _Point, tick: Callable[[], None]) -> tuple[Array, Array, Array]:
    X, theta, h = point.X.astype(complex), point.parameters().astype(complex), 1e-30
    gradient = np.zeros(theta.size)
    for i in point.places:
        theta[i] += 1j * h
        cost = SoftmaxLayer(*point.split(theta), point.loss).cost(X, point.y, point.l2)
        gradient[i] = cost.imag / h
        theta[i] = theta[i].real
        tick()
    return np.asarray(cost.real), *point.split(gradient)


def _central_differences(point: _Point, tick: Callable[[], None]) -> tuple[Array, Array, Array]:
    cost, *_ = _call(point, point.parameters())
    # The error of rounding, u max(J, |S|) / h, is as large as the terms that the formula neglects, of order h^2.
    h = np.cbrt(np.finfo(float).eps * max(point.largest_logit, abs(cost) if np.isfinite(cost) else 1.0))
    gradient = np.zeros(point.W.size + point.b.size)
    for i in point.places:
        above, below = point.parameters(), point.parameters()
        above[i] += h
        below[i] -= h
        step = above[i] - below[i]  # as rounded
        gradient[i] = (_call(point, above)[0] - _call(point, below)[0]) / step
        tick()
    return cost, *point.split(gradient)


ORACLES: dict[str, Callable[[_Point, Callable[[], None]], tuple[Array, Array, Array]]] = {
    "PyTorch": _autograd,
    "complex step": _complex_step,
    "central differences": _central_differences,
}
