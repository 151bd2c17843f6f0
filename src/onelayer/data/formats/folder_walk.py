"""A walk through a folder of images: the folders and images in it, whatever they mean."""

import hashlib
import os
from collections import Counter
from operator import itemgetter
from pathlib import Path
from stat import S_ISDIR

from onelayer.data.cache import state_of
from onelayer.data.progress import Progress
from onelayer.data.untrusted.images import HEIF_ADVICE, HEIF_SUFFIXES, readable_suffixes
from onelayer.errors import DataError
from onelayer.words import counted, printable

_OFTEN = 10_000  # files between two reports of progress
_VIDEOS = (".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv")
_MOST_NAMED = 3  # suffixes of other files in a note


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
        self.suffixes = frozenset(readable_suffixes())
        self.other: Counter[str] = Counter()  # suffixes of files that are left out
        self.digest = hashlib.sha256()  # of the images' names and states

    def left_out(self) -> list[str]:
        """Return the numbers of the files beside the images that are left out, by kind, in words."""
        kinds = Counter({"HEIC image": self.unread_heif})
        for suffix, count in self.other.items():
            if suffix not in HEIF_SUFFIXES:
                kinds["video" if suffix in _VIDEOS else "other file"] += count
        others = [suffix for suffix, _ in self.other.most_common() if suffix not in (*HEIF_SUFFIXES, *_VIDEOS)]
        names = ", ".join([printable(suffix, 20) or "no suffix" for suffix in others[:_MOST_NAMED]])
        more = {"HEIC image": HEIF_ADVICE, "other file": names + ", ..." * (len(others) > _MOST_NAMED)}
        return [
            counted(kinds[kind], kind) + (f" ({more[kind]})" if kind in more else "")
            for kind in ("HEIC image", "video", "other file")
            if kinds[kind]
        ]

    @property
    def unread_heif(self) -> int:
        """The number of HEIC images that are left out, as pillow-heif is not installed."""
        return sum(self.other[suffix] for suffix in HEIF_SUFFIXES)

    def is_image(self, name: str) -> bool:
        """Return whether a file of this name is an image that can be read, by its suffix."""
        return _suffix(name) in self.suffixes

    def folders(self, place: str) -> tuple[list[str], int]:
        """Return the names of the folders in a place, sorted, and the number of images beside them."""
        entries = self.entries(place)
        folders = sorted(name for name, status in entries if _is_folder(status))
        return folders, sum(self.is_image(name) and not _is_folder(status) for name, status in entries)

    def images_at_the_top(self) -> list[str]:
        """Return the images outside all folders, and count the other files there."""
        files = [name for name, status in self.entries("") if not _is_folder(status)]
        self.other.update(_suffix(name) for name in files if not self.is_image(name))
        return [name for name in files if self.is_image(name)]

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
                elif self.is_image(name):
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
                            if not self.is_image(entry.name):
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
    return _suffix(name) in readable_suffixes()


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower() if "." in name else ""
