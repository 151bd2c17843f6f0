"""The formats that a path is tried for, and the data sets that have a name."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from onelayer.config import SourceConfig
from onelayer.data.dataset import Dataset
from onelayer.data.download import Download
from onelayer.data.formats.arrays import find_arrays, find_unnamed, read_arrays
from onelayer.data.formats.cifar import find_cifar, find_cifar_below, read_cifar
from onelayer.data.formats.cifar_sets import CIFAR10, CIFAR100, Cifar
from onelayer.data.formats.folder import find_folder, read_folder
from onelayer.data.formats.idx import find_idx, find_idx_set, read_idx
from onelayer.data.formats.idx_sets import FASHION_MNIST, KMNIST, MNIST, IdxSet
from onelayer.data.formats.listing import find_listing, read_listing
from onelayer.data.formats.parquet import find_parquet, read_parquet
from onelayer.data.formats.parquet_lists import has_lists
from onelayer.data.formats.parquet_table import lists_images
from onelayer.data.formats.shards import find_manifest, read_manifest
from onelayer.data.progress import Progress
from onelayer.processes import Processes


class Format(NamedTuple):
    """A format of data at a path.

    Parameters
    ----------
    find : callable
        Returns the place of data of this format at an existing path; None if there are none. It looks at names, not
        into files.
    read : callable
        Reads the place that `find` returned. The collection names the parts to read, in a format that has parts; None
        reads all of them.
    coarse : bool
        Whether data of this format can have coarse labels. The reader then refuses data that have none.
    read_share : callable, optional
        Reads the rows that one of several processes holds, if the source itself divides them.
    """

    find: Callable[[Path], Path | None]
    read: Callable[[Path, SourceConfig, Collection[str] | None, Progress | None], Dataset]
    coarse: bool = False
    read_share: Callable[[Path, Progress | None, Processes], Dataset] | None = None


_CIFAR = Format(
    find_cifar,
    lambda path, config, parts, progress: read_cifar(path, parts, progress, coarse=config.coarse),
    coarse=True,
)
_ARRAYS = Format(find_arrays, lambda path, _, __, progress: read_arrays(path, progress))

# The formats in the order in which a path is tried; the first that finds something reads it.
FORMATS: dict[str, Format] = {
    "cifar": _CIFAR,
    "idx": Format(find_idx, lambda path, _, __, progress: read_idx(path, progress)),
    "arrays": _ARRAYS,
    "parquet": Format(
        find_parquet,
        lambda path, config, _, progress: (
            read_listing if lists_images(path) and not has_lists(path) else read_parquet
        )(path, config, progress),
        coarse=True,
    ),
    "shards": Format(find_manifest, lambda path, _, __, progress: read_manifest(path, progress), False, read_manifest),
    "list": Format(find_listing, lambda path, config, _, progress: read_listing(path, config, progress)),
    "cifar below": _CIFAR._replace(find=find_cifar_below),
    "folder": Format(find_folder, lambda path, config, _, progress: read_folder(path, config, progress)),
    "unnamed arrays": _ARRAYS._replace(find=find_unnamed),  # its reader says which names are known
}


class Known(NamedTuple):
    """A data set that can be loaded by its name.

    Parameters
    ----------
    format : Format
        Finds it in a folder of data sets, and reads it.
    downloads : tuple of Download
        Its files.
    kept : str
        The path in the cache from which it is read after the download.
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


# The checksums of CIFAR's archives are those in torchvision's datasets/cifar.py.
KNOWN = {
    "cifar10": _cifar(CIFAR10, "c58f30108f718f92721af3b95e74349a", 170_498_071),
    "cifar100": _cifar(CIFAR100, "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
    "mnist": _idx(MNIST),
    "fashion-mnist": _idx(FASHION_MNIST),
    "kmnist": _idx(KMNIST),
}
NAMES = ("auto", *KNOWN, "digits")
