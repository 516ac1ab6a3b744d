"""Reads GET /v1/events as a browser does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support import PATIENCE


@dataclass(frozen=True)
class Seen:
    """One event. `id` is the last one that came, with this event or before it."""

    type: str
    data: dict[str, Any]
    id: str | None


class Stream:
    """An open stream; every wait has a bound."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.last_id: str | None = None
        self.lines: list[str] = []
        self._arriving = answer.iter_lines()
        self._before: list[Seen] = []
        while self.last_id is None:  # it begins with an id, before which it may tell of a gap
            if (seen := self._take()) is not None:
                self._before.append(seen)

    def next(self) -> Seen:
        """The next event; StopIteration at the end of the stream."""
        while not self._before:
            if (seen := self._take()) is not None:
                return seen
        return self._before.pop(0)

    def until(self, type: str, **data: Any) -> Seen:
        """The next event of this type whose data has these members."""
        while True:
            seen = self.next()
            if seen.type == type and data.items() <= seen.data.items():
                return seen

    def rest(self) -> list[Seen]:
        """All events to the end of the stream."""
        found = []
        while True:
            try:
                found.append(self.next())
            except StopIteration:
                return found

    def _take(self) -> Seen | None:
        """What the lines up to the next empty one say."""
        type, data = "message", []
        while line := next(self._arriving):
            self.lines.append(line)
            name, _, value = line.partition(": ")
            if name == "event":
                type = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                self.last_id = value
            else:
                assert name in ("", "retry"), f"a line that is none of SSE: {line!r}"
        return Seen(type, json.loads("\n".join(data)), self.last_id) if data else None


@contextmanager
def watch(url: str, *, last_event_id: str | None = None, key: str | None = None, **query: Any) -> Iterator[Stream]:
    """A stream that has begun: what happens from now on is in it."""
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    if key:
        headers["authorization"] = f"Bearer {key}"
    with (
        httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client,
        client.stream("GET", "/v1/events", params=query, headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        yield Stream(answer)
