"""Loading a data set by its name or path."""

import difflib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onelayer.config import SourceConfig, SplitConfig
from onelayer.data.cache import cache_directory
from onelayer.data.catalogue import FORMATS, KNOWN, NAMES
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.division import divided
from onelayer.data.download import fetch
from onelayer.data.formats.cifar import MissingPartError, require_cifar
from onelayer.data.formats.cifar_sets import CIFAR10
from onelayer.data.formats.parquet import NUMBERED
from onelayer.data.formats.shards import SUFFIX
from onelayer.data.progress import Progress
from onelayer.data.protocols import BATCH_PROTOCOL, split
from onelayer.data.untrusted.reading import reading
from onelayer.errors import ConfigError, DataError, DownloadError
from onelayer.processes import ALONE, Processes
from onelayer.words import listed

VARIABLE = "ONELAYER_DATA"


@dataclass(frozen=True)
class Source:
    """A data set that can be loaded.

    Parameters
    ----------
    name : str
        One of NAMES for a data set that was given by its name, or one of FORMATS for a path. auto is cifar10 if that is
        available, else digits.
    path : Path or None
        Its place; None for digits, and for a data set that is not downloaded yet.
    given : bool
        Whether it was given by its path, not by its name.
    """

    name: str
    path: Path | None = None
    given: bool = False


def find(source: str | Path) -> Source:
    """Find a data set, without reading or downloading it.

    Parameters
    ----------
    source : str or Path
        cifar10, cifar100, mnist, fashion-mnist and kmnist are searched for at and in the path in the environment
        variable ONELAYER_DATA, then in the user's cache, and are else to be downloaded. digits is scikit-learn's set.
        auto is cifar10 if that is available, else digits. Anything else is a path, or, where there is no such path, a
        name in another spelling, such as Fashion_MNIST.

    Returns
    -------
    Source

    Raises
    ------
    DataError
        If there is no such source.
    """
    path = Path(source)
    if source == "":
        raise DataError("the path of the data is empty; pass a path or a name")
    if isinstance(source, str) and (source in NAMES or not os.path.lexists(path)):
        name = known_name(source)
        if name == "digits":
            return Source(name)
        if name:
            return Source(name, _place_of("cifar10" if name == "auto" else name))
    with reading(path):
        if isinstance(source, str) and path.name == source and not os.path.lexists(path):
            near = difflib.get_close_matches(source.lower(), NAMES, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{source}: no such file or folder, and not one of {', '.join(NAMES)}{guess}")
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if path.is_dir() and (manifests := sorted(path.glob(f"*{SUFFIX}"))):  # not only those files that look alike
            named = " or ".join(map(str, manifests[:2]))
            raise DataError(f"{path}: holds a manifest of shards; pass {named}, or move it to read the other files")
        for name, form in FORMATS.items():
            if found := form.find(path):
                return Source(name, found, given=True)
        files = sorted(file for file in path.iterdir() if not file.is_dir()) if path.is_dir() else []
        if inside := [file.name for file in files if any(form.find(file) for form in FORMATS.values())]:
            raise DataError(f"{path}: is a folder; pass the path of a file in it: {listed(inside)}")
    raise DataError(
        f"{path}: holds no data that onelayer reads; pass CIFAR-10 or CIFAR-100 as published, IDX files like those of "
        "MNIST, .npz, .npy, .safetensors or .pt arrays, parquet files with images or lists of numbers, a manifest "
        "NAME.shards.json, a CSV file of path,label, or a folder with a folder of images for each class"
    )


def known_name(source: str) -> str | None:
    """Return the name of a data set that is written like this: CIFAR-10, FashionMNIST, ...; None if there is none."""
    spelt = {_letters(name): name for name in NAMES}
    return spelt.get(_letters(source))


def _letters(name: str) -> str:
    return re.sub(r"[-_. ]", "", name).lower()


def load(
    source: str | Path = "auto",
    *,
    source_config: SourceConfig = SourceConfig(),
    parts: Collection[str] | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Dataset:
    """Load a data set. One that is given by its name and not there is downloaded.

    Parameters
    ----------
    source : str or Path
        A name (auto, cifar10, cifar100, mnist, fashion-mnist, kmnist or digits) or a path. auto is cifar10 if that is
        available, else digits.
    source_config : SourceConfig
        Settings of the reader.
    parts : collection of str, optional
        The parts of CIFAR-10 to read, of data_batch_1 to data_batch_5 and test_batch; all by default.
    progress : callable, optional
        Called with the amount done and the total (None where unknown), during a download and again during reading.
    processes : Processes
        Those among which a manifest of shards divides the rows.

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
        If it cannot be downloaded. auto then loads digits, with a note that says so.
    """
    found = find(source)
    name = "cifar10" if found.name == "auto" else found.name
    form = None if name == "digits" else FORMATS[name] if found.given else KNOWN[name].format
    if source_config.coarse and not (form and form.coarse):
        raise ConfigError(f"coarse does not apply to {source}; leave it out")
    if form is None:
        return _noting_size(load_digits(), source_config)
    path = found.path
    if path is None:
        try:
            fetch(KNOWN[name].downloads, cache_directory(), progress)
        except DownloadError as error:
            if found.name != "auto":
                raise
            reason = f"these are scikit-learn's digits, as CIFAR-10 is not available: {error}"
            return _noting_size(load_digits(notes=(reason,)), source_config)
        path = cache_directory() / KNOWN[name].kept
    if form.read_share and processes.size > 1:
        dataset = form.read_share(path, progress, processes)
    else:
        dataset = form.read(path, source_config, parts, progress)
    if (match := NUMBERED.fullmatch(path.name)) and int(match["count"]) > 1 and not path.is_dir():
        alone = f"only {path.name} is read, which is one of {int(match['count'])} files by its name"
        dataset = replace(dataset, notes=(alone, *dataset.notes))
    fit = dataset.fit if source_config.fit == "auto" else source_config.fit
    dataset = replace(dataset, source=str(path.resolve()) if found.given else name, fit=fit)
    return _noting_size(dataset, source_config)


def _noting_size(dataset: Dataset, source_config: SourceConfig) -> Dataset:
    """Return a data set with a note if its images are not of the size asked for. Old runs forbid an error."""
    size, shape = source_config.width_and_height, dataset.image_shape
    if size is None or (shape and shape[:0:-1] == size):
        return dataset
    rows = f"images are {shape[2]} x {shape[1]}" if shape else "rows are not images"
    note = f"the image size {source_config.image_size} does not apply to {dataset.name}, whose {rows}"
    return replace(dataset, notes=(*dataset.notes, note))


def load_preferred(
    source: str | Path,
    parts: Collection[str] | None,
    *,
    source_config: SourceConfig = SourceConfig(),
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Dataset:
    """Load these parts of a data set; all that it has if one of them is missing."""
    try:
        return load(source, source_config=source_config, parts=parts, progress=progress, processes=processes)
    except MissingPartError:
        return load(source, source_config=source_config, progress=progress, processes=processes)


def load_splits(
    source: str | Path = "auto",
    split_config: SplitConfig = SplitConfig(),
    *,
    source_config: SourceConfig = SourceConfig(),
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Splits:
    """Load the parts of a data set that a protocol needs, and divide them.

    Parameters
    ----------
    source : str or Path
        A name or a path, as for `load`.
    split_config : SplitConfig
        The protocol and its sizes.
    source_config : SourceConfig
        Settings of the reader.
    progress : callable, optional
        As for `load`; called again while all rows are looked through.
    processes : Processes
        Those among which the rows are divided; by default, this one has them all.

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
    dataset = load_for(source, split_config, source_config=source_config, progress=progress, processes=processes)
    splits = split(dataset, split_config, progress)
    trained = np.unique(splits.train.labels)
    if len(trained) == 1:
        only = dataset.class_names[trained[0]]
        raise DataError(f"{dataset.name}: the training rows are of one class only, {only}; a classifier needs two")
    dataset.scan(progress)  # the fingerprint or the duplicates are asked for next
    return divided(splits, processes)


def load_for(
    source: str | Path,
    split_config: SplitConfig,
    *,
    source_config: SourceConfig = SourceConfig(),
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Dataset:
    """Load the parts of a data set that a protocol needs."""
    parts = tuple(BATCH_PROTOCOL.values()) if split_config.protocol in (None, "batch") else None
    return load_preferred(source, parts, source_config=source_config, progress=progress, processes=processes)


def load_digits(notes: tuple[str, ...] = ()) -> Dataset:
    """Load scikit-learn's 1,797 digits of 8 x 8 pixels."""
    from sklearn import datasets

    found = datasets.load_digits()
    # Their greys run from 0 to 16. They are scaled to 0 to 255, the range of the image files that a model classifies.
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


def _place_of(name: str) -> Path | None:
    """Return the place of a known set: at the path in ONELAYER_DATA, else in the cache; None if it is in neither."""
    form = KNOWN[name].format
    if named := os.environ.get(VARIABLE):
        path = Path(named)
        try:
            if name == "cifar10":  # the variable must lead to CIFAR-10; the other sets may be elsewhere
                return require_cifar(path, (CIFAR10,))
            with reading(path):
                if not path.exists():
                    raise DataError(f"{path}: no such file or folder")
                if found := form.find(path):
                    return found
        except DataError as error:
            raise DataError(f"{VARIABLE}: {error}") from None
    try:
        return form.find(cache_directory())
    except OSError:
        return None
