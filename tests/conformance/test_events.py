"""Events: each is there once and in order, and who reads too slowly is told how many are gone."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from iocpd.core import By, ConfigurationError, Engine, Event, EventKind, EventPosition, Phase, Reason
from tests.support import Client, await_turn, connect, connection_of, eventually, fill, port_of

Start = Callable[..., Engine]


class Watcher:
    """Reads on from where it was made."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.position = engine.event_position()
        self.missed = 0

    def read(self, limit: int = 256) -> list[Event]:
        batch = self.engine.events(self.position, limit=limit)
        self.position = batch.position
        self.missed += batch.missed
        return batch.events

    def until(self, count: int) -> list[Event]:
        events: list[Event] = []
        eventually(lambda: events.extend(self.read()) or len(events) >= count)
        assert len(events) == count
        return events


def come_and_go(engine: Engine, count: int) -> None:
    """So many clients that are let in and then reset, until all of them have ended."""
    for _ in range(count):
        client = Client(port_of(engine))
        assert client.echoes(b"x")
        client.reset()
    eventually(lambda: sum(sum(stats.closed.values()) for stats in engine.worker_stats()) == count)


def test_a_connections_life(start: Start) -> None:
    engine = start("echo")
    watcher = Watcher(engine)
    (client,) = connect(engine, 1)
    assert client.echoes(b"hello")
    row = connection_of(engine, client)
    client.close()
    came, left = watcher.until(2)
    assert (came.kind, came.id, came.peer, came.listener, came.worker) == (
        EventKind.CONNECTED,
        row.id,
        client.address,
        0,
        row.worker,
    )
    assert (left.kind, left.id, left.peer, left.reason, left.by) == (
        EventKind.DISCONNECTED,
        row.id,
        client.address,
        Reason.CLIENT_CLOSED,
        By.CLIENT,
    )
    assert (left.bytes_in, left.bytes_out, left.messages_in, left.messages_out) == (5, 5, 1, 1)
    assert came.at <= left.at
    assert watcher.read() == []
    assert watcher.missed == 0


def test_a_kicks_words_a_drain_and_a_ban(start: Start) -> None:
    engine = start("echo")
    watcher = Watcher(engine)
    (client,) = connect(engine, 1)
    engine.kick(connection_of(engine, client).id, text="böse", force=True)
    _, left = watcher.until(2)
    assert (left.reason, left.by, left.text) == (Reason.KICKED, By.OPERATOR, "böse")
    network = ipaddress.ip_network("192.0.2.0/24")
    engine.note_ban(network, "a reason")
    engine.note_ban(ipaddress.ip_network("2001:db8::7"), "another", lifted=True)
    ban, unban = watcher.until(2)
    assert (ban.kind, ban.network, ban.text) == (EventKind.BAN, "192.0.2.0/24", "a reason")
    assert (unban.kind, unban.network, unban.text) == (EventKind.UNBAN, "2001:db8::7", "another")
    engine.drain(stop=False, deadline=5)
    phases = [event.phase for event in watcher.until(5)]
    assert phases == [Phase.LB_DELAY, Phase.LISTENERS, Phase.GRACE, Phase.EVICT, Phase.DRAINED]


def test_a_slow_consumer_is_told_of(start: Start) -> None:
    engine = start("discard", send_soft_bytes=64 * 1024, send_hard_bytes=12 << 20, send_soft_seconds=600)
    (client,) = connect(engine, 1)
    await_turn(engine)  # it is in the table before its event is told
    watcher, id = Watcher(engine), connection_of(engine, client).id
    fill(engine, id)
    slow = eventually(watcher.read)
    assert (slow[0].kind, slow[0].id) == (EventKind.SLOW_CONSUMER, id)
    assert slow[0].pending_bytes > 64 * 1024


def test_every_position_can_be_gone_on_from(start: Start) -> None:
    engine = start("echo", workers=3)
    watcher = Watcher(engine)
    begin = watcher.position
    for client in connect(engine, 20):
        client.reset()
    # All of them are there, so that one batch has them in the order of their times, whichever worker they are of.
    eventually(lambda: sum(sum(stats.closed.values()) for stats in engine.worker_stats()) == 20)
    events = watcher.read()
    ids = {event.id for event in events}
    assert Counter(event.kind for event in events) == {EventKind.CONNECTED: 20, EventKind.DISCONNECTED: 20}
    assert len(ids) == 20
    assert [event.at for event in events] == sorted(event.at for event in events)
    for number, event in enumerate(events):
        after = EventPosition.parse(str(event.position))
        assert engine.events(after, limit=100).events == events[number + 1 :]
    # Piece by piece it is the same.
    pieces, position = [], begin
    while batch := engine.events(position, limit=3).events:
        pieces += batch
        position = batch[-1].position
    assert pieces == events


def test_who_is_too_slow_is_told_how_many_are_gone(start: Start) -> None:
    engine = start("echo", event_capacity=16, workers=1)
    watcher = Watcher(engine)
    come_and_go(engine, 50)
    events = watcher.read()
    assert (len(events), watcher.missed) == (16, 84)
    assert watcher.read() == []
    assert watcher.missed == 84


def test_reading_while_they_come_loses_none_that_is_not_counted(start: Start) -> None:
    engine = start("echo", event_capacity=64, workers=2)
    watcher, seen, done = Watcher(engine), Counter[int](), threading.Event()

    def watch() -> None:
        while not done.is_set() or engine.events(watcher.position).events:
            seen.update(event.id for event in watcher.read(7) if event.id is not None)

    reader = threading.Thread(target=watch)
    reader.start()
    come_and_go(engine, 1000)
    done.set()
    reader.join()
    assert max(seen.values()) <= 2
    assert seen.total() + watcher.missed == 2000


def test_positions_that_can_not_be(start: Start) -> None:
    engine = start("echo", workers=2)
    for text in ("", "a", "1.-2.3", "1.2.", "\uff19"):
        with pytest.raises(ConfigurationError):
            EventPosition.parse(text)
    for counts in ((0, 0), (0, 0, 0, 0), (1, 0, 0), (1 << 63, 0, 0)):
        with pytest.raises(ConfigurationError):
            engine.events(EventPosition(counts))
    for limit in (0, 5000):
        with pytest.raises(ConfigurationError):
            engine.events(engine.event_position(), limit=limit)
