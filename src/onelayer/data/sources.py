"""Data sets by name or path: what there is, where it lies, and who reads it."""

import difflib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onelayer.config import SourceConfig, SplitConfig
from onelayer.data.archive import Progress
from onelayer.data.cache import cache_directory
from onelayer.data.cifar import MissingPartError, find_cifar10, read_cifar10, require_cifar10
from onelayer.data.dataset import BATCH_PROTOCOL, Dataset, Splits, split
from onelayer.data.download import fetch_cifar10
from onelayer.errors import DataError, DownloadError

NAMES = ("auto", "cifar10", "digits")
VARIABLE = "ONELAYER_DATA"


class Format(NamedTuple):
    """A form that data can have at a path.

    Parameters
    ----------
    find : callable
        Where at an existing path data of this form lie; None if there are none. It looks at names, not into files.
    read : callable
        Reads what `find` found. The parts are those that are needed, where the form has any; None is all of them.
    """

    find: Callable[[Path], Path | None]
    read: Callable[[Path, SourceConfig, Collection[str] | None, Progress | None], Dataset]


# In the order in which a path is asked; the first that finds something reads it.
FORMATS: dict[str, Format] = {
    "cifar10": Format(find_cifar10, lambda path, _, parts, progress: read_cifar10(path, parts, progress)),
}


@dataclass(frozen=True)
class Source:
    """A data set that can be loaded.

    Parameters
    ----------
    name : str
        auto or digits, else one of FORMATS; auto is cifar10 where that can be had, else digits.
    path : Path or None
        Where it lies; None if it is yet to be downloaded, or is digits.
    given : bool
        Whether it was asked for by its path, not by its name.
    """

    name: str
    path: Path | None = None
    given: bool = False


def find(source: str | Path) -> Source:
    """Find a data set. Nothing is read or downloaded yet.

    Parameters
    ----------
    source : str or Path
        cifar10: at the path in the environment variable ONELAYER_DATA, else in the user's cache, else to be
        downloaded; digits: scikit-learn's; auto: cifar10 if it can be had, else digits; anything else is a path.

    Returns
    -------
    Source

    Raises
    ------
    DataError
        If there is no such source.
    """
    if source == "digits":
        return Source("digits")
    if source in ("auto", "cifar10"):
        return Source(str(source), _known_cifar10())
    path = Path(source)
    if source == "":
        raise DataError("the path of the data is empty")
    try:
        if isinstance(source, str) and path.name == source and not os.path.lexists(path):
            near = difflib.get_close_matches(source, NAMES, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{source}: no such file or folder, nor one of {', '.join(NAMES)}{guess}")
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        for name, form in FORMATS.items():
            if found := form.find(path):
                return Source(name, found, given=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    raise DataError(f"{path}: holds no data that onelayer reads; they can be CIFAR-10")


def load(
    source: str | Path = "auto",
    config: SourceConfig = SourceConfig(),
    *,
    parts: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set, downloading it if it is asked for by name and not there.

    Parameters
    ----------
    source : str or Path
        As for `find`.
    config : SourceConfig
        How to read it.
    parts : collection of str, optional
        Read only these of CIFAR-10's parts, data_batch_1 to data_batch_5 and test_batch.
    progress : callable, optional
        Called with what is done and what there is in all (None where unknown), during a download and, anew, during
        reading and, where splits are made, while all rows are looked through.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the source is missing or damaged.
    DownloadError
        If it cannot be downloaded; auto then loads digits, and says so in the notes.
    """
    found = find(source)
    if found.name == "digits":
        return load_digits()
    try:
        path = found.path or fetch_cifar10(cache_directory(), progress)
    except DownloadError as error:
        if found.name != "auto":
            raise
        return load_digits(notes=(f"these are scikit-learn's digits, as CIFAR-10 could not be had: {error}",))
    name = "cifar10" if found.name == "auto" else found.name
    dataset = FORMATS[name].read(path, config, parts, progress)
    return replace(dataset, source=str(path.resolve()) if found.given else name)


def load_splits(
    source: str | Path,
    split_config: SplitConfig,
    config: SourceConfig = SourceConfig(),
    *,
    progress: Progress | None = None,
) -> Splits:
    """Load what a protocol needs of a data set, and divide it.

    Parameters
    ----------
    source : str or Path
        As for `find`.
    split_config : SplitConfig
    config, progress
        As for `load`.

    Returns
    -------
    Splits

    Raises
    ------
    DataError
        If the source is missing or damaged.
    ConfigError
        If the protocol does not fit it.
    """
    parts = tuple(BATCH_PROTOCOL.values()) if split_config.protocol in (None, "batch") else None
    try:
        dataset = load(source, config, parts=parts, progress=progress)
    except MissingPartError:  # a subset: what it has decides
        dataset = load(source, config, progress=progress)
    splits = split(dataset, split_config, progress)
    dataset.scan(progress)  # whoever loads by name or path wants the fingerprint, or the duplicates, next
    return splits


def load_digits(notes: tuple[str, ...] = ()) -> Dataset:
    """Load scikit-learn's 1797 digits of 8 x 8 pixels."""
    from sklearn import datasets

    found = datasets.load_digits()
    # Their greys run from 0 to 16. As 0 to 255, an image file that is to be classified means the same to the model.
    rows = np.rint(found.data * (255 / 16)).astype(np.uint8)  # (n, 64)
    return Dataset(
        rows=rows,
        labels=found.target.astype(np.int64),
        class_names=tuple("0123456789"),
        image_shape=(1, 8, 8),
        name="digits",
        notes=notes,
        source="digits",
    )


def _known_cifar10() -> Path | None:
    """Where CIFAR-10 lies already: where the environment says, else in the cache."""
    if named := os.environ.get(VARIABLE):
        try:
            return require_cifar10(Path(named))
        except DataError as error:
            raise DataError(f"{VARIABLE}: {error}") from None
    try:
        return find_cifar10(cache_directory())
    except OSError:
        return None
