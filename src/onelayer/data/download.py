"""Downloading a data set's files: all of them with the right checksums, or none."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from onelayer.data.progress import Progress
from onelayer.errors import DownloadError


class Download(NamedTuple):
    """A published file.

    Parameters
    ----------
    url : str
    md5 : str
    name : str
        Its path in the cache, with folders.
    size : int
        Bytes, to show progress.
    """

    url: str
    md5: str
    name: str
    size: int


def fetch(files: Sequence[Download], cache: Path, progress: Progress | None = None, timeout: float = 30) -> None:
    """Download those files of a data set that are not in the cache.

    Parameters
    ----------
    files : sequence of Download
    cache : Path
        The folder to keep them in; made if necessary.
    progress : callable, optional
        Called with the bytes done and the total over all files.
    timeout : float
        Seconds without an answer from the server before giving up.

    Raises
    ------
    DownloadError
        If one of them cannot be downloaded. The cache then holds no new file.
    """
    new = []
    done, total = 0, sum(file.size for file in files)
    try:
        for file in files:
            path = cache / file.name
            known = path.exists()
            bar = _Progress(progress, done, file.size, total) if progress else False
            _fetch(file, path, bar, timeout)
            if not known:
                new.append(path)
            done += file.size
            if progress:
                progress(done, total)
    except DownloadError:
        for path in new:
            path.unlink(missing_ok=True)
        for folder in {(cache / file.name).parent for file in files} - {cache}:
            with suppress(OSError):  # it is missing or not empty
                folder.rmdir()
        raise


def _fetch(file: Download, path: Path, bar: "_Progress | bool", timeout: float) -> None:
    import pooch
    from requests import exceptions

    download = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=timeout)
    try:
        with _quiet(pooch.get_logger()):
            # pooch writes to a temporary file in the same folder and renames it once the checksum agrees.
            pooch.retrieve(file.url, f"md5:{file.md5}", fname=path.name, path=path.parent, downloader=download)
            return
    except exceptions.HTTPError as error:
        reason = f"the server answers {getattr(error.response, 'status_code', error)}"
    except exceptions.ChunkedEncodingError:
        reason = "the connection broke off"
    except (exceptions.ConnectionError, exceptions.Timeout) as error:
        late = "timed out" in str(error).lower()
        reason = f"no answer within {timeout:g} seconds" if late else "no connection to the server"
    except exceptions.RequestException as error:
        reason = str(error)
    except ValueError:  # pooch raises this for a wrong checksum
        reason = f"the checksum of the downloaded file is not {file.md5}"
    except OSError as error:
        reason = f"cannot write to {path.parent}: {error.strerror or error}"
    raise DownloadError(f"{file.url}: {reason}; download it by hand and pass --data PATH")


class _Progress:
    """A progress bar for pooch that counts one file of several."""

    total = 0  # set by pooch

    def __init__(self, report: Progress, start: int, size: int, total: int) -> None:
        self.report = report
        self.start = start
        self.size = size
        self.total_of_all = total
        self.done = 0

    def update(self, size: int) -> None:
        self.done += size  # pooch gives the size of a full block even for a shorter last one
        self.report(self.start + min(self.done, self.size), self.total_of_all)

    def reset(self) -> None:  # pooch calls this before an update to the size that the server gave, or 0
        pass

    def close(self) -> None:
        pass


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
