"""The command evaluate, on the rows of the run and on other data."""

import csv
import json
import re

import numpy as np
import pytest
from helpers import TINY, assert_one_line
from PIL import Image
from safetensors.numpy import load_file
from scipy import stats

import onelayer
from onelayer import Model, Run


def test_evaluate(run_cli, trained, tiny_cifar):
    summary = json.loads((trained / "summary.json").read_text())
    for split in ("train", "validation", "test"):
        code, out, _ = run_cli("evaluate", trained, "--split", split)
        assert code == 0
        lines = out.splitlines()
        lines = lines[lines.index(f"CIFAR-10, {split}: 60 rows") :]  # after the notes on the source
        table = {line[:17].strip(): line[17:].split("  ") for line in lines[1:9]}
        accuracy, loss = (summary["results"][split][name] for name in ("accuracy", "loss"))
        interval = stats.binomtest(round(60 * accuracy), 60).proportion_ci(method="wilson")
        digits = 0 if interval.high - interval.low > 0.071 else 1
        cells = [cell.strip() for cell in table["accuracy"] if cell]
        low, high = (f"{100 * end:.{digits}f}" for end in interval)
        assert cells[:2] == [f"{100 * accuracy:.{digits}f} %", f"{low} to {high}"]
        short = "val" if split == "validation" else split
        found = json.loads(run_cli("evaluate", trained, "--split", short, "--json")[1])
        told = [line.removeprefix("note: ") for line in out.splitlines() if line.startswith("note: ")]
        assert found["notes"] and found["notes"] == told[: len(found["notes"])]
        assert found["loss"] == pytest.approx(loss, rel=1e-6)
        assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx(tuple(interval))
        assert len([line for line in lines if re.search(r"^\w+ +6  .* %  +\d+ to \d+$", line)]) == 10
        references = {reference["name"]: reference for reference in found["references"]}
        assert references["always airplane"]["accuracy"] == 0.1
        assert references["always airplane"]["loss"] == pytest.approx(np.log(10))
        verdict = found["verdict"]
        assert verdict["reference"] == max(references, key=lambda name: references[name]["accuracy"])
        assert f"{'' if verdict['better'] else 'note: '}{verdict['sentence']}" in lines
    assert "180 rows" in run_cli("evaluate", trained, "--split", "all")[1]
    assert_one_line(run_cli("evaluate", trained, "--data", "digits", "--split", "all"), "the model is for 3072 numbers")


def test_evaluate_prints_its_tables_for_other_programs(run_cli, trained, tmp_path):
    code, out, err = run_cli("evaluate", trained, "--json", "--csv", "classes.csv")
    assert (code, err) == (0, "")
    found = json.loads(out)
    evaluation = onelayer.evaluate(
        Model.load(trained / "model.safetensors"), Run.open(trained).read_checkpoint()[0].load_splits().test
    )
    assert {name: found[name] for name in evaluation.estimates} == pytest.approx(
        {name: estimate.value for name, estimate in evaluation.estimates.items()}
    )
    with (tmp_path / "classes.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == [of["class"] for of in found["classes"]] == list(evaluation.class_names)
    for name, column in evaluation.by_class.items():
        if name != "class":
            assert [float(line[name] or "nan") for line in lines] == pytest.approx(column, nan_ok=True)
            assert [of[name] for of in found["classes"]] == [None if np.isnan(x) else pytest.approx(x) for x in column]
    assert found["confused"][0]["rows"] >= found["confused"][1]["rows"] >= 1
    assert [of["threshold"] for of in found["thresholds"]] == list(evaluation.thresholds()["threshold"])
    code, printed, err = run_cli("evaluate", trained, "--csv", "-")
    assert (code, err, printed) == (0, "", (tmp_path / "classes.csv").read_text())
    out = run_cli("evaluate", trained, "--csv", "classes.csv")[1]
    assert "most frequent confusions" in out
    assert out.endswith("classes.csv\n")
    (tmp_path / "notes.csv").write_text("mine")
    assert_one_line(
        run_cli("evaluate", trained, "--csv", "notes.csv"), "notes.csv is there, and does not say that this"
    )
    assert (tmp_path / "notes.csv").read_text() == "mine"
    assert_one_line(
        run_cli("evaluate", trained, "--json", "--csv", "-"), "both print their figures; write the CSV into"
    )


def test_evaluate_without_the_rows_trained_on_has_no_references(run_cli, trained, strangers, tiny_cifar, tmp_path):
    rows, labels = strangers
    np.savez("other.npz", X=rows, y=labels)
    found = json.loads(run_cli("evaluate", trained, "--data", "other.npz", "--json")[1])
    assert [reference["name"] for reference in found["references"]] == ["always airplane", "nearest class mean"]
    tiny_cifar.rename(tmp_path / "elsewhere")
    code, out, err = run_cli("evaluate", trained, "--data", "other.npz", "--json")
    assert (code, err) == (0, "")
    without = json.loads(out)
    assert (without["references"], without["verdict"]) == ([], None)
    assert without["notes"][-1].startswith("without references, which need the rows that the run was trained on: ")
    assert without["accuracy"] == found["accuracy"]


def test_a_thousand_classes_fit_on_the_screen(run_cli, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(4000) % 1000
    X = (rng.normal(size=(1000, 20))[y] + 0.2 * rng.normal(size=(4000, 20))).astype(np.float32)
    np.savez("many.npz", X_train=X[:3000], y_train=y[:3000], X_test=X[3000:], y_test=y[3000:])
    settings = ["--epochs", "5", "--learning-rate", "0.5", "--quiet", "--no-figures", "--protocol", "given"]
    assert run_cli("train", "--data", "many.npz", "--out", "run", *settings)[::2] == (0, "")
    code, out, err = run_cli("evaluate", "run", "--csv", "classes.csv")
    assert (code, err) == (0, "")
    assert "the 10 of 1,000 classes with the lowest F1; --csv writes all" in out
    assert len(out.splitlines()) < 60
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 1001


def figures_of(run_cli, *words):
    """Return figures by evaluate: the part, the number of rows, the loss, and the recalls of classes with rows in %."""
    code, out, _ = run_cli("evaluate", *words, "--json")
    assert code == 0
    found = json.loads(out)
    recalls = {of["class"]: round(100 * of["recall"], 2) for of in found["classes"] if of["rows"]}
    return found["name"].rpartition(", ")[2], found["rows"], found["loss"], recalls


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
    found = figures_of(run_cli, trained, "--data", "other.npz", *words)
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
        loss, by_class = answers_by_hand(trained, rows[chosen], labels[chosen])
        assert figures_of(run_cli, trained, "--data", f"{name}.npz")[2:] == (
            pytest.approx(loss, abs=6e-5),
            pytest.approx(by_class, abs=0.006),
        )


def test_evaluate_says_what_numbers_are_taken_for(run_cli, trained, strangers):
    rows, labels = strangers
    names = Model.load(trained / "model.safetensors").class_names
    np.savez("other.npz", X=rows, y=[names.index(name) for name in labels])
    _, _, err = run_cli("evaluate", trained, "--data", "other.npz")
    said = "note: the classes of other are numbers, taken for the places of the model's classes: 0 is airplane, 1 is"
    assert err.startswith(said)
    assert figures_of(run_cli, trained, "--data", "other.npz")[2] == pytest.approx(
        answers_by_hand(trained, rows, labels)[0], abs=6e-5
    )


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
    files = sorted((tmp_path / "other").glob("*/*.png"))
    rows = np.array([np.asarray(Image.open(f).resize((12, 20), Image.Resampling.LANCZOS)).ravel() for f in files])
    loss, by_class = answers_by_hand(tmp_path / "run", rows, np.array([f.parent.name for f in files]))
    assert figures_of(run_cli, "run", "--data", "other") == (
        "all",
        60,
        pytest.approx(loss, abs=6e-5),
        pytest.approx(by_class, abs=0.006),
    )
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
    assert figures_of(run_cli, "run", "--data", "moved")[:3] == ("test", 8, pytest.approx(expected["loss"], abs=6e-5))


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
        assert figures_of(run_cli, "run", *more) == (
            "test",
            100,
            pytest.approx(loss, abs=6e-5),
            pytest.approx(by_class, abs=0.006),
        )
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
