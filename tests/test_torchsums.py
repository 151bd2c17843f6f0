"""Sums of tensors over processes: their order, over gloo here, and what is asked of GPUs."""

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import ranks
from helpers import toy_dataset
from threads import in_threads

from onelayer import torchrun
from onelayer.config import TrainConfig
from onelayer.data.sources import load_splits
from onelayer.errors import ProcessError
from onelayer.runs.directory import Run
from onelayer.training.train import train

torch = pytest.importorskip("torch")
from onelayer import torchsums  # noqa: E402, it needs PyTorch
from onelayer.processes import Processes  # noqa: E402


@pytest.mark.parametrize("size", [2, 3])
def test_tensors_are_added_up_in_the_order_of_the_ranks(size: int, tmp_path: Path):
    port = ranks.free_port()
    processes = [
        ranks.forkserver.Process(
            target=ranks.sum_tensors, args=(5, ranks.environment(rank, size, port), tmp_path / str(rank))
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(ranks.END)
        assert process.exitcode == 0
    for place, arrays in enumerate(zip(*(ranks.arrays_of(5, rank) for rank in range(size)), strict=True)):
        expected = arrays[0]
        for array in arrays[1:]:
            expected = expected + array
        for rank in range(size):
            found = np.load(tmp_path / f"{rank}.npz")[f"arr_{place}"]
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(("solver", "limit", "tolerance"), [("sgd", "epochs", 1e-12), ("converged", "tol", 1e-6)])
def test_processes_with_a_device_each_train_as_one(solver: str, limit: str, tolerance: float, tmp_path: Path):
    dataset, value = toy_dataset(200, None, dtype="float32"), {"epochs": 3, "tol": 1e-10}[limit]
    np.savez(tmp_path / "toy.npz", X=dataset.rows, y=dataset.labels)
    words = ["train", "--data", "toy.npz", "--out", "run", "--solver", solver, "--l2", "0.05", "--dtype", "float64"]
    words += ["--backend", "torch", "--device", "cpu", "--no-figures", f"--{limit}", value]
    ends = ranks.ends_of(ranks.start_all(2, *words, folder=tmp_path), tmp_path)
    assert [(code, error) for code, _, error in ends] == [(0, ""), (0, "")]
    config = TrainConfig(solver=solver, l2=0.05, dtype="float64", backend="numpy", **{limit: value})
    one = train(load_splits(tmp_path / "toy.npz"), config).model.layer.weights
    found = Run.open(tmp_path / "run").model.layer.weights
    assert np.abs(found - one).max() < tolerance * np.abs(one).max()


@pytest.mark.parametrize(
    ("gpus", "connected"), [(["a", "b", "c"], True), (["a", "b", "a"], False), (["a", "b", None], False)]
)
def test_nccl_connects_processes_that_have_a_gpu_each(
    gpus: list[str | None], connected: bool, monkeypatch: pytest.MonkeyPatch
):
    """NCCL does not connect two processes on one GPU; then, and if one has no GPU, all go by the hosts."""
    made, sums = [], []
    monkeypatch.setattr(torchsums.dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torchsums.dist, "new_group", lambda **options: made.append(options) or "a group")
    monkeypatch.setattr(torch, "ones", lambda size, device: (size, str(device)))
    monkeypatch.setattr(torchsums, "sum_in_order", lambda first, size, sent, group: sums.append((*first, size, group)))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=gpus[device.index]))
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")

    def work(processes: Processes) -> object:
        rank = processes.rank
        device = torch.device("cpu") if gpus[rank] is None else torch.device("cuda", rank)
        day = timedelta(days=1)
        return torchsums.connect_gpus(processes, device, day, lambda begin: begin().wait(day))

    assert in_threads(3, work) == ["a group" if connected else None] * 3
    assert made == [{"backend": "nccl", "timeout": timedelta(days=1)}] * (3 * connected)
    assert sorted(sums) == [(3, f"cuda:{rank}", 3, "a group") for rank in range(3)] * connected


@pytest.mark.parametrize("fault", ["a process ends while NCCL waits for it", "NCCL cannot connect"])
def test_a_connection_of_gpus_that_fails_is_an_error(fault: str, monkeypatch: pytest.MonkeyPatch):
    """NCCL itself would wait for ever."""
    waiting = Event()

    def new_group(**options: object) -> object:
        if fault == "NCCL cannot connect":
            raise RuntimeError("NCCL error: unhandled system error")
        waiting.wait(15)
        return "a group"

    monkeypatch.setattr(torchsums.dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torchsums.dist, "new_group", new_group)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(torchrun, "BEAT", 0.05)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    processes = object.__new__(torchrun.TorchProcesses)
    processes.rank, processes.size, processes.traffic, processes._gpus = 0, 1, Counter(), None
    processes.sum = lambda array: array
    processes.find_lost = lambda seconds: "" if "NCCL cannot" in fault else "rank 1 has ended"
    expected = "NCCL error: unhandled" if "NCCL cannot" in fault else "^rank 1 has ended$"
    processes.lost = "rank 1 has ended"
    began = time.monotonic()
    try:
        with pytest.raises(ProcessError, match=expected):
            processes.sum_tensor(SimpleNamespace(device=torch.device("cuda", 0), nbytes=8))
    finally:
        waiting.set()
    assert time.monotonic() - began < 10


def test_a_message_to_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """NCCL's own `wait` returns at once; a process that has ended is looked for after each timeout."""
    answers, asked = iter([False] * 3 + [True]), []

    class Event:
        def record(self, stream: str) -> None:
            asked.append(stream)

        def query(self) -> bool:
            return next(answers)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    nccl = SimpleNamespace(wait=lambda: asked.append("wait"))
    work = torchsums.on_device(nccl, SimpleNamespace(is_cuda=True, device="cuda:1"))
    assert asked == ["wait", "stream of cuda:1"]
    with pytest.raises(RuntimeError, match="Operation timed out"):
        work.wait(timedelta(seconds=-1))
    work.wait(timedelta(seconds=5))
    assert next(answers, "none left") == "none left"
    assert torchsums.on_device(nccl, torch.zeros(1)) is nccl
