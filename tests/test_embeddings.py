"""Embeddings as other programs save them: shards, safetensors and PyTorch's files."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line
from safetensors.numpy import save_file

from onelayer.data.dataset import require_finite
from onelayer.data.sources import load
from onelayer.errors import DataError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)).astype(np.float16), np.arange(30) % 3


@pytest.fixture
def shards(tmp_path):
    """Eleven shards, whose names in the order of letters are not in the order of rows."""
    folder = tmp_path / "img_emb"
    folder.mkdir()
    for number, rows in enumerate(np.array_split(X, 11)):
        np.save(folder / f"img_emb_{number}.npy", rows)
    np.save(folder / "labels.npy", Y)
    return folder


def test_shards(shards):
    found = load(shards)
    np.testing.assert_array_equal(found.rows, X)
    np.testing.assert_array_equal(found.labels, Y)
    assert found.rows.dtype == np.float16
    assert found.parts == {}


def holed(rows):
    """Return rows of which the last has a number that is none."""
    rows = rows.copy()
    rows[-1, 1] = np.nan
    return rows


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda f: (f / "img_emb_3.npy").unlink(), "img_emb: lacks the shard img_emb_3; fetch it"),
        (lambda f: np.save(f / "img_emb_3.npy", X[:3, :2]), r"img_emb_3.npy is float16 of the shape \(3, 2\), but"),
        (lambda f: (f / "img_emb_3.npy").write_bytes(b"something"), "img_emb_3.npy: is damaged or not a .npy file"),
        (
            lambda f: (f / "labels.npy").unlink(),
            r"img_emb is there without labels \(found img_emb\); rows and labels in \.npy files lie in one folder: "
            r"X\.npy and y\.npy, or img_emb_0\.npy, img_emb_1\.npy, \.\.\. and labels\.npy or labels_0\.npy, label",
        ),
        (
            lambda f: (f / "labels.npy").rename(f / "classes.npy"),
            r"img_emb is there without labels \(found img_emb, classes\); rows and labels in \.npy files lie in one",
        ),
        (lambda f: np.save(f / "labels.npy", Y[:-1]), "img_emb in 11 shards has 30 rows, but .* 29 labels"),
        (
            lambda f: np.save(f / "img_emb_03.npy", X[:3]),
            "img_emb_03.npy, img_emb_3.npy are the same array by their na",
        ),
        (lambda f: np.save(f / "img_emb.npy", X), "img_emb.npy, img_emb_0.npy are the same array by their names; keep"),
        (lambda f: (f / "img_emb_0.npy").rename(f / "img_emb_999999999.npy"), "lacks the shard img_emb_11; fetch it"),
        (lambda f: np.save(f / "img_emb_3.npy", X[:3].astype(float)), "img_emb_3.npy is float64 of the shape"),
        (
            lambda f: np.save(f / "img_emb_3.npy", holed(X[9:12])),
            "img_emb_3.npy: row 2, column 1 is nan; every feature",
        ),
        (lambda f: np.save(f / "labels.npy", holed(X[:, :2])), r"labels have the shape \(30, 2\); expected one label"),
        (lambda f: np.save(f / "labels.npy", X[:, 0]), "labels are float16; expected integers or strings"),
    ],
)
def test_a_wrong_file_among_shards(shards, spoil, error):
    spoil(shards)
    with pytest.raises(DataError, match=error):
        load(shards)


@pytest.fixture
def labelled_shards(shards):
    """The same shards, each with a file of its labels."""
    (shards / "labels.npy").unlink()
    for number, labels in enumerate(np.array_split(np.array(["cat", "dog", "eel"])[Y], 11)):
        np.save(shards / f"labels_{number}.npy", labels)
    return shards


def test_labels_in_shards(labelled_shards):
    found = load(labelled_shards)
    np.testing.assert_array_equal(found.rows, X)
    np.testing.assert_array_equal(found.labels, Y)
    assert found.class_names == ("cat", "dog", "eel")


def test_wrong_labels_in_shards(labelled_shards):
    """A shard with a label too few is found even if the next has one too many."""
    np.save(labelled_shards / "labels_3.npy", np.array(["cat"] * 2))
    np.save(labelled_shards / "labels_4.npy", np.array(["cat"] * 4))
    with pytest.raises(
        DataError, match=r"img_emb_3\.npy has 3 rows, but .*labels_3\.npy 2 labels; save a label for each"
    ):
        load(labelled_shards)
    np.save(labelled_shards / "labels_4.npy", np.array(["cat"] * 3))
    np.save(labelled_shards / "labels_3.npy", np.arange(3))
    with pytest.raises(DataError, match=r"labels_3\.npy is int64, .*labels_0\.npy is <U3; save all with one type"):
        load(labelled_shards)
    (labelled_shards / "labels_10.npy").unlink()
    with pytest.raises(DataError, match="img_emb: holds 10 shards of labels for 11 files of rows; save the labels of"):
        load(labelled_shards)
    with pytest.raises(DataError, match=f"is one of several shards; pass their folder, {labelled_shards}$"):
        load(labelled_shards / "img_emb_3.npy")


def test_labels_in_another_folder_than_the_shards(shards):
    (shards / "labels.npy").rename(shards.parent / "labels.npy")
    with pytest.raises(
        DataError, match=r"no images \(.*; rows and labels in \.npy files lie in one folder: X\.npy and"
    ):
        load(shards.parent)


@pytest.fixture
def run_of_shards(run_cli, shards):
    code, _, err = run_cli("probe", str(shards), "--recipe", "nearest-mean", "--out", "run")
    assert code == 0, err
    return "run"


def answers_on(run_cli, run, *paths):
    """Return path, row and probabilities of each answer."""
    code, out, err = run_cli("predict", run, *map(str, paths), "--json")
    assert code == 0, err
    return [(of["image"], of["row"], of["probabilities"]) for of in json.loads(out)]


def test_predict_takes_what_probe_takes(run_cli, run_of_shards, shards, tmp_path):
    np.save("X.npy", X)
    expected = [(row, of) for _, row, of in answers_on(run_cli, run_of_shards, "X.npy")]
    assert len(expected) == 30 and len({tuple(of.values()) for _, of in expected}) > 20
    np.savez("a.npz", X=X, y=Y)
    np.savez("one.npz", whatever=X)
    save_file({"features": X, "targets": Y}, "a.safetensors")
    for path in ("a.npz", "one.npz", "a.safetensors", shards):
        assert answers_on(run_cli, run_of_shards, path) == [(str(path), *of) for of in expected]
    np.savez("parts.npz", X_train=X[:20], y_train=Y[:20], X_test=X[20:], y_test=Y[20:])
    assert answers_on(run_cli, run_of_shards, "parts.npz") == [
        *(("parts.npz: X_train", *of) for of in expected[:20]),
        *(("parts.npz: X_test", row - 20, of) for row, of in expected[20:]),
    ]
    assert run_cli("predict", run_of_shards, str(shards), "--csv", "out.csv")[0] == 0
    assert Path("out.csv").read_text().startswith("path,row,label,")
    np.savez("none.npz", a=X, b=Y)
    np.savez("wide.npz", X=np.ones((2, 9), np.float32), y=Y[:2])
    assert_one_line(
        run_cli("predict", run_of_shards, "none.npz"), r"holds no rows with a known name \(found a, b\); call the"
    )
    assert_one_line(
        run_cli("predict", run_of_shards, "wide.npz"), "wide.npz: has rows of 9 numbers; the model is for 4"
    )
    Path("broken.npz").write_bytes(b"PK")
    assert_one_line(run_cli("predict", run_of_shards, "broken.npz"), "broken.npz: is damaged or not a .npz file")


def test_predict_takes_files_of_pytorch(run_cli, run_of_shards):
    torch = pytest.importorskip("torch", minversion="2.6")
    torch.save(torch.tensor(X), "rows.pt")
    np.save("X.npy", X)
    rows, same = (answers_on(run_cli, run_of_shards, path) for path in ("rows.pt", "X.npy"))
    assert [of[1:] for of in rows] == [of[1:] for of in same]


def test_shards_that_are_numbered_from_1(shards):
    for number in range(11, 0, -1):
        (shards / f"img_emb_{number - 1}.npy").rename(shards / f"img_emb_{number}.npy")
    np.testing.assert_array_equal(load(shards).rows, X)


def test_nan_is_found_in_a_later_block_of_a_shard(shards, monkeypatch):
    monkeypatch.setattr("onelayer.data.untrusted.npy._BLOCK_BYTES", 8)  # a row
    np.save(shards / "img_emb_3.npy", holed(X[9:12]))
    with pytest.raises(DataError, match=r"img_emb_3\.npy: row 2, column 1 is nan"):
        load(shards)


def test_safetensors(tmp_path):
    parts = {"X_train": X[:20], "y_train": Y[:20], "X_test": X[20:], "y_test": Y[20:]}
    save_file(parts, tmp_path / "toy.safetensors")
    found = load(tmp_path / "toy.safetensors")
    np.testing.assert_array_equal(found.rows, X)
    assert found.parts == {"train": slice(0, 20), "test": slice(20, 30)}


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (
            {"dtype": "F8_E5M2", "shape": [4, 2], "data_offsets": [0, 8]},
            "X: is F8_E5M2; save features as F16, BF16 or F",
        ),
        ({"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 32]}, "X: is damaged: its shape"),
        ({"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 64]}, "X: is damaged: it does not lie in the file"),
        ({"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 16]}, "X: is damaged: its shape"),
        ({"dtype": "F32", "shape": [0, 2], "data_offsets": [0, 0]}, "X: is empty"),
        ({"dtype": "F32"}, "X: is damaged: its header makes no sense"),
        ({"dtype": "F32", "shape": [np.inf], "data_offsets": [0, 32]}, "X: is damaged: its header makes no sense"),
        ({"dtype": "F32", "shape": [4.5, 2], "data_offsets": [0, 32]}, "X: is damaged: its header makes no sense"),
        ({"dtype": "F32", "shape": [4, 2], "data_offsets": [0, np.inf]}, "X: is damaged: its header makes no sense"),
    ],
)
def test_damaged_safetensors(tmp_path, header, error):
    y = {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]}
    head = json.dumps({"X": header, "y": y}).encode()
    (tmp_path / "toy.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(32))
    with pytest.raises(DataError, match=error):
        load(tmp_path / "toy.safetensors")
    (tmp_path / "toy.safetensors").write_bytes(struct.pack("<Q", 2**60) + head)
    with pytest.raises(DataError, match="its header has no proper length"):
        load(tmp_path / "toy.safetensors")
    head = json.dumps([[1, header], ["y", y]]).encode()
    (tmp_path / "toy.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(32))
    with pytest.raises(DataError, match="its header is not a JSON object"):
        load(tmp_path / "toy.safetensors")


def bfloat16(rows):
    """Return float32 rows cut to the values of bfloat16, which has the same sign and exponent and 7 bits after it."""
    mantissa, exponent = np.frexp(rows.astype(float))
    return np.ldexp(np.trunc(mantissa * 2**8) / 2**8, exponent).astype(np.float32)


def save_bfloat16(path, rows):
    """Write a safetensors file as its specification says, with numbers of two bytes: the upper half of float32."""
    upper = rows.astype("<f4").reshape(-1).view("<u2")[1::2]
    size = 2 * rows.size
    head = {
        "X": {"dtype": "BF16", "shape": list(rows.shape), "data_offsets": [0, size]},
        "y": {"dtype": "I64", "shape": [len(rows)], "data_offsets": [size, size + 8 * len(rows)]},
    }
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + upper.tobytes() + np.arange(len(rows)).tobytes())


@pytest.mark.parametrize("cached", [False, True])
def test_bfloat16_is_widened_without_a_change_of_its_values(tmp_path, monkeypatch, cached):
    rows = np.exp(RNG.normal(scale=15, size=(3000, 7))) * RNG.choice([-1, 1], (3000, 7))
    rows[0] = [0, -0.0, 1, -2, 65535, 1.3e-38, 3e38]
    save_bfloat16(tmp_path / "toy.safetensors", rows)
    monkeypatch.setattr("onelayer.data.untrusted.npy._BLOCK_BYTES", 1000)
    if cached:
        monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: tmp_path)
        monkeypatch.setattr("onelayer.data.formats.array_rows.cache_directory", lambda: tmp_path)
        monkeypatch.setattr("onelayer.data.formats.array_rows.MEMORY_BYTES", 100)
    found = load(tmp_path / "toy.safetensors")
    np.testing.assert_array_equal(found.rows, bfloat16(rows.astype(np.float32)))
    assert found.rows.dtype == np.float32
    assert np.signbit(found.rows[0, 1])
    expected = [f"training reads a copy of the rows in {tmp_path / 'rows'} (0.0 GB), as they are bfloat16, which NumPy"]
    assert [note.removesuffix(" lacks") for note in found.notes] == expected * cached
    assert len(list((tmp_path / "rows").glob("*.rows"))) == 1 if cached else not (tmp_path / "rows").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_of_bfloat16_that_are_not_finite(tmp_path, bad):
    rows = np.ones((5, 3))
    rows[3, 1] = bad
    save_bfloat16(tmp_path / "toy.safetensors", rows)
    with pytest.raises(DataError, match=rf"toy\.safetensors: row 3, column 1 is {bad}; every feature must be"):
        require_finite(load(tmp_path / "toy.safetensors"))


def test_files_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch", minversion="2.6")
    rows, labels = torch.tensor(X), torch.tensor(Y)
    torch.save({"features": rows.bfloat16(), "targets": labels}, tmp_path / "both.pt")
    found = load(tmp_path / "both.pt")
    np.testing.assert_array_equal(found.rows, rows.bfloat16().float().numpy())
    np.testing.assert_array_equal(found.labels, Y)
    (tmp_path / "apart").mkdir()
    for part, at in (("train", slice(0, 20)), ("test", slice(20, 30))):
        torch.save(rows[at].clone(), tmp_path / "apart" / f"features_{part}.pt")
        torch.save(labels[at].clone(), tmp_path / "apart" / f"targets_{part}.pt")
    found = load(tmp_path / "apart")
    np.testing.assert_array_equal(found.rows, X)
    assert list(found.parts) == ["train", "test"]


class Harmful:
    def __reduce__(self):
        return print, ("a program ran",)


def test_a_file_of_pytorch_runs_no_program(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch", minversion="2.6")
    torch.save({"X": torch.tensor(X), "y": Harmful()}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Harmful()))
    for name in ("new.pt", "old.pt"):
        with pytest.raises(DataError, match="holds other objects than tensors, which can run any program"):
            load(tmp_path / name)
    assert "a program ran" not in capsys.readouterr().out
    for wrong in (torch.zeros(4, 2).to_sparse(), torch.zeros(4, 2, dtype=torch.float8_e5m2)):
        torch.save({"X": wrong, "y": torch.arange(4)}, tmp_path / "wrong.pt")
        with pytest.raises(
            DataError, match=r"wrong\.pt: X: is torch\..*; save a dense tensor of float16, bfloat16 or fl"
        ):
            load(tmp_path / "wrong.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds a list; save a tensor, or a dict of names and tensors"):
        load(tmp_path / "list.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(DataError, match=r"PyTorch 2\.5\.1\+cpu can run a program in a \.pt file; install 2\.6"):
        load(tmp_path / "new.pt")


def test_tensors_that_unfold_into_far_more_are_refused(tmp_path):
    """A tensor that repeats one number, and one that is compressed."""
    torch = pytest.importorskip("torch", minversion="2.6")
    labels = torch.tensor([0, 1])
    torch.save({"X": torch.zeros(1, 1).expand(2, 5_000_000), "y": labels}, tmp_path / "wide.pt")
    with pytest.raises(DataError, match=r"wide\.pt: X claims 40,000,000 bytes in [\d,]{5}; refused as a bomb; if you"):
        load(tmp_path / "wide.pt")
    torch.save({"X": torch.zeros(2, 5_000_000), "y": labels}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(DataError, match=r"packed\.pt: the archive claims 40,000,[\d,]+ bytes in [\d,]{6}; refused"):
        load(tmp_path / "packed.pt")
    assert load(tmp_path / "plain.pt").rows.shape == (2, 5_000_000)
    torch.save({"X": torch.tensor(X), "y": labels[:1].expand(30)}, tmp_path / "few.pt")
    assert load(tmp_path / "few.pt").labels.tolist() == [0] * 30


LISTS = {
    "float16": lambda pa, d: pa.list_(pa.float16()),
    "float32": lambda pa, d: pa.large_list(pa.float32()),
    "float64": lambda pa, d: pa.list_(pa.float64(), d),
}


def write_lists(place, rows, labels, type_=None, group=9, **more):
    """Write a parquet file with a column of lists, which may be missing, and one of labels."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    place.parent.mkdir(exist_ok=True)
    columns = {"embedding": pa.array(list(rows), type_ or pa.list_(pa.float32())), "label": labels, **more}
    pq.write_table(pa.table(columns), place, row_group_size=group)
    return place


@pytest.mark.parametrize("dtype", LISTS)
@pytest.mark.parametrize("cached", [False, True])
def test_lists_in_parquet_files(tmp_path, monkeypatch, dtype, cached):
    """In row groups of 9 rows and batches of 4, with a column of paths that is not read."""
    pa = pytest.importorskip("pyarrow")
    rows = X.astype(dtype)
    if cached:
        monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: tmp_path)
        monkeypatch.setattr("onelayer.data.formats.array_rows.MEMORY_BYTES", 100)
    monkeypatch.setattr("onelayer.data.formats.parquet_lists.batch_rows", lambda d: 4)
    names = np.array(["cat", "dog", "eel"])[Y]
    for part, at in (("train", slice(0, 20)), ("test", slice(20, 30))):
        type_, paths = LISTS[dtype](pa, 4), ["a.png"] * 30
        write_lists(tmp_path / "set" / f"{part}.parquet", rows[at], names[at], type_, path=paths[at])
    found = load(tmp_path / "set")
    np.testing.assert_array_equal(found.rows, rows)
    assert found.rows.dtype == rows.dtype
    assert found.labels.tolist() == Y.tolist()
    assert found.class_names == ("cat", "dog", "eel")
    assert found.parts == {"train": slice(0, 20), "test": slice(20, 30)}
    assert found.image_shape is None
    assert sum("as they are in lists of a parquet file" in note for note in found.notes) == cached
    if cached:
        monkeypatch.setattr("onelayer.data.formats.parquet_lists.list_blocks", None)  # the second time reads no list
        np.testing.assert_array_equal(load(tmp_path / "set").rows, rows)


def some(places, values):
    """Return 12 lists of 4 numbers, except at these places."""
    rows = [row.tolist() for row in X[:12].astype(float)]
    for place, value in zip(places, values, strict=True):
        rows[place] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (some([10], [[1.0, 2.0]]), "row 10: the list in embedding has 2 numbers; the first of toy.parquet has 4$"),
        (some([10], [[1.0] * 6]), "row 10: the list in embedding has 6 numbers; "),
        (some([10], [[1.0]]), "row 10: the list in embedding has 1 number; "),
        (some([0], [[1.0] * 5]), "row 1: the list in embedding has 4 numbers; the first of toy.parquet has 5$"),
        (some([10], [[]]), "row 10: the list in embedding is empty; remove the row$"),
        (some([0], [[]]), "row 0: the list in embedding is empty; remove the row$"),
        (some([10], [None]), "row 10: the list in embedding is missing; add it, or remove the row$"),
        (some([0], [None]), "row 0: the list in embedding is missing; "),
        (some([10], [[1.0, 2.0, 3.0, None]]), "row 10: the list in embedding lacks number 3; every feature must be"),
        (some([10], [[1.0, np.inf, 3.0, 4.0]]), "row 10, column 1 is inf; every feature must be a finite number$"),
    ],
)
def test_lists_that_are_no_rows(tmp_path, monkeypatch, rows, words):
    monkeypatch.setattr("onelayer.data.formats.parquet_lists.batch_rows", lambda d: 4)
    path = write_lists(tmp_path / "toy.parquet", rows, Y[:12])
    with pytest.raises(DataError, match=rf"toy\.parquet: {words}") as caught:
        require_finite(load(path))
    assert "\n" not in str(caught.value)


def test_columns_of_lists_that_are_not_clear(tmp_path):
    pa = pytest.importorskip("pyarrow")
    lists = X.astype(float).tolist()
    path = write_lists(tmp_path / "toy.parquet", lists, Y, other=lists, path=["a.png"] * 30)
    np.testing.assert_array_equal(load(path).rows, X)  # by its usual name, and not the images at the paths
    path = tmp_path / "two.parquet"
    pa.parquet.write_table(pa.table({"a": lists, "b": lists, "label": Y}), path)
    with pytest.raises(
        DataError, match=r"column of the embeddings is not clear; rename one of a, b, label to embedding$"
    ):
        load(path)
    pa.parquet.write_table(pa.table({"a": X.astype(int).tolist(), "label": Y}), path)
    with pytest.raises(DataError, match="the column of the images is not clear"):
        load(path)
    write_lists(tmp_path / "set" / "train.parquet", lists, Y)
    write_lists(tmp_path / "set" / "test.parquet", lists, Y, pa.list_(pa.float64()))
    with pytest.raises(DataError, match=r"set/test\.parquet: has other columns or classes than train\.parquet|train"):
        load(tmp_path / "set")
    write_lists(tmp_path / "set" / "test.parquet", [row[:3] for row in lists], Y)
    with pytest.raises(DataError, match=r"test\.parquet: row 0: .* has 3 numbers; the first of train\.parquet has 4$"):
        load(tmp_path / "set")


def test_lists_that_unfold_into_far_more_are_refused(tmp_path):
    path = write_lists(
        tmp_path / "toy.parquet", np.zeros((40_000, 256), np.float32), np.arange(40_000) % 3, None, 10**5
    )
    with pytest.raises(DataError, match=r"claims 40,960,000 bytes in [\d,]+; refused as a bomb; if you made it, write"):
        load(path)


def test_one_long_list_is_refused_before_it_is_read(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    ends = pa.array(np.array([0, 4, 8, 10_000_000]))
    lists = pa.LargeListArray.from_arrays(ends, pa.array(np.zeros(10_000_000, np.float32)))
    pa.parquet.write_table(pa.table({"embedding": lists, "label": [0, 1, 0]}), tmp_path / "toy.parquet")
    monkeypatch.setattr("onelayer.data.formats.parquet_lists.batch_rows", None)
    with pytest.raises(DataError, match=r"claims 40,000,000 bytes in [\d,]{3,5}; refused as a bomb"):
        load(tmp_path / "toy.parquet")
