"""The list of backends, and the choice among them."""

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.errors import ConfigError
from onelayer.losses import LOSSES, dual_of
from onelayer.training.backends import Backend
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.native import NativeBackend

# In order of preference. The last has no obstacle.
BACKENDS: dict[str, type[Backend]] = {backend.name: backend for backend in (NativeBackend, ArrayBackend)}
# With this many classes, and rows in a batch, a product of BLAS is as quick as the kernel or up to a tenth quicker.
BLAS_SIZE = 512


def choose_backend(dataset: Dataset, config: TrainConfig) -> type[Backend]:
    """Return the backend for these rows and settings; its name, as a setting, chooses the same again.

    Raises
    ------
    ConfigError
        If the backend asked for has an obstacle, ONELAYER_KERNEL names an instruction set that this machine does not
        have, `flip` is set but the rows are not images, or the solver is converged and no bound is known for the loss.
    """
    if config.solver == "converged":
        dual_of(LOSSES[config.loss])  # its gap is that of the bound
    if config.flip and dataset.image_shape is None:
        raise ConfigError(f"flip needs images, but the rows of {dataset.name} are not images; leave it out")
    if config.backend == "auto":
        if min(len(dataset.class_names), config.batch_size) >= BLAS_SIZE:
            return ArrayBackend
        return next(backend for backend in BACKENDS.values() if backend.obstacle(dataset, config) is None)
    backend = BACKENDS[config.backend]
    if obstacle := backend.obstacle(dataset, config):
        raise ConfigError(f"the backend {backend.name} {obstacle}, or use the backend {ArrayBackend.name}")
    return backend
