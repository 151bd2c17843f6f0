"""The compiled kernel of a one-layer classifier: gradient descent, evaluation, loss with gradient, products, patches.

Arrays are checked and never copied: they must be in C order and aligned. The arguments that calls share:

- `rows` (n, d): uint8 pixels, or float16 or float32 features, standardised by `mean` and `scale` (d,); an infinite
  scale makes a feature 0 in every row.
- `labels` (n,), values 0..K-1; `row_weights` (n,), factors on the losses of the rows, or None for 1.
- `places` (count,): the rows that are visited, in this order.
- `templates` (K, d) and `bias` (K,): the layer for standardised rows.
- `width`: in products, columns of images whose right halves are added, mirrored, to the left ones, which have the
  `mean` and `scale`; a middle column stays as it is. With 0, rows stay as they are.
- `scores`, `residuals` and `probabilities` (K, count): a column for each place. The classes may lie apart, as in a
  slice of columns.
- `loss`: softmax or sigmoid.
- `cancelled`: asked about ten times a second; InterruptedError is raised soon after it returns true.

A ValueError or TypeError begins with the name of the argument that is wrong.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

def variants() -> list[str]:
    """Return the instruction sets that this machine can run, the quickest first.

    ``avx512-bf16``, whose products of patches are of bfloat16, and ``emulated-bf16``, which imitates it on any machine,
    are not among them: they are chosen only by name.
    """

def variant() -> str:
    """Return the instruction set in use; the environment variable ONELAYER_KERNEL chooses another."""

def run_epoch(
    rows: NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32],
    labels: NDArray[np.int64],
    row_weights: NDArray[np.float64] | None,
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    places: NDArray[np.int64],
    templates: NDArray[np.float32],
    bias: NDArray[np.float32],
    loss: str,
    flipped: NDArray[np.bool_] | None,
    width: int,
    batch_size: int,
    learning_rate: float,
    l2: float,
    momentum: float,
    velocity: NDArray[np.float32] | None,
    bias_velocity: NDArray[np.float32] | None,
    cancelled: Callable[[], bool] | None,
) -> None:
    """Visit the rows in batches and update `templates` and `bias` in place, and the velocity of both with momentum.

    Rows are images of `width` columns, which are mirrored where `flipped` (count,) is true.
    """

def evaluate(
    rows: NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32],
    labels: NDArray[np.int64],
    row_weights: NDArray[np.float64] | None,
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    places: NDArray[np.int64],
    templates: NDArray[np.float32],
    bias: NDArray[np.float32],
    loss: str,
    cancelled: Callable[[], bool] | None,
) -> tuple[float, float]:
    """Return the sum of the losses in nats, and of the right answers, each times the weight of its row."""

def objective(
    rows: NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32],
    labels: NDArray[np.int64],
    row_weights: NDArray[np.float64] | None,
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    places: NDArray[np.int64],
    templates: NDArray[np.float32],
    bias: NDArray[np.float32],
    loss: str,
    gradient: NDArray[np.float64],
    bias_gradient: NDArray[np.float64],
    cancelled: Callable[[], bool] | None,
) -> float:
    """Return the sum of the losses in nats, each times the weight of its row, and write its gradients.

    `gradient` (K, d) and `bias_gradient` (K,) receive the derivatives of this sum with respect to `templates` and
    `bias`. Products are taken in float32; sums over blocks of rows in float64.
    """

def scores(
    rows: NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    places: NDArray[np.int64],
    width: int,
    templates: NDArray[np.float64],
    scores: NDArray[np.float32],
    cancelled: Callable[[], bool] | None,
) -> None:
    """Write T X^T, the products of templates and standardised rows, into `scores`; they are taken in float32."""

def gradient(
    rows: NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    places: NDArray[np.int64],
    width: int,
    residuals: NDArray[np.float32],
    gradient: NDArray[np.float64],
    cancelled: Callable[[], bool] | None,
) -> None:
    """Write G X, the products of residuals and standardised rows, into `gradient` (K, d).

    Products are taken in float32; sums over blocks of rows in float64.
    """

def standardise(
    rows: NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    places: NDArray[np.int64],
    width: int,
    standardised: NDArray[np.float32],
    cancelled: Callable[[], bool] | None,
) -> None:
    """Write standardised rows into `standardised` (count, d)."""

def probabilities(
    scores: NDArray[np.float32],
    bias: NDArray[np.float64],
    labels: NDArray[np.int64],
    row_weights: NDArray[np.float64],
    loss: str,
    probabilities: NDArray[np.float32],
    means: NDArray[np.float64],
    cancelled: Callable[[], bool] | None,
) -> float:
    """Return the sum of the losses in nats, each times the weight of its row; of sigmoids, the sum over the classes.

    `labels` and `row_weights` (count,) are those of the columns. `probabilities` and `means` (K,) receive the
    probabilities, and their sums over the columns, each times the weight of its row; `probabilities` may be `scores`.
    """

def patches(
    images: NDArray[np.uint8],
    filters: NDArray[np.float32],
    bias: NDArray[np.float32],
    mirrored: bool,
    epsilon: float,
    threshold: float,
    scale: float,
    down: NDArray[np.int64],
    across: NDArray[np.int64],
    windows: NDArray[np.int64],
    codes: NDArray[np.uint8],
    cancelled: Callable[[], bool] | None,
) -> None:
    """Write codes of `images` (n, c, h, w) by `filters` (F, c, k, k) into `codes` (n, views, d).

    The response of a filter at each of (h - k + 1) x (w - k + 1) positions is its product with the patch x, divided by
    sqrt(variance of x + `epsilon`), plus its `bias`. Activations are max(z - `threshold`, 0) and
    max(-z - `threshold`, 0). A code is `scale` times the square root of their average over a window, rounded, at most
    255.

    `down` and `across` (ranges, 2) hold the first position of ranges and the one after their last. A row of `windows`
    (windows, 4) holds the number of a range down and of one across, the number of the range across for twins, and the
    place in the codes of an image: those of the positive activations follow, filter by filter, then the negative ones.
    Where filters are `mirrored`, the second half are the twins of the first half, and a code is of the average of both.

    Products are of float32; those of instruction sets that end in ``bf16`` are of bfloat16, to which filters are
    rounded, with sums in float32. What this adds to the sum of a filter, times the mean of x, is taken away again.
    """
