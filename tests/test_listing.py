"""Lists of images: CSV and parquet files of paths and labels."""

import os

import numpy as np
import pytest
from helpers import assert_one_line
from PIL import Image

from onelayer import SourceConfig, SplitConfig, load, load_splits
from onelayer.data.formats import image_rows, listing
from onelayer.errors import ConfigError, DataError

NAMES = ("b/1.png", "a/2.png", "a/3.png", "4.png", "5.png", "b/6.png")
LABELS = ("dog", "cat", "dog", "cat", "dog", "cat")
SPLITS = ("Test", "train", "train", "val", "TRAIN", "train")


@pytest.fixture
def pictures(tmp_path):
    """Six images of noise, 4 x 3; their rows by name."""
    rng = np.random.default_rng(0)
    found = {}
    for name in NAMES:
        pixels = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        found[name] = pixels.transpose(2, 0, 1).ravel()
    return found


def write_list(tmp_path, form, columns):
    """Write a list beside the images; return its path."""
    path = tmp_path / "set" / f"list.{form}"
    if form == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table(columns), path)
    else:
        lines = [",".join(columns), *(",".join(map(str, cells)) for cells in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    return path


def columns_of(**more):
    return {"path": list(NAMES), "label": list(LABELS), **more}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows_come_in_the_order_of_the_list(pictures, tmp_path, form, monkeypatch):
    path = write_list(tmp_path, form, columns_of())
    dataset = load(path)
    np.testing.assert_array_equal(dataset.rows, [pictures[name] for name in NAMES])
    assert (dataset.class_names, dataset.labels.tolist()) == (("cat", "dog"), [1, 0, 1, 0, 1, 0])
    assert (dataset.labels.dtype, dataset.image_shape, dataset.parts) == (np.int64, (3, 3, 4), {})
    assert (dataset.name, dataset.source, dataset.notes) == ("list", str(path), ())
    with monkeypatch.context() as patch:
        patch.setattr(image_rows, "each_image", None)  # the second reading decodes nothing
        assert load(path).fingerprint == dataset.fingerprint
    (tmp_path / "set").rename(tmp_path / "moved")
    assert load(tmp_path / "moved" / path.name).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_parts(pictures, tmp_path, form):
    dataset = load(write_list(tmp_path, form, columns_of(split=list(SPLITS))))
    assert dataset.parts == {"train": slice(0, 4), "validation": slice(4, 5), "test": slice(5, 6)}
    in_order = [NAMES[place] for place in (1, 2, 4, 5, 3, 0)]
    np.testing.assert_array_equal(dataset.rows, [pictures[name] for name in in_order])
    assert dataset.labels.tolist() == [0, 1, 1, 0, 0, 1]
    assert load_splits(tmp_path / "set" / f"list.{form}", SplitConfig()).protocol == "given"


def test_a_list_without_train_can_be_evaluated(pictures, tmp_path):
    dataset = load(write_list(tmp_path, "csv", columns_of(split=["test"] * 6)))
    assert dataset.parts == {"test": slice(0, 6)}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_labels_that_are_numbers_are_in_their_order(pictures, tmp_path, form):
    dataset = load(write_list(tmp_path, form, columns_of(label=[10, 9, 2, 10, 9, 2])))
    assert (dataset.class_names, dataset.labels.tolist()) == (("2", "9", "10"), [2, 1, 0, 2, 1, 0])


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffLabel;split;Path\r\ndog;train;b/1.png\r\n\r\n cat ; test ;4.png\r\n",
        'path,label,note,split\n"b/1.png",dog,"a, b\nc",train\n4.png, cat,,testing\n\n,,\n',
        "path\tlabel\tsplit\n./b/1.png\tdog\ttrain\na/../4.png\tcat\ttest\n",
    ],
)
def test_the_forms_that_programs_write(pictures, tmp_path, text):
    (tmp_path / "set" / "list.CSV").write_text(text.replace("cat", "dog"), newline="")  # the only class of train
    dataset = load(tmp_path / "set" / "list.CSV")
    np.testing.assert_array_equal(dataset.rows, [pictures["b/1.png"], pictures["4.png"]])
    assert (dataset.class_names, list(dataset.parts)) == (("dog",), ["train", "test"])


def test_paths_are_relative_to_the_list_or_absolute(pictures, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "a.csv"
    path.write_text(f"path,label\n../set/4.png,a\n{tmp_path}/set/5.png,b\n")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(load(path).rows, [pictures["4.png"], pictures["5.png"]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "list.csv: lists no images; add a row for each image, with its path and its label"),
        ("path,label\n", "list.csv: lists no images"),
        (
            "image,label\n4.png,a\n",
            r"list.csv, line 1: has 0 columns path \(found image, label\); a list of images has",
        ),
        ("path,label,Label\n4.png,a,b\n", "list.csv, line 1: has 2 columns label"),
        (
            "label,pixel0,pixel1\n3,0,0\n",
            "line 1: has 0 columns path .*; rows of numbers are not read from CSV; save them",
        ),
        ("path,label\n4.png,a\n5.png\n", "list.csv, line 3: has 1 of the columns; fill them, or remove it"),
        ("path,label\n4.png,a\n,b\n", "list.csv, line 3: has no path of an image; add it, or remove the row"),
        ("path,label\n4.png,a\n5.png,\n", "list.csv, line 3: has no label; names have 1 to 99 printable characters"),
        ("path,label\n4.png,a\x1b[31m\n", r"list.csv, line 2: the label 'a\?\[31m' cannot be a name; names have 1 to"),
        ("path,label\n4.png\0,a\n", "line 2: has no path of an image"),
        (
            "path,label,split\n4.png,a,train\n5.png,a,dev2\n",
            "line 3: the split 'dev2' is not train, validation or test",
        ),
        ("path,label,split\n4.png,a,train\n5.png,a,\n", "line 3: the split '' is not train, validation or test"),
        (
            "path,label,split\n4.png,a,train\n5.png,b,test\n",
            "list.csv, line 3: no row of train has the label b; add one, or remove this row",
        ),
        (
            "path,label\nx/4.png,a\nx/5.png,b\n",
            "list.csv, line 2: .*/set/x/4.png: no such file; paths are relative to the folder of the list",
        ),
        (
            "path,label\n4.png,a\nx/5.png,b\n",
            "list.csv: 1 of 2 images cannot be read: line 3, x/5.png: no such file; mend or remove them, or pass",
        ),
        ("path,label\n4.png,a\nlist.csv,b\n", "line 3, list.csv: is not an image that can be read"),
        ("path,label\n4.png,a\nb,b\n", "line 3, b: a folder, not an image"),
        ("path,label\n4.png,a\n/dev/zero,b\n", "line 3, /dev/zero: a device or pipe, not an image"),
        ("path,label\n4.png," + "a" * 200_000 + "\n", r"list.csv, line 2: cannot be understood \(field larger"),
    ],
)
def test_lists_that_are_wrong(pictures, tmp_path, text, words):
    (tmp_path / "set" / "list.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path / "set" / "list.csv")
    assert str(caught.value).startswith(str(tmp_path / "set" / "list.csv"))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_text(pictures, tmp_path, monkeypatch):
    path = tmp_path / "set" / "list.csv"
    path.write_bytes(b"path,label\n4.png,\xff\n")
    with pytest.raises(DataError, match=r"list\.csv: is not text in UTF-8; save it as CSV UTF-8$"):
        load(path)
    monkeypatch.setattr(listing, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match=r"list\.csv: is larger than 0 MiB; keep only path, label and split$"):
        load(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"list\.csv: is not a file$"):
        load(path)


def test_unreadable_images_are_left_out_where_that_is_allowed(pictures, tmp_path):
    path = write_list(tmp_path, "csv", columns_of(split=list(SPLITS)))
    (tmp_path / "set" / "a" / "3.png").write_bytes(b"nothing")
    dataset = load(path, source_config=SourceConfig(allow_unreadable=True))
    assert dataset.parts == {"train": slice(0, 3), "validation": slice(3, 4), "test": slice(4, 5)}
    assert dataset.labels.tolist() == [0, 1, 0, 0, 1]
    assert dataset.notes[0].startswith("left out: 1 of 6 images that cannot be read: line 4, a/3.png: is not an image")
    (tmp_path / "set" / "5.png").write_bytes(b"nothing")
    (tmp_path / "set" / "b" / "1.png").write_bytes(b"nothing")
    with pytest.raises(
        DataError, match=r"list\.csv: none of the images of dog can be read; mend them, or remove their"
    ):
        load(path, source_config=SourceConfig(allow_unreadable=True))


def test_parquet_lists_that_are_wrong(pictures, tmp_path):
    pa = pytest.importorskip("pyarrow")
    for columns, words in (
        ({"path": list(NAMES)}, r"list.parquet: has no column label \(found path\); a list of images has the columns"),
        (columns_of(label=[*LABELS[:5], None]), "list.parquet, row 5: has no label; add it, or remove the row"),
        (columns_of(label=[0.5] * 6), "list.parquet: the column label is double; it must hold texts or whole numbers"),
        (columns_of(split=["train"] * 5 + ["x"]), "list.parquet, row 5: the split 'x' is not train, validation or"),
        (columns_of(path=["x" * 5000, *NAMES[1:]]), "list.parquet: a path from row 0 on has 5,000 bytes; at most"),
        (columns_of(path=["no.png", *NAMES[1:]]), "1 of 6 images cannot be read: row 0, no.png: no such file"),
        ({"path": pa.array([], pa.string()), "label": pa.array([], pa.string())}, "list.parquet: lists no images"),
    ):
        path = write_list(tmp_path, "parquet", columns)
        with pytest.raises(DataError, match=words):
            load(path)
    with pytest.raises(ConfigError, match=r"^coarse does not apply to .*list\.parquet; leave it out$"):
        load(write_list(tmp_path, "parquet", columns_of()), source_config=SourceConfig(coarse=True))


def test_a_parquet_list_that_claims_too_much_is_refused(pictures, tmp_path):
    """Each of a million rows is the same text: a bomb of few bytes."""
    n = 1_000_000
    path = write_list(tmp_path, "parquet", {"path": ["4.png"] * n, "label": ["a"] * n})
    assert path.stat().st_size < n - 100_000
    with pytest.raises(DataError, match=r"list\.parquet: claims 1,000,000 rows in [0-9,]+ bytes; refused as a bomb"):
        load(path)


def test_commands(pictures, run_cli, tmp_path):
    path = write_list(tmp_path, "csv", columns_of(split=list(SPLITS)))
    code, out, err = run_cli("train", "--data", path, "--out", "run", "--epochs", 1, "--no-figures")
    assert (code, err) == (0, "")
    assert "list, protocol given: 4 train, 1 validation, 1 test rows" in out
    assert run_cli("evaluate", "run")[0] == run_cli("resume", "run", "--epochs", 2, "--no-figures")[0] == 0
    write_list(tmp_path, "csv", columns_of(split=SPLITS[::-1]))
    assert_one_line(run_cli("evaluate", "run"), "list.csv is not the data of this run: its fingerprint begins with")
    assert "list is not the data of this run; its test part is ev" in run_cli("evaluate", "run", "--data", path)[1]
    (tmp_path / "lists").mkdir()
    path.rename(tmp_path / "lists" / "a.csv")
    assert_one_line(run_cli("train", "--data", "lists"), "lists: is a folder; pass the path of a file in it: a.csv")
    assert_one_line(run_cli("train", "--data", tmp_path / "set" / "none.csv"), "none.csv: no such file or folder")
