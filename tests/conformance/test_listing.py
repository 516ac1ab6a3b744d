"""Listing, counting and looking back, while connections come and go."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from iocpd.core import ConfigurationError, Cursor, Engine, Filter, Reason, State
from tests.support import Client, connect, connection_of, eventually, everything, port_of

Start = Callable[..., Engine]


def test_a_row_says_who_the_connection_is(start: Start) -> None:
    engine = start("discard", "echo")
    before = datetime.now(UTC)
    with Client(port_of(engine, 1)) as client:
        row = connection_of(engine, client)
        assert (row.listener, row.service, row.state, row.reason) == (1, "echo", State.OPEN, None)
        assert (row.peer, row.local) == (client.address, ("127.0.0.1", port_of(engine, 1)))
        assert abs(row.connected_at - before) < timedelta(seconds=20)
        assert row.connected_at.tzinfo is UTC
        assert 0 < row.id < 2**53
        assert row.serial == 1
        assert engine.connection(row.id) == row


def test_serials_are_in_the_order_of_accept(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 50)
    serials = {row.peer: row.serial for row in everything(engine)}
    assert [serials[client.address] for client in clients] == list(range(1, 51))
    assert engine.info().last_serial == 50


def test_who_stays_is_seen_exactly_once_while_others_come_and_go(start: Start) -> None:
    engine = start("echo")
    connect_churn, port = threading.Event(), port_of(engine)

    def churn() -> None:
        while not connect_churn.is_set():
            clients = [Client(port) for _ in range(20)]
            for client in clients:
                client.close()

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        clients = [Client(port) for _ in range(300)]
        addresses = {client.address for client in clients}
        eventually(lambda: addresses <= {row.peer for row in everything(engine)})
        for _ in range(20):
            page = engine.connections(limit=7)
            rows, last_serial = list(page.items), page.last_serial
            while page.next:
                page = engine.connections(limit=7, cursor=page.next)
                assert page.last_serial == last_serial
                rows += page.items
            seen = Counter(row.peer for row in rows if row.peer in addresses)
            assert set(seen) == addresses
            assert set(seen.values()) == {1}
            assert max(Counter(row.id for row in rows).values()) == 1
            assert all(row.serial <= last_serial for row in rows)
    finally:
        connect_churn.set()
        for thread in threads:
            thread.join()


def test_who_comes_after_the_first_page_is_not_shown(start: Start) -> None:
    engine = start("echo")
    old = connect(engine, 10)
    page = engine.connections(limit=5)
    new = connect(engine, 10)
    rows = page.items
    while page.next:
        page = engine.connections(limit=5, cursor=page.next)
        rows += page.items
    assert {row.peer for row in rows} == {client.address for client in old}
    assert {row.peer for row in everything(engine)} == {client.address for client in old + new}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_next_is_none_if_and_only_if_nothing_is_left(start: Start, workers: int) -> None:
    engine = start("echo", workers=workers)
    assert engine.connections().next is None
    clients = connect(engine, 12)
    for limit in range(1, 14):
        sizes, page = [], engine.connections(limit=limit)
        sizes.append(len(page.items))
        while page.next:
            page = engine.connections(limit=limit, cursor=page.next)
            sizes.append(len(page.items))
        assert sizes == [limit] * (12 // limit) + [12 % limit] * (12 % limit > 0)
    assert len({row.worker for row in everything(engine)}) == workers
    assert len(clients) == 12


def test_pages_go_on_where_a_connection_has_ended(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 20)
    page = engine.connections(limit=5)
    assert page.next is not None
    shown = {row.peer for row in page.items}
    for client in clients:
        client.close()
    eventually(lambda: engine.count() == 0)
    assert engine.connections(cursor=page.next).items == []
    assert len(shown) == 5


def test_filters_list_and_count_the_same(start: Start) -> None:
    engine = start("echo", "echo")
    here, there = connect(engine, 3, listener=0), connect(engine, 4, listener=1)
    kicked = connection_of(engine, there[0]).id
    engine.submit_kick(kicked, timeout=20)
    eventually(lambda: engine.connection(kicked).state == State.DRAINING)
    eventually(lambda: engine.count(Filter(idle_for=1.0)) == 7)
    assert here[0].echoes(b"x")
    network = ipaddress.ip_network
    for filter, expected in [
        (Filter(idle_for=1.0), 6),  # first, before time has made it untrue
        (None, 7),
        (Filter(), 7),
        (Filter(ip=network("127.0.0.1")), 7),
        (Filter(ip=network("127.0.0.0/8")), 7),
        (Filter(ip=network("0.0.0.0/0")), 7),
        (Filter(ip=network("127.0.0.2")), 0),
        (Filter(ip=network("::1")), 0),
        (Filter(ip=network("::ffff:127.0.0.0/104")), 7),
        (Filter(listener=0), 3),
        (Filter(listener=1), 4),
        (Filter(listener=2), 0),
        (Filter(state=State.OPEN), 6),
        (Filter(state=State.DRAINING), 1),
        (Filter(state=State.CLOSING), 0),
        (Filter(older_than=0.25), 7),
        (Filter(older_than=3600), 0),
        (Filter(idle_for=3600), 0),
        (Filter(listener=1, state=State.OPEN, older_than=0.25, ip=network("127.0.0.0/8")), 3),
    ]:
        assert engine.count(filter) == expected, filter
        assert len(engine.connections(filter).items) == expected, filter
        assert engine.connections(filter, limit=max(expected, 1)).next is None, filter


def test_a_filtered_listing_goes_on_after_its_cursor(start: Start) -> None:
    engine = start("echo", "echo")
    clients = [client for _ in range(10) for client in connect(engine, 1, 0) + connect(engine, 2, 1)]
    page = engine.connections(Filter(listener=1), limit=3)
    rows = page.items
    while page.next:
        page = engine.connections(Filter(listener=1), limit=3, cursor=page.next)
        rows += page.items
    assert Counter(row.listener for row in rows) == {1: 20}
    assert len({row.id for row in rows}) == 20
    assert len(clients) == 30


def test_ended_connections_are_remembered_newest_first_up_to_a_bound(start: Start) -> None:
    engine = start("echo", closed_capacity=10, workers=1)
    ids = []
    for client in connect(engine, 30):
        ids.append(connection_of(engine, client).id)
        client.close()
        eventually(lambda: engine.count() == 30 - len(ids))
    records = engine.closed()
    assert [record.connection.id for record in records] == ids[:-11:-1]
    assert [record.closed_serial for record in records] == list(range(30, 20, -1))
    assert engine.worker_stats()[0].closed[Reason.CLIENT_CLOSED] == 30


def test_ended_connections_of_all_workers_are_one_list(start: Start) -> None:
    engine = start("echo", workers=3)
    for client in connect(engine, 30):
        client.close()
    eventually(lambda: len(engine.closed()) == 30)
    records = engine.closed()
    assert [record.closed_serial for record in records] == list(range(30, 0, -1))
    assert {record.connection.worker for record in records} == {0, 1, 2}
    assert engine.closed(limit=7) == records[:7]
    assert engine.closed(limit=7, before=24) == records[7:14]
    assert engine.closed(before=1) == []
    for record in records:
        assert record.connection.connected_at <= record.closed_at


def test_connections_are_spread_over_the_workers(start: Start) -> None:
    engine = start("echo", workers=4)
    clients = connect(engine, 40)
    assert [stats.connections for stats in engine.worker_stats()] == [10] * 4
    for client in clients[::2]:
        client.close()
    eventually(lambda: sum(stats.connections for stats in engine.worker_stats()) == 20)
    clients += connect(engine, 20)
    assert [stats.connections for stats in engine.worker_stats()] == [10] * 4


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": 65537},
        {"cursor": Cursor(-1, 0, 0)},
        {"cursor": Cursor(1, 2**32, 0)},
        {"cursor": Cursor(2**64, 0, 0)},
    ],
)
def test_a_listing_refuses_what_can_not_be(start: Start, options: dict[str, Any]) -> None:
    engine = start("echo")
    with pytest.raises(ConfigurationError) as caught:
        engine.connections(**options)
    assert caught.value.field in options


@pytest.mark.parametrize("cursor", [Cursor(1, 63, 0), Cursor(1, 2**32 - 1, 2**32 - 1), Cursor(2**64 - 1, 1, 2**20)])
def test_a_cursor_behind_the_end_gives_nothing(start: Start, cursor: Cursor) -> None:
    engine = start("echo")
    clients = connect(engine, 3)
    page = engine.connections(cursor=cursor)
    assert (page.items, page.next) == ([], None)
    assert len(clients) == 3
