"""The file behind a memory map: it must be the very file that the map shows."""

import os
import sys
from contextlib import closing

import numpy as np
import pytest
from helpers import toy_dataset

from onelayer.data import mapped_file
from onelayer.data.dataset import Split
from onelayer.data.mapped_file import MappedFile
from onelayer.data.windows import loaded
from onelayer.errors import DataError

linux = pytest.mark.skipif(sys.platform != "linux", reason="no other system says which file a map shows")
R = np.random.default_rng(0).integers(0, 256, (90, 31), np.uint8)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "X.npy", R)
    return tmp_path / "X.npy"


def read(rows, first, count):
    out = np.empty((count, rows.shape[1]), rows.dtype)
    with closing(MappedFile.of(rows)) as file:
        file.read(first, out)
    return out


@linux
@pytest.mark.parametrize("offset", [0, 100, 5000])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rows_are_those_of_the_map(tmp_path, offset, dtype):
    (tmp_path / "a b\u2713").write_bytes(bytes(offset) + R.astype(dtype).tobytes())
    rows = np.memmap(tmp_path / "a b\u2713", dtype, "r", offset, R.shape)
    assert np.array_equal(read(rows, 0, 90), R)
    assert np.array_equal(read(rows[10:], 5, 20), R[15:35])
    assert np.array_equal(read(np.asarray(rows)[80:], 9, 1), R[89:])


@linux
def test_what_is_written_to_a_shared_map_is_read(path):
    rows = np.load(path, mmap_mode="r+")
    rows[7] = 1
    assert (read(rows, 7, 1) == 1).all()


def test_rows_without_a_file_of_their_own(path, monkeypatch):
    rows = np.load(path, mmap_mode="r")
    changed = np.load(path, mmap_mode="c")
    for others in (R, rows[:, 1:], rows[::2], rows[::-1], rows.T, changed):
        assert MappedFile.of(others) is None
    monkeypatch.setattr(mapped_file, "MAPS", path.parent / "none")
    assert MappedFile.of(rows) is None


@pytest.mark.parametrize("how", ["deleted", "replaced", "replaced and a file of the name that the system says"])
def test_a_map_of_a_file_that_has_gone(path, how):
    rows = np.load(path, mmap_mode="r")
    path.unlink()
    if how != "deleted":
        np.save(path, R + 1)
    if how.endswith("says"):
        np.save(path.with_name("X.npy (deleted).npy"), R + 1)
        path.with_name("X.npy (deleted).npy").rename(path.with_name("X.npy (deleted)"))
    assert MappedFile.of(rows) is None
    dataset = toy_dataset(n=90)
    split = Split("train", type(dataset)(rows, dataset.labels, dataset.class_names, None, "gone"), np.arange(90))
    (window,) = loaded(split, [np.arange(90)])
    assert np.array_equal(window.rows(slice(None)), R)


@linux
def test_a_file_that_became_shorter(path):
    rows = np.load(path, mmap_mode="r")
    os.truncate(path, 2000)
    assert np.array_equal(read(rows, 0, 60), R[:60])
    with pytest.raises(DataError, match=r"X\.npy became shorter while it was read; load the data again$"):
        read(rows, 0, 90)
