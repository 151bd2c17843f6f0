"""One solver on one problem, for benchmarks/converged.py, which starts this file in a process for each turn.

A problem is the mean cross-entropy of standardised rows plus lambda ||W||^2, with a bias that is not penalised. Each
solver states it in its own way:

- scikit-learn and scikit-learn-intelex: C (sum of the losses) + ||W||^2 / 2, so C = 1 / (2 lambda n);
- cyanure: (mean loss) + lambda_1 ||W||^2 / 2, so lambda_1 = 2 lambda;
- PyTorch: as it is stated here, as the closure of its L-BFGS, which takes every row in every evaluation.

CPU seconds are those of the whole process while it fits. Those of onelayer begin with the raw rows: the standardisation
and the preconditioner are in them. Those of others begin with standardised rows. Reading the data and importing a
package are not in them. `certify` then computes the cost of all of them, in float64.
"""

import importlib
import json
import os
import resource
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

import onelayer
from onelayer.data.dataset import Dataset, Split
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import LOSSES
from onelayer.training.certificate import certify
from onelayer.training.converged import Convergence
from onelayer.training.converging.rows import Rows, with_mirror_images

SOFTMAX = LOSSES["softmax"]
OURS = "onelayer"
FINE = 1e-6  # gap of the layers whose bound all costs are compared with
Layers = list[tuple[np.ndarray, np.ndarray]]  # weights (d, K) and bias (K,) for each lambda


@dataclass(frozen=True)
class Problem:
    """Rows, and the lambdas to solve for, from large to small.

    Parameters
    ----------
    data : str
        A data set, as for ``onelayer train --data``; or rows x features x classes of synthetic ones.
    rows : int
        The first training rows that are taken; 0 takes all.
    l2s : tuple of float
    dtype : str
        Type of the synthetic rows.
    flip : bool
        Take the mirror images too.
    """

    data: str
    rows: int
    l2s: tuple[float, ...]
    dtype: str = "float32"
    flip: bool = False

    def load(self) -> tuple[Dataset, Split]:
        sizes = self.data.split("x")
        made = all(size.isdigit() for size in sizes)
        dataset = synthetic(*map(int, sizes), self.dtype) if made else onelayer.load(self.data)
        train = dataset.only("train", [part for part in dataset.parts if "test" not in part])
        return dataset, Split("train", dataset, train.indices[: self.rows or None])


def synthetic(n: int, d: int, K: int, dtype: str) -> Dataset:
    """Return rows of correlated features whose variances fall by e^6, in classes that overlap; 5,000 more test."""
    rng = np.random.default_rng(0)
    y = rng.integers(K, size=n + 5000)
    scale = np.exp(-3 * np.arange(d) / d).astype(np.float32)
    X = rng.standard_normal((len(y), d), np.float32) * scale
    X += (0.05 * rng.standard_normal((K, d), np.float32) * np.sqrt(scale))[y]
    X = X @ np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    parts = {"train": slice(0, n), "test": slice(n, len(y))}
    return Dataset(X.astype(dtype), y, tuple(map(str, range(K))), None, "synthetic", parts)


@dataclass(frozen=True)
class Turn:
    """The task of a solver, and its result.

    Parameters
    ----------
    problem : Problem
    solver : str
    effort : float
        The number of iterations that are allowed, or 1 / tolerance; onelayer takes 1 / gap.
    seconds, certificate : float
        CPU seconds to the solution, and those of its certificates.
    passes : float
        Passes over the rows, or iterations, as the solver counts them.
    costs, bounds, accuracies : tuple of float
        For each lambda: the cost, a bound that no cost is below, and the fraction of test rows that are right.
    peak : int
        The most resident memory, in bytes.
    own : str
        The gap that the solver itself tells.
    """

    problem: Problem
    solver: str
    effort: float
    seconds: float = 0.0
    certificate: float = 0.0
    passes: float = 0.0
    costs: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()
    peak: int = 0
    own: str = ""

    def take(self) -> "Turn":
        dataset, split = self.problem.load()
        standardizer = _standardizer(self.problem, split)
        test = dataset.only("test", [part for part in dataset.parts if "test" in part])
        if self.solver == OURS:
            work = lambda: ours(self.problem, split, self.effort)  # noqa: E731
        else:
            name, dtype = self.solver.rsplit(" ", 1)
            X, y = standardizer.to(lambda a: a.astype(dtype)).transform(split.rows(slice(None))), split.labels
            work = PEERS[name](X, y, self.problem.l2s, self.effort)
        start = cpu_seconds()
        layers, passes, own = work()
        done = replace(self, seconds=cpu_seconds() - start, passes=passes, own=own)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found, right, start = [], [], cpu_seconds()
        for (W, b), l2 in zip(layers, self.problem.l2s, strict=True):
            layer = SoftmaxLayer(W.astype(np.float64), b.astype(np.float64), SOFTMAX)
            found.append(certify(layer, standardizer, split, l2, self.problem.flip))
        done = replace(done, peak=peak, certificate=cpu_seconds() - start)
        for W, b in layers:
            answers = [likeliest(standardizer.transform(R.astype(np.float64)) @ W + b) for R in blocks(test)]
            right.append(float(np.mean(np.concatenate(answers) == test.labels)))
        costs, bounds = tuple(x.cost for x in found), tuple(x.bound for x in found)
        return replace(done, costs=costs, bounds=bounds, accuracies=tuple(right))


def blocks(split: Split) -> list[np.ndarray]:
    return [split.rows(slice(at, at + BLOCK_ROWS)) for at in range(0, len(split), BLOCK_ROWS)]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _standardizer(problem: Problem, split: Split) -> Standardizer:
    standardizer = Standardizer.fit(split.row_blocks(BLOCK_ROWS))
    shape = split.dataset.image_shape
    return with_mirror_images(standardizer, shape) if problem.flip and shape else standardizer


def ours(problem: Problem, split: Split, effort: float) -> tuple[Layers, float, str]:
    rows = Rows(split, _standardizer(problem, split), flip=problem.flip)
    convergence = Convergence(rows, SOFTMAX, problem.l2s[-1])
    ends = list(convergence.path(problem.l2s, tol=1 / effort))
    layers = [convergence.layer(at) for at in ends]
    own = f"{max(at.gap / (at.cost - at.gap) for at in ends):.1e}"
    return [(layer.weights, layer.bias) for layer in layers], sum(at.passes for at in ends), own


Work = Callable[[], tuple[Layers, float, str]]


def scikit_learn(package: str, solver: str) -> Callable[..., Work]:
    """Return a peer that stops after a number of iterations; of several lambdas, each starts from the last solution."""

    def peer(X: np.ndarray, y: np.ndarray, l2s: tuple[float, ...], effort: float) -> Work:
        kind = importlib.import_module(f"{package}.linear_model").LogisticRegression
        limits = {"tol": 1e-12, "max_iter": int(effort)} if len(l2s) == 1 else {"tol": 1 / effort, "max_iter": 10**5}
        model = kind(solver=solver, warm_start=len(l2s) > 1, n_jobs=1 if package == "sklearnex" else None, **limits)

        def work() -> tuple[Layers, float, str]:
            layers, iterations = [], 0
            for l2 in l2s:
                model.set_params(C=1 / (2 * l2 * len(y))).fit(X, y)
                layers.append((model.coef_.T.copy(), model.intercept_.copy()))
                iterations += int(np.max(model.n_iter_))
            return layers, iterations, ""

        return work

    return peer


def cyanure(X: np.ndarray, y: np.ndarray, l2s: tuple[float, ...], effort: float) -> Work:
    """Return a fit that looks at its duality gap once, after as many of its iterations as are allowed."""
    from cyanure.estimators import Classifier

    limits = {"tol": 1e-12, "max_iter": int(effort), "duality_gap_interval": int(effort), "n_threads": 1}
    model = Classifier(loss="multiclass-logistic", penalty="l2", lambda_1=2 * l2s[0], verbose=False, **limits)

    def work() -> tuple[Layers, float, str]:
        model.fit(X, y)
        return [(model.coef_, model.intercept_.ravel())], int(effort), f"{model.optimization_info_[0, 3].max():.1e}"

    return work


def pytorch(X: np.ndarray, y: np.ndarray, l2s: tuple[float, ...], effort: float) -> Work:
    import torch

    torch.set_num_threads(1)
    rows, labels = torch.from_numpy(X), torch.from_numpy(np.array(y))
    layer = torch.nn.Linear(X.shape[1], int(y.max()) + 1, dtype=rows.dtype)
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    limits = {"max_iter": int(effort), "max_eval": 100 * int(effort), "tolerance_grad": 0, "tolerance_change": 0}
    optimizer = torch.optim.LBFGS(layer.parameters(), history_size=10, line_search_fn="strong_wolfe", **limits)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        cost = torch.nn.functional.cross_entropy(layer(rows), labels) + l2s[0] * layer.weight.square().sum()
        cost.backward()
        return cost

    def work() -> tuple[Layers, float, str]:
        optimizer.step(closure)
        passes = optimizer.state[layer.weight]["func_evals"]
        return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy())], passes, ""

    return work


PEERS: dict[str, Callable[..., Work]] = {
    "scikit-learn lbfgs": scikit_learn("sklearn", "lbfgs"),
    "scikit-learn newton-cg": scikit_learn("sklearn", "newton-cg"),
    "scikit-learn-intelex lbfgs": scikit_learn("sklearnex", "lbfgs"),
    "scikit-learn-intelex newton-cg": scikit_learn("sklearnex", "newton-cg"),
    "cyanure": cyanure,
    "PyTorch L-BFGS": pytorch,
}


def main() -> None:
    warnings.simplefilter("ignore")
    told = json.loads(sys.argv[1])
    problem = Problem(**{**told["problem"], "l2s": tuple(told["problem"]["l2s"])})
    out = os.dup(1)
    os.dup2(2, 1)  # what packages print does not belong to the answer
    done = Turn(problem, told["solver"], told["effort"]).take()
    os.write(out, json.dumps(asdict(done)).encode())


if __name__ == "__main__":
    main()
