"""Folders of images: errors in files, links, layouts and permissions."""

import errno
import os

import numpy as np
import pytest
from helpers import write_image
from PIL import ImageFile

from onelayer.config import SourceConfig
from onelayer.data import load
from onelayer.errors import DataError


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
        write_image(tmp_path / "pets" / "ab"[number % 2] / f"{number}.png")
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
    write_image(pets / "a\x1b[31m" / "x.png")
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
    write_image(outside / "cat" / "5.png")
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
    return lambda root: [write_image(root / name) for name in names]


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
