"""The processes that torchrun started, as `Processes`: sums by PyTorch's gloo, and a watch over the other processes.

A collective of gloo ends with an error soon after a process of the same group has died, but the error does not say
which one; and where a whole machine is gone it never ends. So each process writes into the store of addresses, which
PyTorch keeps anyway, that it is still there, once a second, and, when it ends, why.
"""

import atexit
import os
import platform
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from onelayer.errors import ConfigError, OnelayerError, ProcessError
from onelayer.processes import ALONE, Processes
from onelayer.runs.claim import name_of_container, name_of_process
from onelayer.words import listed

OPENING = 20.0  # seconds in which rank 0 must answer
COMING = 60.0  # seconds in which the next process must come, once rank 0 answers
BEAT = 1.0  # seconds between two signs of life, and the longest that a sum waits before it looks for them
SILENT = 15.0  # seconds without a sign of life after which a process counts as lost
NOTICED = 10.0  # seconds in which others notice that a process has ended
READING = 5.0  # seconds in which others read why rank 0 ends, where the store of addresses ends with it
DIAGNOSIS = 18.0  # seconds in which a broken sum is explained
FOREVER = timedelta(days=30)  # a process may read or draw for long while others wait, as long as it lives
STOPPED = "it was stopped"
DONE, OF_ANOTHER = "done", "of another: "  # what is said at the end; before the reason, if that is another process


def is_one_of_several() -> bool:
    """Return whether torchrun, or the like, started this process with others."""
    size = os.environ.get("WORLD_SIZE", "")
    return "RANK" in os.environ and size.isdigit() and int(size) > 1


def is_first_here() -> bool:
    """Return whether no other process on this machine has a lower rank, as far as the environment tells."""
    return not is_one_of_several() or os.environ.get("LOCAL_RANK", os.environ["RANK"]) == "0"


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started, and yield them; alone, there is nothing to join.

    Of several processes that end with an error, the one of the lowest rank shows it, and the others exit.

    Raises
    ------
    ConfigError
        If PyTorch is not installed, the environment makes no sense, or the others do not come within half a minute.
    ProcessError
        If one of the others has ended before its work was done.
    """
    if not is_one_of_several():
        yield ALONE
        return
    processes = _open()
    try:
        yield processes
    except OnelayerError as error:
        _ignore_signals()  # torchrun stops all others as soon as one has ended
        processes.end(str(error), of_another=bool(processes.lost))
        _leave_at_once(2)
        if processes.another_says():
            raise SystemExit(2) from None
        raise
    except KeyboardInterrupt as stop:
        _ignore_signals()
        lost = processes.find_lost(BEAT)
        lost = "" if STOPPED in lost else lost
        processes.end(lost or STOPPED, of_another=bool(lost))
        _leave_at_once(128 + signal.SIGINT)
        if processes.another_says():
            raise SystemExit(128 + signal.SIGINT) from None
        raise type(stop)("; ".join(filter(None, [lost, str(stop) or "stopped"]))) from None
    except BaseException as error:
        processes.end(f"{type(error).__name__}: {error}")
        _leave_at_once(1)
        raise
    else:
        processes.end(DONE)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _leave_at_once(code: int) -> None:
    """Let this process end without tidying up: gloo would wait for a sum that never comes, or abort the process."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)


def _open() -> "TorchProcesses":
    rank, size, host, port = _environment()
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it says more than a page where a process has ended
    try:
        import torch.distributed
    except ModuleNotFoundError:
        raise ConfigError("several processes need PyTorch; install onelayer[torch], or start one process") from None
    if not serves:  # PyTorch is loaded by now, as rank 0 must load it before it answers
        _require_answer(rank, host, port)
    dist: Any = torch.distributed  # it does not say what it exports

    def connect(serves: bool) -> Any:
        store = dist.TCPStore(host, port, None, serves, timedelta(seconds=OPENING), wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"onelayer/{attempt}", store)

    try:
        store, watch = connect(serves), connect(False)
    except (RuntimeError, ValueError, OSError) as error:
        what = f"rank {rank}: {host}:{port} (MASTER_ADDR, MASTER_PORT) cannot be used ({_first_line(error)})"
        raise ConfigError(f"{what}; choose a free port of the machine of rank 0, or start with torchrun") from None
    try:
        _wait_for_all(rank, size, watch)
        gloo = dist.PrefixStore("gloo", store)
        dist.init_process_group("gloo", store=gloo, rank=rank, world_size=size, timeout=FOREVER)
        return TorchProcesses(rank, size, watch, serves)
    except RuntimeError as error:
        what = f"rank {rank}: the processes cannot be connected ({_first_line(error)})"
        raise ConfigError(f"{what}; start all at once, and name this machine's network in GLOO_SOCKET_IFNAME") from None


def _environment() -> tuple[int, int, str, int]:
    """Return rank, number of processes, and host and port of rank 0."""
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = [os.environ.get(name, "") for name in wanted]
    rank, size, host, port = values
    if not (rank.isdigit() and host and port.isdigit() and int(rank) < int(size)):
        found = " ".join(f"{name}={value}" for name, value in zip(wanted, values, strict=True))
        raise ConfigError(f"the environment does not tell where the other processes are ({found}); start with torchrun")
    return int(rank), int(size), host, int(port)


def _require_answer(rank: int, host: str, port: int) -> None:
    """Wait until something answers at the place of rank 0."""
    until = time.monotonic() + OPENING
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(0.1, until - time.monotonic())):
                return
        except (OSError, OverflowError) as error:
            if time.monotonic() + 0.2 > until:
                what = f"rank {rank}: nobody answers at {host}:{port} (MASTER_ADDR, MASTER_PORT; {error})"
                raise ConfigError(f"{what}; start rank 0 there, or start all with torchrun") from None
        time.sleep(0.2)


def _wait_for_all(rank: int, size: int, store: Any) -> None:
    """Come, and wait until the others have: as long as one comes every now and then."""
    for key, value in ((f"alive/{rank}", "0"), (f"ended/{rank}", ""), (f"came/{rank}", _self())):
        store.set(key, value)
    before, until = size, 0.0
    while missing := [other for other in range(size) if not store.check([f"came/{other}"])]:
        if len(missing) < before:
            before, until = len(missing), time.monotonic() + COMING
        if time.monotonic() > until:
            who = f"rank{'s' * (len(missing) > 1)} {listed(map(str, missing))}"
            raise ConfigError(f"rank {rank}: {who} of {size} processes did not come; start all at once, with torchrun")
        time.sleep(0.05)


def _self() -> str:
    """Return host, process number and start of this process."""
    return "\n".join([platform.node(), name_of_container(), str(os.getpid()), name_of_process(os.getpid()) or ""])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


class TorchProcesses:
    """The processes of a group of gloo.

    Parameters
    ----------
    rank, size : int
    store : torch.distributed.Store
        The place of signs of life; for this object alone, as waiting for a key would hold others up.
    serves : bool
        Whether the store ends with this process.

    Attributes
    ----------
    lost : str
        What is said of a process that has ended too soon; empty as long as none has.
    traffic : Counter
        Messages so far and their bytes: "sums", "bytes of sums", and the like for tensors, of which each sum takes two
        messages, and broadcasts.
    """

    def __init__(self, rank: int, size: int, store: Any, serves: bool = False) -> None:
        self.rank, self.size, self._store, self._serves = rank, size, store, serves
        self.lost = ""
        self.traffic: Counter[str] = Counter()
        self._others = [other for other in range(size) if other != rank]
        self._known = {other: store.get(f"came/{other}").decode().split("\n") for other in self._others}
        self._here = _self().split("\n")[:2]
        self._gpus: Any = None  # the group of NCCL, or False once it is known that there is none
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def sum(self, array: np.ndarray) -> np.ndarray:
        import torch
        import torch.distributed as dist

        total = np.array(array, order="C")  # a copy, which the sum takes the place of
        self._wait("sum", total.nbytes, lambda: dist.all_reduce(torch.from_numpy(total), async_op=True))
        return total

    def sum_tensor(self, tensor: Any) -> Any:
        from onelayer.torchsums import connect_gpus, sum_in_order

        def sent(begin: Callable[[], Any]) -> None:
            self._wait("tensor", tensor.nbytes, begin)

        if self._gpus is None:
            connected = partial(self._wait, "connection", 0)
            self._gpus = connect_gpus(self, tensor.device, FOREVER, connected) or False
        if self._gpus:
            return sum_in_order(tensor, self.size, sent, self._gpus)
        return sum_in_order(tensor.cpu(), self.size, sent).to(tensor.device)

    def broadcast(self, array: np.ndarray) -> np.ndarray:
        import torch
        import torch.distributed as dist

        sent = np.array(array, order="C")
        self._wait("broadcast", sent.nbytes, lambda: dist.broadcast(torch.from_numpy(sent), 0, async_op=True))
        return sent

    def end(self, why: str, of_another: bool = False) -> None:
        """Say why this process ends, and whether that is the end of another one; stop the signs of life."""
        with suppress(RuntimeError):
            with self._lock:
                self._store.set(f"ended/{self.rank}", OF_ANOTHER * of_another + (why or "an error"))
            until = time.monotonic() + READING * (self._serves and why != DONE)
            while time.monotonic() < until and not all(end or self._is_gone(other) for other, end, _ in self._signs()):
                time.sleep(0.05)
        self._ended.set()
        self._beating.join(2 * BEAT)  # a thread in the middle of a call would abort the process when Python ends

    def another_says(self) -> bool:
        """Return whether a process of a lower rank ends with an error, too, which it says; it may take a moment."""
        until = time.monotonic() + NOTICED
        named = re.findall(r"\brank (\d+)\b(?: \([^)]*\) (has ended: ))?", self.lost)
        lost = {int(other): said for other, said in named if int(other) < self.rank}
        if any(lost.values()):  # it gave its reason to the others, and says it itself
            return True
        lower = [other for other in range(self.rank) if other not in lost]
        while lower and time.monotonic() < until:
            gone = {other for other in lower if self._is_gone(other)}  # looked at first, as it may say why and go
            try:
                said = {other: end for other, end, _ in self._signs() if other in lower}
            except RuntimeError:  # the keeper of the store has ended: rank 0, which said why
                return True
            if any(text not in ("", DONE) for text in said.values()):
                return True
            lower = [other for other, text in said.items() if not text and other not in gone]
            time.sleep(0.05)
        return False

    def find_lost(self, seconds: float) -> str:
        """Return what is known of a process that has ended too soon, or empty if none is found in this time."""
        until = time.monotonic() + seconds
        while True:
            try:
                lost = [found for signs in self._signs() if (found := self._why_lost(*signs))]
                lost = [found for found in lost if not found.startswith(OF_ANOTHER)] or lost  # the cause
            except RuntimeError:
                lost = self._end_of_the_store()
            if lost:
                self.lost = "; ".join(dict.fromkeys(text.removeprefix(OF_ANOTHER) for text in lost))
                return self.lost
            if time.monotonic() >= until:
                return ""
            time.sleep(0.1)

    def _wait(self, name: str, size: int, begin: Callable[[], Any]) -> None:
        self.traffic.update({f"{name}s": 1, f"bytes of {name}s": size})
        try:
            work = begin()
            while True:
                try:
                    work.wait(timedelta(seconds=BEAT))
                    return
                except RuntimeError as error:
                    if "Operation timed out" not in str(error):
                        raise
                if self.find_lost(0):
                    raise ProcessError(self.lost)
        except RuntimeError as error:
            lost = self.find_lost(DIAGNOSIS) or f"the connection to the others broke ({_first_line(error)})"
            self.lost = lost
            raise ProcessError(lost) from None

    def _signs(self) -> list[tuple[int, str, bytes]]:
        """Return what each other process said at its end, empty if it goes on, and its last sign of life.

        One request brings those of all: each of hundreds of processes asks for them every second.
        """
        keys = [f"{sign}/{other}" for sign in ("ended", "alive") for other in self._others]
        with self._lock:
            found = self._store.multi_get(keys)
        ends, beats = found[: len(self._others)], found[len(self._others) :]
        return [(other, end.decode(), beat) for other, end, beat in zip(self._others, ends, beats, strict=True)]

    def _why_lost(self, other: int, said: str, beat: bytes) -> str:
        """Return what is known of another process, in words, if it has ended too soon; else empty."""
        if said == DONE:
            return ""
        if said.startswith(OF_ANOTHER):
            return said
        if said:
            return f"{self._name(other)} has ended: {said}"
        if self._is_gone(other):
            return self._killed(other)
        now = time.monotonic()
        last, since = self._heard.get(other, (b"", now))
        if beat != last:
            self._heard[other] = beat, now
            return ""
        return f"{self._name(other)} gives no sign of life" if now - since > SILENT else ""

    def _name(self, other: int) -> str:
        host, _, pid, _ = self._known[other]
        return f"rank {other} (process {pid} on {host})"

    def _killed(self, other: int) -> str:
        return f"{self._name(other)} has ended before its work was done, perhaps killed"

    def _end_of_the_store(self) -> list[str]:
        """Return who has ended and took the store along; a process closes its connections before it counts as ended."""
        until = time.monotonic() + 2 * BEAT
        while not (gone := [self._killed(other) for other in self._others if self._is_gone(other)]):
            if time.monotonic() > until:
                return ["rank 0, or torchrun beside it, has ended before its work was done"]
            time.sleep(0.05)
        return gone

    def _is_gone(self, other: int) -> bool:
        """Return whether another process of this machine has ended."""
        *place, pid, process = self._known[other]
        return place == self._here and name_of_process(int(pid)) != process

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT):
            beat += 1
            try:
                with self._lock:
                    self._store.set(f"alive/{self.rank}", str(beat))
            except RuntimeError:  # the keeper of the store has ended; a sum will tell
                return
