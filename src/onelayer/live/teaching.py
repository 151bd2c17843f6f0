"""Classes and images that are made on the page, kept as a folder of classes that ``--data`` takes."""

import threading
import unicodedata
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from onelayer.config import Fit
from onelayer.data.dataset import PARTS
from onelayer.data.formats.folder_walk import is_hidden
from onelayer.data.progress import silent
from onelayer.data.untrusted.images import Decoded, Encoded, decode_image, each_image
from onelayer.errors import DataError
from onelayer.live.messages import MOST_CLASSES, MOST_IMAGES, MOST_NAME, MOST_TAUGHT_BYTES, Message, MessageError
from onelayer.words import is_name

FORBIDDEN = set('/\\:*?"<>|')  # in a folder's name, on this system or on one that the folder is copied to
MOST_NAME_BYTES = 200
SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}

_decoding = threading.Lock()  # Pillow's warnings are silenced for the whole process


def image_of(message: Message) -> bytes:
    """Return the image of a message as the bytes of an image file."""
    if "file" in message.arrays:
        return message.arrays["file"].tobytes()
    from PIL import Image

    content = BytesIO()
    Image.fromarray(message.arrays["pixels"]).save(content, "PNG", compress_level=1)
    return content.getvalue()


def decoded(content: bytes, image_shape: tuple[int, int, int], fit: Fit) -> Decoded:
    """Return an image as a row of this shape; the reader refuses all that is not an image, or is too large.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    with _decoding:
        images = each_image(lambda one: decode_image(one, image_shape, fit), [Encoded("the image", content)], silent)
        (found,) = images
    if isinstance(found, DataError):
        raise found
    return found


class Taught:
    """The folder of taught classes; it is made when the first class is.

    Parameters
    ----------
    parent : Path
        The folder in which ``taught-1``, ``taught-2``, ... is made, the first that is free.
    """

    def __init__(self, parent: Path) -> None:
        self._parent, self._path = parent, Path()
        self._lock = threading.Lock()
        self._classes: dict[str, dict[int, Path]] = {}
        self._bytes, self._version = 0, 0

    def to_read(self) -> tuple[Path, int]:
        """Return the folder, and a number that grows whenever it changes.

        Raises
        ------
        DataError
            If there are no two classes with images.
        """
        with self._lock:
            if sum(bool(images) for images in self._classes.values()) < 2:
                raise DataError("a classifier needs two classes with images; add some, then train")
            return self._path, self._version

    def describe(self) -> dict[str, Any]:
        """Return the message that says what was taught."""
        with self._lock:
            classes = [{"name": name, "count": len(images)} for name, images in self._classes.items()]
            ids = [id for images in self._classes.values() for id in images]
            path = str(self._path.resolve()) if self._classes else ""
            return {"type": "taught", "path": path, "classes": classes, "next_id": max(ids, default=-1) + 1}

    def change(self, message: Message) -> dict[str, Any]:
        """Do what a message ``teach`` asks for, and return the message that answers it.

        Raises
        ------
        MessageError
            If a name cannot be that of a folder, there is no such class or image, or there are too many.
        DataError
            If an image cannot be read.
        """
        op, name, id = message["op"], message["class"], message["id"]
        if op == "add-image":
            content = image_of(message)
            decoded(content, (3, 8, 8), "squeeze")  # outside the lock: it refuses what is not an image
            with self._lock:
                return {"type": "taught", "op": op, "class": name, "id": id, "count": self._add(name, id, content)}
        with self._lock:
            if op == "add-class":
                self._add_class(_folder_name(name, self._classes))
            elif op == "rename-class":
                self._rename(name, message["name"])
            else:
                of_class = self._of(name)
                for one in [id] if op == "remove-image" else [*of_class]:
                    self._remove(of_class, one)
                if op == "remove-class":
                    del self._classes[name]
                    with suppress(OSError):  # somebody put a file there
                        (self._path / name).rmdir()
            self._version += 1
        return {**self.describe(), "op": op, "class": name, "id": id}

    def close(self) -> None:
        """Remove the folders that hold no images."""
        with self._lock, suppress(OSError):
            for name, images in self._classes.items():
                if not images:
                    (self._path / name).rmdir()
            if self._classes and not any(self._path.iterdir()):
                self._path.rmdir()

    def _of(self, name: str) -> dict[int, Path]:
        if name not in self._classes:
            raise MessageError(f"there is no class {name!r:.80}; add it first")
        return self._classes[name]

    def _add_class(self, name: str) -> None:
        if len(self._classes) >= MOST_CLASSES:
            raise MessageError(f"there are {MOST_CLASSES} classes already, which is the most; remove one")
        if self._path == Path():
            number = 1
            while (path := self._parent / f"taught-{number}").exists():
                number += 1
            path.mkdir(parents=True)
            self._path = path
        (self._path / name).mkdir(parents=True)
        self._classes[name] = {}

    def _rename(self, name: str, new: str) -> None:
        images = self._of(name)
        others = {other: held for other, held in self._classes.items() if other != name}
        new = _folder_name(new, others)
        (self._path / name).rename(self._path / new)
        moved = {id: self._path / new / file.name for id, file in images.items()}
        # the order of the classes stays
        self._classes = {
            new if other == name else other: moved if other == name else held for other, held in self._classes.items()
        }

    def _add(self, name: str, id: int, content: bytes) -> int:
        of_class = self._of(name)
        if any(id in images for images in self._classes.values()):
            raise MessageError(f"there is an image {id} already; number the images")
        if sum(map(len, self._classes.values())) >= MOST_IMAGES or self._bytes + len(content) > MOST_TAUGHT_BYTES:
            raise MessageError(f"at most {MOST_IMAGES:,} images and {MOST_TAUGHT_BYTES // 2**20:,} MB are taught here")
        suffix = next((suffix for start, suffix in SUFFIXES.items() if content.startswith(start)), ".png")
        file = self._path / name / f"{id:06}{suffix}"
        file.write_bytes(content)
        of_class[id] = file
        self._bytes += len(content)
        self._version += 1
        return len(of_class)

    def _remove(self, of_class: dict[int, Path], id: int) -> None:
        if id not in of_class:
            raise MessageError(f"there is no image {id} in this class")
        file = of_class.pop(id)
        with suppress(OSError):
            self._bytes -= file.stat().st_size
            file.unlink()


def _folder_name(name: str, taken: Any) -> str:
    """Return a name as that of a folder directly below another, which the reader of folders takes for a class."""
    name = unicodedata.normalize("NFC", name).strip()
    bad = not is_name(name) or is_hidden(name) or FORBIDDEN & set(name) or name.endswith(".")
    if bad or len(name) > MOST_NAME or len(name.encode()) > MOST_NAME_BYTES:
        raise MessageError(f"a class cannot be called {name!r:.80}: use letters and numbers, at most {MOST_NAME}")
    if name.casefold() in PARTS:
        raise MessageError(f"a class cannot be called {name}: readers take such a folder for a part of the data")
    if name.casefold() in {other.casefold() for other in taken}:
        raise MessageError(f"there is a class {name} already; choose another name")
    return name
