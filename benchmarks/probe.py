"""Compare `onelayer probe --recipe dino` with scikit-learn's LogisticRegression at tol 1e-12 on synthetic features.

python benchmarks/probe.py [--rows 5000] [--features 64] [--classes 20] [--peer 45] [--spread 0.25]

Prints the seconds of the 45 values of C, wall clock and processor, and what validation chooses. scikit-learn fits
`--peer` of the values: the chosen one, its neighbours, and others that are evenly spaced. From fewer than 45, its time
for all is estimated. It is stopped after 1,000 iterations, as the original is. Both use one thread.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from onelayer.config import SplitConfig
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.protocols import split
from onelayer.experiments.probe.encoded import VALIDATION, Encoded
from onelayer.experiments.probe.logistic import DINO, Path
from onelayer.experiments.probe.trials import Trial, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="training rows, of which a tenth validate")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--peer", type=int, default=45, help="values of C that scikit-learn fits")
    parser.add_argument("--spread", type=float, default=0.25, help="distance of the classes")
    arguments = parser.parse_args()

    splits = synthetic(arguments.rows, arguments.features, arguments.classes, arguments.spread)
    with threadpool_limits(1):
        trials = ours(splits)
        peer(splits, trials, arguments.peer)


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
    trials = []
    for trial in Path(Encoded.of(splits, "none")).trials(DINO):
        trials.append(trial)
        gap = f"{trial.gap / trial.cost:.0e}" if trial.gap is not None and trial.cost else "-"
        print(f"C {trial.value:8.3g}  {100 * trial.accuracy:6.2f} %  {trial.passes:5g} passes  gap {gap}", flush=True)
    seconds = f"{time.perf_counter() - began:.1f} s, {time.process_time() - used:.1f} CPU s"
    loose = sum(not trial.converged for trial in trials)
    print(f"onelayer: 45 values in {seconds}; C {best(trials).value:.4g}; {loose} not converged", flush=True)
    return trials


def peer(splits: Splits, trials: list[Trial], count: int) -> None:
    chosen = DINO.index(best(trials).value)
    near = {place for place in (chosen - 1, chosen, chosen + 1) if 0 <= place < len(DINO)}
    places = list(range(len(DINO)))
    if count < len(DINO):
        places = sorted({*near, *np.linspace(0, len(DINO) - 1, max(count - 3, 0)).astype(int).tolist()})
    train, validation = splits.train, splits.validation
    X, V = (part.rows(slice(None)).astype(np.float64) for part in (train, validation))
    used, right = time.process_time(), {}
    for place in places:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=DINO[place], tol=1e-12, max_iter=1000).fit(X, train.labels)
        right[place] = float(np.mean(model.predict(V) == validation.labels))
        rows = abs(right[place] - trials[place].accuracy) * len(validation)
        print(
            f"scikit-learn: C {DINO[place]:8.3g}  {100 * right[place]:6.2f} %, {rows:.0f} rows from ours, "
            f"{model.n_iter_[0]} iterations",
            flush=True,
        )
    seconds = time.process_time() - used
    first = DINO[max(right, key=lambda place: (right[place], -place))]
    if len(places) == len(DINO):
        print(f"scikit-learn: 45 values in {seconds:.1f} CPU s; C {first:.4g}")
    else:
        about = seconds / len(places) * len(DINO)
        words = f"{len(places)} values in {seconds:.1f} CPU s, an estimated {about:,.0f} for 45"
        print(f"scikit-learn: {words}; C {first:.4g}, the best of these")


if __name__ == "__main__":
    main()
