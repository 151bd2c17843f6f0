"""Arrays that NumPy saved: they are read as they were saved, and errors are one line."""

import io
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import coursework

from onelayer.config import SplitConfig
from onelayer.data import cache, load, load_splits
from onelayer.data.formats import array_labels, array_rows
from onelayer.data.formats.arrays import find_arrays, read_rows
from onelayer.errors import DataError
from onelayer.training.train import train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = np.arange(40) % 3
COLOUR = RNG.integers(0, 256, (40, 5, 4, 3), np.uint8)  # height, width and channels all differ


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The cache is in the test's folder, which is where it runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(array_rows, "cache_directory", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "rows"


def save(form: str, **named: np.ndarray) -> str:
    """Save arrays as a .npz, a compressed one, or .npy files in a folder; return its path."""
    if form == "folder":
        Path("set").mkdir(exist_ok=True)
        for name, array in named.items():
            np.save(f"set/{name}.npy", array)
        return "set"
    (np.savez if form == "plain" else np.savez_compressed)("set.npz", **named)
    return "set.npz"


def is_mapped(array: np.ndarray) -> bool:
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


FORMS = pytest.mark.parametrize("form", ["plain", "compressed", "folder"])


@FORMS
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_vectors(form, dtype, order):
    rows = np.asarray(50 + 9 * X, dtype, order=order)
    dataset = load(save(form, X=rows, y=Y))
    assert dataset.rows.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(dataset.rows, rows)
    np.testing.assert_array_equal(dataset.labels, Y)
    assert dataset.rows.flags.c_contiguous
    assert dataset.rows.flags.aligned
    assert (dataset.name, dataset.image_shape, dataset.class_names) == ("set", None, ("0", "1", "2"))
    assert dict(dataset.parts) == {}
    assert bool(dataset.notes) == (np.dtype(dtype).newbyteorder("=") == np.float64)


@FORMS
@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (COLOUR, (3, 5, 4)),
        (COLOUR.transpose(0, 3, 1, 2).copy(), (3, 5, 4)),
        (COLOUR[..., 1:2].copy(), (1, 5, 4)),
        (COLOUR[..., 1].copy(), (1, 5, 4)),
        (COLOUR[:, :1, :1, 2].copy(), (1, 1, 1)),
        (np.asfortranarray(COLOUR), (3, 5, 4)),
    ],
)
def test_images_are_stored_channels_first(form, images, shape):
    dataset = load(save(form, images=images, labels=Y))
    assert dataset.image_shape == shape
    found = dataset.rows.reshape(-1, *shape)
    last = images.ndim == 4 and images.shape[3] in (1, 3)
    for row in range(40):
        expected = np.moveaxis(images[row], -1, 0) if last else images[row].reshape(shape)
        np.testing.assert_array_equal(found[row], expected)


def test_a_pair_is_mapped_and_so_is_a_npz_where_it_lies_well(elsewhere):
    os.mkdir("pair")  # noqa: PTH102
    np.save("pair/X.npy", X)
    np.save("pair/Y.npy", Y)
    for source in ("pair", "pair/X.npy"):
        assert is_mapped(load(source).rows)
        assert load(source).name == "pair"
    np.savez("pixels.npz", images=COLOUR[..., 0], labels=Y)
    assert is_mapped(load("pixels.npz").rows)
    dataset = load(save("plain", features=X, y=Y))
    assert dataset.rows.flags.aligned
    assert not elsewhere.exists(), "what is small is copied into memory"


def test_a_npz_that_someone_aligned_is_mapped():
    content = io.BytesIO()
    np.save(content, X)
    labels = io.BytesIO()
    np.save(labels, Y)
    with zipfile.ZipFile("set.npz", "w") as archive:
        info = zipfile.ZipInfo("data.npy")
        info.extra = struct.pack("<HH", 0xFFFF, 22) + bytes(22)  # 30 + 8 + 26 = 64
        archive.writestr(info, content.getvalue())
        archive.writestr("target.npy", labels.getvalue())
    dataset = load("set.npz")
    assert is_mapped(dataset.rows)
    np.testing.assert_array_equal(dataset.rows, X)


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("X-test", "Y-test", "X-validation", "Y-validation", "XTRAIN", "yTrain"),
    ],
)
@FORMS
def test_parts(form, names):
    pieces = dict(zip(("train", "validation", "test"), (slice(0, 20), slice(20, 30), slice(30, 40)), strict=True))
    order = [next(p for p in pieces if p[:3] in name.lower()) for name in names[::2]]
    named = {}
    for place, part in enumerate(order):
        named |= {names[2 * place]: COLOUR[pieces[part]], names[2 * place + 1]: Y[pieces[part], None]}
    dataset = load(save(form, **named))
    assert dict(dataset.parts) == pieces
    np.testing.assert_array_equal(dataset.rows.reshape(-1, 3, 5, 4), COLOUR.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.labels, Y)
    assert load_splits(f"set{'' if form == 'folder' else '.npz'}", SplitConfig()).protocol == "given"


def test_a_file_alone_is_one_set_whatever_else_its_folder_holds():
    save("folder", X_train=X[:30], y_train=Y[:30], X_test=X[30:], y_test=Y[30:], images=COLOUR, notes=Y)
    dataset = load("set/X_test.npy")
    np.testing.assert_array_equal(dataset.rows, X[30:])
    assert dict(dataset.parts) == {}


def test_folders_with_the_names_of_files_are_looked_into():
    save("folder", X=X, y=Y)
    for name in ("X.npy", "y.npy"):
        content = (Path("set") / name).read_bytes()
        (Path("set") / name).unlink()
        (Path("set") / name).mkdir()
        (Path("set") / name / name).write_bytes(content)
    (Path("set") / "X_test.npy").mkdir()  # is empty
    np.testing.assert_array_equal(load("set").rows, X)
    Path("set.npz").mkdir()
    np.savez("set.npz/set.npz", X=X, y=Y)
    np.testing.assert_array_equal(load("set.npz").rows, X)
    np.save("set/X.npy/y.npy", Y)
    np.testing.assert_array_equal(load("set/X.npy").labels, Y)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([7, -2, 300])[Y], ("-2", "7", "300")),
        (np.array([7, 2, 200], np.uint8)[Y], ("2", "7", "200")),
        (np.array([7, 2, 2**63 - 1], np.uint64)[Y], ("2", "7", str(2**63 - 1))),
        (np.array([7, 2, 9], ">i2")[Y], ("2", "7", "9")),
        (np.array(["dog", "Äpfel", "cat"])[Y], ("cat", "dog", "Äpfel")),
        (np.array([b"dog", "Äpfel".encode(), b"cat"])[Y], ("cat", "dog", "Äpfel")),
        (np.array([["dog"], ["ant"], ["cat"]])[Y], ("ant", "cat", "dog")),
    ],
)
@FORMS
def test_labels(form, labels, names):
    dataset = load(save(form, X=X, y=labels))
    assert dataset.class_names == names
    for label, found in zip(labels.ravel().tolist(), dataset.labels, strict=True):
        word = label.decode() if isinstance(label, bytes) else str(label)
        assert dataset.class_names[found] == word


def test_names_of_classes_come_with_the_labels():
    names = np.array(["zebra", "ant", "cow", "not seen"])
    dataset = load(save("plain", X=X, y=Y.astype(np.int8), class_names=names))
    assert dataset.class_names == tuple(names)
    np.testing.assert_array_equal(dataset.labels, Y)
    dataset = load(save("folder", X=X, y=names[Y], target_names=names))
    assert dataset.class_names == tuple(names)
    np.testing.assert_array_equal(dataset.labels, Y)


def test_labels_of_parts_may_be_strings_of_several_kinds():
    words = np.array(["dog", "Äpfel", "cat"])[Y]
    parts = {"X_train": X, "y_train": words, "X_val": X, "y_val": words.astype(">U9")}
    parts |= {"X_test": X, "y_test": np.char.encode(words, "utf-8")}
    dataset = load(save("plain", **parts))
    np.testing.assert_array_equal(np.array(dataset.class_names)[dataset.labels], np.tile(words, 3))


def test_what_is_not_read_is_named():
    dataset = load(save("plain", data=X, target=Y, feature_names=np.array(list("abcdef")), rows=np.array({}, object)))
    (note,) = dataset.notes
    assert note == "not read, as their names are not known: feature_names, rows"


def test_one_of_several_files_is_noted():
    Path(save("plain", data=X, target=Y)).rename("set-00000-of-00002.npz")
    words = "only set-00000-of-00002.npz is read, which is one of 2 files by its name"
    assert load("set-00000-of-00002.npz").notes == (words,)


# Copies in the cache


@FORMS
@pytest.mark.parametrize("parted", [False, True])
def test_large_copies_go_to_the_cache_and_are_made_once(form, parted, elsewhere, monkeypatch):
    monkeypatch.setattr(array_rows, "MEMORY_BYTES", 100)
    rows = np.asfortranarray(X.astype(">f4"))
    named = {"X_train": rows[:25], "y_train": Y[:25], "X_test": rows[25:], "y_test": Y[25:]}
    source = save(form, **(named if parted else {"X": rows, "y": Y}))
    done = []
    dataset = load(source, progress=lambda *how_far: done.append(how_far))
    assert done[-1] == (X.nbytes, X.nbytes)
    assert is_mapped(dataset.rows)
    assert dataset.rows.dtype == np.float32
    np.testing.assert_array_equal(dataset.rows, X)
    (note,) = dataset.notes
    assert note.startswith(f"training reads a copy of the rows in {elsewhere} (0.0 GB), as ")
    before = {path: path.stat().st_mtime_ns for path in elsewhere.iterdir()}
    np.testing.assert_array_equal(load(source).rows, X)
    assert {path: path.stat().st_mtime_ns for path in elsewhere.iterdir()} == before
    changed = X[::-1].astype(">f4")
    file = source if form != "folder" else f"set/{'X_train' if parted else 'X'}.npy"
    times = Path(file).stat()
    source = save(form, **({"X_train": changed[:25], "X_test": changed[25:]} if parted else {"X": changed}), **{
        name: array for name, array in named.items() if parted and name[0] == "y"
    } or {"y": Y})  # fmt: skip
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as copying with times leaves it
    np.testing.assert_array_equal(load(source).rows, changed)


def test_a_bad_member_leaves_nothing_in_the_cache(elsewhere, monkeypatch):
    monkeypatch.setattr(array_rows, "MEMORY_BYTES", 100)
    source = Path(save("compressed", X=RNG.normal(size=(40, 2000)), y=Y))
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1  # beyond what is read for the header
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.npz: is damaged"):
        load(source)
    assert list(elsewhere.iterdir()) == []


def test_training_on_a_map_gives_the_bits_of_training_in_memory():
    config = coursework(epochs=2)
    found = []
    for form in ("folder", "plain"):
        splits = load_splits(save(form, X=X, y=Y), SplitConfig())
        assert is_mapped(splits.dataset.rows) == (form == "folder")
        found.append(train(splits, config).model.layer.weights)
    np.testing.assert_array_equal(*found)
    assert np.ptp(found[0]) > 0.01


# Arrays that cannot be read

NAMES = r"rows are called x, images, .*, labels y, .*, both alone or with _train, _val and _test"


@FORMS
@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"X": X, "y": Y[:39]}, r"X(\.npy)? has 40 rows, but .*y(\.npy)? 39 labels; save a label for each"),
        ({"X": np.float32(3), "y": Y}, r"X(\.npy)? has no rows, but .*y(\.npy)? 40 labels"),
        ({"X": X}, f"X is there without labels .found X.; {NAMES}"),
        ({"X": X, "y_train": Y}, "holds X and y_train; remove the array of all rows, or those of the parts"),
        ({"X": X, "x_test": X, "y": Y, "y_test": Y}, "holds X and x_test; remove the array of all rows, or"),
        ({"X": X, "data": X, "y": Y}, "(X and data|data and X) could both be the rows; remove or rename one"),
        ({"X_test": X, "test_X": X, "y_test": Y}, " could both be the test rows; remove or rename one"),
        ({"X": X, "y": Y.astype(float)}, r"y.*: labels are float64; expected .* strings, such as y\.astype\(int\)"),
        ({"X": X, "y": Y > 0}, r"y.*: labels are bool; expected integers or strings"),
        ({"X": X, "y": np.eye(3, dtype=int)[Y]}, r"y.* shape \(40, 3\); .* row: save y\.argmax\(axis=1\)$"),
        ({"X": X, "y": np.eye(3)[Y] > 0}, r"y.* shape \(40, 3\); .* row: save y\.argmax\(axis=1\)$"),
        ({"X": X, "y": np.eye(3, dtype=int)[Y] + 1}, r"y.* shape \(40, 3\); expected one label for each row$"),
        ({"X": X, "y": np.eye(3)[Y] * (X[:, :1] > 0)}, r"y.* shape \(40, 3\); expected one label for each row$"),
        ({"X": X, "y": np.tile([0.5, 0.5, 0], (40, 1))}, r"y.* shape \(40, 3\); expected one label for each row$"),
        ({"X": X, "y": np.full((40, 2), "a")}, r"y.* shape \(40, 2\); expected one label for each row$"),
        ({"X": X, "y": Y.astype(object)}, r"y.*: holds Python objects, which are not loaded, as .*array\(labels, str"),
        ({"X": X.astype(object), "y": Y}, r"X.*: holds Python objects, which are not loaded"),
        ({"X": X, "y": Y.astype(np.uint64) + 2**63}, r"y.*: the label 9223372036854775810 is too large for int64"),
        ({"X": X[:0], "y": Y[:0]}, r"X.*: is empty: its shape is \(0, 6\)"),
        ({"X": X, "y": np.array(["a\x1b[1m", "b"])[Y % 2]}, r"y.*: the label 'a\\x1b\[1m' cannot be a name"),
        ({"X": X, "y": np.array(["a", ""])[Y % 2]}, "y.*: the label '' cannot be a name; names have 1 to 99 printable"),
        ({"X": X, "y": np.array(["a", "b" * 100])[Y % 2]}, "y.*: the label 'bbb.* cannot be a name"),
        ({"X": X, "y": np.full(40, 2**31, np.uint32).view("<U1")}, "y.*: is damaged: a label is not text"),
        ({"X": X, "y": np.array([b"a", b"\xff"])[Y % 2]}, "y.*: a label is not UTF-8"),
        ({"X": X, "y": Y, "class_names": np.array(["a", "b"])}, "y.*: there is a label 2, but .*; .*0 to 1"),
        ({"X": X, "y": np.array(list("abc"))[Y], "class_names": np.array(["a", "b"])}, "y.*: there is a label c, but"),
        ({"X": X, "y": Y, "class_names": np.array(["a", "b", "a"])}, "class_names.*: two classes have the same name"),
        ({"X": X, "y": Y, "class_names": np.ones(3)}, "class_names.*: is float64 of the shape"),
        ({"X": X > 0, "y": Y}, r"X.*: is bool of the shape \(40, 6\); save pixels as uint8, .*astype"),
        ({"X": X.astype(int), "y": Y}, "X.*: is int64 of the shape"),
        ({"X": X.astype(complex), "y": Y}, "X.*: is complex128 of the shape"),
        ({"X": X[:, 0], "y": Y}, r"X.*: is float32 of the shape \(40,\); rows are features \(n, d\), or images"),
        ({"X": COLOUR / np.float32(255), "y": Y}, r"X.*: is float32 .*; save images as uint8 from .*reshape"),
        ({"X": X.reshape(40, 2, 3), "y": Y}, r"X.*: is float32 .*; save images as uint8 from 0 to 255"),
        ({"X": COLOUR[..., [0, 1, 2, 2]], "y": Y}, r"X.*1 or 3 channels; remove the transparency with X\[\.\.\., :3\]"),
        ({"X": COLOUR[..., None], "y": Y}, r"X.*: is uint8 .*; rows are features"),
        ({"X_train": X, "y_train": Y, "X_test": X[:, :5], "y_test": Y}, "X_test.* is float32 .*; rows of all parts"),
        ({"X_train": X, "y_train": Y, "X_val": X.astype("f8"), "y_val": Y}, "X_val.* is float64 .*; rows of all"),
        ({"X_train": X, "y_train": Y, "X_test": X, "y_test": Y + 1}, "y_test.*: no row trains the label 3, which "),
        ({"X_train": X, "y_train": Y, "X_test": X, "y_test": Y.astype(str)}, "y_test.* is <U21, .* all with one type"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(form, named, words):
    with pytest.raises(DataError, match=rf"^set.*{words}") as found:
        load(save(form, **named))
    assert str(found.value).isprintable()


@pytest.mark.parametrize("form", ["plain", "compressed"])
def test_unknown_names(form):
    with pytest.raises(DataError, match=rf"^set.npz: holds no array with a known name .found arr_0, arr_1.; {NAMES}"):
        load(save(form, arr_0=X, arr_1=Y))


def test_a_folder_of_files_of_unknown_names():
    save("folder", vectors=X, answers=Y)
    with pytest.raises(DataError, match=rf"^set: holds no array with a known name .found answers, vectors.; {NAMES}"):
        load("set")
    save("folder", y=Y)
    with pytest.raises(DataError, match=r"^set: y is there without rows"):
        load("set")


def test_a_file_whose_labels_are_missing_or_which_is_labels():
    save("folder", X=X, y=Y, X_test=X, other=X)
    for name, words in (
        ("y", f"is a file of labels; pass the file of rows; {NAMES}"),
        ("other", f"has a name that is not known; {NAMES}"),
        ("X_test", "X_test is there without labels"),
    ):
        with pytest.raises(DataError, match=rf"^set/{name}\.npy: {words}"):
            load(f"set/{name}.npy")


def test_nan_is_named_with_its_row_and_column():
    for form, name in (("folder", "set"), ("compressed", r"set\.npz")):
        bad = X.copy()
        bad[17, 4] = np.nan
        with pytest.raises(
            DataError, match=rf"^{name}: row 17, column 4 is nan; every feature must be a finite number$"
        ):
            load_splits(save(form, X=bad, y=Y), SplitConfig())
    named = {"X_train": X[:15], "y_train": Y[:15], "X_test": bad[15:], "y_test": Y[15:]}
    with pytest.raises(DataError, match=r"^set\.npz, test: row 2, column 4 is nan; every feature must be a finite"):
        load_splits(save("compressed", **named), SplitConfig())


def test_more_labels_than_classes_can_be(monkeypatch):
    monkeypatch.setattr(array_labels, "MOST_CLASSES", 30)
    with pytest.raises(DataError, match="has 40 different labels; at most 30 can be classes"):
        load(save("plain", X=X, y=np.arange(40)))


def test_find_looks_at_names_only(tmp_path):
    (tmp_path / "a.npz").touch()
    (tmp_path / "set").mkdir()
    assert find_arrays(tmp_path / "a.npz") == tmp_path / "a.npz"
    assert find_arrays(tmp_path / "set") is None
    (tmp_path / "set" / "index.npy").touch()
    assert find_arrays(tmp_path / "set") is None, "it may be a folder of images"
    (tmp_path / "set" / "Train_X.NPY").touch()
    assert find_arrays(tmp_path / "set") == tmp_path / "set"


# Damaged and hostile files


@pytest.mark.parametrize("path", ["a.npz", "a.npy"])
def test_files_that_are_none(path):
    Path(path).write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.np"):
        load(path)
    with pytest.raises(DataError, match=r"is damaged or not a \.npy file|is damaged or not a \.npz file"):
        load("a.npz") if path == "a.npz" else read_rows(Path(path), 6, None)
    Path(path).unlink()
    os.mkfifo(path)  # to open it would wait for ever
    with pytest.raises(DataError, match="is not a file"):
        load("a.npz") if path == "a.npz" else read_rows(Path(path), 6, None)


def header(descr: object, shape: object, version: bytes = b"\x01\x00", fortran: object = False) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}".encode()
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text) + 1)
    return b"\x93NUMPY" + version + length + text + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        header("<f4", (2**40, 2**20)),  # 2^62 bytes of rows
        header("<f4", (2**62, 2**62)),
        header("<f4", (-1, -8)) + bytes(32),
        header("<f4", (-1, 0)),
        header("<f4", (2, 4)) + bytes(31),
        header("<f4", (2, 4)) + bytes(33),
        header("<f4", (1,) * 40) + bytes(4),
        header("<f4", (True, 4), fortran=3) + bytes(16),
        header("|V0", (2, 4)),
        header("<U0", (2, 4)),
        header("|O", (2, 4)) + bytes(64),
        header([("a", "|O")], (2, 4)) + bytes(64),
        header([("a", "<f4")], (2, 4)) + bytes(32),
        header("<M8[s]", (2, 4)) + bytes(64),
        header("<f4", "x"),
        header("nonsense", (2, 4)),
        header({}, (2, 4)),
        header("<f4", (2, 4), b"\x03\x00") + bytes(32),
        header("<f4", (2, 4), b"\x09\x00") + bytes(32),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x01\x00\x10\x27" + b"-" * 9999 + b"1",
        b"\x93NUMPY\x01\x00\x00\x10" + b"9" * 4096,
        b"\x93NUMPY",
        b"\x80\x04cos\nsystem\n(S'x'\ntR.",
    ],
)
def test_headers_that_promise_what_is_not_there(content):
    Path("X.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"^X\.npy: "):
        read_rows(Path("X.npy"), 4, None)
    np.save("y.npy", Y)
    with zipfile.ZipFile("set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", content)
        archive.write("y.npy")
    with pytest.raises(DataError, match=r"^set\.npz: X[: ]"):
        load("set.npz")


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytearray:
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, data in members:
            archive.writestr(name, data)
    return bytearray(content.getvalue())


def test_a_bomb_is_refused_by_its_sizes():
    save("compressed", X=np.zeros((30_000, 1000), np.uint8), y=np.arange(30_000) % 2)
    assert Path("set.npz").stat().st_size < 200_000
    with pytest.raises(
        DataError, match=r"^set\.npz: X: decompresses to more than 20 times .*uncompressed, with numpy\.s"
    ):
        load("set.npz")
    save("plain", X=np.zeros((30_000, 1000), np.uint8), y=np.arange(30_000) % 2)
    assert len(load("set.npz").rows) == 30_000


@pytest.mark.parametrize("claimed", [10, 2**31])
def test_a_member_of_another_size_than_it_claims(claimed):
    content = zipped([("X.npy", npy(X)), ("y.npy", npy(Y))], zipfile.ZIP_DEFLATED)
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", claimed)
    Path("set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"^set\.npz: "):
        load("set.npz")


def test_members_that_share_their_bytes():
    content = zipped([("X.npy", npy(X)), ("y.npy", npy(Y))])
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    size = len(content) - 22 - first
    inflated = content[first + 20 : first + 24]
    assert struct.unpack("<I", inflated)[0] == len(npy(X))
    for at in (20, 24):
        content[first + at : first + at + 4] = struct.pack("<I", len(npy(X)) + 64)
    Path("set.npz").write_bytes(content)
    assert second < first + size
    with pytest.raises(DataError, match=r"its members overlap|it overlaps the next member|Overlapped"):
        load("set.npz")


def test_a_member_that_begins_later_than_it_can():
    # Too large to be read, and its checksum compared, with the header.
    content = zipped([("X.npy", npy(np.tile(X, 200))), ("y.npy", npy(Y))])
    content[28:30] = b"\xff\x00"  # bytes between its name and its contents
    Path("set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"^set\.npz: X: is damaged: it overlaps the next member$"):
        load("set.npz")


def test_a_list_of_members_that_would_fill_memory():
    size = 2**26
    with Path("set.npz").open("wb") as file:
        file.truncate(size)  # which takes no space
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, size, 0, 0))
    with pytest.raises(DataError, match=r"^set\.npz: is damaged or not a \.npz file \(its list of members is too long"):
        load("set.npz")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("X.npy", npy(X)), ("X.npy", npy(X)), ("y.npy", npy(Y))], "member X.npy occurs twice"),
        ([("X.npy", npy(X)), ("y.npy", npy(Y)), ("run\x1b.sh", b"")], r"member run\?\.sh is not an array"),
        ([], r"holds no array with a known name \(found nothing\)"),
    ],
)
def test_members_that_do_not_belong(members, words):
    Path("set.npz").write_bytes(zipped(members))
    with pytest.raises(DataError, match=rf"^set\.npz: {words}"):
        load("set.npz")


def test_members_that_numpy_does_not_write():
    Path("set.npz").write_bytes(zipped([("X.npy", npy(X)), ("y.npy", npy(Y))], zipfile.ZIP_BZIP2))
    with pytest.raises(DataError, match="compressed in a way that NumPy does not use"):
        load("set.npz")
    content = zipped([("X.npy", npy(X)), ("y.npy", npy(Y))])
    content[content.index(b"PK\x01\x02") + 8] |= 1
    Path("set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"member X\.npy is encrypted"):
        load("set.npz")


@pytest.mark.parametrize("form", ["plain", "compressed", "folder"])
def test_damage_is_a_line_or_harmless(form):
    """After a change of bytes in headers and lists of members, reading fails in one line or gives sound data."""
    source = save(form, X=X, y=Y, class_names=np.array(["ant", "bee", "cow"]))
    path = Path(source) if form != "folder" else Path("set/X.npy")
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    structure = np.array([k for k in range(len(good)) if form == "compressed" or not 128 <= k < 128 + X.nbytes - 64])
    refused = 0
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            content[rng.choice(structure)] = rng.choice([0, 1, 32, 39, 40, 57, 127, 128, 255, rng.integers(256)])
        if rng.random() < 0.2:
            del content[rng.integers(len(content)) :]
        path.write_bytes(content)
        try:
            dataset = load(source)
        except DataError as error:
            refused += 1
            assert str(error).isprintable()
            assert len(str(error)) < 600
        else:
            assert dataset.rows.size * dataset.rows.itemsize <= 4 * len(good) + 2**12
    assert refused > 100


@pytest.mark.parametrize("names", [("X", "y"), ("X_train", "y_train", "X_test", "y_test")])
def test_rows_of_one_class_are_read_and_train_nothing(names):
    ones = np.ones(40, int)
    held = dict(zip(names, (X, ones, X, ones), strict=False))
    dataset = load(save("plain", **held))
    assert dataset.class_names == ("1",)
    with pytest.raises(DataError, match=r"^set: the training rows are of one class only, 1; a classifier needs two$"):
        load_splits("set.npz", SplitConfig())
