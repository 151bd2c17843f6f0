"""Sums of PyTorch's tensors over processes, where the tensors are: by NCCL on GPUs, by gloo in the host's memory.

Neither library adds anything up. Each process gets its share of the numbers from all others, adds it up in the order of
the ranks, and sends the sum to all. So the bits depend neither on the library nor on the network, and a process sends
and receives as many bytes as in a ring.
"""

import hashlib
import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent import futures
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed

from onelayer.processes import Processes, gathered

PAUSE = 2e-5  # seconds between two looks at a GPU
dist: Any = torch.distributed  # it does not say what it exports


class Work(Protocol):
    """A message that is under way."""

    def wait(self, timeout: timedelta) -> object:
        """Return once it has come; after the timeout, raise a RuntimeError that says "Operation timed out"."""


Sent = Callable[[Callable[[], Work]], object]  # begins a message, and returns once it has come


def sum_in_order(tensor: torch.Tensor, size: int, sent: Sent, group: Any = None) -> torch.Tensor:
    """Return the sum of a tensor over the processes of a group, of the same shape and type in each.

    Parameters
    ----------
    tensor : tensor
        On a device of the group's library.
    size : int
        The number of processes.
    sent : callable
        Begins a message and waits for it.
    group : ProcessGroup, optional
        By default that of all processes.
    """
    numbers = tensor.reshape(-1)
    share = -(-len(numbers) // size)
    whole = numbers.new_zeros(size * share)
    whole[: len(numbers)] = numbers
    parts = torch.empty_like(whole)
    sent(lambda: on_device(dist.all_to_all_single(parts, whole, group=group, async_op=True), parts))
    of_ranks = parts.view(size, share)
    total = of_ranks[0].clone()
    for other in of_ranks[1:]:
        total += other
    sums = list(whole.view(size, share))
    sent(lambda: on_device(dist.all_gather(sums, total, group=group, async_op=True), total))
    return whole[: len(numbers)].view(tensor.shape)


def connect_gpus(processes: Processes, device: torch.device, timeout: timedelta, sent: Sent) -> Any:
    """Return a group of NCCL if each process has a GPU of its own, else None; all processes must ask.

    Parameters
    ----------
    processes : Processes
    device : torch.device
        That of this process.
    timeout : timedelta
        The longest that a message may take.
    sent : callable
        Waits for the connection.
    """
    gpu = ""
    if device.type == "cuda" and dist.is_nccl_available():
        known = torch.cuda.get_device_properties(device)
        gpu = f"{platform.node()} {getattr(known, 'uuid', device.index)}"
    digest = int.from_bytes(hashlib.sha256(gpu.encode()).digest()[:7]) if gpu else 0
    names = gathered(processes, np.array(digest, np.int64))
    if not names.all() or len(np.unique(names)) < processes.size:
        return None
    # Where a process has ended, NCCL would end the others with a page of its own; `sent` looks for such a process.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    group: futures.Future[Any] = futures.Future()

    def connect() -> None:
        try:
            found = dist.new_group(backend="nccl", timeout=timeout)
            first = torch.ones(processes.size, device=device)  # with the first messages, NCCL connects
            sum_in_order(first, processes.size, lambda begin: begin().wait(timeout), found)
            group.set_result(found)
        except BaseException as error:  # it is raised where the group is waited for
            group.set_exception(error)

    def begin() -> Work:
        # NCCL's calls wait for the other processes, for ever if one has ended.
        threading.Thread(target=connect, daemon=True).start()
        return _InThread(group)

    sent(begin)
    return group.result()


def on_device(work: Work, tensor: torch.Tensor) -> Work:
    """Return a message of which `wait` waits: that of NCCL lets only a stream of the GPU wait."""
    return _OnStream(work, tensor.device) if tensor.is_cuda else work


class _OnStream:
    """A message by NCCL to a CUDA device."""

    def __init__(self, work: Any, device: torch.device) -> None:
        work.wait()
        library: Any = torch.cuda  # whose constructors have no types
        self._event = library.Event()
        self._event.record(torch.cuda.current_stream(device))

    def wait(self, timeout: timedelta) -> None:
        until = time.monotonic() + timeout.total_seconds()
        while not self._event.query():
            if time.monotonic() > until:
                raise RuntimeError("Operation timed out")
            time.sleep(PAUSE)


class _InThread:
    """The result of a thread, waited for as a message is."""

    def __init__(self, result: "futures.Future[Any]") -> None:
        self._result = result

    def wait(self, timeout: timedelta) -> None:
        if not futures.wait([self._result], timeout.total_seconds()).done:
            raise RuntimeError("Operation timed out")
        self._result.result()  # an error of the thread is one of the message
