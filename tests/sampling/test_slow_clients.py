"""Clients that send slowly, or never finish, do not keep others from the server."""

import asyncio
import socket
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from intarsia.model import EditModel
from sampling.painters.own import painting_with
from sampling.provenance import pattern
from sampling.settings import MachineSettings
from sampling.web.api import add_api
from sampling.web.gate import BodyLimits, Gate
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.sampling.serving import begin, post, read, running
from tests.sampling.test_api import BODY

PATIENT = BodyLimits(1 << 20, 1 << 24)
HASTY = BodyLimits(1 << 20, 1 << 24, piece_seconds=0.3)


@pytest.fixture
def app(model: EditModel, model_folder: Path, tmp_path: Path) -> Starlette:
    shared = pattern(model_folder, MachineSettings(device="cpu"))
    app = Starlette()
    add_api(app, Service(painting_with(model), shared, tmp_path / "out", Limits(waiting=1)), batch_size=4)
    return app


def test_bodies_that_never_end_take_no_place_in_the_line(app: Starlette) -> None:
    with running(Gate(app, PATIENT, visitors_of("127.0.0.1"))) as port:
        held = [begin(port) for _ in range(9)]
        assert post(port, BODY)[0] == 200
        for connection in held:
            connection.close()


@pytest.mark.parametrize("start", [b"", b"{"])
def test_a_body_that_stops_is_answered_and_closed(app: Starlette, start: bytes) -> None:
    with running(Gate(app, HASTY, visitors_of("127.0.0.1"))) as port, begin(port, start=start) as connection:
        answer = read(connection)
        assert b" 408 " in answer.splitlines()[0]
        assert b"the request came too slowly; send it again" in answer
        assert connection.recv(1) == b"", "the connection is closed"


def test_a_body_has_a_deadline_however_steadily_it_comes(app: Starlette) -> None:
    hasty = BodyLimits(1 << 20, 1 << 24, seconds=1.0)
    with running(Gate(app, hasty, visitors_of("127.0.0.1"))) as port, begin(port) as connection:
        connection.settimeout(0.1)
        answer = b""
        for _ in range(90):  # 9 seconds, of 100 bytes that are awaited
            try:
                answer = connection.recv(1000)
                break
            except TimeoutError:
                connection.sendall(b" ")
        assert b" 408 " in answer.splitlines()[0]


def test_bodies_together_have_a_limit(app: Starlette) -> None:
    limits = BodyLimits(1 << 20, 1 << 20)
    with running(Gate(app, limits, visitors_of("127.0.0.1"))) as port:
        held = [begin(port, 1 << 20, b"{" + b" " * 700_000) for _ in range(2)]
        held[0].settimeout(60)
        answered = next(connection for connection in held if _has_answer(connection))
        assert b"too many uploads at the same time; try again in a minute" in read(answered)
        for connection in held:
            connection.close()
        status, text = post(port, BODY)
        assert status == 200, f"their bytes are free again: {text}"


def _has_answer(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except TimeoutError:
        return False


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_connection_without_whole_headers_is_closed(app: Starlette, sent: bytes) -> None:
    gate = Gate(app, PATIENT, visitors_of("127.0.0.1"))
    with (
        running(gate, header_seconds=0.3) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
    ):
        connection.sendall(sent)
        assert connection.recv(100) == b""


def test_idle_connections_do_not_fill_the_server(app: Starlette) -> None:
    gate = Gate(app, PATIENT, visitors_of("127.0.0.1"))
    with running(gate, header_seconds=0.5, connections=5) as port:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(5)]
        for connection in idle:
            assert connection.recv(100) == b""
        assert post(port, BODY)[0] == 200


def test_a_request_that_takes_longer_than_its_headers_may_is_answered() -> None:
    async def slow(request: Request) -> PlainTextResponse:
        await asyncio.sleep(1.5)
        return PlainTextResponse("at last")

    app = Starlette()
    app.add_route("/api/edit", slow, methods=["POST"])
    gate = Gate(app, PATIENT, visitors_of("127.0.0.1"))
    with running(gate, header_seconds=0.5) as port:
        assert post(port, {}) == (200, "at last")


def test_answers_that_nobody_reads_do_not_fill_the_server() -> None:
    async def large(request: Request) -> PlainTextResponse:
        return PlainTextResponse(" " * (int(request.query_params.get("mb", 0)) << 20))

    app = Starlette()
    app.add_route("/", large)
    gate, few = Gate(app, PATIENT, visitors_of("127.0.0.1")), 5

    def ask(port: int, mb: int) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        connection.sendall(f"GET /?mb={mb} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return connection

    with running(gate, connections=few + 1, taking_seconds=2.0) as port:
        held = [ask(port, 32) for _ in range(few)]
        assert {connection.recv(12) for connection in held} == {b"HTTP/1.1 200"}
        end = time.monotonic() + 60
        while b" 200 " not in ask(port, 0).recv(20):
            assert time.monotonic() < end, "the places are taken for ever"
            time.sleep(0.1)
        for connection in held:
            connection.close()
        slow, taken = ask(port, 32), 0
        while piece := slow.recv(1 << 20):  # a client that reads slowly is not one that does not
            if (taken + len(piece)) >> 22 > taken >> 22:
                time.sleep(0.4)
            taken += len(piece)
            if taken > 32 << 20:
                break
        assert taken > 32 << 20
