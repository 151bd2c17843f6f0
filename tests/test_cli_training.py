"""The commands that train a run and draw it: what they print, what they write, and how they fail."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import TINY, assert_one_line
from PIL import Image
from safetensors.numpy import load_file

from onelayer.features.standardizer import Moments, Standardizer
from onelayer.runs.directory import Run


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
    assert pictures == {"loss", "cost", "accuracy", "templates", "templates_signed", "confusion", "mistakes"}
    for path in (tmp_path / "run").glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > (100 if path.stem == "cost" else 200)  # without a penalty, it is a note


def test_without_network_the_job_runs_on_digits(run_cli, tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    code, out, err = run_cli("train", *TINY)
    assert (code, err) == (0, "")
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert notes[0] == "note: CIFAR-10 is not here; digits takes its place, without the preset coursework"
    assert "CIFAR-10 is not available" in notes[1]
    assert Run.open("runs/digits-1").config.init_std == 0
    assert (tmp_path / "runs" / "digits-1" / "summary.json").exists()


def test_divergence_is_one_line_and_the_run_is_kept(run_cli, tiny_cifar, tmp_path):
    arguments = ["--learning-rate", "1e14", "--l2", "1", "--batch-size", "60", "--out", "run"]
    code, out, err = run_cli("train", "--preset", "coursework", "--data", tiny_cifar, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert "the cost after epoch 2 is not a finite number" in err
    assert "try a learning rate below 1e+14; run keeps the weights of epoch 1" in err
    assert out.count("epoch  1/40") == 1
    assert np.isfinite(load_file(tmp_path / "run" / "checkpoint.safetensors")["weights"]).all()


def test_weighted_rows_are_gone_through_once_for_mean_and_scale(run_cli, tiny_cifar, monkeypatch):
    calls = []

    def fit(blocks, weights=None):
        calls.append(weights is not None)
        return Moments.of(blocks, weights).standardizer

    monkeypatch.setattr(Standardizer, "fit", fit)
    words = ["train", "--data", tiny_cifar, "--class-weight", "airplane=2", "--epochs", "1", "--no-figures"]
    assert run_cli(*words)[0] == 0
    assert sorted(calls) == [False, True], "without weights, for a look at the unit of the rows"


def test_a_batch_of_all_rows_is_noted(run_cli, tiny_cifar):
    noted = ["note: a batch of 61 rows is all 60, so an epoch is a single step"]
    for size, notes in (("61", noted), ("60", [])):
        out = run_cli("train", "--data", tiny_cifar, "--batch-size", size, *TINY)[1]
        assert [line for line in out.splitlines() if "single step" in line] == notes


def test_a_sweep_says_so_too(run_cli, tiny_cifar):
    words = ["sweep", "--data", tiny_cifar, "--epochs", "1", "--keep", "last", "--batch-size", "60", "1000", "61", "10"]
    code, out, _ = run_cli(*words, "--l2", "0", "0.1")
    assert code == 0
    noted = ["note: a batch of 61 or 1,000 rows is all 60, so an epoch is a single step"]
    assert [line for line in out.splitlines() if "single step" in line] == noted


def test_overwrite(run_cli, trained, tiny_cifar):
    before = (trained / "model.safetensors").read_bytes()
    arguments = ["train", "--data", tiny_cifar, "--out", trained, *TINY, "--seed", "1"]
    assert_one_line(run_cli(*arguments), "holds a run already; choose another --out, resume it, or pass --overwrite")
    assert (trained / "model.safetensors").read_bytes() == before
    assert run_cli(*arguments, "--overwrite")[0] == 0
    assert (trained / "model.safetensors").read_bytes() != before


def test_no_epochs_write_the_untrained_model(run_cli, tiny_cifar, tmp_path):
    words = ["--preset", "coursework", "--epochs", "0", "--out", "run"]
    assert run_cli("train", "--data", tiny_cifar, *words)[0] == 0
    expected = (np.random.default_rng(42).standard_normal((10, 3072)) * 0.01).T.astype(np.float32)
    assert np.array_equal(load_file(tmp_path / "run" / "model.safetensors")["weights"], expected)
    assert (tmp_path / "run" / "history.csv").read_text().count("\n") == 1
    pictures = {path.stem for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {"templates", "templates_signed", "confusion", "mistakes"}


def test_resume_trains_on(run_cli, trained, tiny_cifar, tmp_path):
    code, out, err = run_cli("resume", trained, "--epochs", "5", "--no-figures")
    assert (code, err) == (0, "")
    assert "3 epochs done, going on to 5" in out
    longer = [*TINY, "--quiet", "--out", "longer"]
    longer[longer.index("--epochs") + 1] = "5"
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


def test_figures_draws_them_again(run_cli, trained):
    assert not list(trained.glob("*.png"))
    code, out, _ = run_cli("figures", trained)
    assert code == 0
    assert len(list(trained.glob("*.png"))) == 7
    assert "loss.png" in out


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


def test_a_run_whose_checkpoint_is_damaged_can_be_replaced(run_cli, trained, tiny_cifar):
    checkpoint = trained / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert_one_line(run_cli("evaluate", trained), r"checkpoint\.safetensors: damaged .*; restore it, or train again$")
    assert run_cli("train", "--data", tiny_cifar, "--out", trained, "--overwrite", "--quiet", *TINY) == (0, "", "")
    assert run_cli("evaluate", trained)[0] == 0


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_a_run_records_how_good_its_model_is(run_cli, tmp_path, class_weight):
    settings = ["--data", "digits", "--epochs", "3", "--learning-rate", "0.05", "--no-figures"]
    settings += ["--class-weight", class_weight]
    code, out, err = run_cli("train", *settings, "--out", "run")
    assert (code, err) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = json.loads(run_cli("evaluate", "run", "--json")[1])
    assert summary["evaluation"] == {name: value for name, value in found.items() if name in summary["evaluation"]}
    assert summary["evaluation"]["accuracy"] == summary["results"]["test"]["accuracy"]
    assert [of["class"] for of in summary["evaluation"]["classes"]] == list("0123456789")
    assert summary["advice"]
    assert ("figures of the epochs: rows weighted by class" in out) is (class_weight == "balanced")
    verdict = summary["evaluation"]["verdict"]
    assert verdict["figure"] == ("accuracy" if class_weight == "none" else "balanced_accuracy")
    assert ("of balanced accuracy" in verdict["sentence"]) is (class_weight == "balanced")
    for place in (out, run_cli("evaluate", "run")[1]):
        assert verdict["sentence"] in place
    assert found["advice"] == summary["advice"]
    for sentence in summary["advice"]:
        assert sentence in out
    assert "nearest class mean" in out


def test_pictures_take_the_evaluation_that_is_there(run_cli, tmp_path, monkeypatch):
    """Training predicts the test rows once, for the figures, the summary and the pictures."""
    from onelayer.analysis import evaluation, judgement
    from onelayer.pictures import finished

    monkeypatch.setattr(finished, "evaluate", None)
    calls = []
    monkeypatch.setattr(judgement, "evaluate", lambda *args: calls.append(args) or evaluation.evaluate(*args))
    settings = ["--data", "digits", "--epochs", "1", "--learning-rate", "0.05", "--quiet"]
    assert run_cli("train", *settings, "--out", "run") == (0, "", "")
    assert len(calls) == 1
    assert (tmp_path / "run" / "confusion.png").exists()
