"""Many images as rows of one shape, decoded once and kept in the cache."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import compress
from math import prod
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np

from onelayer.config import SourceConfig
from onelayer.data.cache import cache_directory, cached_rows, find_rows, forget_rows
from onelayer.data.progress import Progress
from onelayer.data.untrusted.images import (
    Decoded,
    Encoded,
    F,
    Header,
    Images,
    PassingError,
    dark_note,
    decode_image,
    each_image,
    read_header,
)
from onelayer.errors import DataError
from onelayer.words import counted, printable

MAX_SIDE = 64  # of the size that images get where none is asked for
MAX_LOST = 0.01  # of all images: files that may be left out without a word or an error
MOST_NAMED = 3  # unreadable files that a message names

_VERSION = 1  # of the rows in the cache: another number where the same images give other rows
_SAMPLE = 1000  # images, at least, that tell the size of all where they agree
_BLOCK_BYTES = 2**22  # of the rows that a thread makes at a time


class ImageRows(NamedTuple):
    """What became of images.

    Parameters
    ----------
    rows : ndarray (m, d), uint8
        As `cached_rows` returns them; the images that can be read, in their order.
    image_shape : (c, h, w)
        Of one channel where all images are stored as greys, else of three.
    kept : ndarray (n,), bool
        Which of the images these are.
    notes : tuple of str
        What a person should be told.
    """

    rows: np.ndarray
    image_shape: tuple[int, int, int]
    kept: np.ndarray
    notes: tuple[str, ...]


def image_rows(
    path: Path,
    images: Images[F],
    source: Callable[[F], Path | Encoded],
    state: bytes,
    config: SourceConfig,
    progress: Progress,
    block: int = 16,
) -> ImageRows:
    """Decode images, or find their rows in the cache.

    Parameters
    ----------
    path : Path
        Where the images are, as errors say it.
    images : Images
        In the order of the rows; gone through once for their sizes and once for their pixels. Their texts name them.
    source : callable
        Makes of one of them what holds it.
    state : bytes
        A digest of what decides the images' contents.
    config : SourceConfig
        The size that they are brought to is by default the most common of those that they have when both sides are
        scaled down to at most 64 pixels.
    progress : callable
        Called with the images done and the images in all, anew for sizes and pixels.
    block : int
        Images that a thread takes at a time, as far as their rows are not too large for so many.

    Raises
    ------
    DataError
        If more than 1 % of the images cannot be read and this is not allowed, or none can.
    """
    from PIL import __version__

    how = f"{config.width_and_height}, {_VERSION}, Pillow {__version__}"
    key = hashlib.sha256(state + how.encode()).hexdigest()
    found = find_rows(key)
    if found is None:
        shape = _choose_shape(path, images, source, config, progress, block)
        fill = partial(_fill, path, images, source, shape, progress, block)
        found = cached_rows(key, (len(images), prod(shape)), fill)
        if found[1]["passing"]:
            forget_rows(key)
    rows, facts = found
    kept = np.ones(len(images), bool)
    kept[facts["unreadable"]] = False
    c, h, w = facts["image_shape"]
    notes = (*_lost(path, len(images), facts, config), *_squeezed(facts), *_dark(facts))
    if not isinstance(rows, np.memmap):
        notes = (*notes, f"the cache {cache_directory()} cannot be written: every start decodes the images anew")
    return ImageRows(rows, (c, h, w), kept, notes)


def _choose_shape(
    path: Path,
    images: Images[F],
    source: Callable[[F], Path | Encoded],
    config: SourceConfig,
    progress: Progress,
    block: int,
) -> tuple[int, int, int]:
    """The shape (c, h, w) that all images are brought to."""
    # Opening a small image takes a third of the time of decoding it. Where files from everywhere agree on a size, and
    # one of them has colours, looking into all would tell nothing new.
    for some in (_Sample(images, max(1, len(images) // _SAMPLE)), images):
        sizes: Counter[tuple[int, int]] = Counter()
        grey, reason = True, ""
        with closing(each_image(lambda image: read_header(source(image)), some, progress, block)) as headers:
            for header in headers:
                if isinstance(header, Header):
                    sizes[_fit(header.size)] += 1
                    grey &= header.grey
                else:
                    reason = reason or _relative(path, header)
        if len(some) == len(images) or (len(sizes) == 1 and not grey):
            break
    if not sizes:
        raise _none_readable(path, len(images), reason)
    # Of equally many, the largest, which is the closest to a square.
    w, h = config.width_and_height or max(sizes, key=lambda size: (sizes[size], prod(size), size))
    return 1 if grey else 3, h, w


class _Sample(Generic[F]):
    """One of every so many images, drawn: the names of two sizes may alternate, and any fixed step with them."""

    def __init__(self, images: Images[F], step: int) -> None:
        self.images = images
        starts = np.arange(0, len(images), step)
        self.places = starts + np.random.default_rng(0).integers(np.minimum(step, len(images) - starts))

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[F]:
        drawn = np.zeros(len(self.images), bool)
        drawn[self.places] = True
        return compress(self.images, drawn)


def _fit(size: tuple[int, int]) -> tuple[int, int]:
    """A size scaled down, where need be, to at most MAX_SIDE on both sides."""
    scale = min(1, MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fill(
    path: Path,
    images: Images[F],
    source: Callable[[F], Path | Encoded],
    image_shape: tuple[int, int, int],
    progress: Progress,
    block: int,
    rows: np.ndarray,
) -> tuple[int, dict[str, Any]]:
    """Decode images into the first of the rows (n, d); return how many, and what else is to be known."""
    unreadable: list[int] = []
    reasons: list[str] = []
    squeezed, first_squeezed = 0, ""
    deep, brightest = 0, 0
    used, passing = 0, False

    def decode(image: F) -> tuple[Decoded, str]:
        return decode_image(source(image), image_shape), str(image)

    block = max(1, min(block, _BLOCK_BYTES // rows.shape[1]))
    with closing(each_image(decode, images, progress, block)) as results:
        for place, result in enumerate(results):
            if isinstance(result, DataError):
                unreadable.append(place)
                passing |= isinstance(result, PassingError)
                if len(reasons) < MOST_NAMED:
                    reasons.append(_relative(path, result))
            else:
                decoded, name = result
                rows[used] = decoded.row
                used += 1
                if decoded.distorted:
                    squeezed += 1
                    first_squeezed = first_squeezed or printable(name)
                if decoded.brightest is not None:
                    deep += 1
                    brightest = max(brightest, decoded.brightest)
    if not used:
        raise _none_readable(path, len(images), reasons[0])
    return used, {
        "image_shape": image_shape,
        "unreadable": unreadable,
        "reasons": reasons,
        "passing": passing,
        "squeezed": [squeezed, first_squeezed],
        "of 16 bits": [deep, brightest],
    }


def _none_readable(path: Path, count: int, reason: str) -> DataError:
    return DataError(f"{path}: none of {counted(count, 'image')} can be read: {reason}")


def _lost(path: Path, count: int, facts: dict[str, Any], config: SourceConfig) -> Iterator[str]:
    """Say which of so many images could not be read; an error if these are too many."""
    lost = len(facts["unreadable"])
    if not lost:
        return
    more = "; ..." if lost > len(facts["reasons"]) else ""
    what = f"{lost:,} of {counted(count, 'image')} cannot be read: {'; '.join(facts['reasons'])}{more}"
    if lost > MAX_LOST * count and not config.allow_unreadable:
        raise DataError(f"{path}: {what}; mend or remove them, or pass --allow-unreadable to leave them out")
    yield f"left out, as {what}"


def _squeezed(facts: dict[str, Any]) -> Iterator[str]:
    count, first = facts["squeezed"]
    _, h, w = facts["image_shape"]
    if count:
        yield f"{counted(count, 'image')} of other proportions squeezed to {w} x {h}, such as {first}"


def _dark(facts: dict[str, Any]) -> Iterator[str]:
    count, brightest = facts.get("of 16 bits", (0, 0))  # which older rows in the cache do not tell
    if count and (dark := dark_note(brightest)):
        yield f"{counted(count, 'image')} of 16 bits: {dark}"


def _relative(path: Path, error: DataError) -> str:
    """An error of an image, named from where `path` ends."""
    return printable(str(error).removeprefix(f"{path}/"), 200)
