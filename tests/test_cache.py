"""Rows that are kept as memory maps."""

import errno
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from onelayer.data import cache
from onelayer.errors import DataError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_directory", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "rows"


def fill(rows: np.ndarray) -> tuple[int, dict[str, object]]:
    rows[:] = np.arange(rows.size, dtype=np.uint8).reshape(rows.shape)
    return len(rows) - 1, {"names": ["a", "b"]}


def fail(rows: np.ndarray) -> tuple[int, dict[str, object]]:
    raise AssertionError("this should not be made again")


def test_who_cancels_is_not_told_of_the_disk(elsewhere):
    def stop(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        cache.cached_rows("0a", (4, 3), stop)
    assert not [*elsewhere.iterdir()]


def test_rows_are_made_once(elsewhere):
    expected = np.arange(12, dtype=np.uint8).reshape(4, 3)[:3]
    for make in (fill, fail):
        rows, facts = cache.cached_rows("0a", (4, 3), make)
        np.testing.assert_array_equal(rows, expected)
        assert isinstance(rows, np.memmap)
        assert not rows.flags.writeable
        assert facts == {"names": ["a", "b"]}
    assert sorted(path.name for path in elsewhere.iterdir()) == ["0a.json", "0a.rows"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"shape": [3, 4], "facts": {}}', b'{"shape": "no"}', b"\xff"])
def test_a_damaged_entry_is_made_again(elsewhere, content):
    cache.cached_rows("0a", (4, 3), fill)
    (elsewhere / "0a.json").write_bytes(content)
    rows, _ = cache.cached_rows("0a", (4, 3), fill)
    assert rows.shape == (3, 3)


def test_a_flipped_bit_of_what_is_known_of_rows_is_found(elsewhere):
    cache.cached_rows("0a", (4, 3), fill)
    path = elsewhere / "0a.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(place % 3, 8, 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            found = cache.find_rows("0a")
            assert found is None or found[1] == {"names": ["a", "b"]}


def test_an_older_entry_without_a_checksum_is_found(elsewhere):
    cache.cached_rows("0a", (4, 3), fill)
    (elsewhere / "0a.json").write_bytes(b'{"shape": [3, 3], "facts": {"names": ["a", "b"]}}')
    rows, facts = cache.cached_rows("0a", (4, 3), fail)
    assert (rows.shape, facts) == ((3, 3), {"names": ["a", "b"]})


@pytest.mark.parametrize("size", [8, 12])
def test_rows_of_another_size_are_made_again(elsewhere, size):
    cache.cached_rows("0a", (4, 3), fill)
    os.truncate(elsewhere / "0a.rows", size)
    rows, _ = cache.cached_rows("0a", (4, 3), fill)
    assert rows.shape == (3, 3)
    assert (elsewhere / "0a.rows").stat().st_size == 9


def test_nothing_stays_of_what_was_interrupted(elsewhere):
    def interrupted(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached_rows("0a", (4, 3), interrupted)
    assert list(elsewhere.iterdir()) == []


KILLED = """
import os, sys, time
from pathlib import Path
from onelayer.data import cache

cache.cache_directory = lambda: Path(sys.argv[1])

def fill(rows):
    print("writing", flush=True)
    time.sleep(60)

cache.cached_rows("0b", (4, 3), fill)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(elsewhere, monkeypatch):
    monkeypatch.setattr(cache, "LEFT_AFTER", -1)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(elsewhere.parent)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "writing\n"
            cache.cached_rows("0a", (4, 3), fill)
            assert [path.name[:4] for path in elsewhere.glob(".*")] == [".0b-"]
        finally:
            other.kill()
    cache.cached_rows("0c", (4, 3), fill)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["0a.json", "0a.rows", "0c.json", "0c.rows"]


def test_what_was_just_begun_is_not_removed(elsewhere):
    elsewhere.mkdir(parents=True)
    (elsewhere / ".0b-0123456789abcdef").touch()  # its process has not locked it yet
    cache.cached_rows("0a", (4, 3), fill)
    assert (elsewhere / ".0b-0123456789abcdef").exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "make it writable"),
    ],
)
def test_many_rows_need_a_cache_and_that_is_found_before_they_are_made(elsewhere, monkeypatch, number, advice):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    monkeypatch.setattr(cache, "MEMORY_BYTES", 11)
    words = (
        f"cannot write to the cache {elsewhere}: {os.strerror(number)}; {advice}, or move the cache (XDG_CACHE_HOME)"
    )
    with pytest.raises(DataError, match=f"^{re.escape(words)}$"):
        cache.cached_rows("0a", (4, 3), fail)
    assert list(elsewhere.iterdir()) == []
    monkeypatch.setattr(cache, "MEMORY_BYTES", 12)
    rows, facts = cache.cached_rows("0a", (4, 3), fill)
    np.testing.assert_array_equal(rows, np.arange(9).reshape(3, 3))
    assert facts == {"names": ["a", "b"]}
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("call", [True, False], ids=["system call", "none"])
def test_space_is_taken_before_rows_are_made(elsewhere, monkeypatch, call):
    if not call:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    taken = []

    def look(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        (file,) = elsewhere.iterdir()
        taken.extend([file.stat().st_size, 512 * file.stat().st_blocks])
        return 1, {}

    cache.cached_rows("0a", (1, 2**20 + 5), look)
    assert taken[0] == 2**20 + 5
    assert taken[1] >= taken[0]
