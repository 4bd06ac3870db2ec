"""The gate before the page: it refuses foreign visitors and endless bodies.

Every answer restricts the browser to this server.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sampling.web.visitors import Refusal, Visitors

_OWN_HOST_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _OWN_HOST_ONLY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class BodyLimits:
    """Limits of the bodies of requests.

    Attributes:
        each: bytes of one body.
        together: bytes of all bodies that are held at the same time.
        piece_seconds: longest wait for the next piece of a body.
        seconds: longest time for a whole body.
    """

    each: int
    together: int
    piece_seconds: float = 20.0
    seconds: float = 180.0


class Gate:
    """ASGI middleware around the whole server."""

    def __init__(self, app: ASGIApp, limits: BodyLimits, visitors: Visitors) -> None:
        """`limits`: limits of bodies; `visitors`: who may ask."""
        self.app, self.limits, self.visitors = app, limits, visitors
        self._held = 0  # bytes of bodies whose requests are not answered yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":  # websockets are not used
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        length, path = headers.get("content-length", "0"), scope["path"]
        refusal = self.visitors.refusal(scope["method"], path, headers)
        if refusal and refusal.status == 401 and self.visitors.brings_token(path, scope["query_string"]):
            await _welcome(send, self.visitors)
        elif refusal:
            await _refuse(send, *refusal)
        elif not length.isdigit() or int(length) > self.limits.each:
            await _refuse(send, 413, _too_much(self.limits.each))
        else:
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, held = _Answer(send), 0
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        whole = False

        async def bounded() -> Message:
            """`receive` with a count and a clock: a body in pieces has no length in its header."""
            nonlocal held, whole
            if whole:  # what follows is the end of the connection
                return await receive()
            try:
                late = min(asyncio.get_running_loop().time() + self.limits.piece_seconds, deadline)
                async with asyncio.timeout_at(late):
                    message = await receive()
            except TimeoutError:
                raise answer.stop(408, "the request came too slowly; send it again") from None
            size, whole = len(message.get("body", b"")), not message.get("more_body", False)
            held, self._held = held + size, self._held + size
            if held > self.limits.each:
                raise answer.stop(413, _too_much(self.limits.each))
            if self._held > self.limits.together:
                raise answer.stop(503, "too many uploads at the same time; try again in a minute")
            return message

        try:
            with suppress(ClientDisconnect):  # the page cancels uploads that newer ones replace
                await self.app(scope, bounded, answer)
        except Exception:  # also a group with ours among others
            if not answer.ended:
                raise
        finally:
            self._held -= held
        if answer.refusal:
            await _refuse(send, *answer.refusal)


class _Stopped(Exception):
    """A body is beyond a limit."""


class _Answer:
    """`send` that adds our headers."""

    def __init__(self, send: Send) -> None:
        self.send, self.started, self.ended = send, False, False
        self.refusal: Refusal | None = None

    def stop(self, status: int, sentence: str) -> _Stopped:
        """Stop the app's answer, unless it has begun: the gate answers instead."""
        self.ended = True
        self.refusal = None if self.started else Refusal(status, sentence)
        return _Stopped()

    async def __call__(self, message: Message) -> None:
        if self.refusal:
            return
        if message["type"] == "http.response.start":
            self.started = True
            own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *own]}
        await self.send(message)


def _too_much(max_bytes: int) -> str:
    return f"a request takes at most {max_bytes >> 20} MB; scale the pictures down first"


async def _welcome(send: Send, visitors: Visitors) -> None:
    """Keep the token in a cookie, and lead to the page without it in the address."""
    cookie = f"{visitors.cookie}={visitors.token}; Path=/; HttpOnly; SameSite=Lax"
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    headers.append((b"cache-control", b"no-store"))
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    # The end of the body is not read: the connection cannot be used again.
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class PunctualProtocol(H11Protocol):
    """uvicorn's protocol with a deadline for the headers of every request, and for taking its answer.

    Without them a connection that sends nothing, or a header a minute, or that never reads what it asked for,
    holds its place forever, and the server has a limited number of places.
    """

    header_seconds = 10.0  # from the connection, or from the first byte of a later request
    taking_seconds = 30.0  # in which a client takes a part of what waits for it
    _deadline: asyncio.TimerHandle | None = None
    _next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._set_deadline()
        self._look_at_answer(0)

    def data_received(self, data: bytes) -> None:
        """Stop the clock once the headers are whole; start it with the first byte of the next request."""
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)

    def _look_at_answer(self, before: int) -> None:
        """End the connection if its client has taken nothing of the bytes that waited `before`."""
        waiting = self.transport.get_write_buffer_size()
        if before and waiting >= before:
            self.transport.abort()  # `close` would wait for the client
        else:
            self._next_look = self.loop.call_later(self.taking_seconds, self._look_at_answer, waiting)

    def _set_deadline(self) -> None:
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
