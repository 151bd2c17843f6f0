"""Parquet files with images, in the layout of the hub or of other libraries, and damaged ones."""

import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from onelayer.config import SourceConfig, SplitConfig
from onelayer.data import load, load_splits
from onelayer.data.formats import image_rows
from onelayer.data.formats.parquet import find_parquet
from onelayer.data.formats.parquet_images import StoredImages
from onelayer.errors import ConfigError, DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(n, shape=(6, 5, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def write(path, images, columns=None, features=None, image="image", type_=ENCODED, **options):
    """Write a file with a column of images (arrays, bytes or None) and others."""
    contents = [png(pixels) if isinstance(pixels, np.ndarray) else pixels for pixels in images]
    if pa.types.is_struct(type_):
        contents = [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(contents)]
    labels = {"label": np.arange(len(contents)) % 3} if columns is None else columns
    table = pa.table({image: pa.array(contents, type_)} | {name: pa.array(values) for name, values in labels.items()})
    if features:
        marks = {name: {"names": names, "_type": "ClassLabel"} for name, names in features.items()}
        info = {"info": {"features": {image: {"_type": "Image"}} | marks}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def rows_of(images):
    return np.stack([pixels.transpose(2, 0, 1).reshape(-1) for pixels in images])


@pytest.mark.parametrize("folder", ["", "data", "plain_text"])
def test_the_hub_s_layout(tmp_path, folder):
    home = tmp_path / "my set"
    names = ["cat", "dog", "eel"]
    sizes = {"train-00000-of-00002": 40, "train-00001-of-00002": 30, "validation-00000-of-00001": 9, "test": 20}
    images, labels = {}, {}
    for seed, (name, n) in enumerate(sizes.items()):
        images[name], labels[name] = pictures(n, seed=seed), np.arange(n)[::-1] % 3
        path = home / folder / f"{name}.parquet"
        write(path, images[name], {"label": labels[name]}, {"label": names}, "img", row_group_size=16)
    assert find_parquet(home) == home
    calls = []
    dataset = load(home, progress=lambda done, total: calls.append((done, total)))
    assert {part: (place.start, place.stop) for part, place in dataset.parts.items()} == {
        "train": (0, 70),
        "validation": (70, 79),
        "test": (79, 99),
    }
    np.testing.assert_array_equal(dataset.rows, np.concatenate([rows_of(images[name]) for name in sizes]))
    np.testing.assert_array_equal(dataset.labels, np.concatenate([labels[name] for name in sizes]))
    assert (dataset.class_names, dataset.image_shape) == (tuple(names), (3, 6, 5))
    assert (dataset.name, dataset.source, dataset.official, dataset.notes) == ("my set", str(home), None, ())
    assert calls[-1] == (99, 99)
    splits = load_splits(home, SplitConfig())
    assert splits.protocol == "given"
    assert [len(split) for split in splits] == [70, 9, 20]


def test_the_second_start_decodes_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", pictures(10))
    first = load(path)
    with monkeypatch.context() as patch:
        patch.setattr(image_rows, "each_image", None)
        again = load(path)
    assert again.fingerprint == first.fingerprint
    write(path, pictures(10, seed=1))
    assert load(path).fingerprint != first.fingerprint


def test_cifar_100_has_two_kinds_of_labels(tmp_path):
    columns = {"fine_label": [3, 1, 2, 0], "coarse_label": [1, 0, 1, 0]}
    features = {"fine_label": ["a", "b", "c", "d"], "coarse_label": ["x", "y"]}
    path = write(tmp_path / "cifar100" / "train-00000-of-00001.parquet", pictures(4), columns, features, "img").parent
    fine, coarse = load(path), load(path, source_config=SourceConfig(coarse=True))
    assert (fine.class_names, fine.labels.tolist()) == (("a", "b", "c", "d"), [3, 1, 2, 0])
    assert (coarse.class_names, coarse.labels.tolist()) == (("x", "y"), [1, 0, 1, 0])
    assert fine.fingerprint != coarse.fingerprint
    path = write(tmp_path / "a.parquet", pictures(4))
    with pytest.raises(
        ConfigError, match=r"^coarse does not apply to .*a\.parquet, which has no column coarse_label; leave"
    ):
        load(path, source_config=SourceConfig(coarse=True))


def test_greys_and_sizes(tmp_path):
    greys = pictures(6, (7, 7))
    dataset = load(write(tmp_path / "greys.parquet", greys))
    assert dataset.image_shape == (1, 7, 7)
    np.testing.assert_array_equal(dataset.rows.reshape(-1, 7, 7), greys)
    mixed = [*pictures(4, (8, 8, 3)), *pictures(2, (80, 40, 3))]
    path = write(tmp_path / "mixed.parquet", mixed)
    dataset = load(path)
    assert dataset.image_shape == (3, 8, 8)
    np.testing.assert_array_equal(dataset.rows[:4], rows_of(mixed[:4]))
    assert dataset.notes[0].startswith("2 of 6 images cropped to the proportions of 8 x 8, such as mixed.parquet, row")
    assert load(path, source_config=SourceConfig(image_size="4x3")).image_shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["dog", "cat", "dog", "ant"], ("ant", "cat", "dog"), [2, 1, 2, 0]),
        (pa.array(["b", "a", "b", "a"]).dictionary_encode(), ("a", "b"), [1, 0, 1, 0]),
        (pa.array(["b", "a", "b", "a"], pa.large_string()), ("a", "b"), [1, 0, 1, 0]),
        ([70, 9, 70, -1], ("-1", "9", "70"), [2, 1, 2, 0]),
        (np.array([1, 0, 1, 1], np.uint8), ("0", "1"), [1, 0, 1, 1]),
    ],
)
def test_labels_without_a_list_of_classes(tmp_path, labels, names, numbers):
    dataset = load(write(tmp_path / "a.parquet", pictures(4), {"label": labels}, row_group_size=3))
    assert (dataset.class_names, dataset.labels.tolist()) == (names, numbers)


@pytest.mark.parametrize(
    "type_", [pa.binary(), pa.large_binary(), pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])]
)
@pytest.mark.parametrize("name", ["image", "picture", "a.b"])
def test_other_columns_of_bytes(tmp_path, type_, name):
    images = pictures(8)
    path = write(tmp_path / "a.parquet", images, {"id": list("abcdefgh"), "label": [0, 1] * 4}, None, name, type_)
    np.testing.assert_array_equal(load(path).rows, rows_of(images))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_what_other_libraries_write(tmp_path, library):
    frames = pytest.importorskip(library)
    images = pictures(6)
    frame = frames.DataFrame(
        {"image": [{"bytes": png(pixels), "path": None} for pixels in images], "label": list("ababab")}
    )
    path = tmp_path / "a.parquet"
    frame.to_parquet(path) if library == "pandas" else frame.write_parquet(path)
    dataset = load(path)
    np.testing.assert_array_equal(dataset.rows, rows_of(images))
    assert dataset.class_names == ("a", "b")


def test_images_that_cannot_be_read(tmp_path):
    images = [*pictures(200)]
    images[7], images[150] = None, b"no image"
    write(tmp_path / "set" / "train.parquet", images[:120])
    write(tmp_path / "set" / "test.parquet", images[120:])
    dataset = load(tmp_path / "set")
    assert dataset.parts == {"train": slice(0, 119), "test": slice(119, 198)}
    kept = [row for row in range(200) if row not in (7, 150)]
    np.testing.assert_array_equal(dataset.rows, rows_of([images[row] for row in kept]))
    np.testing.assert_array_equal(dataset.labels, [row % 3 if row < 120 else (row - 120) % 3 for row in kept])
    (note,) = dataset.notes
    assert note.startswith(
        "left out: 2 of 200 images that cannot be read: train.parquet, row 7: has no image; test.parquet, row 30"
    )
    write(tmp_path / "set" / "test.parquet", images[140:])
    with pytest.raises(
        DataError, match=r"set: 2 of 180 images cannot be read: .*, or pass --allow-unreadable to leave"
    ):
        load(tmp_path / "set")
    assert len(load(tmp_path / "set", source_config=SourceConfig(allow_unreadable=True)).rows) == 178


def test_a_null_struct_is_no_image(tmp_path):
    images = pa.array([{"bytes": png(pixels), "path": None} for pixels in pictures(3)] + [None], ENCODED)
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"1 of 4 images cannot be read: a.parquet, row 3: has no image"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("labels", "words"), [(9, "holds more images than labels"), (11, "holds 10 images for 11 labels")]
)
def test_images_and_labels_of_a_damaged_file_do_not_shift(tmp_path, labels, words):
    path = write(tmp_path / "a.parquet", pictures(10), row_group_size=4)
    assert len(list(StoredImages({path: 10}, "image.bytes"))) == 10
    with pytest.raises(DataError, match=rf"/a\.parquet: is damaged: {words}$"):
        list(StoredImages({path: labels}, "image.bytes"))


def test_files_that_do_not_belong_together(tmp_path):
    write(tmp_path / "train.parquet", pictures(6))
    write(tmp_path / "trainer.parquet", pictures(6))
    assert load(tmp_path).notes == ("left out, as they are not in train, validation or test: trainer.parquet",)
    for columns in ({"label": [0, 1], "labels": [1, 0]}, {"label": ["a", "b"]}, {"labels": [0, 1]}):
        write(tmp_path / "test.parquet", pictures(2), columns)
        if len(columns) == 1:
            with pytest.raises(DataError, match=r"/test.parquet: has other columns or classes than train.parquet$"):
                load(tmp_path)
        else:
            assert len(load(tmp_path).rows) == 8


def test_hidden_files_are_left_out(tmp_path):
    write(tmp_path / "data" / "a.parquet", pictures(6))
    (tmp_path / "data" / "._a.parquet").write_bytes(b"what a Mac leaves")
    (tmp_path / "._a.parquet").write_bytes(b"what a Mac leaves")
    assert len(load(tmp_path).rows) == 6


def numbered(folder, stem, count, numbers):
    for number in numbers:
        write(folder / f"{stem}-{number:05}-of-{count:05}.parquet", pictures(6, seed=number))
    return folder


def test_files_that_others_count_are_missing(tmp_path):
    numbered(tmp_path / "two" / "data", "train", 3, [0, 2])
    with pytest.raises(DataError, match=r"^/.*/two: lacks train-00001-of-00003, which train-00000-of-0000"):
        load(tmp_path / "two")
    numbered(tmp_path / "two" / "data", "train", 3, [1])
    assert len(load(tmp_path / "two").rows) == 18
    numbered(tmp_path / "two" / "data", "test", 1000, [7])
    with pytest.raises(DataError, match=r"lacks test-00000-of-01000, test-00001-of-01000.*, \.\.\., which test-"):
        load(tmp_path / "two")
    numbered(tmp_path / "hashed", "train", 1, [0])
    (tmp_path / "hashed" / "train-00000-of-00001.parquet").rename(
        tmp_path / "hashed" / "train-00000-of-00001-a09b74b3ef9c3b56.parquet"
    )
    assert len(load(tmp_path / "hashed").rows) == 6
    numbered(tmp_path / "hashed", "train", 1, [0])
    with pytest.raises(
        DataError, match=r"/hashed: holds more files train-\.\.\. than the 1 that train-00000-of-00001-?"
    ):
        load(tmp_path / "hashed")
    numbered(tmp_path / "from one", "part", 2, [1, 2])
    assert len(load(tmp_path / "from one").rows) == 12


def test_one_of_several_files_is_noted(tmp_path):
    path = numbered(tmp_path, "train", 3, [1]) / "train-00001-of-00003.parquet"
    words = "only train-00001-of-00003.parquet is read, which is one of 3 files by its name"
    assert load(path).notes == (words,)


@pytest.mark.parametrize("level", ["", "default", "other"])
def test_the_hub_s_converted_layout(tmp_path, level):
    images = {"train": pictures(8), "test": pictures(4, seed=1)}
    for part, of_part in images.items():
        write(tmp_path / level / part / "0000.parquet", of_part[: len(of_part) // 2])
        write(tmp_path / level / part / "0001.parquet", of_part[len(of_part) // 2 :])
    dataset = load(tmp_path)
    assert dataset.parts == {"train": slice(0, 8), "test": slice(8, 12)}
    np.testing.assert_array_equal(dataset.rows, np.concatenate([rows_of(of_part) for of_part in images.values()]))
    assert dataset.notes == ()
    (tmp_path / level / "test" / "0001.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"/test/0001\.parquet: is damaged"):
        load(tmp_path)


def test_a_piece_of_a_part_is_noted(tmp_path):
    write(tmp_path / "default" / "partial-train" / "0000.parquet", pictures(8))
    dataset = load(tmp_path)
    assert list(dataset.parts) == ["train"]
    assert dataset.notes == ("partial-train holds only a piece of the part, by its name",)


def test_a_folder_with_the_name_of_a_file_is_looked_into(tmp_path):
    write(tmp_path / "train.parquet" / "part-0.snappy.parquet", pictures(5))
    write(tmp_path / "train.parquet" / "part-1.snappy.parquet", pictures(5, seed=1))
    write(tmp_path / "test.parquet" / "test.parquet", pictures(4, seed=2))
    (tmp_path / "empty.parquet").mkdir()
    dataset = load(tmp_path)
    assert dataset.parts == {"train": slice(0, 10), "test": slice(10, 14)}
    assert dataset.notes == ()
    assert len(load(tmp_path / "train.parquet").rows) == 10


@pytest.mark.parametrize(
    "columns", [{"label": np.full(4, -1)}, {"label": pa.array([None] * 4, pa.int64())}, {"label": pa.nulls(4)}, {}]
)
def test_a_part_without_labels_is_left_out(tmp_path, columns):
    features = {"label": ["a", "b", "c"]}
    write(tmp_path / "train.parquet", pictures(6), {"label": [0, 1, 2, 0, 1, 2]}, features)
    write(tmp_path / "test.parquet", pictures(4, seed=1), columns, features)
    dataset = load(tmp_path)
    assert (len(dataset.rows), dict(dataset.parts)) == (6, {"train": slice(0, 6)})
    assert dataset.notes == ("left out, as its rows have no labels: test",)
    write(tmp_path / "test.parquet", pictures(4, seed=1), {"label": [-1, -1, -1, 2]}, features)
    with pytest.raises(DataError, match=r"/test\.parquet: row 0 has the label -1; labels are 0 to 2$"):
        load(tmp_path)


def test_several_sets_in_a_folder(tmp_path):
    for name in ("balanced", "letters"):
        write(tmp_path / "sets" / name / "train.parquet", pictures(6))
    (tmp_path / "sets" / ".git").mkdir()
    with pytest.raises(
        DataError, match=r"/sets: holds several sets of parquet files; pass the path of one: balanced, letters$"
    ):
        load(tmp_path / "sets")
    assert list(load(tmp_path / "sets" / "letters").parts) == ["train"]


@pytest.mark.parametrize(
    ("columns", "features", "words"),
    [
        ({"x": [0, 1, 2]}, None, "the column of the labels is not clear; rename one of image, x to label"),
        ({"label": [0, None, 2]}, None, "row 1 has no label"),
        ({"label": [0.0, 1.0, 2.0]}, None, "the column label is double; labels are integers or texts"),
        ({"label": [True, False, True]}, None, "the column label is bool; labels are integers or texts"),
        ({"label": [0, 1, 2]}, {"label": ["a", "b"]}, "row 2 has the label 2; labels are 0 to 1"),
        ({"label": [0, -1, 1]}, {"label": ["a", "b"]}, "row 1 has the label -1; labels are 0 to 1"),
        (
            {"label": [0, 1, 0]},
            {"label": ["a", "a"]},
            "the class names of label are not all different and printable",
        ),
        ({"label": [0, 1, 0]}, {"label": ["a", "\x1b[2J"]}, "the class names of label are not"),
        ({"label": ["a", "\x1b[2J", "b"]}, None, r"the label '\?\[2J' cannot be the name of a class"),
        ({"label": ["a", "b" * 101, "b"]}, None, r"the label 'b{100}\.\.\.' cannot be the name of a class"),
        ({"label": np.array([2**64 - 1, 1, 2], np.uint64)}, None, "is damaged or not a parquet file"),
    ],
)
def test_labels_that_are_none(tmp_path, columns, features, words):
    path = write(tmp_path / "a.parquet", pictures(3), columns, features)
    with pytest.raises(DataError, match=rf"/a\.parquet: {words}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_no_column_of_images(tmp_path):
    path = write(tmp_path / "a.parquet", ["x", "y"], {"label": [0, 1]}, type_=pa.string())
    with pytest.raises(DataError, match=r"the column of the images is not clear; rename one of image, label to image$"):
        load(path)
    path = write(tmp_path / "a.parquet", pictures(2), {"mask": [b"x", b"y"], "label": [0, 1]}, image="left")
    with pytest.raises(
        DataError, match=r"the column of the images is not clear; rename one of left, mask, label to image$"
    ):
        load(path)


@pytest.mark.parametrize(
    "metadata",
    [b"", b"[]", b"{", b"[" * 100_000, b'{"info": {"features": [1]}}', b'{"info": {"features": {"label": 1}}}'],
)
def test_metadata_that_make_no_sense_are_left_out(tmp_path, metadata):
    table = pq.read_table(write(tmp_path / "a.parquet", pictures(3)))
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "b.parquet")
    assert load(tmp_path / "b.parquet").class_names == ("0", "1", "2")


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", pictures(3))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"a\.parquet: parquet files need pyarrow: pip install pyarrow$"):
        load(path)


def test_no_parquet_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(DataError, match=r"/a\.parquet: is damaged or not a parquet file \("):
        load(tmp_path / "a.parquet")
    os.mkfifo(tmp_path / "b.parquet")  # to open it would wait for ever
    with pytest.raises(DataError, match=r"/b\.parquet: is not a file$"):
        load(tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", [], {"label": np.zeros(0, int)})
    with pytest.raises(DataError, match=r"/c\.parquet: holds no images$"):
        load(tmp_path / "c.parquet")


# bombs


def test_rows_without_bytes(tmp_path):
    path = write(tmp_path / "a.parquet", [None] * 100_000)
    with pytest.raises(DataError, match=r"a\.parquet: claims 100,000 images in [\d,]+ bytes; refused as a bomb$"):
        load(path)


def test_a_value_that_stands_for_many_rows(tmp_path):
    """A value of 1 MiB that 160 rows share is stored once."""
    path = write(tmp_path / "a.parquet", [bytes(2**20)] * 160, dictionary_pagesize_limit=2**21, write_statistics=False)
    assert path.stat().st_size < 2**20
    usual, pool = pa.default_memory_pool(), pa.system_memory_pool()
    before = pool.max_memory()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(DataError, match=r"none of 160 images can be read: a\.parquet, row 0: is not an image"):
            load(path)
    finally:
        pa.set_memory_pool(usual)
    assert before < 2**20  # another test's peak would hide ours
    assert 2**20 < pool.max_memory() < 2**27


def test_no_mutation_escapes_as_another_error(tmp_path):
    whole = write(tmp_path / "a.parquet", pictures(20), None, {"label": ["a", "b", "c"]}, row_group_size=7).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "b.parquet"
    refused = 0
    for trial in range(120):
        content = bytearray(whole)
        low = len(whole) * (trial % 3) // 3  # the last third holds the metadata
        for place in rng.integers(low, len(whole), rng.integers(1, 4)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content[: len(whole) - (trial % 20 == 0)])
        try:
            load(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 40
