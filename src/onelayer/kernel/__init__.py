"""The compiled kernel, or None where onelayer was installed without a compiler."""

from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from onelayer.errors import ConfigError

if TYPE_CHECKING:
    from . import _kernel as kernel
else:
    try:
        kernel = import_module("onelayer.kernel._kernel")
    except ModuleNotFoundError:
        kernel = None

__all__ = ["check_variant", "kernel", "takes"]


def takes(rows: np.ndarray) -> bool:
    """Return whether the kernel takes rows (n, d) as they are stored; it never copies a data set."""
    known = rows.dtype in (np.uint8, np.float16, np.float32) and rows.dtype.isnative
    return known and rows.flags.c_contiguous and rows.flags.aligned


def check_variant() -> None:
    """Raise a ConfigError if ONELAYER_KERNEL names an instruction set that this machine does not have."""
    try:
        kernel.variant()
    except ValueError as error:
        raise ConfigError(f"{error}; set it to one of these, or unset it") from None
