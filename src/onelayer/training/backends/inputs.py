"""Inputs with a column of ones, and layers as one matrix for them, in NumPy's arrays or PyTorch's tensors.

A block of inputs is X (k, width): standardised features, a column of ones for the bias, and zeros up to a multiple of
`ALIGNED` columns, which products on a GPU are quicker with. A layer for such inputs is one matrix A (K, width), which
holds the templates and, in the column of the ones, the bias: the logits are X A^T, and the gradient is G^T X.
"""

import numpy as np

from onelayer.losses import Array

ALIGNED = 8  # columns


def width_of(d: int) -> int:
    """Return the columns of the inputs for rows of d features."""
    return -(-(d + 1) // ALIGNED) * ALIGNED


def joined(templates: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the matrix A (K, width) of templates (K, d) and a bias (K,)."""
    K, d = templates.shape
    A = np.zeros((K, width_of(d)), templates.dtype)
    A[:, :d], A[:, d] = templates, bias
    return A


def apart(A: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return templates (K, d) and bias (K,) of a matrix A (K, width), as arrays of their own."""
    return A[:, :d].copy(), A[:, d].copy()


def product(a: Array, b: Array) -> Array:
    """Return a b in the type of the layer; inputs of bfloat16 round both factors, and the sums are float32."""
    if isinstance(a, np.ndarray):
        return a @ b
    import torch

    if a.dtype != torch.bfloat16:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b.to(a.dtype), out_dtype=torch.float32)
    return a.float() @ b.to(a.dtype).float()


def add_product(A: Array, a: Array, b: Array, factor: float) -> None:
    """Add factor times a b to A, for inputs b; on a device, without another array of this size."""
    if isinstance(A, np.ndarray):
        A += (factor * a) @ b
        return
    import torch

    if b.dtype != torch.bfloat16:
        A.addmm_(a, b, alpha=factor)
        return
    A.add_(product(a.to(b.dtype), b), alpha=factor)
