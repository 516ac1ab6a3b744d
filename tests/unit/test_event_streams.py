"""Streams of events over an engine that happens only on paper."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from iocpd.api.events import streams
from iocpd.api.events.schemas import EventsQuery, EventView
from iocpd.api.events.streams import EventStreams
from iocpd.api.identity import Instance
from iocpd.api.problems import Problem
from iocpd.core import By, Event, EventBatch, EventKind, EventPosition, Phase, Reason
from tests.support import PATIENCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = EventsQuery().wanted()


class FakeEngine:
    """One ring, and what is asked of it."""

    def __init__(self) -> None:
        self.running = True
        self.ring: list[Event] = []
        self.missed = 0
        self.reads: list[int] = []

    def event_position(self) -> EventPosition:
        return EventPosition((len(self.ring),))

    def events(self, after: EventPosition, *, limit: int) -> EventBatch:
        self.reads.append(limit)
        found = self.ring[after.counts[0] :][:limit]
        missed, self.missed = self.missed, 0
        return EventBatch(found, EventPosition((after.counts[0] + len(found),)), missed)

    def happen(self, kind: EventKind, **members: Any) -> None:
        position = EventPosition((len(self.ring) + 1,))
        if kind in (EventKind.CONNECTED, EventKind.DISCONNECTED, EventKind.SLOW_CONSUMER):
            members = {"id": 5, "listener": 0, "worker": 0, "peer": ("192.0.2.7", 4096)} | members
        self.ring.append(Event(kind=kind, at=NOW, position=position, **members))


@dataclass
class Told:
    """What stands in a stream between two empty lines."""

    event: str | None = None
    id: str | None = None
    raw_data: str | None = None


def parse(pieces: Iterable[bytes]) -> list[Told]:
    """All that these pieces of a stream tell."""
    found = []
    for part in b"".join(pieces).decode().removesuffix("\n\n").split("\n\n"):
        told = Told()
        for line in part.split("\n"):
            name, _, value = line.partition(": ")
            assert name in ("", "event", "id", "data", "retry"), f"a line that is none of SSE: {line!r}"
            if name in ("event", "id"):
                setattr(told, name, value)
            elif name == "data":
                assert told.raw_data is None
                told.raw_data = value
        found.append(told)
    return found


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def made(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> EventStreams:
    monkeypatch.setattr(streams, "POLL_SECONDS", 0.001)
    return EventStreams(engine, Instance())  # type: ignore[arg-type]


def begin(made: EventStreams, **options: Any) -> AsyncIterator[bytes]:
    given: dict[str, Any] = {"foreign": False, "types": ALL, "listener": None, "allowed": lambda: True}
    return made.follow(EventPosition((0,)), **given | options)


def collect(stream: Callable[[], AsyncIterator[bytes]]) -> list[Told]:
    """All of a stream that ends."""

    async def run() -> list[bytes]:
        async with asyncio.timeout(20):
            return [piece async for piece in stream()]

    return parse(asyncio.run(run()))


def test_what_happened_before_the_engine_stopped_is_told_and_then_the_stream_ends(
    engine: FakeEngine, made: EventStreams
) -> None:
    engine.happen(EventKind.CONNECTED)
    engine.happen(EventKind.DISCONNECTED, reason=Reason.KICKED, by=By.OPERATOR, text="a\nb\r: c", bytes_in=5)
    engine.happen(EventKind.SLOW_CONSUMER, pending_bytes=7)
    engine.happen(EventKind.DRAIN, phase=Phase.STOPPED)
    engine.happen(EventKind.BAN, network="192.0.2.0/24", text="abuse")
    engine.happen(EventKind.UNBAN, network="192.0.2.0/24")
    engine.happen(EventKind.DOMINANT_ADDRESS, network="172.17.0.1", connections=101)
    engine.running = False
    first, *rest = collect(lambda: begin(made))
    assert first.event is None
    assert first.id is not None
    instance, _, position = first.id.partition(".")
    assert Instance.is_name(instance)
    assert position == "0"
    kinds = ["connected", "disconnected", "slow_consumer", "drain", "ban", "unban", "dominant_address"]
    assert [event.event for event in rest] == kinds
    assert [event.id for event in rest] == [f"{instance}.{number}" for number in range(1, 8)]
    members = []
    for event in rest:
        assert event.raw_data is not None
        assert not set(event.raw_data) & {"\n", "\r"}, "a text could forge a line"
        EventView.model_validate_json(event.raw_data, extra="forbid")
        members.append(set(json.loads(event.raw_data)))
    connection = {"at", "id", "listener", "worker", "peer", "via"}
    counters = {"bytes_in", "bytes_out", "messages_in", "messages_out"}
    assert members == [
        connection,
        connection | counters | {"reason", "by", "text"},
        connection | {"pending_bytes"},
        {"at", "phase"},
        {"at", "address", "text"},
        {"at", "address", "text"},
        {"at", "address", "connections"},
    ]
    assert made.sent == 7


def test_what_is_missed_is_told_before_what_comes_next_and_counted(engine: FakeEngine, made: EventStreams) -> None:
    engine.happen(EventKind.CONNECTED)
    engine.missed, engine.running = 37, False
    events = collect(lambda: begin(made))
    assert (events[1].event, events[1].raw_data) == ("missed", '{"missed":37}')
    assert events[2].event == "connected"
    assert made.missed == 37


def last_event_ids(events: Iterable[Told]) -> list[str]:
    """What a reader's Last-Event-ID is after each of these, by the HTML standard: an id stays until the next one."""
    last, found = "before", []
    for event in events:
        last = event.id if event.id is not None else last
        found.append(last.rpartition(".")[2])
    return found


def test_a_gap_moves_no_last_event_id_before_what_comes_behind_it(engine: FakeEngine, made: EventStreams) -> None:
    engine.happen(EventKind.CONNECTED)
    engine.missed, engine.running = 37, False
    events = collect(lambda: begin(made, foreign=True))
    assert [event.raw_data for event in events[:3]] == ['{"missed":null}', None, '{"missed":37}']
    assert last_event_ids(events) == ["before", "0", "0", "1"]


def test_a_gap_behind_which_nothing_is_wanted_is_not_told_again(engine: FakeEngine, made: EventStreams) -> None:
    engine.happen(EventKind.CONNECTED)
    engine.missed, engine.running = 37, False
    events = collect(lambda: begin(made, types=EventsQuery(types="ban").wanted()))
    assert [event.raw_data for event in events] == [None, '{"missed":37}', None]
    assert last_event_ids(events) == ["0", "0", "1"]


def test_only_what_is_wanted_is_told(engine: FakeEngine, made: EventStreams) -> None:
    for listener in (0, 1):
        engine.happen(EventKind.CONNECTED, listener=listener)
        engine.happen(EventKind.SLOW_CONSUMER, listener=listener)
    engine.happen(EventKind.DRAIN, phase=Phase.GRACE)
    engine.running = False
    wanted = EventsQuery(types="connected,drain").wanted()
    assert [event.id[-1] for event in collect(lambda: begin(made, types=wanted)) if event.event and event.id] == list(
        "135"
    )
    assert [event.id[-1] for event in collect(lambda: begin(made, listener=1)) if event.event and event.id] == list(
        "34"
    )


def test_a_quiet_stream_is_told_how_far_it_has_come(
    engine: FakeEngine, made: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MARK_SECONDS", 0.01)

    async def run() -> bytes:
        stream = begin(made, types=EventsQuery(types="ban").wanted())
        await anext(stream)
        engine.happen(EventKind.CONNECTED)
        return await anext(stream)

    (mark,) = parse([asyncio.run(run())])
    assert (mark.event, mark.raw_data) == (None, None)
    assert mark.id is not None
    assert mark.id.endswith(".1")


def test_a_stream_for_which_nothing_of_what_happens_is_meant_is_told_so_too(
    engine: FakeEngine, made: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MARK_SECONDS", 0.01)
    read = engine.events

    def events(after: EventPosition, *, limit: int) -> EventBatch:
        engine.happen(EventKind.CONNECTED)
        return read(after, limit=limit)

    async def run() -> bytes:
        stream = begin(made, types=EventsQuery(types="ban").wanted())
        await anext(stream)
        monkeypatch.setattr(engine, "events", events)
        return await asyncio.wait_for(anext(stream), PATIENCE)

    (mark,) = parse([asyncio.run(run())])
    assert (mark.event, mark.raw_data) == (None, None)
    assert mark.id is not None
    assert int(mark.id.rpartition(".")[2]) > 0


def test_a_stream_ends_when_it_is_no_longer_allowed(
    engine: FakeEngine, made: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CHECK_SECONDS", 0.005)
    answers = [True, True, False]
    assert len(collect(lambda: begin(made, allowed=lambda: answers.pop(0)))) == 1
    assert not answers


def test_the_engine_is_asked_for_a_bounded_number_and_only_while_somebody_listens(
    engine: FakeEngine, made: EventStreams
) -> None:
    for _ in range(3 * streams.BATCH):
        engine.happen(EventKind.CONNECTED)
    assert engine.reads == []

    async def run() -> None:
        stream = begin(made)
        for _ in range(2):
            await anext(stream)
        await asyncio.sleep(0.02)  # who does not read is not read for
        assert engine.reads == [streams.BATCH]

    asyncio.run(run())


def test_all_who_stand_at_the_same_place_are_read_for_once(engine: FakeEngine, made: EventStreams) -> None:
    for _ in range(5):
        engine.happen(EventKind.CONNECTED)

    async def run() -> list[list[bytes]]:
        every = [begin(made) for _ in range(20)]
        return [[await anext(stream) for stream in every] for _ in range(2)][1]

    read = asyncio.run(run())
    assert len({len(parse([piece])) for piece in read}) == 1
    assert len(parse(read)) == 20 * 5
    assert made.sent == 20 * 5
    # A time to wake may pass while they are read for.
    assert len(engine.reads) < 10


def test_there_is_room_for_so_many_and_each_gives_its_place_back(
    made: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STREAMS", 2)
    with made.place(), made.place():
        with pytest.raises(Problem) as raised, made.place():
            pass
        assert raised.value.kind.code == "too_many_streams"
        assert made.open == 2
    assert made.open == 0
