"""The kernel's products for the converged solver: against float64, in odd shapes, in parts, and cancelled."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import special

from onelayer.kernel import kernel

pytestmark = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")
VARIANTS = kernel.variants() if kernel else []
DTYPES = ["uint8", "float16", "float32"]


def case(rng, dtype, n, d, K):
    """Rows, mean, scale and places, of which two features are constant, and the standardised rows in float64."""
    rows = rng.integers(0, 256, (n, d)) if dtype == "uint8" else rng.normal(3, 2, (n, d))
    rows = rows.astype(dtype)
    mean, scale = (rng.uniform(100, 150, d), rng.uniform(40, 80, d)) if dtype == "uint8" else (np.full(d, 3.0),) * 2
    scale = scale.copy()
    scale[: d // 20] = np.inf
    places = rng.permutation(n)[: n - n // 4]
    X = (rows[places].astype(float) - mean) / scale
    return (rows, mean, scale, places), X


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_standardised_rows(variant, dtype, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(0)
    shapes = [(n, d, K) for n in (1, 5, 70, 700) for d in (1, 17, 64, 1100) for K in (1, 4, 10, 23, 41)]
    for n, d, K in shapes:
        stored, X = case(rng, dtype, n, d, K)
        wide = np.full((K, len(X) + 7), np.nan, np.float32)  # a slice of columns, as a part of all rows is
        T = rng.normal(0, 1, (K, d))
        kernel.scores(*stored, 0, T, wide[:, 3:-4], None)
        assert np.isnan(wide[:, :3]).all() and np.isnan(wide[:, -4:]).all()
        bound = np.linalg.norm(T, axis=1).max() * np.sqrt(d) * 3
        assert np.abs(wide[:, 3:-4] - T @ X.T).max() <= 1e-5 * bound, (n, d, K)
        wide[:] = np.nan
        G = wide[:, 3:-4]
        G[:] = rng.normal(0, 1, G.shape)
        found = np.full((K, d), np.nan)
        kernel.gradient(*stored, 0, G, found, None)
        bound = np.sqrt(len(X)) * max(1, np.abs(X).max())
        assert np.abs(found - G.astype(float) @ X).max() <= 1e-5 * bound, (n, d, K)
        assert not found[:, : d // 20].any()
        rows = np.full(X.shape, np.nan, np.float32)
        kernel.standardise(*stored, 0, rows, None)
        np.testing.assert_allclose(rows, X, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_has_the_same_scores_in_any_part(variant, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(1)
    for dtype in DTYPES:
        (rows, mean, scale, places), _ = case(rng, dtype, 300, 130, 12)
        T = rng.normal(0, 1, (12, 130))
        whole, parts = np.empty((2, 12, len(places)), np.float32)
        kernel.scores(rows, mean, scale, places, 0, T, whole, None)
        for start in range(0, len(places), 17):
            part = slice(start, start + 17)
            kernel.scores(rows, mean, scale, places[part], 0, T, parts[:, part], None)
        assert whole.tobytes() == parts.tobytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_number_of_float16_is_widened(variant, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    found = np.zeros(every.shape, np.float32)
    zeros, ones, places = np.zeros(every.shape[1]), np.ones(every.shape[1]), np.arange(len(every))
    kernel.standardise(every, zeros, ones, places, 0, found, None)
    assert np.isnan(every).any() and np.isinf(every).any()
    np.testing.assert_array_equal(found, every.astype(np.float32))
    narrow = np.zeros((len(every), 31), np.float32)  # not a whole number of vectors
    kernel.standardise(every[:, :31].copy(), zeros[:31], ones[:31], places, 0, narrow, None)
    np.testing.assert_array_equal(narrow, found[:, :31])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 5, 7), (2, 3, 33), (1, 4, 1), (1, 1, 2)], ids=str)
def test_right_halves_of_images_are_added_to_the_left_ones(variant, dtype, shape, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(2)
    width, left = shape[2], -(-shape[2] // 2)
    (rows, *_), _ = case(rng, dtype, 90, int(np.prod(shape)), 1)
    images = rows.astype(float).reshape(-1, *shape)
    halves = images[..., :left].copy()
    halves[..., : width // 2] += images[..., ::-1][..., : width // 2]
    halves = halves.reshape(len(rows), -1)
    d = halves.shape[1]
    mean, scale, places = rng.normal(6, 1, d), rng.uniform(20, 30, d), rng.permutation(90)[:80]
    X = ((halves - mean) / scale)[places]
    found = np.full(X.shape, np.nan, np.float32)
    kernel.standardise(rows, mean, scale, places, width, found, None)
    np.testing.assert_allclose(found, X, rtol=1e-5, atol=1e-5)
    for K in (3, 40):
        T, G = rng.normal(0, 1, (K, d)), rng.normal(0, 1, (K, 80)).astype(np.float32)
        scores, gradient = np.empty((K, 80), np.float32), np.empty((K, d))
        kernel.scores(rows, mean, scale, places, width, T, scores, None)
        np.testing.assert_allclose(scores, T @ X.T, rtol=1e-4, atol=2e-5 * np.abs(T @ X.T).max())
        kernel.gradient(rows, mean, scale, places, width, G, gradient, None)
        np.testing.assert_allclose(gradient, G @ X, rtol=1e-4, atol=2e-5 * np.abs(G @ X).max())


def exact_probabilities(S, b, y, w, loss):
    """The loss, the probabilities and their weighted sums, in float64."""
    Z = S.astype(float) + b.astype(np.float32).astype(float)[:, None]
    own = Z[y, np.arange(len(y))]
    if loss == "softmax":
        return w @ (special.logsumexp(Z, axis=0) - own), special.softmax(Z, axis=0)
    return w @ (np.logaddexp(0, Z).sum(axis=0) - own), special.expit(Z)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("K", [1, 2, 10, 100, 1100, 20_000])
def test_probabilities_are_those_of_the_scores(variant, loss, weighted, K, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(K)
    for n in (1, 3, 8, 300, 1001) if K < 1000 else (5, 70):
        wide = np.full((2, K, n + 5), np.nan, np.float32)  # slices of columns
        S, P, b = wide[0][:, 2:-3], wide[1][:, 2:-3], rng.normal(0, 1, K)
        S[:] = rng.normal(0, 3, (K, n))
        y, w = rng.integers(0, K, n), rng.choice([0, 0.5, 1, 3], n) / n if weighted else np.full(n, 1 / n)
        means = np.full(K, np.nan)
        found = kernel.probabilities(S, b, y, w, loss, P, means, None)
        exact, expected = exact_probabilities(S, b, y, w, loss)
        assert found == pytest.approx(exact, rel=3e-7, abs=1e-7 * K**0.5)
        np.testing.assert_allclose(P, expected, rtol=2e-5, atol=1e-12)
        np.testing.assert_allclose(means, P.astype(float) @ w, rtol=1e-12, atol=1e-300)
        assert np.isnan(wide[1][:, :2]).all() and np.isnan(wide[1][:, -3:]).all()
        kernel.probabilities(S, b, y, w, loss, S, means, None)  # in place
        assert S.tobytes() == P.tobytes()


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_extreme_scores_have_exact_probabilities(loss):
    S = np.array([[1e9, -1e9, 5], [0, 0, 5], [-1e9, -1e9, 5]], np.float32)
    P, means = np.empty_like(S), np.empty(3)
    w, y = np.full(3, 1 / 3), np.zeros(3, np.int64)
    found = kernel.probabilities(S, np.zeros(3), y, w, loss, P, means, None)
    exact, expected = exact_probabilities(S, np.zeros(3), y, w, loss)
    assert found == pytest.approx(exact, rel=1e-7)
    np.testing.assert_allclose(P, expected, atol=1e-7)


@pytest.mark.parametrize("call", ["scores", "gradient"])
def test_products_can_be_cancelled_in_another_thread(call):
    rows, places = np.zeros((10, 60), np.uint8), np.zeros(20_000_000, np.int64)
    by_class = np.broadcast_to(np.float32(0), (1, len(places))).copy()
    arrays = (np.zeros((1, 60)), by_class) if call == "scores" else (by_class, np.zeros((1, 60)))
    asked = threading.Event()

    def cancelled() -> bool:
        asked.set()
        return True

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(getattr(kernel, call), rows, np.zeros(60), np.ones(60), places, 0, *arrays, cancelled)
        assert asked.wait(timeout=60)
        with pytest.raises(InterruptedError):
            future.result(timeout=60)
