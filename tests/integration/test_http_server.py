"""The bounds that the HTTP server keeps before and beside any route."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from iocpd.api import http_server, middleware
from iocpd.api.app import create_app
from iocpd.api.http_server import BoundedProtocol, HttpServer, ListenFailure, listen
from iocpd.api.metrics.requests import RequestMetrics
from iocpd.api.settings import HttpAddress, Settings
from iocpd.core import Engine
from tests.support import PATIENCE, Client, eventually


@pytest.fixture
def port(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The API in a thread of this process, with short bounds on time."""
    monkeypatch.setattr(http_server, "HEADERS_SECONDS", 0.4)
    monkeypatch.setattr(http_server, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.4)
    settings = Settings(http_keep_alive=1)
    metrics = RequestMetrics()
    app = create_app(engine, settings, request_metrics=metrics)
    listener = listen(HttpAddress("127.0.0.1", 0))
    servers: list[HttpServer] = []
    ready = threading.Event()

    async def serve() -> None:
        server = HttpServer(app, settings, metrics)
        servers.append(server)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        ready.set()
        await serving

    def run() -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(PATIENCE)
    yield listener.getsockname()[1]
    servers[0].should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


def answer(port: int, *pieces: bytes) -> tuple[bytes, float]:
    """What comes back until the server ends the connection, and how long that takes."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = bytearray()
        while data := connection.recv(65536):
            received += data
    return bytes(received), time.monotonic() - began


def test_a_connection_that_sends_nothing_is_ended(port: int) -> None:
    received, seconds = answer(port)
    assert received == b""
    assert 0.3 < seconds < 3


def test_headers_that_never_end_are_cut_off(port: int) -> None:
    received, seconds = answer(port, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow")
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in received
    assert 0.3 < seconds < 3


def test_empty_lines_do_not_keep_a_connection_alive(port: int) -> None:
    received, seconds = answer(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\n")
    assert received.count(b"HTTP/1.1 200") == 1
    assert seconds < 3


def test_an_idle_connection_is_ended_after_the_keep_alive_time(port: int) -> None:
    received, seconds = answer(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")
    assert 0.8 < seconds < 4


def test_a_body_that_never_ends_is_cut_off(port: int) -> None:
    head = b"POST /v1/broadcasts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n"
    received, seconds = answer(port, head, b"Content-Type: application/json\r\n\r\n", b'{"all": true')
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in received
    assert 0.3 < seconds < 3


def test_a_client_that_does_not_read_its_answers_is_cut_off(port: int) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
        eventually(lambda: 'refused_connections_total{reason="answer_timeout"} 1.0' in metrics(port))
        received, answers = 0, 0
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(1 << 20):
                received += len(data)
                answers += data.count(b"HTTP/1.1 200")
        assert received > 0
        assert answers < 100


def test_a_client_that_reads_late_has_its_answers_whole(port: int) -> None:
    requests, mark = 60, b'"openapi":'
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * requests)
        received, found = b"", 0
        while found < requests:
            if found % 10 == 0:
                time.sleep(0.1)  # late again and again, and not too late
            data = client.recv(1 << 20)
            assert data, f"cut off after {found} answers"
            found += (received + data).count(mark)
            received = data[-len(mark) + 1 :]
    assert "answer_timeout" not in metrics(port)


def metrics(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_a_client_that_asks_before_it_sends_too_much_is_told_at_once(port: int) -> None:
    head = (
        b"POST /v1/broadcasts HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    )
    received, seconds = answer(port, head)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert seconds < 1


def test_requests_in_one_piece_are_answered_in_order(port: int) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: %d\r\n\r\n"
    received, _ = answer(port, b"".join(request % number for number in range(5)))
    assert received.count(b"HTTP/1.1 200") == 5
    places = [received.index(b"x-request-id: %d" % number) for number in range(5)]
    assert places == sorted(places)


def test_a_request_to_upgrade_is_answered_as_http(port: int) -> None:
    headers = {"connection": "upgrade", "upgrade": "websocket"}
    assert httpx.get(f"http://127.0.0.1:{port}/livez", headers=headers).json() == {"status": "live"}


def test_a_client_that_resets_before_it_is_accepted_is_no_error(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Windows tells of it, on every system."""
    gone, accept = iter([ConnectionResetError(10054, "reset by the peer")]), socket.socket.accept

    def accept_or_reset(listener: socket.socket) -> tuple[socket.socket, object]:
        for error in gone:
            raise error
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_or_reset)
    received, _ = answer(port, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")
    assert next(gone, None) is None
    assert not caplog.records


@pytest.mark.skipif(sys.platform != "win32", reason="of Windows")
def test_a_port_that_windows_keeps_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(listener: socket.socket, where: object) -> None:
        raise OSError(None, "An attempt was made to access a socket", None, errno.WSAEACCES)

    monkeypatch.setattr(socket.socket, "bind", refused)
    with pytest.raises(ListenFailure, match="excludedportrange"):
        listen(HttpAddress("127.0.0.1", 8080))


def test_accepted_connections_send_without_delay() -> None:
    with listen(HttpAddress("127.0.0.1", 0)) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_host_that_does_not_resolve_is_named() -> None:
    with pytest.raises(ListenFailure, match=r"'no\.such\.host\.invalid' is no address here"):
        listen(HttpAddress("no.such.host.invalid", 0))


def test_a_connection_that_is_reset_leaves_nothing_behind(port: int) -> None:
    def protocols() -> list[BoundedProtocol]:
        return [each for each in gc.get_objects() if isinstance(each, BoundedProtocol)]

    for _ in range(20):
        with Client(port) as client:
            client.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert client.read(12) == b"HTTP/1.1 200"
            eventually(lambda: any(each.timeout_keep_alive_task for each in protocols()))
            client.reset()
        eventually(lambda: not any(each in each.connections for each in protocols()))
        assert [each for each in protocols() if each.timeout_keep_alive_task] == []
