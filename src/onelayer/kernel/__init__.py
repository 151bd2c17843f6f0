"""The compiled kernel, or None where onelayer was installed without a compiler."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import _kernel as kernel
else:
    try:
        kernel = import_module("onelayer.kernel._kernel")
    except ModuleNotFoundError:
        kernel = None

__all__ = ["kernel"]
