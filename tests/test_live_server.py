"""The page's server: what it serves, what it refuses, and how it starts and stops. Every request here is a real one."""

import ast
import asyncio
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line, start, toy_splits

REASON = "the page needs onelayer[live]"
pytest.importorskip("starlette", reason=REASON)
pytest.importorskip("uvicorn", reason=REASON)
sync = pytest.importorskip("websockets.sync.client", reason=REASON)
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage  # noqa: E402

from onelayer.live import guards, server  # noqa: E402
from onelayer.live.messages import MOST_BYTES, pack, unpack  # noqa: E402

REFUSED = (InvalidHandshake, InvalidMessage, ConnectionClosed, OSError, EOFError)


class Served:
    """A server in a thread."""

    def __init__(self, live, listening: socket.socket) -> None:
        self.live, self.port = live, listening.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"

    def connect(self, host: str | None = None, origin: str | None = "", **options):
        """Open the socket as a page does, or with another Host or Origin; None leaves the Origin out."""
        origin = f"http://{self.host}" if origin == "" else origin
        connection = socket.create_connection(("127.0.0.1", self.port))
        try:
            address = f"ws://{host or self.host}/socket"
            return sync.connect(address, origin=origin, sock=connection, proxy=None, max_size=2**26, **options)
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def greeted(self):
        with self.connect() as opened:
            opened.send(json.dumps({"type": "hello", "token": self.live.token}))
            assert json.loads(opened.recv(10))["type"] == "welcome"
            assert json.loads(opened.recv(10))["type"] == "taught"
            yield opened

    def request(self, method="GET", path="/", **headers) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest(method, path, skip_host=True)
        for name, value in ({"Host": self.host} | headers).items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<p>a page")
    (folder / "page.js").write_text("let x;")
    (folder / "deep").mkdir()
    (folder / "deep" / "kernel.wasm").write_bytes(b"\0asm")
    (folder.parent / "secret.txt").write_text("a secret")
    started = threading.Event()
    with pytest.MonkeyPatch.context() as patch, server.listen(0) as listening:
        patch.setattr(server, "PAGE", folder)
        live = server.Live(toy_splits(), tmp_path_factory.mktemp("taught"))
        running = server.server_of(live, started.set)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        assert started.wait(10)
        yield Served(live, listening)
        running.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def until(opened, *types: str) -> tuple[dict, dict]:
    while True:
        received = opened.recv(10)
        message, arrays = (json.loads(received), {}) if isinstance(received, str) else unpack(received)
        if message["type"] in types:
            return message, arrays


class TestPage:
    def test_a_page_trains_over_the_socket(self, served):
        with served.greeted() as opened:
            opened.send(json.dumps({"type": "train", "run": 1, "data": "given", "settings": {"epochs": 5}}))
            _, arrays = until(opened, "epoch")
            assert arrays["learnt"].shape == (4, 4, 5, 3)
            assert until(opened, "ended")[0]["epoch"] == 5
            opened.send(pack({"type": "image", "id": 1}, {"pixels": np.full((9, 9, 4), 255, np.uint8)}))
            answer, seen = until(opened, "answer")
            assert sum(answer["probabilities"]) == pytest.approx(1)
            assert (seen["seen"] == 255).all()

    @pytest.mark.parametrize(
        ("path", "kind", "content"),
        [
            ("/", "text/html; charset=utf-8", b"<p>a page"),
            ("/?x=1", "text/html; charset=utf-8", b"<p>a page"),
            ("/page.js", "text/javascript; charset=utf-8", b"let x;"),
            ("/deep/kernel.wasm", "application/wasm", b"\0asm"),
        ],
    )
    def test_its_files_are_served_and_nothing_else(self, served, path, kind, content):
        status, headers, found = served.request(path=path)
        assert (status, headers["content-type"], found) == (200, kind, content)

    def test_two_pages_train_at_once(self, served):
        with served.greeted() as one, served.greeted() as two:
            for opened in (one, two):
                opened.send(json.dumps({"type": "train", "run": 1, "data": "given", "settings": {"epochs": 3}}))
            assert until(one, "ended")[0]["epoch"] == until(two, "ended")[0]["epoch"] == 3

    def test_it_listens_on_this_machine_only(self, served):
        with server.listen(0) as listening:
            assert listening.getsockname()[0] == "127.0.0.1"

    def test_no_message_waits_for_the_answer_to_the_one_before(self):
        async def accepted(listening):
            taken = asyncio.Future()
            serving = await asyncio.start_server(lambda _, writer: taken.set_result(writer), sock=listening)
            _, ours = await asyncio.open_connection(*listening.getsockname())
            writer = await taken
            found = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for one in (ours, writer, serving):
                one.close()
            return found

        assert asyncio.run(accepted(server.listen(0)))

    def test_a_token_has_128_bits_and_differs(self, served):
        other = server.Live(toy_splits(), Path())
        assert other.token != served.live.token
        assert re.fullmatch("[A-Za-z0-9_-]{22}", other.token)

    def test_headers_keep_out_what_is_not_of_the_page(self, served):
        _, headers, _ = served.request()
        assert headers["content-security-policy"] == (
            "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
            f"media-src 'self' blob:; worker-src 'self'; connect-src 'self' ws://{served.host}; "
            "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


class TestForged:
    """Requests that are not of the page."""

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None])
    def test_a_foreign_host(self, served, host):
        host = host and host.format(port=served.port)
        status, _, content = served.request(Host=host)
        assert status in (400, 421)
        assert b"a page" not in content

    @pytest.mark.parametrize("host", ["localhost", "[::1]"])
    def test_our_other_names(self, served, host):
        assert served.request(Host=f"{host}:{served.port}")[0] == 200

    def test_a_socket_at_a_foreign_host(self, served):
        for host in (f"evil.example:{served.port}", "evil.example"):
            with pytest.raises(REFUSED):
                served.connect(host=host, origin=f"http://{host}")

    @pytest.mark.parametrize(
        "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1:{port}", "file://"]
    )
    def test_a_socket_of_a_foreign_origin(self, served, origin):
        with pytest.raises(InvalidHandshake, match="403"):
            served.connect(origin=origin and origin.format(port=served.port))

    @pytest.mark.parametrize("origin", [None, "null", "http://evil.example"])
    def test_a_post_of_a_foreign_origin(self, served, origin):
        assert served.request("POST", Origin=origin)[0] == 403

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_methods_that_change_are_not_answered_even_for_the_page(self, served, method):
        assert served.request(method, Origin=f"http://{served.host}")[0] == 405

    @pytest.mark.parametrize("path", ["/socket", "/train?epochs=5", "/teach?op=add-class&class=a", "/keep"])
    def test_no_get_changes_anything(self, served, path):
        before = served.live.taught.describe()
        assert served.request(path=path)[0] == 404
        assert served.live.taught.describe() == before

    @pytest.mark.parametrize(
        "first",
        [
            '{"type": "train", "run": 1, "data": "given", "settings": {}}',
            '{"type": "hello"}',
            '{"type": "hello", "token": ""}',
            '{"type": "hello", "token": "AAAAAAAAAAAAAAAAAAAAAA"}',
            '{"type": "hello", "token": "é"}',
            '{"type": "hello", "token": "\\ud800"}',
            "{",
            b"\0\0\0\0",
        ],
    )
    def test_no_token_or_a_wrong_one(self, served, first):
        with served.connect() as opened:
            opened.send(first)
            with pytest.raises(ConnectionClosed):
                opened.recv(5)

    def test_a_frame_around_it(self, served):
        assert "frame-ancestors 'none'" in served.request()[1]["content-security-policy"]

    @pytest.mark.parametrize(
        "path",
        ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "//etc/passwd", "/deep/../../secret.txt", "/deep"],
    )
    def test_a_path_that_leads_elsewhere(self, served, path):
        status, _, content = served.request(path=path)
        assert status == 404
        assert b"secret" not in content

    def test_a_message_that_is_too_large(self, served):
        with served.greeted() as opened, pytest.raises(ConnectionClosed):
            opened.send(b"\0" * (MOST_BYTES + 1))
            opened.recv(10)
        with served.greeted() as opened:
            opened.send(" " * 20_000)
            assert "longer than" in until(opened, "error")[0]["message"]

    def test_messages_that_are_not_of_the_protocol_end_it_after_a_while(self, served):
        with served.greeted() as opened, pytest.raises(ConnectionClosed):
            for _ in range(server.MOST_BAD + 2):
                opened.send("{")
            while opened.recv(10):
                pass

    def test_a_head_that_is_too_long(self, served):
        with suppress(OSError):  # the connection is closed before all of it is sent
            assert served.request(Cookie="x" * 300_000)[0] in (400, 431)

    def test_two_hundred_connections(self, served):
        opened = []
        try:
            opened.extend(socket.create_connection(("127.0.0.1", served.port), timeout=5) for _ in range(200))
            time.sleep(0.3)
            alive = 0
            for connection in opened:
                connection.setblocking(False)
                try:
                    alive += connection.recv(1) != b""
                except BlockingIOError:
                    alive += 1
                except OSError:
                    pass
            assert alive <= guards.MOST_CONNECTIONS
        finally:
            for connection in opened:
                connection.close()
        time.sleep(0.2)
        assert served.request()[0] == 200  # the next page is answered

    def test_many_pages(self, served):
        with ExitStack() as pages:
            for _ in range(server.MOST_SESSIONS):
                pages.enter_context(served.greeted())
            with served.connect() as one_more, pytest.raises(ConnectionClosed):
                one_more.send(json.dumps({"type": "hello", "token": served.live.token}))
                one_more.recv(5)

    def test_slow_senders(self, served, monkeypatch):
        monkeypatch.setattr(server, "HELLO_SECONDS", 0.2)
        monkeypatch.setattr(guards, "REQUEST_SECONDS", 0.2)
        with served.connect() as silent, pytest.raises(ConnectionClosed):
            silent.recv(5)
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
            with suppress(ConnectionResetError):
                assert slow.recv(1) == b""
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as slow:
            slow.sendall(f"GET / HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
            while slow.recv(2**16):  # a second request has no older connection to wait in
                pass


class TestCommand:
    def test_it_prints_its_address_and_ends_at_once_with_a_line(self, tmp_path):
        command = [sys.executable, "-m", "onelayer", "live", "--data", "digits", "--no-browser"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, "bufsize": 1}
        with start(command, **pipes) as process:
            lines = [""]
            while not lines[-1].startswith("http://"):
                lines.append(process.stdout.readline())
                assert lines[-1]
            assert "Ctrl-C" in lines[-2]
            address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#[A-Za-z0-9_-]{22}\n", lines[-1])
            began = time.monotonic()
            with sync.connect(f"ws://127.0.0.1:{address[1]}/socket", origin=f"http://127.0.0.1:{address[1]}") as opened:
                opened.send(json.dumps({"type": "hello", "token": lines[-1].strip().partition("#")[2]}))
                opened.send(json.dumps({"type": "train", "run": 1, "data": "given", "settings": {"epochs": 1000}}))
                until(opened, "epoch")
                process.send_signal(signal.SIGINT)
                process.wait(20)
            assert time.monotonic() - began < 15
            assert (process.returncode, process.stderr.read(), process.stdout.read()) == (
                130,
                "onelayer: stopped\n",
                "",
            )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_command_line_of_the_browser_does_not_hold_the_token(self, tmp_path, number):
        seen, temporary, program = tmp_path / "seen", tmp_path / "temporary", tmp_path / "browser.py"
        temporary.mkdir()
        program.write_text(
            f"import pathlib, sys\npathlib.Path({str(seen)!r}).with_suffix('.part').write_text(repr(sys.argv))\n"
            f"pathlib.Path({str(seen)!r}).with_suffix('.part').rename({str(seen)!r})\n"
        )
        opener = shlex.join([sys.executable, str(program)]) + " %s"
        own = {"BROWSER": opener, "DISPLAY": ":0", "TMPDIR": str(temporary)}
        command = [sys.executable, "-m", "onelayer", "live", "--data", "digits"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, "bufsize": 1}
        with start(command, **pipes, env=os.environ | own) as process:
            try:
                while not (line := process.stdout.readline()).startswith("http://"):
                    assert line
                end = time.monotonic() + 20
                while not seen.exists():
                    assert time.monotonic() < end
                    time.sleep(0.01)
                (file,) = temporary.glob("onelayer-*/*")
                assert ast.literal_eval(seen.read_text())[1:] == [file.as_uri()]
                assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
                assert f'content="0; url={line.strip()}"' in file.read_text()
            finally:
                process.send_signal(number)
        assert [*temporary.iterdir()] == []

    def test_a_port_that_is_taken(self, run_cli):
        with server.listen(0) as listening:
            result = run_cli("live", "--data", "digits", "--port", str(listening.getsockname()[1]))
        assert_one_line(result, "choose another --port")

    def test_without_the_extra_a_line_says_what_to_install(self, tmp_path):
        program = (
            "import sys\nsys.modules |= dict.fromkeys(['uvicorn'])\nsys.argv = ['onelayer', 'live']\n"
            "from onelayer.__main__ import main\nmain()"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "onelayer: live needs a local server; install it with: pip install 'onelayer[live]'\n"
