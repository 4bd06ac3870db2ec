"""A server on a port of its own, in a thread, with what a client without manners can do to it."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from sampling.web.gate import PunctualProtocol


@contextmanager
def running(
    app: ASGIApp, header_seconds: float = 60.0, connections: int = 200, taking_seconds: float = 60.0
) -> Iterator[int]:
    """Serve `app` as the page's server does; yields the port."""

    class Protocol(PunctualProtocol):
        pass

    Protocol.header_seconds, Protocol.taking_seconds = header_seconds, taking_seconds
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=Protocol, log_level="error", limit_concurrency=connections, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def begin(port: int, length: int = 100, start: bytes = b"{") -> socket.socket:
    """A connection with the headers of an edit and the beginning of its body."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    lines = ["POST /api/edit HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {length}", "", ""])
    connection.sendall(head.encode() + start)
    return connection


def post(port: int, body: dict[str, object]) -> tuple[int, str]:
    """Status and text of the answer to an edit."""
    content = json.dumps(body).encode()
    with begin(port, len(content), content) as connection:
        answer = read(connection)
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest.decode()


def read(connection: socket.socket) -> bytes:
    """All that comes, until the server closes the connection or a JSON answer is whole."""
    answer = b""
    while piece := connection.recv(1 << 16):
        answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if sizes and len(body) >= int(sizes[0].partition(b":")[2]):
            break
    return answer
