"""The page as plain files: it trains in the browser, with the kernel that is compiled for browsers.

Any server of files can serve it. tools/build_wasm.sh builds the kernel where clang can make WebAssembly.
"""

import gzip
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data import load_splits
from onelayer.data.dataset import Split, Splits
from onelayer.errors import ConfigError
from onelayer.files import write_file
from onelayer.live import messages
from onelayer.live.messages import KNOBS, MOST_CLASSES, POLICY, pack, welcome_knobs
from onelayer.live.sources import Data

PAGE = Path(__file__).with_name("page")
KERNEL = PAGE / "kernel.wasm"
MOST_ROWS = {"train": 2000, "validation": 500, "test": 500}
MOST_NUMBERS = 50_000_000  # in the rows that are written
LEFT_OUT = ("solver", "features")  # knobs of which a browser has one choice
LIMITS = ("MOST_TEXT", "MOST_BYTES", "MOST_CLASSES", "MOST_NAME", "MOST_SHOWN")
MOST_IMAGES = 2000  # taught


def write_static(splits: Splits, out: Path) -> list[Path]:
    """Write the page with some rows of a data set into a folder, and return the files.

    Of a larger set, 2,000 training, 500 validation and 500 test rows are taken, evenly from their order. The digits
    that scikit-learn carries lie beside it.

    Raises
    ------
    ConfigError
        If the kernel for browsers was not built, the rows have weights or are too many numbers, or the folder holds
        other files.
    """
    if not KERNEL.is_file():
        what = "--static needs the kernel for browsers, which was not built when onelayer was installed"
        raise ConfigError(f"{what}; install clang and lld, then install onelayer again")
    if splits.dataset.row_weights is not None:
        raise ConfigError(f"--static takes rows without weights; those of {splits.dataset.name} have weights")
    if len(splits.dataset.class_names) > MOST_CLASSES:
        what = f"{splits.dataset.name} has {len(splits.dataset.class_names):,} classes"
        raise ConfigError(f"{what}; --static takes at most {MOST_CLASSES}")
    code = gzip.compress(KERNEL.read_bytes(), 9, mtime=0)
    written = dict(_page()) | {"kernel.wasm.gz": code, "data.bin": _data(splits)}
    if out.exists() and (not out.is_dir() or {file.name for file in out.iterdir()} - set(written)):
        raise ConfigError(f"{out} holds other files; pass a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        write_file(out / name, content)
    return [out / name for name in written]


def _page() -> Iterator[tuple[str, bytes]]:
    """Yield the names of the page's own files and their contents, without comments and indentation."""
    for file in sorted(PAGE.iterdir()):
        if file.suffix == ".js":
            text = re.sub(r"(?<=[;{},])\s+// .*", "", file.read_text("utf-8"))  # comments at the ends of lines
            yield file.name, re.sub(r"^\s*(//.*\n)?", "", text, flags=re.MULTILINE).encode()
        elif file.suffix == ".css":
            yield file.name, re.sub(r"^\s+", "", file.read_text("utf-8"), flags=re.MULTILINE).encode()
        elif file.suffix == ".html":
            policy = f'<head>\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            text = file.read_text("utf-8").replace('<html lang="en">', '<html lang="en" data-engine="worker">')
            yield file.name, text.replace("<head>", policy, 1).encode()


def _data(splits: Splits) -> bytes:
    """Return the rows and the message `welcome`, as one frame of `onelayer.live.messages`."""
    some = {"given": _some(splits)}
    if splits.dataset.source != "digits":
        some["digits"] = _some(load_splits("digits"))
    described = [_described(name, *of) for name, of in some.items()]
    arrays: dict[str, np.ndarray] = {}
    for name, (few, _) in some.items():
        arrays[f"{name} rows"] = few.dataset.rows.ravel()
        arrays[f"{name} labels"] = few.dataset.labels.astype(np.int32)
    welcome = {
        "type": "welcome",
        "engine": "worker",
        "version": version("onelayer"),
        "data": [*described, {"name": "taught"}],
        "knobs": [knob | {"solver": ""} for knob in welcome_knobs() if knob["name"] not in LEFT_OUT],
        "limits": {name.lower(): getattr(messages, name) for name in LIMITS} | {"most_images": MOST_IMAGES},
    }
    defaults = {name: getattr(TrainConfig, name) for name in (*(knob.name for knob in KNOBS), "keep")}
    return pack({"type": "data", "welcome": welcome, "defaults": defaults, "data": described}, arrays)


def _some(splits: Splits) -> tuple[Splits, Splits]:
    """Return at most MOST_ROWS of splits, whose rows lie one after the other, and all of them."""
    places, ends = [], [0]
    for split in splits:
        n, most = len(split), min(len(split), MOST_ROWS[split.name])
        places.append(split.indices[np.linspace(0, max(n - 1, 0), most).round().astype(np.int64)])
        ends.append(ends[-1] + most)
    dataset, indices = splits.dataset, np.concatenate(places)
    if len(indices) * dataset.rows.shape[1] > MOST_NUMBERS:
        what = f"{len(indices):,} rows of {dataset.rows.shape[1]:,} numbers"
        raise ConfigError(f"{dataset.name}: {what} are too many for --static; pass smaller images by --image-size")
    rows = np.take(dataset.rows, indices, axis=0)
    if rows.dtype != np.uint8:
        rows = rows.astype(np.float32)
    few = replace(dataset, rows=rows, labels=dataset.labels[indices], parts={})
    named = zip(splits, pairwise(ends), strict=True)
    parts = {split.name: Split(split.name, few, np.arange(begin, end)) for split, (begin, end) in named}
    return Splits(**parts, protocol=splits.protocol), splits


def _described(name: str, few: Splits, splits: Splits) -> dict[str, Any]:
    """Return what the page shows of a data set, and what its engine needs to know."""
    sizes = {split.name: len(split) for split in splits}
    complete = all(len(a) == len(b) for a, b in zip(few, splits, strict=True))
    return {
        **Data(name, few).describe(),
        "source": shlex.quote(Path(few.dataset.source).name),  # in a command; a path would tell about this machine
        "fit": few.dataset.fit or "squeeze",
        "of": sizes,
        "complete": complete,
    }
