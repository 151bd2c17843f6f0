"""A reader of image files, as rows of pixels of a given shape."""

import errno
import os
import stat
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from onelayer.config import Fit
from onelayer.data.progress import Progress
from onelayer.errors import DataError
from onelayer.words import printable

if TYPE_CHECKING:
    from PIL import Image

# Only formats in which people keep pictures. Pillow knows more, and some of them, such as EPS, run other programs.
IMAGE_FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
HEIF_ADVICE = "to read HEIC images, pip install pillow-heif"
_NAMES = tuple(IMAGE_FORMATS)
_MAX_PIXELS = 100_000_000  # of an image, and of all images decoded at a time; a pixel takes up to 20 bytes
_SMALL_PIXELS = 2**20  # an image of at most this many pixels is not counted
DISTORTION = 1.05  # above this ratio of two aspect ratios a person sees the difference
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height

_KEPT = (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM)  # errors that stay until the file is changed

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
T = TypeVar("T")


@cache
def heif_version() -> str | None:
    """Return the version of pillow-heif, with which Pillow reads HEIC images; None if it is not installed."""
    try:
        return version("pillow-heif")
    except PackageNotFoundError:
        return None


def readable_suffixes() -> list[str]:
    """Return the suffixes of the image files that can be read, in small letters."""
    suffixes = [*IMAGE_FORMATS.values(), *[HEIF_SUFFIXES] * (heif_version() is not None)]
    return sorted(suffix for of_format in suffixes for suffix in of_format)


class PassingError(DataError):
    """An image could not be read for a reason that may be gone the next time, such as a missing disk."""


class Encoded(NamedTuple):
    """An image that another file holds or lists: its name in messages, and its content or the path of its own file.

    The content is empty if there is no image.
    """

    name: str
    content: bytes | Path

    def __str__(self) -> str:
        return self.name


class Images(Protocol[F_co]):
    """A collection of images that can be iterated more than once, and need not all be in memory."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[F_co]: ...


class Header(NamedTuple):
    """The facts in an image file's header.

    Parameters
    ----------
    size : (w, h)
        Width and height of the upright image.
    grey : bool
        Whether it is stored as greys.
    """

    size: tuple[int, int]
    grey: bool


class Decoded(NamedTuple):
    """An image as a row.

    Parameters
    ----------
    row : ndarray (c * h * w,), uint8
        Channels first.
    fitted : str or None
        A sentence about the way in which an image of other proportions was fitted.
    brightest : int or None
        The largest value of an image of 16 bits after its reduction to 8 bits; None for other images.
    """

    row: np.ndarray
    fitted: str | None = None
    brightest: int | None = None


def read_image(path: Path, image_shape: tuple[int, int, int], fit: Fit) -> tuple[np.ndarray, str | None]:
    """Read an image and resize it to a shape.

    Parameters
    ----------
    path : Path
        A PNG, JPEG, GIF, WebP, BMP, TIFF or PPM file, or a HEIC file where pillow-heif is installed. Of an animation,
        the first frame is read.
    image_shape : (c, h, w)
        c is 1 for greys or 3 for red, green and blue.
    fit : {"squeeze", "crop", "pad"}
        An image of other proportions is distorted, or its middle is taken, or all of it is laid on white.

    Returns
    -------
    row : ndarray (c * h * w,), uint8
        Channels first.
    note : str or None
        A sentence that a person should read: the image has other proportions, or lost most of its 16 bits.

    Raises
    ------
    DataError
        If the file is missing, not an image, damaged, or larger than 100 megapixels.
    """
    with _pillow_ready():
        row, fitted, brightest = decode_image(path, image_shape, fit)
    dark = dark_note(brightest)
    return row, "; ".join(filter(None, [fitted, dark and f"{path}: {dark}"])) or None


def dark_note(brightest: int | None) -> str | None:
    """Return a note on images of 16 bits with this brightest value of 8 bits; None if they use half of the range."""
    if brightest is None or brightest > 127:
        return None
    what = f"16 bits become 8 by a division by 257, which leaves the values 0 to {brightest} of 255"
    return f"{what}; if white is not 65,535, as in files of 10-bit or 12-bit cameras, scale the values up to it first"


def each_image(
    function: Callable[[F], T], files: Images[F], progress: Progress, block: int = 16
) -> Generator[T | DataError]:
    """Yield the result of a function for each file, in the files' order; several threads call it.

    Close the generator if not all results are taken: the calls that run are finished then, and no other begins.

    Parameters
    ----------
    function : callable
        Takes a file and calls `read_header` or `decode_image`. Pillow lets other threads work while it decodes.
    files : Images
        The files, or objects that stand for them.
    progress : callable
        Called with the files done and the total.
    block : int
        Files that a thread takes at a time. Up to three blocks for each thread are computed ahead.

    Yields
    ------
    object
        The result of the function, or the DataError that it raised.
    """
    threads = min(32, (os.cpu_count() or 1) + 4)  # some wait for the disk
    closed = threading.Event()

    def work(some: Sequence[F]) -> list[T | DataError]:
        results: list[T | DataError] = []
        for file in some:
            if closed.is_set():
                break
            try:
                results.append(function(file))
            except DataError as error:
                results.append(error)
        return results

    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[list[T | DataError]]] = deque()
    with _pillow_ready():
        try:
            remaining, done = iter(files), 0
            while some := list(islice(remaining, block)):
                pending.append(pool.submit(work, some))
                if len(pending) > 2 * threads:
                    yield from pending.popleft().result()
                    done += block
                    progress(done, len(files))
            while pending:
                yield from pending.popleft().result()
            progress(len(files), len(files))
        finally:
            closed.set()
            pool.shutdown()


def read_header(source: Path | Encoded) -> Header:
    """Return size and kind of an image; call it within `each_image`."""
    with _opened(source) as image:
        w, h = image.size
        # Pillow swaps the sizes of TIFF itself. In other formats it keeps the orientation in info; asking for the EXIF
        # data of a PNG that has none would decode the pixels.
        if image.format != "TIFF" and "exif" in image.info and image.getexif().get(_ORIENTATION) in _LYING:
            w, h = h, w
        return Header((w, h), image.mode in ("1", "L", "LA") or image.mode.startswith("I"))


def decode_image(source: Path | Encoded, image_shape: tuple[int, int, int], fit: Fit) -> Decoded:
    """Read an image like `read_image`, but return facts instead of a note; call it within `each_image`."""
    from PIL import Image, ImageOps

    c, h, w = image_shape
    if c not in (1, 3):
        raise DataError(f"{source}: an image has 1 or 3 channels, but the model takes {c}")
    with _opened(source) as image, _room(image.width * image.height):
        deep = _has_16_bits(image)
        image.load()
        if image.width * image.height > _MAX_PIXELS:  # a HEIC image may be larger than its header says
            raise Image.DecompressionBombError
        if image.info:  # Pillow keeps the orientation there; in many images it is empty
            ImageOps.exif_transpose(image, in_place=True)
        eight_bits = _eight_bits(image, source)
        brightest = _brightest(eight_bits) if deep else None
        upright = _on_white(eight_bits)
        mode = "L" if c == 1 else "RGB"
        if upright.mode != mode:
            upright = upright.convert(mode)
        fitted = None
        distortion = (upright.width * h) / (upright.height * w)
        if max(distortion, 1 / distortion) > DISTORTION:
            fitted = f"{source}: {upright.width} x {upright.height} {_FITTED[fit].format(f'{w} x {h}')}"
        pixels = np.asarray(_fit(upright, (w, h), fit)).reshape(h, w, c)
        return Decoded(pixels.transpose(2, 0, 1).reshape(-1), fitted, brightest)


_FITTED: dict[Fit, str] = {
    "squeeze": "was squeezed to {}, which distorts it",
    "crop": "was cropped to its middle, with the proportions of {}",
    "pad": "was padded with white to {}",
}


def _fit(image: "Image.Image", size: tuple[int, int], fit: Fit) -> "Image.Image":
    """Return an image resized to a size: all of it distorted, its middle, or all of it on white."""
    from PIL import Image

    if image.size == size:
        return image
    (w, h), (width, height) = size, image.size
    if fit == "pad":
        scale = min(w / width, h / height)
        inner = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
        padded = Image.new(image.mode, size, "white")  # as transparent parts are
        padded.paste(inner, ((w - inner.width) // 2, (h - inner.height) // 2))
        return padded
    scale = min(width / w, height / h)
    # The middle part, in pixels that need not be whole; the minimum undoes rounding.
    across, down = (width, height) if fit == "squeeze" else (min(width, w * scale), min(height, h * scale))
    box = ((width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2)
    return image.resize(size, Image.Resampling.LANCZOS, box)


@contextmanager
def _pillow_ready() -> Iterator[None]:
    """Import Pillow's readers and silence its warnings, since several threads cannot safely do either."""
    from PIL import (  # noqa: F401  # the import makes them known to Image.open
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of sizes that are checked here
        yield


@contextmanager
def _opened(source: Path | Encoded) -> Iterator["Image.Image"]:
    """Open the first frame of an image, without decoding it; turn every error into a DataError."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = source if isinstance(source, Path) else source.content
        if isinstance(content, Path):
            mode = content.stat().st_mode
            if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
                raise DataError(f"{source}: {'a folder' if stat.S_ISDIR(mode) else 'a device or pipe'}, not an image")
        elif not content:
            raise DataError(f"{source}: has no image")
        with _identified(content if isinstance(content, Path) else BytesIO(content)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source}: no such file") from None
    except Image.DecompressionBombError:
        raise DataError(f"{source}: claims more than {_MAX_PIXELS // 10**6} megapixels; make it smaller") from None
    except UnidentifiedImageError:
        if heif_version() is None and str(source).lower().endswith(HEIF_SUFFIXES):
            raise DataError(f"{source}: cannot be read without pillow-heif; {HEIF_ADVICE}") from None
        raise DataError(f"{source}: is not an image that can be read ({', '.join(_NAMES)})") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        if isinstance(error, MemoryError):
            raise PassingError(f"{source}: there is not enough memory for it") from None
        if isinstance(error, OSError) and error.errno is not None:  # from the system, not from Pillow
            kind = DataError if error.errno in _KEPT else PassingError
            raise kind(f"{source}: {error.strerror}") from None
        reason = printable(" ".join(str(error).split()), 200)
        raise DataError(f"{source}: is damaged or cut off ({reason})") from None


def _identified(file: Path | BytesIO) -> "Image.Image":
    """Return an image whose format is known by its content. pillow-heif, which takes long to load, is asked last."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file, formats=_NAMES)
    except UnidentifiedImageError:
        if heif_version() is None:
            raise
        with _changed:  # one thread at a time
            import pillow_heif

            pillow_heif.register_heif_opener()
        return Image.open(file, formats=("HEIF",))


_in_work = 0  # pixels
_changed = threading.Condition()


@contextmanager
def _room(pixels: int) -> Iterator[None]:
    """Wait until this many pixels can be decoded beside those in work: every thread may have a huge image."""
    global _in_work
    if pixels <= _SMALL_PIXELS:
        yield
        return
    with _changed:
        _changed.wait_for(lambda: _in_work + pixels <= _MAX_PIXELS)
        _in_work += pixels
    try:
        yield
    finally:
        with _changed:
            _in_work -= pixels
            _changed.notify_all()


def _eight_bits(image: "Image.Image", source: Path | Encoded) -> "Image.Image":
    """Return an image with greys of 16 bits scaled to 8 bits; Pillow's own conversion would clip them."""
    from PIL import Image

    if not image.mode.startswith("I"):
        if image.mode == "F":
            raise DataError(f"{source}: holds floating-point greys; save it with 8 or 16 bits")
        return image
    greys = np.array(image, np.int32)
    if greys.min() < 0 or greys.max() > 65535:
        raise DataError(f"{source}: holds greys of 32 bits; save it with 8 or 16 bits")
    greys += 128  # rounds
    greys //= 257
    return Image.fromarray(greys.astype(np.uint8))


def _has_16_bits(image: "Image.Image") -> bool:
    """Return whether an image that is not decoded yet has 16 bits for each channel; Pillow keeps 8 bits of colours.

    In a PPM file with another maximum than 65,535, Pillow itself scales the values up to it.
    """
    how = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return image.mode.startswith("I") or any(
        ";16" in args or ("65535" in args and image.format == "PPM") for args in how
    )


def _brightest(image: "Image.Image") -> int:
    """Return the largest value of greys or colours, without regard to transparency."""
    values = np.asarray(image)  # (h, w) or (h, w, c)
    return int(values[..., : -1 if image.mode.endswith("A") else None].max() if values.ndim == 3 else values.max())


def _on_white(image: "Image.Image") -> "Image.Image":
    """Return an image whose transparent parts are white."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
