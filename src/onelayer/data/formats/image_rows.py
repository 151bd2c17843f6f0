"""Many images as rows of one shape, decoded once and kept in the cache."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import compress
from math import prod
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np

from onelayer.config import Fit, SourceConfig
from onelayer.data.cache import cache_directory, cached_rows, find_rows, forget_rows
from onelayer.data.progress import Progress
from onelayer.data.untrusted.images import (
    DISTORTION,
    Decoded,
    Encoded,
    F,
    Header,
    Images,
    PassingError,
    dark_note,
    decode_image,
    each_image,
    heif_version,
    read_header,
)
from onelayer.errors import DataError
from onelayer.words import counted, printable

MAX_SIDE = 64  # pixels: the longest side of the default size
MAX_LOST = 0.01  # the fraction of files that may be left out without an error
MOST_NAMED = 3  # the number of unreadable files that a message names

_VERSION = 1  # of the rows in the cache; it changes when the same images give other rows
_SAMPLE = 1000  # images, at least; if they have one size, it is the size of all
_BLOCK_BYTES = 2**22  # of the rows that a thread makes at a time


class ImageRows(NamedTuple):
    """The rows of images, and the images that they belong to.

    Parameters
    ----------
    rows : ndarray (m, d), uint8
        The images that can be read, in their order, as `cached_rows` returns them.
    image_shape : (c, h, w)
        One channel if all images are stored as greys, else three.
    kept : ndarray (n,), bool
        True for the images that can be read.
    fit : {"squeeze", "crop", "pad"}
        The way in which images of other proportions were brought to this shape.
    lost : str
        The number of the images that cannot be read, and reasons; empty if all can.
    notes : tuple of str
        Other sentences that a person should read.
    """

    rows: np.ndarray
    image_shape: tuple[int, int, int]
    kept: np.ndarray
    fit: Fit
    lost: str
    notes: tuple[str, ...]

    def left_out(self, others: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a note on the images that cannot be read, and on other files that were left out, if any."""
        kinds = [*others, *filter(None, [self.lost])]
        return (f"left out: {', '.join(kinds)}",) if kinds else ()


def image_rows(
    path: Path,
    images: Images[F],
    source: Callable[[F], Path | Encoded],
    state: bytes,
    config: SourceConfig,
    progress: Progress,
    block: int = 16,
) -> ImageRows:
    """Return the rows of images, decoded or from the cache.

    Parameters
    ----------
    path : Path
        The place of the images, as errors name it.
    images : Images
        The images in the order of the rows, read once for their sizes and once for their pixels. `str` of one is its
        name.
    source : callable
        Returns the file, or the content of the file, of an image.
    state : bytes
        A digest of everything that decides the images' contents.
    config : SourceConfig
        Images are resized to its image size, and fitted as it says; see `_choose`.
    progress : callable
        Called with the images done and the total, from the start again for sizes and pixels.
    block : int
        Images that a thread takes at a time; fewer if their rows are large.

    Raises
    ------
    DataError
        If none of the images can be read, or more than 1 % cannot and the settings do not allow that.
    """
    from PIL import __version__

    def key(fit: str) -> str:
        how = f"{config.width_and_height}, {fit}, {_VERSION}, Pillow {__version__}, pillow-heif {heif_version()}"
        return hashlib.sha256(state + how.encode()).hexdigest()

    found = find_rows(key(config.fit))
    if found is None and config.fit != "auto" and (chosen := find_rows(key("auto"))) and chosen[1]["fit"] == config.fit:
        found = chosen  # a run records the way that was chosen, and reads its data again
    if found is None:
        shape, fit = _choose(path, images, source, config, progress, block)
        fill = partial(_fill, path, images, source, shape, fit, progress, block)
        found = cached_rows(key(config.fit), (len(images), prod(shape)), fill)
        if found[1]["passing"]:
            forget_rows(key(config.fit))
    rows, facts = found
    kept = np.ones(len(images), bool)
    kept[facts["unreadable"]] = False
    c, h, w = facts["image_shape"]
    lost = _lost(path, len(images), facts, config)
    notes = (*_fitted(facts, len(rows), config), *_dark(facts))
    if not isinstance(rows, np.memmap):
        why = f"the cache {cache_directory()} cannot be written, so every start decodes the images again"
        notes = (*notes, why)
    return ImageRows(rows, (c, h, w), kept, facts["fit"], lost, notes)


def _choose(
    path: Path,
    images: Images[F],
    source: Callable[[F], Path | Encoded],
    config: SourceConfig,
    progress: Progress,
    block: int,
) -> tuple[tuple[int, int, int], Fit]:
    """Return the shape (c, h, w) that all images are resized to, and the way to fit those of other proportions.

    Without an image size it is the most common size, after both sides are scaled down to at most 64 pixels. If images
    are not squeezed, only the sizes count whose proportions more than half of the images have, where there are any.
    """
    # Opening a small image takes a third of the time of decoding it. If a sample of the files has one size and one of
    # them has colours, looking into all files would change nothing.
    for some in (_Sample(images, max(1, len(images) // _SAMPLE)), images):
        sizes: Counter[tuple[int, int]] = Counter()
        grey, reason = True, ""
        with closing(each_image(lambda image: read_header(source(image)), some, progress, block)) as headers:
            for header in headers:
                if isinstance(header, Header):
                    sizes[_shrunk(header.size)] += 1
                    grey &= header.grey
                else:
                    reason = reason or _relative(path, header)
        if len(some) == len(images) or (len(sizes) == 1 and not grey):
            break
    if not sizes:
        raise _none_readable(path, len(images), reason)
    wanted = [config.width_and_height] if config.width_and_height else list(sizes)
    usual = [] if config.fit == "squeeze" else [size for size in wanted if _is_common(sizes, size)]
    # The largest of several equally common sizes wins.
    w, h = max(usual or wanted, key=lambda size: (sizes[size], prod(size), size))
    fit: Fit = config.fit if config.fit != "auto" else "crop" if usual else "squeeze"
    return (1 if grey else 3, h, w), fit


class _Sample(Generic[F]):
    """A sample with an image drawn from each `step`; a fixed step could meet only one of two alternating sizes."""

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


def _is_common(sizes: Counter[tuple[int, int]], size: tuple[int, int]) -> bool:
    """Return whether more than half of the images of these sizes have, to the eye, the proportions of `size`."""
    widths, heights = np.array(list(sizes)).T
    ratios = widths * size[1] / (heights * size[0])
    alike = np.maximum(ratios, 1 / ratios) <= DISTORTION
    return bool(2 * np.array(list(sizes.values()))[alike].sum() > sizes.total())


def _shrunk(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size scaled down, if necessary, to at most MAX_SIDE on both sides."""
    scale = min(1, MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fill(
    path: Path,
    images: Images[F],
    source: Callable[[F], Path | Encoded],
    image_shape: tuple[int, int, int],
    fit: Fit,
    progress: Progress,
    block: int,
    rows: np.ndarray,
) -> tuple[int, dict[str, Any]]:
    """Decode images into rows (n, d), from the first on; return the number of rows and facts about the images."""
    unreadable: list[int] = []
    reasons: list[str] = []
    fitted, first_fitted = 0, ""
    deep, brightest = 0, 0
    used, passing = 0, False

    def decode(image: F) -> tuple[Decoded, str]:
        return decode_image(source(image), image_shape, fit), str(image)

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
                if decoded.fitted:
                    fitted += 1
                    first_fitted = first_fitted or printable(name)
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
        "fit": fit,
        "fitted": [fitted, first_fitted],
        "of 16 bits": [deep, brightest],
    }


def _none_readable(path: Path, count: int, reason: str) -> DataError:
    return DataError(f"{path}: none of {counted(count, 'image')} can be read: {reason}")


def _lost(path: Path, count: int, facts: dict[str, Any], config: SourceConfig) -> str:
    """Return the number of the images that cannot be read, and reasons; raise a DataError if they are too many."""
    lost = len(facts["unreadable"])
    if not lost:
        return ""
    more = "; ..." if lost > len(facts["reasons"]) else ""
    these, why = f"{lost:,} of {counted(count, 'image')}", f"cannot be read: {'; '.join(facts['reasons'])}{more}"
    if lost > MAX_LOST * count and not config.allow_unreadable:
        raise DataError(f"{path}: {these} {why}; mend or remove them, or pass --allow-unreadable to leave them out")
    return f"{these} that {why}"


_FITTED = {"squeeze": "distorted to fit", "crop": "cropped to the proportions of", "pad": "padded with white to"}
_ADVICE = {"squeeze": "; --fit crop or --fit pad keeps their proportions", "crop": "; --fit pad keeps all of them"}


def _fitted(facts: dict[str, Any], count: int, config: SourceConfig) -> Iterator[str]:
    """Yield a note on images of other proportions among `count`, if any."""
    fitted, first = facts["fitted"]
    (_, h, w), fit = facts["image_shape"], facts["fit"]
    if fitted:
        advice = _ADVICE[fit] if config.fit == "auto" else ""
        yield f"{fitted:,} of {counted(count, 'image')} {_FITTED[fit]} {w} x {h}, such as {first}{advice}"


def _dark(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a note on images of 16 bits that use few of them, if any."""
    count, brightest = facts.get("of 16 bits", (0, 0))  # older entries of the cache do not have it
    if count and (dark := dark_note(brightest)):
        yield f"{counted(count, 'image')} of 16 bits: {dark}"


def _relative(path: Path, error: DataError) -> str:
    """Return the message of an image's error, with the image's path relative to `path`."""
    return printable(str(error).removeprefix(f"{path}/"), 200)
