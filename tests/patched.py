"""Helpers for tests of patch features: images, a map that is drawn from them, a model, and a run."""

from functools import cache

import numpy as np
import pytest

from onelayer import Model, SplitConfig, Standardizer, TrainConfig, train
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split
from onelayer.features import filters as recipe
from onelayer.features.patches import Patches
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan

CLASSES = ("cat", "dog", "<b>eel</b>")


def images(shape, n=6, seed=0):
    """Smooth noise with edges, so that neighbouring pixels are alike, as in photos."""
    rng = np.random.default_rng(seed)
    c, h, w = shape
    coarse = rng.integers(0, 256, (n, c, -(-h // 3), -(-w // 3)))
    pictures = coarse.repeat(3, axis=2).repeat(3, axis=3)[:, :, :h, :w] + rng.normal(0, 20, (n, *shape))
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def pictures(n=150, shape=(3, 16, 16), seed=0, **facts):
    """Images of stripes, whose direction is the class, under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    y, x = np.mgrid[: shape[1], : shape[2]]
    waves = np.stack([np.sin(x), np.sin(y), np.sin(x + y)])
    images = 128 + 40 * waves[labels][:, None] + rng.normal(0, 40, (n, *shape))
    rows = np.clip(np.rint(images), 0, 255).astype(np.uint8).reshape(n, -1)
    return Dataset(rows, labels.astype(np.int64), ("across", "down", "slanted"), shape, "stripes", **facts)


@cache
def drawn(shape, filters=10, seed=3, n=6, **options):
    rows = images(shape, n).reshape(n, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "DRAWN", 5000)  # patches, a tenth of the usual number
        return Patches.drawn(rows, np.arange(n), shape, filters=filters, seed=seed, **options)


def responses(bank, image):
    """Responses z (down, across, F) of an image (c, h, w), one position after another."""
    _, h, w = image.shape
    k = bank.filters.shape[2]
    z = np.empty((h - k + 1, w - k + 1, len(bank.filters)))
    for y, x in np.ndindex(z.shape[:2]):
        patch = image[:, y : y + k, x : x + k].astype(float)
        z[y, x] = (bank.filters * patch).sum(axis=(1, 2, 3)) / np.sqrt(patch.var() + 10) + bank.bias
    return z


def spelled_out(patches, image):
    """Codes before rounding (views, d), as the text of the map says, one position and one window after another."""
    _, h, w = patches.image_shape
    shift = round(min(h, w) / 16) if patches.views == 5 else 0
    moves = [(0, 0), (-shift, -shift), (-shift, shift), (shift, -shift), (shift, shift)][: patches.views]
    codes = [[] for _ in moves]
    for bank in patches.banks:
        z = responses(bank, image)
        for view, (a, b) in zip(codes, moves, strict=True):
            inner = z[shift + a : len(z) - shift + a, shift + b : z.shape[1] - shift + b]
            for rows in thirds(inner.shape[0]):
                spans = thirds(inner.shape[1])
                for columns, opposite in zip(spans, spans[::-1], strict=True):
                    for side in (1, -1):
                        f = np.maximum(side * inner[rows, columns] - 0.5, 0).mean(axis=(0, 1))
                        if patches.mirrored:
                            of_twins = np.maximum(side * inner[rows, opposite] - 0.5, 0).mean(axis=(0, 1))
                            f = (f[: len(f) // 2] + of_twins[len(f) // 2 :]) / 2
                        view.append(255 * np.sqrt(f) / bank.largest)
    return np.minimum([np.concatenate(view) for view in codes], 255)


def thirds(length):
    count = min(3, length)
    stride = length // count
    return [slice(i * stride, i * stride + length - (count - 1) * stride) for i in range(count)]


def model_of(patches, seed=0):
    """A model of random weights."""
    rng = np.random.default_rng(seed)
    d, d_in = patches.d_out, patches.d_in
    layer = SoftmaxLayer(np.asfortranarray(rng.normal(0, 0.05, (d, 4))), rng.normal(0, 1, 4), LOSSES["softmax"])
    standardizer = Standardizer(rng.uniform(20, 90, d), rng.uniform(20, 40, d))
    of_rows = Standardizer(np.full(d_in, 120.0), np.full(d_in, 70.0))
    return Model(layer, standardizer, ("a", "b", "c", "d"), patches.image_shape, True, patches, of_rows)


def splits_of(shape, n=40, classes=CLASSES):
    rows = images(shape, n, seed=11).reshape(n, -1)
    return split(Dataset(rows, np.arange(n) % len(classes), classes, shape, "toy"), SplitConfig())


def run_of(path, shape):
    """A run without pictures, its plan, its splits and its result; its data cannot be loaded."""
    splits = splits_of(shape, 60)
    patches = Patches.drawn(splits.dataset.rows, splits.train.indices, shape, filters=6, views=1)
    config = TrainConfig(learning_rate=0.01, epochs=2, init_std=0.01)
    result, plan = train(splits, config, features=patches), Plan(config, SplitConfig(), "", "0" * 64)
    run = Run.create(path)
    run.write_result(plan, splits, result)
    return run, plan, splits, result
