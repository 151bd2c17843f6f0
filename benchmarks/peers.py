"""onelayer against what else a user would pick for the coursework's run, each written as its own users would write it.

The work: 10,000 training rows of CIFAR-10, epochs of batches of 100, and after every epoch loss and accuracy on the
10,000 training and 10,000 validation rows. Reading and standardising the data is not timed, for nobody. The contestants
take turns in one process each, so that no library's threads disturb another's; a turn is --epochs epochs. Cold is the
first epoch of a process, warm the median of the others; the table has the median over the turns.

SGDClassifier is another model (one-against-all, its own learning rates) and LogisticRegression another algorithm (it
goes to the optimum, in as many passes as that takes; here as many as there are epochs); both are there because people
use them.

    python benchmarks/peers.py [--data SOURCE] [--rounds 5] [--epochs 10] [--threads 1 2] [--only NAME ...]
                               [--chart docs/speed.png]
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import onelayer
from onelayer.config import COURSEWORK, SplitConfig

Epoch = Callable[[np.ndarray], None]
RATE = 0.001


def standardized(splits: onelayer.Splits, dtype: type) -> tuple[np.ndarray, ...]:
    """X, y, X of validation, y of validation."""
    R, R_validation = (split.rows(slice(None)) for split in (splits.train, splits.validation))
    m, s = R.mean(0), R.std(0)
    X, X_validation = (((rows - m) / s).astype(dtype) for rows in (R, R_validation))
    return X, splits.train.labels, X_validation, splits.validation.labels


def numpy_float32(splits: onelayer.Splits) -> Epoch:
    X, y, X_validation, y_validation = standardized(splits, np.float32)
    K = len(splits.dataset.class_names)
    W = np.random.default_rng(0).normal(0, 0.01, (X.shape[1], K)).astype(np.float32)
    b = np.zeros(K, np.float32)

    def evaluate(X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        S = X @ W + b
        S -= S.max(axis=1, keepdims=True)
        losses = np.log(np.exp(S).sum(axis=1)) - S[np.arange(len(y)), y]
        return losses.mean(), (S.argmax(axis=1) == y).mean()

    def epoch(order: np.ndarray) -> None:
        for start in range(0, len(order), 100):
            batch = order[start : start + 100]
            X_batch = X[batch]
            S = X_batch @ W + b
            P = np.exp(S - S.max(axis=1, keepdims=True))
            P /= P.sum(axis=1, keepdims=True)
            P[np.arange(len(batch)), y[batch]] -= 1
            P /= len(batch)
            W[...] -= np.float32(RATE) * (X_batch.T @ P)
            b[...] -= np.float32(RATE) * P.sum(axis=0)
        evaluate(X, y)
        evaluate(X_validation, y_validation)

    return epoch


def numpy_course(splits: onelayer.Splits) -> Epoch:
    """float64, a sample is a column, one-hot labels, as the course's solutions are usually written."""
    X, y, X_validation, y_validation = standardized(splits, np.float64)
    X, X_validation = X.T.copy(), X_validation.T.copy()  # (d, n)
    K = len(splits.dataset.class_names)
    Y, Y_validation = np.eye(K)[y].T, np.eye(K)[y_validation].T  # (K, n)
    W = np.random.default_rng(0).normal(0, 0.01, (K, len(X)))
    b = np.zeros((K, 1))

    def probabilities(X: np.ndarray) -> np.ndarray:
        S = np.exp(W @ X + b)
        return S / S.sum(axis=0)

    def evaluate(X: np.ndarray, Y: np.ndarray, y: np.ndarray) -> None:
        -np.log((Y * probabilities(X)).sum(axis=0)).mean()
        (probabilities(X).argmax(axis=0) == y).mean()

    def epoch(order: np.ndarray) -> None:
        for start in range(0, len(order), 100):
            batch = order[start : start + 100]
            X_batch = X[:, batch]
            G = probabilities(X_batch) - Y[:, batch]
            W[...] -= RATE * (G @ X_batch.T / len(batch))
            b[...] -= RATE * G.mean(axis=1, keepdims=True)
        evaluate(X, Y, y)
        evaluate(X_validation, Y_validation, y_validation)

    return epoch


def _torch(splits: onelayer.Splits, loader: bool) -> Epoch:
    import torch

    torch.set_num_threads(int(os.environ["ONELAYER_BENCHMARK_THREADS"]))
    X, y, X_validation, y_validation = (torch.from_numpy(np.array(a)) for a in standardized(splits, np.float32))
    layer = torch.nn.Linear(X.shape[1], len(splits.dataset.class_names))
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    criterion = torch.nn.CrossEntropyLoss()
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=100, shuffle=True)

    def step(X: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        criterion(layer(X), y).backward()
        optimizer.step()

    @torch.no_grad()
    def evaluate(X: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
        S = layer(X)
        return criterion(S, y).item(), (S.argmax(1) == y).float().mean().item()

    def epoch(order: np.ndarray) -> None:
        if loader:
            for X_batch, y_batch in batches:
                step(X_batch, y_batch)
        else:
            for batch in torch.from_numpy(order).split(100):
                step(X[batch], y[batch])
        evaluate(X, y)
        evaluate(X_validation, y_validation)

    return epoch


def torch_loader(splits: onelayer.Splits) -> Epoch:
    return _torch(splits, loader=True)


def torch_by_hand(splits: onelayer.Splits) -> Epoch:
    return _torch(splits, loader=False)


def jax_scan(splits: onelayer.Splits) -> Epoch:
    import jax
    import jax.numpy as jnp

    X, y, X_validation, y_validation = (jnp.asarray(a) for a in standardized(splits, np.float32))
    K = len(splits.dataset.class_names)
    parameters = (jnp.zeros((X.shape[1], K)), jnp.zeros(K))

    def mean_loss(parameters, X, y):  # type: ignore[no-untyped-def]
        S = X @ parameters[0] + parameters[1]
        return -jnp.take_along_axis(jax.nn.log_softmax(S), y[:, None], axis=1).mean()

    @jax.jit
    def run(parameters, order):  # type: ignore[no-untyped-def]
        def step(parameters, batch):  # type: ignore[no-untyped-def]
            gradient = jax.grad(mean_loss)(parameters, X[batch], y[batch])
            return jax.tree.map(lambda p, g: p - RATE * g, parameters, gradient), None

        return jax.lax.scan(step, parameters, order.reshape(-1, 100))[0]

    @jax.jit
    def evaluate(parameters, X, y):  # type: ignore[no-untyped-def]
        return mean_loss(parameters, X, y), ((X @ parameters[0] + parameters[1]).argmax(1) == y).mean()

    def epoch(order: np.ndarray) -> None:
        nonlocal parameters
        parameters = run(parameters, jnp.asarray(order))
        jax.block_until_ready((evaluate(parameters, X, y), evaluate(parameters, X_validation, y_validation)))

    return epoch


def sklearn_sgd(splits: onelayer.Splits) -> Epoch:
    from sklearn.linear_model import SGDClassifier

    X, y, X_validation, y_validation = standardized(splits, np.float32)
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=RATE, alpha=0)

    def epoch(order: np.ndarray) -> None:
        for start in range(0, len(order), 100):
            batch = order[start : start + 100]
            model.partial_fit(X[batch], y[batch], classes=np.arange(len(splits.dataset.class_names)))
        model.score(X, y)
        model.score(X_validation, y_validation)

    return epoch


PEERS: dict[str, tuple[str | None, Callable[[onelayer.Splits], Epoch]]] = {
    "NumPy float32": (None, numpy_float32),
    "NumPy float64, course layout": (None, numpy_course),
    "PyTorch by hand": ("torch", torch_by_hand),
    "PyTorch DataLoader": ("torch", torch_loader),
    "JAX scan": ("jax", jax_scan),
    "scikit-learn SGDClassifier": ("sklearn", sklearn_sgd),
}
NATIVE, LOGISTIC = "onelayer", "scikit-learn LogisticRegression"


def turn(name: str, data: str, epochs: int, threads: int) -> dict[str, float]:
    """One process: cold and warm seconds an epoch, and peak memory."""
    splits = onelayer.load_splits(data, SplitConfig(protocol="batch"))
    if name == NATIVE:
        config = replace(COURSEWORK, epochs=epochs, threads=threads)
        started = time.perf_counter()
        onelayer.train(splits, replace(config, epochs=1))
        cold = time.perf_counter() - started  # with the standardisation and the test rows
        seconds = [record.seconds for record in onelayer.train(splits, config).state.history[1:-1]]
    elif name == LOGISTIC:
        from sklearn.linear_model import LogisticRegression

        X, y, X_validation, y_validation = standardized(splits, np.float32)
        started = time.perf_counter()
        model = LogisticRegression(max_iter=epochs, tol=0).fit(X, y)
        model.score(X, y), model.score(X_validation, y_validation)
        seconds = [(time.perf_counter() - started) / epochs]
        cold = seconds[0]
    else:
        epoch = PEERS[name][1](splits)
        rng = np.random.default_rng(0)
        seconds = []
        for _ in range(epochs):
            order = rng.permutation(len(splits.train))
            started = time.perf_counter()
            epoch(order)
            seconds.append(time.perf_counter() - started)
        cold, seconds = seconds[0], seconds[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"cold": cold, "warm": statistics.median(seconds), "peak": peak}


def limits() -> dict[str, float]:
    """Measure the machine on one thread: GFLOP/s of a matrix product, GB/s of a sum over memory."""
    a = np.ones((2048, 2048), np.float32)
    big = np.ones(50_000_000, np.float32)
    product, read = [], []
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        product.append(2 * 2048**3 / (time.perf_counter() - started) / 1e9)
        started = time.perf_counter()
        big.sum()
        read.append(big.nbytes / (time.perf_counter() - started) / 1e9)
    return {"product": statistics.median(product), "read": statistics.median(read)}


def in_a_process(arguments: list[str], threads: int, script: str = __file__) -> dict[str, float]:
    count = str(threads)
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONELAYER_BENCHMARK_THREADS")
    environment = os.environ | dict.fromkeys(names, count)
    output = subprocess.run(
        [sys.executable, "-W", "ignore", script, *arguments], env=environment, check=True, stdout=subprocess.PIPE
    ).stdout
    return dict(json.loads(output))


def draw(path: Path, milliseconds: dict[str, float], words: str) -> None:
    """Bars, the quickest on top, on one scale from zero."""
    from matplotlib.figure import Figure

    ordered = sorted(milliseconds.items(), key=lambda item: -item[1])
    names, times = [name for name, _ in ordered], [time for _, time in ordered]
    figure = Figure(figsize=(7, 0.9 + 0.36 * len(names)), dpi=150, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, times, color=["#d1495b" if name == NATIVE else "#8d99ae" for name in names], height=0.7)
    axes.bar_label(bars, [f"{time:,.0f} ms" for time in times], padding=4)
    axes.set_xlim(0, 1.15 * max(times))
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False)
    figure.suptitle(f"An epoch of CIFAR-10's first batch, {words}", x=0.01, ha="left", fontsize=11)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--chart", type=Path, help="draw the warm epochs of those that do the same work there")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn == "limits":
        print(json.dumps(limits()))
        return
    if arguments.turn:
        print(json.dumps(turn(arguments.turn, arguments.data, arguments.epochs, arguments.threads[0])))
        return

    names = [NATIVE, *(name for name, (needs, _) in PEERS.items() if not needs or importlib.util.find_spec(needs))]
    names = [name for name in [*names, LOGISTIC] if not arguments.only or name in arguments.only]
    found: dict[str, list[dict[str, float]]] = {}
    for round_ in range(arguments.rounds):
        for threads in arguments.threads:
            for name in ["limits", *names]:
                print(f"round {round_ + 1}, {threads} threads, {name} ...", file=sys.stderr, end="\r\x1b[K")
                words = ["--turn", name, "--data", arguments.data, "--epochs", str(arguments.epochs)]
                result = in_a_process([*words, "--threads", str(threads)], threads)
                found.setdefault(f"{threads} {name}", []).append(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")

    def median(threads: int, name: str, what: str) -> float:
        return statistics.median(result[what] for result in found[f"{threads} {name}"])

    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}; ", end="")
    print(f"medians of {arguments.rounds} turns of {arguments.epochs} epochs")
    for threads in arguments.threads:
        product, read = median(threads, "limits", "product"), median(threads, "limits", "read")
        print(f"\n{threads} threads; matrix product {product:.0f} GFLOP/s, memory {read:.0f} GB/s read\n")
        print(f"| {'':32} | cold ms | warm ms an epoch | times onelayer | useful GFLOP/s | peak MB |")
        print(f"|:{'-' * 32}-|--------:|-----------------:|---------------:|---------------:|--------:|")
        for name in names:
            cold, warm, peak = (median(threads, name, what) for what in ("cold", "warm", "peak"))
            ratio = warm / median(threads, NATIVE, "warm") if NATIVE in names else float("nan")
            gflops = 2 * 2 * 2 * 10_000 * 3072 * 10 / warm / 1e9
            print(f"| {name:32} | {1e3 * cold:7.1f} | {1e3 * warm:16.1f} | {ratio:14.1f} | {gflops:14.0f} | ", end="")
            print(f"{peak / 1e6:7.0f} |")
    if arguments.chart:
        threads = arguments.threads[-1]
        times = {name: 1e3 * median(threads, name, "warm") for name in names if not name.startswith("scikit-learn")}
        draw(arguments.chart, times, f"trained and evaluated, {threads} threads")


if __name__ == "__main__":
    main()
