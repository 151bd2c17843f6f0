"""The certificate against the true optimum, which Newton's method finds, and against arithmetic of 50 digits."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from helpers import toy_dataset, toy_splits
from optimum import Convex, layers_for, problem_of, random_problem

from onelayer.data.dataset import Split
from onelayer.errors import ConfigError
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES, SoftmaxCrossEntropy
from onelayer.training import certificate, sums
from onelayer.training.certificate import Certificate, certify
from onelayer.training.sums import Sums

BOTH = pytest.mark.parametrize("loss", list(LOSSES))


def certificate_of(problem: Convex, layer: tuple[np.ndarray, np.ndarray], l2: float | None = None) -> Certificate:
    l2 = problem.l2 if l2 is None else l2
    return certify(problem.layer(*layer), problem.standardizer, problem.split, l2)


def zeros(problem: Convex) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((problem.X.shape[1], problem.K)), np.zeros(problem.K)


def small_problem(
    seed: int, loss: str, n: int = 12, d: int = 2, l2: float = 0.01, pixels: bool = False, some: int | None = None
) -> Convex:
    """Three classes that overlap; with `pixels`, these are 200 give or take a few, which takes digits off products."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    rows = rng.normal(0, 1, (n, d)) + rng.normal(0, 0.7, (3, d))[y]
    rows = np.rint(200 + 1.5 * rows).astype(np.uint8) if pixels else rows
    return problem_of(rows, y, 3, loss, l2, rng.uniform(0.5, 2, n) if seed % 2 else None, some)


# The true optimum


@pytest.mark.parametrize("seeds", [range(first, first + 50) for first in range(0, 300, 50)], ids=str)
def test_the_bound_is_never_above_the_true_optimum(seeds):
    tight, useful = 0, 0
    for seed in seeds:
        problem = random_problem(seed)
        best = problem.optimum(*zeros(problem))
        lowest = problem.cost(*best)
        for name, layer in layers_for(problem, np.random.default_rng(1000 + seed), best).items():
            found = certificate_of(problem, layer)
            assert 0 <= found.bound <= lowest, (seed, name)
            assert found.cost == pytest.approx(problem.cost(*layer), rel=1e-8, abs=1e-8), (seed, name)
            assert found.gap >= problem.cost(*layer) - lowest, (seed, name)
            tight += name == "best" and found.gap < 1e-6
            useful += name == "near" and found.gap < 1e-2
    assert tight == len(seeds)
    assert useful > len(seeds) / 2


def test_the_means_of_p_must_be_repaired():
    """D of a P whose means are not the shares of the classes can be above the optimum."""
    rng = np.random.default_rng(0)
    y = np.minimum(rng.integers(0, 12, 60), 2)  # most are of class 2
    problem = problem_of(rng.normal(0, 1, (60, 4)), y, 3, "softmax", 3.0)
    lowest = problem.cost(*problem.optimum(*zeros(problem)))
    A = problem.X.T @ ((1 / 3 - np.eye(3)[y]) * problem.w[:, None])
    unrepaired = np.log(3) - (A * A).sum() / (4 * problem.l2)  # of the layer of zeros
    assert 0 < certificate_of(problem, zeros(problem)).bound <= lowest < unrepaired


@BOTH
def test_the_bound_is_that_of_the_repaired_probabilities(loss):
    """The rows of P', written out for any layers, have the right means, and give the bound."""
    lines = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        problem = small_problem(seed, loss, n=30, d=3, l2=10.0 ** rng.uniform(-2, 0.5), some=6)
        assert np.abs(problem.w @ problem.X).max() > 0.05
        W, b = rng.normal(0, 0.3, (3, 3)), rng.normal(0, 0.3, 3)
        P, Y, w = problem.loss.probabilities(problem.X @ W + b), np.eye(3)[problem.y], problem.w
        questions = (
            [(P, Y)]
            if loss == "softmax"
            else [(np.c_[p, 1 - p], np.c_[y, 1 - y]) for p, y in zip(P.T, Y.T, strict=True)]
        )
        expected = 0.0
        for some, true in questions:
            p, pi = w @ some, w @ true
            rho = max((p - pi) / pi)
            theta = rho / (1 + rho)
            q = pi + (1 - theta) / theta * (pi - p)
            repaired = (1 - theta) * some + theta * q
            np.testing.assert_allclose(w @ repaired, pi, rtol=1e-12)
            assert min(q) > -1e-12
            h = (1 - theta) * -w @ (some * np.log(some)).sum(axis=1) - theta * q[q > 1e-12] @ np.log(q[q > 1e-12])
            A = problem.X.T @ ((repaired - true) * w[:, None]) / len(questions)
            A = A if len(questions) == 1 else A[:, :1]  # the score of the answer yes
            h, squared = h / len(questions), (A * A).sum() / (4 * problem.l2)
            expected += h - squared if 2 * squared <= h else h * h / (4 * squared)
            lines.add(2 * squared <= h)
        assert certificate_of(problem, (W, b)).bound == pytest.approx(expected, rel=1e-9, abs=1e-11)
    assert lines == {True, False}


@BOTH
@pytest.mark.parametrize("distance", [0, 1e-3, 0.02])
def test_the_gap_is_the_gradient_where_the_bias_is_solved_out(loss, distance):
    problem = small_problem(3, loss, n=40, d=4)
    W, b = problem.optimum(*zeros(problem))
    W = W + distance * np.random.default_rng(0).standard_normal(W.shape)
    _, b = problem.optimum(W, b, fixed=True)
    dW, db = problem.gradients(W, b)
    assert np.abs(db).max() < 1e-11
    found = certificate_of(problem, (W, b))
    assert found.gradient == pytest.approx(np.linalg.norm(dW), rel=1e-9, abs=1e-12)
    assert found.gap == pytest.approx((dW * dW).sum() / (4 * problem.l2), rel=1e-6, abs=1e-11)
    assert distance == 0 or found.gap > 1e-8
    assert found.cost - found.gap == pytest.approx(found.bound, rel=1e-14)
    assert found.relative_gap == found.gap / found.bound


# Rounding


def exactly(problem: Convex) -> tuple[list, list]:
    """Return the standardised rows and the weights, in 50 digits."""
    used = problem.standardizer.for_training
    rows, weights = problem.split.rows(slice(None)), problem.split.row_weights(slice(None))
    mean, scale = ([mpmath.mpf(float(v)) for v in of_features] for of_features in (used.mean, used.scale))
    X = [[(mpmath.mpf(float(r)) - m) / s for r, m, s in zip(row, mean, scale, strict=True)] for row in rows]
    w = [mpmath.mpf(1)] * len(rows) if weights is None else [mpmath.mpf(float(v)) for v in weights]
    return X, [v / mpmath.fsum(w) for v in w]


def exact_cost(problem: Convex, X: list, w: list, layer: list) -> tuple:
    """Return the cost, the gradient and the Hessian in the parameters, a list of (d + 1) K: W row by row, then b."""
    d, K = problem.X.shape[1], problem.K
    N = (d + 1) * K
    l2 = mpmath.mpf(problem.l2)
    cost = l2 * mpmath.fsum(v * v for v in layer[: d * K])
    g = mpmath.matrix([2 * l2 * v for v in layer[: d * K]] + [0] * K)
    H = mpmath.diag([2 * l2] * (d * K) + [mpmath.mpf(0)] * K)
    for x, y, v in zip(X, problem.y, w, strict=True):
        z = [*x, mpmath.mpf(1)]
        s = [mpmath.fsum(z[j] * layer[j * K + k] for j in range(d + 1)) for k in range(K)]
        if problem.loss.exclusive:
            e = [mpmath.exp(value) for value in s]
            p = [value / mpmath.fsum(e) for value in e]
            cost += v * (mpmath.log(mpmath.fsum(e)) - s[y])
            curvature = [[p[k] * ((k == m) - p[m]) for m in range(K)] for k in range(K)]
        else:
            p = [1 / (1 + mpmath.exp(-value)) for value in s]
            cost -= v * mpmath.fsum(mpmath.log(q if k == y else 1 - q) for k, q in enumerate(p)) / K
            curvature = [[p[k] * (1 - p[k]) * (k == m) / K for m in range(K)] for k in range(K)]
        share = 1 if problem.loss.exclusive else K
        for a in range(N):
            g[a] += v * z[a // K] * (p[a % K] - (a % K == y)) / share
            for c in range(N):
                H[a, c] += v * z[a // K] * z[c // K] * curvature[a % K][c % K]
    if problem.loss.exclusive:
        for a in range(d * K, N):
            for c in range(d * K, N):
                H[a, c] += 1
    return cost, g, H


def exact_optimum(problem: Convex, layer: tuple[np.ndarray, np.ndarray]) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Return the lowest cost, and the cost of a layer near it."""
    X, w = exactly(problem)
    v = [mpmath.mpf(float(value)) for value in np.vstack(layer).ravel()]
    cost, g, H = exact_cost(problem, X, w, v)
    at_layer = cost
    while mpmath.norm(g) > mpmath.mpf(10) ** -40:
        step = mpmath.lu_solve(H, g)
        v = [value - change for value, change in zip(v, step, strict=True)]
        cost, g, H = exact_cost(problem, X, w, v)
    return cost, at_layer


def test_cost_and_bound_are_rounded_outwards():
    """Layers within rounding of the optimum: 50 digits say what is true."""
    with mpmath.workdps(50):
        for seed in range(12):
            loss, l2 = ("softmax", "sigmoid")[seed % 2], 10.0 ** -(seed % 4)
            problem = small_problem(seed, loss, n=9, l2=l2, pixels=seed % 3 > 0)
            best = problem.optimum(*zeros(problem))
            lowest, cost = exact_optimum(problem, best)
            found = certificate_of(problem, best)
            assert 0 <= cost - lowest < 1e-19
            assert mpmath.mpf(found.bound) < lowest
            assert mpmath.mpf(found.cost) > cost
            assert mpmath.mpf(found.gap) > cost - lowest
            assert found.gap < 1e-9


def violations(seeds: range) -> int:
    """Count the certificates from sums in float32 whose cost or bound is wrong."""
    wrong = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        y, loss = rng.integers(0, 3, 40), LOSSES[("softmax", "sigmoid")[seed % 2]]
        X = (rng.normal(0, 1, (40, 2)) + rng.normal(0, 0.7, (3, 2))[y] + [30, 0]).astype(np.float32)
        w = rng.uniform(0.5, 2, 40).astype(np.float32)
        exact = Convex(None, None, loss, 10.0 ** -(seed % 4), X.astype(float), y, w / w.sum(dtype=float), 3)
        layer = exact.layer(*(a.astype(np.float32) for a in exact.optimum(*zeros(exact))))
        some = Sums.of(layer, X, y, w, np.arange(3))
        assert some.product.dtype == some.entropy.dtype == np.float32
        some = replace(some, **{k: v.astype(float) for k, v in vars(some).items() if isinstance(v, np.ndarray)})
        W, b = layer.weights.astype(float), layer.bias.astype(float)
        found = certificate.certificate_of(some, exact.layer(W, b), np.arange(3), exact.l2, "rows")
        wrong += found.bound > exact.cost(*exact.optimum(W, b)) or found.cost < exact.cost(W, b)
        assert found.gap < 0.02
    return wrong


def test_the_bounds_on_rounding_hold_in_float32(monkeypatch):
    """The same analysis with another unit: errors are large enough to be seen in float64."""
    for module in (certificate, sums):
        monkeypatch.setattr(module, "UNIT", 2.0**-24)
    assert violations(range(60)) == 0


def test_without_the_bounds_on_rounding_certificates_would_be_wrong(monkeypatch):
    for module in (certificate, sums):
        monkeypatch.setattr(module, "gamma", lambda k: 0.0)
        monkeypatch.setattr(module, "row_error", lambda K: 0.0)
    assert violations(range(60)) > 10


def test_errors_of_scores_count_in_the_cost(monkeypatch):
    """Features that cancel, in float32: the cost may come out too low by more than the roundings of the losses."""
    for module in (certificate, sums):
        monkeypatch.setattr(module, "UNIT", 2.0**-24)
    below = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, y = (rng.normal(0, 1, (5, 2)) + 1000).astype(np.float32), np.zeros(5, np.int64)
        W = (rng.normal(0, 1, (1, 3)) * [[1], [-1]]).astype(np.float32)
        layer = SoftmaxLayer(W, np.zeros(3, np.float32), LOSSES["softmax"])
        some = Sums.of(layer, X, y, np.ones(5, np.float32), np.arange(3))
        found = certificate.certificate_of(some, replace(layer, weights=W.astype(float)), np.arange(3), 0.1, "rows")
        loss = LOSSES["softmax"].of_rows(X.astype(float) @ W.astype(float), y).mean()
        assert found.cost >= loss + 0.1 * (W.astype(float) ** 2).sum()
        below += found.loss * (1 + some.error) + sums.row_error(3) * (1 + found.loss) < loss
    assert below > 0


@BOTH
@pytest.mark.parametrize("wrong", ["product", "entropy", "answers"])
def test_errors_of_sums_within_their_bounds_do_not_lift_the_bound(loss, wrong):
    """Sums of an optimum, of which some are wrong by as much as they may be after a billion roundings."""
    near = 0
    for seed in range(30):
        problem = small_problem(seed, loss, n=40, d=3, l2=10.0 ** -(seed % 4))
        W, b = problem.optimum(*zeros(problem))
        some = replace(Sums.of(problem.layer(W, b), problem.X, problem.y, problem.w, np.arange(3)), roundings=10**9)
        off, reach = some.error, some.reach
        assert off > 1e-7
        if wrong == "product":
            A = some.product.reshape(3, -1, some.questions)  # the last axis: the questions
            shorter = A * (1 - off * reach / np.linalg.norm(A, axis=(0, 1)))
            some = replace(some, product=shorter.reshape(3, 3))
        elif wrong == "entropy":
            some = replace(some, entropy=some.entropy * (1 + off), squares=0.0)  # without any allowance for products
        else:
            up, down = 1 + off, 1 - off
            some = replace(some, answers=some.answers * down, truth=some.truth * up, squares=0.0)
        lowest, bound = problem.cost(W, b), certificate.lowest_cost(some, problem.l2, 0.0)
        assert bound < lowest
        near += bound > lowest - 1e-4
    assert near > 10


def test_errors_of_shares_do_not_lift_the_entropy():
    """Shares that look more equal than they are, by as much as they may after a billion roundings."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [180, 10, 10])
    problem = problem_of(rng.normal(0, 1, (200, 3)), y, 3, "softmax", 1e4)
    W, b = problem.optimum(*zeros(problem))  # every row gets the shares
    some = replace(Sums.of(problem.layer(W, b), problem.X, problem.y, problem.w, np.arange(3)), roundings=10**9)
    rarer = some.error * np.array([[-1], [1], [1]])
    wrong = replace(some, answers=some.answers * (1 - rarer), truth=some.truth * (1 + rarer))
    lowest, bound = problem.cost(W, b), certificate.lowest_cost(wrong, problem.l2, 0.0)
    assert lowest - 1e-4 < bound < lowest


def test_an_error_of_the_loss_within_its_bound_does_not_lower_the_cost():
    """A sum of losses that is too low by as much as it may be after a billion roundings."""
    problem = small_problem(0, "softmax", n=40, d=3)
    W, b = problem.optimum(*zeros(problem))
    some = replace(Sums.of(problem.layer(W, b), problem.X, problem.y, problem.w, np.arange(3)), roundings=10**9)
    low = replace(some, loss=some.loss / (1 + some.error), squares=0.0)  # without any allowance for scores
    found = certificate.certificate_of(low, problem.layer(W, b), np.arange(3), problem.l2, "rows")
    assert found.loss < problem.cost(W, b) - problem.l2 * (W * W).sum() - 1e-7
    assert problem.cost(W, b) <= found.cost < problem.cost(W, b) + 1e-12


def test_the_penalty_is_rounded_upwards():
    """The squares of the weights are exact, and there are enough of them that their sum is wrong by thousands of u."""
    d, below = 50_000, 0
    for seed in range(10):
        W = np.full((d, 2), np.random.default_rng(seed).normal(), np.float32).astype(np.float64)
        exact, half, nothing = math.fsum((W * W).ravel()), np.full((2, 1), 0.5), np.zeros((d, 2))
        some = Sums(1.0, 0.0, np.zeros(1), half, half, nothing, nothing, 0.0, 0.0, -1.0, 1)
        layer = SoftmaxLayer(W, np.zeros(2), LOSSES["softmax"])
        assert exact <= certificate.certificate_of(some, layer, np.arange(2), 1.0, "rows").cost < exact * (1 + 1e-10)
        below += (W * W).sum(axis=0).sum() * (1 + 16 * sums.UNIT) < exact
    assert below > 0


@BOTH
def test_the_errors_of_rows_stay_below_their_bound(loss):
    """Loss and entropies of single rows, whose scores are exact, against 50 digits."""
    rng, K = np.random.default_rng(0), 40
    layer, worst = SoftmaxLayer(np.eye(K), np.zeros(K), LOSSES[loss]), 0.0
    with mpmath.workdps(50):
        for row in rng.normal(0, 3, (30, K)):
            s = [mpmath.mpf(float(value)) for value in row]
            found = Sums.of(layer, row[None], np.array([3]), None, np.arange(K))
            if loss == "softmax":
                total = mpmath.fsum(mpmath.exp(value) for value in s)
                P = [[mpmath.exp(value) / total for value in s]]
                exact = mpmath.log(total) - s[3]
            else:
                P = [[1 / (1 + mpmath.exp(-value)), 1 / (1 + mpmath.exp(value))] for value in s]
                exact = -mpmath.fsum(mpmath.log(p[k != 3]) for k, p in enumerate(P)) / K
            entropies = [-mpmath.fsum(q * mpmath.log(q) for q in p) for p in P]
            pairs = [(found.loss, exact), *zip(found.entropy.tolist(), entropies, strict=True)]
            worst = max(worst, *(float(abs(value - true) / (1 + true)) for value, true in pairs))
    assert sums.UNIT / 2 < worst <= sums.row_error(K)


def test_the_errors_of_sums_stay_below_their_bounds():
    """Rows far from zero, weights of many sizes: the sums against the same sums in 50 digits."""
    rng = np.random.default_rng(0)
    n, d, K = 200, 3, 3
    X, y = rng.normal(0, 10.0 ** rng.uniform(-3, 3, d), (n, d)), rng.integers(0, K, n)
    w = 10.0 ** rng.uniform(-4, 4, n)
    layer = SoftmaxLayer(rng.normal(0, 0.01, (d, K)), rng.normal(0, 1, K), LOSSES["softmax"])
    found = Sums.of(layer, X, y, w, np.arange(K))
    with mpmath.workdps(50):
        exact = [[mpmath.mpf(float(v)) for v in row] for row in layer.logits(X)]  # any scores do
        E = [[mpmath.exp(v) for v in row] for row in exact]
        P = [[v / mpmath.fsum(row) for v in row] for row in E]
        W = [mpmath.mpf(float(v)) for v in w]
        total = mpmath.fsum(W)
        H = mpmath.fsum(v * mpmath.fsum(-q * mpmath.log(q) for q in row) for v, row in zip(W, P, strict=True)) / total
        p = [mpmath.fsum(v * row[k] for v, row in zip(W, P, strict=True)) / total for k in range(K)]
        A = [
            [
                mpmath.fsum(W[i] * mpmath.mpf(float(X[i, j])) * (P[i][k] - int(y[i] == k)) for i in range(n)) / total
                for k in range(K)
            ]
            for j in range(d)
        ]
        weight = found.weight
        assert abs(float(found.entropy[0] / weight - H)) <= found.error * float(H) + sums.row_error(K) * (1 + float(H))
        assert all(abs(float(found.answers[k, 0] / weight - p[k])) <= found.error * float(p[k]) for k in range(K))
        off = [float(found.product[j, k] / weight - A[j][k]) for j in range(d) for k in range(K)]
        assert 0 < np.linalg.norm(off) <= 2 * found.error * found.reach


@pytest.mark.parametrize("gap", [0.07421, 0.0743, 1.23456789, 1e-4, 1.2345e-7, 9.999e-5, 0.00099999, 12345678.9])
def test_a_gap_is_never_printed_too_small(gap):
    found = Certificate(gap, 0.0, gap, 0.1, 0.1, 1.0, False, "rows", "")
    printed = float(found.sentence().split("at most ")[1].split()[0])
    assert gap < found.gap <= printed <= 1.1 * gap + 1e-12


def test_the_sentence():
    found = Certificate(1.76012, 1.68584, 1.7, 0.1, 0.1, 1.0, False, "49,000 training rows of CIFAR-10", "")
    assert found.sentence() == "cost 1.7601, at most 0.0743 above the best possible for lambda 0.1"
    assert replace(found, bound=1.76012 - 1.21e-5).sentence().startswith("cost 1.7601, at most 1.3e-5 above")
    assert replace(found, l2=0.123456789).sentence().endswith("lambda 0.123456789")
    small = replace(found, cost=3.756e-5, bound=3.7e-5, l2=1e-12)
    assert small.sentence() == "cost 3.8e-5, at most 5.7e-7 above the best possible for lambda 1e-12"


# Rows


@BOTH
def test_weights_are_repeated_rows(loss):
    rng = np.random.default_rng(0)
    rows, y = rng.normal(0, 1, (30, 4)), rng.integers(0, 3, 30)
    times = rng.integers(0, 4, 30)
    weighted = problem_of(rows, y, 3, loss, 0.01, times / times.mean())
    repeated = problem_of(np.repeat(rows, times, axis=0), np.repeat(y, times), 3, loss, 0.01)
    layer = rng.normal(0, 1, (4, 3)), rng.normal(0, 1, 3)
    a, b = certificate_of(weighted, layer), certificate_of(repeated, layer)
    assert a.rows == "30 weighted training rows of random"
    for name in ("cost", "bound", "loss", "gradient"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-10), name
    assert b.bound > 0


@BOTH
def test_sums_of_any_partition_agree(loss):
    rng = np.random.default_rng(0)
    n, d, K = 101, 5, 4
    X, y, w = rng.normal(0, 1, (n, d)), rng.integers(0, K, n), rng.uniform(0, 2, n)
    layer = SoftmaxLayer(rng.normal(0, 0.3, (d, K)), rng.normal(0, 0.3, K), LOSSES[loss])
    whole = Sums.of(layer, X, y, w, np.arange(K))
    assert np.sqrt(w @ (X * X).sum(axis=1) / w.sum()) <= whole.reach < np.linalg.norm(X, axis=1).max() < 10
    assert 10 <= Sums.of(layer, X, y, w, np.arange(K), length=10.0).reach < 10 + 1e-9
    for _ in range(10):
        cuts = np.sort(rng.choice(np.arange(1, n), rng.integers(1, 20), replace=False))
        parts = [Sums.of(layer, X[at], y[at], w[at], np.arange(K)) for at in np.split(rng.permutation(n), cuts)]
        while len(parts) > 1:  # in any order
            a, b = (parts.pop(rng.integers(len(parts))) for _ in range(2))
            parts.append(a + b)
        (total,) = parts
        assert total.roundings > max(np.diff([0, *cuts, n]))
        for name, value in vars(whole).items():
            if name != "roundings":
                np.testing.assert_allclose(getattr(total, name), value, rtol=1e-12, atol=1e-12, err_msg=name)
        found, expected = (
            certificate.certificate_of(some, layer, np.arange(K), 0.1, "rows") for some in (total, whole)
        )
        assert found.bound == pytest.approx(expected.bound, rel=1e-11)
        assert found.bound > 0


@BOTH
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_blocks_windows_memory_maps_and_types_of_rows_agree(loss, dtype, monkeypatch, tmp_path):
    dataset = toy_dataset(n=500, dtype="uint8")
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 2, 500)
    dataset = replace(dataset, rows=dataset.rows.astype(dtype), row_weights=weights)
    standardizer = Standardizer.fit([dataset.rows[:50]])  # of other rows: the mean of all is not 0
    layer = standardizer.clear(SoftmaxLayer(rng.normal(0, 0.1, (60, 4)), rng.normal(0, 1, 4), LOSSES[loss]))
    places = rng.permutation(500)[:400]
    X, y = (dataset.rows.astype(np.float64) - standardizer.mean) / standardizer.scale, dataset.labels
    expected = float(layer.cost(X[places], y[places], 0.1, weights[places] / weights[places].mean()))
    whole = certify(layer, standardizer, Split("train", dataset, places), 0.1)
    assert whole.cost == pytest.approx(expected, rel=1e-11)
    np.save(tmp_path / "rows.npy", dataset.rows)
    mapped = replace(dataset, rows=np.load(tmp_path / "rows.npy", mmap_mode="r"))
    monkeypatch.setattr(certificate, "BLOCK", 60 * 20)
    monkeypatch.setattr("onelayer.data.windows.PART_BYTES", 60)
    monkeypatch.setattr("onelayer.data.windows.LEAST_ROWS", 64)
    monkeypatch.setattr(sums, "FEW", 3)
    in_parts = certify(layer, standardizer, Split("train", mapped, places), 0.1)
    assert in_parts.rows == whole.rows == "400 weighted training rows of toy"
    assert in_parts.cost == pytest.approx(whole.cost, rel=1e-11)
    assert in_parts.bound == pytest.approx(whole.bound, abs=1e-10)
    assert in_parts.gradient == pytest.approx(whole.gradient, rel=1e-10)
    assert whole.bound > 0.01
    in_float64 = replace(dataset, rows=dataset.rows.astype(np.float64))
    same = certify(layer, standardizer, Split("train", in_float64, places), 0.1)
    assert (same.cost, same.bound) == pytest.approx((whole.cost, whole.bound), abs=1e-9)
    assert dtype != "uint8" or whole.bound < same.bound  # pixels are not centred, which takes digits off


def test_mirror_images_are_rows_of_their_own():
    splits = toy_splits(dtype="uint8")
    train, dataset = splits.train, splits.dataset
    images = dataset.rows.reshape(-1, *dataset.image_shape)
    both = replace(
        dataset,
        rows=np.concatenate([dataset.rows, images[:, :, :, ::-1].reshape(dataset.rows.shape)]),
        labels=np.tile(dataset.labels, 2),
    )
    twice = Split("train", both, np.concatenate([train.indices, train.indices + len(dataset.rows)]))
    layer = SoftmaxLayer(np.random.default_rng(0).normal(0, 0.1, (60, 4)), np.zeros(4), LOSSES["softmax"])
    a = certify(layer, splits.standardizer, train, 0.1, flip=True)
    b = certify(layer, splits.standardizer, twice, 0.1)
    assert a.rows == f"{len(train)} training rows of toy and their mirror images"
    assert (a.cost, a.bound, a.gradient) == pytest.approx((b.cost, b.bound, b.gradient), rel=1e-10)
    assert a.cost != pytest.approx(certify(layer, splits.standardizer, train, 0.1).cost, rel=1e-4)
    with pytest.raises(ConfigError, match="the rows of toy are not images"):
        certify(layer, splits.standardizer, toy_splits(image_shape=None).train, 0.1, flip=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_feature_is_0(dtype):
    """Validation rows may vary in it, and a layer may still have weights there: neither counts, except in the norm."""
    splits = toy_splits(dtype="float32")
    layer = SoftmaxLayer(np.ones((60, 4), dtype), np.zeros(4, dtype), LOSSES["softmax"])
    rows = splits.dataset.rows.copy()
    rows[:, 7] = 1000
    other = Split("validation", replace(splits.dataset, rows=rows), splits.validation.indices)
    a, b = (certify(layer, splits.standardizer, split, 0.1) for split in (other, splits.validation))
    assert splits.standardizer.constant[7]
    assert a == replace(b, rows=a.rows)


# Classes, and lambda 0


def test_classes_without_rows_are_left_out():
    rng = np.random.default_rng(0)
    rows, y = rng.normal(0, 1, (50, 3)), rng.choice([0, 2, 3], 50)
    w = np.where(y == 3, 0.0, 1.0)  # nor has a class rows whose rows have no weight
    five, two = (
        problem_of(rows, y, 5, "softmax", 0.01, w),
        problem_of(rows, np.minimum(y, 2) // 2, 2, "softmax", 0.01, w),
    )
    best = two.optimum(*zeros(two))
    W, b = np.zeros((3, 5)), np.full(5, -60.0)
    W[:, [0, 2]], b[[0, 2]] = best
    found = certificate_of(five, (W, b))
    assert found.gap < 1e-10
    assert found.bound == pytest.approx(two.cost(*best), abs=1e-10)
    b[1] = 3  # a class without rows gets most of the probability: the cost is higher, the bound is as good
    worse = certificate_of(five, (W, b))
    assert worse.cost > found.cost + 1
    assert worse.bound == pytest.approx(found.bound, abs=1e-10)


def test_a_question_with_one_answer_costs_nothing_at_best():
    """K sigmoids of which one class has no rows and one has all: their biases answer without end."""
    problem = problem_of(np.random.default_rng(0).normal(0, 1, (20, 2)), np.ones(20, int), 3, "sigmoid", 0.1)
    found = certificate_of(problem, (np.zeros((2, 3)), np.array([-40.0, 40, -40])))
    assert 0 == found.bound <= found.cost < 1e-12


def test_one_class():
    problem = problem_of(np.arange(6.0).reshape(3, 2), np.zeros(3, int), 1, "softmax", 0.1)
    found = certificate_of(problem, (np.ones((2, 1)), np.zeros(1)))
    assert found.gap == pytest.approx(0.2, abs=1e-12)
    assert not certificate_of(problem, (np.ones((2, 1)), np.zeros(1)), 0).separable


@BOTH
def test_separable_classes_have_no_optimum(loss):
    x = np.array([[-2.0, -2], [-2, -1], [2, 2], [2, 1]])
    problem = problem_of(x, np.array([0, 0, 1, 1]), 2, loss, 0)
    W = np.array([[-1.0, 1], [0, 0]])
    right = certificate_of(problem, (W, np.zeros(2)))
    assert right.separable
    assert right.sentence() == f"cost {right.cost:.4f}; the classes are separable: there is no optimum"
    assert right.bound == 0
    assert not certificate_of(problem, (0 * W, np.zeros(2))).separable  # a tie is not right
    assert not certificate_of(problem, (-W, np.zeros(2))).separable
    assert not certificate_of(problem, (W, np.zeros(2)), 0.1).separable
    outlier = problem_of(np.r_[x, x[:1]], np.array([0, 0, 1, 1, 1]), 2, loss, 0, np.array([1, 1, 1, 1, 0.0]))
    assert certificate_of(outlier, (W, np.zeros(2))).separable  # a row of weight 0 does not count


def test_margins_within_rounding_are_not_proof():
    """Scores of 1 with a bias of 1e17 before it: every margin is lost in rounding."""
    x = np.array([[-1.0], [1.0]])
    problem = problem_of(x, np.array([0, 1]), 2, "softmax", 0)
    W, b = np.array([[-16.0, 16]]), np.full(2, 1e17)
    assert (np.diff(x @ W + b, axis=1).ravel() * [-1, 1] > 0).all()
    assert not certificate_of(problem, (W, b)).separable
    assert certificate_of(problem, (W, 0 * b)).separable


@BOTH
def test_without_a_penalty_the_bound_is_for_layers_as_small(loss):
    problem = small_problem(1, loss, n=60, d=3, l2=0)
    W, b = problem.optimum(*zeros(problem))  # the classes overlap
    lowest = problem.cost(W, b)
    best = certificate_of(problem, (W, b))
    assert lowest - 1e-9 < best.bound <= lowest
    assert not best.separable
    for shrink in (0.5, 0.9, 0.99):  # the best of a smaller norm is on the way: its cost is at least the bound
        small = certificate_of(problem, (shrink * W, b))
        assert small.radius == pytest.approx(shrink * np.linalg.norm(W))
        penalised = small_problem(1, loss, n=60, d=3, l2=10.0)
        for l2 in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
            V, c = replace(penalised, l2=l2).optimum(*zeros(problem))
            if np.linalg.norm(V) <= small.radius:
                assert small.bound <= problem.cost(V, c)
    words = small.sentence()
    assert words.startswith(f"cost {small.cost:.4f}; no layer with ||W|| <= ")
    norm, gap = words.split("<= ")[1].split(" is better by more than ")
    assert float(norm) <= small.radius
    assert float(gap) >= small.gap


# Bounds of another layer, and refusals


def test_a_layer_can_have_the_bound_of_another():
    problem = small_problem(0, "softmax")
    start, best = (certificate_of(problem, layer) for layer in (zeros(problem), problem.optimum(*zeros(problem))))
    both = start.bounded_by(best)
    assert (both.cost, both.bound) == (start.cost, best.bound)
    assert both.gap < start.gap
    assert best.bounded_by(start) == best
    assert len({start.problem, best.problem}) == 1


def test_the_bound_of_another_problem_is_refused():
    """Each differs in one thing, of which `rows` says nothing: its optimum can be higher."""
    problem = small_problem(0, "softmax")
    dataset, scaled = problem.split.dataset, problem.standardizer
    layer = np.full((2, 3), 0.1), np.zeros(3)
    start = certificate_of(problem, layer)
    moved = replace(dataset, rows=dataset.rows + np.array([1e-9, 0]))
    others = {
        "lambda": replace(problem, l2=0.2),
        "loss": replace(problem, loss=LOSSES["sigmoid"]),
        "mean": replace(problem, standardizer=replace(scaled, mean=scaled.mean + np.array([1e-3, 0]))),
        "scale": replace(problem, standardizer=replace(scaled, scale=scaled.scale * np.array([2, 1]))),
        "rows": replace(problem, split=replace(problem.split, dataset=moved)),
        "labels": replace(problem, split=replace(problem.split, dataset=replace(dataset, labels=dataset.labels[::-1]))),
        "some rows": replace(problem, split=replace(problem.split, indices=np.r_[0, :11])),
    }
    for name, other in others.items():
        found = certificate_of(other, layer)
        assert found.rows == start.rows, name
        with pytest.raises(ConfigError, match="the same rows, standardisation, loss and lambda above 0"):
            start.bounded_by(found)
    none = replace(problem, l2=0.0)
    with pytest.raises(ConfigError, match="lambda above 0"):
        certificate_of(none, layer).bounded_by(certificate_of(none, layer))


def test_refusals():
    class Third(SoftmaxCrossEntropy):
        name = "third"

        def of_rows(self, S, y):
            return 2 * super().of_rows(S, y)

    splits = toy_splits()
    layer = SoftmaxLayer(np.zeros((60, 4), np.float32), np.zeros(4, np.float32), Third())
    with pytest.raises(ConfigError, match="is known for the loss third: it has no certificate"):
        certify(layer, splits.standardizer, splits.train, 0.1)
    layer = replace(layer, loss=LOSSES["softmax"])
    nothing = Split("train", splits.dataset, np.arange(0))
    with pytest.raises(ConfigError, match="toy has no train rows of a weight above 0"):
        certify(layer, splits.standardizer, nothing, 0.1)
    for value in (np.inf, np.nan, 1e38):
        far = replace(
            layer, weights=np.full((60, 4), value) * [1e200, 1, -1, 1] if value == 1e38 else layer.weights + value
        )
        with pytest.raises(ConfigError, match="so it has no certificate"):
            certify(far, splits.standardizer, splits.train, 0.1)


def test_equal_inputs_give_equal_bits():
    problem = random_problem(5)
    layer = layers_for(problem, np.random.default_rng(0), zeros(problem))["any"]
    assert certificate_of(problem, layer) == certificate_of(problem, layer)
