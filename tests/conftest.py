"""Fixtures: the real CIFAR-10 if it is there, and a small set in the same layout."""

import io
import math
import os
import pickle
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from onelayer import __main__ as entry
from onelayer.data.dataset import Dataset

pytest.register_assert_rewrite("helpers")

PARTS = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMED = os.environ.get("ONELAYER_DATA")  # before a test changes it
FORMS = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin", "matlab": "cifar-10-batches-mat"}


@pytest.fixture(scope="session")
def cifar() -> Path:
    """Folder of the real CIFAR-10's Python version; the test is skipped where there is none."""
    if not NAMED:
        pytest.skip("ONELAYER_DATA is not set to a folder with CIFAR-10")
    for folder in (Path(NAMED), Path(NAMED) / FORMS["python"]):
        if all((folder / part).is_file() for part in (*PARTS, "batches.meta")):
            return folder
    pytest.skip(f"ONELAYER_DATA={NAMED} holds no Python version of CIFAR-10")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as the system has it, with a camera of its own; without it or Playwright, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", *camera])
        yield browser
        browser.close()


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Let files be as safe as the page cache is: no test can see whether a disk has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def _no_gpu_of_apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch take the CPU of a Mac: its GPU has no float64, in which most is compared."""
    if sys.platform == "darwin":
        monkeypatch.setattr("onelayer.training.backends.devices.devices_here", lambda: ["cpu"])


@pytest.fixture(autouse=True)
def _no_user_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tester's own data, cache and network out of every test; NAMED was read before."""
    with monkeypatch.context() as patch:
        patch.delenv("ONELAYER_DATA", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "no-cache"))
        patch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "no-home"))  # where macOS keeps caches
        yield


def _write_python(batches: dict[str, tuple[np.ndarray, np.ndarray]], folder: Path, protocol: int = 2) -> None:
    for part, (rows, labels) in batches.items():
        batch = {b"batch_label": part.encode(), b"labels": labels.tolist(), b"data": rows}
        (folder / part).write_bytes(pickle.dumps(batch, protocol))
    meta = {b"label_names": [name.encode() for name in CLASS_NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))


def _write_binary(batches: dict[str, tuple[np.ndarray, np.ndarray]], folder: Path) -> None:
    for part, (rows, labels) in batches.items():
        np.column_stack([labels.astype(np.uint8), rows]).tofile(folder / f"{part}.bin")
    (folder / "batches.meta.txt").write_text("\n".join(CLASS_NAMES) + "\n\n")


def _write_matlab(batches: dict[str, tuple[np.ndarray, np.ndarray]], folder: Path) -> None:
    for part, (rows, labels) in batches.items():
        variables = {"data": rows, "labels": labels.astype(np.uint8)[:, None], "batch_label": part}
        scipy.io.savemat(folder / f"{part}.mat", variables, do_compression=len(rows) < 1000)
    names = np.empty((10, 1), object)
    names[:, 0] = CLASS_NAMES
    scipy.io.savemat(folder / "batches.meta.mat", {"label_names": names})


@pytest.fixture(scope="session")
def write_form() -> Callable[[dict[str, tuple[np.ndarray, np.ndarray]], str, Path], Path]:
    """``write_form({part: (rows, labels)}, "python" | "binary" | "matlab", where)`` -> the folder it made there."""

    def write(batches: dict[str, tuple[np.ndarray, np.ndarray]], form: str, where: Path) -> Path:
        folder = where / FORMS[form]
        folder.mkdir(parents=True)
        {"python": _write_python, "binary": _write_binary, "matlab": _write_matlab}[form](batches, folder)
        return folder

    return write


FORMS_100 = {"python": "cifar-100-python", "binary": "cifar-100-binary", "matlab": "cifar-100-matlab"}
Labelled = dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]


@pytest.fixture(scope="session")
def write_form_100() -> Callable[[Labelled, dict[str, tuple[str, ...]], str, Path], Path]:
    """Write CIFAR-100: ``{part: (rows, {"fine": labels, "coarse": labels})}, {"fine": names, ...}``."""

    def write(parts: Labelled, names: dict[str, tuple[str, ...]], form: str, where: Path) -> Path:
        folder = where / FORMS_100[form]
        folder.mkdir(parents=True)
        for part, (rows, labels) in parts.items():
            if form == "python":  # the keys, and the texts that are left out, as in the published files
                batch = {"filenames": ["x.png"] * len(rows), "batch_label": part, "data": rows}
                batch |= {f"{kind}_labels": values.tolist() for kind, values in labels.items()}
                (folder / part).write_bytes(pickle.dumps({key.encode(): value for key, value in batch.items()}, 2))
            elif form == "binary":
                columns = [labels[kind].astype(np.uint8) for kind in ("coarse", "fine")]
                np.column_stack([*columns, rows]).tofile(folder / f"{part}.bin")
            else:
                columns = {f"{kind}_labels": values.astype(np.uint8)[:, None] for kind, values in labels.items()}
                filenames = np.full((len(rows), 1), "x.png", object)
                variables = {"data": rows, "batch_label": part, "filenames": filenames} | columns
                scipy.io.savemat(folder / f"{part}.mat", variables, do_compression=True)
        if form == "python":
            meta = {f"{kind}_label_names".encode(): [name.encode() for name in names[kind]] for kind in names}
            (folder / "meta").write_bytes(pickle.dumps(meta, 2))
        elif form == "binary":
            for kind in names:
                (folder / f"{kind}_label_names.txt").write_text("\n".join(names[kind]) + "\n")
        else:
            cells = {f"{kind}_label_names": np.array(names[kind], object)[:, None] for kind in names}
            scipy.io.savemat(folder / "meta.mat", cells)
        return folder

    return write


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, Path], Path]:
    """``write_tar(folder, archive)`` -> the archive, with the folder and its files in it."""

    def write(folder: Path, archive: Path) -> Path:
        with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as tar:
            tar.add(folder, folder.name)
        return archive

    return write


@pytest.fixture(scope="session")
def tiny_batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows (60, 3072) and labels of six parts, of classes that overlap.

    Rows lie in four dimensions with hardly any noise in the others, so that even many epochs do not learn 60 of them by
    heart: accuracies differ from part to part and are far from 0 and 1.
    """
    rng = np.random.default_rng(2)
    axes, centres = rng.normal(0, 14, (4, 3072)), rng.normal(0, 2, (10, 4))
    batches = {}
    for part in PARTS:
        labels = rng.permutation(np.arange(60) % 10)
        places = centres[labels] + rng.normal(0, 1, (60, 4))
        rows = 128 + places @ axes + rng.normal(0, 1, (60, 3072))
        batches[part] = (rows.clip(0, 255).astype(np.uint8), labels)
    return batches


@pytest.fixture
def tiny_cifar(tiny_batches, write_form, tmp_path: Path) -> Path:
    """A small set in the layout of CIFAR-10's Python version: six parts of 60 rows."""
    return write_form(tiny_batches, "python", tmp_path)


@pytest.fixture(scope="session")
def cifar_folder(tiny_batches, tmp_path_factory) -> tuple[Path, Dataset]:
    """CIFAR's 360 rows as files in train and test, and the data set that they are in the same order."""
    root = tmp_path_factory.mktemp("tiny")
    rows = np.concatenate([rows for rows, _ in tiny_batches.values()])
    labels = np.concatenate([labels for _, labels in tiny_batches.values()])
    for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
        path = root / ("train" if place < 300 else "test") / CLASS_NAMES[label] / f"{place:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path, compress_level=1)
    order = np.concatenate([np.argsort(labels[:300], kind="stable"), 300 + np.argsort(labels[300:], kind="stable")])
    parts = {"train": slice(0, 300), "test": slice(300, 360)}
    return root, Dataset(rows[order], labels[order], CLASS_NAMES, (3, 32, 32), "tiny", parts)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three cats and three dogs, 4 pixels wide and 3 high."""
    from helpers import write_image

    for name in ("cat", "dog"):
        for number in range(3):
            write_image(tmp_path / "Pets" / name / f"{number}.png")
    return tmp_path / "Pets"


@pytest.fixture
def no_decoding(monkeypatch):
    """``no_decoding()``: from here on every look into an image file fails the test."""

    def start() -> None:
        def fail(*_: object) -> None:
            raise AssertionError("a file was opened")

        monkeypatch.setattr("onelayer.data.formats.image_rows.each_image", fail)

    return start


@pytest.fixture
def tar_of() -> Callable[..., bytes]:
    """``tar_of((tarfile.TarInfo, content), ..., format=..., mode=...)`` -> the bytes of an archive."""

    def make(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as tar:
            for member, content in members:
                if content:
                    member.size = len(content)
                tar.addfile(member, io.BytesIO(content) if content else None)
        return file.getvalue()

    return make


@pytest.fixture
def run_cli(monkeypatch, capsys, tmp_path):
    """``run_cli("train", ...)`` -> (exit code, standard output, standard error), in an empty folder.

    It prints no lines of progress, which depend on the speed of the machine.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onelayer.cli.screen.FIRST_LINE", math.inf)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onelayer", *map(str, words)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            entry.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def trained(run_cli, tiny_cifar, tmp_path):
    """A run directory, trained on the tiny set."""
    from helpers import TINY

    assert run_cli("train", "--data", tiny_cifar, "--out", "run", "--quiet", *TINY)[0] == 0
    return tmp_path / "run"
