"""The training rows of the converged solver on a device of PyTorch, which takes the two products of `Rows`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch

from onelayer.data.dataset import Split
from onelayer.features.standardizer import Standardizer
from onelayer.training.backends.devices import Device
from onelayer.training.backends.feed import Feed, Held, of_arrays
from onelayer.training.backends.inputs import width_of
from onelayer.training.converging.rows import Rows


class DeviceRows(Rows):
    """`Rows` whose products are taken on a device; the solver itself stays on the CPU.

    Parameters
    ----------
    split, standardizer, flip, dtype, threads
        Those of `Rows`; float64 is left out on a device that lacks it.
    device : str
        Value of the setting `device`.
    """

    def __init__(
        self,
        split: Split,
        standardizer: Standardizer,
        device: str,
        *,
        flip: bool = False,
        dtype: np.dtype | None = None,
        threads: int = 0,
    ) -> None:
        self._device = Device(device)
        if self._device.exact == torch.float32:
            dtype = np.dtype(np.float32)
        super().__init__(split, standardizer, flip=flip, dtype=dtype, compiled=False, threads=threads)
        self._type = torch.float64 if self.dtype == np.float64 else torch.float32
        width = width_of(self.d)
        size = max(1, min(self.n, self._device.numbers // max(width, self.K)))
        self._needed = (size * (width + 2 * self.K) + 4 * self.K * width) * self.dtype.itemsize
        with self._working():
            held = Held.on(self._device, self.split.dataset, self._needed)
            folded = Standardizer(self._mean, self._scale)
            fold = partial(_folded, shape) if self._mirror and (shape := self.split.dataset.image_shape) else None
            self._feed = Feed(held, folded, size, self._type, fold)

    def scores(self, T: np.ndarray) -> np.ndarray:
        S = np.empty((len(T), self.n), self.dtype)
        with self._working():
            A = of_arrays(T, np.zeros(len(T)), self._device.torch, self._type)
            for place, X in self._blocks():
                S[:, place] = (A @ X.T).cpu().numpy()
        return S

    def gradient(self, G: np.ndarray) -> np.ndarray:
        with self._working():
            total = torch.zeros((len(G), width_of(self.d)), dtype=self._device.exact, device=self._device.torch)
            for place, X in self._blocks():
                of_block = torch.from_numpy(np.ascontiguousarray(G[:, place])).to(self._device.torch, self._type)
                total += of_block @ X
            return self.processes.sum_tensor(total)[:, : self.d].cpu().numpy().astype(np.float64)

    def _working(self) -> AbstractContextManager[None]:
        return self._device.working("the solver converged", self._needed, remedies=())

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the places of a block of rows, and its inputs X (k, width)."""
        inputs = (X for X, _, _ in self._feed.blocks(self.split))
        return zip(self.split.blocks(self._feed.size), inputs, strict=True)


def _folded(shape: tuple[int, int, int], R: torch.Tensor) -> torch.Tensor:
    """Return the sums (k, d') of images R (k, d), in floating point, and their mirror images, as `Rows` does."""
    images, half = R.view(-1, *shape), shape[2] // 2
    folded = images[..., : shape[2] - half].clone()
    folded[..., :half] += images.flip(-1)[..., :half]
    return folded.view(len(R), -1)
