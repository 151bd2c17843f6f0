"""The file by which a browser is opened: everybody can read the command line of a browser, and nobody this file."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def redirect_to(address: str) -> Iterator[Path]:
    """Yield a file that leads a browser to an address, which only this user can read; it is removed at the end."""
    link = escape(address)
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>onelayer live</title>\n'
        f'<meta http-equiv="refresh" content="0; url={link}">\n<p><a href="{link}">onelayer live</a></p>\n</html>\n'
    )
    with TemporaryDirectory(prefix="onelayer-") as folder:
        file = Path(folder) / "live.html"
        file.touch(0o600)
        file.write_text(page, encoding="utf-8")
        yield file
