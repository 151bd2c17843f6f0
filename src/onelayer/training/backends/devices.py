"""PyTorch's devices: their names, the choice among them, their memory, and the digits of their products.

PyTorch is loaded by the functions that need it, and not with this module.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.errors import ConfigError

if TYPE_CHECKING:
    import torch

KEPT_FREE = 0.1  # share of a device's free memory that is left to others, and to what PyTorch itself takes
GIB = 2**30


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
        If this machine does not have it.
    """
    here = devices_here()
    name = here[0] if asked == "auto" else "cuda:0" if asked == "cuda" else asked
    if name not in here:
        raise ConfigError(f"PyTorch finds no device {asked} here; take --device {' or '.join(here)}")
    return name


def obstacle_of(dataset: Dataset, config: TrainConfig) -> str | None:
    """Return `Backend.obstacle` of the backend torch; raise a ConfigError where the device does not exist."""
    if find_spec("torch") is None:
        return "needs PyTorch, which is not installed: run pip install 'onelayer[torch]'"
    device = choose_device(config.device)
    if config.precision == "tf32" and not device.startswith("cuda"):
        return f"has no precision tf32 on the device {device}: leave --precision out"
    if config.precision != "full" and config.dtype != "float32":
        return f"has no precision {config.precision} in {config.dtype}: leave --dtype or --precision out"
    if device == "mps" and config.dtype == "float64":
        return "does not do float64 on the device mps: leave --dtype out"
    if device == "mps" and dataset.rows.dtype == "float64":
        return f"takes no float64 rows on the device mps: store those of {dataset.name} as float32"
    return None


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
        return (1 - KEPT_FREE) * torch.cuda.mem_get_info(device)[0]
    if device == "mps":
        return (1 - KEPT_FREE) * (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 0.0


@contextmanager
def explained(device: str, what: str, needed: int) -> Iterator[None]:
    """Turn PyTorch's error for a full device into a ConfigError about what needs so many bytes."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError:
        free = room_on(device) / GIB
        said = f"the device {device} is out of memory: {what} needs about {needed / GIB:.1f} GiB beside the rows"
        raise ConfigError(f"{said}, and {free:.1f} GiB are free; lower --batch-size, or take --device cpu") from None


def prepare(device: str) -> "torch.device":
    """Return PyTorch's device, which is to repeat its bits."""
    import torch

    # cuBLAS repeats its bits in a workspace of a fixed size; it reads the variable when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(device)


@contextmanager
def multiplying(precision: str) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to TF32 only for the precision tf32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread(after: int) -> Iterator[None]:
    """Keep PyTorch to one thread on the CPU, so that threads change no bits; `after` threads are set at the end.

    PyTorch has a number for each thread that calls it, so several threads of Python may do this at the same time.
    """
    import torch

    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(after)
