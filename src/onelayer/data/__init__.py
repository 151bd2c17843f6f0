"""Data sets: where they come from, what was read, and how it is divided."""

from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.protocols import split
from onelayer.data.sources import load, load_splits

__all__ = ["Dataset", "Split", "Splits", "load", "load_splits", "split"]
