"""Folders of images: sizes, proportions and kinds of images."""

from pathlib import Path

import numpy as np
import pytest
from helpers import write_image
from PIL import Image, ImageDraw

from onelayer.config import SourceConfig
from onelayer.data import load
from onelayer.data.formats import image_rows
from onelayer.data.untrusted import images


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
        write_image(tmp_path / "ab"[place % 2] / f"{place}.png", size)
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
        write_image(tmp_path / "ab"[number > 5] / f"{number:02}.png", mode=mode)
    if odd == "size":
        write_image(tmp_path / "a" / "01.png", (5, 5))
    if odd == "colour":
        write_image(tmp_path / "a" / "00.png")  # which is not in the sample
    paths = []
    monkeypatch.setattr(image_rows, "read_header", lambda path: paths.append(path) or images.read_header(path))
    assert load(tmp_path).image_shape == (3, 3, 4)
    assert len(set(paths)) == opened


def test_a_sample_is_not_taken_in_by_names_that_alternate(tmp_path, monkeypatch):
    monkeypatch.setattr(image_rows, "_SAMPLE", 10)
    for number in range(60):  # of each six, one is large
        write_image(tmp_path / "ab"[number >= 30] / f"{number:02}.png", (4, 3) if number % 6 else (9, 9))
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
    write_image(pets / "dog" / "wide.png", (40, 3))
    write_image(pets / "dog" / "large.png", (40, 30))
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
        write_image(tmp_path / "ab"[place % 2] / f"{place:02}.png", of_image)
    dataset = load(tmp_path, source_config=SourceConfig(image_size=asked))
    assert (dataset.image_shape, dataset.fit) == ((3, *size[::-1]), fit)
    asked = SourceConfig(image_size=asked, fit=fit)
    assert load(tmp_path, source_config=asked).fingerprint == dataset.fingerprint
    other = SourceConfig(image_size="x".join(map(str, size)), fit="pad")
    assert load(tmp_path, source_config=other).fingerprint != dataset.fingerprint


def test_only_squeezed_images_take_the_size_of_a_minority(tmp_path):
    """Of squares of one size and wide images of several, as older runs did."""
    for place, size in enumerate([(9, 9)] * 3 + [(16, 9), (32, 18), (48, 27), (64, 36)]):
        write_image(tmp_path / "ab"[place % 2] / f"{place:02}.png", size)
    shapes = {
        fit: load(tmp_path, source_config=SourceConfig(fit=fit)).image_shape for fit in ("squeeze", "crop", "pad")
    }
    assert shapes == {"squeeze": (3, 9, 9), "crop": (3, 36, 64), "pad": (3, 36, 64)}


def test_the_way_that_was_chosen_is_found_in_the_cache(pets, no_decoding):
    write_image(pets / "dog" / "wide.png", (40, 3))
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
            write_image(path, mode=mode)
    dataset = load(tmp_path)
    assert dataset.image_shape == (1, 3, 4)
    assert dataset.rows[-1].tolist() == [77] * 12
    write_image(tmp_path / "b" / "colour.png")
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
    write_image(tmp_path / "a" / "eight bits.png", mode="L")
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
