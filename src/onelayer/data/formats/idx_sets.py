"""The addresses, names and checksums of the sets that are published as IDX files.

Addresses and checksums of the packed files are those in torchvision's datasets/mnist.py, and sizes those in TensorFlow
Datasets' url_checksums. The checksums of the unpacked files are those that several public projects use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from onelayer.data.download import Download


class PublishedFile(NamedTuple):
    """MD5 and size of a published, packed file, and MD5 of the unpacked file if that is known."""

    md5: str
    size: int
    plain_md5: str | None = None


@dataclass(frozen=True, eq=False)
class IdxSet:
    """A published set.

    Parameters
    ----------
    name : str
    folders : tuple of str
        The usual names of a folder with its files, in small letters; the first is the name of its folder in the cache.
    class_names : tuple of str
    url : str
        The folder of its files.
    files : mapping of str to PublishedFile
        By name, without .gz.
    """

    name: str
    folders: tuple[str, ...]
    class_names: tuple[str, ...]
    url: str
    files: Mapping[str, PublishedFile]

    @property
    def downloads(self) -> tuple[Download, ...]:
        """The downloads of its files."""
        return tuple(
            Download(f"{self.url}/{name}.gz", file.md5, f"{self.folders[0]}/{name}.gz", file.size)
            for name, file in self.files.items()
        )


MNIST = IdxSet(
    name="MNIST",
    folders=("mnist",),
    class_names=tuple("0123456789"),
    url="https://ossci-datasets.s3.amazonaws.com/mnist",
    files={
        "train-images-idx3-ubyte": PublishedFile(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422, "6bbc9ace898e44ae57da46a324031adb"
        ),
        "train-labels-idx1-ubyte": PublishedFile(
            "d53e105ee54ea40749a09fcbcd1e9432", 28_881, "a25bea736e30d166cdddb491f175f624"
        ),
        "t10k-images-idx3-ubyte": PublishedFile(
            "9fb629c4189551a2d022fa330f9573f3", 1_648_877, "2646ac647ad5339dbf082846283269ea"
        ),
        "t10k-labels-idx1-ubyte": PublishedFile(
            "ec29112dd5afa0611ce80d1b7f02629c", 4_542, "27ae3e4e09519cfbb04c329615203637"
        ),
    },
)

FASHION_MNIST = IdxSet(
    name="Fashion-MNIST",
    folders=("fashion-mnist", "fashion_mnist", "fashionmnist", "fashion"),
    class_names=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    files={
        "train-images-idx3-ubyte": PublishedFile(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880, "f4a8712d7a061bf5bd6d2ca38dc4d50a"
        ),
        "train-labels-idx1-ubyte": PublishedFile(
            "25c81989df183df01b3e8a0aad5dffbe", 29_515, "9018921c3c673c538a1fc5bad174d6f9"
        ),
        "t10k-images-idx3-ubyte": PublishedFile(
            "bef4ecab320f06d8554ea6380940ec79", 4_422_102, "8181f5470baa50b63fa0f6fddb340f0a"
        ),
        "t10k-labels-idx1-ubyte": PublishedFile(
            "bb300cfdad3c16e7a12a480ee83cd310", 5_148, "15d484375f8d13e6eb1aabb0c3f46965"
        ),
    },
)

KMNIST = IdxSet(
    name="KMNIST",
    folders=("kmnist",),
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    url="http://codh.rois.ac.jp/kmnist/dataset/kmnist",
    files={
        "train-images-idx3-ubyte": PublishedFile("bdb82020997e1d708af4cf47b453dcf7", 18_165_135),
        "train-labels-idx1-ubyte": PublishedFile("e144d726b3acfaa3e44228e80efcd344", 29_497),
        "t10k-images-idx3-ubyte": PublishedFile("5c965bf0a639b31b8f53240b1b52f4d7", 3_041_136),
        "t10k-labels-idx1-ubyte": PublishedFile("7320c461ea6c1c855c0b718fb2a4b134", 5_120),
    },
)

SETS = (MNIST, FASHION_MNIST, KMNIST)
