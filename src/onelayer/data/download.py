"""Fetching CIFAR-10, checked and complete or not at all."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onelayer.data.archive import Progress
from onelayer.errors import DownloadError

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
OFFICIAL_MD5 = "c58f30108f718f92721af3b95e74349a"


def fetch_cifar10(
    cache: Path,
    progress: Progress | None = None,
    url: str = OFFICIAL_URL,
    md5: str = OFFICIAL_MD5,
    timeout: float = 30,
) -> Path:
    """Download the archive of CIFAR-10's Python version, unless the cache has it.

    Parameters
    ----------
    cache : Path
        Folder to keep it in; made if need be.
    progress : callable, optional
        Called with the bytes done and the bytes in all, or None where the server does not say.
    url, md5 : str
        Where the archive is, and its checksum.
    timeout : float
        Seconds without a word from the server before giving up.

    Returns
    -------
    Path
        The archive.

    Raises
    ------
    DownloadError
        If it cannot be had. The cache then holds nothing new.
    """
    import pooch
    from requests import exceptions

    name = "cifar-10-python.tar.gz"
    download = pooch.HTTPDownloader(
        progressbar=_Progress(progress) if progress else False, chunk_size=2**16, timeout=timeout
    )
    try:
        with _quiet(pooch.get_logger()):
            # pooch writes to a temporary file in the same folder and renames it once the checksum agrees.
            return Path(pooch.retrieve(url, f"md5:{md5}", fname=name, path=cache, downloader=download))
    except exceptions.HTTPError as error:
        reason = f"the server answers {getattr(error.response, 'status_code', error)}"
    except exceptions.ChunkedEncodingError:
        reason = "the connection broke off"
    except (exceptions.ConnectionError, exceptions.Timeout) as error:
        late = "timed out" in str(error).lower()
        reason = f"no answer within {timeout:g} seconds" if late else "no connection to the server"
    except exceptions.RequestException as error:
        reason = str(error)
    except ValueError:  # as pooch reports a checksum
        reason = f"the checksum of what came is not {md5}"
    except OSError as error:
        reason = f"cannot write to {cache}: {error.strerror or error}"
    raise DownloadError(f"{url}: {reason}; download it by hand and pass --data PATH")


class _Progress:
    """What pooch takes for a progress bar."""

    total = 0  # set by pooch; 0 where the server does not say

    def __init__(self, report: Progress) -> None:
        self.report = report
        self.done = 0

    def update(self, size: int) -> None:
        self.done += size  # the size of a block even where the last one is shorter
        self.report(min(self.done, self.total) if self.total else self.done, self.total or None)

    def reset(self) -> None:
        self.done = 0

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
