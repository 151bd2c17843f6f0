"""The command evaluate, on the rows of the run and on other data."""

import json
import re

import numpy as np
import pytest
from helpers import TINY, assert_one_line
from PIL import Image
from safetensors.numpy import load_file

from onelayer import Model


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


def figures_of(out):
    """Return what evaluate printed: the part, the number of rows, the loss, and the accuracies of classes with rows."""
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
        (["holes.npz"], r"holes\.npz: row 0, column [0-9]+ is nan; every feature must be a finite number"),
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


def test_test_rows_in_another_unit_are_refused_before_anything_is_made(run_cli, strangers, tmp_path):
    rows, labels = strangers
    scaled = (rows / 255).astype(np.float32)
    np.savez("set.npz", X_train=rows.astype(np.float32), y_train=labels, X_test=scaled, y_test=labels)
    for command in (["train"], ["sweep", "--learning-rate", "0.1", "0.01"]):
        said = run_cli(*command, "--data", "set.npz", "--epochs", "1")
        assert_one_line(said, "^onelayer: set, test: the rows lie in 0 to 1, the pixels trained on in 0 to 255")
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "sweeps").exists()
