"""Events: who came and went, who reads too slowly, how a drain goes on, who was banned."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import _rows
from ._native import ffi, lib
from ._run import Run
from .errors import ConfigurationError
from .model import By, Phase, Reason

_LIMIT_MAX = 4096


class EventKind(enum.StrEnum):
    """What happened."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    SLOW_CONSUMER = "slow_consumer"
    """A send queue has come above `send_soft_bytes`."""
    DRAIN = "drain"
    """The drain's phase has changed."""
    BAN = "ban"
    UNBAN = "unban"
    DOMINANT_ADDRESS = "dominant_address"
    """One address has come to hold more than half of all connections, of a hundred at least: limits by address and bans
    hit all of them together. Is a balancer or Docker Desktop in front? Then `proxy_protocol_from` helps. It is told
    once, and again only after the address has held less than a quarter."""


assert len(EventKind) == lib.IOCPD_EVENT_KINDS
_KINDS = tuple(EventKind)


@dataclass(frozen=True, slots=True)
class EventPosition:
    """Between two events of one life of an engine. Its text ("12.0.3") can be kept, and parsed again.

    Attributes:
        counts: How many events of each worker lie before it, and how many bans and their ends.
    """

    counts: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.counts))

    @classmethod
    def parse(cls, text: str) -> EventPosition:
        """Back from its text. ConfigurationError."""
        parts = text.split(".")
        if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
            raise ConfigurationError("position", text, "must be one that an event had")
        return cls(tuple(map(int, parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. What means nothing for its kind is None, 0 or "".

    Attributes:
        kind: What.
        at: When.
        position: Just behind it.
        id: The connection's.
        listener: The connection's.
        worker: The connection's.
        peer: The connection's.
        via: The connection's.
        reason: disconnected: why.
        by: disconnected: who began the end.
        text: disconnected: what was said with a kick; ban and unban: what was said with it.
        phase: drain: the new one.
        network: ban and unban: the address or CIDR block; dominant_address: the address, or for IPv6 its /64.
        connections: dominant_address: how many it holds.
        bytes_in: disconnected.
        bytes_out: disconnected.
        messages_in: disconnected.
        messages_out: disconnected.
        pending_bytes: slow_consumer: how much is queued.
    """

    kind: EventKind
    at: datetime
    position: EventPosition
    id: int | None = None
    listener: int | None = None
    worker: int | None = None
    peer: tuple[str, int] | None = None
    via: tuple[str, int] | None = None
    reason: Reason | None = None
    by: By | None = None
    text: str = ""
    phase: Phase | None = None
    network: str | None = None
    connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    pending_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EventBatch:
    """What Engine.events found.

    Attributes:
        events: In the order of their times; of one connection in the order in which they happened.
        position: Behind the last of them, for the next call.
        missed: Events before these that were overwritten before they were read.
    """

    events: list[Event]
    position: EventPosition
    missed: int


def now(run: Run) -> EventPosition:
    """See Engine.event_position."""
    positions = ffi.new("uint64_t[]", run.workers + 1)
    lib.iocpd_event_positions(run.native, positions)
    return EventPosition(tuple(positions))


def read(run: Run, after: EventPosition, limit: int) -> EventBatch:
    """See Engine.events."""
    if not 1 <= limit <= _LIMIT_MAX:
        raise ConfigurationError("limit", limit, f"must be from 1 to {_LIMIT_MAX}")
    end = now(run)
    if len(after.counts) != len(end.counts) or any(a > b for a, b in zip(after.counts, end.counts, strict=True)):
        raise ConfigurationError("after", str(after), "must be a position of this life of the engine")
    positions, rows = ffi.new("uint64_t[]", list(after.counts)), ffi.new("iocpd_event[]", limit)
    missed = ffi.new("uint64_t *")
    count = lib.iocpd_events(run.native, positions, rows, limit, missed)
    last = tuple(positions)
    # Backwards from the last position, since each event is one step of its ring.
    at, events = list(last), []
    for number in range(count - 1, -1, -1):
        events.append(_event(rows[number], EventPosition(tuple(at)), run.workers))
        at[rows[number].ring] -= 1
    events.reverse()
    return EventBatch(events, EventPosition(last), missed[0])


def _event(row: Any, position: EventPosition, workers: int) -> Event:
    kind, at = _KINDS[row.kind], _rows.moment(row.at_us)
    text = ffi.string(row.text).decode(errors="replace")
    if kind is EventKind.DRAIN:
        return Event(kind=kind, at=at, position=position, phase=_rows.PHASES[row.phase])
    ip = bytes(row.ip)
    if kind in (EventKind.BAN, EventKind.UNBAN):
        return Event(kind=kind, at=at, position=position, network=_rows.network_text(ip, row.prefix), text=text)
    if kind is EventKind.DOMINANT_ADDRESS:
        network = _rows.network_text(ip, row.prefix)
        return Event(kind=kind, at=at, position=position, network=network, connections=row.connections)
    ended = kind is EventKind.DISCONNECTED
    return Event(
        kind=kind,
        at=at,
        position=position,
        id=row.token,
        listener=row.listener,
        worker=row.ring,
        peer=(_rows.address_text(ip), row.port),
        via=_rows.via(bytes(row.via_ip), row.via_port),
        reason=_rows.REASONS[row.reason] if ended else None,
        by=_rows.BY[row.reason] if ended else None,
        text=text,
        bytes_in=row.bytes_in,
        bytes_out=row.bytes_out,
        messages_in=row.messages_in,
        messages_out=row.messages_out,
        pending_bytes=row.pending_bytes,
    )
