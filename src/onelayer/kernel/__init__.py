"""The compiled kernel, or None where onelayer was installed without a compiler."""

from importlib import import_module
from types import ModuleType

kernel: ModuleType | None
try:
    kernel = import_module("onelayer.kernel._kernel")
except ModuleNotFoundError:
    kernel = None
