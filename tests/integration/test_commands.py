"""Kicking, sending and broadcasting with the real process."""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.support import Client, eventually


def test_a_kick_sends_the_farewell_then_the_end_and_is_remembered_with_its_reason(server: Server) -> None:
    client, other = server.connect(2)
    id = server.id_of(client)
    with ThreadPoolExecutor(1) as background:
        kick = background.submit(
            server.http.delete, f"/v1/connections/{id}", params={"reason": "maintenance", "farewell": "bye\n"}
        )
        assert client.read_to_end() == b"bye\n"
        client.close()
        assert kick.result().status_code == 204
    record = server.closed(id)
    assert record["id"] == id
    assert (record["reason"], record["by"], record["text"]) == ("kicked", "operator", "maintenance")
    assert record["bytes_out"] == 4
    assert server.get("/v1/connections/closed")["items"][0] == record
    assert other.echoes(b"untouched")


def test_a_farewell_in_the_body_may_be_any_bytes(server: Server) -> None:
    client = server.connect()[0]
    farewell = bytes(range(256))
    body = {"farewell": {"base64": base64.b64encode(farewell).decode()}}
    with ThreadPoolExecutor(1) as background:
        kick = background.submit(server.http.request, "DELETE", f"/v1/connections/{server.id_of(client)}", json=body)
        assert client.read_to_end() == farewell
        client.close()
        assert kick.result().status_code == 204


def test_a_kick_answers_only_once_the_connection_has_left_the_table(server: Server) -> None:
    client = server.connect()[0]
    id = server.id_of(client)
    began = time.monotonic()
    answer = server.http.delete(f"/v1/connections/{id}", params={"timeout": "700ms"})  # the client does not close
    assert answer.status_code == 204
    assert 0.6 < time.monotonic() - began < 5
    assert server.http.get(f"/v1/connections/{id}").status_code == 410
    assert server.everything() == []


def test_a_forced_kick_resets_at_once(server: Server) -> None:
    client = server.connect()[0]
    answer = server.http.delete(f"/v1/connections/{server.id_of(client)}", params={"force": "true", "timeout": "60s"})
    assert answer.status_code == 204
    assert client.was_reset()


def test_an_id_that_is_stale_never_reaches_the_connection_that_took_its_place(server: Server) -> None:
    gone = server.connect()[0]
    stale = server.id_of(gone)
    gone.close()
    record = server.closed(stale)
    fresh = server.connect(20)
    for answer in (
        server.http.get(f"/v1/connections/{stale}"),
        server.http.delete(f"/v1/connections/{stale}"),
        server.http.post(f"/v1/connections/{stale}/messages", json={"text": "x"}),
    ):
        assert answer.status_code == 410
        assert answer.json()["code"] == "connection_ended"
        assert answer.json()["closed"] == record
    assert all(client.echoes(b"mine") for client in fresh)
    assert stale not in {row["id"] for row in server.everything()}


def test_an_id_from_an_earlier_run_is_recognised_as_such(serve: Serve) -> None:
    before, after = serve(), serve()
    old, new = before.connect()[0], after.connect()[0]
    answer = after.http.delete(f"/v1/connections/{before.id_of(old)}")
    assert answer.status_code == 410
    assert answer.json()["code"] == "connection_of_another_run"
    assert "earlier run" in answer.json()["detail"]
    assert old.echoes(b"a")
    assert new.echoes(b"b")


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"text": "h\u00e9llo\n"}},
        {"json": {"base64": base64.b64encode("h\u00e9llo\n".encode()).decode()}},
        {"content": "h\u00e9llo\n".encode(), "headers": {"content-type": "application/octet-stream"}},
    ],
    ids=["text", "base64", "raw"],
)
def test_a_message_arrives_as_it_was_given(server: Server, options: dict[str, Any]) -> None:
    client, other = server.connect(2)
    answer = server.http.post(f"/v1/connections/{server.id_of(client)}/messages", **options)
    assert answer.status_code == 200
    report = {"matched": 1, "queued": 1, "written": 1, "skipped_slow": 0, "closed_before_write": 0, "failed": 0}
    assert answer.json() == report | {"done": True}
    assert client.read(7) == "h\u00e9llo\n".encode()
    assert other.echoes(b"nothing came here")


def test_messages_to_one_connection_keep_their_order(server: Server) -> None:
    client = server.connect()[0]
    path = f"/v1/connections/{server.id_of(client)}/messages"
    for number in range(200):
        assert server.http.post(path, json={"text": f"{number:04}"}).status_code == 200
    assert client.read(800) == b"".join(b"%04d" % number for number in range(200))


def test_a_connection_on_its_way_out_takes_no_message(server: Server) -> None:
    client = server.connect()[0]
    id = server.id_of(client)
    with ThreadPoolExecutor(1) as background:
        kick = background.submit(server.http.delete, f"/v1/connections/{id}", params={"timeout": "15s"})
        eventually(lambda: server.get(f"/v1/connections/{id}")["state"] == "draining")
        answer = server.http.post(f"/v1/connections/{id}/messages", json={"text": "too late"})
        assert (answer.status_code, answer.json()["code"]) == (409, "connection_closing")
        client.close()
        assert kick.result().status_code == 204


def test_a_full_send_queue_answers_429_and_takes_nothing(serve: Serve) -> None:
    server = serve(send_soft_bytes=65536, send_hard_bytes=262144, max_message_bytes=65536, send_soft_seconds="1h")
    client = Client(server.port, receive_buffer=4096)
    path = f"/v1/connections/{server.id_of(client)}/messages"
    taken = 0
    for _ in range(2000):
        answer = server.http.post(path, content=b"x" * 65536, params={"timeout": "100ms"}, headers=RAW)
        if answer.status_code != 200:
            break
        taken += 65536
    assert (answer.status_code, answer.json()["code"]) == (429, "send_queue_full")
    assert answer.headers["retry-after"] == "1"
    assert client.read(taken) == b"x" * taken
    assert server.http.post(path, content=b"end", headers=RAW).status_code == 200
    assert client.read(3) == b"end"


RAW = {"content-type": "application/octet-stream"}


@pytest.mark.slow
def test_broadcasts_reach_two_thousand_clients_with_nothing_lost_or_mixed_up(server: Server) -> None:
    clients = server.connect(2000)
    rounds, size = 10, 1000

    def message(sender: str, number: int) -> str:
        return f"{sender}{number:03}".ljust(size, sender)

    def send(sender: str) -> list[dict[str, Any]]:
        bodies = ({"all": True, "payload": {"text": message(sender, number)}} for number in range(rounds))
        return [server.broadcast(**body) for body in bodies]

    with ThreadPoolExecutor(2) as background:
        reports = [report for found in background.map(send, "ab") for report in found]
    for report in reports:
        assert report["matched"] == report["queued"] == report["written"] == 2000
        assert report["done"]

    for client in clients:
        stream = client.read(2 * rounds * size).decode()
        frames = [stream[place : place + size] for place in range(0, len(stream), size)]
        for sender in "ab":
            assert [frame for frame in frames if frame[0] == sender] == [message(sender, n) for n in range(rounds)]
    assert all(client.echoes(b"and nothing more") for client in clients[::100])


def test_a_broadcast_reaches_those_that_its_filter_matches(serve: Serve) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/discard"))
    (echo,), discard = server.connect(1), server.connect(3, listener=1)
    report = server.http.post("/v1/broadcasts", json={"listener": 1, "payload": {"text": "you"}}).json()
    assert report["matched"] == report["written"] == 3
    assert all(client.read(3) == b"you" for client in discard)
    assert echo.echoes(b"not me")
    nobody = server.http.post("/v1/broadcasts", json={"ip": "192.0.2.0/24", "payload": {"text": "x"}}).json()
    assert nobody["matched"] == 0
    assert nobody["done"]


def test_one_client_that_does_not_read_delays_nobody_else_and_is_ended(serve: Serve) -> None:
    server = serve(send_soft_bytes=65536, send_hard_bytes=1 << 20, send_soft_seconds="1s", max_message_bytes=1 << 18)
    slow = Client(server.port, receive_buffer=4096)
    slow_id = server.id_of(slow)
    quick = server.connect(50)
    payload, received = b"q" * (1 << 18), [0] * len(quick)

    def read(number: int) -> None:
        while received[number] < 40 * len(payload):
            received[number] += len(quick[number].socket.recv(1 << 16))

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(quick))]
    for thread in readers:
        thread.start()
    body = {"all": True, "payload": {"base64": base64.b64encode(payload).decode()}, "timeout": "0s"}
    skipped = 0
    for round in range(1, 41):
        skipped += server.http.post("/v1/broadcasts", json=body).json()["skipped_slow"]
        eventually(lambda round=round: min(received) >= round * len(payload))
    for thread in readers:
        thread.join()
    record = server.closed(slow_id)
    assert (record["reason"], record["by"]) == ("slow_consumer", "engine")
    assert len(server.everything()) == len(quick)
