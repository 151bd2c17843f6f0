"""Data sets by name or path: what there is, where it lies, and who reads it."""

import difflib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onelayer.config import SourceConfig, SplitConfig
from onelayer.data.cache import cache_directory
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.download import Download, fetch
from onelayer.data.formats.arrays import find_arrays, find_unnamed, read_arrays
from onelayer.data.formats.cifar import MissingPartError, find_cifar, find_cifar_below, read_cifar, require_cifar
from onelayer.data.formats.cifar_sets import CIFAR10, CIFAR100, Cifar
from onelayer.data.formats.folder import find_folder, read_folder
from onelayer.data.formats.idx import find_idx, find_idx_set, read_idx
from onelayer.data.formats.idx_sets import FASHION_MNIST, KMNIST, MNIST, IdxSet
from onelayer.data.formats.parquet import NUMBERED, find_parquet, read_parquet
from onelayer.data.protocols import BATCH_PROTOCOL, split
from onelayer.data.untrusted.archive import Progress
from onelayer.errors import ConfigError, DataError, DownloadError
from onelayer.words import listed

VARIABLE = "ONELAYER_DATA"


class Format(NamedTuple):
    """A form that data can have at a path.

    Parameters
    ----------
    find : callable
        Where at an existing path data of this form lie; None if there are none. It looks at names, not into files.
    read : callable
        Reads what `find` found. The parts are those that are needed, where the form has any; None is all of them.
    coarse : bool
        Whether it can have coarse labels too, and the reader refuses to give such that are not there.
    """

    find: Callable[[Path], Path | None]
    read: Callable[[Path, SourceConfig, Collection[str] | None, Progress | None], Dataset]
    coarse: bool = False


_CIFAR = Format(
    find_cifar,
    lambda path, config, parts, progress: read_cifar(path, parts, progress, coarse=config.coarse),
    coarse=True,
)
_ARRAYS = Format(find_arrays, lambda path, _, __, progress: read_arrays(path, progress))

# In the order in which a path is asked; the first that finds something reads it.
FORMATS: dict[str, Format] = {
    "cifar": _CIFAR,
    "idx": Format(find_idx, lambda path, _, __, progress: read_idx(path, progress)),
    "arrays": _ARRAYS,
    "parquet": Format(
        find_parquet, lambda path, config, _, progress: read_parquet(path, config, progress), coarse=True
    ),
    "cifar below": _CIFAR._replace(find=find_cifar_below),
    "folder": Format(find_folder, lambda path, config, _, progress: read_folder(path, config, progress)),
    "unnamed arrays": _ARRAYS._replace(find=find_unnamed),  # to be told which names are known
}


class Known(NamedTuple):
    """A data set that can be asked for by its name.

    Parameters
    ----------
    format : Format
        Finds it in a folder of data sets, and reads it.
    downloads : tuple of Download
        Its files.
    kept : str
        Where in the cache they are to be read, once they have been downloaded.
    """

    format: Format
    downloads: tuple[Download, ...]
    kept: str


def _cifar(cifar: Cifar, md5: str, size: int) -> Known:
    archive = cifar.archives[0]
    form = Format(
        lambda path: (
            find_cifar(path, (cifar,)) or find_cifar_below(path, (cifar,))
            if path.is_dir() or path.name in cifar.archives
            else None
        ),
        lambda path, config, parts, progress: read_cifar(path, parts, progress, coarse=config.coarse, sets=(cifar,)),
        coarse=len(cifar.classes) > 1,
    )
    return Known(form, (Download(f"https://www.cs.toronto.edu/~kriz/{archive}", md5, archive, size),), archive)


def _idx(idx_set: IdxSet) -> Known:
    form = Format(
        lambda path: find_idx_set(path, idx_set),
        lambda path, _, __, progress: read_idx(path, progress, idx_set),
    )
    return Known(form, idx_set.downloads, idx_set.folders[0])


# Checksums of CIFAR's archives are those of torchvision's datasets/cifar.py.
KNOWN = {
    "cifar10": _cifar(CIFAR10, "c58f30108f718f92721af3b95e74349a", 170_498_071),
    "cifar100": _cifar(CIFAR100, "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
    "mnist": _idx(MNIST),
    "fashion-mnist": _idx(FASHION_MNIST),
    "kmnist": _idx(KMNIST),
}
NAMES = ("auto", *KNOWN, "digits")


@dataclass(frozen=True)
class Source:
    """A data set that can be loaded.

    Parameters
    ----------
    name : str
        One of NAMES, or, of data that were asked for by their path, of FORMATS; auto is cifar10 where that can be had,
        else digits.
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
        cifar10, cifar100, mnist, fashion-mnist, kmnist: at or in the path in the environment variable ONELAYER_DATA,
        else in the user's cache, else to be downloaded; digits: scikit-learn's; auto: cifar10 if it can be had, else
        digits; anything else is a path.

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
    if source == "auto" or source in KNOWN:
        return Source(str(source), _lying("cifar10" if source == "auto" else str(source)))
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
        files = sorted(file for file in path.iterdir() if not file.is_dir()) if path.is_dir() else []
        if inside := [file.name for file in files if any(form.find(file) for form in FORMATS.values())]:
            raise DataError(f"{path}: is a folder; pass the path of a file in it: {listed(inside)}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    raise DataError(
        f"{path}: holds no data that onelayer reads; they can be CIFAR-10 or CIFAR-100 as published, IDX files as of "
        "MNIST, .npz or .npy arrays, parquet files with images, or a folder of images for each class"
    )


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
    ConfigError
        If a setting does not fit it.
    DownloadError
        If it cannot be downloaded; auto then loads digits, and says so in the notes.
    """
    found = find(source)
    name = "cifar10" if found.name == "auto" else found.name
    form = None if name == "digits" else FORMATS[name] if found.given else KNOWN[name].format
    if config.coarse and not (form and form.coarse):
        raise ConfigError(f"coarse does not apply to {source}; leave it out")
    if form is None:
        return load_digits()
    path = found.path
    if path is None:
        try:
            fetch(KNOWN[name].downloads, cache_directory(), progress)
        except DownloadError as error:
            if found.name != "auto":
                raise
            return load_digits(notes=(f"these are scikit-learn's digits, as CIFAR-10 could not be had: {error}",))
        path = cache_directory() / KNOWN[name].kept
    dataset = form.read(path, config, parts, progress)
    if (match := NUMBERED.fullmatch(path.name)) and int(match["count"]) > 1 and not path.is_dir():
        alone = f"{path.name} is by its name one of {int(match['count'])} files; the others are not read"
        dataset = replace(dataset, notes=(alone, *dataset.notes))
    return replace(dataset, source=str(path.resolve()) if found.given else name)


def load_preferred(
    source: str | Path,
    parts: Collection[str] | None,
    config: SourceConfig = SourceConfig(),
    *,
    progress: Progress | None = None,
) -> Dataset:
    """As `load`, but whatever is there where one of the parts is not."""
    try:
        return load(source, config, parts=parts, progress=progress)
    except MissingPartError:
        return load(source, config, progress=progress)


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
    dataset = load_for(source, split_config, config, progress=progress)
    splits = split(dataset, split_config, progress)
    trained = np.unique(splits.train.labels)
    if len(trained) == 1:
        only = dataset.class_names[trained[0]]
        raise DataError(f"{dataset.name}: the training rows are of one class only, {only}; a classifier needs two")
    dataset.scan(progress)  # whoever loads by name or path wants the fingerprint, or the duplicates, next
    return splits


def load_for(
    source: str | Path, split_config: SplitConfig, config: SourceConfig, *, progress: Progress | None = None
) -> Dataset:
    """Load what a protocol needs of a data set, as `load_splits` does before it divides it."""
    parts = tuple(BATCH_PROTOCOL.values()) if split_config.protocol in (None, "batch") else None
    return load_preferred(source, parts, config, progress=progress)


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


def _lying(name: str) -> Path | None:
    """Where a known set lies already: where the environment says, else in the cache."""
    form = KNOWN[name].format
    if named := os.environ.get(VARIABLE):
        path = Path(named)
        try:
            if (
                name == "cifar10"
            ):  # whose place the variable is before all; where it is not there, the variable is wrong
                return require_cifar(path, (CIFAR10,))
            if not path.exists():
                raise DataError(f"{path}: no such file or folder")
            if found := form.find(path):
                return found
        except OSError as error:
            raise DataError(f"{VARIABLE}: {path}: cannot be read ({error.strerror})") from None
        except DataError as error:
            raise DataError(f"{VARIABLE}: {error}") from None
    try:
        return form.find(cache_directory())
    except OSError:
        return None
