"""Data sets: their sources, formats and cache, and their division into splits."""

from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.formats.shards import write_manifest
from onelayer.data.protocols import split
from onelayer.data.sources import load, load_splits

__all__ = ["Dataset", "Split", "Splits", "load", "load_splits", "split", "write_manifest"]
