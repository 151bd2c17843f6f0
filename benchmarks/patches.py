"""Patch features: accuracy with few rows, the kernel's rate beside a matrix product, and agreement of four programs.

    python benchmarks/patches.py accuracy --data cifar10     # 5,000 training rows: 32 x 32, 16 x 16, 8 x 8, grey
    python benchmarks/patches.py rate --data cifar10         # of one thread
    python benchmarks/patches.py agree --data cifar10        # 1,000 images: kernel, NumPy, ONNX and the script

Each prints a table.
"""

import argparse
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import onelayer
import onelayer.features.patches as module
from onelayer import SplitConfig, TrainConfig
from onelayer.blas import one_blas_thread
from onelayer.coded import coded
from onelayer.data.dataset import Dataset, Splits
from onelayer.export import to_onnx, write
from onelayer.features.patches import Patches
from onelayer.training.train import train
from onelayer.words import counted

L2S = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "32 x 32": lambda images: images,
    "16 x 16": lambda images: shrunk(images, 2),
    "8 x 8": lambda images: shrunk(images, 4),
    "grey": lambda images: np.rint(images.mean(axis=1, keepdims=True)),
    "grey, mirror images": lambda images: np.rint(images.mean(axis=1, keepdims=True)),
}


def shrunk(images: np.ndarray, times: int) -> np.ndarray:
    """Return images (n, c, h, w) of which each pixel is the mean of a square."""
    n, c, h, w = images.shape
    return np.rint(images.reshape(n, c, h // times, times, w // times, times).mean(axis=(3, 5)))


def reshaped(splits: Splits, change: Callable[[np.ndarray], np.ndarray], train: int, others: int) -> Splits:
    """Return changed images of the first rows of each split."""
    parts = [(part, part.indices[: train if part.name == "train" else others]) for part in splits]
    places = np.concatenate([indices for _, indices in parts])
    images = change(splits.dataset.rows[places].reshape(-1, *splits.dataset.image_shape).astype(np.float64))
    known = splits.dataset.labels[places], splits.dataset.class_names, images.shape[1:], splits.dataset.name
    dataset = Dataset(images.reshape(len(places), -1).astype(np.uint8), *known)
    ends = np.cumsum([len(indices) for _, indices in parts])
    numbers = np.split(np.arange(len(places)), ends[:-1])
    few = (replace(part, dataset=dataset, indices=own) for (part, _), own in zip(parts, numbers, strict=True))
    return Splits(*few, splits.protocol)


def accuracy(args: argparse.Namespace) -> None:
    """Print test accuracies at the lambda that validation chose."""
    print(f"{'images':21}{'features':26}{'lambda':>8}{'validation %':>14}{'test %':>9}")
    splits = onelayer.load_splits(args.data, SplitConfig(protocol="full", validation_size=5000))
    for name in args.shapes:
        few = reshaped(splits, SHAPES[name], args.rows, 10_000)
        rows, places = few.dataset.rows, few.train.indices
        for views in (0, 1, 5):
            shape = few.dataset.image_shape
            options = {"filters": args.filters, "views": views, "mirror": True if "mirror" in name else None}
            drawn = Patches.drawn(rows, places, shape, **options) if views else None
            if drawn and drawn.views != views:
                continue
            found = {}
            of_rows = coded(few, drawn) if drawn else few
            for l2 in L2S:
                config = TrainConfig(solver="converged", l2=l2)
                found[l2] = train(of_rows, config, report_test=False).scores["validation"]
            l2 = min(found, key=lambda l2: found[l2].loss)
            test = train(of_rows, TrainConfig(solver="converged", l2=l2)).scores["test"]
            what = f"patches:{args.filters}, {counted(views, 'view')}" if drawn else "raw pixels"
            print(f"{name:21}{what:26}{l2:8g}{100 * found[l2].accuracy:14.1f}{100 * test.accuracy:9.1f}", flush=True)


def rate(args: argparse.Namespace) -> None:
    """Print the multiplications per second of the kernel, with all that it does, and of a product of matrices."""
    splits = onelayer.load_splits(args.data, SplitConfig(protocol="full"))
    rows, places, shape = splits.dataset.rows, splits.train.indices, splits.dataset.image_shape
    A = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)

    def seconds(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    with one_blas_thread():
        for views in (1, 5):
            drawn = Patches.drawn(rows, places, shape, filters=args.filters, views=views)
            for bank in drawn.banks:
                one = replace(drawn, banks=(bank,))
                F, c, k, _ = bank.filters.shape
                R = rows[places[: args.images]]
                work = 2 * len(R) * (shape[1] - k + 1) * (shape[2] - k + 1) * F * c * k * k
                ours = min(seconds(lambda one=one, R=R: one.transform(R, threads=1)) for _ in range(args.rounds))
                theirs = min(seconds(lambda: A @ A) for _ in range(10 * args.rounds)) / (2 * 1024**3)
                print(
                    f"{k} x {k}, views {views}: {work / ours / 1e9:.0f} of {1 / theirs / 1e9:.0f} GFLOP/s, "
                    f"{work * theirs / ours:.2f}"
                )


def agree(args: argparse.Namespace) -> None:
    """Print how many codes and answers of NumPy, ONNX and the script differ from those of the kernel."""
    splits = onelayer.load_splits(args.data, SplitConfig(protocol="batch"))
    config = TrainConfig(features=f"patches:{args.filters}", solver="converged", l2=0.01)
    model = onelayer.train(splits, config, progress=False).model
    R = splits.test.rows(slice(0, args.images))
    codes, S = model.features.transform(R), model.logits(R)
    kernel, module.kernel = module.kernel, None
    by_numpy, S_numpy = model.features.transform(R), model.logits(R)
    module.kernel = kernel
    apart = np.abs(codes.astype(int) - by_numpy)
    print(f"codes: {codes.size:,}, NumPy differs in {np.count_nonzero(apart):,}, by at most {apart.max()}")
    with tempfile.TemporaryDirectory() as folder:
        import onnxruntime

        session = onnxruntime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {session.get_inputs()[0].name: R.reshape(-1, *model.image_shape)})
        write(model, Path(folder) / "model.py")
        script = runpy.run_path(str(Path(folder) / "model.py"))
        of_script = script["logits"](R)
    for name, other in (("NumPy", S_numpy), ("ONNX", logits), ("script", of_script)):
        same = np.count_nonzero(other.argmax(axis=1) == S.argmax(axis=1))
        print(f"{name}: the same answer for {same:,} of {len(R):,} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "rate", "agree"])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--rows", type=int, default=5000, help="training rows")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    {"accuracy": accuracy, "rate": rate, "agree": agree}[args.what](args)


if __name__ == "__main__":
    sys.exit(main())
