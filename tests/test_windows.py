"""Shuffling by blocks: the order it makes, and training from a memory map that is larger than memory."""

import mmap
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import coursework, toy_dataset, toy_splits, trained_by_blocks
from hypothesis import given
from hypothesis import strategies as st

from onelayer.config import SplitConfig
from onelayer.data import windows
from onelayer.data.dataset import Dataset, Split
from onelayer.data.protocols import split
from onelayer.data.scan import memory_map_of
from onelayer.data.windows import WINDOW_BLOCKS, draw_windows, loaded
from onelayer.training.train import train


@given(n=st.integers(1, 2000), block=st.integers(0, 50), batch=st.integers(1, 300), seed=st.integers(0, 9))
def test_every_row_once_in_windows_of_whole_batches(n, block, batch, seed):
    found = draw_windows(n, block, batch, np.random.default_rng(seed))
    assert sorted(np.concatenate(found).tolist()) == list(range(n))
    assert all(len(window) % batch == 0 for window in found[:-1])
    assert all(len(window) > 0 for window in found)


@given(n=st.integers(1, 3000), block=st.integers(1, 20), seed=st.integers(0, 9))
def test_a_window_is_of_few_blocks(n, block, seed):
    order = np.concatenate(draw_windows(n, block, 1, np.random.default_rng(seed)))
    touched = set()
    for window in draw_windows(n, block, 1, np.random.default_rng(seed)):  # batches of 1 cut nothing off
        blocks = set((window // block).tolist())
        assert len(blocks) <= WINDOW_BLOCKS
        assert not blocks & touched
        touched |= blocks
    # With longer batches, what is left of a window begins the next.
    assert np.array_equal(order, np.concatenate(draw_windows(n, block, 37, np.random.default_rng(seed))))


def test_without_blocks_the_order_is_one_permutation():
    (order,) = draw_windows(100, 0, 7, np.random.default_rng(3))
    assert np.array_equal(order, np.random.default_rng(3).permutation(100))


def test_blocks_are_drawn_and_then_the_places_of_every_64_of_them():
    rng = np.random.default_rng(5)
    blocks = [np.arange(start, min(start + 3, 1000)) for start in range(0, 1000, 3)]
    blocks = [blocks[block] for block in rng.permutation(len(blocks))]
    mixed = [rng.permutation(np.concatenate(blocks[at : at + 64])) for at in range(0, len(blocks), 64)]
    order = np.concatenate(draw_windows(1000, 3, 1, np.random.default_rng(5)))
    assert np.array_equal(order, np.concatenate(mixed))


def test_blocks_as_long_as_the_set_shuffle_all_of_it():
    order = np.concatenate(draw_windows(5000, 10**18, 100, np.random.default_rng(0)))
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 0.1


def test_orders_differ_by_epoch_and_by_seed():
    rng = np.random.default_rng(0)
    first, second = (np.concatenate(draw_windows(1000, 5, 10, rng)) for _ in range(2))
    other = np.concatenate(draw_windows(1000, 5, 10, np.random.default_rng(1)))
    for a, b in ((first, second), (first, other)):
        assert (a == b).mean() < 0.02
        assert (a // 5 == b // 5).mean() < 0.1  # nor are the blocks in the same order


def test_batches_of_rows_sorted_by_class_have_many_classes():
    labels = np.repeat(np.arange(10), 2000)
    order = np.concatenate(draw_windows(len(labels), 20, 100, np.random.default_rng(0)))
    classes = [len(np.unique(labels[order[start : start + 100]])) for start in range(0, len(order), 100)]
    assert min(classes[:-8]) >= 8, "except in the last window, which may have few blocks"


def test_rows_sorted_by_class_are_learnt():
    dataset = toy_dataset(n=4000)
    order = np.argsort(dataset.labels, kind="stable")
    dataset = replace(dataset, rows=dataset.rows[order], labels=dataset.labels[order])
    splits = split(dataset, SplitConfig())
    assert (np.diff(splits.train.labels) >= 0).all()
    config = coursework(learning_rate=0.01, epochs=10)
    mixed, by_blocks = (train(splits, replace(config, shuffle_blocks=rows)) for rows in (0, 4))
    assert mixed.scores["test"].accuracy > 0.9
    assert by_blocks.scores["test"].accuracy == pytest.approx(mixed.scores["test"].accuracy, abs=0.01)


def mapped(dataset, path):
    np.save(path, dataset.rows)
    return replace(dataset, rows=np.load(path, mmap_mode="r"))


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("blocks", [0, 1, 7, 1000])
def test_a_memory_map_gives_the_same_bits(tmp_path, monkeypatch, backend, dtype, blocks):
    monkeypatch.setattr(windows, "PART_BYTES", 2000)  # many pieces
    monkeypatch.setattr(windows, "LEAST_ROWS", 100)
    monkeypatch.setattr(windows, "NEAR_BYTES", 0)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, 900)
    dataset = replace(toy_dataset(n=900, dtype=dtype), row_weights=weights)
    config = coursework(learning_rate=0.01, epochs=2, shuffle_blocks=blocks, backend=backend, flip=True, batch_size=40)
    config = replace(config, l2=0.01)
    inside, outside = (
        train(split(source, SplitConfig()), config) for source in (dataset, mapped(dataset, tmp_path / "X.npy"))
    )
    assert outside.model.layer.weights.tobytes() == inside.model.layer.weights.tobytes()
    assert outside.model.standardizer.mean.tobytes() == inside.model.standardizer.mean.tobytes()
    assert outside.scores == inside.scores


def test_windows_are_copies_of_their_rows(tmp_path):
    dataset = mapped(toy_dataset(), tmp_path / "X.npy")
    assert isinstance(memory_map_of(dataset.rows), mmap.mmap)
    train_rows = split(dataset, SplitConfig()).train
    drawn = draw_windows(len(train_rows), 1, 8, np.random.default_rng(0))
    assert len(drawn) == 3
    for part, window in zip(loaded(train_rows, drawn), drawn, strict=True):
        assert memory_map_of(part.dataset.rows) is None
        assert len(part.dataset.rows) == len(window)
        assert np.array_equal(part.rows(np.arange(len(part))), train_rows.rows(window))
        assert np.array_equal(part.labels, train_rows.labels[window])


class Recording(mmap.mmap):
    """A memory map that remembers what advice it was given."""

    def madvise(self, *advice):
        self.advice = [*getattr(self, "advice", []), advice]
        super().madvise(*advice)


def test_the_system_is_asked_for_blocks_and_not_for_what_lies_between(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "NEAR_BYTES", 0)
    page = mmap.PAGESIZE
    content = np.random.default_rng(0).integers(0, 256, 128 + 100 * page, np.uint8)
    (tmp_path / "X").write_bytes(content)
    with (tmp_path / "X").open("rb") as file:
        source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    rows = np.frombuffer(source, np.uint8)[128:].reshape(100, page)[10:]
    assert memory_map_of(rows) is source
    part = Split("train", Dataset(rows, np.arange(90) % 2, ("a", "b"), None, "bytes"), np.arange(90))
    asked, advise = [], windows.madvise
    start = np.frombuffer(source, np.uint8).ctypes.data

    def record(begin: int, length: int, advice: int) -> int:
        asked.append((advice, begin - start, length))
        return advise(begin, length, advice)

    monkeypatch.setattr(windows, "madvise", record)
    (window,) = loaded(part, [np.array([40, 3, 5, 4])])
    assert np.array_equal(window.dataset.rows[window.indices], rows[[40, 3, 5, 4]])
    wanted = [(13 * page, 16 * page + 128), (50 * page, 51 * page + 128)]
    first, last, expected = 10 * page, len(content), []  # of the rows
    for advice, piece in ((mmap.MADV_WILLNEED, page), (mmap.MADV_DONTNEED, windows.HELD_BYTES)):
        for a, b in wanted:  # whole pieces, without what is not of the rows
            a, b = (start + a) // piece * piece - start, -(-(start + b) // piece) * piece - start
            expected.append((advice, max(first, a), min(last, b) - max(first, a)))
    assert asked == expected


def test_what_was_written_to_a_map_is_not_undone(tmp_path):
    np.save(tmp_path / "X.npy", np.zeros((100, 60), np.uint8))
    rows = np.load(tmp_path / "X.npy", mmap_mode="c")
    rows[:] = 7
    part = Split("train", Dataset(rows, np.arange(100) % 2, ("a", "b"), None, "sevens"), np.arange(100))
    for _ in range(2):
        (window,) = loaded(part, [np.arange(100)])
        assert (window.dataset.rows == 7).all()
    assert (rows == 7).all()


def test_a_map_is_read_forwards_and_then_as_it_was(tmp_path):
    (tmp_path / "X").write_bytes(bytes(1000))
    with (tmp_path / "X").open("rb") as file:
        source = Recording(file.fileno(), 0, access=mmap.ACCESS_READ)
    dataset = replace(toy_dataset(n=10), rows=np.frombuffer(source, np.uint8)[:600].reshape(10, 60))
    assert dataset.scan()
    assert source.advice == [(mmap.MADV_SEQUENTIAL,), (mmap.MADV_NORMAL,)]


def test_rows_in_memory_are_not_copied():
    splits = toy_splits()
    drawn = draw_windows(len(splits.train), 1, 8, np.random.default_rng(0))
    assert all(part.dataset is splits.dataset for part in loaded(splits.train, drawn))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stopped_training_leaves_no_thread_reading(tmp_path, threads):
    splits = split(mapped(toy_dataset(), tmp_path / "X.npy"), SplitConfig())
    config, before = coursework(shuffle_blocks=1, backend="numpy", epochs=9, threads=threads), threading.enumerate()
    for times in range(20):  # while it trains, and while it scores
        asked = iter([False] * times)
        with pytest.raises(InterruptedError) as caught:
            train(splits, config, cancelled=lambda asked=asked: next(asked, True))
        assert threading.enumerate() == before
        assert caught.tb  # which keeps all that the training has not ended itself


LIMITED = """
import resource
import sys
import threading
import threading

import numpy as np
from helpers import trained_by_blocks

threading.stack_size(2**20)  # stacks count, as large as they are allowed to grow
rows = np.load(sys.argv[1], mmap_mode="r")
trained_by_blocks(rows[:5000])  # threads, and what libraries set up once
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
limit = 1024 * used + rows.nbytes // 4
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.array(rows)
except MemoryError:
    print(trained_by_blocks(rows))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="where else RLIMIT_DATA limits what is allocated is not known")
def test_a_set_of_four_times_the_memory_allowed(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (40_000, 1000), np.uint8)
    rows[30_000] = rows[0]
    np.save(tmp_path / "X.npy", rows)
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "X.npy")]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.stdout == f"{trained_by_blocks(rows)}\n", done.stderr
