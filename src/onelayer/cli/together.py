"""Commands that several processes run together, and those that one process runs."""

import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from cyclopts.exceptions import CycloptsError

from onelayer.errors import ConfigError, OnelayerError, OnelayerWarning, UnitWarning

if TYPE_CHECKING:
    from onelayer.processes import Processes

TOGETHER = ("train", "resume", "probe")
SAYING = 3.0  # seconds in which the first process shows an error: torchrun stops all once one has ended


@contextmanager
def together(facts: Mapping[str, object]) -> Iterator["Processes"]:
    """Join the other processes, if there are any, and yield them; these facts and the versions must be the same in all.

    Raises
    ------
    ConfigError
        If they differ.
    """
    from onelayer.processes import require_same
    from onelayer.torchrun import joined

    with joined() as processes, warnings.catch_warnings():
        if processes.rank:  # rank 0 says them
            warnings.simplefilter("ignore", OnelayerWarning)
            warnings.simplefilter("error", UnitWarning)
        if processes.size > 1:  # `_versions` loads PyTorch
            require_same(processes, {**facts, "versions or processors": _versions()})
        yield processes


def require_one_process(command: str) -> None:
    """Raise a ConfigError if this is one of several processes, and the command is for one."""
    if command in TOGETHER or "RANK" not in os.environ:
        return
    from onelayer.torchrun import is_one_of_several

    if is_one_of_several():
        several = f"{', '.join(TOGETHER[:-1])} and {TOGETHER[-1]}"
        raise ConfigError(f"{command} runs in one process; start it without torchrun, which is for {several}")


@contextmanager
def said_once() -> Iterator[None]:
    """Let only the first process of a machine show an error that all have, such as one of the command line."""
    try:
        yield
    except (OnelayerError, CycloptsError):
        if "RANK" in os.environ:
            from onelayer.torchrun import is_first_here

            if not is_first_here():
                time.sleep(SAYING)
                raise SystemExit(2) from None
        raise


def _versions() -> tuple[object, ...]:
    """Return what decides the bits of a number, beside the data and the settings: all must decide alike."""
    from threadpoolctl import threadpool_info

    from onelayer.kernel import kernel

    packages = [version(name) for name in ("onelayer", "numpy", "torch")]
    blas = [library.get("architecture") for library in threadpool_info() if library["user_api"] == "blas"]
    return *packages, platform.machine(), None if kernel is None else kernel.variant(), blas
