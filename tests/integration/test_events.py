"""GET /v1/events of the real process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from iocpd.api.events.schemas import EventView
from iocpd.api.keys import add_key, revoke_key
from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.integration.sse import watch
from tests.support import PATIENCE, Client, eventually


def metric(server: Server, name: str) -> float:
    """The value of a metric without labels."""
    lines = server.http.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))


def test_who_comes_and_goes_is_told_with_the_members_that_fit(server: Server) -> None:
    with watch(server.url) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert stream.answer.headers["cache-control"] == "no-cache"
        client = server.connect()[0]
        came = stream.until("connected")
        id = server.id_of(client)
        assert came.data["id"] == id
        assert came.data["peer"] == {"ip": "127.0.0.1", "port": client.address[1]}
        assert set(came.data) == {"at", "id", "listener", "worker", "peer", "via"}
        assert client.echoes(b"12345")
        client.close()
        went = stream.until("disconnected")
        assert went.data["id"] == id
        assert went.data["reason"] == "client_closed"
        assert went.data["by"] == "client"
        assert went.data["bytes_in"] == went.data["bytes_out"] == 5
        assert went.data["at"] >= came.data["at"]
        for seen in (came, went):
            EventView.model_validate(seen.data, extra="forbid")
            assert seen.id is not None
            assert seen.id.startswith(id.partition("-")[0] + ".")


def test_a_kick_says_why_in_the_event_the_closed_list_and_the_metrics(server: Server) -> None:
    client = server.connect()[0]
    id = server.id_of(client)
    reason = "maintenance: \"now\" 'or' data: {} \u00e9"
    with watch(server.url, types="disconnected") as stream:
        kick = server.http.delete(
            f"/v1/connections/{id}", params={"reason": reason, "farewell": "bye\n", "timeout": "300ms"}
        )
        assert kick.status_code == 204
        went = stream.until("disconnected", id=id)
    assert client.read_to_end() == b"bye\n"
    assert (went.data["reason"], went.data["by"], went.data["text"]) == ("kicked", "operator", reason)
    [closed] = server.get("/v1/connections/closed")["items"]
    assert (closed["id"], closed["reason"], closed["by"], closed["text"]) == (id, "kicked", "operator", reason)
    assert metric(server, 'iocpd_closed_connections_total{by="operator",reason="kicked"}') == 1


def test_a_stream_goes_on_after_the_last_event_that_came(server: Server) -> None:
    clients = server.connect(3)
    with watch(server.url, types="disconnected") as stream:
        clients[0].close()
        first = stream.until("disconnected")
    for client in clients[1:]:
        client.close()
    with watch(server.url, types="disconnected", last_event_id=first.id) as stream:
        ports = {stream.next().data["peer"]["port"] for _ in range(2)}
        assert ports == {client.address[1] for client in clients[1:]}
        assert not any(line.startswith("event: missed") for line in stream.lines)


def test_a_stream_has_an_id_to_go_on_from_before_anything_happened(server: Server) -> None:
    with watch(server.url) as stream:
        start = stream.last_id
    client = server.connect()[0]
    with watch(server.url, last_event_id=start) as stream:
        assert stream.next().data["peer"]["port"] == client.address[1]


def test_who_comes_back_too_late_is_told_how_many_are_lost(serve: Serve) -> None:
    server = serve(event_capacity=16, workers=1)
    with watch(server.url) as stream:
        start = stream.last_id
    for client in server.connect(20):
        client.close()
    eventually(lambda: len(server.get("/v1/connections/closed")["items"]) == 20)
    with watch(server.url, last_event_id=start) as stream:
        first = stream.next()
        assert first.type == "missed"
        missed = first.data["missed"]
        assert missed > 0
        rest = [stream.next() for _ in range(40 - missed)]
        assert {seen.type for seen in rest} <= {"connected", "disconnected"}
    assert metric(server, "iocpd_missed_events_total") == missed


def test_an_id_of_another_run_begins_now_and_says_that_nobody_knows_what_was_missed(server: Server) -> None:
    with watch(server.url, last_event_id="bbbbbb.1.2.3") as stream:
        first = stream.next()
        assert (first.type, first.data) == ("missed", {"missed": None})
        client = server.connect()[0]
        assert stream.next().data["peer"]["port"] == client.address[1]


def test_what_is_no_id_of_an_event_is_refused(server: Server) -> None:
    instance = server.get("/v1/node")["instance"]
    for id in ("x", "12.3", f"{instance}.", f"{instance}.1.x", f"{instance}.99999999", f"{instance}.9.9.9.9.9.9.9.9"):
        answer = server.http.get("/v1/events", headers={"last-event-id": id})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
        assert "Last-Event-ID" in answer.json()["detail"]
    assert metric(server, "iocpd_event_streams") == 0


@pytest.mark.parametrize(
    ("query", "mentions"),
    [("types=connected,sneezed", "'sneezed'"), ("types=", "''"), ("listener=-1", "listener"), ("kind=ban", "kind")],
)
def test_filters_that_are_none_are_refused(server: Server, query: str, mentions: str) -> None:
    answer = server.http.get(f"/v1/events?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert mentions in answer.json()["detail"]


def test_a_stream_can_be_of_one_listener_and_of_some_types(serve: Serve) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/discard"))
    with watch(server.url, listener=1) as one, watch(server.url, types="disconnected,ban") as two:
        echo, discard = Client(server.ports[0]), Client(server.ports[1])
        assert echo.echoes(b"x")
        came = one.next()
        assert (came.type, came.data["listener"]) == ("connected", 1)
        assert came.data["peer"]["port"] == discard.address[1]
        echo.close()
        assert two.next().data["peer"]["port"] == echo.address[1]
        discard.close()
        assert one.next().type == "disconnected"


def test_a_drain_and_bans_are_told(server: Server) -> None:
    with watch(server.url, types="drain,ban,unban") as stream:
        ban = server.http.post("/v1/bans", json={"address": "192.0.2.0/24", "reason": "abuse"}).json()
        seen = stream.next()
        assert (seen.type, seen.data["address"], seen.data["text"]) == ("ban", "192.0.2.0/24", "abuse")
        server.http.delete(f"/v1/bans/{ban['id']}")
        assert stream.next().type == "unban"
        server.http.put("/v1/node/drain", json={"deadline": "5s"})
        phases = [stream.until("drain").data["phase"]]
        while phases[-1] != "drained":
            phases.append(stream.until("drain").data["phase"])
        server.http.delete("/v1/node/drain")
        assert stream.until("drain").data["phase"] == "none"


def test_streams_end_with_the_node_and_hold_it_up_no_longer(server: Server) -> None:
    clients = server.connect(3)
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(watch(server.url)) for _ in range(5)]
        began = time.monotonic()
        assert server.http.post("/v1/node/shutdown", json={"deadline": "5s"}).status_code == 202
        for client in clients:
            client.read_to_any_end()
            client.close()
        for stream in streams:
            rest = stream.rest()
            assert sum(seen.type == "disconnected" for seen in rest) == 3
            assert [seen.data["phase"] for seen in rest if seen.type == "drain"][-1] in ("exiting", "stopped")
        assert server.wait() == 0
        assert time.monotonic() - began < PATIENCE / 2


def test_there_are_so_many_streams_and_no_more(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(watch(server.url)) for _ in range(64)]
        assert metric(server, "iocpd_event_streams") == 64
        answer = server.http.get("/v1/events")
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_streams")
        assert answer.headers["retry-after"]
        server.connect()
        assert all(stream.next().type == "connected" for stream in streams)
    # Each gives its place back when its client leaves.
    eventually(lambda: metric(server, "iocpd_event_streams") == 0)
    with watch(server.url) as stream:
        assert stream.last_id


@pytest.mark.slow
def accepted_by(server: Server) -> int:
    accepted: int = server.get("/v1/listeners")["items"][0]["accepted"]
    return accepted


def test_who_does_not_read_holds_up_nobody_and_is_told_later_what_was_missed(serve: Serve) -> None:
    # So many that few are missed before the lazy one stalls: they are what fills its way.
    capacity = 1024
    server = serve(event_capacity=capacity, workers=1)
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.settimeout(PATIENCE)
    lazy.connect(("127.0.0.1", server.http_port))
    lazy.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert lazy.recv(15).startswith(b"HTTP/1.1 200")

    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for client in [Client(server.port) for _ in range(50)]:
                client.reset()

    with contextlib.ExitStack() as stack:
        churner = threading.Thread(target=churn)
        churner.start()
        stack.callback(churner.join)
        stack.callback(over.set)

        # What the system takes for the lazy one fills up, and then nothing more is read for it.
        def stalled() -> bool:
            before = metric(server, "iocpd_streamed_events_total")
            time.sleep(0.5)
            return before > 100 and metric(server, "iocpd_streamed_events_total") == before

        eventually(stalled, 3 * PATIENCE)
        with watch(server.url) as quick:  # and others get theirs
            assert quick.next().type in ("connected", "disconnected", "missed")
        accepted = accepted_by(server)
        eventually(lambda: accepted_by(server) > accepted + capacity, 3 * PATIENCE)
    held = b""
    while b"event: missed" not in held:
        held = held[-4096:] + lazy.recv(1 << 16)
    lazy.close()


def test_a_text_cannot_forge_a_line(server: Server) -> None:
    for text in ("a\nevent: forged", "a\r\ndata: {}"):
        answer = server.http.post("/v1/bans", json={"address": "192.0.2.1", "reason": text})
        assert answer.status_code == 422
    with watch(server.url) as stream:
        server.http.post("/v1/bans", json={"address": "192.0.2.1", "reason": 'x", event: forged\\n\\r'})
        seen = stream.next()
        assert (seen.type, seen.data["text"]) == ("ban", 'x", event: forged\\n\\r')


def test_a_stream_needs_a_key_that_may_read(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    may = add_key(keys, "may", scopes=("connections:read",))
    may_not = add_key(keys, "may-not", scopes=("metrics:read",))
    server = serve(keys_file=keys, key=may)
    with watch(server.url, key=may) as stream, Client(server.port) as client:
        assert stream.next().data["peer"]["port"] == client.address[1]
    for key, status in ((may_not, 403), ("iocpd_wrong", 401)):
        answer = server.http.get("/v1/events", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status


def test_a_stream_ends_when_its_key_is_revoked(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    add_key(keys, "admin", role="admin")
    key = add_key(keys, "watcher", scopes=("connections:read",))
    server = serve(keys_file=keys)
    with watch(server.url, key=key) as stream:
        revoke_key(keys, "watcher")
        assert stream.rest() == []
