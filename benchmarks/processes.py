"""Several processes: the speed of passes over divided rows, what they send, and what is left where some are killed.

    python benchmarks/processes.py [--processes 2] [--rounds 9] [--rows 100000] [--features 768] [--classes 100]
    python benchmarks/processes.py --kills 10

Passes take turns in the same processes, of one thread each: all with the sum over processes, all without it, and one
process alone with all rows. As root on Linux, each process has a network namespace of its own, as a host would have,
with a wire to a switch, whose counters say what was sent; elsewhere they use the loopback. Figures are medians.

`--kills` trains in three processes, kills one of them at a random moment, resumes with one to three processes, and so
on; then it compares the model with that of a run that was left alone.
"""

import argparse
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from capacity import Case

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Holding, Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.processes import Processes, share
from onelayer.runs.directory import Run
from onelayer.torchrun import TorchProcesses, joined
from onelayer.training.backends.native import NativeBackend
from onelayer.training.backends.shared import SharedBackend

WIRE = "onelayer0"


@contextmanager
def hosts(count: int) -> Iterator[list[tuple[list[str], dict[str, str]]]]:
    """Yield the words before a command, and the environment, of processes on hosts of their own, as far as possible."""
    mark, made = secrets.token_hex(2), []
    names = [f"onelayer-{mark}-{number}" for number in range(count)]
    try:
        try:
            for name in (switch := f"onelayer-{mark}", *names):
                _ip("netns", "add", name)
                made.append(name)
            _ip("-n", switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", switch, "link", "set", "switch", "up")
            for number, name in enumerate(names):
                _ip(
                    "link", "add", WIRE, "netns", name, "type", "veth", "peer", "name", f"port{number}", "netns", switch
                )
                _ip("-n", switch, "link", "set", f"port{number}", "master", "switch", "up")
                _ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", WIRE)
                _ip("-n", name, "link", "set", WIRE, "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError):
            yield [([], {"MASTER_ADDR": "127.0.0.1"})] * count
            return
        at = {"MASTER_ADDR": "10.77.0.1", "GLOO_SOCKET_IFNAME": WIRE}
        yield [(["ip", "netns", "exec", name], at) for name in names]
    finally:
        for name in made:
            _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: S607


def start(places: list[tuple[list[str], dict[str, str]]], *words: str) -> list[subprocess.Popen]:
    """Start a process of Python on each host."""
    port, size = str(20_000 + secrets.randbelow(10_000)), str(len(places))
    of_all = {
        **os.environ,
        "WORLD_SIZE": size,
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [*before, sys.executable, *words],
            env={**of_all, **more, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (before, more) in enumerate(places)
    ]


def rows_of(n: int, d: int, K: int, processes: Processes) -> tuple[Dataset, Dataset]:
    """Return a data set of which this process holds its share, and in rank 0 the whole one."""
    mine, first = share(n, processes.rank, processes.size), processes.rank == 0
    rows = np.zeros((n, d), np.float32)
    for start in range(0, n, 1000):
        if first or mine.start - 1000 < start < mine.stop:
            rows[start : start + 1000] = np.random.default_rng(start).standard_normal(
                (min(1000, n - start), d), np.float32
            )
    labels = np.random.default_rng(1).integers(0, K, n)
    names = tuple(map(str, range(K)))
    whole = Dataset(rows, labels, names, None, "noise")
    held = np.zeros(n, bool)
    held[mine] = True
    return replace(whole, holding=Holding(processes, held, complete=first)), whole


def measure(n: int, d: int, K: int, rounds: int) -> None:
    """Take the passes, in each of the processes; rank 0 prints."""
    with joined() as processes:
        assert isinstance(processes, TorchProcesses)
        divided, whole = rows_of(n, d, K, processes)
        config = TrainConfig(solver="converged", l2=1e-3)
        standardizer = Standardizer(np.zeros(d), np.ones(d), np.zeros(d, bool))
        layer = SoftmaxLayer.initial(d, K, np.random.default_rng(0), init_std=0.01, dtype="float32")

        def opened(dataset: Dataset, shared: bool) -> Callable[[], object]:
            split = Split("train", dataset, np.arange(n))
            splits = Splits(split, split, split, "made")
            if shared:
                backend = SharedBackend(NativeBackend, splits, config, standardizer, layer)
                return lambda: backend.objective(layer, split, bool)
            inner = NativeBackend(splits, config, standardizer, layer)
            return lambda: inner.objective(layer, split.mine, bool)

        works = [opened(divided, True), opened(divided, False), opened(whole, False)]
        times, answers = np.zeros((2, rounds + 1, 3)), []
        for turn in range(rounds + 1):
            for place, work in enumerate(works):
                processes.sum(np.zeros(1))
                before, sent = dict(processes.traffic), _sent()
                began, used = time.perf_counter(), time.process_time()
                if place < 2 or processes.rank == 0:
                    answer = work()
                times[:, turn, place] = time.perf_counter() - began, time.process_time() - used
                if place == 0:
                    payload = processes.traffic["bytes of sums"] - before["bytes of sums"]
                    wired = _sent() - sent
                if place != 1 and processes.rank == 0 and turn == 0:
                    answers.append(answer)
        slowest = np.array([_gathered(processes, row).max(axis=0) for row in times[0, 1:].T])  # (3, rounds)
        parts = _time_of_parts(processes, d * K, rounds)
        if processes.rank:
            return
        together, apart, alone = np.median(slowest, axis=1)
        used = np.median(times[1, 1:], axis=0)
        W, case, work = processes.size, Case(n, d, 4, K, processes.size), 4 * n * d * K
        print(f"{n:,} rows x {d:,} features x {K:,} classes, {W} processes of one thread, {rounds} turns, medians:")
        print(f"one process alone {1e3 * alone:.0f} ms; CPU {1e3 * used[2]:.0f} ms, {work / used[2] / 1e9:.1f} Gflop/s")
        print(
            f"{W} with the sum {1e3 * together:.0f} ms: {np.median(slowest[2] / slowest[0]):.2f} times the speed of one"
        )
        print(f"{W} without {1e3 * apart:.0f} ms: with it, {np.median(slowest[1] / slowest[0]):.3f} of their speed")
        print(f"CPU of rank 0 with the sum {1e3 * used[0]:.0f} ms, without {1e3 * used[1]:.0f} ms")
        print(f"bytes of the sum: {payload:,}; of the model: {case.payload:,}")
        if wired:
            print(f"bytes on the wire of rank 0: {wired:,}; of the model: {case.sent:,.0f}")
        print(f"sums of 8 parts in place of one cost {1e3 * parts:.1f} ms a pass more, {100 * parts / together:.1f} %")
        (one, dW, _), (other, dV, _) = answers
        print(f"the costs differ by {abs(one - other) / other:.1e}, ", end="")
        print(f"the gradients by {np.abs(dW - dV).max() / np.abs(dV).max():.1e}")


def _gathered(processes: Processes, row: np.ndarray) -> np.ndarray:
    placed = np.zeros((processes.size, len(row)))
    placed[processes.rank] = row
    return processes.sum(placed)


def _time_of_parts(processes: Processes, numbers: int, rounds: int) -> float:
    """Return by how much a sum of eight times as many numbers takes longer."""
    seconds = np.zeros((rounds, 2))
    for turn in range(rounds):
        for place, size in enumerate((numbers, 8 * numbers)):
            array = np.ones(size)
            processes.sum(np.zeros(1))
            began = time.perf_counter()
            processes.sum(array)
            seconds[turn, place] = time.perf_counter() - began
    return float(np.median(seconds[:, 1] - seconds[:, 0]))


def _sent() -> int:
    """Return the bytes that this host has sent through its wire; 0 where there is none."""
    counter = Path(f"/sys/class/net/{WIRE}/statistics/tx_bytes")
    try:  # a process in a namespace of its own sees the counters of another one in /sys
        lines = Path("/proc/net/dev").read_text().splitlines()
        fields = next(line.split(":")[1].split() for line in lines if line.strip().startswith(f"{WIRE}:"))
        return int(fields[8])
    except (OSError, StopIteration):
        return int(counter.read_text()) if counter.exists() else 0


def kill(times: int, seed: int) -> None:
    """Train, kill one of the processes, resume, and so on; then compare with a run that was left alone."""
    rng = random.Random(seed)  # noqa: S311
    words = ["train", "--data", "digits", "--epochs", "1000000", "--batch-size", "100", "--no-figures", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        run, done = Run(Path(folder) / "killed"), 0
        begin = [*words, "--out", str(run.path)]
        while done < times:
            count = rng.choice((2, 3))
            with hosts(count) as places:
                processes = start(places, "-m", "onelayer", *begin)
                before = _written(run)
                while _written(run) == before and all(process.poll() is None for process in processes):
                    time.sleep(0.05)  # until it trains
                begin = ["resume", str(run.path), "--epochs", "1000000", "--no-figures", "--quiet"]
                time.sleep(rng.uniform(0, 5))
                victim = rng.randrange(count)
                if processes[victim].poll() is not None:
                    continue  # it has ended by itself
                processes[victim].kill()
                began = time.monotonic()
                ends = [process.communicate(timeout=60)[1] for process in processes]
                seconds = time.monotonic() - began
            said = [line for rank, end in enumerate(ends) if rank != victim for line in end.splitlines()]
            named = all(f"rank {victim}" in line for line in said) and bool(said)
            epochs = run.read_checkpoint()[1].epoch
            done += 1
            print(f"killed rank {victim} of {count}: the others ended in {seconds:.1f} s, ", end="")
            print(f"in {len(said)} line(s) that name it: {named}; {epochs} epochs kept", flush=True)
            if not named:
                print(*said, sep="\n")
        epochs = run.read_checkpoint()[1].epoch + 2
        of_both = [str(epochs), "--no-figures", "--quiet"]
        subprocess.run([sys.executable, "-m", "onelayer", "resume", str(run.path), "--epochs", *of_both], check=True)
        other = Run(Path(folder) / "alone")
        command = [
            sys.executable,
            "-m",
            "onelayer",
            "train",
            "--data",
            "digits",
            "--batch-size",
            "100",
            "--out",
            str(other.path),
        ]
        subprocess.run([*command, "--epochs", *of_both], check=True)
        ours, theirs = (one.read_checkpoint()[1].layer.weights for one in (run, other))
        print(f"after {epochs} epochs, the weights differ by {np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}")


def _written(run: Run) -> int:
    """Return when the checkpoint was written, in nanoseconds; 0 if there is none."""
    return run.checkpoint_path.stat().st_mtime_ns if run.checkpoint_path.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("processes", 2), ("rounds", 9), ("rows", 100_000), ("features", 768), ("classes", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        measure(arguments.rows, arguments.features, arguments.classes, arguments.rounds)
    elif arguments.kills:
        kill(arguments.kills, arguments.seed)
    else:
        with hosts(arguments.processes) as places:
            print("each process has a host of its own" if places[0][0] else "all processes share a host")
            for process in start(places, *sys.argv):
                out, error = process.communicate()
                print(out, end="")
                if process.returncode:
                    print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
