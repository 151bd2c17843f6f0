"""The names of files and classes of CIFAR-10 and CIFAR-100, and their published checksums."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Cifar:
    """The names and checksums of one of the two sets.

    Parameters
    ----------
    name : str
    parts : tuple of str
    classes : mapping of str to tuple of str
        The class names of each kind of labels; a kind is the key of the labels in a pickle or a MATLAB file. A row of
        the binary version starts with a byte for each kind, in this order. The last kind has the finest classes.
    metas : mapping of str to str
        The file with the names of the classes, by form; ``{}`` stands for the kind of label.
    folders, archives : tuple of str
        The published names of folders and archives.
    python_md5, rows_md5 : mapping of str to str
        MD5 of each part's file in the Python version and in the binary version. A MATLAB file is compared with the
        second after its labels and pixels are written row by row, as no checksums of MATLAB files are published.
    """

    name: str
    parts: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    metas: Mapping[str, str]
    folders: tuple[str, ...]
    archives: tuple[str, ...]
    python_md5: Mapping[str, str]
    rows_md5: Mapping[str, str]


CIFAR10 = Cifar(
    name="CIFAR-10",
    parts=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"),
    classes={
        "labels": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    },
    metas={"": "batches.meta", ".bin": "batches.meta.txt", ".mat": "batches.meta.mat"},
    folders=("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10-batches-mat"),
    archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-matlab.tar.gz"),
    python_md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    rows_md5={
        "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)

# The names of the classes, as in the files that are published with the set.
_COARSE = (
    "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices "
    "household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes "
    "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees "
    "vehicles_1 vehicles_2"
)
_FINE = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

CIFAR100 = Cifar(
    name="CIFAR-100",
    parts=("train", "test"),
    classes={
        "coarse_labels": tuple(_COARSE.split()),
        "fine_labels": tuple(_FINE.split()),
    },
    metas={"": "meta", ".bin": "{}_names.txt", ".mat": "meta.mat"},
    folders=("cifar-100-python", "cifar-100-binary", "cifar-100-matlab"),
    archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz", "cifar-100-matlab.tar.gz"),
    python_md5={  # from torchvision's datasets/cifar.py
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    rows_md5={  # from vision/cifar100.go of github.com/rai-project/dldataset, whose values for CIFAR-10 equal ours
        "train": "6172c7755cfe09b2fe270c85cebc1b15",
        "test": "4499cfba6c016c1be1438163640a0898",
    },
)

SETS = (CIFAR10, CIFAR100)
