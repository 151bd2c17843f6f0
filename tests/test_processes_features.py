"""Features of rows that are divided among processes, which are threads here: each computes those of its own rows."""

from pathlib import Path

import numpy as np
import pytest
from helpers import toy_splits
from threads import in_threads

from onelayer.coded import coded
from onelayer.data import cache
from onelayer.data.dataset import Splits
from onelayer.data.division import divided
from onelayer.features.map import FeatureMap
from onelayer.processes import Processes


class Views(FeatureMap):
    """Two views of a row: as it is, and times two. It counts the rows that it has seen."""

    name, image_shape, linear, views, d_in, d_out = "views", None, False, 2, 60, 60

    def __init__(self) -> None:
        self.seen = 0

    def transform(self, R: np.ndarray) -> np.ndarray:
        self.seen += len(R)
        return np.stack([R, 2 * R], axis=1).reshape(-1, 60)


@pytest.mark.parametrize("large", [False, True])
def test_each_process_computes_the_features_of_its_rows(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "cache_directory", lambda: tmp_path)
    if large:
        monkeypatch.setattr(cache, "MEMORY_BYTES", 100)
    splits = toy_splits(n=1300, dtype="float32")  # in several blocks
    expected = coded(splits, Views())

    def work(processes: Processes) -> tuple[Splits, int]:
        features, own = Views(), divided(splits, processes)
        coded(own, features)
        return coded(own, features), features.seen  # which rank 0 asks for again, to judge: they are kept

    parts = in_threads(3, work)
    assert sum(seen for _, seen in parts) == 1300
    for name in ("train", "validation", "test"):
        whole = getattr(expected, name)
        of_ranks = [getattr(found, name).mine for found, _ in parts]
        assert np.array_equal(np.sort(np.concatenate([part.indices for part in of_ranks])), np.sort(whole.indices))
        for part in of_ranks:
            assert np.array_equal(part.rows(slice(None)), expected.dataset.rows[part.indices])
            assert len(part) % 2 == 0
    for found, _ in parts:
        dataset = found.dataset
        assert not dataset.rows[~dataset.holding.held].any()
        assert not dataset.is_complete
    assert isinstance(parts[0][0].dataset.rows, np.memmap) == large
    assert not list(tmp_path.glob("rows/*"))
