"""Image files of every kind as rows of pixels."""

import io
import re
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from onelayer.data.untrusted import images
from onelayer.data.untrusted.images import read_image
from onelayer.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (32, 32, 3), np.uint8)
COLOUR = (3, 32, 32)


def save(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_the_pixels_of_a_file_of_the_right_size(tmp_path, suffix):
    path = save(Image.fromarray(PIXELS), tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    row, note = read_image(path, COLOUR, "squeeze")
    np.testing.assert_array_equal(row, PIXELS.transpose(2, 0, 1).ravel())
    assert (row.dtype, note) == (np.uint8, None)


def test_greys(tmp_path):
    path = save(Image.fromarray(PIXELS[:, :, 0]), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path, (1, 32, 32), "squeeze")[0], PIXELS[:, :, 0].ravel())
    np.testing.assert_array_equal(read_image(path, COLOUR, "squeeze")[0], np.tile(PIXELS[:, :, 0].ravel(), 3))
    path = save(Image.fromarray(PIXELS), tmp_path / "b.png")
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_image(path, (1, 32, 32), "squeeze")[0], luma.ravel(), atol=1)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_greys_of_16_bits(tmp_path, suffix):
    greys = RNG.integers(0, 65536, (32, 32), np.uint16)
    greys[0, :2] = 0, 65535
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 32 32 65535\n" + greys.astype(">u2").tobytes())
    else:
        Image.fromarray(greys).save(path)
    row, _ = read_image(path, (1, 32, 32), "squeeze")
    np.testing.assert_allclose(row, greys.ravel() * (255 / 65535), atol=0.5)


def test_greys_of_16_bits_are_rounded(tmp_path):
    greys = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(greys).save(tmp_path / "x.png")
    row, _ = read_image(tmp_path / "x.png", (1, 256, 256), "squeeze")
    np.testing.assert_array_equal(row, np.rint(greys.ravel() / 257))


def test_greys_of_32_bits_are_refused(tmp_path):
    path = save(Image.fromarray(np.full((9, 9), 70_000, np.int32)), tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff: holds greys of 32 bits; save it with 8 or 16 bits$"):
        read_image(path, COLOUR, "squeeze")
    path = save(Image.fromarray(np.ones((9, 9), np.float32)), tmp_path / "b.tiff")
    with pytest.raises(DataError, match=r"b\.tiff: holds floating-point greys; save it with 8 or 16 bits$"):
        read_image(path, COLOUR, "squeeze")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(tmp_path, mode):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    path = save(image.convert(mode) if mode != "P" else image.quantize(), tmp_path / "a.png")
    row = read_image(path, COLOUR, "squeeze")[0].reshape(3, 32, 32)
    assert (row[:, :, :16] == 0).all()
    assert (row[:, :, 16:] == 255).all()


def test_half_transparent(tmp_path):
    path = save(Image.new("RGBA", (32, 32), (255, 0, 0, 128)), tmp_path / "a.png")
    np.testing.assert_allclose(read_image(path, COLOUR, "squeeze")[0].reshape(3, -1)[:, 0], [255, 127, 127], atol=1)


def png_of_16_bits(pixels):
    """A PNG of uint16 colours (h, w, c), which Pillow reads but does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    h, w, c = pixels.shape
    header = struct.pack(">IIBBBBB", w, h, 16, {3: 2, 2: 4, 4: 6}[c], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


@pytest.mark.parametrize("kind", ["grey", "grey and alpha", "colour", "colour and alpha", "ppm"])
@pytest.mark.parametrize(("white", "steps"), [(1023, "0 to [34]"), (65535, None)])
def test_16_bits_of_which_few_are_used_are_noted(tmp_path, kind, white, steps):
    pixels = np.full((32, 32, 3), white, np.uint16)
    path = tmp_path / "a.png"
    if kind == "grey":
        save(Image.fromarray(pixels[..., 0]), path)
    elif kind == "ppm":
        path.write_bytes(b"P6\n32 32\n65535\n" + pixels.astype(">u2").tobytes())
    else:
        bands = {"grey and alpha": 2, "colour": 3, "colour and alpha": 4}[kind]
        pixels = np.full((32, 32, bands), white, np.uint16)
        pixels[..., -1] = 65535 if "alpha" in kind else white
        path.write_bytes(png_of_16_bits(pixels))
    row, note = read_image(path, COLOUR, "squeeze")
    assert set(row.tolist()) <= {round(white / 257), white >> 8}
    if steps:
        assert re.match(f"{path}: 16 bits become 8 by a division by 257, which leaves the values {steps} of 255;", note)
    else:
        assert note is None


def test_palette_and_cmyk(tmp_path):
    image = Image.new("RGB", (32, 32), (200, 30, 60))
    path = save(image.quantize(4), tmp_path / "a.gif")
    np.testing.assert_array_equal(read_image(path, COLOUR, "squeeze")[0].reshape(3, -1)[:, 0], [200, 30, 60])
    path = save(image.convert("CMYK"), tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(read_image(path, COLOUR, "squeeze")[0].reshape(3, -1)[:, 0], [200, 30, 60], atol=3)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path, COLOUR, "squeeze")[0].reshape(3, -1)[:, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    upright = np.zeros((32, 32), np.uint8)
    upright[:8, :16] = 255  # top left, wider than high
    turn = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(turn)), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path, (1, 32, 32), "squeeze")[0].reshape(32, 32), upright)


@pytest.mark.parametrize(
    ("size", "note"),
    [
        ((64, 64), None),
        ((8, 8), None),
        ((1, 1), None),
        ((101, 100), None),
        ((640, 480), "640 x 480 was squeezed to 32 x 32, which distorts it"),
        ((30, 60), "30 x 60 was squeezed to 32 x 32, which distorts it"),
    ],
)
def test_sizes(tmp_path, size, note):
    path = save(Image.new("RGB", size, (10, 20, 30)), tmp_path / "photo.png")
    row, found = read_image(path, COLOUR, "squeeze")
    np.testing.assert_array_equal(row.reshape(3, -1), np.repeat([[10], [20], [30]], 1024, axis=1))
    assert found == (note and f"{path}: {note}")


def noise(size):
    return Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize(("size", "shape"), [((640, 480), (3, 32, 32)), ((30, 61), (3, 32, 48)), ((50, 20), (3, 7, 4))])
def test_images_of_other_proportions(tmp_path, size, shape):
    image = noise(size)
    path, (_, h, w) = save(image, tmp_path / "a.png"), shape
    expected = {
        "squeeze": image.resize((w, h), Image.Resampling.LANCZOS),
        "crop": ImageOps.fit(image, (w, h), Image.Resampling.LANCZOS),
        "pad": ImageOps.pad(image, (w, h), Image.Resampling.LANCZOS, "white"),
    }
    rows = {fit: read_image(path, shape, fit)[0].reshape(shape) for fit in expected}
    for fit, picture in expected.items():
        np.testing.assert_array_equal(rows[fit], np.asarray(picture).transpose(2, 0, 1), fit)
    assert not np.array_equal(rows["crop"], rows["squeeze"])
    assert not np.array_equal(rows["pad"], rows["squeeze"])


@pytest.mark.parametrize("fit", ["squeeze", "crop", "pad"])
def test_images_of_the_same_proportions_are_fitted_alike(tmp_path, fit):
    for size in ((64, 64), (37, 37), (1, 1)):
        path = save(noise(size), tmp_path / "a.png")
        row, note = read_image(path, COLOUR, fit)
        np.testing.assert_array_equal(row, read_image(path, COLOUR, "squeeze")[0])
        assert note is None


@pytest.mark.parametrize(
    ("fit", "note"),
    [
        ("squeeze", "640 x 480 was squeezed to 32 x 32, which distorts it"),
        ("crop", "640 x 480 was cropped to its middle, with the proportions of 32 x 32"),
        ("pad", "640 x 480 was padded with white to 32 x 32"),
    ],
)
def test_a_note_says_how_an_image_was_fitted(tmp_path, fit, note):
    path = save(noise((640, 480)), tmp_path / "a.png")
    assert read_image(path, COLOUR, fit)[1] == f"{path}: {note}"


def test_an_image_is_upright_and_on_white_before_it_is_fitted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    image = Image.new("RGBA", (90, 30), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 45, 30))  # transparent on the left, which is the upper half of the upright image
    path = save(image, tmp_path / "a.png", exif=exif)
    padded = read_image(path, (1, 30, 30), "pad")[0].reshape(30, 30)  # of 30 x 90, 10 columns in the middle
    assert (np.delete(padded, range(10, 20), axis=1) == 255).all()
    np.testing.assert_allclose(padded[:10, 10:20], 255, atol=5)
    np.testing.assert_allclose(padded[20:, 10:20], 0, atol=5)
    cropped = read_image(path, (1, 30, 30), "crop")[0].reshape(30, 30)
    np.testing.assert_allclose(cropped[:10], 255, atol=5)
    np.testing.assert_allclose(cropped[20:], 0, atol=5)


def test_an_image_of_one_line(tmp_path):
    line = np.arange(1000) // 4
    path = save(Image.fromarray(line[None].astype(np.uint8)), tmp_path / "a.png")
    squeezed, cropped, padded = (
        read_image(path, (1, 32, 32), fit)[0].reshape(32, 32) for fit in ("squeeze", "crop", "pad")
    )
    np.testing.assert_allclose(squeezed, np.tile(line.reshape(-1, 125).mean(axis=1).repeat(4), (32, 1)), atol=17)
    np.testing.assert_allclose(cropped, line[500], atol=1)  # a square in the middle
    assert (np.delete(padded, 15, axis=0) == 255).all()
    np.testing.assert_array_equal(padded[15], squeezed[0])


def test_small_pictures_of_large_ones_are_antialiased(tmp_path):
    checks = (np.indices((320, 320)).sum(axis=0) % 2 * 255).astype(np.uint8)
    path = save(Image.fromarray(checks), tmp_path / "a.png")
    np.testing.assert_allclose(read_image(path, (1, 32, 32), "squeeze")[0], 127.5, atol=3)


def test_shapes_that_are_not_square(tmp_path):
    path = save(Image.fromarray(PIXELS[:16, :8]), tmp_path / "a.png")
    row, note = read_image(path, (3, 16, 8), "squeeze")
    np.testing.assert_array_equal(row, PIXELS[:16, :8].transpose(2, 0, 1).ravel())
    assert note is None
    with pytest.raises(DataError, match="an image has 1 or 3 channels, but the model takes 2"):
        read_image(path, (2, 16, 8), "squeeze")


def png_claiming(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(png_claiming(40_000, 40_000), "claims more than 100 megapixels; make it smaller", id="1600 MP"),
        pytest.param(png_claiming(10_001, 10_000), "claims more than 100 megapixels; make it smaller", id="100.01 MP"),
        pytest.param(png_claiming(100, 100), "is damaged or cut off", id="too few pixels"),
        pytest.param(jpeg()[:500], "is damaged or cut off", id="cut off"),
        pytest.param(b"", "is not an image that can be read", id="empty"),
        pytest.param(b"\x93NUMPY", "is not an image that can be read", id="other"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n",
            "is not an image that can be read",
            id="PostScript, which Pillow would run",
        ),
    ],
)
def test_files_that_are_no_good_images(tmp_path, content, words):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"/a\.png: {words}") as caught:
        read_image(tmp_path / "a.png", COLOUR, "squeeze")
    assert "\n" not in str(caught.value)


@pytest.fixture
def heif():
    """Pillow, which writes HEIC images with this package."""
    pytest.importorskip("pillow_heif").register_heif_opener()


@pytest.mark.usefixtures("heif")
def test_heic(tmp_path):
    picture = np.kron(RNG.integers(40, 216, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    path = save(Image.fromarray(picture), tmp_path / "a.heic", quality=100, chroma=444)
    row, note = read_image(path, COLOUR, "squeeze")
    np.testing.assert_allclose(row.reshape(COLOUR), picture.transpose(2, 0, 1), atol=12)
    assert note is None
    path = save(Image.fromarray(picture[:, :, 0]), tmp_path / "grey.heic", quality=100)
    np.testing.assert_allclose(read_image(path, (1, 32, 32), "squeeze")[0], picture[:, :, 0].ravel(), atol=12)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    black = Image.new("RGB", (64, 32))
    black.paste((255, 255, 255), (0, 0, 32, 32))
    path = save(black, tmp_path / "turned.heic", exif=exif.tobytes())
    row, note = read_image(path, (1, 64, 32), "squeeze")
    np.testing.assert_allclose(row.reshape(64, 32)[[8, 56]], [[255] * 32, [0] * 32], atol=8)
    assert note is None
    path = save(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), tmp_path / "clear.heic")
    np.testing.assert_array_equal(read_image(path, COLOUR, "squeeze")[0], 255)
    headers = images.each_image(images.read_header, sorted(tmp_path.glob("*.heic")), lambda *_: None)
    assert list(headers) == [((32, 32), False), ((32, 32), False), ((32, 32), True), ((32, 64), False)]


def with_size(content, width, height):
    """Return a HEIC file with another size in its header."""
    start = content.index(b"ispe") + 8
    return content[:start] + struct.pack(">II", width, height) + content[start + 8 :]


@pytest.mark.usefixtures("heif")
def test_heic_files_that_are_no_good_images(tmp_path, monkeypatch):
    path = save(Image.fromarray(PIXELS).resize((64, 48)), tmp_path / "a.heic")
    content, row = path.read_bytes(), read_image(path, COLOUR, "squeeze")[0]
    for some in (content[:-30], content[:200], content[:20], b"", with_size(content, 2**31, 2**31)):
        path.write_bytes(some)
        with pytest.raises(DataError, match=r"/a\.heic: (is damaged|is not an image)") as caught:
            read_image(path, COLOUR, "squeeze")
        assert "\n" not in str(caught.value)
    for size in (9, 20_000):  # libheif ignores a false size, or refuses the file
        path.write_bytes(with_size(content, size, size))
        try:
            np.testing.assert_array_equal(read_image(path, COLOUR, "squeeze")[0], row)
        except DataError as error:
            assert re.fullmatch(r".*/a\.heic: is damaged or cut off \(.*\)", str(error))
    path.write_bytes(content)
    monkeypatch.setattr(images, "_MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(DataError, match=r"a\.heic: claims more than 0 megapixels; make it smaller"):
        read_image(path, COLOUR, "squeeze")
    (tmp_path / "not.png").write_bytes(content)
    monkeypatch.setattr(images, "_MAX_PIXELS", 64 * 48)
    assert read_image(tmp_path / "not.png", COLOUR, "squeeze")[0].std() > 10, "the content decides, not the name"


def test_heic_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "heif_version", lambda: None)
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x1cftypheic")
    words = r"a\.HEIC: cannot be read without pillow-heif; to read HEIC images, pip install pillow-heif$"
    with pytest.raises(DataError, match=words):
        read_image(tmp_path / "a.HEIC", COLOUR, "squeeze")


def test_missing(tmp_path):
    for path, words in ((tmp_path, "a folder, not an image"), (tmp_path / "none.png", "no such file")):
        with pytest.raises(DataError, match=f"^{path}: {words}$"):
            read_image(path, COLOUR, "squeeze")


def test_huge_images_are_not_decoded_all_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_SMALL_PIXELS", 0)
    monkeypatch.setattr(images, "_MAX_PIXELS", 24)
    loading = ImageFile.ImageFile.load
    at_a_time, most = 0, 0
    lock = threading.Lock()

    def slowly(image):
        nonlocal at_a_time, most
        with lock:
            at_a_time += 1
            most = max(most, at_a_time)
        time.sleep(0.01)
        with lock:
            at_a_time -= 1
        return loading(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", slowly)
    paths = [save(Image.new("RGB", (4, 3)), tmp_path / f"{number}.png") for number in range(10)]
    found = list(
        images.each_image(lambda path: images.decode_image(path, (3, 3, 4), "squeeze"), paths, lambda *_: None, block=1)
    )
    assert len(found) == 10
    assert most == 2, "of 12 pixels each"
