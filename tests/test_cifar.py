"""CIFAR-10 and CIFAR-100 in every published form, whole, in part and damaged."""

import dataclasses
import hashlib
import os
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from onelayer.data.formats.cifar import MissingPartError, find_cifar, find_cifar_below, read_cifar, require_cifar
from onelayer.data.formats.cifar_sets import CIFAR10, CIFAR100
from onelayer.data.untrusted.matlab import read_matlab
from onelayer.errors import ConfigError, DataError

PARTS, CLASS_NAMES = CIFAR10.parts, CIFAR10.classes["labels"]
ARCHIVES = {
    "python": "cifar-10-python.tar.gz",
    "binary": "cifar-10-binary.tar.gz",
    "matlab": "cifar-10-matlab.tar.gz",
}


def unpickled(path):
    content = path.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert md5 == CIFAR10.python_md5[path.name], "to unpickle it would run whatever it holds"
    batch = pickle.loads(content, encoding="bytes")
    return batch[b"data"], np.array(batch[b"labels"])


@pytest.fixture(scope="session")
def real_batches(cifar):
    return {part: unpickled(cifar / part) for part in PARTS}


def assert_holds(dataset, batches):
    assert list(dataset.parts) == list(batches)
    assert dataset.class_names == CLASS_NAMES
    assert (dataset.name, dataset.image_shape) == ("CIFAR-10", (3, 32, 32))
    assert (dataset.rows.dtype, dataset.labels.dtype) == (np.uint8, np.int64)
    assert len(dataset.rows) == sum(len(labels) for _, labels in batches.values())
    for part, (rows, labels) in batches.items():
        np.testing.assert_array_equal(dataset.rows[dataset.parts[part]], rows)
        np.testing.assert_array_equal(dataset.labels[dataset.parts[part]], labels)


# the real set


def test_the_official_files(cifar, real_batches):
    dataset = read_cifar(cifar)
    assert_holds(dataset, real_batches)
    assert dataset.official
    assert dataset.notes == ()
    assert np.bincount(dataset.labels).tolist() == [6000] * 10


@pytest.mark.parametrize("form", ["binary", "matlab"])
def test_other_forms_of_the_official_contents_are_official(cifar, real_batches, write_form, tmp_path, form):
    parts = ("data_batch_3", "test_batch")
    batches = {part: real_batches[part] for part in parts}
    dataset = read_cifar(write_form(batches, form, tmp_path), parts)
    assert_holds(dataset, batches)
    assert dataset.official
    assert dataset.fingerprint == read_cifar(cifar, parts).fingerprint


def test_the_official_files_in_an_archive(cifar, real_batches, write_tar, tmp_path):
    folder = tmp_path / "cifar"
    folder.mkdir()
    for name in ("test_batch", "batches.meta", "data_batch_5"):
        (folder / name).symlink_to(cifar / name)
    parts = ("data_batch_5", "test_batch")
    archive = write_tar(folder, tmp_path / ARCHIVES["python"])
    dataset = read_cifar(archive, parts)
    assert_holds(dataset, {part: real_batches[part] for part in parts})
    assert dataset.official
    whole = read_cifar(archive)
    assert whole.fingerprint == dataset.fingerprint
    assert not whole.official, "four batches are missing"
    words = "not the whole CIFAR-10: it lacks data_batch_1, data_batch_2, data_batch_3, data_batch_4"
    assert whole.notes == (words,)


def test_memory_is_the_rows_and_few_files(cifar):
    tracemalloc.start()
    dataset = read_cifar(cifar, PARTS[:4])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < dataset.rows.nbytes + 2.5 * 31_035_999


# every form of a small set


@pytest.mark.parametrize("form", ARCHIVES)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_gives_the_same(tiny_batches, write_form, write_tar, tmp_path, form, packed):
    expected = read_cifar(write_form(tiny_batches, "python", tmp_path / "expected"))
    source = write_form(tiny_batches, form, tmp_path)
    if packed:
        source = write_tar(source, tmp_path / "any name.tgz")
    found = read_cifar(source)
    assert_holds(found, tiny_batches)
    assert found.fingerprint == expected.fingerprint
    assert not found.official
    assert [note.split(" differs")[0] for note in found.notes] == [
        f"not the official CIFAR-10: {part}" for part in PARTS
    ]


@pytest.mark.parametrize("form", ARCHIVES)
@pytest.mark.parametrize("packed", [False, True])
def test_chosen_parts(tiny_batches, write_form, write_tar, tmp_path, form, packed):
    source = write_form(tiny_batches, form, tmp_path)
    if packed:
        source = write_tar(source, tmp_path / ARCHIVES[form])
    chosen = ("test_batch", "data_batch_2")
    assert_holds(read_cifar(source, chosen), {part: tiny_batches[part] for part in ("data_batch_2", "test_batch")})


def test_parts_are_in_the_source_s_order_however_they_are_stored(tiny_batches, write_form, tmp_path, tar_of):
    import tarfile

    folder = write_form(tiny_batches, "binary", tmp_path)
    files = [(tarfile.TarInfo(f"x/{part}.bin"), (folder / f"{part}.bin").read_bytes()) for part in reversed(PARTS)]
    (tmp_path / "a.tar").write_bytes(tar_of(*files, mode="w"))
    found = read_cifar(tmp_path / "a.tar")
    assert_holds(found, tiny_batches)
    assert found.parts["test_batch"].start == 0
    assert found.fingerprint == read_cifar(folder).fingerprint


def test_batches_of_unequal_size_and_without_names(tiny_batches, write_form, tmp_path):
    batches = {
        "data_batch_1": tuple(a[:7] for a in tiny_batches["data_batch_1"]),
        "data_batch_4": tiny_batches["test_batch"],
    }
    folder = write_form(batches, "binary", tmp_path)
    (folder / "batches.meta.txt").unlink()
    assert_holds(read_cifar(folder), batches)


def test_a_batch_beyond_the_official_size(tmp_path, write_form):
    rng = np.random.default_rng(0)
    sizes = {"data_batch_1": 10_001, "test_batch": 10_007}
    batches = {part: (rng.integers(0, 256, (n, 3072), np.uint8), rng.integers(0, 10, n)) for part, n in sizes.items()}
    assert_holds(read_cifar(write_form(batches, "binary", tmp_path)), batches)


# finding


@pytest.mark.parametrize("form", ARCHIVES)
def test_finds_the_folder_or_archive_within_a_folder(tiny_batches, write_form, write_tar, tmp_path, form):
    folder = write_form(tiny_batches, form, tmp_path)
    assert find_cifar(tmp_path) == find_cifar(folder) == folder
    archive = write_tar(folder, tmp_path / ARCHIVES[form])
    assert find_cifar(tmp_path) == folder
    assert find_cifar(archive) == archive
    folder.rename(tmp_path / "elsewhere")
    assert find_cifar(tmp_path) == archive


@pytest.mark.parametrize("form", ARCHIVES)
def test_folders_with_the_names_of_files_are_looked_into(tiny_batches, write_form, write_tar, tmp_path, form):
    folder = write_form(tiny_batches, form, tmp_path)
    expected = read_cifar(folder).fingerprint
    archive = write_tar(folder, tmp_path / "inner.tar.gz")
    for file in list(folder.iterdir()):
        content = file.read_bytes()
        file.unlink()
        file.mkdir()
        (file / file.name).write_bytes(content)
    assert find_cifar(tmp_path) == folder
    assert read_cifar(folder).fingerprint == expected
    for place in (tmp_path / "packed" / ARCHIVES[form], tmp_path / "any.tar.gz"):
        place.mkdir(parents=True)
        (place / place.name).write_bytes(archive.read_bytes())
        assert find_cifar(place) == place / place.name
    assert find_cifar(tmp_path / "packed").parent.name == ARCHIVES[form]
    (emptied,) = folder.glob("test_batch*")
    (emptied / emptied.name).unlink()
    with pytest.raises(MissingPartError, match=r"lacks test_batch$"):
        read_cifar(folder, ["test_batch"])


def test_finds_nothing(tmp_path):
    assert find_cifar(tmp_path) is None
    with pytest.raises(DataError, match=r"/none: no such file or folder$"):
        require_cifar(tmp_path / "none")
    words = (
        r"no CIFAR-10 here \(looked for data_batch_1, data_batch_1.bin, data_batch_1.mat and the official archives\)$"
    )
    with pytest.raises(DataError, match=words):
        require_cifar(tmp_path, (CIFAR10,))
    with pytest.raises(
        DataError, match=r"no CIFAR-10 or CIFAR-100 here \(looked for .*, data_batch_1.mat, train, train."
    ):
        require_cifar(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_part_that_is_not_there(tiny_cifar, write_tar, tmp_path, packed):
    (tiny_cifar / "data_batch_2").unlink()
    source = write_tar(tiny_cifar, tmp_path / "a.tar.gz") if packed else tiny_cifar
    with pytest.raises(MissingPartError, match=r": lacks data_batch_2$"):
        read_cifar(source, ("data_batch_1", "data_batch_2"))
    dataset = read_cifar(source)
    assert len(dataset.parts) == 5
    assert dataset.notes[-1] == "not the whole CIFAR-10: it lacks data_batch_2"


def test_an_archive_of_other_things(tmp_path, write_tar):
    (tmp_path / "x").mkdir()
    archive = write_tar(tmp_path / "x", tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match=r"a\.tar\.gz: holds no CIFAR-10 or CIFAR-100$"):
        read_cifar(archive)
    with pytest.raises(DataError, match=r"a\.tar\.gz: lacks data_batch_1, .*, test_batch$"):
        read_cifar(archive, sets=(CIFAR10,))


def test_an_archive_of_two_forms(tiny_batches, write_form, write_tar, tmp_path):
    for form in ("python", "binary"):
        write_form(tiny_batches, form, tmp_path / "x")
    with pytest.raises(DataError, match=r"is a second \w+; keep one version of CIFAR-10"):
        read_cifar(write_tar(tmp_path / "x", tmp_path / "a.tar.gz"))


# CIFAR-100

FINE, COARSE = CIFAR100.classes["fine_labels"], CIFAR100.classes["coarse_labels"]
NAMES_100 = {"fine": FINE, "coarse": COARSE}


@pytest.fixture(scope="module")
def parts_100():
    rng = np.random.default_rng(1)
    return {
        part: (
            rng.integers(0, 256, (n, 3072), np.uint8),
            {"fine": (fine := rng.permutation(n) % 100), "coarse": fine // 5},
        )
        for part, n in (("train", 300), ("test", 100))
    }


@pytest.mark.parametrize("form", ARCHIVES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_every_form_of_the_hundred(parts_100, write_form_100, write_tar, tmp_path, form, packed, kind):
    source = write_form_100(parts_100, NAMES_100, form, tmp_path)
    if packed:
        source = write_tar(source, tmp_path / "any name.tgz")
    found = read_cifar(source, coarse=kind == "coarse")
    assert list(found.parts) == ["train", "test"]
    for part, (rows, labels) in parts_100.items():
        np.testing.assert_array_equal(found.rows[found.parts[part]], rows)
        np.testing.assert_array_equal(found.labels[found.parts[part]], labels[kind])
    assert found.class_names == NAMES_100[kind]
    assert found.name == {"fine": "CIFAR-100", "coarse": "CIFAR-100-coarse"}[kind]
    assert (found.image_shape, found.official) == ((3, 32, 32), False)
    assert [note.split(" differs")[0] for note in found.notes] == [
        "not the official CIFAR-100: train",
        "not the official CIFAR-100: test",
    ]
    assert read_cifar(source, ("data_batch_1", "test_batch"), coarse=kind == "coarse").fingerprint == found.fingerprint
    only = read_cifar(source, ("test",), coarse=kind == "coarse")
    np.testing.assert_array_equal(only.rows, parts_100["test"][0])


def test_a_binary_row_of_the_hundred(tmp_path):
    """Byte by byte as the publisher describes it: coarse label, fine label, 1,024 reds, greens and blues."""
    rows = [
        bytes([coarse, fine]) + bytes([red]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1024
        for coarse, fine, red in ((4, 51, 1), (14, 98, 9))
    ]
    (tmp_path / "test.bin").write_bytes(b"".join(rows))
    found = read_cifar(tmp_path)
    assert found.labels.tolist() == [51, 98]
    assert [found.class_names[label] for label in found.labels] == ["mushroom", "woman"]
    assert found.rows[:, [0, 1023, 1024, 2048]].tolist() == [[1, 1, 2, 3], [9, 9, 2, 3]]
    coarse = read_cifar(tmp_path, coarse=True)
    assert [coarse.class_names[label] for label in coarse.labels] == ["fruit_and_vegetables", "people"]


def test_the_hundred_that_are_official(parts_100, write_form_100, tmp_path):
    """The checksums of small sets made here stand in for those of the published sets."""
    md5 = {form: {} for form in ARCHIVES}
    folders = {form: write_form_100(parts_100, NAMES_100, form, tmp_path) for form in ARCHIVES}
    for form, suffix in (("python", ""), ("binary", ".bin")):
        for part in parts_100:
            md5[form][part] = hashlib.md5(
                (folders[form] / f"{part}{suffix}").read_bytes(), usedforsecurity=False
            ).hexdigest()
    ours = dataclasses.replace(CIFAR100, python_md5=md5["python"], rows_md5=md5["binary"])
    prints = set()
    for form in ARCHIVES:
        found = read_cifar(folders[form], sets=(CIFAR10, ours))
        assert (found.official, found.notes) == (True, ())
        prints.add(found.fingerprint)
    assert len(prints) == 1
    (folders["binary"] / "test.bin").unlink()
    found = read_cifar(folders["binary"], sets=(CIFAR10, ours))
    assert (found.official, found.notes) == (False, ("not the whole CIFAR-100: it lacks test",))
    other = NAMES_100 | {"fine": ("Apple", *FINE[1:])}
    found = read_cifar(write_form_100(parts_100, other, "python", tmp_path / "other"), sets=(CIFAR10, ours))
    assert not found.official
    assert found.notes[0].startswith("not the official CIFAR-100: the classes are Apple, aquarium_fish, baby")


def test_both_sets_in_a_folder(tiny_cifar, parts_100, write_form_100):
    folder = write_form_100(parts_100, NAMES_100, "binary", tiny_cifar.parent)
    assert find_cifar(tiny_cifar.parent) == tiny_cifar
    assert find_cifar(tiny_cifar.parent, (CIFAR100,)) == find_cifar(folder) == folder


def test_an_archive_of_both_sets(tiny_cifar, parts_100, write_form_100, write_tar, tmp_path):
    write_form_100(parts_100, NAMES_100, "binary", tiny_cifar)
    archive = write_tar(tiny_cifar, tmp_path / "a.tar.gz")
    with pytest.raises(
        DataError, match=r"a\.tar\.gz/\S+: is CIFAR-10{1,2}, but earlier files are CIFAR-10{1,2}; keep one$"
    ):
        read_cifar(archive)
    assert list(read_cifar(archive, sets=(CIFAR100,)).parts) == ["train", "test"]


def test_a_folder_of_images_is_no_cifar(tmp_path):
    for name in ("train", "test", "meta"):
        (tmp_path / name).mkdir()
    assert find_cifar(tmp_path) is None


def test_coarse_labels_that_are_not_there(tiny_cifar, parts_100, write_form_100, tmp_path):
    with pytest.raises(ConfigError, match=r"^coarse does not apply to CIFAR-10; leave it out$"):
        read_cifar(tiny_cifar, coarse=True)
    folder = write_form_100(parts_100, NAMES_100, "python", tmp_path)
    batch = {"data": parts_100["train"][0], "fine_labels": [0] * 300}
    (folder / "train").write_bytes(pickle.dumps(batch, 2))
    words = r"/train: holds no coarse_labels; a batch of CIFAR-100 holds data, coarse_labels and fine_labels$"
    with pytest.raises(DataError, match=words):
        read_cifar(folder)
    (folder / "train").write_bytes(pickle.dumps(batch | {"coarse_labels": [19] * 299 + [20]}, 2))
    with pytest.raises(DataError, match=r"/train: row 299 has the label 20; coarse_labels are 0 to 19$"):
        read_cifar(folder)


# damage


def test_a_flipped_pixel_is_noted(cifar, tmp_path):
    content = bytearray((cifar / "test_batch").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "test_batch").write_bytes(content)
    dataset = read_cifar(tmp_path, ("test_batch",))
    assert not dataset.official
    (note,) = dataset.notes
    assert note.startswith("not the official CIFAR-10: test_batch differs from the published file (MD5 ")
    assert note.endswith("); it has 10000 rows")


def test_a_flipped_label_is_refused(cifar, tmp_path):
    content = bytearray((cifar / "test_batch").read_bytes())
    place = content.index(b"labels") + 20
    place += content[place - 1 : place] != b"K"  # from an opcode K to its number
    content[place] ^= 0x80
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=r"/test_batch: row \d+ has the label 1[23]\d; labels are 0 to 9$"):
        read_cifar(tmp_path)


ROWS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"data": ROWS}, "holds no labels; a batch of CIFAR-10 holds data and labels"),
        ({"data": ROWS, "fine_labels": [1, 2]}, "holds no labels"),
        ({"labels": [1, 2]}, "holds no data"),
        ({"data": ROWS, "labels": [1]}, "holds 2 rows but 1 labels"),
        ({"data": ROWS, "labels": [1, 10]}, "row 1 has the label 10; labels are 0 to 9"),
        ({"data": ROWS, "labels": [-1, 1]}, "row 0 has the label -1; labels are 0 to 9"),
        ({"data": ROWS, "labels": np.array([1, 200], np.uint8)}, "row 1 has the label 200; labels are 0 to 9"),
        ({"data": ROWS, "labels": np.array([1, 1.5])}, r"row 1 has the label 1\.5; labels are 0 to 9"),
        ({"data": ROWS, "labels": np.array([1, np.nan])}, "row 1 has the label nan; labels are 0 to 9"),
        ({"data": ROWS, "labels": [1, "cat"]}, "row 1 has a label that is not an integer; labels are 0 to 9"),
        ({"data": ROWS, "labels": [1, True]}, "row 1 has a label that is not an integer"),
        ({"data": ROWS, "labels": [1, 10**500]}, "row 1 has the label 1000+; labels are 0 to 9"),
        ({"data": ROWS, "labels": 1}, "labels are not a list of integers"),
        ({"data": ROWS[:, :100], "labels": [1, 2]}, r"data is an array of shape \(2, 100\); expected \(n, 3072\)"),
        ({"data": ROWS.reshape(2, 3, 32, 32), "labels": [1, 2]}, r"data is an array of shape \(2, 3, 32, 32\)"),
        ({"data": [1, 2], "labels": [1, 2]}, r"data is not an array; expected \(n, 3072\)"),
        ({"data": ROWS / np.float32(255), "labels": [1, 2]}, "data is float32; expected uint8"),
        ({"data": ROWS[:0], "labels": []}, "holds no rows"),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_contents_that_are_no_batch(tmp_path, batch, words, protocol):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(DataError, match=f"/data_batch_1: {words}(; |$)"):
        read_cifar(tmp_path)


@pytest.mark.parametrize("form", ARCHIVES)
def test_cut_off(tiny_batches, write_form, tmp_path, form):
    folder = write_form(tiny_batches, form, tmp_path)
    (file,) = folder.glob("data_batch_4*")
    whole = file.read_bytes()
    for size in (0, 1, 100, 2000, len(whole) // 2 + 1, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"/{file.name}: (is|holds) ") as caught:
            read_cifar(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("batches.meta", pickle.dumps({"label_names": ["cat"] * 10}, 2)),
        ("batches.meta", pickle.dumps({"label_names": ["\x1b[2J", *CLASS_NAMES[1:]]}, 2)),
        ("batches.meta", pickle.dumps({"label_names": 10}, 2)),
        ("batches.meta", pickle.dumps({}, 2)),
        ("batches.meta.txt", b"airplane\nautomobile\n"),
        ("batches.meta.txt", bytes(range(256))),
    ],
)
def test_names_that_are_no_ten(tmp_path, tiny_batches, write_form, name, content):
    folder = write_form(tiny_batches, "binary" if name.endswith("txt") else "python", tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"/{name}: does not hold 10 different names of classes$"):
        read_cifar(folder)


def test_other_classes_are_noted(tiny_cifar):
    names = [f"thing {k}" for k in range(10)]
    (tiny_cifar / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, 2))
    dataset = read_cifar(tiny_cifar)
    assert dataset.class_names == tuple(names)
    assert dataset.notes[-1].startswith("not the official CIFAR-10: the classes are thing 0, thing 1")


# hostile MATLAB files


def matlab(tmp_path, variables, **options):
    scipy.io.savemat(tmp_path / "x.mat", variables, **options)
    return (tmp_path / "x.mat").read_bytes()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "u8", "f4", "f8"])
def test_matlab_files_as_scipy_reads_them(tmp_path, compressed, dtype):
    names = np.empty((3, 1), object)
    names[:, 0] = ["cat", "Käfer", "rather a long name"]
    numbers = np.arange(12).reshape(3, 4).astype(dtype)
    variables = {"data": numbers, "one": np.array([7], dtype), "label_names": names, "left out": {"a": 1}}
    content = matlab(tmp_path, variables, do_compression=compressed)
    expected = scipy.io.loadmat(tmp_path / "x.mat")
    found = read_matlab(content, ("data", "one", "label_names"), "x")
    for name in ("data", "one"):
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
    assert found["label_names"] == [str(name[0]) for name in expected["label_names"][:, 0]]


def test_matlab_bomb(tmp_path):
    content = matlab(tmp_path, {"data": ROWS})
    packer = zlib.compressobj(1)
    zeros = bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(257)) + packer.flush()
    bomb = content[:128] + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    with pytest.raises(DataError, match=r"^x: is cut off, or a bomb of more than \d+ MiB$"):
        read_matlab(bomb, ("data",), "x")


@pytest.mark.parametrize(
    ("head", "words"),
    [(b"", "is damaged: a variable has no contents"), (struct.pack("<II", 14, 2**24 - 64), "holds no data")],
)
def test_matlab_elements_without_number(tmp_path, head, words):
    # two million elements of no bytes
    empty = zlib.compress(head + bytes(2**24 - 64), 1)
    bomb = matlab(tmp_path, {})[:128] + (15).to_bytes(4, "little") + len(empty).to_bytes(4, "little") + empty
    tracemalloc.start()
    with pytest.raises(DataError, match=f"^x: {words}$"):
        read_matlab(bomb, ("data",), "x")
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_matlab_numbers_that_grow_when_read(tmp_path):
    """Whole numbers of class double may be stored as bytes, and take eight times as much memory when read."""
    content = matlab(tmp_path, {"data": np.zeros((1, 2**20 + 3), np.uint8)})
    stored = content.index(struct.pack("<II", 2, 2**20 + 3))
    element = bytearray(content[128:stored])
    element[element.index(9, 8)] = 6  # uint8 becomes double
    n = 2**25 + 8
    element = element.replace(struct.pack("<I", 2**20 + 3), struct.pack("<I", n))
    element[4:8] = struct.pack("<I", len(element) - 8 + 8 + n)
    bomb = content[:128] + bytes(element) + struct.pack("<II", 2, n) + bytes(n)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"^x: data is more than 256 MiB; refused$"):
        read_matlab(bomb, ("data",), "x")
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_names_of_megabytes(tiny_cifar):
    (tiny_cifar / "batches.meta").write_bytes(b"\n" * 10**6)
    with pytest.raises(DataError, match=r"/batches.meta: has 1000000 bytes, too many for the names of the classes$"):
        read_cifar(tiny_cifar)


def test_matlab_claims_are_checked(tmp_path):
    content = bytearray(matlab(tmp_path, {"data": ROWS}))
    shape = content.index((2).to_bytes(4, "little") + (3072).to_bytes(4, "little"))
    content[shape : shape + 4] = (2**30).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"^x: is damaged: data of shape \(1073741824, 3072\) has 6144 bytes$"):
        read_matlab(bytes(content), ("data",), "x")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"data": {"a": 1}}, "data is not an array of real numbers or a cell array of texts"),
        ({"data": np.array([1j])}, "data is not an array of real numbers or a cell array of texts"),
        ({"data": "text"}, "data is not an array of real numbers or a cell array of texts"),
        ({"x": np.eye(2)}, "holds no data"),
    ],
)
def test_other_matlab_files(tmp_path, variables, words):
    with pytest.raises(DataError, match=f"^x: {words}$"):
        read_matlab(matlab(tmp_path, variables), ("data",), "x")
    with pytest.raises(DataError, match=r"; save it with -v7 in MATLAB$"):
        read_matlab(b"\x89HDF" + bytes(600), ("data",), "x")


@pytest.mark.parametrize("compressed", [False, True])
def test_no_flip_of_a_matlab_file_escapes_as_another_error(tmp_path, compressed):
    names = np.empty((2, 1), object)
    names[:, 0] = ["cat", "dog"]
    content = matlab(tmp_path, {"label_names": names, "data": ROWS[:, :9]}, do_compression=compressed)
    for place in range(124, len(content)):
        for bit in (0x01, 0x10, 0x80):
            damaged = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
            for damage in (damaged, damaged[:place]):
                try:
                    read_matlab(damage, ("label_names", "data"), "x")
                except DataError as error:
                    assert str(error).startswith("x: ")


def test_a_folder_of_images_is_looked_through_once(tmp_path, monkeypatch):
    """Looking for each file that a set may have took most of the time of reading few images."""
    for name in "abcde":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    asked, listed = [], []
    stat, listdir = os.stat, os.listdir
    monkeypatch.setattr(os, "stat", lambda path, **options: asked.append(path) or stat(path, **options))
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    assert find_cifar(tmp_path) is None
    assert find_cifar_below(tmp_path) is None
    assert listed == [tmp_path, *(tmp_path / name for name in "abcde")]
    assert len(asked) < 30
