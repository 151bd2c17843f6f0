"""Compare `onelayer probe --recipe dino` with scikit-learn's LogisticRegression at tol 1e-12 on synthetic features.

python benchmarks/probe.py [--rows 5000] [--features 64] [--classes 20] [--peer 45] [--spread 0.25]

Prints the seconds of the 45 values of C and of the last fit, wall clock and processor, and what validation chooses.
scikit-learn fits `--peer` of the values, evenly spaced, whose seconds are taken, and the chosen one with its
neighbours. From fewer than 45 values, its seconds for all are an estimate. It is stopped after 1,000 iterations, as the
original is, and uses one thread.

The full size, with 3 values timed (scikit-learn takes up to an hour for each of the six):

python benchmarks/probe.py --rows 50000 --features 768 --classes 100 --spread 0.05 --peer 3
"""

import argparse
import time
import warnings
from importlib.metadata import version

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from onelayer.config import SplitConfig
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.protocols import split
from onelayer.experiments.probe.encoded import VALIDATION, Encoded
from onelayer.experiments.probe.logistic import DINO, Optima
from onelayer.experiments.probe.trials import Trial, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="training rows, of which a tenth validate")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--peer", type=int, default=45, help="values of C whose seconds scikit-learn takes")
    parser.add_argument("--spread", type=float, default=0.25, help="distance of the classes")
    arguments = parser.parse_args()

    print(f"onelayer {version('onelayer')}, scikit-learn {version('scikit-learn')}, NumPy {version('numpy')}")
    print(
        f"{arguments.rows:,} training rows of {arguments.features:,} features, {arguments.classes:,} classes, float32"
    )
    splits = synthetic(arguments.rows, arguments.features, arguments.classes, arguments.spread)
    trials = ours(splits)
    with threadpool_limits(1):
        peer(splits, trials, min(max(arguments.peer, 1), len(DINO)))
    print("full size: python benchmarks/probe.py --rows 50000 --features 768 --classes 100 --spread 0.05 --peer 3")


def synthetic(n: int, d: int, K: int, spread: float) -> Splits:
    """Return rows of correlated features whose variances fall by e^6, in classes that overlap."""
    rng = np.random.default_rng(0)
    y = rng.integers(K, size=n + 1000)
    scale = np.exp(-3 * np.arange(d) / d).astype(np.float32)
    X = rng.normal(size=(len(y), d)).astype(np.float32) * scale
    X += (spread * rng.normal(size=(K, d)) * np.sqrt(scale)).astype(np.float32)[y]
    X = X @ np.linalg.qr(rng.normal(size=(d, d)))[0].astype(np.float32)
    parts = {"train": slice(0, n), "test": slice(n, len(y))}
    dataset = Dataset(X, y, tuple(map(str, range(K))), None, "synthetic", parts)
    return split(dataset, SplitConfig(validation_size=VALIDATION))


def ours(splits: Splits) -> list[Trial]:
    began, used = time.perf_counter(), time.process_time()
    optima = Optima(Encoded.of(splits, "none"))
    trials = []
    for trial in optima.trials(DINO):
        trials.append(trial)
        gap = f"{trial.gap / trial.cost:.0e}" if trial.gap is not None and trial.cost else "-"
        print(f"C {trial.value:8.3g}  {100 * trial.accuracy:6.2f} %  {trial.passes:5g} passes  gap {gap}", flush=True)
    chosen = best(trials).value
    seconds = f"{time.perf_counter() - began:.1f} s, {time.process_time() - used:.1f} CPU s"
    loose = sum(not trial.converged for trial in trials)
    print(f"onelayer: 45 values in {seconds}; C {chosen:.4g}; {loose} not converged", flush=True)
    outcome = optima.refit(chosen)
    seconds = f"{time.perf_counter() - began:.1f} s, {time.process_time() - used:.1f} CPU s"
    print(f"onelayer: with the last fit in {seconds}; {outcome.ended}", flush=True)
    return trials


def peer(splits: Splits, trials: list[Trial], count: int) -> None:
    chosen, m = DINO.index(best(trials).value), len(DINO)
    timed = {int((number + 0.5) * m / count) for number in range(count)}
    near = {place for place in (chosen - 1, chosen, chosen + 1) if 0 <= place < m}
    train, validation = splits.train, splits.validation
    X, V = (part.rows(slice(None)).astype(np.float64) for part in (train, validation))
    seconds, right = {}, {}
    for place in sorted(timed | near):
        used = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=DINO[place], tol=1e-12, max_iter=1000).fit(X, train.labels)
        right[place] = float(np.mean(model.predict(V) == validation.labels))
        seconds[place] = time.process_time() - used
        rows = abs(right[place] - trials[place].accuracy) * len(validation)
        print(
            f"scikit-learn: C {DINO[place]:8.3g}  {100 * right[place]:6.2f} %, {rows:.0f} rows from ours, "
            f"{model.n_iter_[0]} iterations, {seconds[place]:.1f} CPU s",
            flush=True,
        )
    spent = sum(seconds[place] for place in timed)
    words = f"{m} values in {spent:.1f} CPU s" if count == m else f"an estimated {spent / count * m:,.0f} CPU s for {m}"
    among = right if count == m else {place: right[place] for place in near}
    first = DINO[max(among, key=lambda place: (among[place], -place))]
    among_words = "all" if count == m else "the chosen one and its neighbours"
    print(f"scikit-learn: {words}; of {among_words}, C {first:.4g} is the best; ours is {DINO[chosen]:.4g}")


if __name__ == "__main__":
    main()
