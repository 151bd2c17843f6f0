"""The contents of one file of CIFAR-10 or CIFAR-100 in the Python, the binary or the MATLAB version."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onelayer.data.formats.cifar_sets import Cifar
from onelayer.data.untrusted.matlab import read_matlab
from onelayer.data.untrusted.unpickle import read_pickle
from onelayer.errors import DataError
from onelayer.words import is_name

PIXELS = 3072
_MAX_META_BYTES = 2**16


class CifarFile(NamedTuple):
    """The meaning of a file's name."""

    cifar: Cifar
    form: str
    part: str  # empty for the file with the names of the classes


@dataclass
class Batch:
    """The contents of a part's file."""

    part: str
    where: str
    md5: str
    official: bool
    rows: np.ndarray  # (n, 3072) uint8
    labels: np.ndarray  # (n,) int64


def read_batch(content: bytes, file: CifarFile, kind: str, where: str) -> Batch:
    """Return the contents of a part's file with labels of this kind; `where` is the file in messages."""
    cifar, form, part = file
    if form == ".bin":
        size = len(cifar.classes) + PIXELS
        if len(content) % size:
            raise DataError(f"{where}: is cut off: {len(content)} bytes are not a multiple of {size}, a row's bytes")
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        found: dict[str, Any] = dict(zip(cifar.classes, records.T, strict=False))
        found["data"] = records[:, len(cifar.classes) :]
    elif form == ".mat":
        found = dict(read_matlab(content, ("data", *cifar.classes), where))
    else:
        found = read_pickle(content, where)
    for key in ("data", *cifar.classes):
        if key not in found:
            *keys, last = "data", *cifar.classes
            raise DataError(f"{where}: holds no {key}; a batch of {cifar.name} holds {', '.join(keys)} and {last}")
    rows = found["data"]
    _check_rows(rows, where)
    labels = {key: _check_labels(found[key], len(rows), key, len(names), where) for key, names in cifar.classes.items()}
    md5 = _rows_md5(rows, list(labels.values())) if form == ".mat" else _md5(content)
    official = cifar.rows_md5 if form else cifar.python_md5
    return Batch(part, where, md5, md5 == official[part], rows, labels[kind])


def _check_rows(rows: Any, where: str) -> None:
    """Raise a DataError unless rows are an array (n, 3072) of uint8 with n > 0."""
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != PIXELS:
        what = f"an array of shape {rows.shape}" if isinstance(rows, np.ndarray) else "not an array"
        raise DataError(f"{where}: data is {what}; expected (n, {PIXELS})")
    if rows.dtype != np.uint8:
        raise DataError(f"{where}: data is {rows.dtype}; expected uint8")
    if len(rows) == 0:
        raise DataError(f"{where}: holds no rows")


def _check_labels(labels: Any, n: int, key: str, K: int, where: str) -> np.ndarray:
    """Return labels (n,) as int64; `labels` is a list in the Python version, else an array."""
    if not isinstance(labels, list | np.ndarray):
        raise DataError(f"{where}: {key} are not a list of integers")
    count = labels.size if isinstance(labels, np.ndarray) else len(labels)
    if count != n:
        raise DataError(f"{where}: holds {n} rows but {count} {key}")
    values = labels.ravel().tolist() if isinstance(labels, np.ndarray) else labels
    for row, value in enumerate(values):
        if type(value) not in (int, float) or value != value or value not in range(K):
            what = f"the label {value}" if type(value) in (int, float) else "a label that is not an integer"
            raise DataError(f"{where}: row {row} has {what[:40]}; {key} are 0 to {K - 1}")
    return np.array(values, np.int64)


def read_class_names(content: bytes, file: CifarFile, kind: str, where: str) -> tuple[str, ...]:
    """Return the names of the classes of this kind in the file that holds them."""
    if len(content) > _MAX_META_BYTES:
        raise DataError(f"{where}: has {len(content)} bytes, too many for the names of the classes")
    key = f"{kind[:-1]}_names"
    if file.form == ".bin":
        names: Any = content.decode("utf-8", "replace").split("\n")
        names = [name.strip() for name in names if name.strip()]
    elif file.form == ".mat":
        names = list(read_matlab(content, (key,), where)[key])
    else:
        names = read_pickle(content, where).get(key)
        names = names if isinstance(names, list) else []
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    good = [name for name in names if is_name(name)]
    K = len(file.cifar.classes[kind])
    if not len(set(good)) == len(names) == K:
        raise DataError(f"{where}: does not hold {K} different names of classes")
    return tuple(good)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _rows_md5(rows: np.ndarray, labels: list[np.ndarray]) -> str:
    """Return the MD5 of rows and labels as the binary version writes them."""
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(rows), 1000):
        block = slice(start, start + 1000)
        columns = [column[block].astype(np.uint8) for column in labels]
        digest.update(np.column_stack([*columns, rows[block]]).tobytes())
    return digest.hexdigest()
