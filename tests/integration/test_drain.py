"""Draining and stopping the real process."""

from __future__ import annotations

import selectors
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.support import PATIENCE, Client, eventually


class Load:
    """Clients that send without pause and read everything, until their stream ends; then they close."""

    def __init__(self, clients: list[Client]) -> None:
        self.received = {client.address[1]: 0 for client in clients}
        self.mixed_up = False
        self._unended = -1
        self._clients = clients
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        piece = bytes(range(256)) * 16
        with selectors.DefaultSelector() as selector:
            sent = {}
            for client in self._clients:
                client.socket.setblocking(False)
                sent[client.address[1]] = 0
                selector.register(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
            until = time.monotonic() + 2 * PATIENCE
            while selector.get_map() and time.monotonic() < until:
                for key, events in selector.select(0.1):
                    client, port = key.data, key.data.address[1]
                    try:
                        if events & selectors.EVENT_READ:
                            data = client.socket.recv(65536)
                            place = self.received[port] % 256
                            self.mixed_up |= data != (piece * 17)[place : place + len(data)]
                            self.received[port] += len(data)
                            if not data:
                                selector.unregister(client.socket)
                                client.close()
                                continue
                        # At most so much on the way, so that a stream is not ahead of its echo without end.
                        if events & selectors.EVENT_WRITE and sent[port] - self.received[port] < 65536:
                            sent[port] += client.socket.send(piece[sent[port] % 256 :])
                    except (ConnectionResetError, BrokenPipeError, ConnectionAbortedError):
                        selector.unregister(client.socket)
                        client.close()
            self._unended = len(selector.get_map())

    def join(self) -> None:
        self._thread.join(3 * PATIENCE)
        assert not self._thread.is_alive()
        assert self._unended == 0, "the service went on"


def test_a_drain_under_load_echoes_every_byte_that_was_taken_in(server: Server) -> None:
    clients = server.connect(50)
    load = Load(clients)
    eventually(lambda: min(load.received.values()) > 100_000)
    answer = server.http.put("/v1/node/drain", json={"deadline": "20s"})
    assert answer.status_code == 202
    load.join()
    assert not load.mixed_up
    progress = eventually(lambda: state if (state := server.drain())["phase"] == "drained" else None)
    assert (progress["initial"], progress["remaining"], progress["cancelled"]) == (50, 0, 0)
    records = server.get("/v1/connections/closed", limit=1000)["items"]
    assert len(records) == 50
    for record in records:
        assert record["reason"] == "drained"
        assert record["bytes_in"] == record["bytes_out"] == load.received[record["peer"]["port"]]
    assert server.everything() == []


def test_a_drain_that_stays_can_be_cancelled_and_the_service_accepts_again(server: Server) -> None:
    client = server.connect()[0]
    assert server.http.get("/readyz").status_code == 200
    answer = server.http.put("/v1/node/drain", json={"lb_delay": "60s", "deadline": "120s"})
    assert answer.status_code == 202
    assert answer.json()["phase"] == "lb_delay"
    ready = server.http.get("/readyz")
    assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
    assert "lb_delay" in ready.json()["detail"]
    assert server.http.get("/livez").status_code == 200
    assert client.echoes(b"still served")
    assert Client(server.port).echoes(b"still accepted")

    again = server.http.put("/v1/node/drain")
    assert (again.status_code, again.json()["code"]) == (409, "drain_conflict")
    assert server.http.delete("/v1/node/drain").status_code == 204
    assert server.drain()["phase"] == "none"
    assert server.http.get("/readyz").status_code == 200
    assert Client(server.port).echoes(b"accepted")
    assert server.http.delete("/v1/node/drain").status_code == 409


def test_a_drained_node_refuses_clients_until_the_drain_is_cancelled(server: Server) -> None:
    assert server.http.put("/v1/node/drain").status_code == 202
    eventually(lambda: server.drain()["phase"] == "drained")
    assert server.http.get("/livez").status_code == 200
    with pytest.raises(ConnectionError):
        Client(server.port)
    assert [listener["open"] for listener in server.get("/v1/listeners")["items"]] == [False]
    assert server.http.delete("/v1/node/drain").status_code == 204
    eventually(lambda: server.http.get("/readyz").status_code == 200)
    assert Client(server.port).echoes(b"again")


def test_a_rate_spreads_the_drain_and_its_progress_can_be_read(server: Server) -> None:
    clients = server.connect(30)
    load = [threading.Thread(target=lambda client=client: (client.read_to_end(), client.close())) for client in clients]
    for thread in load:
        thread.start()
    began = time.monotonic()
    body = {"rate_per_s": 20, "deadline": "30s", "farewell": {"text": ""}}
    assert server.http.put("/v1/node/drain", json=body).status_code == 202
    seen = set()
    while (progress := server.drain())["phase"] != "drained":
        assert time.monotonic() - began < 15
        seen.add(progress["remaining"])
        if progress["phase"] == "evict":
            assert progress["eta"] is not None
            assert progress["eta"] <= progress["deadline"]
        time.sleep(0.05)
    assert time.monotonic() - began > 0.7
    assert len(seen) > 3
    for thread in load:
        thread.join(PATIENCE)


def test_a_farewell_reaches_everybody_before_the_end(server: Server) -> None:
    clients = server.connect(20)
    assert server.http.post("/v1/node/shutdown", json={"farewell": {"text": "closing time\n"}}).status_code == 202
    for client in clients:
        assert client.read_to_end() == b"closing time\n"
        client.close()
    assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains_and_ends_with_status_0(server: Server, number: signal.Signals) -> None:
    clients = server.connect(10)
    load = Load(clients)
    eventually(lambda: min(load.received.values()) > 10_000)
    server.signal(number)
    load.join()
    assert not load.mixed_up
    assert server.wait() == 0
    assert "10 connections drained, 0 cut off" in server.log()
    assert "Traceback" not in server.log()


def test_clients_that_never_leave_are_cut_off_at_the_deadline(serve: Serve) -> None:
    server = serve(drain_deadline="1500ms")
    clients = server.connect(20)
    began = time.monotonic()
    server.signal()
    assert server.wait() == 0  # long before the 30 s that a drain has by itself
    assert time.monotonic() - began > 1.2
    assert "0 connections drained, 20 cut off" in server.log()
    del clients


def test_progress_can_be_read_until_the_end_of_a_shutdown(serve: Serve) -> None:
    server = serve(drain_deadline="1s")
    clients = server.connect(5)
    began = time.monotonic()
    answer = server.http.post("/v1/node/shutdown")
    assert answer.status_code == 202
    assert answer.json()["then"] == "shutdown"
    remaining = []
    while True:
        try:
            remaining.append(server.http.get("/v1/node/drain").json()["remaining"])
        except httpx.TransportError:
            break
    # Who asks again some milliseconds too late does not see the last of it, but the API was there for all of it.
    assert time.monotonic() - began >= 1.0
    assert remaining[0] == 5
    assert remaining == sorted(remaining, reverse=True)
    assert server.wait() == 0
    assert "0 connections drained, 5 cut off" in server.log()
    del clients


def test_a_second_shutdown_may_bring_the_deadline_forward(serve: Serve) -> None:
    server = serve()
    clients = server.connect(3)
    assert server.http.post("/v1/node/shutdown", json={"deadline": "1h"}).status_code == 202
    assert server.http.delete("/v1/node/drain").status_code == 409
    assert server.http.post("/v1/node/shutdown", json={"deadline": "0s"}).status_code == 202
    assert server.wait() == 0
    del clients


def test_a_second_signal_ends_at_once(serve: Serve) -> None:
    server = serve(drain_deadline="1h")
    clients = server.connect(3)
    server.signal(signal.SIGINT)
    eventually(lambda: server.drain()["phase"] in ("grace", "evict"))
    time.sleep(0.4)  # what comes within 0.3 s is the same signal
    server.signal(signal.SIGINT)
    assert server.wait() == 130
    assert "ending at once" in server.log()
    del clients


def test_a_signal_that_arrives_twice_at_once_counts_once(server: Server) -> None:
    clients = server.connect(3)
    load = Load(clients)
    eventually(lambda: min(load.received.values()) > 10_000)
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGINT)
    load.join()
    assert server.wait() == 0
    assert "3 connections drained, 0 cut off" in server.log()


def test_http_connections_that_stay_open_do_not_hold_up_the_end(server: Server) -> None:
    idle = [httpx.Client(base_url=server.url) for _ in range(5)]
    for client in idle:
        assert client.get("/livez").status_code == 200
    silent = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(3)]
    half = socket.create_connection(("127.0.0.1", server.http_port))
    half.sendall(b"POST /v1/broadcasts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    began = time.monotonic()
    server.signal()
    assert server.wait() == 0
    assert time.monotonic() - began < 9  # sooner than the 10 s that headers have
    assert "Traceback" not in server.log()
    assert b'"engine_stopped"' in half.recv(65536)
    for client in idle:
        client.close()
    for connection in [*silent, half]:
        connection.close()


def test_commands_during_a_shutdown_are_answered(serve: Serve) -> None:
    server = serve(drain_deadline="10s")
    client, other = server.connect(2)
    id = server.id_of(client)
    assert server.http.post("/v1/node/shutdown").status_code == 202
    eventually(lambda: server.get(f"/v1/connections/{id}")["state"] == "draining")
    with ThreadPoolExecutor(1) as background:
        kick = background.submit(server.http.delete, f"/v1/connections/{id}", params={"force": "true"})
        assert kick.result().status_code == 204
    assert server.drain()["remaining"] == 1
    client.close()
    other.close()
    assert server.wait() == 0
