"""Limits on the sizes in strangers' files, and the errors of the system turned into words."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onelayer.errors import DataError

MAX_FILE_BYTES = 256 * 2**20  # eight times an official batch of CIFAR-10
FREE_BYTES, MAX_RATIO = 16 * 2**20, 20  # images hardly compress; zeros shrink to a thousandth


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of reading and decompressing a file into a DataError that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged or cut off ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def require_file(path: Path) -> None:
    """Raise a DataError unless there is a plain file at a path: a read of a pipe would wait for ever."""
    if not path.is_file():
        raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")


def file_at(path: Path) -> Path:
    """Return a path, or, if a folder of this name holds a file of the same name, the path of that file.

    Some programs unpack a file into a folder that has the file's name.
    """
    inner = path / path.name
    return inner if inner.is_file() else path
