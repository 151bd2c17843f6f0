"""Answers of a model on images and rows in files. They come one after the other, so their number needs no memory."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import count, groupby, islice, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onelayer.data.formats.arrays import find_arrays, read_rows
from onelayer.data.formats.folder_walk import Walk
from onelayer.data.formats.listing import listed_files
from onelayer.data.formats.parquet_images import open_images
from onelayer.data.formats.parquet_table import lists_images, number_blocks
from onelayer.data.progress import Progress, silent
from onelayer.data.untrusted.images import Decoded, Encoded, F, Images, dark_note, decode_image, each_image
from onelayer.errors import DataError, OnelayerWarning, UnitWarning
from onelayer.features.units import LOOKED_AT
from onelayer.layer import likeliest, ranked
from onelayer.model import Model

ARRAYS, TABLES = (".npy", ".npz", ".safetensors", ".pt"), (".parquet",)  # files with many rows
_BLOCK_ROWS, _BLOCK_BYTES = 4096, 2**26  # classified at a time
_THREAD_ROWS, _THREAD_BYTES = 16, 2**22  # decoded at a time by a thread

_Place = tuple[str, int | None]  # a path, and the number of a row in this file
_File = tuple[Path, DataError | None]  # a path, and the reason why it cannot be read, if that is known


class Answer(NamedTuple):
    """The answer of a model on an image or a row, or the reason why there is none.

    Parameters
    ----------
    path : str
    row : int or None
        Number of the row, counted from 0, in a file of many rows.
    label : int or None
        The likeliest class; None if there is an error.
    logits, probabilities : ndarray (K,) or None
    note, error : str
        Sentences that a person should read; empty if there is nothing to say.
    """

    path: str
    row: int | None = None
    label: int | None = None
    logits: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    note: str = ""
    error: str = ""

    def classes(self, top: int) -> list[int]:
        """Return the likeliest classes (at most `top`,), the likeliest first; none if there is an error."""
        return [] if self.logits is None else ranked(self.logits)[:top].tolist()


def holds_rows(model: Model, path: Path) -> bool:
    """Return whether there are many rows at a path, by its name; for a model of features, a folder may hold arrays."""
    if not _is_folder(path):
        return path.suffix.lower() in (*ARRAYS, *TABLES)
    with suppress(OSError):  # reading the folder raises it
        return model.image_shape is None and find_arrays(path) is not None
    return False


def predict_files(model: Model, paths: Sequence[Path], progress: Progress = silent) -> Iterator[Answer]:
    """Yield an answer for each image and each row, in the order of the paths.

    Several threads decode images. An error on a file is an answer of its own, and does not stop the others.

    Parameters
    ----------
    model : Model
    paths : sequence of Path
        Image files, which are resized to the model's shape; folders, whose images at any depth are taken in the order
        of their names; arrays of rows in .npy, .npz, .safetensors and .pt files, and for a model of features in
        folders; .parquet files with a column of images, of their paths, or with numbers for a model of features.
    progress : callable
        Called with the images or rows done and their total, for each file of rows and for images that follow each
        other from the start again.
    """
    for many, some in groupby(paths, lambda path: holds_rows(model, path)):
        if many:
            for path in some:
                yield from _or_error(path, _of_rows(model, path, progress))
        else:
            files = [file for path in some for file in _images_at(path, progress)]
            yield from _of_images(model, files, _openable, ((str(path), None) for path, _ in files), progress)


def _or_error(path: Path, answers: Iterator[Answer]) -> Iterator[Answer]:
    try:
        yield from answers
    except DataError as error:
        yield Answer(str(path), error=str(error))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long; reading the file says so
        return False


def _images_at(path: Path, progress: Progress) -> list[_File]:
    """Return the images in a folder and below it, in the order of their names, or the image at a path."""
    if not _is_folder(path):
        return [(path, None)]
    try:
        walk = Walk(path, progress)
        folders, _ = walk.folders("")
        found = walk.images_at_the_top() + [name for folder in folders for name in walk.images(folder)]
        kinds = walk.left_out()
        left_out = f"left out: {', '.join(kinds)}" if kinds else ""
        if not found:
            raise DataError(f"{path}: holds no images" + f"; {left_out}" * bool(left_out))
    except DataError as error:
        return [(path, error)]
    if left_out:
        warnings.warn(OnelayerWarning(f"{path}: {left_out}"), stacklevel=2)
    return [(path / name, None) for name in sorted(found)]


def _openable(file: _File) -> Path:
    path, error = file
    if error:
        raise error
    return path


def _of_rows(model: Model, path: Path, progress: Progress) -> Iterator[Answer]:
    """Yield the answers on a file of rows."""
    if path.suffix.lower() not in TABLES:
        size = _rows_at_once(model)
        for name, stored in read_rows(path, model.features.d_in, model.image_shape):
            some = (stored[start : start + size] for start in range(0, len(stored), size))
            yield from _of_blocks(model, name, some, len(stored), progress)
    elif model.image_shape is not None and lists_images(path):
        files: list[_File] = [(file, None) for file in listed_files(path)]
        yield from _of_images(model, files, _openable, ((str(file), None) for file, _ in files), progress)
    elif images := open_images(path):
        yield from _of_images(model, images, lambda image: image, zip(repeat(str(path)), count()), progress)
    else:
        blocks, total = number_blocks(path, model.features.d_in)
        if not total:
            raise DataError(f"{path}: holds no rows")
        yield from _of_blocks(model, str(path), blocks, total, progress)


def _of_blocks(
    model: Model, name: str, blocks: Iterable[np.ndarray], total: int, progress: Progress
) -> Iterator[Answer]:
    """Yield the answers on an array of rows, block by block."""
    done, note = 0, ""
    for rows in blocks:
        if not done and (doubt := model.doubt(rows)):
            if isinstance(doubt, UnitWarning):
                raise DataError(f"{name}: {doubt}")
            note = f"{name}: {doubt}"
        yield from _classified(model, rows, ((name, done + row) for row in count()), repeat(note))
        done += len(rows)
        progress(done, total)


def _of_images(
    model: Model, images: Images[F], source: Callable[[F], Path | Encoded], places: Iterable[_Place], progress: Progress
) -> Iterator[Answer]:
    """Yield the answers on images; `source` returns the file, or the content of the file, of one."""
    shape = model.image_shape
    if shape is None:
        reason = f"the model was not trained on images; pass a {', '.join(ARRAYS)} or {TABLES[0]} file of rows"
        yield from (
            Answer(path, row, error=f"{path}: {reason}") for (path, row), _ in zip(places, images, strict=False)
        )
        return
    block = max(1, min(_THREAD_ROWS, _THREAD_BYTES // model.features.d_in))
    decoded = each_image(lambda image: decode_image(source(image), shape, model.fit), images, progress, block)
    with closing(decoded):
        found = zip(places, decoded, strict=False)  # the places of stored images have no end
        while some := list(islice(found, _rows_at_once(model))):
            good = [(place, image) for place, image in some if isinstance(image, Decoded)]
            rows = np.array([image.row for _, image in good], np.uint8).reshape(-1, model.features.d_in)
            # A look at each of many rows takes as long as decoding them; a few tell whether it is worth it.
            doubtful = len(rows) <= LOOKED_AT or model.doubt(rows)
            notes = [
                _note(place, image, model.doubt(image.row[np.newaxis]) if doubtful else None) for place, image in good
            ]
            answers = _classified(model, rows, (place for place, _ in good), notes)
            for (path, row), image in some:
                yield next(answers) if isinstance(image, Decoded) else Answer(path, row, error=str(image))


def _note(place: _Place, image: Decoded, doubt: OnelayerWarning | None) -> str:
    reasons = (dark_note(image.brightest), doubt)
    return "; ".join(filter(None, [image.fitted, *(f"{place[0]}: {reason}" for reason in reasons if reason)]))


def _classified(model: Model, rows: np.ndarray, places: Iterable[_Place], notes: Iterable[str]) -> Iterator[Answer]:
    """Yield the answers on rows (n, d)."""
    if not len(rows):
        return
    S = model.unchecked_logits(rows)  # (n, K)
    P = np.asarray(model.layer.loss.probabilities(S))
    for (path, row), label, logits, probabilities, note in zip(
        places, likeliest(S).tolist(), S, P, notes, strict=False
    ):
        yield Answer(path, row, label, logits, probabilities, note)


def _rows_at_once(model: Model) -> int:
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (8 * model.features.d_in)))


def csv_header(class_names: Sequence[str], *, numbered: bool) -> str:
    """Return the first line of a CSV file of answers; `numbered` has a column for the numbers of rows."""
    columns = ["path", *["row"] * numbered, "label", "probability", *(f"probability_{name}" for name in class_names)]
    return ",".join(map(_cell, [*columns, "error"])) + "\n"


def csv_lines(
    answers: Iterable[Answer], class_names: Sequence[str], *, numbered: bool, threshold: float = 0
) -> Iterator[str]:
    """Yield the lines of answers for a CSV file; the label of one with a probability below the threshold is empty.

    Probabilities have six digits. A spreadsheet takes a cell that begins with = + - or @ for a formula. No path, label
    or error begins so, since files and classes of strangers could calculate anything: a path gets ./ in front, the
    others an apostrophe, except a label that is a number.
    """
    names = [name if _is_number(name) else _harmless(name, "'") for name in class_names]
    labels = list(map(_cell, names))
    several = ",".join(["%.6g"] * len(labels))
    nothing = "," * len(labels)
    for answer in answers:
        row = (f",{answer.row}" if answer.row is not None else ",") if numbered else ""
        place = _cell(_harmless(answer.path, "./")) + row
        if answer.probabilities is None or answer.label is None:
            yield f"{place},,{nothing},{_cell(_harmless(answer.error, chr(39)))}\n"
        else:
            numbers = answer.probabilities.tolist()
            probability = numbers[answer.label]
            label = labels[answer.label] if probability >= threshold else ""
            yield f"{place},{label},{probability:.6g},{several % tuple(numbers)},\n"


def is_predictions(content: bytes) -> bool:
    """Return whether this is the beginning of a CSV file of answers."""
    return content.startswith((b"path,label,probability,", b"path,row,label,probability,"))


def _harmless(text: str, front: str) -> str:
    return front + text if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',;"\t\r\n') else text
