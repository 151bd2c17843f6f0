"""The converged solver beside scikit-learn, scikit-learn-intelex, cyanure and PyTorch, as far as they are installed.

    python benchmarks/converged.py [CASE ...] [--data cifar-10-batches-py] [--rounds 5] [--settings FILE]

Every turn is a process of its own with one thread; benchmarks/solvers.py says what is timed. First the optimum is
bounded: the certificate of onelayer's layer for a gap of 1e-6. The gap of a layer is its cost less this bound, as a
share of the bound. All costs are computed by one function, in float64.

onelayer stops by itself, at a gap of 1e-4. For each peer, the number of iterations is searched with which its cost
comes as near, in steps of a tenth, and only the turns with this number count; a user does not know it. Those who take
less than 10 s take turns, --rounds times, and medians are shown. Iterations that were found are kept in --settings.

The cases:

- small, weak, large: CIFAR-10, 10,000 rows at lambda 0.1 and 0.001, 49,000 rows at lambda 0.032;
- path: 49,000 rows, ten lambdas from 0.1 to 0.001; scikit-learn fits the first two, warm;
- classes: 20,000 synthetic rows of 1,024 features in 1,000 classes at lambda 1e-4;
- types: 50,000 synthetic rows of 768 features in 100 classes at lambda 1e-4, in float16 and float32;
- flips: CIFAR-10 with mirror images and without;
- agreement: 5,000 rows, three lambdas, float64: the test accuracies of onelayer and scikit-learn, and the rows on which
  their answers differ;
- disk: rows in a memory map, larger than the memory that a control group allows.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from larger_than_memory import make, read_splits
from limits import AnonymousPeak, forget, limited, run
from solvers import FINE, OURS, SOFTMAX, Problem, Turn, cpu_seconds

from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.training.certificate import certify
from onelayer.training.converged import Convergence
from onelayer.training.converging.rows import Rows

GAP, STEP = 1e-4, 1.1
SHORT = 10.0  # CPU seconds up to which a turn is repeated
AGREEMENT = (0.1, 0.03, 0.01)
PATH = tuple(np.geomspace(0.1, 0.001, 10).round(6).tolist())
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# The iterations from which the search begins.
SMALL = {
    "scikit-learn lbfgs float32": 80,
    "scikit-learn lbfgs float64": 80,
    "scikit-learn newton-cg float32": 7,
    "scikit-learn newton-cg float64": 7,
    "scikit-learn-intelex lbfgs float32": 60,
    "scikit-learn-intelex lbfgs float64": 60,
    "cyanure float32": 8,
    "PyTorch L-BFGS float32": 80,
}
QUICK = ("scikit-learn lbfgs float32", "scikit-learn-intelex lbfgs float32", "cyanure float32")
QUICKEST = QUICK[:1]


@dataclass(frozen=True)
class Contestant:
    """A solver on a problem, with the iterations from which the search begins; onelayer needs none."""

    problem: Problem
    solver: str = OURS
    start: float = 1 / GAP

    @property
    def words(self) -> str:
        rows = f"{self.problem.rows:,} rows" if self.problem.rows else f"{self.problem.data} {self.problem.dtype}"
        l2s = " to ".join(f"{l2:g}" for l2 in dict.fromkeys((self.problem.l2s[0], self.problem.l2s[-1])))
        return f"{rows}, {l2s}{', flips' * self.problem.flip} | {self.solver}"


class Comparison:
    """Contestants that take turns."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._rounds, self._patience, self._file = arguments.rounds, arguments.patience, arguments.settings
        self._bounds: dict[Problem, tuple[float, ...]] = {}
        self._known: dict[str, float] = {}
        if self._file and self._file.exists():
            self._known = json.loads(self._file.read_text())

    def run(self, contestants: list[Contestant]) -> None:
        turns: dict[Contestant, list[Turn]] = {}
        for contestant in contestants:
            if contestant.problem not in self._bounds:
                self._bounds[contestant.problem] = self.turn(contestant.problem, OURS, 1 / FINE).bounds
            try:
                turns[contestant] = [self.cheapest(contestant)]
            except (subprocess.SubprocessError, ImportError) as error:
                print(f"| {contestant.words} | {type(error).__name__} |", flush=True)
        for _ in range(1, self._rounds):
            for contestant, taken in turns.items():
                if taken[0].seconds < SHORT:
                    taken.append(self.turn(contestant.problem, contestant.solver, taken[0].effort))
        for contestant, taken in turns.items():
            self.report(contestant, taken)

    def cheapest(self, contestant: Contestant) -> Turn:
        """Return the turn with the fewest iterations that come near enough, by steps of a tenth."""
        problem, solver, name = contestant.problem, contestant.solver, contestant.words
        first = found = self.turn(problem, solver, self._known.get(name, contestant.start))
        if solver == OURS:
            return found
        while self.gap(found) > GAP:
            found = self.turn(problem, solver, max(found.effort + 1, round(found.effort * STEP)))
        while found is first and name not in self._known and found.effort > 1:
            fewer = self.turn(problem, solver, min(found.effort - 1, round(found.effort / STEP)))
            if self.gap(fewer) > GAP:
                break
            first = found = fewer
        self._known[name] = found.effort
        if self._file:
            self._file.write_text(json.dumps(self._known, indent=1) + "\n")
        return found

    def turn(self, problem: Problem, solver: str, effort: float) -> Turn:
        """Let a solver take a turn in a process of its own."""
        told = json.dumps({"problem": asdict(problem), "solver": solver, "effort": effort})
        command = [sys.executable, str(Path(__file__).parent / "solvers.py"), told]
        environment = os.environ | dict.fromkeys(THREADS, "1")
        run_in = {"env": environment, "timeout": self._patience, "stderr": subprocess.DEVNULL}
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True, **run_in).stdout
        turn = Turn(**{**json.loads(output), "problem": problem})
        gap = f", gap {self.gap(turn):.1e}" if problem in self._bounds else ""
        words = Contestant(problem, solver).words
        print(f"{words}, {effort:g}: {turn.seconds:.2f} s{gap}", file=sys.stderr, flush=True)
        return turn

    def gap(self, turn: Turn) -> float:
        """Return the largest of the gaps for the lambdas."""
        return max((cost - low) / low for cost, low in zip(turn.costs, self._bounds[turn.problem], strict=True))

    def report(self, contestant: Contestant, turns: list[Turn]) -> None:
        """Print the row of a contestant in the table."""
        first, mine = turns[0], contestant.solver == OURS
        seconds, certificate = (statistics.median(getattr(t, of) for t in turns) for of in ("seconds", "certificate"))
        certified = max(cost / bound - 1 for cost, bound in zip(first.costs, first.bounds, strict=True))
        ends = (0, -1) if len(first.costs) > 1 else (0,)
        cells = [f"{first.passes:g}", f"{seconds:.2f}", len(turns), f"{certificate:.2f}" * mine]
        cells += [f"{self.gap(first):.1e}", f"{certified:.1e}" if mine else first.own]
        cells += [" ".join(f"{first.costs[end]:.6f}" for end in ends)]
        cells += [" ".join(f"{100 * first.accuracies[end]:.2f}" for end in ends), f"{first.peak / 1e6:,.0f}"]
        print("|", contestant.words, "|", " | ".join(map(str, cells)), "|", flush=True)


HEAD = "rows, lambda | solver | passes | CPU s | turns | certificate CPU s | gap | own gap | cost | test % | MB"


def versus(problem: Problem, starts: dict[str, float]) -> list[Contestant]:
    return [Contestant(problem), *(Contestant(problem, solver, start) for solver, start in starts.items())]


def of_cifar(data: str) -> dict[str, list[Contestant]]:
    """Return the contestants of each case that is a comparison."""
    weak = {solver: 2 * start if start < 10 else round(5.75 * start) for solver, start in SMALL.items()}
    classes, types = "20000x1024x1000", "50000x768x100"
    path = Problem(data, 49_000, PATH)
    return {
        "small": versus(Problem(data, 10_000, (0.1,)), SMALL),
        "weak": versus(Problem(data, 10_000, (0.001,)), weak),
        "large": versus(Problem(data, 49_000, (0.032,)), {solver: round(1.25 * SMALL[solver]) for solver in QUICK}),
        "path": [Contestant(path), *versus(Problem(data, 49_000, PATH[:2]), dict.fromkeys(QUICKEST, 1e3))],
        "classes": versus(Problem(classes, 0, (1e-4,)), dict.fromkeys(QUICKEST, 100)),
        "types": [
            Contestant(Problem(types, 0, (1e-4,), "float16")),
            *versus(Problem(types, 0, (1e-4,)), dict.fromkeys(QUICKEST, 100)),
        ],
        "flips": [
            Contestant(Problem(data, n, (l2,), flip=flip))
            for n, l2 in ((10_000, 0.1), (49_000, 0.032))
            for flip in (False, True)
        ],
    }


def agreement(data: str) -> None:
    """Print, for each lambda, the gaps and the right test rows of both, and the rows that they answer differently."""
    from sklearn.linear_model import LogisticRegression

    dataset, split = Problem(data, 5000, ()).load()
    standardizer = Standardizer.fit(split.row_blocks(BLOCK_ROWS))
    test = dataset.only("test", [part for part in dataset.parts if "test" in part])
    X, V = (standardizer.transform(of.rows(slice(None))) for of in (split, test))
    convergence = Convergence(Rows(split, standardizer, dtype=np.dtype(np.float64)), SOFTMAX, AGREEMENT[-1])
    peer = LogisticRegression(tol=1e-8, max_iter=10**4, warm_start=True)
    print("| lambda | gap | scikit-learn's gap | iterations | right test rows | scikit-learn's | answers that differ |")
    print(f"|{'---|' * 7}")
    for l2, at in zip(AGREEMENT, convergence.path(AGREEMENT, tol=1e-9), strict=True):
        layer = convergence.layer(at)
        peer.set_params(C=1 / (2 * l2 * len(split))).fit(X, split.labels)
        theirs = SoftmaxLayer(peer.coef_.T, peer.intercept_, SOFTMAX)
        found = [certify(of, standardizer, split, l2) for of in (layer, theirs)]
        gaps = [f"{of.cost / found[0].bound - 1:.1e}" for of in found]
        answers = [likeliest(of.logits(V)) for of in (layer, theirs)]
        right = [f"{np.count_nonzero(of == test.labels):,}" for of in answers]
        cells = [f"{l2:.4g}", *gaps, peer.n_iter_.max(), *right, np.count_nonzero(answers[0] != answers[1])]
        print("|", " | ".join(map(str, cells)), "|", flush=True)


def disk(gigabytes: float) -> None:
    """Print the speed of passes over a file that is five times as large as the memory, beside that of `cat`."""
    n = int(gigabytes * 1e9 / 3072)
    limit = n * 3072 // 5
    with tempfile.TemporaryDirectory(dir=".") as folder, limited(limit) as group:
        path = Path(folder).resolve() / "X.npy"
        make(path, n)
        kind = "a control group" if group else "RLIMIT_DATA, which does not count the pages of files"
        print(f"{n:,} rows of 3,072 pixels, {n * 3072 / 1e6:,.0f} MB; {limit / 1e6:.0f} MB allowed by {kind}\n")
        for what in ("cat", "solver", "cat"):  # others may use the disk too, more or less of it
            forget(path)
            if what == "solver":
                print(run([sys.executable, __file__, "--read", str(path)], group, limit))
                continue
            start = time.perf_counter()
            run(["sh", "-c", f"cat '{path}' > /dev/null"], group, limit)
            print(f"cat: {path.stat().st_size / (time.perf_counter() - start) / 1e9:.2f} GB/s\n")
        if group:
            print(f"the most that the group took: {group.peak() / 1e6:.0f} MB")


def read(path: Path) -> None:
    """Solve a problem on the rows of a file, and print the seconds and the speed of each part."""
    anonymous, split, at = AnonymousPeak(), read_splits(path).train, None
    times = [(time.perf_counter(), cpu_seconds(), 0.0, "")]
    standardizer = Standardizer.fit(split.row_blocks(BLOCK_ROWS))
    times.append((time.perf_counter(), cpu_seconds(), 1.0, "mean and deviation"))
    for at in Convergence(Rows(split, standardizer), SOFTMAX, 0.1).iterates(0.1, tol=GAP):
        read_before = sum(t[2] for t in times[2:])
        times.append((time.perf_counter(), cpu_seconds(), 2 * at.passes - read_before, f"iteration {at.iteration}"))
    print("| part | readings | seconds | CPU s | GB/s |\n|---|---|---|---|---|")
    for before, now in itertools.pairwise(times):
        seconds, used, speed = now[0] - before[0], now[1] - before[1], len(split) * 3072 / 1e9 * now[2]
        print(f"| {now[3]} | {now[2]:g} | {seconds:.1f} | {used:.1f} | {speed / seconds:.2f} |")
    print(f"\n{at and at.ended}; own memory {anonymous.bytes / 1e6:.0f} MB")


def main() -> None:
    cases = [*of_cifar(""), "agreement", "disk"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(cases)}; all by default")
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as for onelayer train --data")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the short ones")
    parser.add_argument("--patience", type=float, default=1800, help="seconds after which a turn is given up")
    parser.add_argument("--settings", type=Path, help="read and write the iterations that were found there")
    parser.add_argument("--gigabytes", type=float, default=2, help="size of the file of the case disk")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read)
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}; ", end="")
    print(f"load {os.getloadavg()[0]:.1f}")
    compared, comparison = of_cifar(arguments.data), Comparison(arguments)
    others: dict[str, Callable[[], None]] = {
        "agreement": lambda: agreement(arguments.data),
        "disk": lambda: disk(arguments.gigabytes),
    }
    for case in arguments.cases or cases:
        print(f"\n{case}\n", flush=True)
        if case in compared:
            print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
            comparison.run(compared[case])
        elif case in others:
            others[case]()
        else:
            parser.error(f"there is no case {case}; there are {', '.join(cases)}")


if __name__ == "__main__":
    main()
