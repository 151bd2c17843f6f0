"""The commands as people type them: what they print, where they write, and how they fail."""

import contextlib
import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line, start
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_wine

from onelayer import Model
from onelayer.data.untrusted.images import FORMATS
from onelayer.errors import DataError
from onelayer.runs.directory import Run

TINY = ["--epochs", "3", "--learning-rate", "0.01", "--no-figures"]


@pytest.fixture
def trained(run_cli, tiny_cifar, tmp_path):
    """A run directory, trained on the tiny set."""
    assert run_cli("train", "--data", tiny_cifar, "--out", "run", "--quiet", *TINY)[0] == 0
    return tmp_path / "run"


def test_train_says_what_it_does(run_cli, tiny_cifar, tmp_path):
    code, out, err = run_cli("train", "--data", tiny_cifar, *TINY)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "CIFAR-10, protocol batch: 60 train, 60 validation, 60 test rows of 3,072 numbers"
    assert lines[1] == "10 classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
    assert lines[2].startswith("note: not the official CIFAR-10")
    epochs = [line for line in lines if line.startswith("epoch")]
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert re.fullmatch(r"epoch 3/3  train \d\.\d{4} nats, [\d.]+ %  validation \d\.\d{4} nats, [\d.]+ %", epochs[-1])
    assert [line.split()[0] for line in lines if line.startswith(("train ", "validation ", "test "))] == [
        "train",
        "validation",
        "test",
        "test",
    ]
    names = "checkpoint.safetensors, history.csv, model.safetensors, summary.json"
    assert lines[-1] == f"runs/cifar-10-1/: {names}"
    assert (tmp_path / "runs" / "cifar-10-1" / "model.safetensors").exists()
    assert "\x1b" not in out, "colour is for terminals"


def test_the_tiny_set_is_learnt_in_part(trained):
    """Or tests on it would compare 0 with 0."""
    accuracies = [
        result["accuracy"] for result in json.loads((trained / "summary.json").read_text())["results"].values()
    ]
    assert len(set(accuracies)) == 3
    assert 0.4 < min(accuracies) < max(accuracies) < 0.9


def test_what_was_learned_is_told_split_by_split(run_cli, tiny_cifar, tmp_path):
    code, out, _ = run_cli("train", "--data", tiny_cifar, "--out", "run", *TINY, "--l2", "0.1")
    assert code == 0
    results = json.loads((tmp_path / "run" / "summary.json").read_text())["results"]
    for name, score in results.items():
        assert score["cost"] > score["loss"] + 0.01
        line = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        assert line.split() == [
            name,
            f"{score['loss']:.4f}",
            f"{score['cost']:.4f}",
            f"{100 * score['accuracy']:.2f}",
            "%",
        ]
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        first, *_, last = csv.DictReader(file)
    assert first["test_accuracy"] != last["test_accuracy"]
    assert f"test accuracy after epoch 1: {100 * float(first['test_accuracy']):.2f} %" in out.splitlines()


def test_runs_are_numbered(run_cli, tiny_cifar, tmp_path):
    for _ in range(2):
        assert run_cli("train", "--data", tiny_cifar, "--quiet", *TINY) == (0, "", "")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["cifar-10-1", "cifar-10-2"]


def test_digits_train_to_a_good_model(run_cli, tmp_path):
    settings = ["--learning-rate", "0.05", "--batch-size", "50", "--epochs", "40"]
    assert run_cli("train", "--data", "digits", "--out", "run", *settings)[0] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["results"]["test"]["accuracy"] > 0.93
    pictures = {path.stem for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {"loss", "cost", "templates", "templates_signed", "confusion", "mistakes"}
    for path in (tmp_path / "run").glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200


def test_without_network_the_job_runs_on_digits(run_cli, tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    code, out, err = run_cli("train", *TINY)
    assert (code, err) == (0, "")
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert "digits" in notes[0]
    assert "CIFAR-10 could not be had" in notes[0]
    assert (tmp_path / "runs" / "digits-1" / "summary.json").exists()


def test_the_words_of_the_course_are_aliases(run_cli, tiny_cifar, tmp_path):
    words = ["--eta", "0.02", "--lam=0.5", "--n-batch", "7", "--n_epochs", "1"]
    assert run_cli("train", "--data", tiny_cifar, "--out", "run", "--no-figures", *words)[0] == 0
    config = json.loads((tmp_path / "run" / "summary.json").read_text())["config"]
    assert (config["learning_rate"], config["l2"], config["batch_size"], config["epochs"]) == (0.02, 0.5, 7, 1)


def test_a_toml_file_sets_options_and_the_command_line_wins(run_cli, tiny_cifar, tmp_path):
    (tmp_path / "settings.toml").write_text(
        f'data = "{tiny_cifar}"\neta = 0.02\nl2 = 1\nflip = true\nepochs = 1\nprotocol = "full"\n'
        "validation-size = 30\nno_figures = true\nout = 'run'\n"
    )
    assert run_cli("train", "--config", "settings.toml", "--l2", "0.25")[0] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    config = summary["config"]
    assert (config["learning_rate"], config["l2"], config["flip"], config["epochs"]) == (0.02, 0.25, True, 1)
    assert summary["data"]["sizes"] == {"train": 270, "validation": 30, "test": 60}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learning_rat = 1", r"bad\.toml: unknown option learning_rat; did you mean learning_rate\?"),
        ("learning_rate = 'fast'", r'learning_rate from bad\.toml: unable to convert "fast" into float'),
        ("learning_rate = ", r"bad\.toml is no TOML file: "),
        ("epochs = [1, 2]", r"bad\.toml: epochs takes one value, not \[1, 2\]"),
        ("flip = 2", "bad.toml"),
        ("epochs = 1.5", r"--epochs takes a whole number, not '1\.5'"),
        ("a = " + "[" * 50_000, "bad.toml is no TOML file"),
        ("learning_rate = -1", "learning rate -1.0 is not a positive number"),
        ("[train]\nepochs = 1", r"bad\.toml: unknown option train"),
        ("eta = 0.1\nlearning_rate = 0.2", r"bad\.toml: eta and learning_rate are the same option; keep one of them"),
        ("n-epochs = 1\nn_epochs = 1", r"bad\.toml: n-epochs and n_epochs are the same option; keep one of them"),
    ],
)
def test_a_bad_toml_file_is_one_line(run_cli, tmp_path, content, words):
    (tmp_path / "bad.toml").write_text(content)
    assert_one_line(run_cli("train", "--config", "bad.toml"), words)


def test_a_toml_file_may_begin_with_a_byte_order_mark(run_cli, tiny_cifar, tmp_path):
    (tmp_path / "settings.toml").write_text("epochs = 1\nno_figures = true", encoding="utf-8-sig")
    assert run_cli("train", "--data", tiny_cifar, "--out", "run", "--config", "settings.toml")[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["config"]["epochs"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning-rate", "0"], "learning rate 0.0 is not a positive number"),
        (["--learning-rate", "-0.1"], "learning rate -0.1 is not a positive number"),
        (["--learning-rate", "nan"], "learning rate nan is not a positive number"),
        (["--eta", "0"], "learning rate 0.0 is not a positive number"),
        (["--batch-size", "0"], "batch size 0 is not a whole number of at least 1"),
        (["--l2", "-1"], "l2 -1.0 is not zero or a positive number"),
        (["--epochs", "-1"], "epochs -1 is not a whole number of at least 0"),
        (["--epochs", "many"], "--epochs takes a whole number, not 'many'"),
        (["--epochs", "2.7"], r"--epochs takes a whole number, not '2\.7'"),
        (["--n-batch", "0.6"], r"--batch-size takes a whole number, not '0\.6'"),
        (["--seed", "1e3"], "--seed takes a whole number, not '1e3'"),
        (["--decay-factor", "1.5"], r"decay factor 1\.5 is not in \(0, 1\]"),
        (["--init-std", "1e39"], r"init std 1e\+39 is not a number from 0 to 1e6"),
        (["--data", ""], "the path of the data is empty"),
        (["--data", "x" * 300], "no such file or folder"),
        (["--data", "y/" + "x" * 300], "File name too long|no such file"),
        (["--config", "x" * 300], "File name too long"),
        (["--loss", "hinge"], 'Invalid value "hinge" for --loss. Choose from: "softmax", "sigmoid"'),
        (["--learning-rat", "1"], r"Unknown option: --learning-rat\. Did you mean --learning-rate\?"),
        (["--config", "missing.toml"], "missing.toml: No such file or directory; --config takes a TOML file"),
        (["--data", "nowhere/at-all"], "nowhere/at-all: no such file or folder"),
        (["--data", "cifar11"], "cifar11: no such file or folder, .* did you mean cifar10"),
        (["--data", "digits", "--protocol", "batch"], "digits has no data_batch_1.*; use the protocol stratified"),
        (["--data", "digits", "--test-size", "2000"], "test size 2000 leaves nothing of 1797 rows"),
        (["--data", "digits", "--out", "file"], "cannot make the directory file: File exists"),
    ],
)
def test_a_bad_option_is_one_line(run_cli, tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    assert_one_line(run_cli("train", *arguments), words)
    assert not (tmp_path / "runs").exists()


def test_an_unknown_command_is_one_line(run_cli):
    assert_one_line(run_cli("trian"), 'Unknown command "trian". Did you mean "train"')


def test_a_folder_without_cifar_is_one_line(run_cli, tmp_path):
    assert_one_line(run_cli("train", "--data", tmp_path), "holds no data that onelayer reads")
    assert_one_line(run_cli("data", tmp_path), "holds no data that onelayer reads")


def test_divergence_is_one_line_and_the_run_is_kept(run_cli, tiny_cifar, tmp_path):
    arguments = ["--learning-rate", "1e14", "--l2", "1", "--batch-size", "60", "--out", "run"]
    code, out, err = run_cli("train", "--data", tiny_cifar, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert "the cost after epoch 2 is not a finite number" in err
    assert "try a learning rate below 1e+14; run keeps the weights of epoch 1" in err
    assert out.count("epoch  1/40") == 1
    assert np.isfinite(load_file(tmp_path / "run" / "checkpoint.safetensors")["weights"]).all()


def test_overwrite(run_cli, trained, tiny_cifar):
    before = (trained / "model.safetensors").read_bytes()
    arguments = ["train", "--data", tiny_cifar, "--out", trained, *TINY, "--seed", "1"]
    assert_one_line(run_cli(*arguments), "holds a run already; choose another --out, resume it, or pass --overwrite")
    assert (trained / "model.safetensors").read_bytes() == before
    assert run_cli(*arguments, "--overwrite")[0] == 0
    assert (trained / "model.safetensors").read_bytes() != before


def test_no_epochs_write_the_untrained_model(run_cli, tiny_cifar, tmp_path):
    assert run_cli("train", "--data", tiny_cifar, "--epochs", "0", "--out", "run")[0] == 0
    expected = (np.random.default_rng(42).standard_normal((10, 3072)) * 0.01).T.astype(np.float32)
    assert np.array_equal(load_file(tmp_path / "run" / "model.safetensors")["weights"], expected)
    assert (tmp_path / "run" / "history.csv").read_text().count("\n") == 1
    pictures = {path.stem for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {"templates", "templates_signed", "confusion", "mistakes"}


def test_resume_trains_on(run_cli, trained, tiny_cifar, tmp_path):
    code, out, err = run_cli("resume", trained, "--epochs", "5", "--no-figures")
    assert (code, err) == (0, "")
    assert "3 epochs done, going on to 5" in out
    longer = ["--epochs", "5", "--learning-rate", "0.01", "--no-figures", "--quiet", "--out", "longer"]
    assert run_cli("train", "--data", tiny_cifar, *longer)[0] == 0
    assert (trained / "model.safetensors").read_bytes() == (tmp_path / "longer" / "model.safetensors").read_bytes()
    assert_one_line(run_cli("resume", trained, "--epochs", "4"), "epochs 4 is below the 5 that are done; ask for more")


def test_resume_of_data_that_moved(run_cli, trained, tiny_cifar, tmp_path):
    tiny_cifar.rename(tmp_path / "moved")
    assert_one_line(run_cli("resume", trained), "the data of this run are not there; if they were moved, pass --data")
    assert run_cli("resume", trained, "--data", "moved", "--no-figures")[0] == 0
    batch = tmp_path / "moved" / "test_batch"
    content = bytearray(batch.read_bytes())
    content[content.index(b"data") + 5000] ^= 1  # one pixel
    batch.write_bytes(content)
    assert_one_line(run_cli("resume", trained, "--data", "moved"), "moved is not the data of this run")
    (tmp_path / "moved").rename(tiny_cifar)
    assert_one_line(run_cli("evaluate", trained), "is not the data of this run")
    assert run_cli("evaluate", trained, "--data", tiny_cifar)[0] == 0


@pytest.mark.parametrize("command", ["resume", "evaluate", "figures", "predict", "explain", "export"])
def test_commands_that_need_a_run_say_so(run_cli, tmp_path, command):
    more = {"predict": ["image.png"], "explain": ["image.png"], "export": ["model.onnx"]}.get(command, [])
    assert_one_line(run_cli(command, "missing", *more), "missing: no such run directory")
    (tmp_path / "other").mkdir()
    assert_one_line(run_cli(command, "other", *more), "other is no run of onelayer")


def test_evaluate(run_cli, trained, tiny_cifar):
    summary = json.loads((trained / "summary.json").read_text())
    for split in ("train", "validation", "test"):
        code, out, _ = run_cli("evaluate", trained, "--split", split)
        assert code == 0
        result = summary["results"][split]
        accuracy, n = result["accuracy"], 60
        line = next(line for line in out.splitlines() if line.startswith("CIFAR-10"))
        error = 100 * (accuracy * (1 - accuracy) / n) ** 0.5
        assert line == (
            f"CIFAR-10, {split}: 60 rows, loss {result['loss']:.4f} nats, "
            f"accuracy {100 * accuracy:.2f} % ± {error:.2f} (standard error)"
        )
        assert len([row for row in out.splitlines() if re.search(r" 6 +\d+\.\d\d %$", row)]) == 10
    assert "180 rows" in run_cli("evaluate", trained, "--split", "all")[1]
    assert_one_line(run_cli("evaluate", trained, "--data", "digits", "--split", "all"), "the model is for 3072 numbers")


def test_a_damaged_model_is_one_line(run_cli, trained):
    model = trained / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    for command in (
        ["evaluate", trained],
        ["predict", trained, "x.png"],
        ["explain", trained, "x.png"],
        ["export", trained, "model.py"],
        ["figures", trained],
    ):
        assert_one_line(run_cli(*command), "model.safetensors: damaged")


def test_predict(run_cli, trained, tiny_batches, tmp_path):
    rows, _ = tiny_batches["test_batch"]
    for number in range(2):
        Image.fromarray(rows[number].reshape(3, 32, 32).transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (200, 100), "red").save(tmp_path / "wide.png")
    code, out, err = run_cli("predict", trained, "0.png", "1.png", "wide.png", "--json", "--top", "10")
    assert (code, err) == (0, "")
    answers = json.loads(out)
    tensors = load_file(trained / "model.safetensors")
    for number, answer in enumerate(answers[:2]):
        X = (rows[number] - tensors["mean"]) / tensors["scale"]
        S = X @ tensors["weights"].astype(float) + tensors["bias"]
        P = np.exp(S) / np.exp(S).sum()
        found = answer["probabilities"]
        names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        assert [found[name] for name in names] == pytest.approx(P, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert answer["note"] is None
        assert answer["class"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert "distorts" in answers[2]["note"]
    code, out, _ = run_cli("predict", trained, "0.png")
    assert code == 0
    assert len(out.splitlines()) == 4


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
    assert {path.stem for path in run.glob("*.png")} == {"loss", "cost", "weights", "confusion"}
    assert "wine, test: 36 rows" in run_cli("evaluate", run)[1]
    assert "wine, all: 178 rows" in run_cli("evaluate", run, "--split", "all", "--data", "wine.npz")[1]
    assert run_cli("resume", run, "--epochs", "25", "--quiet", "--no-figures") == (0, "", "")
    assert_one_line(
        run_cli("train", "--data", "wine.npz", "--flip"), "flip needs images, and the rows of wine are none"
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


def test_predict_takes_images_as_rows(run_cli, trained, tiny_batches):
    rows, _ = tiny_batches["test_batch"]
    np.save("flat.npy", rows[:3])
    np.save("last.npy", rows[:3].reshape(3, 3, 32, 32).transpose(0, 2, 3, 1))
    answers = [json.loads(run_cli("predict", trained, f"{name}.npy", "--json")[1]) for name in ("flat", "last")]
    assert len(answers[0]) == 3
    assert [a["probabilities"] for a in answers[0]] == [a["probabilities"] for a in answers[1]]
    np.save("turned.npy", rows[:3].reshape(3, 64, 16, 3))
    assert_one_line(
        run_cli("predict", trained, "turned.npy"), "turned.npy: has images of 3 x 64 x 16 where the model is for 3 x 32"
    )


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
        ("x.png", "was not trained on images; pass a .npy file of rows"),
    ):
        assert_one_line(run_cli("predict", run, name), words)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_an_image_that_is_none_is_one_line(run_cli, trained, tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    for command in ("predict", "explain"):
        assert_one_line(run_cli(command, trained, "x.png"), "x.png")
        assert_one_line(run_cli(command, trained, "missing.png"), "missing.png")
        assert_one_line(run_cli(command, trained, "x.png", "--top", "0"), "top 0 is not a whole number of at least 1")
    assert not (tmp_path / "explanation.png").exists()


def test_explain(run_cli, trained, tiny_batches, tmp_path):
    rows, _ = tiny_batches["test_batch"]
    Image.fromarray(rows[0].reshape(3, 32, 32).transpose(1, 2, 0)).save(tmp_path / "0.png")
    Image.new("RGB", (200, 100), "red").save(tmp_path / "wide.png")
    code, out, err = run_cli("explain", trained, "0.png", "-o", "why.png", "--top", "4")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["class", "probability", "logit", "=", "bias", "+", "pixels"]
    assert lines[-1] == "why.png"
    predicted = json.loads(run_cli("predict", trained, "0.png", "--json", "--top", "4")[1])[0]["probabilities"]
    for line, (name, p) in zip(lines[1:-1], predicted.items(), strict=True):
        word, percent, _, logit, bias, pixels = line.split()
        assert (word, percent) == (name, f"{100 * p:.2f}")
        assert float(bias) + float(pixels) == pytest.approx(float(logit), abs=1.1e-4)
    with Image.open(tmp_path / "why.png") as image:
        image.load()
        assert min(image.size) > 200
    assert "note: wide.png: 200 x 100 was squeezed" in run_cli("explain", trained, "wide.png")[1]
    assert (tmp_path / "explanation.png").exists()
    odd = (tmp_path / "0.png").rename(tmp_path / "\x1b[31m\n.png")
    assert run_cli("explain", trained, odd)[0] == 0
    odd.rename(tmp_path / "0.png")
    assert_one_line(run_cli("explain", trained, "0.png", "-o", "why.jpg"), r"why\.jpg: the picture is a PNG")
    assert_one_line(run_cli("explain", trained, "0.png", "-o", "no/why.png"), r"cannot write no/why\.png: No such file")


def test_export(run_cli, trained, tmp_path):
    for words in (["predict.py"], ["model.joblib"], ["m.pickle", "--format", "sklearn"]):
        code, out, err = run_cli("export", trained, *words)
        assert (code, err) == (0, "")
        assert out.startswith(f"{words[0]}: ")
    assert {path.name for path in tmp_path.iterdir()} >= {"predict.py", "predict.npz", "model.joblib", "m.pickle"}
    assert (tmp_path / "model.joblib").read_bytes() == (tmp_path / "m.pickle").read_bytes()
    assert_one_line(run_cli("export", trained, "model.joblib"), r"model\.joblib is there; choose another name")


def test_export_for_onnx(run_cli, trained, tmp_path):
    pytest.importorskip("onnx")
    code, out, err = run_cli("export", trained, "model.onnx")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"model\.onnx: 1\d\d kB\n", out)
    for _ in range(2):  # its own file is replaced
        assert run_cli("export", trained, "again.bin", "--format", "onnx")[0] == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert_one_line(
        run_cli("export", trained, "notes.txt", "--format", "onnx"),
        "notes.txt is there, and does not say that this command wrote it",
    )
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_an_export_that_cannot_be_is_one_line(run_cli, trained, tmp_path, monkeypatch):
    before = {path.name for path in tmp_path.iterdir()}
    assert_one_line(run_cli("export", trained, "model.pt"), r"model\.pt: no format goes with this name; let it end in")
    assert_one_line(run_cli("export", trained, "model.onnx", "--format", "tf"), 'Invalid value "tf" for --format')
    assert_one_line(run_cli("export", trained, "no/model.joblib"), r"cannot write no/model\.joblib: No such file")
    assert_one_line(run_cli("export", trained, "no/model.py"), r"cannot write no/model\.py: No such file")
    assert_one_line(run_cli("export", trained, trained, "--format", "onnx"), "cannot write .*: Is a directory")
    assert_one_line(run_cli("export", trained, "model", "--format", "numpy"), "model: a Python script is written")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_one_line(
        run_cli("export", trained, "model.onnx"), r"ONNX needs a package more: pip install 'onelayer\[onnx\]'"
    )
    (trained / "summary.json").unlink()
    assert_one_line(run_cli("export", trained, "model.py"), "run is not complete; go on with: onelayer resume")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_figures_draws_them_again(run_cli, trained):
    assert not list(trained.glob("*.png"))
    code, out, _ = run_cli("figures", trained)
    assert code == 0
    assert len(list(trained.glob("*.png"))) == 6
    assert "loss.png" in out


def test_data_tells_what_a_source_holds(run_cli, tiny_cifar):
    code, out, _ = run_cli("data", tiny_cifar)
    assert code == 0
    facts = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines()[:5] if "  " in line)
    assert facts["rows"] == "360 of 3,072 uint8 numbers"
    assert facts["official"] == "no"
    assert re.search(r"image shape +3 x 32 x 32", out)
    assert re.search(r"fingerprint +[0-9a-f]{64}", out)
    assert re.search(r"\nairplane( +6){6}\n", out)
    assert re.search(r"\nall( +60){6}\n", out)


def test_check_agrees(run_cli):
    code, out, err = run_cli("check", "--data", "digits")
    assert (code, err) == (0, "")
    assert "all gradients agree with " in out
    rows = [line for line in out.splitlines() if line.startswith(("softmax", "sigmoid"))]
    oracles = ["PyTorch", "complex step", "central differences"]
    if importlib.util.find_spec("torch") is None:
        oracles.remove("PyTorch")
        assert "note: PyTorch is not installed" in out
    assert len(rows) == 2 * 2 * 2 * len(oracles)
    for row in rows:
        errors = [float(word) for word in re.findall(r"\d\.\de[+-]\d+", row)]
        assert len(errors) == 2
        assert max(errors) <= (1e-6 if "central differences" in row else 1e-14)


def test_check_takes_a_set_without_its_first_batch_as_train_does(run_cli, tiny_cifar):
    (tiny_cifar / "data_batch_1").unlink()
    code, out, err = run_cli("check", "--data", tiny_cifar)
    assert (code, err) == (0, "")
    assert "all gradients agree" in out


def test_check_fails_when_a_gradient_is_wrong(run_cli, monkeypatch):
    from onelayer.layer import SoftmaxLayer

    right = SoftmaxLayer.gradients
    monkeypatch.setattr(SoftmaxLayer, "gradients", lambda self, X, y, l2=0.0: right(self, X, y, l2 / 2))
    code, out, _ = run_cli("check", "--data", "digits")
    assert code == 1
    assert re.search(r"dW\[\d+, \d+\] is .*relative error .*l2 0\.1", out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_in_one_line(tiny_cifar, tmp_path, number):
    code = "from onelayer.__main__ import main; print('here', flush=True); main()"
    command = [sys.executable, "-c", code, "train", "--data", str(tiny_cifar), "--epochs", "100000", "--out"]
    for trial, delay in enumerate((0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)):
        run = tmp_path / f"{trial}"
        with start([*command, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(delay)
            err = ""
            while process.poll() is None:  # Python can swallow an exception within a callback, and says so
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    err = process.communicate(timeout=10)[1]
        if "Exception ignored" in err:
            continue
        # Python ends by the signal itself where that came while it evaluated a string, as for a dataclass.
        assert process.returncode in (128 + number, -number), err
        hint = f"; go on with: onelayer resume {run}" if (run / "checkpoint.safetensors").exists() else ""
        assert err in (f"onelayer: stopped{hint}\n", "onelayer: stopped\n"), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", [ImportError("cannot initialise module"), DataError("a file is damaged")])
def test_a_signal_that_became_another_error_is_still_a_stop(run_cli, monkeypatch, number, error):
    # As compiled modules do with one that comes while they are imported.
    def swallow(arguments: list[str]) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise error

    # Where the tests run in the background, SIGINT is ignored.
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    monkeypatch.setattr("onelayer.cli.main.run", swallow)
    assert run_cli("train") == (128 + number, "", "onelayer: stopped\n")
    monkeypatch.setattr("onelayer.cli.main.run", lambda arguments: (_ for _ in ()).throw(ImportError("a defect")))
    with pytest.raises(ImportError, match="a defect"):
        run_cli("train")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_can_be_resumed_to_the_same_bits(run_cli, tiny_cifar, tmp_path, number, code):
    options = ["--data", str(tiny_cifar), "--epochs", "600", "--no-figures"]
    command = [sys.executable, "-m", "onelayer", "train", "--out", "a run", *options]
    with start(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch   5/600"):
                break
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == code
    assert err == "onelayer: stopped; go on with: onelayer resume 'a run'\n"
    assert run_cli("train", "--out", "whole", "--quiet", *options)[0] == 0
    code, out, _ = run_cli("resume", "a run", "--no-figures")
    assert code == 0
    assert re.search(r"a run: \d+ epochs done, going on to 600", out)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a run", "whole")]
    assert models[0] == models[1]


def test_help_loads_nothing_heavy():
    code = (
        "import sys, onelayer\n"
        "from onelayer.__main__ import main\n"
        "sys.argv = ['onelayer', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'scipy', 'sklearn', 'matplotlib', 'jinja2', 'torch', 'PIL', 'pooch', 'onnx', 'joblib'}\n"
        "heavy &= sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for command in ("train", "resume", "check", "evaluate", "predict", "explain", "export", "figures", "data", "sweep"):
        assert command in out


def test_no_help_page_is_left_undescribed(run_cli):
    commands = (
        "train",
        "resume",
        "check",
        "evaluate",
        "predict",
        "explain",
        "export",
        "figures",
        "data",
        "sweep",
        "compare",
        "study",
        "report",
    )
    for command in commands:
        code, out, _ = run_cli(command, "--help")
        assert code == 0
        for option in re.findall(r"│ (--[a-z0-9-]+[A-Z ]*?) {2,}│", out):
            pytest.fail(f"{command} {option} has no description")


def test_training_takes_only_the_rooms_it_needs(tiny_cifar, tmp_path):
    code = (
        "import sys\n"
        "from onelayer.__main__ import main\n"
        f"sys.argv = ['onelayer', 'train', '--data', {str(tiny_cifar)!r}, '--epochs', '1', '--no-figures']\n"
        "main()\n"
        "heavy = {'scipy', 'sklearn', 'matplotlib', 'torch', 'PIL', 'pooch'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)


def test_a_run_remembers_what_was_loaded_not_what_was_asked_for(run_cli, tmp_path, monkeypatch, cifar):
    """A run on the digits stays one where CIFAR-10 turns up later, or a folder has their name."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    assert run_cli("train", "--out", "run", "--quiet", *TINY)[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["data"]["source"] == "digits"
    (tmp_path / "digits").mkdir()
    monkeypatch.setenv("ONELAYER_DATA", str(cifar))
    code, out, _ = run_cli("evaluate", "run")
    assert code == 0
    assert "digits, test: 359 rows" in out
    assert run_cli("resume", "run", "--epochs", "4", "--no-figures", "--quiet")[0] == 0


def test_file_names_are_taken_as_they_are(run_cli, trained, tmp_path):
    for name in ("[cat].png", "--my_pic.png", "--eta", '["a", "b"].png', "ü ☃.png"):
        Image.new("RGB", (32, 32), "blue").save(tmp_path / name, format="PNG")
        code, out, err = run_cli("predict", trained, "--json", "--", name)
        assert (code, err) == (0, ""), name
        assert json.loads(out)[0]["image"] == name
    assert_one_line(run_cli("predict", trained, "."), r"\.: a folder, not an image")
    assert_one_line(run_cli("predict", trained, "x" * 300), "File name too long")
    assert_one_line(run_cli("resume", "x" * 300), "File name too long")


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file system here is always full")


@needs_full
def test_a_command_that_only_answers_fails_where_its_answer_is_lost(tiny_cifar, tmp_path):
    command = [sys.executable, "-m", "onelayer", "data", str(tiny_cifar)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 2
    reason = "standard output: No space left on device; what this command had to say is lost"
    assert done.stderr == f"onelayer: {reason}\n"


FULL = [pytest.param(streams, marks=needs_full) for streams in ("> /dev/full", "> /dev/full 2>&1")]


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "| true", *FULL])
def test_what_cannot_be_said_stops_no_run(tiny_cifar, tmp_path, streams):
    words = ["train", "--data", str(tiny_cifar), "--out", "run", *TINY]
    command = f"{shlex.join([sys.executable, '-m', 'onelayer', *words])} {streams}"
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("\n") == (streams == "> /dev/full")
    run = Run.open(tmp_path / "run")
    assert set(run.read_scores()) == {"train", "validation", "test"}
    assert len(run.read_model().class_names) == 10, "no file got what was meant for the screen"


def test_a_closed_stream_does_not_leave_its_number_to_a_file(tmp_path):
    code = (
        "from onelayer.__main__ import _open_streams\n"
        "_open_streams()\n"
        "first, second = open('file', 'w'), open('number', 'w')\n"
        "print(first.fileno(), file=second)\n"
    )
    command = f"{shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    assert int((tmp_path / "number").read_text()) > 2


def test_words_that_the_output_cannot_hold_are_spelt_out(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (40, 12)).astype(np.uint8)
    np.savez(tmp_path / "rows.npz", X=rows, y=np.array(["Käse", "鳥"])[np.arange(40) % 2])
    np.save(tmp_path / "\u00e9.npy", rows[:1])

    def said(*words: str, encoding: str) -> str:
        variables = os.environ | {"PYTHONIOENCODING": encoding}
        command = [sys.executable, "-m", "onelayer", *words]
        done = subprocess.run(command, capture_output=True, env=variables, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode(encoding)

    said("train", "--data", "rows.npz", "--out", "run", *TINY, encoding="ascii")
    table = said("evaluate", "run", encoding="latin-1")
    assert "±" in table
    assert "Käse" in table
    assert "\\u9ce5" in table
    assert "\\xb1" in said("evaluate", "run", encoding="ascii")
    plain, spelt = (said("predict", "run", "é.npy", "--json", encoding=name) for name in ("utf-8", "ascii"))
    assert "鳥" in plain
    assert json.loads(spelt) == json.loads(plain)


def test_a_longer_run_that_was_stopped_is_not_complete(run_cli, trained, tiny_cifar, tmp_path, monkeypatch):
    from onelayer.runs import training as runs

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "solve", stop)
    assert run_cli("resume", trained, "--epochs", "5")[0] == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for command in (["evaluate", trained], ["figures", trained], ["predict", trained, "x.png"]):
        assert_one_line(run_cli(*command), "is not complete; go on with: onelayer resume")
    code, out, _ = run_cli("resume", trained, "--no-figures")
    assert code == 0
    assert "3 epochs done, going on to 5" in out
    assert run_cli("evaluate", trained)[0] == 0


def test_without_the_compiled_kernel_numpy_trains_and_a_line_says_so(run_cli, tiny_cifar, monkeypatch):
    for room in ("onelayer.kernel", "onelayer.training.backends.native"):
        monkeypatch.setattr(f"{room}.kernel", None)
    code, out, err = run_cli("train", "--data", tiny_cifar, *TINY)
    assert (code, err) == (0, "")
    assert "note: onelayer was installed without a C++ compiler; NumPy does the arithmetic" in out
    assert "for 3 epochs (numpy)" in out
    assert_one_line(
        run_cli("train", "--data", tiny_cifar, "--backend", "native"), "the backend native was not compiled"
    )


def test_words_that_no_command_takes_are_one_line(run_cli):
    assert (
        run_cli("explain", "a", "b", "c", "d")[2]
        == "onelayer: there is no place for 'c'; see onelayer explain --help\n"
    )


def test_predict_answers_for_the_others_where_a_file_cannot_be_read(run_cli, trained, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, err = run_cli("predict", trained, "a.png", "bad.png", "none.png", "b.png")
    assert code == 2
    assert [line.split()[0] for line in out.splitlines() if line.endswith("probability")] == ["a.png", "b.png"]
    assert err.startswith("onelayer: bad.png: is no image that can be read")
    assert err.endswith("(and 1 file more)\n")
    code, out, _ = run_cli("predict", trained, "bad.png", "b.png", "--json")
    assert code == 2
    bad, good = json.loads(out)
    assert bad["error"].startswith("bad.png: is no image")
    assert len(good["probabilities"]) == 3


def test_pictures_and_pages_of_others_are_not_replaced(run_cli, trained, tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert_one_line(
        run_cli("explain", trained, "a.png", "-o", "a.png"),
        "a.png is there, and does not say that this",
    )
    assert (tmp_path / "a.png").read_bytes() == before
    (tmp_path / "notes.html").write_text("mine")
    assert_one_line(run_cli("report", trained, "-o", "notes.html"), "notes.html is there, and does not say that this")
    assert (tmp_path / "notes.html").read_text() == "mine"
    for _ in range(2):
        assert run_cli("explain", trained, "a.png")[0] == 0
        assert run_cli("report", trained)[0] == 0


DRAWING = """
import sys
from onelayer.__main__ import main
for words in sys.argv[1:]:
    sys.argv = ["onelayer", *words.split()]
    main()
assert "matplotlib.pyplot" not in sys.modules
"""


def test_pictures_do_not_depend_on_how_others_draw(run_cli, tiny_cifar, tmp_path):
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "image.png")
    commands = (f"train --data {tiny_cifar} --epochs 1 --out run --quiet", "explain run image.png", "report run")

    def pictures() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (*tmp_path.glob("run/*.png"), tmp_path / "explanation.png")}

    for command in commands[:2]:
        assert run_cli(*command.split())[0] == 0
    expected = pictures()
    assert len(expected) == 7
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "explanation.png").unlink()
    (tmp_path / "matplotlibrc").write_text(
        "backend: nonsense\ntext.usetex: True\nsavefig.bbox: tight\naxes.grid: True\n"
        "figure.constrained_layout.use: True\nfont.size: 40\n"
    )
    variables = os.environ | {
        "MPLBACKEND": "module://matplotlib_inline.backend_not_installed",
        "SOURCE_DATE_EPOCH": "yesterday",
    }
    command = [sys.executable, "-c", DRAWING, *commands]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert pictures() == expected


def test_the_library_leaves_the_users_backend_alone(tmp_path):
    code = (
        "import os, sys, matplotlib\n"
        "from types import SimpleNamespace\n"
        "import onelayer.cli.main, onelayer.pictures.figures\n"
        "record = SimpleNamespace(epoch=1, train_loss=2.0, validation_loss=2.1)\n"
        "onelayer.pictures.figures.loss_curve([record], 'title').savefig(sys.argv[1])\n"
        "assert matplotlib.get_backend() == os.environ['MPLBACKEND'] == 'svg'\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "loss.png")]
    subprocess.run(command, check=True, env=os.environ | {"MPLBACKEND": "svg"})


def test_only_what_the_command_wrote_is_replaced(run_cli, tiny_cifar, trained, tmp_path):
    """Neither the word onelayer nor a file of another command makes a file replaceable."""
    pytest.importorskip("onnx")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "a.png")
    assert run_cli("figures", trained, "--data", tiny_cifar)[0] == 0
    marks = 'producer onelayer <meta name="generator" content="onelayer"> Software\0onelayer explain\n'
    start = '"""Classify rows with what onelayer learned: by hand.\n"""\n'
    for name in ("train.sh", "page.html", "picture.png", "own.py", "own.npz"):
        (tmp_path / name).write_text(
            f"<!DOCTYPE html>\n<head><!-- {marks} --></head>" if name == "page.html" else start + marks
        )
    explained = ["explain", "run", "a.png", "-o", "e.png"]
    for words in (["export", "run", "m.onnx"], ["export", "run", "edited.py"], explained):
        assert run_cli(*words)[0] == 0
    (tmp_path / "edited.py").write_text((tmp_path / "edited.py").read_text().replace("softmax", "my own softmax"))
    np.savez(tmp_path / "arrays.npz", weights=np.eye(2), bias=np.ones(2), class_names=np.ones(2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        ["export", "run", "train.sh", "--format", "onnx"],
        ["export", "run", "e.png", "--format", "onnx"],
        ["export", "run", "own.py"],
        ["export", "run", "edited.py"],
        ["export", "run", "arrays.py"],
        ["explain", "run", "a.png", "-o", "picture.png"],
        ["explain", "run", "a.png", "-o", "run/templates.png"],
        ["report", "run", "-o", "page.html"],
        ["report", "run", "-o", "m.onnx"],
        ["report", "run", "-o", "e.png"],
    ):
        assert_one_line(run_cli(*words), r"is there, and does not say that this command wrote it; choose another name")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for words in (["export", "run", "m.onnx"], explained):
        assert run_cli(*words)[0] == 0, "its own are"


@pytest.mark.parametrize("words", [["export", "run", "pipe.py"], ["report", "run", "-o", "pipe.py"]])
def test_a_pipe_in_the_way_of_a_file_is_not_read(trained, tmp_path, words):
    os.mkfifo(tmp_path / "pipe.py")
    command = [sys.executable, "-m", "onelayer", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("onelayer: pipe.py is there, and does not say that this command wrote it; choose")


def test_a_directory_that_another_process_made_meanwhile_is_not_shared(run_cli, tiny_cifar, tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def slow(path: Path, *options: object, **named: object) -> None:
        if path.name == "cifar-10-1" and not path.exists():
            mkdir(path)  # by another process, after this one has looked
        mkdir(path, *options, **named)

    monkeypatch.setattr(Path, "mkdir", slow)
    assert run_cli("train", "--data", tiny_cifar, "--quiet", *TINY) == (0, "", "")
    assert not list((tmp_path / "runs" / "cifar-10-1").iterdir())
    assert (tmp_path / "runs" / "cifar-10-2" / "summary.json").exists()


def test_where_another_process_works_there_is_no_second(run_cli, trained, tiny_cifar, tmp_path):
    data = ["--data", tiny_cifar, "--quiet"]
    commands = {
        "run": [["resume", "run", "--epochs", "5"], ["train", "--out", "run", "--overwrite", *data]],
        "new": [["train", "--out", "new", *data], ["sweep", "--out", "new", "--epochs", "1", *data]],
        "study": [["study", "coursework", "--out", "study", *data]],
    }
    holder = {"host": "elsewhere", "pid": 7, "process": "x", "since": "2026-01-02 03:04:05", "token": "y"}
    for name, words in commands.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / ".onelayer-running").write_text(json.dumps(holder))
        before = {path: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for command in words:
            said = f"^onelayer: {name}: process 7 on elsewhere has worked there since 2026-01-02 03:04:05; "
            advice = rf"wait until it has ended, or if it has, delete {name}/\.onelayer-running\n"
            assert_one_line(run_cli(*command), said + advice)
        assert {path: path.read_bytes() for path in (tmp_path / name).iterdir()} == before
    (tmp_path / "run" / ".onelayer-running").unlink()
    assert run_cli("resume", "run", "--epochs", "4", "--no-figures", "--quiet") == (0, "", "")
    assert not (tmp_path / "run" / ".onelayer-running").exists()


def test_the_help_of_predict_names_the_formats_that_are_read(run_cli):
    words = re.search(r"required\].*?IMAGE(.*?) files", run_cli("predict", "--help")[1], re.DOTALL)[1]
    assert [name.upper() for name in re.findall(r"[A-Z][A-Za-z]+", words)] == list(FORMATS)


def test_every_way_out_names_the_same_class(run_cli, tiny_cifar, tmp_path):
    """Sigmoids of such steps round to 1, several in a row; the logits still tell the classes apart."""
    settings = ["--loss", "sigmoid", "--learning-rate", "50", "--epochs", "5", "--no-figures", "--quiet"]
    assert run_cli("train", "--data", tiny_cifar, "--out", "run", *settings)[0] == 0
    rows = np.random.default_rng(0).integers(0, 256, (300, 3072), dtype=np.uint8)
    np.save("noise.npy", rows)
    tensors, names = load_file("run/model.safetensors"), Model.load("run/model.safetensors").class_names
    W = tensors["weights"].astype(float) / tensors["scale"][:, None]
    S = rows @ W + (tensors["bias"] - tensors["mean"] @ W)
    expected = [names[k] for k in S.argmax(axis=1)]
    assert sum((1 / (1 + np.exp(-s)) == 1).sum() > 1 for s in S) > 20
    answers = json.loads(run_cli("predict", "run", "noise.npy", "--json", "--top", "10")[1])
    found = [list(answer["probabilities"]) for answer in answers]
    assert found == [[names[k] for k in np.argsort(-s, kind="stable")] for s in S]
    for row in (S.max(axis=1).argmax(), S.max(axis=1).argmin()):
        Image.fromarray(rows[row].reshape(3, 32, 32).transpose(1, 2, 0)).save("noise.png")
        assert run_cli("explain", "run", "noise.png")[1].splitlines()[1].split()[0] == expected[row]
    assert run_cli("export", "run", "model.py")[0] == 0
    script = subprocess.run([sys.executable, "-I", "model.py", "noise.npy"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in script.stdout.splitlines()] == expected
    runtime = pytest.importorskip("onnxruntime")
    assert run_cli("export", "run", "model.onnx")[0] == 0
    session = runtime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    probabilities, label, logits = session.run(None, {"images": rows.reshape(-1, 3, 32, 32)})
    assert [names[k] for k in label] == expected
    assert logits == pytest.approx(S, rel=1e-4, abs=1e-3)
    assert [names[k] for k in probabilities.argmax(axis=1)] != expected  # so there is something to tell apart


def test_rows_in_another_unit_are_refused_or_noted(run_cli, trained, tiny_batches, tmp_path):
    rows, labels = tiny_batches["test_batch"]
    scaled = (rows / 255).astype(np.float32)
    np.save("scaled.npy", scaled)
    np.save("pixels.npy", rows.astype(np.float32))
    assert_one_line(
        run_cli("predict", trained, "scaled.npy"), "scaled.npy: the rows lie in 0 to 1, the pixels trained on"
    )
    assert run_cli("predict", trained, "pixels.npy")[2] == ""
    answers = json.loads(run_cli("predict", trained, "scaled.npy", "pixels.npy", "--json")[1])
    assert "multiply the rows by 255" in answers[0]["error"]
    assert [answer["note"] for answer in answers[1:]] == [None] * 60

    np.savez("scaled.npz", X=scaled, y=labels)
    code, out, err = run_cli("train", "--data", "scaled.npz", "--out", "of scaled", *TINY)
    assert (code, err) == (0, "")
    assert "far outside" not in out
    np.save("rows.npy", rows)
    found = run_cli("predict", "of scaled", "rows.npy")[1].splitlines()
    assert (
        found[0] == "note: rows.npy: the rows lie far outside those trained on; prepare them as the training rows were"
    )
    assert len(found) == 62
    assert "far outside" not in run_cli("predict", "of scaled", "scaled.npy")[1]


def figures_of(out):
    """What evaluate prints: the part, the number of rows, the loss, and the accuracy of each class with rows."""
    part, n, loss = re.search(r"^.*, (\w+): ([0-9,]+) rows, loss ([0-9.]+) nats", out, re.MULTILINE).groups()
    classes = {name: float(p) for name, p in re.findall(r"^(\S+) +[0-9,]+ +([0-9.]+) %$", out, re.MULTILINE)}
    return part, int(n.replace(",", "")), float(loss), classes


def answers_by_hand(run, rows, labels):
    """Loss and accuracy by class of labels that are names, from the numbers in the file alone."""
    tensors, names = load_file(run / "model.safetensors"), list(Model.load(run / "model.safetensors").class_names)
    S = (rows - tensors["mean"]) / tensors["scale"] @ tensors["weights"].astype(float) + tensors["bias"]
    losses = np.log(np.exp(S - S.max(1, keepdims=True)).sum(1)) + S.max(1)
    losses -= S[np.arange(len(S)), [names.index(name) for name in labels]]
    right = np.array(names)[S.argmax(1)] == labels
    return losses.mean(), {name: round(100 * right[labels == name].mean(), 2) for name in np.unique(labels)}


@pytest.fixture
def strangers(tiny_batches):
    """Rows (60, 3072) under more noise, and the names of their classes: a set that the run has not seen."""
    rows, labels = tiny_batches["data_batch_3"]
    rows = rows + np.random.default_rng(5).normal(0, 250, rows.shape)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return rows.clip(0, 255).astype(np.uint8), np.array(names)[labels]


def test_evaluate_on_moved_data_divides_them_as_the_run_did(run_cli, trained, tiny_cifar, tmp_path):
    own = {split: run_cli("evaluate", trained, "--split", split) for split in ("train", "test", "all")}
    own["by default"] = run_cli("evaluate", trained)
    tiny_cifar.rename(tmp_path / "moved")
    for split, expected in own.items():
        words = ["--split", split] * (split != "by default")
        assert run_cli("evaluate", trained, "--data", "moved", *words) == expected
    assert own["by default"] == own["test"]
    assert "CIFAR-10, all: 180 rows" in own["all"][1]


@pytest.mark.parametrize(
    ("names", "words", "part", "said"),
    [
        (("X", "y"), [], "all", "it has no test part, so all its rows are evaluated"),
        (("X", "y"), ["--split", "all"], "all", "all its rows are evaluated"),
        (("X_test", "y_test"), [], "test", "its test part is evaluated"),
        (("X_test", "y_test"), ["--split", "test"], "test", "its test part is evaluated"),
        (("X_train", "y_train", "X_test", "y_test"), [], "test", "its test part is evaluated"),
        (("X_train", "y_train", "X_test", "y_test"), ["--split", "train"], "train", "its train part is evaluated"),
        (("X_train", "y_train", "X_val", "y_val"), [], "all", "it has no test part, so all its rows are evaluated"),
        (("X_train", "y_train", "X_val", "y_val"), ["--split", "validation"], "validation", "its validation part"),
    ],
)
def test_evaluate_on_other_data(run_cli, trained, strangers, names, words, part, said):
    rows, labels = strangers
    sizes = [slice(0, 40), slice(40, 60)] if len(names) == 4 else [slice(0, 60)]
    held = {name: array[sizes[k // 2]] for k, (name, array) in enumerate(zip(names, (rows, labels) * 2, strict=False))}
    np.savez("other.npz", **held)
    chosen = {"all": slice(0, 60), "train": sizes[0], "test": sizes[-1], "validation": sizes[-1]}[part]
    code, out, err = run_cli("evaluate", trained, "--data", "other.npz", *words)
    assert (code, err) == (0, "")
    assert f"note: other is not the data of this run; {said}" in out
    found = figures_of(out)
    loss, by_class = answers_by_hand(trained, rows[chosen], labels[chosen])
    assert found[:2] == (part, len(rows[chosen]))
    assert found[2] == pytest.approx(loss, abs=6e-5)
    assert found[3] == pytest.approx(by_class, abs=0.006)
    assert 20 < np.mean(list(by_class.values())) < 99


def test_evaluate_matches_classes_by_name(run_cli, trained, strangers):
    rows, labels = strangers
    few, one = np.isin(labels, ["cat", "ship", "bird"]), labels == "ship"
    shuffled = np.array(["truck", "ship", "cat", "horse", "bird", "deer", "airplane", "dog", "frog", "automobile"])
    places = np.array([list(shuffled).index(name) for name in labels])
    np.savez("few.npz", X=rows[few], y=labels[few])
    np.savez("one.npz", X=rows[one], y=labels[one])
    np.savez("shuffled.npz", X=rows, y=places, class_names=shuffled)
    for name, chosen in (("few", few), ("one", one), ("shuffled", slice(None))):
        code, out, err = run_cli("evaluate", trained, "--data", f"{name}.npz")
        assert (code, err) == (0, "")
        loss, by_class = answers_by_hand(trained, rows[chosen], labels[chosen])
        assert figures_of(out)[2:] == (pytest.approx(loss, abs=6e-5), pytest.approx(by_class, abs=0.006))


def test_evaluate_says_what_numbers_are_taken_for(run_cli, trained, strangers):
    rows, labels = strangers
    names = Model.load(trained / "model.safetensors").class_names
    np.savez("other.npz", X=rows, y=[names.index(name) for name in labels])
    _, out, err = run_cli("evaluate", trained, "--data", "other.npz")
    said = "note: the classes of other are numbers, taken for the places of the model's classes: 0 is airplane, 1 is"
    assert err.startswith(said)
    assert figures_of(out)[2] == pytest.approx(answers_by_hand(trained, rows, labels)[0], abs=6e-5)


def test_evaluate_refuses_what_it_cannot_judge_in_its_own_words(run_cli, trained, strangers):
    rows, labels = strangers
    np.savez("other.npz", X=rows, y=np.where(labels == "cat", "lynx", np.where(labels == "dog", "wolf", labels)))
    np.savez("scaled.npz", X=(rows / 255).astype(np.float32), y=labels)
    np.savez("holes.npz", X=np.where(rows == 7, np.nan, rows).astype(np.float32), y=labels)
    for words, message in (
        (["other.npz"], "other has rows of classes that the model does not know: lynx, wolf; it knows airplane"),
        (["other.npz", "--split", "validation"], "other has no validation part of its own; leave --split out, or pass"),
        (["other.npz", "--split", "test"], "other has no test part of its own; leave --split out, or pass --split all"),
        (
            ["scaled.npz"],
            "scaled, all: the rows lie in 0 to 1, the pixels trained on in 0 to 255; multiply",
        ),
        (["holes.npz"], "holes: row 0, column [0-9]+ is nan; every feature must be a finite number"),
    ):
        assert_one_line(run_cli("evaluate", trained, "--data", *words), message)


def test_the_runs_own_rows_as_another_part_are_not_taken_for_test_rows(run_cli, tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (40, 12)).astype(np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "rows.npz", X=rows, y=labels)
    np.savez(tmp_path / "moved.npz", X_test=rows, y_test=labels)
    assert run_cli("train", "--data", "rows.npz", "--out", "run", *TINY)[0] == 0
    said = "moved holds the rows of this run in other parts, so which it tested on is not known; pass the data as they"
    assert_one_line(run_cli("evaluate", "run", "--data", "moved.npz"), said)
    assert "moved, all: 40 rows" in run_cli("evaluate", "run", "--data", "moved.npz", "--split", "all")[1]


def test_evaluate_brings_images_to_the_models_width_and_height(run_cli, tmp_path):
    """Stripes, lying in one class and standing in the other, which width and height swapped would mix up."""
    rng = np.random.default_rng(0)
    for folder, scale in (("own", 1), ("other", 2)):
        for number in range(60):
            picture = rng.integers(40, 120, (20, 12))
            if number % 2:
                picture[:, ::4] += 60
            else:
                picture[::4] += 60
            picture = np.kron(picture, np.ones((scale, scale))).astype(np.uint8)
            path = tmp_path / folder / ("standing" if number % 2 else "lying") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    code, _, err = run_cli("train", "--data", "own", "--out", "run", "--epochs", "5", "--quiet", "--no-figures")
    assert (code, err) == (0, "")
    assert Model.load("run/model.safetensors").image_shape == (1, 20, 12)
    out = run_cli("evaluate", "run", "--data", "other")[1]
    files = sorted((tmp_path / "other").glob("*/*.png"))
    rows = np.array([np.asarray(Image.open(f).resize((12, 20), Image.Resampling.LANCZOS)).ravel() for f in files])
    loss, by_class = answers_by_hand(tmp_path / "run", rows, np.array([f.parent.name for f in files]))
    assert figures_of(out) == ("all", 60, pytest.approx(loss, abs=6e-5), pytest.approx(by_class, abs=0.006))
    assert min(by_class.values()) > 60


def test_a_run_reads_its_images_again_in_the_size_that_was_asked_for(run_cli, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 200 + 50 * (number % 2), (16, 16, 3), dtype=np.uint8)).save(path)
    settings = ["--image-size", "6x9", "--epochs", "2", "--quiet", "--no-figures"]
    assert run_cli("train", "--data", "pictures", "--out", "run", *settings) == (0, "", "")
    assert Model.load("run/model.safetensors").image_shape == (3, 9, 6)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["config"]["image_size"] == "6x9"
    for command in (["evaluate", "run"], ["figures", "run"], ["resume", "run", "--epochs", "3", "--no-figures"]):
        assert run_cli(*command)[::2] == (0, "")
    (tmp_path / "pictures").rename(tmp_path / "moved")
    expected = {"loss": json.loads((tmp_path / "run" / "summary.json").read_text())["results"]["test"]["loss"]}
    code, out, err = run_cli("evaluate", "run", "--data", "moved")
    assert (code, err) == (0, "")
    assert "is not the data of this run" not in out
    assert figures_of(out)[:3] == ("test", 8, pytest.approx(expected["loss"], abs=6e-5))


def test_a_run_reads_its_superclasses_again(run_cli, write_form_100, tmp_path):
    rng = np.random.default_rng(0)
    fine = {"train": rng.permutation(200) % 100, "test": np.arange(100)}
    parts = {
        part: (rng.integers(0, 256, (len(y), 3072), dtype=np.uint8), {"fine": y, "coarse": y // 5})
        for part, y in fine.items()
    }
    names = {"fine": tuple(f"fine{k}" for k in range(100)), "coarse": tuple(f"coarse{k:02}" for k in range(20))}
    folder = write_form_100(parts, names, "python", tmp_path)
    settings = ["--coarse", "--epochs", "2", "--quiet", "--no-figures"]
    assert run_cli("train", "--data", folder, "--out", "run", *settings) == (0, "", "")
    rows = parts["test"][0]
    labels = np.array(names["coarse"])[fine["test"] // 5]
    loss, by_class = answers_by_hand(tmp_path / "run", rows, labels)
    for more in ([], ["--data", folder]):
        code, out, err = run_cli("evaluate", "run", *more)
        assert (code, err) == (0, "")
        assert figures_of(out) == ("test", 100, pytest.approx(loss, abs=6e-5), pytest.approx(by_class, abs=0.006))
    assert run_cli("resume", "run", "--epochs", "3", "--quiet", "--no-figures") == (0, "", "")
    np.savez("other.npz", X=rows, y=labels)  # a source that has classes of one kind only
    assert "other, all: 100 rows" in run_cli("evaluate", "run", "--data", "other.npz")[1]


def test_a_run_whose_checkpoint_is_damaged_can_be_replaced(run_cli, trained, tiny_cifar):
    checkpoint = trained / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert_one_line(run_cli("evaluate", trained), r"checkpoint\.safetensors: damaged .*; restore it, or train again$")
    assert run_cli("train", "--data", tiny_cifar, "--out", trained, "--overwrite", "--quiet", *TINY) == (0, "", "")
    assert run_cli("evaluate", trained)[0] == 0


def test_test_rows_in_another_unit_are_refused_before_anything_is_made(run_cli, strangers, tmp_path):
    rows, labels = strangers
    scaled = (rows / 255).astype(np.float32)
    np.savez("set.npz", X_train=rows.astype(np.float32), y_train=labels, X_test=scaled, y_test=labels)
    for command in (["train"], ["sweep", "--learning-rate", "0.1", "0.01"]):
        said = run_cli(*command, "--data", "set.npz", "--epochs", "1")
        assert_one_line(said, "^onelayer: set, test: the rows lie in 0 to 1, the pixels trained on in 0 to 255")
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "sweeps").exists()
