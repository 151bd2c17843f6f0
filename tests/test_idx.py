"""IDX files: published sets, other sets in the same format, and damaged ones."""

import dataclasses
import gzip
import hashlib
import os
import struct
import tracemalloc

import numpy as np
import pytest

from onelayer.data.formats import idx
from onelayer.data.formats.idx import find_idx, find_idx_set, read_idx
from onelayer.data.formats.idx_sets import FASHION_MNIST, KMNIST, MNIST, PublishedFile
from onelayer.errors import DataError


def idx_file(array, kind=8):
    """Return the bytes of an IDX file, as the description of the format says."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


def images_and_labels(n=60, shape=(5, 4), classes=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), np.uint8), rng.permutation(n).astype(np.uint8) % classes


def write_set(folder, parts, prefix="", packed=False, dot="-"):
    """Write ``{"train": (images, labels), "t10k": ...}``; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in parts.items():
        for kind, array in (("images", images), ("labels", labels)):
            name = f"{prefix}{part}-{kind}{dot}idx{array.ndim}-ubyte"
            content = idx_file(array)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1, mtime=0))
            else:
                (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def parts():
    return {"train": images_and_labels(), "t10k": images_and_labels(30, seed=1)}


def assert_holds(dataset, parts, names={"train": "train", "t10k": "test", "test": "test"}):  # noqa: B006
    assert list(dataset.parts) == [names[part] for part in parts]
    for part, (images, labels) in parts.items():
        place = dataset.parts[names[part]]
        np.testing.assert_array_equal(dataset.rows[place], images.reshape(len(images), -1))
        np.testing.assert_array_equal(dataset.labels[place], labels)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("inner", ["", "raw"])
def test_a_folder(parts, tmp_path, packed, dot, inner):
    folder = write_set(tmp_path / "mine" / inner, parts, packed=packed, dot=dot)
    assert find_idx(tmp_path / "mine") == folder
    calls = []
    dataset = read_idx(folder, lambda done, total: calls.append((done, total)))
    assert_holds(dataset, parts)
    assert (dataset.image_shape, dataset.name, dataset.official, dataset.notes) == ((1, 5, 4), "mine", None, ())
    assert dataset.class_names == tuple("0123456789")
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert calls == sorted(calls)
    assert calls[-1] == (size, size)


def test_a_file_brings_its_labels_and_the_other_part(parts, tmp_path):
    write_set(tmp_path, parts, prefix="a-")
    write_set(tmp_path, {"train": images_and_labels(7, seed=3)}, prefix="b-", packed=True)
    for part in ("train", "t10k"):
        file = tmp_path / f"a-{part}-images-idx3-ubyte"
        assert find_idx(file) == file
        assert_holds(read_idx(file), parts)
    found = read_idx(tmp_path / "b-train-images-idx3-ubyte.gz")
    assert list(found.parts) == ["train"]
    assert (len(found.rows), found.name) == (7, "b")
    assert find_idx(tmp_path / "a-train-labels-idx1-ubyte") is None
    words = (
        rf"^{tmp_path}: holds several sets; pass the path of one of these files of images: a-t\S+, b-train-images-idx3"
    )
    with pytest.raises(DataError, match=words):
        read_idx(tmp_path)


def test_validation_and_one_part(parts, tmp_path):
    more = {"train": parts["train"], "val": images_and_labels(20, seed=2), "test": parts["t10k"]}
    found = read_idx(write_set(tmp_path / "a", more))
    assert {part: place.stop - place.start for part, place in found.parts.items()} == {
        "train": 60,
        "validation": 20,
        "test": 30,
    }
    assert list(read_idx(write_set(tmp_path / "b", {"test": parts["t10k"]})).parts) == ["test"]
    other_names = {"training": parts["train"], "dev": more["val"], "testing": parts["t10k"]}
    assert read_idx(write_set(tmp_path / "c", other_names)).fingerprint == found.fingerprint


def test_packed_and_unpacked_side_by_side(parts, tmp_path):
    write_set(tmp_path, parts, packed=True)
    other = {part: images_and_labels(9, seed=5) for part in parts}
    write_set(tmp_path, other)
    assert_holds(read_idx(tmp_path), parts)
    found = read_idx(tmp_path / "train-images-idx3-ubyte.gz")
    assert_holds(found, parts)


@pytest.mark.parametrize("beside", ["none", "labels", "all"])
def test_folders_with_the_names_of_files_are_looked_into(parts, tmp_path, beside):
    """People often copy MNIST so; a file beside a folder of its name comes first."""
    kinds = {"none": [], "labels": ["labels"], "all": ["images", "labels"]}[beside]
    write_set(tmp_path / "flat", parts, dot=".")
    for file in (tmp_path / "flat").iterdir():
        folder = tmp_path / "mnist" / file.name.replace(".", "-")
        folder.mkdir(parents=True)
        if any(kind in file.name for kind in kinds):
            (folder / file.name.replace(".", "-")).write_bytes(b"not looked at")
            (tmp_path / "mnist" / file.name).write_bytes(file.read_bytes())
        else:
            (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mnist" / "train-images.idx3-ubyte.gz").mkdir()  # is empty
    dataset = read_idx(find_idx(tmp_path / "mnist"))
    assert_holds(dataset, parts)
    assert dataset.name == "MNIST"
    inner = tmp_path / "mnist" / "train-images-idx3-ubyte"
    assert read_idx(find_idx(inner)).fingerprint == dataset.fingerprint
    if beside != "all":
        assert read_idx(find_idx(inner / "train-images.idx3-ubyte")).fingerprint == dataset.fingerprint
    assert find_idx_set(tmp_path, MNIST) == tmp_path / "mnist"


def test_hidden_files_are_left_out(parts, tmp_path):
    write_set(tmp_path, parts)
    for path in list(tmp_path.iterdir()):
        (tmp_path / f"._{path.name}").write_bytes(b"what a Mac leaves")
    assert_holds(read_idx(find_idx(tmp_path)), parts)


def test_colours(tmp_path):
    images, labels = images_and_labels(6, (5, 4, 3))
    write_set(tmp_path, {"train": (images, labels)})
    found = read_idx(tmp_path)
    assert found.image_shape == (3, 5, 4)
    np.testing.assert_array_equal(found.rows.reshape(-1, 3, 5, 4), images.transpose(0, 3, 1, 2))


def test_labels_that_do_not_start_at_zero(tmp_path):
    images, _ = images_and_labels(40)
    labels = np.array([3, 7, 200, 26] * 10, np.uint8)
    write_set(tmp_path, {"train": (images[:20], labels[:20]), "t10k": (images[20:], labels[20:])})
    found = read_idx(tmp_path)
    assert found.class_names == ("3", "7", "26", "200")
    np.testing.assert_array_equal(found.labels, [0, 1, 3, 2] * 10)


# published sets


@pytest.fixture
def published(parts, tmp_path, monkeypatch):
    """A set that is published with the checksums of a set made here; return its IdxSet and folders of its forms."""
    plain = write_set(tmp_path / "plain", parts)
    packed = write_set(tmp_path / "packed", parts, packed=True)

    def md5(file):
        return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()

    files = {file.name: PublishedFile(md5(packed / f"{file.name}.gz"), 1, md5(file)) for file in plain.iterdir()}
    ours = dataclasses.replace(FASHION_MNIST, files=files)
    monkeypatch.setattr(idx, "SETS", (MNIST, ours, KMNIST))
    return ours, plain, packed


def test_official_files_are_known_whatever_their_folder(published, parts):
    ours, plain, packed = published
    for folder in (plain, packed):
        found = read_idx(folder)
        assert_holds(found, parts)
        assert (found.official, found.notes, found.name) == (True, (), "Fashion-MNIST")
        assert found.class_names == FASHION_MNIST.class_names
        assert found.class_names[9] == "ankle boot"
        assert read_idx(folder, expected=ours).official
        with pytest.raises(DataError, match=r": holds Fashion-MNIST, not MNIST; to use it as it is, pass its path$"):
            read_idx(folder, expected=MNIST)
    file = packed / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 9))  # packed again, it holds the same
    assert read_idx(packed).official


def test_a_part_alone_is_not_the_official_set(published, parts, tmp_path):
    _, plain, _ = published
    for file in plain.glob("t10k-*"):
        file.unlink()
    found = read_idx(plain)
    assert (found.official, found.notes) == (False, ("not the whole Fashion-MNIST: it lacks the test part",))
    own = read_idx(write_set(tmp_path / "own", {"train": images_and_labels(seed=4)}))
    assert (own.official, own.notes) == (None, ())


def test_a_file_that_is_not_the_official_one(published, parts):
    _, plain, _ = published
    file = plain / "t10k-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    found = read_idx(plain)
    assert (found.official, found.name) == (False, "Fashion-MNIST")
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    words = f"not the official Fashion-MNIST: t10k-images-idx3-ubyte differs from the published file (MD5 {md5})"
    assert found.notes == (words,)


def test_parts_that_changed_places_are_not_official(published):
    _, plain, _ = published
    for kind in ("images-idx3", "labels-idx1"):
        train, test = (plain / f"{part}-{kind}-ubyte" for part in ("train", "t10k"))
        content = train.read_bytes()
        train.write_bytes(test.read_bytes())
        test.write_bytes(content)
    assert not read_idx(plain).official


@pytest.mark.parametrize(
    ("folder", "name"), [("MNIST", "MNIST"), ("FashionMNIST/raw", "Fashion-MNIST"), ("kmnist", "KMNIST")]
)
def test_a_set_is_known_by_its_folder_too(parts, tmp_path, folder, name):
    found = read_idx(write_set(tmp_path / folder, parts, packed=True))
    assert (found.name, found.official, len(found.notes)) == (name, False, 4)


def test_unpacked_kmnist_has_nothing_to_be_compared_with(parts, tmp_path):
    found = read_idx(write_set(tmp_path / "kmnist", parts))
    assert (found.official, found.notes) == (None, ())
    assert found.class_names[:3] == ("o", "ki", "su")


def test_labels_beyond_those_of_the_set(parts, tmp_path):
    parts["t10k"][1][4] = 17
    with pytest.raises(DataError, match=r"/mnist: row 64 has the label 17; labels are 0 to 9$"):
        read_idx(write_set(tmp_path / "mnist", parts))


def test_finding_a_set_by_name(parts, tmp_path):
    assert find_idx_set(tmp_path / "none", MNIST) is None
    fashion = write_set(tmp_path / "FashionMNIST" / "raw", parts)
    assert find_idx_set(tmp_path, MNIST) is None
    assert find_idx_set(tmp_path, FASHION_MNIST) == fashion
    assert find_idx_set(tmp_path / "FashionMNIST", FASHION_MNIST) == fashion
    assert find_idx_set(tmp_path / "FashionMNIST", MNIST) is None
    mnist = write_set(tmp_path / "MNIST", parts)
    assert find_idx_set(tmp_path, MNIST) == mnist
    write_set(tmp_path, parts)
    assert find_idx_set(tmp_path, MNIST) == mnist  # a folder with its name before the folder itself
    assert find_idx_set(tmp_path, KMNIST) == tmp_path
    (mnist / "t10k-labels-idx1-ubyte").unlink()  # no longer whole
    assert find_idx_set(mnist, MNIST) is None


# EMNIST


def test_emnist_is_turned_upright_and_its_labels_are_characters(tmp_path):
    images, labels = images_and_labels(1500, (4, 4), 3)
    write_set(tmp_path, {"train": (images, labels + 1)}, prefix="emnist-letters-", packed=True)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n4 68 100\n")
    found = read_idx(tmp_path)
    np.testing.assert_array_equal(found.rows.reshape(-1, 4, 4), images.transpose(0, 2, 1))
    np.testing.assert_array_equal(found.labels, labels)
    assert found.class_names == ("Aa", "Bb", "Cc")
    assert (found.name, found.official) == ("EMNIST-letters", None)
    assert found.notes == ("EMNIST's images are stored with rows and columns exchanged; they were turned upright",)
    (tmp_path / "emnist-letters-mapping.txt").unlink()
    assert read_idx(tmp_path).class_names == ("1", "2", "3")


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        (b"1 65\n2 x\n", "line 2 is not a label and the codes of its characters; mend it"),
        (b"1\n", "line 1 is not a label and the codes of its characters; mend it"),
        (b"1 65\n2 65\n", "line 2 does not give the label a name of its own; mend it"),
        (b"1 27\n", "line 1 does not give the label a name of its own; mend it"),
        (bytes(70_000), "is too large for a table of EMNIST's labels; remove it"),
    ],
)
def test_mappings_that_are_none(parts, tmp_path, mapping, words):
    write_set(tmp_path, parts, prefix="emnist-balanced-")
    (tmp_path / "emnist-balanced-mapping.txt").write_bytes(mapping)
    with pytest.raises(DataError, match=f"/emnist-balanced-mapping.txt: {words}$"):
        read_idx(tmp_path)


# damage


def header(kind, *sizes):
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (b"", None, "train-images-idx3-ubyte: is not an IDX file of unsigned bytes"),
        (b"\x89PNG1234", None, "train-images-idx3-ubyte: is not an IDX file of unsigned bytes"),
        (header(0x0D, 2, 2, 2) + bytes(32), None, "train-images-idx3-ubyte: is not an IDX file of unsigned bytes"),
        (header(8, 2, 2, 2)[:9], None, "train-images-idx3-ubyte: is cut off within its header"),
        (
            header(8, 2**31, 28, 28) + bytes(784),
            None,
            "train-images-idx3-ubyte: its header promises 2,147,483,648 x 28 x 28 numbers, but 784 bytes follow",
        ),
        (header(8, *[2**32 - 1] * 255), None, "numbers, but 0 bytes follow"),
        (header(8, 2, 2, 2) + bytes(7), None, "its header promises 2 x 2 x 2 numbers, but 7 bytes follow"),
        (header(8, 2, 2, 2) + bytes(9), None, "its header promises 2 x 2 x 2 numbers, but 9 bytes follow"),
        (header(8, 0, 2, 2), None, "train-images-idx3-ubyte: holds 0 x 2 x 2 numbers, which are not images"),
        (header(8, 2, 0, 2), None, "train-images-idx3-ubyte: holds 2 x 0 x 2 numbers, which are not images"),
        (
            header(8, 4, 2) + bytes(8),
            None,
            "holds 4 x 2 numbers; expected images, .n, h, w., or .n, h, w, c. with 1 or 3 channels",
        ),
        (header(8, 2, 2, 2, 2) + bytes(16), None, "holds 2 x 2 x 2 x 2 numbers; expected images"),
        (
            header(8, 3, 2, 2) + bytes(12),
            header(8, 2) + bytes(2),
            "train-labels-idx1-ubyte: holds 2 labels for 3 images",
        ),
        (
            header(8, 2, 2, 2) + bytes(8),
            header(8, 2, 1) + bytes(2),
            "train-labels-idx1-ubyte: holds 2 x 1 labels for 2 images",
        ),
    ],
)
def test_bad_files(tmp_path, images, labels, words):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels or header(8, 2) + bytes([0, 1]))
    with pytest.raises(DataError, match=words) as caught:
        read_idx(tmp_path)
    assert "\n" not in str(caught.value)


def test_sizes_that_differ_between_parts(parts, tmp_path):
    parts["t10k"] = images_and_labels(30, (4, 4))
    words = r"/t10k-images-idx3-ubyte: holds 30 x 4 x 4 numbers, but train-images-idx3-ubyte 60 x 5 x 4; all images"
    with pytest.raises(DataError, match=words):
        read_idx(write_set(tmp_path, parts))


def test_files_that_are_not_there(parts, tmp_path):
    write_set(tmp_path, parts)
    write_set(tmp_path, {"test": parts["t10k"]})
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte and test-images-idx3-ubyte are both the test part"):
        read_idx(tmp_path)
    (tmp_path / "test-images-idx3-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    words = r"/t10k-images-idx3-ubyte: there are no labels beside it; put t10k-labels-idx1-ubyte or "
    with pytest.raises(DataError, match=words):
        read_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").mkdir()
    with pytest.raises(DataError, match=words):
        read_idx(tmp_path)
    os.mkfifo(tmp_path / "t10k-labels.idx1-ubyte")  # to open it would wait for ever
    with pytest.raises(DataError, match=r"/t10k-labels\.idx1-ubyte: is not a file$"):
        read_idx(tmp_path)


def test_a_bomb(parts, tmp_path):
    write_set(tmp_path, parts, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    promised = gzip.compress(header(8, 2**31, 28, 28) + bytes(2**20))
    endless = gzip.compress(header(8, 60, 5, 4) + bytes(2**26), 1)
    tracemalloc.start()
    file.write_bytes(promised)
    words = r"promises 2,147,483,648 x 28 x 28 numbers, in a file of [\d,]+ bytes; refused as a bomb$"
    with pytest.raises(DataError, match=words):
        read_idx(tmp_path)
    file.write_bytes(endless)
    with pytest.raises(DataError, match=r"holds more than the 60 x 5 x 4 numbers that its header promises$"):
        read_idx(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_cut_off_and_damaged(parts, tmp_path):
    write_set(tmp_path, parts, packed=True)
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for damage in (
            whole[:3],
            whole[:30],
            whole[: len(whole) // 2],
            whole[:-1],
            whole[:-6] + b"\1" + whole[-5:],
            whole + b"x",
        ):
            file.write_bytes(damage)
            with pytest.raises(DataError, match=f"^{file}: ") as caught:
                read_idx(tmp_path)
            assert "\n" not in str(caught.value)
        file.write_bytes(whole)
    assert_holds(read_idx(tmp_path), parts)


@pytest.mark.parametrize("packed", [False, True])
def test_no_mutation_escapes_as_another_error(parts, tmp_path, packed):
    write_set(tmp_path, parts, packed=packed)
    rng = np.random.default_rng(0)
    read = 0
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for _ in range(50):
            content = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 24), rng.integers(1, 4)):
                content[place] = rng.integers(0, 256)
            file.write_bytes(content)
            try:
                read_idx(tmp_path)
                read += 1
            except DataError as error:
                assert str(error).startswith(str(tmp_path))
        file.write_bytes(whole)
    assert read < 150
