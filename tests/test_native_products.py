"""The kernel's products for the converged solver: against float64, in odd shapes, in parts, and cancelled."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onelayer.kernel import kernel

pytestmark = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")
VARIANTS = kernel.variants() if kernel else []


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
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_products_are_those_of_standardised_rows(variant, dtype, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(0)
    shapes = [(n, d, K) for n in (1, 5, 70, 700) for d in (1, 17, 64, 1100) for K in (1, 4, 10, 23, 41)]
    for n, d, K in shapes:
        stored, X = case(rng, dtype, n, d, K)
        wide = np.full((K, len(X) + 7), np.nan, np.float32)  # a slice of columns, as a part of all rows is
        T = rng.normal(0, 1, (K, d))
        kernel.scores(*stored, T, wide[:, 3:-4], None)
        assert np.isnan(wide[:, :3]).all() and np.isnan(wide[:, -4:]).all()
        bound = np.linalg.norm(T, axis=1).max() * np.sqrt(d) * 3
        assert np.abs(wide[:, 3:-4] - T @ X.T).max() <= 1e-5 * bound, (n, d, K)
        wide[:] = np.nan
        G = wide[:, 3:-4]
        G[:] = rng.normal(0, 1, G.shape)
        found = np.full((K, d), np.nan)
        kernel.gradient(*stored, G, found, None)
        bound = np.sqrt(len(X)) * max(1, np.abs(X).max())
        assert np.abs(found - G.astype(float) @ X).max() <= 1e-5 * bound, (n, d, K)
        assert not found[:, : d // 20].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_has_the_same_scores_in_any_part(variant, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(1)
    for dtype in ("uint8", "float32"):
        (rows, mean, scale, places), _ = case(rng, dtype, 300, 130, 12)
        T = rng.normal(0, 1, (12, 130))
        whole, parts = np.empty((2, 12, len(places)), np.float32)
        kernel.scores(rows, mean, scale, places, T, whole, None)
        for start in range(0, len(places), 17):
            part = slice(start, start + 17)
            kernel.scores(rows, mean, scale, places[part], T, parts[:, part], None)
        assert whole.tobytes() == parts.tobytes()


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
        future = executor.submit(getattr(kernel, call), rows, np.zeros(60), np.ones(60), places, *arrays, cancelled)
        assert asked.wait(timeout=60)
        with pytest.raises(InterruptedError):
            future.result(timeout=60)
