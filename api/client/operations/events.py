"""Live events, as a stream that survives the loss of its connection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import NoneType

from iocpd.api.client.calls import Call, Chunk, Item, Open, Pause, Steps, comma, stream
from iocpd.api.client.errors import ClientError, ProblemError, TimedOut, UnexpectedAnswer, Unreachable
from iocpd.api.client.models import Event, EventKind

# The service says something each 15 s, if only that it is there.
_SILENCE_SECONDS = 35.0
_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0
_MAX_LINE_BYTES = 1 << 20


class EventOperations:
    """/v1/events."""

    @stream
    def events(
        self,
        *,
        types: Sequence[EventKind] | None = None,
        listener: int | None = None,
        after: str | None = None,
        attempts: int = 10,
    ) -> Steps[Event]:
        """Iterates over events as they happen, without an end.

        When the connection is lost, it is made again and goes on where it was. What the service could not keep until
        then, or this reader was too slow for, is told by an event of kind "missed", with how many that were if the
        service knows.

        Args:
            types: Only these kinds; "missed" is always among them.
            listener: Only of this listener.
            after: `position` of the event after which to begin; None: from now on.
            attempts: How often in a row to try to connect, about 5 s apart at the end, before it is an error.

        Raises:
            ProblemError: status 429 if too many are listening.
            Unreachable, TimedOut: The service can't be reached any more.
        """
        return _follow(types, listener, after, attempts)


def _follow(types: Sequence[EventKind] | None, listener: int | None, after: str | None, attempts: int) -> Steps[Event]:
    failures, pause = 0, _FIRST_PAUSE_SECONDS
    while True:
        try:
            yield Open(_call(types, listener, after))
            parser = _Parser()
            while (data := (yield Chunk())) is not None:
                for fields in parser.feed(data):
                    failures, pause = 0, _FIRST_PAUSE_SECONDS
                    after = fields.get("id") or after
                    if fields.get("event") and fields.get("data"):
                        yield Item(_event_of(fields["event"], fields["data"], fields.get("id")))
        except ClientError as error:
            if not _passes(error):
                raise
            failures += 1
            if failures >= attempts:
                raise
        else:
            failures += 1
            if failures >= attempts:
                raise Unreachable("the service ends each stream of events at once", sent=True)
        yield Pause(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


def _event_of(kind: str, data: str, position: str | None) -> Event:
    try:
        return Event.model_validate({**json.loads(data), "kind": kind, "position": position})
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's are among them
        raise UnexpectedAnswer(f"GET /v1/events answered what is not an event: {error}") from None


def _passes(error: ClientError) -> bool:
    """Whether it may be otherwise soon: the service is being started again, or a proxy is."""
    if isinstance(error, ProblemError):
        return error.status in (502, 503, 504)
    return isinstance(error, (Unreachable, TimedOut))


def _call(types: Sequence[EventKind] | None, listener: int | None, after: str | None) -> Call[None]:
    return Call(
        method="GET",
        route="/v1/events",
        result=NoneType,
        query={"types": comma(types), "listener": listener},
        headers={"last-event-id": after, "accept": "text/event-stream"},
        waits=_SILENCE_SECONDS,
        retry=False,
    )


class _Parser:
    """Takes a stream of events apart (text/event-stream of the HTML standard)."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[dict[str, str]]:
        """The events that are complete now: id, event and data of each."""
        # Only these three end a line. str.splitlines would take a message apart at other characters.
        text = self._rest + data
        held = b"\r" if text.endswith(b"\r") else b""  # the other half of a line's end may be on its way
        *lines, rest = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        if len(self._rest) > _MAX_LINE_BYTES:
            raise UnexpectedAnswer("what answered sends an endless line in place of events")
        for line in lines:
            if not line:
                if self._fields:
                    yield self._fields
                self._fields = {}
                continue
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if name in ("id", "event", "data"):
                value = value.removeprefix(" ")
                before = self._fields.get(name)
                self._fields[name] = value if before is None or name != "data" else f"{before}\n{value}"
