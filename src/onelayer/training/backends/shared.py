"""A backend for rows that are divided among processes: each takes its part of every sum, and all step alike."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.processes import Processes, summed
from onelayer.training.backends import Backend, Totals, Velocity, devices, penalised_mean
from onelayer.training.backends.array import ArrayBackend, mirrored


class SharedBackend(ArrayBackend):
    """Mini-batch gradient descent on the rows of all processes, with the sums of another backend.

    A batch has the rows that it has in a single process. Each process adds up the gradients of the rows that it holds,
    in float64, and takes the step of the sum.

    Parameters
    ----------
    backend : type of Backend
        Does the arithmetic of the rows that this process holds.
    splits, config, standardizer, layer, velocity
        Those of `Backend`, of a data set with a holding.
    """

    def __init__(
        self,
        backend: type[Backend],
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None = None,
    ) -> None:
        super().__init__(splits, config, standardizer, layer, velocity)
        self._summing = splits.dataset.processes
        if backend.name == "torch":
            self._summing = _OnDevice(self._summing, config.device)
        # Its means are turned back into sums, so it has no penalty.
        self._backend = backend(splits, replace(config, l2=0.0), standardizer, layer)

    def run_epoch(
        self, train: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        held = train.held
        for batch in train.blocks(self._batch_size):
            if cancelled():
                raise InterruptedError
            places = held[slice(*np.searchsorted(held, (batch.start, batch.stop)))]
            part = replace(train, indices=train.indices[places])
            if flipped is not None and train.dataset.image_shape is not None:
                part = _mirrored(part, flipped[places])
            layer = SoftmaxLayer(self._templates.T, self._bias, self._loss)
            _, dW, db = summed(self._summing, *self._sums(layer, part, cancelled))
            rows = batch.stop - batch.start
            self._move((dW / rows).astype(self._dtype), (db / rows).astype(self._dtype), learning_rate)

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        mine = split.mine
        of_mine = self._backend.evaluate(layer, mine, cancelled) if len(mine) else Totals(0.0, 0.0)
        loss, right = summed(split.dataset.processes, of_mine.loss, of_mine.right)
        return Totals(float(loss), float(right))

    def objective(
        self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        sums = self._sums(layer, split.mine, cancelled)
        loss, dW, db = summed(self._summing, *sums)
        return penalised_mean(float(loss), dW, db, layer, split, self._l2)

    def _sums(
        self, layer: SoftmaxLayer, part: Split, cancelled: Callable[[], bool]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the sums over some rows: loss, and its derivatives (d, K) and (K,), each row times its weight."""
        if not part.weight:
            return 0.0, np.zeros(layer.weights.shape), np.zeros(layer.bias.shape)
        loss, dW, db = self._backend.objective(layer, part, cancelled)
        return loss * part.weight, dW * part.weight, db * part.weight


class _OnDevice:
    """Processes whose sums go by the device of each: the network of GPUs is faster than that of their hosts."""

    def __init__(self, processes: Processes, device: str) -> None:
        import torch

        self.rank, self.size, self.broadcast = processes.rank, processes.size, processes.broadcast
        self.sum_tensor, self._device = processes.sum_tensor, devices.Device(device)
        self._host = self._device.exact != torch.float64  # which sums are in

    def sum(self, array: np.ndarray) -> np.ndarray:
        import torch

        with self._device.working("a sum of gradients", 4 * array.nbytes):
            tensor = torch.from_numpy(array)
            tensor = tensor if self._host else tensor.to(self._device.torch)
            total: np.ndarray = self.sum_tensor(tensor).cpu().numpy()
            return total


def _mirrored(part: Split, flipped: np.ndarray) -> Split:
    """Return some rows as a data set of their own, mirrored left to right where `flipped` (n,) is true."""
    dataset = part.dataset
    if not len(part) or dataset.image_shape is None:
        return part
    R = mirrored(part.rows(slice(None)), flipped, dataset.image_shape)
    weights = part.row_weights(slice(None))
    own = replace(dataset, rows=R, labels=part.labels, row_weights=weights, parts={}, holding=None)
    return Split(part.name, own, np.arange(len(R)))
