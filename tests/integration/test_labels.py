"""Tags and groups: PATCH /v1/connections/{id}, filters by them, and `fields`."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from iocpd.api.connections.schemas import ConnectionRow, ConnectionView
from iocpd.core import ConnectionClosing, Engine, EngineBusy, LabelsChanged
from tests.integration.conftest import Api, Serve
from tests.integration.server import Server
from tests.support import connect, eventually


def patch(server: Server, id: str, **body: Any) -> dict[str, Any]:
    answer = server.http.patch(f"/v1/connections/{id}", json=body)
    assert answer.status_code == 200, answer.text
    row: dict[str, Any] = answer.json()
    return row


def ports(server: Server, **query: Any) -> set[int]:
    return {row["peer"]["port"] for row in server.everything(**query)}


def done(result: Any = None, error: Exception | None = None) -> Any:
    future: Future[Any] = Future()
    future.set_exception(error) if error else future.set_result(result)
    return SimpleNamespace(future=future)


def test_tags_are_merged_and_groups_replaced(server: Server) -> None:
    client = server.connect()[0]
    id = server.id_of(client)
    row = patch(server, id, tags={"tier": "gold", "user": "Zoë: 5 €", "trial": ""}, groups=["eu", "eu/beta", "eu"])
    ConnectionView.model_validate(row, extra="forbid")
    assert row["tags"] == {"tier": "gold", "user": "Zoë: 5 €", "trial": ""}
    assert row["groups"] == ["eu", "eu/beta"]
    row = patch(server, id, tags={"trial": None, "tier": "silver", "never": None})
    assert row["tags"] == {"tier": "silver", "user": "Zoë: 5 €"}
    assert row["groups"] == ["eu", "eu/beta"]
    row = patch(server, id, groups=[])
    assert row["groups"] == []
    for shown in (server.get(f"/v1/connections/{id}"), server.get("/v1/connections")["items"][0]):
        assert shown["tags"] == row["tags"]
        assert shown["groups"] == []
    assert client.echoes(b"x")


def test_labels_select_in_listings_and_stay_with_the_record(server: Server) -> None:
    clients = server.connect(6)
    ids = [server.id_of(client) for client in clients]
    for number, id in enumerate(ids):
        patch(server, id, tags={"parity": str(number % 2), "by3": str(number % 3)}, groups=[f"g{number % 2}", "all"])

    def expected(*numbers: int) -> set[int]:
        return {clients[number].address[1] for number in numbers}

    assert ports(server, group="all") == expected(0, 1, 2, 3, 4, 5)
    assert ports(server, group="g1") == expected(1, 3, 5)
    assert ports(server, group="none") == set()
    assert ports(server, tag="parity:0") == expected(0, 2, 4)
    assert ports(server, tag=["parity:0", "by3:1"]) == expected(4)
    assert ports(server, tag="by3:0", group="g1", sort="-connected_at", limit=1) == expected(3)
    assert ports(server, tag="parity:") == set()

    clients[3].close()
    closed = server.closed(ids[3])
    assert closed["tags"] == {"parity": "1", "by3": "0"}
    assert closed["groups"] == ["g1", "all"]
    assert server.get("/v1/connections/closed")["items"][0]["tags"] == closed["tags"]


def test_a_cursor_belongs_to_its_labels(server: Server) -> None:
    clients = server.connect(3)
    for client in clients:
        patch(server, server.id_of(client), tags={"a": "1", "b": "2"}, groups=["g"])
    cursor = server.get("/v1/connections", limit=1, tag=["a:1", "b:2"], group="g")["next_cursor"]
    same = server.get("/v1/connections", limit=5, tag=["b:2", "a:1"], group="g", cursor=cursor, fields="peer")
    assert len(same["items"]) == 2
    for other in ({"tag": ["a:1"], "group": "g"}, {"tag": ["a:1", "b:2"]}, {}):
        answer = server.http.get("/v1/connections", params={"cursor": cursor, **other})
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor_mismatch")


@pytest.mark.parametrize("sort", [None, "-bytes_in"])
def test_rows_have_the_fields_that_are_asked_for(server: Server, sort: str | None) -> None:
    clients = server.connect(3)
    query = {"sort": sort} if sort else {}
    for fields in ("id", "peer", "bytes_in,peer,id", ",".join(ConnectionView.model_fields)):
        rows = server.everything(fields=fields, limit=2, **query)
        assert len(rows) == len(clients)
        for row in rows:
            wanted = {"id", *fields.split(",")}
            assert list(row) == [name for name in ConnectionView.model_fields if name in wanted]
            if wanted == set(ConnectionView.model_fields):
                ConnectionRow.model_validate(row, extra="forbid")


@pytest.mark.parametrize(
    ("query", "mentions"),
    [
        ("fields=id,color", "'color'"),
        ("fields=id,color", "last_activity_at"),
        ("fields=", "''"),
        ("tag=gold", "key:value"),
        ("tag=a%20b:c", "letters"),
        ("tag=a:b%0Ac", "printable"),
        ("tag=a:" + "x" * 129, "128"),
        ("tag=a:1&tag=a:2", "twice"),
        ("group=a%20b", "group"),
        ("group=" + "x" * 65, "group"),
        ("&".join(f"tag=t{number}:x" for number in range(17)), "16"),
    ],
)
def test_what_can_be_no_label_or_field_is_refused(api: Api, query: str, mentions: str) -> None:
    answer = api.call("GET", f"/v1/connections?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert mentions in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        ({}, "tags, groups"),
        ({"tags": None}, "tags, groups"),
        ({"tags": {"a b": "c"}}, "tags"),
        ({"tags": {"a": "b\nc"}}, "printable"),
        ({"tags": {"a": "é" * 65}}, "128"),
        ({"tags": {"a": 5}}, "tags"),
        ({"tags": {f"t{number}": "x" for number in range(17)}}, "16"),
        ({"groups": ["a b"]}, "groups"),
        ({"groups": [f"g{number}" for number in range(17)]}, "16"),
        ({"labels": {}}, "labels"),
    ],
)
def test_a_change_that_is_none_is_refused(api: Api, body: dict[str, Any], mentions: str) -> None:
    client = connect(api.engine, 1)[0]
    id = api.call("GET", "/v1/connections").json()["items"][0]["id"]
    answer = api.call("PATCH", f"/v1/connections/{id}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
    assert mentions in answer.json()["detail"]
    assert client.echoes(b"x")


def test_sixteen_tags_are_the_most_that_a_connection_has(api: Api) -> None:
    client = connect(api.engine, 1)[0]
    id = api.call("GET", "/v1/connections").json()["items"][0]["id"]
    tags: dict[str, str | None] = {f"t{number}": "x" for number in range(16)}
    assert api.call("PATCH", f"/v1/connections/{id}", json={"tags": tags}).status_code == 200
    answer = api.call("PATCH", f"/v1/connections/{id}", json={"tags": {"more": "x"}})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert "16" in answer.json()["detail"]
    changed = api.call("PATCH", f"/v1/connections/{id}", json={"tags": {"more": "x", "t0": None}})
    assert len(changed.json()["tags"]) == 16
    assert client.echoes(b"x")


def test_who_is_gone_or_unknown_has_no_labels(server: Server) -> None:
    client = server.connect()[0]
    id = server.id_of(client)
    client.close()
    eventually(lambda: server.count() == 0)
    for name, status, code in (
        (id, 410, "connection_ended"),
        ("nobody", 404, "connection_unknown"),
        ("bbbbbb-1", 410, "connection_of_another_run"),
    ):
        answer = server.http.patch(f"/v1/connections/{name}", json={"groups": ["a"]})
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_connection_tells_its_round_trip_time_where_the_system_does(server: Server) -> None:
    client = server.connect()[0]
    assert client.echoes(b"x")
    rtt = server.get(f"/v1/connections/{server.id_of(client)}")["rtt_ms"]
    assert rtt is None or 0 <= rtt < 1000


@pytest.mark.parametrize("held_up", ["busy", "never done"])
def test_a_connection_is_told_without_its_round_trip_time_when_that_would_take_long(
    api: Api, monkeypatch: pytest.MonkeyPatch, held_up: str
) -> None:
    def rtt(*_: object) -> Any:
        if held_up == "busy":
            raise EngineBusy
        return SimpleNamespace(future=Future())

    client = connect(api.engine, 1)[0]
    id = api.call("GET", "/v1/connections").json()["items"][0]["id"]
    monkeypatch.setattr(Engine, "submit_rtt", rtt)
    answer = api.call("GET", f"/v1/connections/{id}")
    assert answer.status_code == 200
    assert answer.json()["rtt_ms"] is None
    assert client.echoes(b"x")


def test_who_was_slower_tries_again_and_not_for_ever(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(api.engine, 1)[0]
    row = api.call("GET", "/v1/connections").json()["items"][0]
    token = api.app.state.context.instance.decode(row["id"])
    answers = [done(error=LabelsChanged(token)), done(error=LabelsChanged(token)), done(api.engine.connection(token))]
    monkeypatch.setattr(Engine, "submit_label", lambda *_, **__: answers.pop(0))
    assert api.call("PATCH", f"/v1/connections/{row['id']}", json={"groups": ["a"]}).json() == row
    assert not answers
    monkeypatch.setattr(Engine, "submit_label", lambda *_, **__: done(error=LabelsChanged(token)))
    answer = api.call("PATCH", f"/v1/connections/{row['id']}", json={"groups": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_busy")
    monkeypatch.setattr(Engine, "submit_label", lambda *_, **__: done(error=ConnectionClosing(token)))
    answer = api.call("PATCH", f"/v1/connections/{row['id']}", json={"groups": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "connection_closing")
    assert client.echoes(b"x")


def test_a_connection_gets_so_many_messages_a_second(serve: Serve) -> None:
    server = serve(messages_per_s_per_connection=3)
    one, two = server.connect(2)
    for client in (one, two):
        path = f"/v1/connections/{server.id_of(client)}/messages"
        sent, began = 0, time.monotonic()
        while (answer := server.http.post(path, json={"text": "x"})).status_code == 200:
            sent += 1
            assert sent <= 3 + 3 * (time.monotonic() - began)  # three at once, and then one each third of a second
        assert sent >= 3
        assert (answer.status_code, answer.json()["code"]) == (429, "message_rate")
        assert "messages_per_s_per_connection" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"
        assert client.read(sent) == b"x" * sent
        eventually(lambda path=path: server.http.post(path, json={"text": "x"}).status_code == 200)
    refused = [line for line in server.http.get("/metrics").text.splitlines() if "message_rate" in line]
    assert refused
    assert refused[0].startswith('iocpd_http_problems_total{code="message_rate"}')
