"""Processes of a command as torchrun starts them, forked from one that has PyTorch: loading it takes seconds."""

import atexit
import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as onelayer sets it before it loads PyTorch
END = 60  # seconds, of which starting takes most where the machine is busy
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["ranks", "torch.distributed", "onelayer.cli.main", "onelayer.training.train"])


def sum_tensors(seed: int, variables: dict[str, str], place: Path) -> None:
    """Write the sums of tensors of several shapes and types over all processes; each draws its own by seed and rank."""
    os.environ.update(variables)
    import torch

    from onelayer.torchrun import joined

    with joined() as processes:
        sums = [processes.sum_tensor(torch.from_numpy(array)).numpy() for array in arrays_of(seed, processes.rank)]
        np.savez(place, *sums)


def arrays_of(seed: int, rank: int) -> list[np.ndarray]:
    """Return arrays that a rank adds to those of the others: their sums depend on the order."""
    rng = np.random.default_rng((seed, rank))
    shapes = ((1,), (2,), (7, 3), (4, 6))
    return [(rng.standard_normal(s) * 10.0 ** rng.integers(-8, 8, s)).astype(t) for s in shapes for t in ("f4", "f8")]


def run_rank(words: list[str], variables: dict[str, str], folder: Path, said: Path) -> None:
    """Run a command in `folder`; its output goes to ``said.out``, its errors to ``said.err``."""
    os.chdir(folder)
    os.environ.update(variables)
    for number, suffix in ((1, ".out"), (2, ".err")):
        file = os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["onelayer", *words]
    from onelayer.__main__ import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001, as at the end of a process of its own
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    found = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**found, "OMP_NUM_THREADS": "1"}


def start_all(size: int, *words: object, folder: Path, more: dict[int, list[str]] | None = None) -> list[BaseProcess]:
    """Start `size` processes of a command, some of them with more words."""
    port, found = free_port(), []
    for rank in range(size):
        of_rank = [*map(str, words), *(more or {}).get(rank, [])]
        variables = environment(rank, size, port)
        found.append(forkserver.Process(target=run_rank, args=(of_rank, variables, folder, folder / f"rank-{rank}")))
        found[-1].start()
    return found


def ends_of(processes: list[BaseProcess], folder: Path) -> list[tuple[int, str, str]]:
    """Return exit code, output and errors of each process."""
    until = time.monotonic() + END
    try:
        for process in processes:
            process.join(until - time.monotonic())
            assert process.exitcode is not None, "a process waits for ever"
    finally:
        for process in processes:
            process.kill()
    said = [
        [(folder / f"rank-{rank}{suffix}").read_text() for suffix in (".out", ".err")] for rank in range(len(processes))
    ]
    return [(process.exitcode, *texts) for process, texts in zip(processes, said, strict=True)]
