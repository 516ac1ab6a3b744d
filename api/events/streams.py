"""Streams of events, and what bounds them.

The engine writes its events into a ring for each worker, which costs it the same whether somebody watches or nobody
does. The rings are read here while there are streams and at no other time, no more often than each POLL_SECONDS, for at
most BATCH events. All streams wake at the same time, and those that stand at the same place share what was read there,
and its text. So watchers cost the data path nothing, and the API a bounded part of its thread, however many they are.

Nothing is kept for a watcher that does not read: its connection takes no more, so its stream is not asked for the next
event, and the rings go on turning. When it reads again, it is told how many events it has missed. The HTTP server cuts
it off if it has not read for long (ANSWER_SECONDS), so that its place is free; Last-Event-ID brings it back.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fastapi.sse import format_sse_event
from pydantic_core import to_json

from iocpd.api import problems
from iocpd.api.events.rows import event_row
from iocpd.api.identity import Instance
from iocpd.api.problems import Problem
from iocpd.core import ConfigurationError, Engine, Event, EventPosition

STREAMS = 64
"""As many may be open at a time."""
POLL_SECONDS = 0.1
BATCH = 512
CHECK_SECONDS = 1.0
"""A key that is revoked, or whose time is over, shows nothing for longer than this."""
MARK_SECONDS = 10.0
"""A stream on which nothing has come for so long is told how far it has come, for its Last-Event-ID."""
RETRY_MS = 1000
"""How long a browser waits before it connects again."""


class _Told(NamedTuple):
    """An event as it goes out, and what a stream may ask for."""

    kind: str
    listener: int | None
    text: bytes


class _Batch(NamedTuple):
    """What came after a place."""

    events: list[_Told]
    position: EventPosition
    missed: int


class EventStreams:
    """The open streams of one run, counted. For the event loop's thread alone; the counts may be read in any."""

    def __init__(self, engine: Engine, instance: Instance) -> None:
        self._engine = engine
        self._instance = instance
        self._prefix = instance.name + "."
        self._round = 0.0
        self._batches: dict[EventPosition, _Batch] = {}
        """Those that were read in this round, by the place before them."""
        self.open = 0
        self.sent = 0
        """Events that were sent to somebody, since the start."""
        self.missed = 0
        """Events that a stream was too slow for, or came back too late for, since the start."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for one more stream; Problem 429."""
        if self.open >= STREAMS:
            detail = f"{STREAMS} streams of events are open, and that is as many as there may be; close one"
            raise Problem(problems.TOO_MANY_STREAMS, detail)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def begin(self, last_event_id: str) -> tuple[EventPosition, bool]:
        """Where a stream begins, and whether events of another run may have been missed before; Problem 422.

        last_event_id: an `id` that a stream of this run gave, to go on after it; of another run or empty, to begin now.
        """
        if not last_event_id:
            return self._engine.event_position(), False
        instance, dot, position = last_event_id.partition(".")
        if not dot or not Instance.is_name(instance):
            raise _malformed(last_event_id)
        try:
            after = EventPosition.parse(position)
            if instance != self._instance.name:
                return self._engine.event_position(), True
            self._engine.events(after, limit=1)  # it knows its own positions
        except ConfigurationError:
            raise _malformed(last_event_id) from None
        return after, False

    async def follow(
        self,
        position: EventPosition,
        *,
        foreign: bool,
        types: frozenset[str],
        listener: int | None,
        allowed: Callable[[], bool],
    ) -> AsyncIterator[bytes]:
        """The text of the events after `position`, several in a piece, until the engine has stopped or `allowed`, asked
        each CHECK_SECONDS, says no."""
        clock = asyncio.get_running_loop().time
        # Before there is an id of this run: who loses the connection in between comes back with his own, and is told.
        if foreign:
            yield _missed("null")
        # At once: so that the other side has the headers and an id, even if nothing ever happens.
        yield format_sse_event(comment="events", id=f"{self._prefix}{position}", retry=RETRY_MS)
        marked_at = checked_at = clock()
        while True:
            if clock() - checked_at > CHECK_SECONDS:
                checked_at = clock()
                if not allowed():
                    return
            running = self._engine.running  # asked before its last events are read
            batch = self._read(position, clock() // POLL_SECONDS)
            position = batch.position
            if batch.missed:
                self.missed += batch.missed
                yield _missed(str(batch.missed))
            wanted = [
                event.text for event in batch.events if event.kind in types and listener in (None, event.listener)
            ]
            if wanted:
                self.sent += len(wanted)
                yield b"".join(wanted)
                marked_at = clock()
            # Once something was missed at once, so that it is not counted again after a loss of the connection.
            elif (
                batch.missed or clock() - marked_at > MARK_SECONDS
            ):  # also while much happens that nobody here has asked for
                marked_at = clock()
                yield format_sse_event(comment="mark", id=f"{self._prefix}{position}")
            if not batch.events and not running:
                return
            await asyncio.sleep(POLL_SECONDS - clock() % POLL_SECONDS)

    def _read(self, position: EventPosition, round: float) -> _Batch:
        if round != self._round:
            self._round, self._batches = round, {}
        if (batch := self._batches.get(position)) is None:
            read = self._engine.events(position, limit=BATCH)
            told = [_Told(event.kind, event.listener, self._text(event)) for event in read.events]
            batch = self._batches[position] = _Batch(told, read.position, read.missed)
        return batch

    def _text(self, event: Event) -> bytes:
        data = _on_one_line(to_json(event_row(event, self._instance)).decode())
        return format_sse_event(event=event.kind, data_str=data, id=f"{self._prefix}{event.position}")


def _on_one_line(text: str) -> str:
    """The same JSON, all of which can be seen. It has no line ends of the format's own; but there are readers that take
    U+0085 or U+2028 for one, and a service in Python may give an end any text."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def _missed(count: str) -> bytes:
    """Without an id: a reader's Last-Event-ID stays in front of the gap until what comes behind it has come, so that a
    connection that is lost in between loses no event. He may be told of the gap twice, never not at all.
    """
    return format_sse_event(event="missed", data_str=f'{{"missed":{count}}}')


def _malformed(last_event_id: str) -> Problem:
    detail = f"{last_event_id!r:.80} is no id of an event; leave it out to begin now"
    return problems.invalid("header", "Last-Event-ID", "malformed", detail)
