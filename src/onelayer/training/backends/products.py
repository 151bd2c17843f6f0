"""Products of layers and inputs, in NumPy's arrays or PyTorch's tensors; inputs may have the digits of bfloat16."""

import numpy as np

from onelayer.losses import Array


def product(a: Array, b: Array) -> Array:
    """Return a b in the type of the layer; bfloat16 rounds the factors, and the sums are float32."""
    if isinstance(a, np.ndarray):
        return a @ b
    import torch

    if a.dtype != torch.bfloat16:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b.to(a.dtype), out_dtype=torch.float32)
    return a.float() @ b.to(a.dtype).float()


def add_product(A: Array, a: Array, b: Array, factor: float) -> None:
    """Add factor times a b to A; on a device, without another array of this size."""
    if isinstance(A, np.ndarray):
        A += (factor * a) @ b
        return
    import torch

    if b.dtype != torch.bfloat16:
        A.addmm_(a, b, alpha=factor)
        return
    A.add_(product(a.to(b.dtype), b), alpha=factor)
