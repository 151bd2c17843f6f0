"""Guards of the server: a page of another site, open in the same browser, must neither read it nor change anything."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from onelayer.live.messages import POLICY

HOSTS = ("127.0.0.1", "localhost", "[::1]")
MOST_CONNECTIONS = 32  # a page has one, and some more while it loads
REQUEST_SECONDS = 10.0  # in which the head of a request must have come
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",  # so that each request has its own time
}


def policy(host: str) -> str:
    """Return the Content-Security-Policy of a page at this host and port."""
    own = POLICY.replace("connect-src 'self'", f"connect-src 'self' ws://{host}")
    return f"{own}; frame-ancestors 'none'"


class Guards:
    """The application behind checks of Host, Origin and method; every answer has headers that browsers obey.

    A name of another site that leads to this machine (DNS rebinding) fails by its Host, a script of another site by its
    Origin, which browsers set themselves.

    Parameters
    ----------
    app : ASGI application
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # The server itself knows its port; behind a name that is not ours nothing else is looked at.
        own = {f"{host}:{scope['server'][1]}" for host in HOSTS}
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        origins = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"]
        ours = len(hosts) == 1 and hosts[0] in own
        from_page = len(origins) == 1 and origins[0] in {f"http://{host}" for host in own}
        if scope["type"] == "websocket":
            if ours and from_page:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": "not from this page"})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = HEADERS | {"Content-Security-Policy": policy(hosts[0] if ours else "127.0.0.1")}
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in more.items()),
                ]
            await send(message)

        if not ours:
            await _refuse(guarded, 421, "this server answers for 127.0.0.1 only")
        elif scope["method"] not in ("GET", "HEAD"):  # nothing is changed by a request, so nothing is posted
            known = 405 if from_page else 403
            await _refuse(guarded, known, "only GET is answered here")
        else:
            await self._app(scope, receive, guarded)


async def _refuse(send: Send, status: int, why: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})


class GuardedProtocol(H11Protocol):
    """HTTP that closes a connection whose request does not come, and refuses connections beyond a number."""

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or close it."""
        super().connection_made(transport)
        self._late = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self._close_if_idle)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._late.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:  # no request has come
            self.transport.abort()
