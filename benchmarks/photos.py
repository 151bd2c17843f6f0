"""A folder of photos like those that people have: four unequal classes, in several sizes and proportions.

The photos are CIFAR-10's images. Most become 4:3 and the others 3:2, square or upright, by surroundings that mirror
their edges; then they are enlarged and saved as JPEG. Training has 1,500, 600, 150 and 60 photos of the classes,
testing two thirds as many, so that the commonest class is 64.9 % of both. With --measure, onelayer trains on the folder
with its defaults, without and with balanced class weights, and scikit-learn's LogisticRegression is fitted to the same
rows, with the C of five that is best on the validation rows.

    python benchmarks/photos.py FOLDER [--data SOURCE] [--seed 0] [--measure]
"""

import argparse
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score

import onelayer
from onelayer.analysis.judgement import judge
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Splits

COUNTS = {"cat": 1500, "dog": 600, "ship": 150, "truck": 60}  # training photos; testing has two thirds as many
SIZES = ((320, 240), (160, 120), (240, 160), (128, 128), (120, 160))
SHARES = (0.4, 0.2, 0.2, 0.1, 0.1)
PEER_C = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def photo(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return an image (32, 32, 3) with surroundings that give it the proportions of a size, enlarged to it."""
    side, ratio = len(pixels), size[0] / size[1]
    across, down = (round(side * (ratio - 1)), 0) if ratio > 1 else (0, round(side * (1 / ratio - 1)))
    around = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return Image.fromarray(np.pad(pixels, around, "reflect")).resize(size, Image.Resampling.BICUBIC)


def write(folder: Path, source: str, seed: int) -> None:
    """Write train/CLASS/NUMBER.jpg and test/CLASS/NUMBER.jpg; a seed gives the same files each time."""
    cifar = onelayer.load(source)
    rng = np.random.default_rng(seed)
    test = np.arange(len(cifar.rows))[cifar.parts["test_batch"]]
    train = np.setdiff1d(np.arange(len(cifar.rows)), test)
    jobs = []
    for part, places, share in (("train", train, 1), ("test", test, 2 / 3)):
        for name, count in COUNTS.items():
            of_class = places[cifar.labels[places] == cifar.class_names.index(name)]
            chosen = rng.choice(of_class, round(count * share), replace=False)
            sizes = rng.choice(len(SIZES), len(chosen), p=SHARES)
            (folder / part / name).mkdir(parents=True)
            jobs += [
                (place, SIZES[size], folder / part / name / f"{place:05}.jpg")
                for place, size in zip(chosen, sizes, strict=True)
            ]

    def save(job: tuple[int, tuple[int, int], Path]) -> None:
        place, size, path = job
        photo(cifar.rows[place].reshape(3, 32, 32).transpose(1, 2, 0), size).save(path, quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, jobs))
    print(f"{folder}: {len(jobs):,} photos")


def peers(splits: Splits) -> dict[str | None, np.ndarray]:
    """Return the answers for the test rows of the best of five logistic regressions, by their class weights.

    The rows have more columns than there are training rows. Turned into the space of the training rows they have fewer,
    and the same distances and products, so that the regressions are the same and take a fifth of the time.
    """
    standardised = {split.name: splits.standardizer.transform(split.rows(slice(None))) for split in splits}
    Q, _ = np.linalg.qr(standardised["train"].T)
    X = {name: rows @ Q for name, rows in standardised.items()}
    answers = {}
    for class_weight, score in ((None, accuracy_score), ("balanced", balanced_accuracy_score)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = [
                LogisticRegression(C=C, class_weight=class_weight, max_iter=300).fit(X["train"], splits.train.labels)
                for C in PEER_C
            ]
        best = max(fitted, key=lambda model: score(splits.validation.labels, model.predict(X["validation"])))
        answers[class_weight] = best.predict(X["test"])
    return answers


def measure(folder: Path) -> None:
    splits = onelayer.load_splits(folder, SplitConfig())
    for note in splits.dataset.notes:
        print(f"note: {note}")
    labels = splits.test.labels
    rows = {"always the commonest class": np.full(len(labels), np.bincount(splits.train.labels).argmax())}
    for class_weight in ("none", "balanced"):
        config = TrainConfig(class_weight=class_weight)
        judgement = judge(onelayer.train(splits, config), splits, config)
        print(f"class weights {class_weight}: {judgement.verdict}")
        rows[f"onelayer, class weights {class_weight}"] = judgement.evaluation.predictions
    for class_weight, answers in peers(splits).items():
        rows[f"scikit-learn, class weights {class_weight or 'none'}"] = answers
    print(f"\n{len(labels):,} test photos\n\n| | accuracy | balanced accuracy |\n|---|---:|---:|")
    for name, answers in rows.items():
        scores = accuracy_score(labels, answers), balanced_accuracy_score(labels, answers)
        print(f"| {name} | {100 * scores[0]:.1f} % | {100 * scores[1]:.1f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="written if it is not there")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true")
    arguments = parser.parse_args()
    if not arguments.folder.exists():
        write(arguments.folder, arguments.data, arguments.seed)
    if arguments.measure:
        measure(arguments.folder)


if __name__ == "__main__":
    main()
