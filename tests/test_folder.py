"""Folders of images: their classes, order and sizes, and errors in them."""

import errno
import json
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile

import onelayer
from onelayer.cli import main as cli
from onelayer.config import COURSEWORK, SourceConfig, SplitConfig
from onelayer.data import load, load_splits, split
from onelayer.data.dataset import Dataset
from onelayer.data.formats import folder, folder_walk, image_rows
from onelayer.data.untrusted import images
from onelayer.errors import ConfigError, DataError
from onelayer.runs.directory import Run

RNG = np.random.default_rng(0)


def write(path: Path, size=(4, 3), mode="RGB", **options) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path) -> Path:
    """Three cats and three dogs, 4 pixels wide and 3 high."""
    for name in ("cat", "dog"):
        for number in range(3):
            write(tmp_path / "Pets" / name / f"{number}.png")
    return tmp_path / "Pets"


@pytest.fixture
def no_decoding(monkeypatch):
    """``no_decoding()``: from here on every look into a file fails the test."""

    def start() -> None:
        def fail(*_: object) -> None:
            raise AssertionError("a file was opened")

        monkeypatch.setattr(image_rows, "each_image", fail)

    return start


def pixels(path: Path) -> np.ndarray:
    """Return the row of an image, read by Pillow alone."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1).ravel()


@pytest.fixture(scope="module")
def cifar_folder(tiny_batches, tmp_path_factory) -> tuple[Path, Dataset]:
    """CIFAR's 360 rows as files in train and test, and the data set that they are in the same order."""
    root = tmp_path_factory.mktemp("tiny")
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    rows = np.concatenate([rows for rows, _ in tiny_batches.values()])
    labels = np.concatenate([labels for _, labels in tiny_batches.values()])
    for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
        path = root / ("train" if place < 300 else "test") / names[label] / f"{place:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path, compress_level=1)
    order = np.concatenate([np.argsort(labels[:300], kind="stable"), 300 + np.argsort(labels[300:], kind="stable")])
    parts = {"train": slice(0, 300), "test": slice(300, 360)}
    return root, Dataset(rows[order], labels[order], names, (3, 32, 32), "tiny", parts)


def test_files_are_the_rows_they_were_written_from(cifar_folder):
    root, expected = cifar_folder
    dataset = load(root)
    np.testing.assert_array_equal(dataset.rows, expected.rows)
    np.testing.assert_array_equal(dataset.labels, expected.labels)
    assert (dataset.rows.dtype, dataset.labels.dtype) == (np.uint8, np.int64)
    assert isinstance(dataset.rows, np.memmap)
    assert (dataset.class_names, dataset.image_shape) == (expected.class_names, (3, 32, 32))
    assert (dataset.name, dataset.source, dataset.official) == (root.name, str(root), None)
    assert (dataset.parts, dataset.notes) == (expected.parts, ())
    assert dataset.fingerprint == expected.fingerprint


def test_training_on_files_gives_the_same_weights(cifar_folder):
    root, expected = cifar_folder
    config = replace(COURSEWORK, epochs=3, flip=True)
    ours, theirs = (onelayer.train(split(dataset, SplitConfig()), config) for dataset in (load(root), expected))
    assert np.abs(theirs.model.layer.weights).max() > 0.01
    np.testing.assert_array_equal(ours.model.layer.weights, theirs.model.layer.weights)
    assert ours.scores == theirs.scores


def test_the_second_start_opens_no_file(cifar_folder, no_decoding):
    root, expected = cifar_folder
    load(root)
    no_decoding()
    assert load(root).fingerprint == expected.fingerprint


def test_a_small_folder_needs_no_cache(pets, tmp_path, monkeypatch):
    expected = load(pets)
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "cache"  # where nobody, not even the superuser, can make a folder
    monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: place)
    monkeypatch.setattr(image_rows, "cache_directory", lambda: place)
    dataset = load(pets)
    assert dataset.fingerprint == expected.fingerprint
    assert dataset.notes == (f"the cache {place} cannot be written, so every start decodes the images again",)
    assert isinstance(expected.rows, np.memmap)
    assert expected.notes == ()


def test_what_changed_is_read_again(pets, monkeypatch):
    before = load(pets)
    path = pets / "cat" / "1.png"
    times = path.stat()
    pixels_before = path.read_bytes()
    while len(write(path).read_bytes()) != len(pixels_before):  # as long as it was
        pass
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as copying with times leaves it
    np.testing.assert_array_equal(load(pets).rows[1], pixels(path))
    write(pets / "dog" / "9.png")
    assert len(load(pets).rows) == 7
    (pets / "dog" / "9.png").rename(pets / "cat" / "9.png")
    assert np.bincount(load(pets).labels).tolist() == [4, 3]
    (pets / "cat" / "9.png").unlink()
    assert len(load(pets).rows) == len(before.rows)
    monkeypatch.setattr("PIL.__version__", "0")
    opened = []
    monkeypatch.setattr(image_rows, "read_header", lambda path: opened.append(path) or images.read_header(path))
    load(pets)
    assert len(opened) == 6


def test_files_at_any_depth_in_the_order_of_their_names(pets):
    for name in ("b/10.png", "b/9.JPG", "a.png", "B/c/x.PpM", "é.png", "Z.png"):
        write(pets / "dog" / name)
    write(pets / "Ape" / "x.png")
    found = sorted(str(path.relative_to(pets)) for path in pets.glob("*/**/*") if path.is_file())
    assert found[0] == "Ape/x.png"
    assert found[-1] == "dog/é.png"
    dataset = load(pets)
    assert dataset.class_names == ("Ape", "cat", "dog")
    np.testing.assert_array_equal(dataset.labels, [dataset.class_names.index(name.split("/")[0]) for name in found])
    np.testing.assert_array_equal(dataset.rows, [pixels(pets / name) for name in found])
    assert dataset.parts == {}


def test_what_is_hidden_or_no_image_is_left_out(pets):
    expected = load(pets).fingerprint
    for name in ("cat/.DS_Store", "cat/.a.png", ".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "labels.csv"):
        write(pets / name, format="PNG")
    assert load(pets).fingerprint == expected
    assert load(pets).notes == ()
    write(pets / "preview.png")
    assert load(pets).notes == (f"1 image in {pets} left out, outside the folders of the classes",)


def test_what_is_left_out_is_counted_by_kind(pets, monkeypatch):
    expected = load(pets).fingerprint
    write(pets / "dog" / "README", format="PNG")
    assert load(pets).notes == ("left out: 1 other file (no suffix)",)
    for name in (
        "cat/a.MOV",
        "dog/x/b.mp4",
        "cat/Thumbs.db",
        "cat/a.xmp",
        "dog/b.xmp",
        "dog/c.raw",
        "cat/a.mpo\x1b[31m",
    ):
        (pets / name).parent.mkdir(exist_ok=True)
        (pets / name).write_bytes(b"something")
    others = "6 other files (.xmp, .db, .mpo?[31m, ...)"
    assert load(pets).notes == (f"left out: 2 videos, {others}",)
    with monkeypatch.context() as without:
        without.setattr(images, "heif_version", lambda: None)
        write(pets / "cat" / "a.HEIC", format="PNG")
        (pets / "dog" / "broken.png").write_bytes(b"nothing")
        config = SourceConfig(allow_unreadable=True)
        for start in range(2):
            (note,) = load(pets, source_config=config).notes
            assert note.startswith(
                f"left out: 1 HEIC image (to read HEIC images, pip install pillow-heif), 2 videos, {others}, "
                "1 of 7 images that cannot be read: dog/broken.png: is not an image that can be read (PNG, "
            )
            assert load(pets, source_config=config).fingerprint == expected
            if not start:
                without.setattr(image_rows, "each_image", None)
        for file in (pets / "cat").glob("*.png"):
            file.unlink()
        words = r"/cat: holds no images \(\.apng, .*; to read HEIC images, pip install pillow-heif\); add some, or rem"
        with pytest.raises(DataError, match=words):
            load(pets)


def test_heic_images_are_read_where_they_can_be(pets):
    pytest.importorskip("pillow_heif").register_heif_opener()
    flat = Image.new("RGB", (40, 30), (200, 30, 60))
    flat.save(pets / "cat" / "a.heic")
    flat.save(pets / "dog" / "b.HIF", "HEIF")
    dataset = load(pets)
    assert (len(dataset.rows), dataset.notes) == (8, ())
    np.testing.assert_allclose(dataset.rows[[3, 7]].reshape(2, 3, -1)[:, :, 0], [[200, 30, 60]] * 2, atol=4)


def test_the_suffixes_are_those_of_pillow():
    Image.init()
    theirs = {suffix for suffix, name in Image.registered_extensions().items() if name in images.IMAGE_FORMATS}
    assert {suffix for suffixes in images.IMAGE_FORMATS.values() for suffix in suffixes} == theirs
    pytest.importorskip("pillow_heif").register_heif_opener()
    heif = {suffix for suffix, name in Image.registered_extensions().items() if name == "HEIF"}
    assert set(images.HEIF_SUFFIXES) == heif
    assert set(images.readable_suffixes()) == theirs | heif


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (["train", "validation", "test"], {"train": 4, "validation": 4, "test": 4}),
        (["test", "val", "train"], {"train": 4, "validation": 4, "test": 4}),
        (["Train", "Valid"], {"train": 4, "validation": 4}),
        (["training", "testing"], {"train": 4, "test": 4}),
        (["Testing", "TRAINING", "dev"], {"train": 4, "validation": 4, "test": 4}),
        (["train"], {"train": 4}),
        (["train", "test", "masks"], {"train": 4, "test": 4}),
        (["train", "truck"], {}),  # a class of vehicles
        (["control", "test"], {}),  # a class of patients
    ],
)
def test_divisions(tmp_path, folders, parts):
    for part in folders:
        for name in ("a", "b"):
            for number in range(2):
                write(tmp_path / part / name / f"{number}.png")
        if not parts:
            write(tmp_path / part / "c.png")  # images of its own, which make it a class
    dataset = load(tmp_path)
    assert {part: rows.stop - rows.start for part, rows in dataset.parts.items()} == parts
    assert list(dataset.parts) == list(parts)  # in this order
    assert dataset.class_names == (("a", "b") if parts else tuple(sorted(folders)))
    for name, rows in dataset.parts.items():
        place = next(part for part in folders if folder.PARTS.get(part.lower()) == name)
        np.testing.assert_array_equal(dataset.labels[rows], [0, 0, 1, 1])
        np.testing.assert_array_equal(dataset.rows[rows][2], pixels(tmp_path / place / "b" / "0.png"))
    assert dataset.notes == (("left out, as they are not parts of the set: masks",) if "masks" in folders else ())


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (
            ["fold1/a", "fold1/b", "fold2/a", "fold2/b"],
            ": fold1, fold2 are not classes, as each holds folders of the same names (a, b) and no images; "
            "pass one of them, such as {}/fold1, or rename them to train, validation and test; "
            "if they are classes, move their images directly into them",
        ),
        (["seg_test/a", "seg_test/b", "seg_train/a", "seg_train/b", "seg_train/c"], ": seg_test, seg_train are not "),
        (["train/a", "train/b", "eval/a", "eval/b"], ": eval, train are not classes, as each holds folders of"),
        (["train/x/a", "train/x/b", "train/y/a", "train/y/b", "test/x/a"], "/train: x, y are not classes, as each"),
        (["set/train/a", "set/train/b", "set/test/a"], ": holds only the folder set, which is not a class, "),
        (["set/a", "set/b"], ": holds only the folder set, which is not a class, as it holds folders "
         "(a, b); pass {}/set"),
    ],
)  # fmt: skip
def test_a_folder_one_level_too_high_is_refused(tmp_path, layout, words):
    for place in layout:
        write(tmp_path / place / "x" / "1.png")
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path) + words.format(tmp_path))}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "layout",
    [
        ["cat/images/1.png", "dog/images/1.png"],  # as Tiny ImageNet is laid out
        ["cat/2019/1.png", "cat/2020/1.png", "dog/2020/1.png", "dog/2021/1.png"],
        ["cat/2019/1.png", "cat/2020/1.png", "dog/2019/1.png", "dog/2020/1.png", "dog/1.png"],
    ],
)
def test_classes_may_hold_folders(tmp_path, layout):
    for place in layout:
        write(tmp_path / place)
    assert load(tmp_path).class_names == ("cat", "dog")


def test_a_folder_of_one_class_is_read_but_not_trained_on(tmp_path):
    for number in range(6):
        write(tmp_path / "set" / "cat" / f"{number}.png")
    assert load(tmp_path / "set").class_names == ("cat",)
    with pytest.raises(DataError, match=r"^set: the training rows are of one class only, cat; a classifier needs two$"):
        load_splits(tmp_path / "set", SplitConfig())


@pytest.mark.parametrize("parts", [["test"], ["val"], ["val", "testing"]])
def test_a_folder_without_train_is_read_but_not_trained_on(pets, tmp_path, parts):
    """Such a folder can be used to evaluate a model."""
    assert cli.run_command(["train", "--data", str(pets), "--out", str(tmp_path / "run"), "--quiet"]) is None
    for part in parts:
        for name in ("cat", "dog"):
            write(tmp_path / "Other" / part / name / "1.png")
    dataset = load(tmp_path / "Other")
    assert dataset.class_names == ("cat", "dog")
    assert list(dataset.parts) == [folder.PARTS[part] for part in parts]
    plan, _ = Run.open(tmp_path / "run").read_checkpoint()
    rows, _, note = plan.rows_to_evaluate(str(tmp_path / "Other"), None, Run.open(tmp_path / "run").model)
    assert len(rows) == 2
    assert ("its test part is evaluated" in note) is (parts != ["val"])
    with pytest.raises(ConfigError, match=r"^Other has no .*train.*; use the protocol stratified$"):
        load_splits(tmp_path / "Other", SplitConfig())


def test_train_says_which_classes_it_found(cifar_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.run_command(["train", "--data", str(cifar_folder[0]), "--epochs", "1", "--no-figures"])
    names = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
    assert capsys.readouterr()[0].splitlines()[1] == f"10 classes: {names}"


def test_a_class_that_testing_does_not_meet_keeps_the_others_numbers(tmp_path):
    for name in ("train/a", "train/b", "train/c", "test/c"):
        write(tmp_path / name / "x.png")
    (tmp_path / "test" / "a").mkdir()  # as people keep it for the order's sake
    dataset = load(tmp_path)
    assert dataset.labels[dataset.parts["test"]].tolist() == [2]


def test_many_classes(tmp_path):
    for number in range(1200):
        write(tmp_path / f"{number:04}" / "x.png", (1, 1))
    dataset = load(tmp_path)
    assert (dataset.image_shape, dataset.rows.shape) == ((3, 1, 1), (1200, 3))  # and images of one pixel
    np.testing.assert_array_equal(dataset.labels, np.arange(1200))


# sizes and kinds


@pytest.mark.parametrize(
    ("sizes", "asked", "expected"),
    [
        ([(5, 6), (5, 6), (7, 8)], None, (5, 6)),
        ([(5, 6), (5, 6), (7, 8)], "9", (9, 9)),
        ([(5, 6), (5, 6), (7, 8)], "9x2", (9, 2)),
        ([(64, 64), (64, 64), (1, 1)], None, (64, 64)),
        ([(640, 480), (320, 240), (200, 200)], None, (64, 48)),  # photographs of the same proportions
        ([(1000, 1), (1000, 1), (1, 1)], None, (64, 1)),
        ([(5, 6), (8, 4), (6, 6)], None, (6, 6)),  # none is common: the largest
    ],
)
def test_sizes(tmp_path, sizes, asked, expected):
    for place, size in enumerate(sizes):
        write(tmp_path / "ab"[place % 2] / f"{place}.png", size)
    dataset = load(tmp_path, source_config=SourceConfig(image_size=asked))
    w, h = expected
    assert dataset.image_shape == (3, h, w)
    for row, place in zip(dataset.rows, [0, 2, 1], strict=True):
        path = tmp_path / "ab"[place % 2] / f"{place}.png"
        np.testing.assert_array_equal(row, images.read_image(path, (3, h, w), dataset.fit)[0])


def test_each_size_has_rows_of_its_own(pets):
    assert [load(pets, source_config=SourceConfig(image_size=size)).image_shape for size in ("2", None, "2")] == [
        (3, 2, 2),
        (3, 3, 4),
        (3, 2, 2),
    ]


@pytest.mark.parametrize(("odd", "opened"), [(None, 6), ("size", 11), ("colour", 11)])
def test_a_sample_tells_the_size_only_where_it_is_of_one_mind(tmp_path, monkeypatch, odd, opened):
    monkeypatch.setattr(image_rows, "_SAMPLE", 5)
    mode = "L" if odd == "colour" else "RGB"
    for number in range(11):
        write(tmp_path / "ab"[number > 5] / f"{number:02}.png", mode=mode)
    if odd == "size":
        write(tmp_path / "a" / "01.png", (5, 5))
    if odd == "colour":
        write(tmp_path / "a" / "00.png")  # which is not in the sample
    paths = []
    monkeypatch.setattr(image_rows, "read_header", lambda path: paths.append(path) or images.read_header(path))
    assert load(tmp_path).image_shape == (3, 3, 4)
    assert len(set(paths)) == opened


def test_a_sample_is_not_taken_in_by_names_that_alternate(tmp_path, monkeypatch):
    monkeypatch.setattr(image_rows, "_SAMPLE", 10)
    for number in range(60):  # of each six, one is large
        write(tmp_path / "ab"[number >= 30] / f"{number:02}.png", (4, 3) if number % 6 else (9, 9))
    assert load(tmp_path).image_shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("fit", "note"),
    [
        (
            "auto",
            "1 of 8 images cropped to the proportions of 4 x 3, such as dog/wide.png; --fit pad keeps all of them",
        ),
        ("squeeze", "1 of 8 images distorted to fit 4 x 3, such as dog/wide.png"),
        ("crop", "1 of 8 images cropped to the proportions of 4 x 3, such as dog/wide.png"),
        ("pad", "1 of 8 images padded with white to 4 x 3, such as dog/wide.png"),
    ],
)
def test_images_of_other_proportions_are_told_each_time(pets, fit, note):
    write(pets / "dog" / "wide.png", (40, 3))
    write(pets / "dog" / "large.png", (40, 30))
    for _ in range(2):
        assert load(pets, source_config=SourceConfig(fit=fit)).notes == (note,)


SCREENS = [(16, 9)] * 3 + [(32, 18)] * 3
SQUARES = [(9, 9)] * 4


@pytest.mark.parametrize(
    ("sizes", "asked", "size", "fit"),
    [
        (SCREENS + SQUARES, None, (32, 18), "crop"),  # most are wide; the largest of the common sizes
        ([(16, 9), (17, 9), (18, 10), (15, 9), (9, 9)], None, (18, 10), "crop"),  # 15 x 9 is too far from it
        ([(16, 9), (17, 9), *SQUARES[:2]], None, (9, 9), "squeeze"),  # half are not most
        ([(16, 9), (9, 16), (9, 9)], None, (16, 9), "squeeze"),
        (SCREENS + SQUARES, "10", (10, 10), "squeeze"),  # most have other proportions than those asked for
        (SQUARES * 2 + SCREENS, "10", (10, 10), "crop"),
    ],
)
def test_images_are_cropped_if_most_have_one_proportion(tmp_path, sizes, asked, size, fit):
    for place, of_image in enumerate(sizes):
        write(tmp_path / "ab"[place % 2] / f"{place:02}.png", of_image)
    dataset = load(tmp_path, source_config=SourceConfig(image_size=asked))
    assert (dataset.image_shape, dataset.fit) == ((3, *size[::-1]), fit)
    asked = SourceConfig(image_size=asked, fit=fit)
    assert load(tmp_path, source_config=asked).fingerprint == dataset.fingerprint
    other = SourceConfig(image_size="x".join(map(str, size)), fit="pad")
    assert load(tmp_path, source_config=other).fingerprint != dataset.fingerprint


def test_only_squeezed_images_take_the_size_of_a_minority(tmp_path):
    """Of squares of one size and wide images of several, as older runs did."""
    for place, size in enumerate([(9, 9)] * 3 + [(16, 9), (32, 18), (48, 27), (64, 36)]):
        write(tmp_path / "ab"[place % 2] / f"{place:02}.png", size)
    shapes = {
        fit: load(tmp_path, source_config=SourceConfig(fit=fit)).image_shape for fit in ("squeeze", "crop", "pad")
    }
    assert shapes == {"squeeze": (3, 9, 9), "crop": (3, 36, 64), "pad": (3, 36, 64)}


def test_the_way_that_was_chosen_is_found_in_the_cache(pets, no_decoding):
    write(pets / "dog" / "wide.png", (40, 3))
    expected = load(pets).fingerprint
    no_decoding()
    assert load(pets, source_config=SourceConfig(fit="crop")).fingerprint == expected
    with pytest.raises(AssertionError, match="a file was opened"):
        load(pets, source_config=SourceConfig(fit="squeeze"))


def test_greys(tmp_path):
    for place, mode in enumerate(("L", "1", "LA", "I;16")):
        path = tmp_path / "ab"[place % 2] / f"{place}.png"
        if mode == "I;16":
            Image.fromarray(np.full((3, 4), 257 * 77, np.uint16)).save(path)
        else:
            write(path, mode=mode)
    dataset = load(tmp_path)
    assert dataset.image_shape == (1, 3, 4)
    assert dataset.rows[-1].tolist() == [77] * 12
    write(tmp_path / "b" / "colour.png")
    dataset = load(tmp_path)
    assert dataset.image_shape == (3, 3, 4)
    np.testing.assert_array_equal(*np.split(dataset.rows[0], 3)[:2])


DARK = (
    "16 bits become 8 by a division by 257, which leaves the values 0 to {} of 255; if white is not 65,535, as in "
    "files of 10-bit or 12-bit cameras, scale the values up to it first"
)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize(("white", "brightest"), [(1023, 4), (4095, 16), (32767, 127), (32768, None), (65535, None)])
def test_images_of_16_bits_that_use_few_of_them_are_noted(tmp_path, no_decoding, suffix, white, brightest):
    """The brightest image of the set decides: one dark image among others is normal."""
    for number in range(6):
        pixels = np.full((3, 4), white if number == 3 else white // 4, np.uint16)
        path = tmp_path / "ab"[number % 2] / f"{number}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    write(tmp_path / "a" / "eight bits.png", mode="L")
    expected = () if brightest is None else (f"6 images of 16 bits: {DARK.format(brightest)}",)
    assert load(tmp_path).notes == expected
    no_decoding()
    assert load(tmp_path).notes == expected


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Upright pictures of 40 x 30, upper half blue and lower half green, stored in every way, and one that is cut off.

    Two hundred plain ones come first, since one unreadable image among a few would be too many.
    """
    picture = Image.new("RGB", (40, 30), (0, 0, 255))
    ImageDraw.Draw(picture).rectangle((0, 15, 40, 30), (0, 255, 0))
    root = tmp_path / "photographs"
    for name in ("kinds", "plain"):
        (root / name).mkdir(parents=True)
    for number in range(100):
        picture.resize((4, 3)).save(root / "plain" / f"{number}.png")
    kinds = root / "kinds"
    picture.save(kinds / "jpeg.jpg", quality=95)
    picture.convert("CMYK").save(kinds / "cmyk.jpg", quality=95)
    picture.quantize(8).save(kinds / "palette.png")
    picture.save(kinds / "animated.gif", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")])
    picture.save(kinds / "animated.webp", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")])
    alpha = picture.convert("RGBA")
    alpha.putalpha(255)
    alpha.save(kinds / "alpha.tiff")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    picture.rotate(90, expand=True).save(kinds / "turned.jpg", quality=95, exif=exif)
    picture.rotate(90, expand=True).save(kinds / "turned.tiff", exif=exif)
    picture.rotate(90, expand=True).save(kinds / "turned.png", exif=exif)
    (kinds / "cut.jpg").write_bytes((kinds / "jpeg.jpg").read_bytes()[:-100])
    return root


def test_photographs(photographs, no_decoding):
    for start in range(2):
        dataset = load(photographs, source_config=SourceConfig(image_size="40x30"))
        pictures = dataset.rows[dataset.labels == 0].reshape(-1, 3, 30, 40)
        assert len(pictures) == 9
        np.testing.assert_allclose(pictures[:, :, :14].mean(axis=(2, 3)), [[0, 0, 255]] * 9, atol=8)
        np.testing.assert_allclose(pictures[:, :, 16:].mean(axis=(2, 3)), [[0, 255, 0]] * 9, atol=8)
        (note,) = dataset.notes
        assert note.startswith("left out: 1 of 110 images that cannot be read: kinds/cut.jpg: is damaged or cut off (")
        if not start:
            no_decoding()


def test_headers_tell_the_size_that_decoding_finds(photographs):
    paths = list((photographs / "kinds").iterdir())
    headers = list(images.each_image(images.read_header, paths, lambda done, total: None))
    assert headers == [((40, 30), False)] * len(paths)
    assert load(photographs, source_config=SourceConfig(allow_unreadable=True)).image_shape == (3, 3, 4)


# what is wrong


def test_too_many_unreadable(pets, no_decoding):
    for name in ("cat/a.png", "cat/b.jpg", "dog/c.gif", "dog/d\x1b[31m.png"):
        (pets / name).write_bytes(b"no image")
    words = (
        rf"^{pets}: 4 of 10 images cannot be read: cat/a\.png: is not an image that can be read \(.*\); "
        r"cat/b\.jpg: .*; dog/c\.gif: .*; \.\.\.; mend or remove them, or pass --allow-unreadable to leave them out$"
    )
    with pytest.raises(DataError, match=words):
        load(pets)
    no_decoding()
    with pytest.raises(DataError, match=words):
        load(pets)
    dataset = load(pets, source_config=SourceConfig(allow_unreadable=True))
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.notes[0].startswith("left out: 4 of 10 images that cannot be read: cat/a.png: is not an image that")


def test_one_in_a_hundred_may_be_unreadable(tmp_path):
    for number in range(99):
        write(tmp_path / "pets" / "ab"[number % 2] / f"{number}.png")
    (tmp_path / "pets" / "a" / "bad.png").write_bytes(b"no image")
    dataset = load(tmp_path / "pets")
    assert len(dataset.rows) == 99
    (note,) = dataset.notes
    assert note.startswith("left out: 1 of 100 images that cannot be read: a/bad.png: ")
    (tmp_path / "pets" / "b" / "1.png").unlink()
    with pytest.raises(DataError, match="1 of 99 images"):
        load(tmp_path / "pets")


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError(errno.EIO, "Input/output error"), "Input/output error"), (MemoryError(), "there is not enough memory")],
)
def test_what_failed_for_a_while_is_asked_again(pets, monkeypatch, error, words):
    loading = ImageFile.ImageFile.load

    def fail(image):
        if image.filename.endswith("cat/1.png"):
            raise error
        return loading(image)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", fail)
        with pytest.raises(DataError, match=rf"1 of 6 images cannot be read: cat/1\.png: {words}"):
            load(pets)
        left = load(pets, source_config=SourceConfig(allow_unreadable=True))
    assert len(left.rows) == 5
    assert len(load(pets).rows) == 6
    assert left.fingerprint  # the rows of before can be read still


def test_names_are_fit_to_be_printed(pets):
    (pets / "cat" / "a\x1b[31m\n.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot be read: cat/a\?\[31m\?\.png: is not an image"):
        load(pets)
    write(pets / "a\x1b[31m" / "x.png")
    with pytest.raises(
        DataError,
        match=r"^.*/a\?\[31m: its name is too long, or not printable; rename the folder$",
    ):
        load(pets)


def test_what_is_no_file_is_not_waited_for(pets):
    os.mkfifo(pets / "cat" / "pipe.png")
    (pets / "cat" / "gone.png").symlink_to("nowhere")
    (pets / "dog" / "self.png").symlink_to("self.png")
    with pytest.raises(DataError, match=r"3 of 9 .*gone\.png: no such file; .*pipe\.png: a device or pipe, not an im"):
        load(pets)
    (pets / "dog" / "self.png").unlink()
    assert len(load(pets, source_config=SourceConfig(allow_unreadable=True)).rows) == 6


def test_all_unreadable(pets):
    for path in pets.glob("dog/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"^{pets}/dog: holds no image that can be read; add some, or remove it, if"):
        load(pets, source_config=SourceConfig(allow_unreadable=True))
    for path in pets.glob("cat/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"^{pets}: none of 6 images can be read: cat/0\.png: is not an image"):
        load(pets, source_config=SourceConfig(allow_unreadable=True))


def test_links_are_followed(pets, tmp_path):
    outside = tmp_path / "outside"
    write(outside / "cat" / "5.png")
    (pets / "dog" / "6.png").symlink_to(outside / "cat" / "5.png")
    (pets / "cat" / "more").symlink_to(outside / "cat")
    (pets / "eel").symlink_to(outside)
    dataset = load(pets)
    assert np.bincount(dataset.labels).tolist() == [4, 4, 1]
    np.testing.assert_array_equal(dataset.rows[-1], dataset.rows[3])


@pytest.mark.parametrize("target", [".", "..", "../deep", "../../cat"])
def test_a_link_that_leads_back(pets, target):
    (pets / "cat" / "deep").mkdir()
    (pets / "cat" / "deep" / "back").symlink_to(target)
    with pytest.raises(
        DataError, match=rf"^{pets}/cat/deep/back: is the same folder as {pets}(/cat(/deep)?)?; remove the link$"
    ):
        load(pets)


def test_a_link_to_itself(pets):
    (pets / "self").symlink_to("self")
    with pytest.raises(DataError, match=rf"{pets}.*: (cannot be read \()?Too many levels of symbolic links\)?$"):
        load(pets)


def empty(*names):
    return lambda root: [(root / name).mkdir(parents=True) for name in names]


def filled(*names):
    return lambda root: [write(root / name) for name in names]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(
            [filled("a/x.png", "b/x.png"), empty("c")], r"/c: holds no images \(\.apng, .*\); add some", id="c"
        ),
        pytest.param(
            [filled("x.png")], ": holds images, but no folder for each class; expected {}/CLASS/IM", id="flat"
        ),
        pytest.param([empty("train", "test")], "/train: holds no folders of images; expected {}/train/CLA", id="none"),
        pytest.param([filled("train/x.png", "test/x.png")], "/train: holds images, but no folder for", id="flat parts"),
        pytest.param(
            [filled("train/a/x.png", "train/b/x.png", "val/a/x.png", "valid/a/x.png")],
            ": train and val and valid are several folders for one part; keep one for each part",
            id="twice",
        ),
        pytest.param(
            [filled("train/a/x.png", "train/b/x.png", "test/c/x.png")],
            "/test/c: is not a class of train; add it there, or remove the folder",
            id="unknown class",
        ),
        pytest.param(
            [filled("train/a/x.png", "train/b/x.png"), empty("test/a")], "/test: holds no images", id="empty part"
        ),
        pytest.param(
            [filled("train/a/x.png", "train/b/x.png"), empty("train/c")], "/train/c: holds no images", id="empty class"
        ),
    ],
)
def test_layouts_that_are_none(tmp_path, make, words):
    for step in make:
        step(tmp_path)
    with pytest.raises(DataError, match=f"^{tmp_path}{words.format(tmp_path)}") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_permissions(pets):
    (pets / "cat" / "1.png").chmod(0)
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read: cat/1\.png: Permission denied; mend"):
        load(pets)
    (pets / "cat" / "1.png").chmod(0o600)
    assert len(load(pets).rows) == 6  # the refusal was not kept
    (pets / "cat").chmod(0)
    try:
        with pytest.raises(DataError, match=rf"^{pets}/cat: Permission denied$"):
            load(pets)
    finally:
        (pets / "cat").chmod(0o700)


# how it goes


def test_progress(cifar_folder):
    calls = []
    load(
        cifar_folder[0],
        source_config=SourceConfig(image_size="8"),
        progress=lambda done, total: calls.append((done, total)),
    )
    counting, looking = calls[:20], calls[20:]
    assert counting == [(done, None) for done, _ in counting]
    assert counting[-1] == (360, None)
    assert [total for _, total in looking] == [360] * len(looking)
    ends = [place for place, (done, _) in enumerate(looking) if done == 360]
    for steps in (looking[: ends[0] + 1], looking[ends[0] + 1 :]):  # sizes, pixels
        done = [step for step, _ in steps]
        assert len(done) > 10
        assert done == sorted(set(done))
        assert done[-1] == 360


def test_a_long_list_of_files_tells_how_far_it_is(pets, monkeypatch):
    monkeypatch.setattr(folder_walk, "_OFTEN", 3)
    calls = []
    load(pets, progress=lambda *how_far: calls.append(how_far))
    assert calls[:4] == [(3, None), (3, None), (6, None), (6, None)], "of each class, in its midst and at its end"


def test_a_stop_ends_at_once_and_leaves_nothing(cifar_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: tmp_path)
    begun = []
    begun_at_stop = []

    def slowly(path: Path, image_shape: tuple[int, int, int], fit: str) -> images.Decoded:
        begun.append(path)
        time.sleep(0.005)
        return images.Decoded(np.zeros(3072, np.uint8))

    def stop(done: int, total: int | None) -> None:
        if begun:
            begun_at_stop.append(len(begun))
            raise KeyboardInterrupt

    monkeypatch.setattr(image_rows, "decode_image", slowly)
    with pytest.raises(KeyboardInterrupt):
        load(cifar_folder[0], progress=stop)
    assert len(begun) <= begun_at_stop[0] + min(32, os.cpu_count() + 4)  # of 360: each thread ends with its own
    assert list((tmp_path / "rows").iterdir()) == []
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_commands(cifar_folder, tmp_path, monkeypatch, capsys):
    root, _ = cifar_folder
    monkeypatch.chdir(tmp_path)
    cli.run_command(
        ["train", "--data", str(root), "--preset", "coursework", "--epochs", "5", "--flip", "--eta", "0.01"]
    )
    run = f"runs/{root.name}-1"
    assert (
        f"{root.name}, protocol full: 240 train, 60 validation, 60 test rows of 3,072 numbers" in capsys.readouterr()[0]
    )
    assert (tmp_path / run / "templates.png").exists()
    assert (tmp_path / run / "mistakes.png").exists()
    cli.run_command(["evaluate", run])
    cli.run_command(["resume", run, "--epochs", "6", "--no-figures"])
    cli.run_command(["predict", run, str(next((root / "test" / "cat").iterdir()))])
    cli.run_command(["data", str(root), "--image-size", "5x7"])
    assert "image shape  3 x 7 x 5" in capsys.readouterr()[0]
    for path in root.glob("test/*/*"):  # other sizes are brought to the model's
        large = tmp_path / "other" / path.parent.name / path.name
        large.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.resize((64, 64), Image.Resampling.NEAREST).save(large)
    cli.run_command(["evaluate", run, "--split", "test", "--json"])
    of_run = json.loads(capsys.readouterr()[0])
    cli.run_command(["evaluate", run, "--data", str(tmp_path / "other"), "--split", "all", "--json"])
    of_other = json.loads(capsys.readouterr()[0])
    assert (of_other["name"], of_other["rows"]) == ("other, all", 60)
    model, other = Run.open(run).model, load(tmp_path / "other", source_config=SourceConfig(image_size="32x32"))
    right = (model.probabilities(other.rows).argmax(axis=1) == other.labels).mean()
    assert 0.5 < right < 0.9
    assert of_other["accuracy"] == pytest.approx(right)
    assert abs(of_run["accuracy"] - right) < 0.05  # Lanczos moves a row in 60 or two
