"""The files of predict: folders, rows and tables in, CSV or JSON out; and explain for several images."""

import csv
import json
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, assert_one_line, model_of
from PIL import Image

from onelayer import Model
from onelayer.analysis import prediction
from onelayer.runs.directory import Run


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save(row: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)


def test_the_csv_of_a_folder_has_the_probabilities_of_the_model(run_cli, trained, tiny_batches, tmp_path, monkeypatch):
    """The images come in several blocks; a folder holds other files, hidden ones and a broken image."""
    monkeypatch.setattr(prediction, "_BLOCK_ROWS", 7)
    rows, _ = tiny_batches["test_batch"]
    names = [f"photos/{'ab'[n % 2]}/{n:02}.png" if n else "photos/top.png" for n in range(40)]
    for row, name in zip(rows, names, strict=False):
        save(row, tmp_path / name)
    (tmp_path / "photos/a/99.png").write_bytes(b"broken, with a comma")
    (tmp_path / "photos/readme.txt").write_text("no image")
    (tmp_path / "photos/b/film.mov").write_text("no image")
    (tmp_path / "photos/b/more.txt").write_text("no image")
    (tmp_path / "photos/.hidden.png").write_text("no image")
    model = Run.open(trained).model
    expected = dict(zip(names, model.probabilities(rows[:40]), strict=True))
    threshold = float(np.median([P.max() for P in expected.values()]))
    code, out, err = run_cli("predict", trained, "photos", "--csv", "out.csv", "--threshold", threshold)
    assert code == 2
    note, error = err.splitlines()
    assert note == "note: photos: left out: 1 video, 2 other files (.txt)"
    assert error.startswith("onelayer: photos/a/99.png: is not an image that can be read")
    found = table(tmp_path / "out.csv")
    assert [entry["path"] for entry in found] == sorted([*names, "photos/a/99.png"])
    unsure = 0
    for entry in found:
        if entry["path"] == "photos/a/99.png":
            assert entry.pop("error").startswith("photos/a/99.png: is not an image")
            assert {value for name, value in entry.items() if name != "path"} == {""}
            continue
        P = expected[entry["path"]]
        numbers = [float(entry[f"probability_{name}"]) for name in model.class_names]
        assert numbers == pytest.approx(P, rel=1e-5)
        assert float(entry["probability"]) == pytest.approx(P.max(), rel=1e-5)
        assert entry["label"] == (model.class_names[P.argmax()] if P.max() >= threshold else "")
        assert entry["error"] == ""
        unsure += P.max() < threshold
    assert unsure == 20
    assert out == f"out.csv: 40 answers, 20 of them without a label, below {100 * threshold:.2f} %; 1 error\n"


def test_a_folder_without_an_image_says_what_it_holds(run_cli, trained, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.mov").write_text("no image")
    assert_one_line(run_cli("predict", trained, "films"), "films: holds no images; left out: 1 video")


@pytest.mark.parametrize("library", ["pyarrow", "pandas"])
def test_a_parquet_list_of_images_in_use(run_cli, tiny_batches, tmp_path, library):
    """Train, evaluate and predict with one; predict needs no labels, and other columns do not matter."""
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    rows, labels = tiny_batches["data_batch_1"]
    names = [f"set/images/{n:02}.png" for n in range(60)]
    for row, name in zip(rows, names, strict=True):
        save(row, tmp_path / name)
    frame = pandas.DataFrame({"path": [name.removeprefix("set/") for name in names], "label": labels.astype(str)})
    frame["split"] = pandas.Categorical(["train"] * 40 + ["validation"] * 10 + ["test"] * 10)
    frame["where"] = [{"box": 1.5}] * 60
    frame = frame.sample(frac=1, random_state=0)  # with an index that pandas writes, too

    def write(frame, name):
        if library == "pandas":
            frame.to_parquet(name)
        else:
            from pyarrow import Table, parquet

            parquet.write_table(Table.from_pandas(frame, preserve_index=False), name)

    write(frame, "set/list.parquet")
    write(frame.drop(columns=["label", "split"]), "set/new.parquet")
    write(frame[:0], "set/empty.parquet")
    assert run_cli("train", "--data", "set/list.parquet", "--out", "run", "--quiet", *TINY)[0] == 0
    code, out, err = run_cli("evaluate", "run")
    assert (code, out.splitlines()[0], err) == (0, "list, test: 10 rows", "")
    code, out, err = run_cli("evaluate", "run", "--data", "set/list.parquet", "--split", "all", "--json")
    assert (code, json.loads(out)["rows"], err) == (0, 60, "")
    P = Run.open("run").model.probabilities(rows)
    for place in ("set/list.parquet", "set/new.parquet"):
        code, out, err = run_cli("predict", "run", place, "--json")
        assert (code, err) == (0, "")
        found = {answer["image"]: max(answer["probabilities"].values()) for answer in json.loads(out)}
        assert list(found) == [f"set/{name}" for name in frame["path"]]
        assert [found[name] for name in names] == pytest.approx(P.max(axis=1))
    code, out, err = run_cli("predict", "run", "set/empty.parquet", "--json")
    assert (code, err) == (2, "onelayer: set/empty.parquet: holds no images\n")
    assert json.loads(out) == [{"image": "set/empty.parquet", "error": "set/empty.parquet: holds no images"}]


def test_rows_of_several_files_are_numbered(run_cli, trained, tiny_batches, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "_BLOCK_ROWS", 7)
    rows, _ = tiny_batches["test_batch"]
    np.save("X.npy", rows)
    np.save("bad.npy", rows[:, :5])
    save(rows[3], tmp_path / "3.png")
    code, out, err = run_cli("predict", trained, "X.npy", "bad.npy", "3.png", "--csv", "out.csv")
    assert (code, out) == (2, "out.csv: 61 answers; 1 error\n")
    assert err == "onelayer: bad.npy: has rows of 5 numbers; the model is for 3,072\n"
    found = table(tmp_path / "out.csv")
    assert [entry["row"] for entry in found] == [*map(str, range(60)), "", ""]
    assert found[60]["error"] == "bad.npy: has rows of 5 numbers; the model is for 3,072"
    model = Run.open(trained).model
    P = model.probabilities(rows)
    assert [entry["label"] for entry in found[:60]] == [model.class_names[k] for k in P.argmax(axis=1)]
    assert len({entry["label"] for entry in found[:60]}) > 2
    assert {**found[61], "path": "", "row": ""} == {**found[3], "path": "", "row": ""}
    answers = json.loads(run_cli("predict", trained, "X.npy", "bad.npy", "--json", "--threshold", "1")[1])
    assert [answer.get("row") for answer in answers] == [*range(60), None]
    assert {answer.get("class") for answer in answers} == {None}


def test_parquet_files_of_images_and_of_numbers(run_cli, trained, tiny_batches, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows, labels = tiny_batches["test_batch"]
    for number in range(3):
        save(rows[number], tmp_path / f"{number}.png")
    contents = [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]
    parquet.write_table(arrow.table({"image": [contents[0], b"", *contents[1:]], "id": list("abcd")}), "images.parquet")
    code, _, err = run_cli("predict", trained, "images.parquet", "--csv", "out.csv")
    assert (code, err) == (2, "onelayer: images.parquet, row 1: has no image\n")
    found = table(tmp_path / "out.csv")
    assert [(entry["path"], entry["row"]) for entry in found] == [("images.parquet", str(row)) for row in range(4)]
    model = Run.open(trained).model
    P = model.probabilities(rows[:3])
    good = [entry for entry in found if not entry["error"]]
    assert [float(entry["probability_cat"]) for entry in good] == pytest.approx(P[:, 3], rel=1e-5)

    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.savez("vectors.npz", X=X, y=labels)
    assert run_cli("train", "--data", "vectors.npz", "--out", "vectors", "--quiet", *TINY)[0] == 0
    np.save("X.npy", X)
    columns = {f"x{j}": X[:, j] for j in range(4)} | {"label": labels, "name": ["n"] * 60}
    parquet.write_table(arrow.table(columns), "columns.parquet")
    parquet.write_table(arrow.table({"embedding": X.tolist(), "id": range(60)}), "lists.parquet")
    answers = [json.loads(run_cli("predict", "vectors", f, "--json")[1]) for f in ("X.npy", "columns.parquet")]
    assert [a["probabilities"] for a in answers[0]] == [a["probabilities"] for a in answers[1]]
    answers.append(json.loads(run_cli("predict", "vectors", "lists.parquet", "--json")[1]))
    for a, b in zip(answers[0], answers[2], strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], rel=1e-6)
    parquet.write_table(arrow.table({"embedding": X[:, :3].tolist()}), "short.parquet")
    parquet.write_table(arrow.table({"a": X[:, 0]}), "one.parquet")
    X[7, 2] = np.nan
    parquet.write_table(arrow.table({"embedding": X.tolist()}), "holes.parquet")
    for name, words in {
        "short": "row 0: the list in embedding has 3 numbers; the model is for 4",
        "one": "has 1 columns of numbers; the model is for 4, or for one column of lists of 4",
        "holes": "row 7, column 2 is nan; every feature must be a finite number",
    }.items():
        assert_one_line(run_cli("predict", "vectors", f"{name}.parquet"), f"{name}.parquet: {words}")
    assert_one_line(run_cli("predict", "vectors", "0.png"), "0.png: the model was not trained on images; pass a .npy")


def test_no_cell_is_a_formula(run_cli, tiny_batches, tmp_path):
    """A path stays a path, a number stays a number, and other words get an apostrophe."""
    rows, labels = tiny_batches["test_batch"]
    names = np.array(["=1+1", "+a", "-1", "@b", 'a "quoted", word'])
    np.savez("odd.npz", X=rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), y=names[labels % 5])
    assert run_cli("train", "--data", "odd.npz", "--out", "odd", "--epochs", "30", "--quiet", "--no-figures")[0] == 0
    for name in ("=1+1.png", "a,b.png", "+c\nd.png"):
        save(rows[0], tmp_path / name)
    np.save("X.npy", rows)
    paths = ["=1+1.png", "a,b.png", "+c\nd.png", "=none.png", "X.npy"]
    assert run_cli("predict", "odd", *paths, "--csv", "out.csv")[0] == 2
    found = table(tmp_path / "out.csv")
    assert [entry["path"] for entry in found[:5]] == ["./=1+1.png", "a,b.png", "./+c\nd.png", "./=none.png", "X.npy"]
    assert found[3]["error"] == "'=none.png: no such file"
    assert {entry["label"] for entry in found if entry["label"]} == {"'=1+1", "'+a", "-1", "'@b", 'a "quoted", word'}
    cells = [cell for entry in found for name, cell in entry.items() if name != "label" or cell != "-1"]
    assert not [cell for cell in [*cells, *found[0]] if cell.startswith(("=", "+", "-", "@"))]


def test_bytes_of_a_name_that_are_not_utf8_are_spelt_out(run_cli, trained, tiny_batches, tmp_path):
    save(tiny_batches["test_batch"][0][0], tmp_path / "a.png")
    try:
        (tmp_path / "a.png").rename(tmp_path / "\udcff.png")
    except OSError:
        pytest.skip("the file system takes no such name")
    assert run_cli("predict", trained, ".", "--csv", "out.csv")[0] == 0
    assert table(tmp_path / "out.csv")[0]["path"] == "\\udcff.png"


def test_only_a_csv_of_predict_is_replaced(run_cli, trained, tiny_batches, tmp_path):
    save(tiny_batches["test_batch"][0][0], tmp_path / "a.png")
    (tmp_path / "mine.csv").write_text("path,label\na.png,cat\n")
    assert_one_line(
        run_cli("predict", trained, "a.png", "--csv", "mine.csv"), "mine.csv is there, and does not say that"
    )
    assert (tmp_path / "mine.csv").read_text() == "path,label\na.png,cat\n"
    for _ in range(2):
        assert run_cli("predict", trained, "a.png", "--csv", "own.csv")[0] == 0
    assert_one_line(
        run_cli("predict", trained, "a.png", "--csv", "no/own.csv"), "cannot write no/own.csv: No such file"
    )
    assert_one_line(run_cli("predict", trained, "a.png", "--csv", "x.csv", "--json"), "--csv and --json exclude each")
    for number, example in {"80": "80 %, pass 0.8", "-0.1": "50 %, pass 0.5", "nan": "50 %, pass 0.5"}.items():
        words = run_cli("predict", trained, "a.png", "--threshold", number)
        assert_one_line(words, f"threshold {number} is not a probability from 0 to 1; for {example}$")


def test_an_error_is_printed_once_and_on_standard_error(run_cli, trained, tiny_batches, tmp_path):
    assert_one_line(run_cli("predict", trained, "none.png"), "none.png: .*[Nn]o such file")
    save(tiny_batches["test_batch"][0][0], tmp_path / "a.png")
    code, out, err = run_cli("predict", trained, "b.png", "a.png", "c.png")
    assert (code, out.splitlines()[0].split()[0], "left out" in out) == (2, "a.png", False)
    first, last = err.splitlines()
    assert first.startswith("left out: b.png: ") and last.startswith("onelayer: c.png: ")


def test_the_run_comes_first(run_cli, trained, tiny_batches, tmp_path):
    save(tiny_batches["test_batch"][0][0], tmp_path / "photos" / "a.png")
    for command, given in (("predict", "photos"), ("explain", "photos/a.png")):
        expected = f"{given} is not a run, but {trained} is; the run comes first: onelayer {command} {trained} {given}$"
        assert_one_line(run_cli(command, given, trained), expected)


def test_an_interrupted_csv_leaves_the_old_one(run_cli, trained, tiny_batches, tmp_path, monkeypatch):
    save(tiny_batches["test_batch"][0][0], tmp_path / "a.png")
    assert run_cli("predict", trained, "a.png", "--csv", "own.csv")[0] == 0
    before = sorted(tmp_path.iterdir()), (tmp_path / "own.csv").read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "unchecked_logits", stop)
    assert run_cli("predict", trained, "a.png", "--csv", "own.csv")[0] == 130
    assert (sorted(tmp_path.iterdir()), (tmp_path / "own.csv").read_bytes()) == before


def test_many_images_have_a_line_each(run_cli, trained, tiny_batches, tmp_path):
    for number, row in enumerate(tiny_batches["test_batch"][0][:12]):
        save(row, tmp_path / f"photos/{number:02}.png")
    rows = tiny_batches["test_batch"][0][:12]
    threshold = str(np.median(Run.open(trained).model.probabilities(rows).max(axis=1)))
    code, out, err = run_cli("predict", trained, "photos", "--top", "2", "--threshold", threshold)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["label", "class", "probability", "class", "probability"]
    assert [line.split()[0] for line in lines[1:]] == [f"photos/{number:02}.png" for number in range(12)]
    answers = json.loads(run_cli("predict", trained, "photos", "--json", "--threshold", threshold)[1])
    labels = [answer["class"] for answer in answers]
    assert None in labels
    for line, label, answer in zip(lines[1:], labels, answers, strict=True):
        words = line.split()
        assert words[1 : 2 + bool(label)] == ([label] * bool(label) + [next(iter(answer["probabilities"]))])
    out = run_cli("predict", trained, "photos/00.png", "--threshold", "1")[1]
    assert out.startswith("note: no label, as ")


def test_explain_writes_a_picture_for_each_image(run_cli, trained, tiny_batches, tmp_path):
    for number in range(2):
        save(tiny_batches["test_batch"][0][number], tmp_path / f"{number}.png")
    code, out, err = run_cli("explain", trained, "0.png", "none.png", "1.png", "-o", "why.png")
    assert (code, err) == (2, "onelayer: none.png: no such file\n")
    assert [line for line in out.splitlines() if line.endswith(".png")] == ["0.png", "why-1.png", "1.png", "why-3.png"]
    assert sorted(path.name for path in tmp_path.glob("why*")) == ["why-1.png", "why-3.png"]
    alone = run_cli("explain", trained, "1.png", "-o", "alone.png")
    assert alone[0] == 0
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "why-3.png").read_bytes()
    (tmp_path / "why-2.png").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert_one_line(run_cli("explain", trained, "1.png", "0.png", "-o", "why.png"), "why-2.png is there, and does not")
    assert {path: path.read_bytes() for path in tmp_path.glob("*.png")} == before


def test_memory_does_not_grow_with_the_rows(tmp_path):
    model = model_of()
    rows = np.random.default_rng(0).integers(0, 256, (50_000, 60), dtype=np.uint8)
    np.save(tmp_path / "X.npy", rows)

    def peak(count: int) -> int:
        tracemalloc.start()
        answers = prediction.predict_files(model, [tmp_path / "X.npy"])
        lines = prediction.csv_lines(islice(answers, count), model.class_names, numbered=True)
        assert sum(1 for _ in lines) == count
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(50_000) < 1.2 * peak(10_000)
