"""Compare figures, file names and old directories with recorded ones, which are the same on every machine.

The figures are in golden/figures.json. After a change that is meant to move them, write them again and read the diff:

    GOLDEN=write ONELAYER_DATA=/path/to/cifar pytest tests/test_golden.py

golden/run and golden/sweep are directories that version 0.1.0 left; never write them again. The commands were

    onelayer train --out run --epochs 2 DIGITS --dtype float64 --backend numpy --no-figures
    onelayer sweep --out sweep --epochs 2 DIGITS --dtype float32 --backend numpy --l2 0 0.1

with DIGITS as below. The figures are recorded in float64. They hold for float32 too, within its rounding: no row is so
near to two classes that another processor could answer otherwise.
"""

import csv
import json
import os
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import coursework
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from onelayer import Model, OnelayerError, SplitConfig, evaluate, load_splits, train
from onelayer.data.dataset import Splits

HERE = Path(__file__).parent / "golden"
FIGURES = HERE / "figures.json"
WRITE = os.environ.get("GOLDEN") == "write"
ROUNDING = {"float64": 1e-12, "float32": 1e-5}  # relative

DIGITS = ("--data", "digits", "--learning-rate", 0.05, "--batch-size", 50)
CASES = {
    "softmax": (),
    "sigmoid": ("--loss", "sigmoid"),
    "l2": ("--l2", 0.1),
    "decay": ("--decay-every", 1),
    "blocks": ("--shuffle-blocks", 5),  # 64 of them are a third of the rows
    "flips": ("--flip",),
    "refit": ("--refit",),
}
BACKENDS = (("numpy", "float64"), ("numpy", "float32"), ("native", "float32"))
# Learning rate, l2 and batch size. In an epoch of batches of 100, the rate 0.1 makes rounding 10^10 times larger.
COURSEWORK = ((0.1, 0, 4000), (0.001, 0, 100), (0.001, 0.1, 100), (0.001, 1, 100))


def assert_alike(found: object, recorded: object, tolerance: float, where: str) -> None:
    """Compare what JSON can hold: floats within the relative tolerance, all else exactly."""
    if isinstance(recorded, dict):
        assert list(found) == list(recorded), where
        found, recorded = list(found.values()), list(recorded.values())
    if isinstance(recorded, list):
        assert len(found) == len(recorded), where
        for place, (a, b) in enumerate(zip(found, recorded, strict=True)):
            assert_alike(a, b, tolerance, f"{where}, {place}")
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, rel=tolerance, abs=0), where
    else:
        assert found == recorded, where


def compare_with_recorded(name: str, found: dict[str, object], dtype: str = "float64") -> None:
    """Compare with the recorded figures of this name; GOLDEN=write records those of float64 first."""
    found = json.loads(json.dumps(found))
    recorded = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if WRITE and dtype == "float64":
        recorded[name] = found
        cases = (
            f'"{case}": {{\n' + ",\n".join(f' "{key}": {json.dumps(value)}' for key, value in figures.items()) + "\n}"
            for case, figures in sorted(recorded.items())
        )
        FIGURES.write_text("{\n" + ",\n".join(cases) + "\n}\n")
    for key, figures in recorded[name].items():
        assert_alike(found[key], figures, ROUNDING[dtype], f"{name}, {key}")
    assert list(found) == list(recorded[name])


def in_short(array: np.ndarray) -> list[float]:
    """Return the norm of an array, and its product with numbers that differ from place to place."""
    flat = array.astype(np.float64).ravel()
    return [float(np.linalg.norm(flat)), float(flat @ np.cos(np.arange(flat.size)))]


def read_table(path: Path) -> list[dict[str, object]]:
    """Read the rows of a csv file without the column seconds; numbers with a point become floats."""

    def value(text: str) -> object:
        return float(text) if re.fullmatch(r"[0-9]+\.[0-9]+(e-?[0-9]+)?|nan", text) else text

    with path.open(newline="") as file:
        return [{name: value(text) for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def files_below(folder: Path) -> list[str]:
    """Return the names of all files with their folders; the folders of a sweep's runs count as one."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted({re.sub(r"[0-9]{3}-seed-[0-9]+/", "*/", name) for name in names})


def figures_of(run: Path) -> dict[str, object]:
    """Return the figures that a run learned and measured."""
    summary = json.loads((run / "summary.json").read_text())
    return {
        "data": [summary["data"]["fingerprint"], summary["data"]["sizes"]],
        **{name: in_short(array) for name, array in sorted(load_file(run / "model.safetensors").items())},
        "history": [list(row.values()) for row in read_table(run / "history.csv")],
        "test": list(summary["results"]["test"].values()),
    }


def skip_without_kernel(error: str) -> None:
    if "C++ compiler" in error:
        pytest.skip("onelayer was installed without its compiled kernel")


@pytest.fixture
def train_run(run_cli, tmp_path):
    """``train_run("--data", ...)`` -> the run directory."""

    def trained(*words: object) -> Path:
        code, _, errors = run_cli(
            "train", "--preset", "coursework", "--out", tmp_path / "run", "--no-figures", "--quiet", *words
        )
        if code:
            skip_without_kernel(errors)
        assert code == 0, errors
        return tmp_path / "run"

    return trained


@pytest.fixture
def vectors(tmp_path) -> Path:
    """A file of the digits as features that are not pixels."""
    rows, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "vectors.npz", X=(rows / 16).astype(np.float32), y=labels)
    return tmp_path / "vectors.npz"


@pytest.fixture(scope="module")
def batch_of_cifar(cifar) -> Splits:
    return load_splits(str(cifar), SplitConfig(protocol="batch"))


class TestTraining:
    @pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
    @pytest.mark.parametrize("case", CASES)
    def test_digits(self, case, backend, dtype, train_run):
        run = train_run(*DIGITS, "--epochs", 4, "--backend", backend, "--dtype", dtype, *CASES[case])
        compare_with_recorded(f"digits, {case}", figures_of(run), dtype)

    @pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
    def test_vectors(self, backend, dtype, train_run, vectors):
        words = ("--learning-rate", 0.05, "--batch-size", 50, "--epochs", 4)
        run = train_run("--data", vectors, *words, "--backend", backend, "--dtype", dtype)
        compare_with_recorded("vectors", figures_of(run), dtype)

    @pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
    def test_the_layout_of_cifar(self, backend, dtype, train_run, tiny_cifar):
        words = ("--protocol", "batch", "--batch-size", 20, "--epochs", 3)
        run = train_run("--data", tiny_cifar, *words, "--backend", backend, "--dtype", dtype)
        compare_with_recorded("tiny CIFAR-10", figures_of(run), dtype)

    def test_the_defaults(self, run_cli, tmp_path):
        words = ("--data", "digits", "--epochs", 12, "--dtype", "float64", "--no-figures", "--quiet")
        assert run_cli("train", *words, "--out", tmp_path / "run")[0] == 0
        compare_with_recorded("digits, defaults", figures_of(tmp_path / "run"))

    @pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
    def test_the_four_settings_of_the_coursework(self, backend, dtype, batch_of_cifar):
        splits = batch_of_cifar
        for rate, l2, size in COURSEWORK:
            options = {"learning_rate": rate, "l2": l2, "batch_size": size, "epochs": 1}
            try:
                result = train(splits, coursework(**options, backend=backend, dtype=dtype))
            except OnelayerError as error:
                skip_without_kernel(str(error))
                raise
            layer, scores = result.model.layer, result.scores
            found = {"fingerprint": splits.dataset.fingerprint}
            found |= {"weights": in_short(layer.weights), "bias": in_short(layer.bias)}
            found |= {name: [score.loss, score.cost, score.accuracy] for name, score in scores.items()}
            compare_with_recorded(f"CIFAR-10, {rate}, {l2}", found, dtype)


class TestFiles:
    """The names of files and columns, and the table of a sweep."""

    def test_a_run(self, run_cli, vectors, tmp_path):
        for data in ("digits", vectors):
            words = ("--data", data, "--epochs", 2, "--quiet")
            assert (
                run_cli("train", "--preset", "coursework", *words, "--out", tmp_path / "runs" / Path(data).stem)[0] == 0
            )
        columns = (tmp_path / "runs" / "digits" / "history.csv").read_text().splitlines()[0]
        compare_with_recorded("files of runs", {"files": files_below(tmp_path / "runs"), "history.csv": columns})

    @pytest.mark.parametrize("more", [(), ("--refit",)])
    def test_a_sweep(self, more, run_cli, tmp_path):
        words = ("--l2", 0, 0.1, "--seeds", 2, "--epochs", 2, "--dtype", "float64", "--backend", "numpy", "--quiet")
        assert run_cli("sweep", "--preset", "coursework", *DIGITS, *words, *more, "--out", tmp_path / "sweep")[0] == 0
        found = {"files": files_below(tmp_path / "sweep")}
        found["runs"] = sorted(path.name for path in (tmp_path / "sweep" / "runs").iterdir())
        for path in sorted((tmp_path / "sweep").rglob("sweep.csv")):
            rows = read_table(path)
            table = [list(rows[0]), *(list(row.values()) for row in rows)]
            found[path.relative_to(tmp_path / "sweep").as_posix()] = table
        compare_with_recorded(" ".join(("sweep", *more)), found)

    def test_a_study(self, run_cli, tiny_cifar, tmp_path):
        words = ("--data", tiny_cifar, "--seeds", 3, "--out", tmp_path / "study", "--quiet")
        assert run_cli("study", "sigmoid", *words)[0] == 0
        compare_with_recorded("files of a study", {"files": files_below(tmp_path / "study")})


class TestExport:
    def test_the_graph_of_onnx(self, train_run, run_cli, vectors, tmp_path):
        """The whole model except the numbers in its tensors and the version of its producer."""
        onnx = pytest.importorskip("onnx")
        types = {number: name for name, number in onnx.TensorProto.DataType.items()}

        def of_value(value):
            kind = value.type.tensor_type
            return [value.name, types[kind.elem_type], [dim.dim_param or dim.dim_value for dim in kind.shape.dim]]

        def of_node(node):
            options = {option.name: onnx.helper.get_attribute_value(option) for option in node.attribute}
            return [node.op_type, list(node.input), list(node.output), options]

        for data, loss in (("digits", "softmax"), (vectors, "sigmoid")):
            run = train_run("--data", data, "--loss", loss, "--epochs", 1, "--overwrite")
            assert run_cli("export", run, tmp_path / "model.onnx")[0] == 0
            made = onnx.load(tmp_path / "model.onnx")
            found = {
                "versions": [made.ir_version, [[opset.domain, opset.version] for opset in made.opset_import]],
                "names": [made.producer_name, made.graph.name],
                "metadata": {entry.key: entry.value for entry in made.metadata_props},
                "inputs": [of_value(value) for value in made.graph.input],
                "outputs": [of_value(value) for value in made.graph.output],
                "nodes": [of_node(node) for node in made.graph.node],
                "tensors": [
                    [tensor.name, types[tensor.data_type], [*tensor.dims]] for tensor in made.graph.initializer
                ],
            }
            compare_with_recorded(f"ONNX, {Path(data).stem}, {loss}", found)

    @pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
    def test_the_answers_of_the_script(self, loss, train_run, run_cli, tmp_path):
        words = ("--epochs", 2, "--dtype", "float64", "--backend", "numpy", "--loss", loss)
        assert run_cli("export", train_run(*DIGITS, *words), tmp_path / "predict.py")[0] == 0
        answers = runpy.run_path(tmp_path / "predict.py")["probabilities"](load_digits().data[:3])
        compare_with_recorded(f"script, {loss}", {f"row {k}": answer.tolist() for k, answer in enumerate(answers)})


@pytest.fixture
def old(tmp_path):
    """``old("run" | "sweep")`` -> a copy of that directory."""
    return lambda name: shutil.copytree(HERE / name, tmp_path / "old" / name)


class TestOldDirectories:
    def test_a_model_answers_as_it_did(self, run_cli, old):
        run = old("run")
        splits, summary = load_splits("digits", SplitConfig()), json.loads((run / "summary.json").read_text())
        for split in splits:
            found, recorded = evaluate(Model.load(run / "model.safetensors"), split), summary["results"][split.name]
            assert found.loss == pytest.approx(recorded["loss"], rel=1e-12)
            assert found.accuracy == recorded["accuracy"]
            code, printed, _ = run_cli("evaluate", run, "--split", split.name, "--json")
            assert code == 0
            assert json.loads(printed)["loss"] == pytest.approx(recorded["loss"], rel=1e-12)
            assert json.loads(printed)["accuracy"] == recorded["accuracy"]

    def test_a_run_goes_on_as_if_it_had_never_stopped(self, run_cli, old):
        run = old("run")
        before = read_table(run / "history.csv")
        assert run_cli("resume", run, "--epochs", 4, "--no-figures")[0] == 0
        compare_with_recorded("digits, softmax", figures_of(run))  # of 4 epochs
        after = read_table(run / "history.csv")
        assert after[0] == before[0]
        assert after[1] == before[1] | {"test_accuracy": ""}  # it was of the last epoch

    def test_a_run_that_was_stopped_is_finished(self, run_cli, old):
        run = old("run")
        for name in ("summary.json", "model.safetensors", "history.csv"):
            (run / name).unlink()
        assert run_cli("resume", run, "--no-figures")[0] == 0
        assert figures_of(run).keys() == figures_of(HERE / "run").keys()
        for key, value in figures_of(HERE / "run").items():
            assert_alike(figures_of(run)[key], value, 1e-12, key)

    def test_a_report(self, run_cli, old, tmp_path):
        for name in ("run", "sweep"):
            assert run_cli("report", old(name), "--out", tmp_path / f"{name}.html")[0] == 0
        page = (tmp_path / "run.html").read_text()
        assert "89.7 %" in page  # of the test rows

    def test_a_sweep_goes_on(self, run_cli, old):
        """Nothing is trained again, and the table is the same, except for columns that did not exist."""
        sweep = old("sweep")
        table = read_table(sweep / "sweep.csv")
        (sweep / "sweep.csv").unlink()
        files = {path: path.stat().st_mtime_ns for path in sweep.rglob("*.safetensors")}
        assert len(files) == 4
        words = ("--epochs", 2, "--dtype", "float32", "--backend", "numpy", "--l2", 0, 0.1)
        assert run_cli("sweep", "--preset", "coursework", *DIGITS, *words, "--out", sweep)[0] == 0
        assert {path: path.stat().st_mtime_ns for path in files} == files
        again = read_table(sweep / "sweep.csv")
        assert [{name: row[name] for name in table[0]} for row in again] == table
        later = {"patience", "keep", "init_bias", "class_weight", "solver", "tol", "max_passes"}
        later |= {"features", "features_mirror", "features_seed", "momentum", "device", "precision"}
        assert {*again[0]} - {*table[0]} == later
