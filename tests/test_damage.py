"""Files of others, of every format that is read, cut off or with flipped bits: refused in a line, or harmless.

Each format has a fixed number of examples, drawn by a fixed seed.
"""

import gzip
import io
import os
import pickle
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onelayer.data import load
from onelayer.data.sources import find
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO
from onelayer.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 3072), np.uint8)
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([3, 1, 3, 1, 9, 0])
BATCH = {b"data": PIXELS, b"labels": LABELS.tolist(), b"filenames": ["x.png"] * 6}

examples = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one for each test will do
)


def write_pickles(folder: Path) -> Path:
    (folder / "test_batch").write_bytes(pickle.dumps(BATCH))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    return folder


def write_tar(folder: Path, mode: str, name: str) -> Path:
    inner = folder / "cifar"
    inner.mkdir()
    write_pickles(inner)
    with tarfile.open(folder / name, mode) as tar:
        tar.add(inner, "cifar")
    shutil.rmtree(inner)
    return folder / name


def write_binary(folder: Path) -> Path:
    np.column_stack([LABELS.astype(np.uint8), PIXELS]).tofile(folder / "test_batch.bin")
    return folder


def write_matlab(folder: Path, compressed: bool) -> Path:
    variables = {"data": PIXELS, "labels": LABELS.astype(np.uint8)[:, None], "batch_label": "test"}
    scipy.io.savemat(folder / "test_batch.mat", variables, do_compression=compressed)
    return folder


def write_idx(folder: Path, packed: bool) -> Path:
    for kind, array in (("images-idx3", IMAGES[..., 0]), ("labels-idx1", LABELS.astype(np.uint8))):
        content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        name = f"train-{kind}-ubyte{'.gz' * packed}"
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return folder


def write_npy(folder: Path) -> Path:
    np.save(folder / "X.npy", PIXELS[:, :50].astype(np.float32))
    np.save(folder / "y.npy", np.array(["cat", "dog"])[LABELS % 2])
    return folder


def write_npz(folder: Path, save: Callable[..., None]) -> Path:
    save(folder / "set.npz", images=IMAGES, y=LABELS, class_names=np.array([f"class {k}" for k in range(10)]))
    return folder / "set.npz"


def write_parquet(folder: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    contents = []
    for pixels in IMAGES:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        contents.append({"bytes": file.getvalue(), "path": None})
    pq.write_table(pa.table({"image": contents, "label": LABELS}), folder / "set.parquet")
    return folder / "set.parquet"


def write_images(folder: Path, suffix: str, **options: object) -> Path:
    for number, pixels in enumerate(IMAGES[:3]):
        path = folder / "ab"[number % 2] / f"{number}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
    return folder


FORMATS: dict[str, Callable[[Path], Path]] = {
    "pickles": write_pickles,
    "tar": lambda folder: write_tar(folder, "w", "cifar.tar"),
    "tar.gz": lambda folder: write_tar(folder, "w:gz", "cifar.tar.gz"),
    "binary": write_binary,
    "MATLAB": lambda folder: write_matlab(folder, False),
    "MATLAB, compressed": lambda folder: write_matlab(folder, True),
    "IDX": lambda folder: write_idx(folder, False),
    "IDX, packed": lambda folder: write_idx(folder, True),
    ".npy": write_npy,
    ".npz": lambda folder: write_npz(folder, np.savez),
    ".npz, compressed": lambda folder: write_npz(folder, np.savez_compressed),
    "parquet": write_parquet,
    "PNG": lambda folder: write_images(folder, "png"),
    "JPEG": lambda folder: write_images(folder, "jpg"),
    "GIF": lambda folder: write_images(folder, "gif"),
    "WebP": lambda folder: write_images(folder, "webp", lossless=True),
    "BMP": lambda folder: write_images(folder, "bmp"),
    "TIFF": lambda folder: write_images(folder, "tif"),
    "PPM": lambda folder: write_images(folder, "ppm"),
}


class Found(NamedTuple):
    """The content that was read, without the memory maps, whose files change below them."""

    fingerprint: str
    nbytes: int
    notes: tuple[str, ...]


class Damaged:
    """A set of files, one of which is damaged for a moment."""

    def __init__(self, source: Path, files: list[Path]) -> None:
        self.source = source
        self.whole = {file: file.read_bytes() for file in files}
        self.peak = 0
        self.expected, self.peak = self.read()

    def read(self) -> tuple[Found, int]:
        tracemalloc.start()
        try:
            dataset = load(self.source)
            return Found(dataset.fingerprint, dataset.rows.nbytes, dataset.notes), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def load(self, file: Path, content: bytes) -> Found | None:
        """Return what is read if the file has this content, or None if it is refused."""
        file.write_bytes(content)
        try:
            found, peak = self.read()
        except DataError as error:
            assert str(error).isprintable()
            assert len(str(error)) < 1000
            return None
        finally:
            file.write_bytes(self.whole[file])
        assert peak < self.peak + FREE_BYTES + MAX_RATIO * len(content)
        return found


@pytest.fixture(autouse=True)
def _nothing_is_executed(monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise AssertionError(f"a file had {args} run")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, fail)
    monkeypatch.setattr(os, "system", fail)
    monkeypatch.setattr(subprocess, "Popen", fail)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onelayer.data.cache.cache_directory", lambda: place)
        patch.setattr("onelayer.data.sources.find", cache(find))  # by the names of files, which no damage changes
        yield place


@pytest.fixture(scope="module", params=FORMATS)
def damaged(request, own_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    source = FORMATS[request.param](folder)
    return Damaged(source, sorted(file for file in folder.rglob("*") if file.is_file()))


@examples
@given(data=st.data())
def test_what_is_cut_off_is_refused_or_lacks_nothing_that_is_read(damaged, data):
    """Whole rows may be lacking in files without an end mark; their checksum is then not the published one."""
    file = data.draw(st.sampled_from(sorted(damaged.whole)))
    whole = damaged.whole[file]
    size = data.draw(st.integers(0, len(whole) - 1) | st.integers(max(0, len(whole) - 40), len(whole) - 1))
    found = damaged.load(file, whole[:size])
    if found and found.fingerprint != damaged.expected.fingerprint:
        assert (file.suffix, size % 3073) == (".bin", 0)
        assert f"it has {size // 3073} rows" in found.notes[0]


@examples
@given(data=st.data())
def test_flipped_bits_are_refused_or_harmless(damaged, data):
    file = data.draw(st.sampled_from(sorted(damaged.whole)))
    content = bytearray(damaged.whole[file])
    last = len(content) - 1
    places = st.integers(0, min(63, last)) | st.integers(0, last) | st.integers(max(0, last - 511), last)
    for place, bit in data.draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=3)):
        content[place] ^= 1 << bit
    if found := damaged.load(file, bytes(content)):
        assert found.nbytes <= FREE_BYTES + MAX_RATIO * len(content)


@pytest.fixture(scope="module")
def cached(own_cache, tmp_path_factory):
    source = write_images(tmp_path_factory.mktemp("set"), "png")
    before = set(own_cache.rglob("*"))
    (source / "a" / "bad.png").write_bytes(b"no image")
    for number in range(100):
        shutil.copy(source / "a" / "0.png", source / "a" / f"copy {number}.png")
    load(source)
    return Damaged(source, [file for file in own_cache.rglob("*") if file not in before and file.is_file()])


@examples
@given(data=st.data())
def test_rows_in_the_cache_that_are_damaged_are_made_again(cached, data):
    """A flipped bit of a pixel is not looked for: it would take as long as to read all rows."""
    rows, facts = sorted(cached.whole, key=lambda file: file.suffix == ".json")
    file = data.draw(st.sampled_from([rows, facts]))
    content = bytearray(cached.whole[file])
    if data.draw(st.booleans()) or file == rows:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert cached.load(file, bytes(content)) == cached.expected
