"""The note of what made rows that were encoded elsewhere is read with them, and kept in their runs."""

import json

import numpy as np
import pytest
from helpers import assert_one_line
from safetensors.numpy import save_file

from onelayer import load
from onelayer.errors import DataError

NOTE = {"encoder": "dinov2-small", "size": 224, "date": "2026-11-28", "normalise": True}
WORDS = "the rows were made by encoder dinov2-small, size 224, date 2026-11-28, normalise true"


@pytest.fixture
def arrays():
    y = np.arange(60) % 3
    return {"X": (np.random.default_rng(0).normal(3 * np.eye(3)[y], 1)).astype(np.float32), "y": y}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "codes"
    path.mkdir()
    return path


def written(folder, arrays, note):
    np.savez(folder / "a.npz", **arrays)
    (folder / "features.json").write_text(note if isinstance(note, str) else json.dumps(note))
    return folder / "a.npz"


def test_beside_a_file_and_in_a_folder(folder, arrays):
    path = written(folder, arrays, NOTE)
    assert (load(path).made_by, load(path).notes) == (NOTE, (WORDS,))
    path.unlink()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for source in (folder, folder / "X.npy"):
        assert (load(source).made_by, load(source).notes) == (NOTE, (WORDS,))
    (folder / "features.json").unlink()
    assert (load(folder).made_by, load(folder).notes) == ({}, ())


def test_in_a_safetensors_file(folder, arrays):
    written(folder, arrays, NOTE)
    path = folder / "b.safetensors"
    save_file(arrays, path, {"format": "np", "encoder": "clip"})
    assert (load(path).made_by, load(path).notes) == ({"encoder": "clip"}, ("the rows were made by encoder clip",))
    save_file(arrays, path, {"format": "np"})  # of the library, and no note
    assert load(path).made_by == NOTE
    save_file(arrays, path)
    assert load(path).made_by == NOTE


def test_it_is_kept_in_the_run_and_shown_in_the_report(folder, arrays, run_cli, tmp_path):
    path = written(folder, arrays, NOTE | {"by": "<b>me</b>"})
    code, out, err = run_cli("train", "--data", path, "--epochs", "1", "--no-figures", "--out", "run")
    assert (code, err) == (0, "")
    assert f"note: {WORDS}, by <b>me</b>" in " ".join(out.split())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["made_by"] == NOTE | {"by": "<b>me</b>"}
    assert run_cli("report", "run", "-o", "report.html")[0] == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    words = WORDS.removeprefix("the rows were made by ")
    assert f"<dt>made by</dt><dd>{words}, by &lt;b&gt;me&lt;/b&gt;</dd>" in page


def test_it_is_on_the_page_of_a_probe(folder, arrays, run_cli, tmp_path):
    path = written(folder, arrays, NOTE | {"by": "<b>me</b>"})
    code, _, err = run_cli("probe", path, "--recipe", "nearest-mean", "--html", "probe.html")
    assert (code, err) == (0, "")
    words = f"3 float32 numbers in a row; made by {WORDS.removeprefix('the rows were made by ')}, by &lt;b&gt;me"
    assert words in (tmp_path / "probe.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ("[1]", "is not a table in JSON of what made the rows; correct it, or rename it"),
        ("{", "is not a table in JSON"),
        ('{"a": NaN}', "is not a table in JSON"),
        ('{"a": 1e999}', "is not a table in JSON"),
        ('{"a": ' + "[" * 20 + "]" * 20 + "}", "is not a table in JSON"),  # too deep to be written
        ('{"a": ' + "[" * 30_000, "is not a table in JSON"),
        (" " * 70_000, "is longer than 65,536 bytes; shorten it"),
    ],
)
def test_a_note_that_is_refused(folder, arrays, run_cli, note, words):
    path = written(folder, arrays, note)
    assert_one_line(run_cli("data", path), f"features.json: {words}")


def test_metadata_that_are_too_long(folder, arrays, run_cli):
    path = folder / "b.safetensors"
    save_file(arrays, path, {"encoder": "x" * 60_000})
    assert len(load(path).made_by["encoder"]) == 60_000
    save_file(arrays, path, {"encoder": "x" * 60_000, "more": "x" * 6_000})
    words = "b.safetensors: its metadata are longer than 65,536 bytes; save the rows without them"
    assert_one_line(run_cli("data", path), words)


def test_a_note_of_a_stranger(folder, arrays):
    path = written(folder, arrays, {"a": "\x1b[1m\n" + "x" * 1000})
    (words,) = load(path).notes
    assert words.isprintable()
    assert len(words) < 300
    (folder / "features.json").unlink()
    (folder / "features.json").mkdir()
    with pytest.raises(DataError, match=r"features.json: is not a file"):
        load(path)
