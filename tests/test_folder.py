"""Folders of images: their classes and parts, the order of their rows, and what is left out."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import write_image
from PIL import Image

import onelayer
from onelayer.cli import main as cli
from onelayer.config import COURSEWORK, SourceConfig, SplitConfig
from onelayer.data import load, load_splits, split
from onelayer.data.formats import folder, image_rows
from onelayer.data.untrusted import images
from onelayer.errors import ConfigError, DataError
from onelayer.runs.directory import Run


def pixels(path: Path) -> np.ndarray:
    """Return the row of an image, read by Pillow alone."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1).ravel()


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
    while len(write_image(path).read_bytes()) != len(pixels_before):  # as long as it was
        pass
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as copying with times leaves it
    np.testing.assert_array_equal(load(pets).rows[1], pixels(path))
    write_image(pets / "dog" / "9.png")
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
        write_image(pets / "dog" / name)
    write_image(pets / "Ape" / "x.png")
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
        write_image(pets / name, format="PNG")
    assert load(pets).fingerprint == expected
    assert load(pets).notes == ()
    write_image(pets / "preview.png")
    assert load(pets).notes == (f"1 image in {pets} left out, outside the folders of the classes",)


def test_what_is_left_out_is_counted_by_kind(pets, monkeypatch):
    expected = load(pets).fingerprint
    write_image(pets / "dog" / "README", format="PNG")
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
        write_image(pets / "cat" / "a.HEIC", format="PNG")
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
                write_image(tmp_path / part / name / f"{number}.png")
        if not parts:
            write_image(tmp_path / part / "c.png")  # images of its own, which make it a class
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
        write_image(tmp_path / place / "x" / "1.png")
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
        write_image(tmp_path / place)
    assert load(tmp_path).class_names == ("cat", "dog")


def test_a_folder_of_one_class_is_read_but_not_trained_on(tmp_path):
    for number in range(6):
        write_image(tmp_path / "set" / "cat" / f"{number}.png")
    assert load(tmp_path / "set").class_names == ("cat",)
    with pytest.raises(DataError, match=r"^set: the training rows are of one class only, cat; a classifier needs two$"):
        load_splits(tmp_path / "set", SplitConfig())


@pytest.mark.parametrize("parts", [["test"], ["val"], ["val", "testing"]])
def test_a_folder_without_train_is_read_but_not_trained_on(pets, tmp_path, parts):
    """Such a folder can be used to evaluate a model."""
    run = tmp_path / "run"
    assert cli.run_command(["train", "--data", str(pets), "--out", str(run), "--no-figures", "--quiet"]) is None
    for part in parts:
        for name in ("cat", "dog"):
            write_image(tmp_path / "Other" / part / name / "1.png")
    dataset = load(tmp_path / "Other")
    assert dataset.class_names == ("cat", "dog")
    assert list(dataset.parts) == [folder.PARTS[part] for part in parts]
    plan, _ = Run.open(run).read_checkpoint()
    rows, _, note = plan.rows_to_evaluate(str(tmp_path / "Other"), None, Run.open(run).model)
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
        write_image(tmp_path / name / "x.png")
    (tmp_path / "test" / "a").mkdir()  # as people keep it for the order's sake
    dataset = load(tmp_path)
    assert dataset.labels[dataset.parts["test"]].tolist() == [2]


def test_many_classes(tmp_path):
    for number in range(1200):
        write_image(tmp_path / f"{number:04}" / "x.png", (1, 1))
    dataset = load(tmp_path)
    assert (dataset.image_shape, dataset.rows.shape) == ((3, 1, 1), (1200, 3))  # and images of one pixel
    np.testing.assert_array_equal(dataset.labels, np.arange(1200))
