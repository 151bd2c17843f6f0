"""Say what to expect of an H100, by a simulated clock: it counts operations of PyTorch, and models their time.

    python benchmarks/clock.py

An operation takes the longest of three times: that of a launch, that of the bytes it reads and writes at the bandwidth
of the memory, and that of its floating-point operations at the speed of its products. Nothing overlaps. The figures of
the card are those that NVIDIA gives for the H100 SXM, read in a seller's table, which gives products with sparsity and
both directions of PCIe (https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html): 3.35 TB/s, 67 TFLOP/s in
float32, 495 in TF32 without sparsity, and 64 GB/s in each direction. That a small kernel takes 3.4 us in a CUDA graph,
and 8 us if Python launches it, are assumptions. The first epoch, the capture and the work of the host are left out.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gpu import BATCH, CLASSES, EMBEDDINGS, FEATURES, RATES, embeddings, images
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from onelayer.config import COURSEWORK, TrainConfig
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.training.backends import devices
from onelayer.training.backends.pytorch import TorchBackend

BANDWIDTH, PCIE = 3.35e12, 64e9  # bytes a second
FLOPS = {"full": 67e12, "tf32": 495e12}  # a second
IN_GRAPH, FROM_PYTHON = 3.4e-6, 8e-6  # seconds
VIEWS = re.compile(
    r"aten\.(view|slice|select|unsqueeze|transpose|t|expand|as_strided|alias|detach|permute|lift_fresh)\."
)


@dataclass
class Counted:
    """The work of some code.

    Parameters
    ----------
    launches : int
    bytes, flops : float
        Read and written, and of products.
    seconds : float
        By the model.
    """

    launches: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    names: Counter[str] = field(default_factory=Counter)

    def in_words(self) -> str:
        """Return all of it in a line."""
        work = f"{self.bytes / 1e9:.3g} GB, {self.flops / 1e9:.3g} GFLOP"
        return f"{self.launches:,} launches, {work}, {1e3 * self.seconds:.3g} ms"


class Clock(TorchDispatchMode):
    """Counts the operations of a block of code.

    Parameters
    ----------
    precision : str
        Value of the setting `precision`.
    launch : float
        Seconds of a launch.
    """

    def __init__(self, precision: str = "full", launch: float = FROM_PYTHON) -> None:
        super().__init__()
        self.counted, self._speed, self._launch = Counted(), FLOPS[precision], launch

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        name = str(operation)
        if not VIEWS.match(name):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            if "index_select" in name:  # the rows that it takes, and not all
                moved = 2 * tensors[-1].numel() * tensors[-1].element_size()
            flops = 0
            if re.match(r"aten\.(mm|addmm_?)\.", name):
                (a, b), out = tensors[-3:-1], tensors[-1]
                flops = 2 * out.numel() * a.shape[1] if b.shape[0] == a.shape[1] else 0
            found = self.counted
            found.launches, found.bytes, found.flops = found.launches + 1, found.bytes + moved, found.flops + flops
            found.seconds += max(self._launch, moved / BANDWIDTH, flops / self._speed)
            found.names[name] += 1
        return result


def coursework() -> None:
    """Print the launches, bytes and time of an epoch of the coursework's run, and of its evaluation."""
    splits, config = images(1.0), replace(COURSEWORK, backend="torch", device="cpu")
    layer = SoftmaxLayer.initial(3072, 10, np.random.default_rng(0), dtype="float32")
    backend = TorchBackend(splits, config, splits.standardizer.for_training, layer)
    with Clock(launch=IN_GRAPH) as clock:
        backend.run_epoch(splits.train, 0.001, None, bool)
    with Clock() as scoring:
        for split in (splits.train, splits.validation):
            backend.evaluate(layer, split, bool)
    print(f"an epoch of the coursework, 100 steps: {clock.counted.in_words()}")
    print(f"its evaluation: {scoring.counted.in_words()}")
    print(f"40 epochs: {40 * (clock.counted.seconds + scoring.counted.seconds):.3f} s\n")


def many_rates(precision: str) -> None:
    """Print the same for a step of 13 learning rates at once on 1,000 classes, and the time of 10 epochs."""
    from onelayer.training.stack import Head
    from onelayer.training.stack_rows import StackRows

    splits = embeddings(3 * BATCH / EMBEDDINGS)
    standardizer = Standardizer.fit(splits.train.row_blocks(2**14)).for_training
    layer = SoftmaxLayer.initial(FEATURES, CLASSES, np.random.default_rng(0), init_std=0.0, dtype="float32")
    batch = replace(splits.train, indices=splits.train.indices[:BATCH])
    config = TrainConfig(batch_size=BATCH, backend="torch", device="cpu")
    rows = StackRows.on_device(splits, standardizer, config, columns=len(RATES) * CLASSES)
    stack = rows.stack([Head(layer, rate) for rate in RATES])
    with Clock(precision, IN_GRAPH) as clock:
        rows.train(stack, batch, None, bool)
    print(f"{len(RATES)} learning rates, {precision}, a step of {BATCH:,} rows: {clock.counted.in_words()}")
    print(f"10 epochs of {EMBEDDINGS:,} rows: {10 * EMBEDDINGS / BATCH * clock.counted.seconds:.1f} s\n")


def main() -> None:
    devices.CPU_NUMBERS = devices.GPU_NUMBERS  # blocks of the size that a GPU takes
    devices.room_on = lambda device: 1e12  # and resident rows
    coursework()
    for precision in ("full", "tf32"):
        many_rates(precision)
    copied = EMBEDDINGS * FEATURES * 2
    print(f"{EMBEDDINGS:,} rows are {copied / 1e9:.2f} GB; to stream them takes {copied / PCIE:.3f} s an epoch")


if __name__ == "__main__":
    main()
