"""Data sets by name or path: cifar10, digits, auto, or where a CIFAR-10 lies."""

import difflib
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from onelayer.config import SplitConfig
from onelayer.data.archive import Progress
from onelayer.data.cifar import MissingPartError, find_cifar10, read_cifar10
from onelayer.data.dataset import BATCH_PROTOCOL, Dataset, Splits, split
from onelayer.data.download import fetch_cifar10
from onelayer.errors import DataError, DownloadError

NAMES = ("auto", "cifar10", "digits")
VARIABLE = "ONELAYER_DATA"


@dataclass(frozen=True)
class Source:
    """A data set that can be loaded.

    Parameters
    ----------
    name : str
        auto, cifar10 or digits; auto is cifar10 where that can be had, else digits.
    path : Path or None
        Where CIFAR-10 lies; None if it is yet to be downloaded, or is not meant.
    given : bool
        Whether it was asked for by its path, not by its name.
    """

    name: Literal["auto", "cifar10", "digits"]
    path: Path | None = None
    given: bool = False


def find(source: str | Path) -> Source:
    """Find a data set. Nothing is read or downloaded yet.

    Parameters
    ----------
    source : str or Path
        cifar10: at the path in the environment variable ONELAYER_DATA, else in the user's cache, else to be
        downloaded; digits: scikit-learn's; auto: cifar10 if it can be had, else digits; anything else is a path to
        CIFAR-10 in any of its versions.

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
    if source == "auto":
        return Source("auto", _known_cifar10())
    if source == "cifar10":
        return Source("cifar10", _known_cifar10())
    path = Path(source)
    if source == "":
        raise DataError("the path of the data is empty")
    if isinstance(source, str) and path.name == source and not os.path.lexists(path):
        near = difflib.get_close_matches(source, NAMES, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"{source}: no such file or folder, nor one of {', '.join(NAMES)}{guess}")
    return Source("cifar10", find_cifar10(path), given=True)


def load(
    source: str | Path = "auto", parts: Collection[str] | None = None, progress: Progress | None = None
) -> Dataset:
    """Load a data set, downloading CIFAR-10 if it is asked for and not there.

    Parameters
    ----------
    source : str or Path
        As for `find`.
    parts : collection of str, optional
        Read only these of CIFAR-10's parts, data_batch_1 to data_batch_5 and test_batch; digits have none.
    progress : callable, optional
        Called with the bytes done and the bytes in all (None where unknown), during a download and, anew, during
        reading.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the source is missing or damaged.
    DownloadError
        If CIFAR-10 cannot be downloaded; auto then loads digits, and says so in the notes.
    """
    found = find(source)
    if found.name == "digits":
        return load_digits()
    try:
        path = found.path or fetch_cifar10(_cache(), progress)
    except DownloadError as error:
        if found.name != "auto":
            raise
        return load_digits(notes=(f"these are scikit-learn's digits, as CIFAR-10 could not be had: {error}",))
    dataset = read_cifar10(path, parts, progress)
    return dataset if found.given else replace(dataset, source="cifar10")


def load_splits(source: str | Path, split_config: SplitConfig, progress: Progress | None = None) -> Splits:
    """Load what a protocol needs of a data set, and divide it.

    Parameters
    ----------
    source : str or Path
        As for `find`.
    split_config : SplitConfig
    progress : callable, optional
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
    if split_config.protocol in (None, "batch"):
        try:
            return split(load(source, tuple(BATCH_PROTOCOL.values()), progress), split_config)
        except MissingPartError:
            pass  # a subset: what it has decides
    return split(load(source, None, progress), split_config)


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
            return find_cifar10(Path(named))
        except DataError as error:
            raise DataError(f"{VARIABLE}: {error}") from None
    try:
        return find_cifar10(_cache())
    except DataError:
        return None


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("onelayer")
