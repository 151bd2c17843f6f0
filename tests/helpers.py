"""Helpers for several test files: small learnable data sets, a plain training loop, models, and what a command printed.

Fixtures are in conftest.py; no test file imports another.
"""

import hashlib
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.container import pack
from onelayer.data import windows
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, DivergedError
from onelayer.features.standardizer import Standardizer
from onelayer.files import write_json
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.model import Model
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import start as start_run
from onelayer.training.plain import gradient_descent
from onelayer.training.stacking import Stacking
from onelayer.training.state import Problem, TrainingResult
from onelayer.training.train import solve, train

TINY = [
    "--preset",
    "coursework",
    "--epochs",
    "3",
    "--learning-rate",
    "0.01",
    "--no-figures",
]  # a short training on the tiny set


def coursework(**options: object) -> TrainConfig:
    """Return the settings of the coursework with some changed."""
    return replace(COURSEWORK, **options)


RUN_CONFIG = coursework(epochs=3, learning_rate=0.05, l2=0.1)


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


NOISE = np.random.default_rng(0)


def write_image(path: Path, size: tuple[int, int] = (4, 3), mode: str = "RGB", **options: object) -> Path:
    """Write an image of noise, of this width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = NOISE.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return path


def toy_splits(**options: object) -> Splits:
    return split(toy_dataset(**options), SplitConfig())


def plain_training(splits: Splits, config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """W (d, K) and b (K,) of the loop as it is taught."""
    *_, last = gradient_descent(splits, config)
    return last.layer.weights, last.layer.bias


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance of a from b, relative to the length of b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def finished_run(path: Path, config: TrainConfig = RUN_CONFIG) -> tuple[Run, Plan]:
    """Train a run on the toy data in this directory."""
    splits = toy_splits()
    run, plan = Run.create(path), Plan(config, SplitConfig(), "toy", splits.dataset.fingerprint)
    start_run(run, plan, Problem.of(splits, plan.config))
    return run, plan


def tampered(run: Run, path: Path, tensors: dict | None = None, metadata: dict | None = None) -> Path:
    """Change a file, and its checksum with it."""
    with safe_open(path, "numpy") as file:
        all_metadata = file.metadata() | (metadata or {})
    path.write_bytes(pack(load_file(path) | (tensors or {}), all_metadata, kind=path.stem))
    return path


def trained_by_blocks(rows: np.ndarray) -> str:
    """All that comes of training on rows in windows, in a line."""
    n = len(rows)
    dataset = Dataset(rows, np.arange(n) * 4 // n, tuple("abcd"), None, "large")
    splits = split(dataset, SplitConfig(validation_size=100, test_size=100))
    config = coursework(epochs=2, shuffle_blocks=20, batch_size=50, learning_rate=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "PART_BYTES", 2**16)  # in proportion to the set
        result = train(splits, config)
    weights = hashlib.sha256(result.model.layer.weights.tobytes()).hexdigest()
    return f"{weights} {result.scores} {splits.duplicates} {dataset.fingerprint}"


MODEL_NAMES = ("horse", "a \u2713 name", "ape", "9", "10", "zebra")  # not sorted
SHAPE = (3, 4, 5)


def model_of(loss="softmax", shape=SHAPE, K=6, dtype="float32", mean=120.0, scale=60.0, seed=0):
    """A model for 60 features, whose answers are neither all alike nor all certain."""
    rng = np.random.default_rng(seed)
    layer = SoftmaxLayer(
        np.asfortranarray(rng.normal(0, 0.3, (60, K)).astype(dtype)), rng.normal(0, 1, K).astype(dtype), LOSSES[loss]
    )
    standardizer = Standardizer(mean + rng.normal(0, scale / 3, 60), scale * rng.uniform(0.5, 1.5, 60))
    return Model(layer, standardizer, MODEL_NAMES[:K], shape)


def rows_for(model, n=200):
    rng = np.random.default_rng(1)
    if model.image_shape is not None:
        return rng.integers(0, 256, (n, 60), dtype=np.uint8)
    return rng.normal(model.standardizer.mean, model.standardizer.scale, (n, 60)).astype(np.float32)


def turn_training_round(run: Run) -> None:
    """Write down training scores that are the better the worse those of validation are."""
    summary = run.summary
    train, validation = (summary["results"][name] for name in ("train", "validation"))
    train |= {"accuracy": 1 - validation["accuracy"], "loss": 1 / validation["loss"], "cost": 1 / validation["cost"]}
    write_json(run.summary_path, summary)


def assert_one_line(result: tuple[int, str, str], words: str) -> None:
    code, out, err = result
    assert code == 2
    assert err.startswith("onelayer: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert re.search(words, err), err
    assert "epoch 1" not in out


def start(command: list[str], **options: object) -> subprocess.Popen:
    """A process that Ctrl-C stops even where the tests run in the background, which ignores it."""
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


def opened(kind, rows, standardizer, layer, *, l2=0.0, batch_size=100, momentum=0.0, **options):
    """A backend of a kind that is open for the rows of one split."""
    config = coursework(l2=l2, batch_size=batch_size, momentum=momentum, init_std=0.0)
    return kind(Splits(rows, rows, rows, "made"), config, standardizer, layer, **options)


def together(
    splits: Splits, configs: Sequence[TrainConfig], library: str = "numpy"
) -> list[TrainingResult | Exception]:
    """Return the results of trainings as one stack; an error of one of them in its place."""
    stacking, results = Stacking([0] * len(configs), library), [None] * len(configs)

    def one(place: int) -> None:
        with stacking.seats[place].taken() as seat:
            try:
                results[place] = solve(replace(Problem.of(splits, configs[place]), backend=seat))
            except (DivergedError, ConfigError) as error:
                results[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results
