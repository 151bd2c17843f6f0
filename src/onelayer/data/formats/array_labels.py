"""The labels in arrays that NumPy saved, numbers or strings, as classes from 0."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from onelayer.data.untrusted.npy import StoredArray
from onelayer.errors import DataError
from onelayer.words import is_name, printable

MOST_CLASSES = 10_000  # with more, a confusion matrix takes a gigabyte


def count_rows(rows: StoredArray, labels: StoredArray) -> int:
    """Return the number of rows of a part, after a check that it has as many labels."""
    if len(labels.shape) != 1 and labels.shape[1:] != (1,):
        advice = ": save y.argmax(axis=1)" if _is_one_hot(labels) else ""
        raise DataError(f"{labels.name}: labels have the shape {labels.shape}; expected one label for each row{advice}")
    if labels.dtype.kind not in "iuUS":
        raise DataError(
            f"{labels.name}: labels are {printable(str(labels.dtype))}; expected integers or strings, "
            "such as y.astype(int)"
        )
    if rows.shape[:1] != labels.shape[:1]:
        count = f"{rows.shape[0]:,} rows" if rows.shape else "no rows"
        raise DataError(
            f"{rows.name} has {count}, but {labels.name} {labels.shape[0]:,} labels; save a label for each row"
        )
    return rows.shape[0]


def _is_one_hot(labels: StoredArray) -> bool:
    """Return whether every row of labels (n, K) is zeros and exactly one 1."""
    if len(labels.shape) != 2 or labels.dtype.kind not in "biuf":
        return False
    blocks = (block.astype(float) for block in labels.blocks())
    return all(bool(((block == 0) | (block == 1)).all() and (block.sum(axis=1) == 1).all()) for block in blocks)


def read_labels(
    stored: Mapping[str, Sequence[StoredArray]], names: StoredArray | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels 0..K-1 of all parts (n,), one part after the other, and the names of the K classes.

    The labels of a part may be in several arrays.
    """
    first = next(iter(stored.values()))[0]
    numbers = first.dtype.kind in "iu"
    for array in (array for arrays in stored.values() for array in arrays):
        if (array.dtype.kind in "iu") != numbers:
            raise DataError(f"{array.name} is {array.dtype}, {first.name} is {first.dtype}; save all with one type")
    of_part = {part: np.concatenate([_values(array) for array in arrays]) for part, arrays in stored.items()}
    found, labels = np.unique(np.concatenate(list(of_part.values())), return_inverse=True)
    if len(found) > MOST_CLASSES:
        raise DataError(f"{first.name}: has {len(found):,} different labels; at most {MOST_CLASSES:,} can be classes")
    # If there are parts, train comes first.
    known = np.bincount(labels[: len(of_part[next(iter(of_part))])], minlength=len(found)) > 0
    if names is None:
        if not known.all():
            word = _word(found[~known][0], first)
            where = next(arrays[0] for part, arrays in stored.items() if found[~known][0] in of_part[part])
            raise DataError(f"{where.name}: no row trains the label {word}, which does not occur in {first.name}")
        class_names = tuple(_word(value, first) for value in found)
        places = np.arange(len(found))
    else:
        class_names = _class_names(names)
        K = len(class_names)
        at = {name: k for k, name in enumerate(class_names)}
        if numbers:
            places = np.where((found >= 0) & (found < K), found, -1)
        else:
            places = np.array([at.get(_word(value, first), -1) for value in found])
        if (places < 0).any():
            word = _word(found[places < 0][0], first)
            needed = f"labels are 0 to {K - 1}" if numbers else "the label is not one of them"
            raise DataError(f"{first.name}: there is a label {word}, but {names.name} has {K} names; {needed}")
    if len(set(class_names)) < len(class_names):
        raise DataError(f"{(names or first).name}: two classes have the same name; rename one")
    return places[labels].astype(np.int64), class_names


def _values(array: StoredArray) -> np.ndarray:
    """Return labels (n,) as they are stored, in memory: int64 or str."""
    values = np.concatenate(list(array.blocks())).reshape(-1)
    if array.dtype.kind in "iu":
        if values.max() > np.iinfo(np.int64).max:
            raise DataError(f"{array.name}: the label {values.max()} is too large for int64; number the classes from 0")
        return values.astype(np.int64)
    if array.dtype.kind == "S":
        try:
            return np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{array.name}: a label is not UTF-8; save labels as str") from None
    values = values.astype(values.dtype.newbyteorder("="))
    if values.view(np.uint32).max() > sys.maxunicode:  # NumPy finds this only when a label is read
        raise DataError(f"{array.name}: is damaged: a label is not text")
    return values


def _class_names(array: StoredArray) -> tuple[str, ...]:
    """Return the names in an array of them."""
    if array.dtype.kind not in "iuUS" or len(array.shape) != 1 or array.shape[0] > MOST_CLASSES:
        raise DataError(f"{array.name}: is {array.dtype} of the shape {array.shape}; expected the names of the classes")
    return tuple(_word(value, array) for value in _values(array))


def _word(value: object, array: StoredArray) -> str:
    """Return a label as the name of a class, after a check that it is printable and short."""
    word = str(value)
    if not is_name(word):
        what = repr(word)[:60]
        raise DataError(f"{array.name}: the label {what} cannot be a name; names have 1 to 99 printable characters")
    return word
