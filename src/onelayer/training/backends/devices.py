"""PyTorch's devices: their names, the choice among them, their memory, and the digits of their products.

PyTorch is loaded by the functions that need it, and not with this module.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, cast

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.errors import ConfigError

KEPT_FREE = 0.1  # share of a device's free memory that is left to others, and to what PyTorch itself takes
GIB, MIB = 2**30, 2**20
# Words of PyTorch's errors about memory: of CUDA and MPS, of the CPU, and of cuBLAS, which has memory of its own.
FULL = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
MISSING = "needs PyTorch, which is not installed: run pip install 'onelayer[torch]'"
CPU_NUMBERS, GPU_NUMBERS = 2**21, 2**25
BESIDE = "LOCAL_RANK"  # the variable with the number of a process of torchrun on this machine; each takes another GPU

# GPUs work for one thread at a time: what is set for a block belongs to the process, and no other thread may start work
# while a CUDA graph is captured.
_alone = threading.RLock()


def devices_here() -> list[str]:
    """Return the names of the devices of this machine, the one first that ``auto`` takes."""
    import torch

    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return found + ["mps"] * torch.backends.mps.is_available() + ["cpu"]


def choose_device(asked: str) -> str:
    """Return the name of the device for a value of the setting `device`, with the number of a CUDA device.

    Raises
    ------
    ConfigError
        If this machine does not have it, or PyTorch is not installed.
    """
    if find_spec("torch") is None:
        raise ConfigError(f"the device {asked} {MISSING}")
    here = devices_here()
    gpus = [name for name in here if name.startswith("cuda")]
    beside = os.environ.get(BESIDE, "0")
    first = gpus[int(beside) % len(gpus)] if gpus and beside.isdecimal() else here[0]
    name = first if asked == "auto" or (asked == "cuda" and gpus) else asked
    if name not in here:
        why = f" ({_build()} is built without CUDA)" if asked.startswith("cuda") and _build() else ""
        raise ConfigError(f"PyTorch finds no device {asked} here{why}; take --device {' or '.join(here)}")
    return name


def settled_device(asked: str) -> str:
    """Return the value of the setting `device` that chooses the same device again, for processes side by side too."""
    name = choose_device(asked)
    return "cuda" if BESIDE in os.environ and asked in ("auto", "cuda") and name.startswith("cuda") else name


def _build() -> str:
    """Return the version of a PyTorch that is made without CUDA, or its like of AMD; else empty."""
    import torch

    return f"version {torch.__version__}" if not (torch.version.cuda or torch.version.hip) else ""


def obstacle_of(dataset: Dataset, config: TrainConfig) -> str | None:
    """Return `Backend.obstacle` of the backend torch; raise a ConfigError where the device does not exist."""
    if find_spec("torch") is None:
        return MISSING
    device = choose_device(config.device)
    if config.precision == "tf32" and not device.startswith("cuda"):
        return f"has no precision tf32 on the device {device}: leave precision out"
    if config.precision != "full" and config.dtype != "float32":
        return f"has no precision {config.precision} in {config.dtype}: take float32, or leave precision out"
    if config.precision == "bfloat16" and device.startswith("cuda") and _version() < (2, 8):
        return "has the precision bfloat16 from PyTorch 2.8 on: install a newer one, or leave precision out"
    if device == "mps" and config.dtype == "float64":
        return "does not do float64 on the device mps: take float32"
    if device == "mps" and dataset.rows.dtype == "float64":
        return f"takes no float64 rows on the device mps: store those of {dataset.name} as float32"
    return None


def _version() -> tuple[int, ...]:
    import torch

    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def in_words(config: TrainConfig) -> str:
    """Return the device, the model of an NVIDIA GPU, and fewer digits: ``cuda:0, NVIDIA H100 80GB HBM3, tf32``."""
    import torch

    device = choose_device(config.device)
    words = [device, torch.cuda.get_device_name(device)] if device.startswith("cuda") else [device]
    return ", ".join(words + [config.precision] * (config.precision != "full"))


def room_on(device: str) -> float:
    """Return the bytes that rows may take on a device. It is 0 on the CPU, which has them in memory already."""
    import torch

    if device.startswith("cuda"):
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, to be used again
        return (1 - KEPT_FREE) * (torch.cuda.mem_get_info(device)[0] + kept)
    if device == "mps":
        return (1 - KEPT_FREE) * (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 0.0


class Device:
    """A device of PyTorch, and what must be set while it works, so that it repeats its bits.

    Parameters
    ----------
    asked : str
        Value of the setting `device`.

    Attributes
    ----------
    name : str
    torch : torch.device
    exact : torch.dtype
        The type of sums over blocks: float64 where the device has it.
    numbers : int
        Numbers in a block of rows: what the cache of a CPU holds, or enough that launches take a GPU little time.
    stream : torch.cuda.Stream or None
        The stream of all work on a CUDA device.
    """

    def __init__(self, asked: str) -> None:
        import torch

        # cuBLAS repeats its bits in a workspace of a fixed size; it reads the variable when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.name, library = choose_device(asked), cast(Any, torch.cuda)
        self.torch, self._threads = torch.device(self.name), torch.get_num_threads()
        self.exact = torch.float32 if self.name == "mps" else torch.float64
        self.numbers = CPU_NUMBERS if self.name == "cpu" else GPU_NUMBERS
        self.stream = library.Stream(self.torch) if self.torch.type == "cuda" else None
        self._alone: AbstractContextManager[Any] = nullcontext() if self.name == "cpu" else _alone

    @contextmanager
    def working(
        self, what: str, needed: int, precision: str = "full", remedies: Sequence[str] = ("lower --batch-size",)
    ) -> Iterator[None]:
        """Set PyTorch up for a block, and leave it as it was; a full device is an error about `what`.

        Parameters
        ----------
        what : str
        needed : int
            The bytes that it needs beside the rows.
        precision : str
            Value of the setting `precision`.
        remedies : sequence of str
            What helps, beside another device.
        """
        import torch

        with ExitStack() as stack:
            stack.enter_context(self._alone)
            stack.enter_context(_one_thread(self._threads))
            if self.name != "cpu":
                stack.enter_context(_multiplying(precision))
            if self.stream is not None:
                stack.enter_context(torch.cuda.device(self.torch))
                stack.enter_context(torch.cuda.stream(self.stream))
            try:
                yield
            except RuntimeError as error:  # PyTorch has a class of its own for CUDA, and none for MPS
                if not any(words in str(error) for words in FULL):
                    raise
                raise ConfigError(self._full(what, needed, remedies)) from None

    def _full(self, what: str, needed: int, remedies: Sequence[str]) -> str:
        """Return the words of the error about a full device."""
        needs = f"the device {self.name} is out of memory: {what} needs about {_in_words(needed)} beside the rows"
        if self.name == "cpu":
            return f"{needs}; {', or '.join(remedies) or 'close other programs'}"
        helps = ", ".join([*remedies, "or take --device cpu"] if remedies else ["take --device cpu"])
        return f"{needs}, and {_in_words(room_on(self.name))} are free; {helps}"


def _in_words(size: float) -> str:
    """Return a number of bytes as ``1.5 GiB``, or as ``20 MiB``."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{max(size, 0) / MIB:,.0f} MiB"


@contextmanager
def _multiplying(precision: str) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to TF32 only for the precision tf32."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    # From PyTorch 2.9 on, the older switch cannot be read where the caller has set the newer one.
    newer = hasattr(matmul, "fp32_precision")
    name, values = ("fp32_precision", ("ieee", "tf32")) if newer else ("allow_tf32", (False, True))
    before = getattr(matmul, name)
    setattr(matmul, name, values[precision == "tf32"])
    try:
        yield
    finally:
        setattr(matmul, name, before)


@contextmanager
def _one_thread(after: int) -> Iterator[None]:
    """Keep PyTorch to one thread on the CPU, so that threads change no bits; `after` threads are set at the end.

    PyTorch has a number for each thread that calls it, so several threads of Python may do this at the same time.
    """
    import torch

    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(after)
