"""Ten thousand connections at once."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time

import pytest

from tests.integration.conftest import Serve
from tests.support import PATIENCE, eventually

COUNT = 10_000


def connect_all(port: int) -> list[socket.socket]:
    connections = []
    for _ in range(COUNT):
        connection = socket.socket()
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", port))
        connections.append(connection)
    return connections


def read_all(connections: list[socket.socket], size: int) -> list[bytes]:
    """So many bytes from each; b"" of one that has ended."""
    received = dict.fromkeys(connections, b"")
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        until = time.monotonic() + 3 * PATIENCE
        while selector.get_map():
            assert time.monotonic() < until, f"{len(selector.get_map())} are still waiting"
            for key, _ in selector.select(1.0):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                data = b""
                with contextlib.suppress(ConnectionResetError):
                    data = connection.recv(size - len(received[connection]))
                received[connection] += data
                if not data or len(received[connection]) == size:
                    selector.unregister(connection)
    return [received[connection] for connection in connections]


@pytest.mark.slow
def test_ten_thousand_connections_are_served_listed_sent_to_and_drained(serve: Serve) -> None:
    server = serve(drain_deadline="20s")
    connections = connect_all(server.port)
    try:
        eventually(lambda: server.count() == COUNT, 3 * PATIENCE)
        for number, connection in enumerate(connections):
            connection.sendall(b"%06d" % number)
        assert read_all(connections, 6) == [b"%06d" % number for number in range(COUNT)]

        rows = server.everything(limit=1000)
        assert len({row["id"] for row in rows}) == len(rows) == COUNT
        assert {row["peer"]["port"] for row in rows} == {connection.getsockname()[1] for connection in connections}

        report = server.broadcast(all=True, payload={"text": "to all"}, timeout="30s")
        assert report["matched"] == report["written"] == COUNT
        assert read_all(connections, 6) == [b"to all"] * COUNT

        assert server.http.post("/v1/node/shutdown").status_code == 202
        assert read_all(connections, 1) == [b""] * COUNT
    finally:
        for connection in connections:
            connection.close()
    assert server.wait(30) == 0
    assert f"{COUNT} connections drained, 0 cut off" in server.log()
