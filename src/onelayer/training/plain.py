"""The training loop as it is taught, in plain NumPy: read it after `onelayer.layer`.

`onelayer.training.sgd` does the same with any backend, with row weights, from data larger than memory, and with the
scores of an epoch computed beside the next. The tests compare the two.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits
from onelayer.data.windows import draw_windows
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.training.schedule import learning_rate_of


class Epoch(NamedTuple):
    """A layer after an epoch, its cost on the training rows in nats, and its accuracy on the validation rows."""

    layer: SoftmaxLayer
    cost: float
    accuracy: float


def gradient_descent(splits: Splits, config: TrainConfig) -> Iterator[Epoch]:
    """Yield the layer after each epoch, with its figures.

    It is for small data: it copies all rows to float64. Row weights are ignored. With flips, no pixel may be constant.
    The learning rate, the number of epochs and any decay must be numbers.
    """
    first, epochs = float(config.learning_rate), int(config.epochs)
    K = len(splits.dataset.class_names)
    R, y = splits.train.rows(slice(None)).astype(np.float64), splits.train.labels  # (n, d), (n,)
    n, d = R.shape
    m, s = R.mean(axis=0), R.std(axis=0)
    constant = R.min(axis=0) == R.max(axis=0)
    s[constant] = 1
    validation = (splits.validation.rows(slice(None)) - m) / s

    rng = np.random.default_rng(config.seed)
    layer = SoftmaxLayer.initial(d, K, rng, init_std=config.init_std, loss=config.loss)
    layer.weights[constant] = 0  # a feature that never varies teaches nothing
    if config.init_bias == "frequencies":
        layer.bias[:] = layer.loss.prior(np.bincount(y, minlength=K) / n)
    V, v = np.zeros_like(layer.weights), np.zeros_like(layer.bias)  # the velocity
    for epoch in range(1, epochs + 1):
        order = np.concatenate(draw_windows(n, config.shuffle_blocks, config.batch_size, rng))  # all rows, at random
        rows, learning_rate = R[order], learning_rate_of(config, first, epoch, decays=0)
        if config.flip and (shape := splits.dataset.image_shape):
            flipped = rng.random(n) < 0.5
            images = rows.reshape(n, *shape)  # (n, c, h, w), a view
            images[flipped] = images[flipped, :, :, ::-1]
        for start in range(0, n, config.batch_size):
            batch = slice(start, start + config.batch_size)
            X = (rows[batch] - m) / s
            dW, db = layer.gradients(X, y[order[batch]], config.l2)
            V, v = config.momentum_taken * V + dW, config.momentum_taken * v + db
            layer = SoftmaxLayer(layer.weights - learning_rate * V, layer.bias - learning_rate * v, layer.loss)
        cost = float(layer.cost((R - m) / s, y, config.l2))
        right = likeliest(layer.logits(validation)) == splits.validation.labels
        yield Epoch(layer, cost, float(right.mean()) if len(right) else np.nan)
