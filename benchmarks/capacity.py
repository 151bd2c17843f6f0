"""The capacity table of docs/scaling.md, and the model that it is computed from.

    python benchmarks/capacity.py [--rate 4.8e10] [--network 1.25e9] [--latency 1e-4]

A pass over n rows of d features with K classes, forwards and backwards, is 4 n d K operations. Each of W processes
does its share of them at `rate` operations in a second, and then sums the gradient: 8 (d K + K + 1) bytes, of which a
process sends 2 (W - 1) / W times as many over a network of `network` bytes in a second, in 2 (W - 1) messages of
`latency` seconds. The rate is that of one thread, as benchmarks/processes.py measures it.
"""

import argparse
import math
from dataclasses import dataclass

GB = 1e9
# Rows, features, bytes of a number, classes, processes.
CASES = (
    (50_000, 3_072, 1, 10, 1),
    (100_000, 768, 4, 100, 1),
    (100_000, 768, 4, 100, 2),
    (1_281_167, 768, 2, 1_000, 1),
    (1_281_167, 768, 2, 1_000, 8),
    (1_281_167, 768, 2, 1_000, 64),
    (14_000_000, 768, 2, 21_000, 64),
    (100_000_000, 1_024, 2, 1_000, 64),
    (1_000_000_000, 1_024, 2, 1_000, 64),
    (1_000_000_000, 1_024, 2, 1_000, 512),
)


@dataclass(frozen=True)
class Machine:
    """Operations in a second of a process of one thread, bytes in a second of its network, seconds of a message."""

    rate: float
    network: float
    latency: float


@dataclass(frozen=True)
class Case:
    """Rows n of d features, each number of this many bytes, K classes, and W processes."""

    n: int
    d: int
    itemsize: int
    K: int
    W: int

    @property
    def payload(self) -> int:
        """Bytes of the sum of a gradient, of the bias and of the loss."""
        return 8 * (self.d * self.K + self.K + 1)

    @property
    def sent(self) -> float:
        """Bytes that a process sends for a sum."""
        return 2 * (self.W - 1) / self.W * self.payload

    @property
    def rows(self) -> float:
        """Bytes of the rows of a process, in memory or on its disk."""
        return math.ceil(self.n / self.W) * self.d * self.itemsize

    @property
    def places(self) -> float:
        """Bytes in each process that grow with all rows: labels, places in the splits, an order, and the holder."""
        return (8 + 8 + 8 + 1) * self.n

    @property
    def layer(self) -> float:
        """Bytes of weights, their gradient and their sum."""
        return 3 * self.payload

    @property
    def scores(self) -> float:
        """Bytes that converged takes more: six arrays of scores in float32, and ten pairs of steps and changes."""
        return 6 * 4 * math.ceil(self.n / self.W) * self.K + min(20 * 8 * self.d * self.K, 2**29)

    def calculation(self, machine: Machine) -> float:
        """Seconds in which a process calculates its share of a pass."""
        return 4 * math.ceil(self.n / self.W) * self.d * self.K / machine.rate

    def communication(self, machine: Machine) -> float:
        """Seconds of a sum."""
        return self.sent / machine.network + 2 * (self.W - 1) * machine.latency

    def least_batch(self, machine: Machine) -> int:
        """Rows in a batch of SGD with which calculating a step takes as long as its sum."""
        return math.ceil(self.W * self.communication(machine) * machine.rate / (4 * self.d * self.K))


def table(machine: Machine) -> str:
    """Return the table in Markdown."""
    names = ("rows", "features", "classes", "processes", "rows of each", "sgd", "converged", "pass", "sum", "batch")
    lines = [f"| {' | '.join(names)} |", f"|{'---:|' * len(names)}"]
    for values in CASES:
        case = Case(*values)
        calculation, communication = case.calculation(machine), case.communication(machine)
        cells = [
            *(f"{number:,}" for number in (case.n, case.d, case.K, case.W)),
            *(_bytes(size) for size in (case.rows, case.places + case.layer, case.scores)),
            _seconds(calculation + communication),
            f"{100 * communication / (calculation + communication):.1f} %",
            f"{case.least_batch(machine):,}" if case.W > 1 else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _bytes(size: float) -> str:
    return f"{size / GB:.3g} GB" if size < 1e12 else f"{size / 1e12:.3g} TB"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=4.8e10)
    parser.add_argument("--network", type=float, default=1.25e9, help="bytes in a second; the default is 10 Gbit/s")
    parser.add_argument("--latency", type=float, default=1e-4)
    arguments = parser.parse_args()
    machine = Machine(**vars(arguments))
    print(
        f"{machine.rate:.3g} operations/s in a process, {machine.network:.3g} bytes/s, {machine.latency:g} s a message"
    )
    print()
    print(table(machine))


if __name__ == "__main__":
    main()
