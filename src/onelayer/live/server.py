"""The local server: the page's files and one socket. It listens on this machine only, and sends nothing elsewhere."""

import asyncio
import hmac
import logging
import mimetypes
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
import websockets  # noqa: F401  # uvicorn needs it, and says so when a socket is opened
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError
from onelayer.live import messages
from onelayer.live.guards import GuardedProtocol, Guards
from onelayer.live.messages import MOST_BYTES, Message, MessageError, read_bytes, read_text, welcome_knobs
from onelayer.live.session import Session
from onelayer.live.sources import Room
from onelayer.live.teaching import Taught

PAGE = Path(__file__).with_name("page")
HELLO_SECONDS = 5.0
FULL_SECONDS = 0.005  # between two looks at a session that has too much to do
MOST_SESSIONS = 12
MOST_BAD = 100  # messages that are not of the protocol, after which a connection is closed
SWITCH_SECONDS = 0.001  # after which a thread of Python lets another work, so that drawing does not hold up training
TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".css": "text/css", ".html": "text/html"}
LIMITS = ("MOST_TEXT", "MOST_BYTES", "MOST_IMAGES", "MOST_CLASSES", "MOST_NAME", "MOST_SHOWN")


class Live:
    """The server's application.

    Parameters
    ----------
    splits : Splits
        The data to train on.
    parent : Path
        The folder in which taught classes are kept.
    """

    def __init__(self, splits: Splits, parent: Path) -> None:
        self.token = secrets.token_urlsafe(16)  # 128 bits
        self.taught = Taught(parent)
        self.room = Room(splits, self.taught)
        self._sessions: set[Session] = set()
        routes = [WebSocketRoute("/socket", self._socket), Route("/{path:path}", _file)]
        self.app: ASGIApp = Guards(Starlette(routes=routes, lifespan=self._lifespan))

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        for session in self._sessions:
            session.close()
        self.taught.close()

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect, RuntimeError):  # the latter where a close and a message cross
            if not await self._greeted(socket):
                await socket.close(1008, "not from this page")
            elif len(self._sessions) >= MOST_SESSIONS:
                await socket.close(1013, "too many pages are open")
            else:
                await self._serve(socket)

    async def _greeted(self, socket: WebSocket) -> bool:
        """Return whether the first message brings the token."""
        try:
            text = await asyncio.wait_for(socket.receive_text(), HELLO_SECONDS)
            hello = read_text(text)
        except (TimeoutError, MessageError, KeyError):
            return False
        given = hello.fields.get("token", "")
        return hello.type == "hello" and hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    async def _serve(self, socket: WebSocket) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ready.set)

        session = Session(self.room, wake)
        self._sessions.add(session)
        session.outbox.put(self._welcome())
        session.outbox.put(self.taught.describe())
        sender = asyncio.create_task(_send(socket, session, ready))
        try:
            await _receive(socket, session)
        finally:
            sender.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await sender
            self._sessions.discard(session)
            session.close()

    def _welcome(self) -> dict[str, Any]:
        return {
            "type": "welcome",
            "engine": "server",
            "version": version("onelayer"),
            "data": self.room.describe(),
            "knobs": welcome_knobs(),
            "limits": {name.lower(): getattr(messages, name) for name in LIMITS},
        }


async def _send(socket: WebSocket, session: Session, ready: asyncio.Event) -> None:
    """Send what waits; while a slow page takes a message, newer frames replace older ones."""
    while True:
        await ready.wait()
        ready.clear()
        while (message := session.outbox.take()) is not None:
            if isinstance(message, str):
                await socket.send_text(message)
            else:
                await socket.send_bytes(message)
        if session.outbox.full:
            await socket.close(1008, "the page does not read its messages")
            return


async def _receive(socket: WebSocket, session: Session) -> None:
    bad = 0
    while True:
        while session.is_full:
            await asyncio.sleep(FULL_SECONDS)
        received = await socket.receive()
        if received["type"] == "websocket.disconnect":
            return
        text, content = received.get("text"), received.get("bytes")
        try:
            message: Message = read_text(text) if text is not None else read_bytes(content or b"")
            if message.type != "hello":
                session.handle(message)
        except MessageError as error:
            bad += 1
            if bad > MOST_BAD:
                await socket.close(1008, "too many messages that are not of the protocol")
                return
            session.outbox.put({"type": "error", "about": "message", "message": str(error)})


async def _file(request: Request) -> Response:
    """Return a file of the page; a path is only ever compared with the names of these files."""
    name = request.path_params["path"] or "index.html"
    found = {file.relative_to(PAGE).as_posix(): file for file in PAGE.rglob("*") if file.is_file()}
    if name not in found:
        return PlainTextResponse("there is no such file\n", 404)
    file = found[name]
    kind = TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return Response(await asyncio.to_thread(file.read_bytes), media_type=kind)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine only.

    Raises
    ------
    ConfigError
        If the port is taken.
    """
    # asyncio sends without delay only where a socket names TCP; elsewhere a second message waits 40 ms for an answer.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        what = f"cannot listen on port {port}: {error.strerror}"
        raise ConfigError(f"{what}; choose another --port, or leave it out") from None
    return listening


def serve(live: Live, listening: socket.socket, started: Callable[[], object]) -> None:
    """Serve until Ctrl-C or SIGTERM; `started` is called once pages are answered."""
    sys.setswitchinterval(SWITCH_SECONDS)
    server_of(live, started).run(sockets=[listening])


def server_of(live: Live, started: Callable[[], object]) -> uvicorn.Server:
    """Return the server of an application."""
    config = uvicorn.Config(
        live.app,
        http=GuardedProtocol,
        ws="websockets-sansio",
        ws_max_size=MOST_BYTES,
        ws_max_queue=4,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=2**14,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=10,
        lifespan="on",
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    return _Server(config, started)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._when_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._when_started()
