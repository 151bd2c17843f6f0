"""Downloads from a local server that works, or fails in several ways."""

import hashlib
import logging.handlers
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from onelayer.data.download import Download, fetch
from onelayer.errors import DownloadError

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
ADVICE = "; download it by hand and pass --data PATH"


class Handler(BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        if self.path == "/404":
            self.send_error(404)
            return
        if self.path == "/silent":
            time.sleep(1)
            return
        self.send_response(200)
        if self.path != "/unknown-size":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/half":
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
        elif self.path == "/stalls":
            self.wfile.write(CONTENT[:1000])
            self.wfile.flush()
            time.sleep(1)
        elif self.path == "/wrong":
            self.wfile.write(CONTENT[::-1])
        else:
            self.wfile.write(CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Handler.requests = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def get(cache, *urls, **options):
    """Fetch files under the numbers of their urls, the first into the cache itself; return that one's path."""
    names = ["0", *(f"set/{number}" for number in range(1, len(urls)))]
    files = [Download(url, MD5, name, len(CONTENT)) for url, name in zip(urls, names, strict=True)]
    fetch(files, cache, timeout=0.3, **options)
    return cache / "0"


def test_success_leaves_one_file_and_is_not_repeated(server, tmp_path, capfd):
    said = logging.handlers.BufferingHandler(99)
    pooch.get_logger().addHandler(said)
    cache = tmp_path / "new" / "cache"
    level = pooch.get_logger().level
    calls = []
    path = get(cache, server + "/good", progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert calls == sorted(calls)
    assert len(calls) > 2
    assert get(cache, server + "/good") == path
    assert Handler.requests == 1
    pooch.get_logger().removeHandler(said)
    assert said.buffer == []
    assert pooch.get_logger().level == level


def test_unknown_size(server, tmp_path):
    calls = []
    get(tmp_path, server + "/unknown-size", progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (len(CONTENT), len(CONTENT))


def test_several_files_are_one_progress(server, tmp_path):
    calls = []
    urls = [f"{server}/good{number}" for number in range(3)]
    get(tmp_path, *urls, progress=lambda done, total: calls.append((done, total)))
    assert [file.read_bytes() for file in (tmp_path / "0", tmp_path / "set" / "1", tmp_path / "set" / "2")] == [
        CONTENT
    ] * 3
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {3 * len(CONTENT)}
    assert calls[-1][0] == 3 * len(CONTENT)
    (tmp_path / "set" / "1").unlink()
    get(tmp_path, *urls)
    assert Handler.requests == 4
    assert (tmp_path / "set" / "1").read_bytes() == CONTENT


def test_all_files_or_none(server, tmp_path):
    with pytest.raises(DownloadError, match=f"^{server}/404: the server answers 404{ADVICE}$"):
        get(tmp_path, server + "/good", server + "/good", server + "/404")
    assert list(tmp_path.iterdir()) == []
    get(tmp_path, server + "/good", server + "/good")
    with pytest.raises(DownloadError):
        get(tmp_path, server + "/good", server + "/good", server + "/404")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["0", "1", "set"]  # what was there before stays


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("wrong", f"the checksum of the downloaded file is not {MD5}"),
        ("half", "the connection broke off"),
        ("404", "the server answers 404"),
        ("silent", "no answer within 0.3 seconds"),
        ("stalls", "no answer within 0.3 seconds"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(server, tmp_path, capfd, page, words):
    with pytest.raises(DownloadError) as caught:
        get(tmp_path, f"{server}/{page}", progress=lambda done, total: None)
    assert str(caught.value) == f"{server}/{page}: {words}{ADVICE}"
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_in_the_cache_is_fetched_again(server, tmp_path):
    (tmp_path / "0").write_bytes(b"half of it")
    assert get(tmp_path, server + "/good").read_bytes() == CONTENT


def test_no_server(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/x"
    with pytest.raises(DownloadError, match=f"^{url}: no connection to the server{ADVICE}$"):
        get(tmp_path, url)


def test_no_url(tmp_path):
    with pytest.raises(DownloadError, match=r"^http://: .*download it by hand"):
        get(tmp_path, "http://")


def test_a_cache_that_cannot_be(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=f"/good: cannot write to {tmp_path}/file/cache: Not a directory"):
        get(tmp_path / "file" / "cache", server + "/good")
