"""Every command on feature vectors."""

import json
import re

import numpy as np
import pytest
from helpers import assert_one_line
from safetensors.numpy import load_file
from sklearn.datasets import load_wine


@pytest.fixture
def vectors(run_cli, tmp_path):
    """A run on wine, in the file wine.npz of features (178, 13) and labels that are words."""
    wine = load_wine()
    np.savez(tmp_path / "wine.npz", X=wine.data.astype(np.float32), y=wine.target_names[wine.target])
    settings = ["--learning-rate", "0.05", "--epochs", "20", "--l2", "0.01", "--no-figures"]
    code, out, err = run_cli("train", "--data", "wine.npz", "--out", "wine", *settings)
    assert (code, err) == (0, "")
    assert out.startswith(
        "wine, protocol stratified: 106 train, 36 validation, 36 test rows of 13 numbers\n3 classes: "
    )
    return tmp_path / "wine", wine.data.astype(np.float32)


def test_vectors(run_cli, vectors, tmp_path):
    run, _ = vectors
    summary = json.loads((run / "summary.json").read_text())
    assert summary["results"]["test"]["accuracy"] > 0.9
    assert "weights.png" in run_cli("figures", run)[1]
    assert {path.stem for path in run.glob("*.png")} == {"loss", "cost", "accuracy", "weights", "confusion"}
    assert "wine, test: 36 rows" in run_cli("evaluate", run)[1]
    assert "wine, all: 178 rows" in run_cli("evaluate", run, "--split", "all", "--data", "wine.npz")[1]
    assert run_cli("resume", run, "--epochs", "25", "--quiet", "--no-figures") == (0, "", "")
    assert_one_line(
        run_cli("train", "--data", "wine.npz", "--flip"), "flip needs images, but the rows of wine are not images"
    )
    assert run_cli("train", "--data", "wine.npz", "--out", run, "--overwrite", "--no-figures", "--quiet")[0] == 0
    assert not list(run.glob("*.png")), "overwriting removes the pictures"
    assert "all gradients agree" in run_cli("check", "--data", "wine.npz", "--classes", "3")[1]
    found = run_cli("data", "wine.npz")[1]
    assert re.search(r"\nrows +178 of 13 float32 numbers\nimage shape +no images\n", found)
    assert re.search(r"\nclass_1 +71\n", found)


def test_a_sweep_and_a_comparison_of_vectors(run_cli, vectors):
    sweep = ["--data", "wine.npz", "--learning-rate", "0.1", "0.01", "--seeds", "2", "--out", "sweep", "--quiet"]
    assert run_cli("sweep", *sweep, "--epochs", "5", "--report-test", "all")[0] == 0
    code, out, err = run_cli("compare", "sweep/runs/000", "sweep/runs/001")
    assert (code, err) == (0, "")
    assert "wine, test: 36 rows" in out


def test_predict_takes_rows(run_cli, vectors, tmp_path):
    run, rows = vectors
    np.save("rows.npy", rows[::20])
    np.save("as wide.npy", rows[:2].astype(">f8"))
    code, out, err = run_cli("predict", run, "rows.npy", "as wide.npy", "--json", "--top", "9")
    assert (code, err) == (0, "")
    answers = json.loads(out)
    tensors = load_file(run / "model.safetensors")
    S = (rows - tensors["mean"]) / tensors["scale"] @ tensors["weights"].astype(float) + tensors["bias"]
    P = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True)
    assert [(answer["image"], answer["row"]) for answer in answers] == [
        *(("rows.npy", row) for row in range(9)),
        *(("as wide.npy", row) for row in range(2)),
    ]
    for answer, expected in zip(answers, [*P[::20], *P[:2]], strict=True):
        found = answer["probabilities"]
        assert [found[f"class_{k}"] for k in range(3)] == pytest.approx(expected, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    code, out, _ = run_cli("predict", run, "rows.npy", "--top", "1")
    assert code == 0
    assert out.splitlines()[0].split() == ["rows.npy", "class", "probability"]
    for row, line in enumerate(out.splitlines()[1:]):
        k = P[20 * row].argmax()
        assert line.split()[:2] == [str(row), f"class_{k}"]
        assert float(line.split()[2]) == pytest.approx(100 * P[20 * row, k], abs=0.006)


def test_rows_that_cannot_be_classified_are_one_line(run_cli, vectors, tmp_path):
    run, rows = vectors
    rows[3, 2] = np.nan
    np.save("nan.npy", rows)
    np.save("short.npy", rows[:, :12])
    np.save("one.npy", rows[0])
    np.save("objects.npy", np.array([{}]))
    for name, words in (
        ("nan.npy", "nan.npy: row 3, column 2 is nan; every feature must be a finite number"),
        ("short.npy", "short.npy: has rows of 12 numbers; the model is for 13"),
        ("one.npy", r"one.npy: is float32 of the shape \(13,\); rows are features \(n, d\)"),
        ("objects.npy", "objects.npy: holds Python objects, which are not loaded"),
        ("missing.npy", "missing.npy: no such file"),
        ("x.png", "was not trained on images; pass a .npy, .npz, .safetensors, .pt or .parquet file of rows"),
    ):
        assert_one_line(run_cli("predict", run, name), words)
