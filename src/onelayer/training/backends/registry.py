"""The list of backends, and the choice among them."""

from dataclasses import replace

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.errors import ConfigError
from onelayer.losses import LOSSES, dual_of
from onelayer.training.backends import Backend
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.devices import in_words, settled_device
from onelayer.training.backends.native import NativeBackend
from onelayer.training.backends.pytorch import TorchBackend

# In order of preference. NumPy has no obstacle, so auto takes none after it.
BACKENDS: dict[str, type[Backend]] = {backend.name: backend for backend in (NativeBackend, ArrayBackend, TorchBackend)}
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
    if config.backend == "auto" and config.needs_torch:
        config = replace(config, backend="torch")
    if config.backend == "auto":
        if min(len(dataset.class_names), config.batch_size) >= BLAS_SIZE:
            return ArrayBackend
        return next(backend for backend in BACKENDS.values() if backend.obstacle(dataset, config) is None)
    backend = named_backend(config)
    if obstacle := backend.obstacle(dataset, config):
        instead = "" if config.needs_torch else f", or use the backend {ArrayBackend.name}"
        raise ConfigError(f"the backend {backend.name} {obstacle}{instead}")
    return backend


def named_backend(config: TrainConfig) -> type[Backend]:
    """Return the backend that the settings name, which is not auto.

    Raises
    ------
    ConfigError
        If the backend does not have the device or the precision.
    """
    backend = BACKENDS[config.backend]
    if config.needs_torch and backend is not TorchBackend:
        name = "precision" if config.precision != "full" else "device"
        what = f"{name} {getattr(config, name)} is a setting of the backend torch, not of {backend.name}"
        raise ConfigError(f"{what}; leave it out, or take the backend torch")
    return backend


def device_of(config: TrainConfig, backend: type[Backend]) -> str:
    """Return the device of the backend torch in words; nothing for another backend."""
    return in_words(config) if backend.name == TorchBackend.name else ""


def settled(config: TrainConfig, backend: type[Backend]) -> TrainConfig:
    """Return the settings that choose this backend again, and the same device."""
    device = settled_device(config.device) if backend.name == TorchBackend.name else config.device
    return replace(config, backend=backend.name, device=device)
