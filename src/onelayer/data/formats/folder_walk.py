"""A walk through a folder of images: the folders and images in it, whatever they mean."""

import hashlib
import os
from collections import Counter
from operator import itemgetter
from pathlib import Path
from stat import S_ISDIR

from onelayer.data.cache import state_of
from onelayer.data.progress import Progress
from onelayer.data.untrusted.images import IMAGE_FORMATS
from onelayer.errors import DataError
from onelayer.words import printable

_OFTEN = 10_000  # files between two reports of progress
SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)


class Walk:
    """A walk through a folder. Places in the folder are paths relative to it, with slashes.

    Parameters
    ----------
    root : Path
    progress : callable
        Called with the number of images found.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self.count = 0
        self.notes: list[str] = []
        self.other: Counter[str] = Counter()  # suffixes of files that are not images
        self.digest = hashlib.sha256()  # of the images' names and states

    def folders(self, place: str) -> tuple[list[str], int]:
        """Return the names of the folders in a place, sorted, and the number of images beside them."""
        entries = self.entries(place)
        folders = sorted(name for name, status in entries if _is_folder(status))
        return folders, sum(is_image(name) and not _is_folder(status) for name, status in entries)

    def images(self, place: str) -> list[str]:
        """Return the images in a place and below it, sorted."""
        found: list[str] = []
        seen = {self.identity(above): above for above in ("", place.rpartition("/")[0])}
        pending = [place]
        while pending:
            folder = pending.pop()
            first = seen.setdefault(self.identity(folder), folder)
            if first != folder:
                raise DataError(f"{self.path(folder)}: is the same folder as {self.path(first)}; remove the link")
            entries = sorted(self.entries(folder), key=itemgetter(0))
            for name, status in entries:
                if _is_folder(status):
                    pending.append(f"{folder}/{name}")
                elif is_image(name):
                    found.append(f"{folder}/{name}")
                    state = state_of(status) if status else None
                    self.digest.update(os.fsencode(f"{found[-1]}\0{state}\n"))
                    self.count += 1
                else:
                    self.other[_suffix(name)] += 1
            self.progress(self.count, None)
        return sorted(found)

    def entries(self, place: str) -> list[tuple[str, os.stat_result | None]]:
        """Return names and states of the entries of a place; the state of an image that is a broken link is None."""
        found: list[tuple[str, os.stat_result | None]] = []
        try:
            with os.scandir(self.root / place) as entries:
                for entry in entries:
                    if not is_hidden(entry.name):
                        try:
                            found.append((entry.name, entry.stat()))
                        except OSError:
                            if not is_image(entry.name):
                                raise
                            found.append((entry.name, None))
                        if len(found) % _OFTEN == 0:
                            self.progress(self.count + len(found), None)
        except OSError as error:
            raise DataError(f"{printable(error.filename, 300)}: {error.strerror}") from None
        return found

    def identity(self, place: str) -> tuple[int, int]:
        """Return numbers that are the same for two paths of one folder."""
        status = (self.root / place).stat()
        return status.st_dev, status.st_ino

    def path(self, place: str) -> str:
        """Return the whole path of a place, fit to be printed."""
        return printable(f"{self.root}/{place}".rstrip("/"), 300)


def _is_folder(status: os.stat_result | None) -> bool:
    return status is not None and S_ISDIR(status.st_mode)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is left out without a word."""
    return name.startswith(".") or name == "__MACOSX"  # a folder in archives that a Mac made


def is_image(name: str) -> bool:
    """Return whether a file of this name is an image, by its suffix."""
    return _suffix(name) in SUFFIXES


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower() if "." in name else ""
