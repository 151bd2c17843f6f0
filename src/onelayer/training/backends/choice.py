"""The choice of a backend."""

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.errors import ConfigError
from onelayer.kernel import kernel
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.native import NativeBackend

# So many classes, and rows in a batch, make a product that BLAS does as quickly as the kernel or up to a tenth quicker.
BLAS_SIZE = 512


def choose_backend(dataset: Dataset, config: TrainConfig) -> type[NativeBackend] | type[ArrayBackend]:
    """Who does the arithmetic; their `name`, as a setting, chooses the same again.

    Raises
    ------
    ConfigError
        If it is to be native and cannot, ONELAYER_KERNEL names no instruction set of this machine, or images are to be
        flipped where there are none.
    """
    if config.flip and dataset.image_shape is None:
        raise ConfigError(f"flip needs images, and the rows of {dataset.name} are none; leave it out")
    if config.backend == "numpy":
        return ArrayBackend
    obstacle = None
    if kernel is None:
        obstacle = "was not compiled when onelayer was installed: install it again with a C++ compiler"
    elif config.dtype != "float32":
        obstacle = f"does not do {config.dtype}: leave --dtype out"
    elif not NativeBackend.takes(dataset.rows):
        obstacle = f"needs uint8 or float32 rows in C order, as those of {dataset.name} are not: store them so"
    if obstacle is None:
        if config.backend == "auto" and min(len(dataset.class_names), config.batch_size) >= BLAS_SIZE:
            return ArrayBackend
        NativeBackend.require_variant()
        return NativeBackend
    if config.backend == "native":
        raise ConfigError(f"the backend native {obstacle}, or use the backend numpy")
    return ArrayBackend
