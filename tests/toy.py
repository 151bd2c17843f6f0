"""Small learnable data sets and a training loop too plain to be wrong, for the tests."""

import numpy as np

from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Splits, split


def toy_dataset(
    n: int = 300,
    image_shape: tuple[int, int, int] | None = (3, 4, 5),
    K: int = 4,
    dtype: str = "uint8",
    seed: int = 0,
) -> Dataset:
    """Noisy pictures of K prototypes; one feature is constant."""
    rng = np.random.default_rng(seed)
    d = 60
    labels = rng.integers(0, K, n)
    prototypes = rng.uniform(60, 200, (K, d))
    rows = prototypes[labels] + rng.normal(0, 60, (n, d))
    rows = np.clip(np.rint(rows), 0, 255) if dtype == "uint8" else rows
    rows[:, 7] = 3
    names = tuple(f"class {k}" for k in range(K))
    return Dataset(rows.astype(dtype), labels.astype(np.int64), names, image_shape, "toy")


def toy_splits(**options: object) -> Splits:
    return split(toy_dataset(**options), SplitConfig())


def plain_training(splits: Splits, config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """W (d, K) and b (K,) by the formulas as they are taught, in float64 on standardised copies."""
    R = splits.dataset.rows[splits.train.indices].astype(float)
    y = splits.dataset.labels[splits.train.indices]
    m, s = R.mean(0), R.std(0)
    s[s == 0] = 1
    n, d = R.shape
    K = len(splits.dataset.class_names)
    rng = np.random.default_rng(config.seed)
    W = (rng.standard_normal((K, d)) * config.init_std).T
    b = np.zeros(K)
    Y = np.eye(K)[y]
    eta = config.learning_rate
    for epoch in range(1, config.epochs + 1):
        if size := config.shuffle_blocks:
            blocks = [np.arange(start, min(start + size, n)) for start in range(0, n, size)]
            blocks = [blocks[block] for block in rng.permutation(len(blocks))]
            order = [rng.permutation(np.concatenate(blocks[at : at + 64])) for at in range(0, len(blocks), 64)]
            order = np.concatenate(order)
        else:
            order = rng.permutation(n)
        images = R.copy()
        if config.flip:
            for place, flipped in zip(order, rng.random(n) < 0.5, strict=True):
                if flipped:
                    images[place] = R[place].reshape(splits.dataset.image_shape)[:, :, ::-1].ravel()
        X = (images - m) / s
        for start in range(0, n, config.batch_size):
            batch = order[start : start + config.batch_size]
            S = X[batch] @ W + b
            if config.loss == "softmax":
                P = np.exp(S) / np.exp(S).sum(1, keepdims=True)
                G = (P - Y[batch]) / len(batch)
            else:
                G = (1 / (1 + np.exp(-S)) - Y[batch]) / (len(batch) * K)
            W = W - eta * (X[batch].T @ G + 2 * config.l2 * W)
            b = b - eta * G.sum(0)
        if config.decay_every and epoch % config.decay_every == 0:
            eta *= config.decay_factor
    return W, b
