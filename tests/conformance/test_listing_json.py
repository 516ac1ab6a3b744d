"""Listings that C writes as JSON say what those of Python objects say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from iocpd.core import ConfigurationError, Connection, Cursor, Engine, Filter, SortKey
from tests.support import connect, connection_of, eventually

Start = Callable[..., Engine]


def rows_of(text: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(b"[" + text + b"]")
    return rows


def as_json(connection: Connection) -> dict[str, Any]:
    def endpoint(end: tuple[str, int]) -> dict[str, Any]:
        return {"ip": end[0], "port": end[1]}

    def time(at: Any) -> str:
        return str(at.isoformat(timespec="microseconds").replace("+00:00", "Z"))

    return {
        "id": f"run-{connection.id:x}",
        "listener": connection.listener,
        "service": connection.service,
        "state": str(connection.state),
        "reason": connection.reason and str(connection.reason),
        "peer": endpoint(connection.peer),
        "via": connection.via and endpoint(connection.via),
        "local": endpoint(connection.local),
        "connected_at": time(connection.connected_at),
        "last_activity_at": time(connection.last_activity_at),
        "bytes_in": connection.bytes_in,
        "bytes_out": connection.bytes_out,
        "messages_in": connection.messages_in,
        "messages_out": connection.messages_out,
        "pending_bytes": connection.pending_bytes,
        "tags": connection.tags,
        "groups": list(connection.groups),
        "worker": connection.worker,
    }


def test_every_row_says_what_its_connection_says(start: Start) -> None:
    engine = start("echo", "relay", workers=2)
    clients = connect(engine, 20) + connect(engine, 5, listener=1)
    assert all(client.echoes(bytes(100 * number + 1)) for number, client in enumerate(clients[:20]))
    # Half-closed by the kick, and open until the client answers: a row with a reason.
    leaving = engine.submit_kick(connection_of(engine, clients[3]).id, timeout=30)
    assert clients[3].read_to_end() == b""
    text, following = engine.connections_json(prefix="run-")
    assert following is None
    assert rows_of(text) == [as_json(connection) for connection in engine.connections().items]
    assert [row["reason"] for row in rows_of(text) if row["state"] == "draining"] == ["kicked"]
    clients[3].close()
    leaving.result(30)


@pytest.mark.parametrize("limit", [1, 7, 24, 25, 26])
def test_pages_meet_without_a_gap_and_the_last_is_known(start: Start, limit: int) -> None:
    engine = start("echo", workers=3)
    clients = connect(engine, 25)
    seen: list[str] = []
    cursor: Cursor | None = None
    while True:
        text, cursor = engine.connections_json(limit=limit, cursor=cursor, prefix="run-")
        rows = rows_of(text)
        assert len(rows) == limit or cursor is None
        seen += [row["id"] for row in rows]
        if cursor is None:
            break
    assert sorted(seen) == sorted(f"run-{connection_of(engine, client).id:x}" for client in clients)


def test_the_filter_is_the_same(start: Start) -> None:
    engine = start("echo", "relay")
    clients = connect(engine, 3) + connect(engine, 4, listener=1)
    text, _ = engine.connections_json(Filter(listener=1))
    assert [row["service"] for row in rows_of(text)] == ["relay"] * 4
    assert len(clients) == 7


@pytest.mark.parametrize("descending", [False, True])
def test_a_sorted_listing_shows_each_that_stays_once_and_in_its_order(start: Start, descending: bool) -> None:
    engine = start("echo", workers=3)
    clients = connect(engine, 60)
    sizes = {client: 1 + number * 37 % 60 for number, client in enumerate(clients)}
    assert all(client.echoes(bytes(sizes[client])) for client in clients)
    listing = engine.sort(key=SortKey.BYTES_IN, descending=descending)
    assert len(listing) == 60
    expected = sorted(clients, key=lambda client: sizes[client], reverse=descending)
    gone = set(expected[5:50:5])
    ids = {client: f"{connection_of(engine, client).id:x}" for client in clients}
    text, position = listing.page_json(limit=7)
    seen = [row["id"] for row in rows_of(text)]
    # Between the pages some leave, others come, and one changes what it is sorted by.
    for client in gone:
        client.close()
    eventually(lambda: engine.count() == 60 - len(gone))
    newcomers = connect(engine, 5)
    assert all(client.echoes(bytes(5000)) for client in [*newcomers, expected[-1]])
    while position is not None:
        text, position = listing.page_json(position, limit=7)
        seen += [row["id"] for row in rows_of(text)]
    kept = [ids[client] for client in expected if client not in gone]
    assert [id for id in seen if id in kept] == kept
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(ids.values())


def test_a_position_behind_the_end_of_a_sorted_listing_is_refused(start: Start) -> None:
    listing = start("echo").sort()
    assert listing.page_json() == (b"", None)
    with pytest.raises(ConfigurationError, match="position"):
        listing.page_json(1)


def test_minimum_filters_match_what_is_at_least_so_much(start: Start) -> None:
    engine = start("echo", workers=1)
    clients = connect(engine, 4)
    for number, client in enumerate(clients):
        assert client.echoes(bytes(100 * (number + 1)))
    assert engine.count(Filter(min_bytes_in=200)) == 3
    # What went out is counted when the send has completed, which is after the client has it.
    assert eventually(lambda: engine.count(Filter(min_bytes_in=200, min_bytes_out=301)) == 1)
    assert engine.count(Filter(min_pending_bytes=1)) == 0
    with pytest.raises(ConfigurationError, match="min_bytes_in"):
        Filter(min_bytes_in=-1)


@pytest.mark.parametrize("prefix", ['"', "x" * 17, "a b", "é"])
def test_a_prefix_that_would_need_an_escape_is_refused(start: Start, prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        start("echo").connections_json(prefix=prefix)
