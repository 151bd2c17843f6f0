"""Files that are written completely or not at all, and the marks that say which command wrote them."""

import errno
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from onelayer.container import CHECKSUM, MAX_FILE_BYTES, stated_checksum
from onelayer.errors import ConfigError, RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Names of the writer in the metadata of pictures and pages. A report says onelayer, as it did in older versions.
DRAWN, EXPLAINED, GENERATOR = "onelayer", "onelayer explain", "onelayer"
MARK_WITHIN = 2000  # bytes of the beginning of a page
HALF_WRITTEN = re.compile(r"\.onelayer-[0-9a-f]{16}")  # left by a process that was killed


def write_file(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, even if the machine crashes.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    with opened_to_write(path) as file:
        file.write(content)


@contextmanager
def opened_to_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends; an error in the block leaves `path` as it was.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    try:
        temporary = path.parent / f".onelayer-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another place"
        raise RunError(f"cannot write {path}: {error.strerror}; {remedy}") from None


def require_own(path: Path, is_own: Callable[[bytes], bool], within: int = MAX_FILE_BYTES) -> None:
    """Raise an error if a file exists and its content does not say that this command wrote it.

    Parameters
    ----------
    path : Path
    is_own : callable
        Takes the content, of a longer file its first `within` bytes.
    within : int

    Raises
    ------
    RunError
        If it was written by something else, or cannot be read.
    """
    try:
        status = path.stat()
        if S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Reading a pipe could wait forever, and a device may be endless.
        if S_ISREG(status.st_mode):
            with path.open("rb") as file:
                if is_own(file.read(within)):
                    return
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; choose another place") from None
    raise RunError(
        f"{path} is there, and does not say that this command wrote it; choose another name, or move it away"
    )


def write_over(path: Path, content: bytes, is_own: Callable[[bytes], bool]) -> None:
    """Write a file as `write_file` does, but replace an existing file only if it passes `require_own`."""
    require_own(path, is_own)
    write_file(path, content)


def is_explanation(content: bytes) -> bool:
    """Return whether this is a picture of explain: a PNG with a chunk of text that says so."""
    place, signature = 8, b"\x89PNG\r\n\x1a\n"
    while content.startswith(signature) and place + 8 <= len(content):
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        if kind == b"tEXt" and content[place + 8 : place + 8 + size] == f"Software\0{EXPLAINED}".encode():
            return True
        place += size + 12
    return False


def is_report(content: bytes) -> bool:
    """Return whether this is a report: a page whose head says so."""
    from html.parser import HTMLParser

    class Head(HTMLParser):
        within = generator = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("head", "body"):
                self.within = tag
            elif tag == "meta" and self.within == "head" and dict(attrs).get("name") == "generator":
                self.generator = dict(attrs).get("content") or ""

    head = Head()
    head.feed(content[:MARK_WITHIN].decode("utf-8", "replace"))
    return content.startswith(b"<!DOCTYPE html>") and head.generator == GENERATOR


T = TypeVar("T")


def read_mark(file: Path, kind: str, parse: Callable[[dict[str, Any]], T]) -> T:
    """Return the content of the JSON file that marks a directory as a sweep or a study and describes it.

    Parameters
    ----------
    file : Path
    kind : str
        Kind of directory; the format of the file is ``onelayer-<kind>``.
    parse : callable
        Converts the content; it may raise the errors that a damaged file causes.

    Raises
    ------
    RunError
        If there is no such file, or it is damaged.
    """
    try:
        content = read_json(file)
        if (content["format"], content["version"]) != (f"onelayer-{kind}", 1):
            raise ValueError("another format")
        return parse(content)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{file.parent} is not a {kind} of onelayer: it has no {file.name}") from None
    except OSError as error:
        raise RunError(f"{file}: {error.strerror}") from None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise RunError(f"{file}: damaged, or written by a newer onelayer ({error!s:.80})") from None


def is_marked(file: Path, kind: str) -> bool:
    """Return whether a file marks a directory as a sweep or study of onelayer, even if it is damaged or newer."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == f"onelayer-{kind}"


def write_mark(file: Path, kind: str, content: dict[str, Any]) -> None:
    """Write the file that `read_mark` reads."""
    content = {"format": f"onelayer-{kind}", "version": 1} | content
    write_json(file, content)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a table with its checksum, which does not depend on spaces, line breaks and the order of the names."""
    write_file(file, (json.dumps(content | {CHECKSUM: _checksum(content)}, indent=2) + "\n").encode())


def read_json(file: Path) -> dict[str, Any]:
    """Return the table that `write_json` wrote, without its checksum; a file without a checksum is accepted.

    Raises
    ------
    OSError, ValueError, RecursionError
        If it cannot be read or is damaged.
    """
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("not a table of names and values")
    checksum = stated_checksum(content)
    content.pop(CHECKSUM, None)
    if checksum and checksum != _checksum(content):
        raise ValueError("its checksum is wrong; if you edited it, delete its line checksum")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def png(figure: "Figure", software: str = DRAWN) -> bytes:
    """Return a picture as the bytes of a PNG file that names its writer.

    `Figure.savefig` would write the same picture in twice the time: it compresses harder, and a fourth channel too.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    canvas.draw()
    words, buffer = PngInfo(), io.BytesIO()
    words.add_text("Software", software)
    image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    image.save(buffer, "PNG", pnginfo=words, dpi=(figure.dpi, figure.dpi), compress_level=3)
    return buffer.getvalue()


def write_figure(path: Path, figure: "Figure") -> None:
    """Write a picture as PNG, like `write_file`."""
    write_file(path, png(figure))
