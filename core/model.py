"""What the engine tells and what it is asked with: plain, frozen values. Times are aware datetimes in UTC."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from .errors import ConfigurationError
from .framing import Framing
from .labels import check_group, check_tag


class State(enum.StrEnum):
    """Where a connection is in its life."""

    ARRIVING = "arriving"
    """It comes from a balancer, and its PROXY header has not come whole, or its client is not let in yet."""
    OPEN = "open"
    DRAINING = "draining"
    """What is queued is sent, then the end of the stream; nothing new is taken."""
    CLOSING = "closing"
    """Its last operations are being cancelled."""


class By(enum.StrEnum):
    """Who began a connection's end."""

    CLIENT = "client"
    OPERATOR = "operator"
    ENGINE = "engine"


class Reason(enum.StrEnum):
    """Why a connection ended."""

    CLIENT_CLOSED = "client_closed"
    CLIENT_RESET = "client_reset"
    CLIENT_TIMED_OUT = "client_timed_out"
    """The system gave up on the peer."""
    KICKED = "kicked"
    BANNED = "banned"
    DRAINED = "drained"
    SHUTDOWN = "shutdown"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    SLOW_CONSUMER = "slow_consumer"
    OUT_OF_MEMORY = "out_of_memory"
    IO_ERROR = "io_error"
    FRAME_TOO_LARGE = "frame_too_large"
    """A message was above the limit of the listener's framing."""
    SERVICE_CLOSED = "service_closed"
    """A service in Python has closed it."""
    SERVICE_ERROR = "service_error"
    """A handler of a service in Python has raised an exception."""
    PROXY_HEADER_INVALID = "proxy_header_invalid"
    """A balancer has begun with something else than a PROXY header."""
    PROXY_HEADER_TIMEOUT = "proxy_header_timeout"
    """A balancer's PROXY header did not come whole within `first_byte_timeout`, or 30 seconds if that is 0."""
    ADDRESS_LIMIT = "address_limit"
    """The client that its PROXY header names is at `max_connections_per_address`."""
    ADDRESS_RATE = "address_rate"
    """The same with `accepts_per_s_per_address`."""
    ACCEPT_RATE = "accept_rate"
    """The same with `accepts_per_s`."""


class Phase(enum.StrEnum):
    """How far a drain has come, in this order."""

    NONE = "none"
    LB_DELAY = "lb_delay"
    """Not ready any more, still accepting."""
    LISTENERS = "listeners"
    """Listeners close and outstanding accepts are reaped."""
    GRACE = "grace"
    """Nothing new is accepted; clients may leave by themselves."""
    EVICT = "evict"
    """Connections are drained, at a rate if one is set."""
    HARD = "hard"
    """The deadline has passed: what is left is cancelled."""
    DRAINED = "drained"
    EXITING = "exiting"
    """An exit completion is posted to each worker's port."""
    STOPPED = "stopped"
    """Every worker took its exit completion and was joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which connections: all fields that are given must match; without any, all connections do.

    Attributes:
        ip: The network that the peer's address is in; behind a balancer that names it, the client's. IPv4 peers of a
            dual-stack listener count as IPv4; all IPv4 peers are also in an IPv6 network that holds their mapped
            address (::ffff:a.b.c.d), such as ::/0.
        listener: The listener's place in the configuration, from 0.
        state: The state now.
        older_than: Seconds since it connected, at least.
        idle_for: Seconds since its last byte in either direction, at least.
        min_pending_bytes: Bytes in its send queue, at least.
        min_bytes_in: Bytes received, at least.
        min_bytes_out: Bytes that the system has taken to send, at least.
        group: A group that it is in.
        tags: Tags that it has, all of them.

    Raises:
        ConfigurationError: For a negative or unbounded value, or what can't be a group or a tag.
    """

    ip: IPv4Network | IPv6Network | None = None
    listener: int | None = None
    state: State | None = None
    older_than: float | None = None
    idle_for: float | None = None
    min_pending_bytes: int | None = None
    min_bytes_in: int | None = None
    min_bytes_out: int | None = None
    group: str | None = None
    tags: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.listener is not None and not 0 <= self.listener < 65536:
            raise ConfigurationError("listener", self.listener, "must be from 0 to 65535")
        for field, seconds in (("older_than", self.older_than), ("idle_for", self.idle_for)):
            if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds <= 1e9):
                raise ConfigurationError(field, seconds, "must be from 0 to 1e9 seconds")
        for field in ("min_pending_bytes", "min_bytes_in", "min_bytes_out"):
            least = getattr(self, field)
            if least is not None and not 0 <= least < 1 << 63:
                raise ConfigurationError(field, least, "must be from 0 to 2**63 - 1 bytes")
        if self.group is not None:
            check_group(self.group)
        for key, value in (self.tags or {}).items():
            check_tag(key, value)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing goes on. All three are plain numbers and may be kept or sent elsewhere.

    Attributes:
        last_serial: Connections that came later than this one are not shown.
        worker: The worker that the next row belongs to.
        slot: The next row's slot in that worker's table.
    """

    last_serial: int
    worker: int
    slot: int


class Connection(NamedTuple):
    """A connection at one moment. (A named tuple: a page has many, and a frozen dataclass takes six times as long.)

    Attributes:
        id: Below 2**53 and never given to another connection while the engine runs.
        serial: Its number in the order of accept, from 1.
        listener: The listener's place in the configuration, from 0.
        worker: The worker thread that serves it, from 0.
        service: The listener's service.
        state: The state now.
        reason: Why it is on its way out; None while it is open.
        peer: The client's address and port. IPv4 is shown as IPv4 also where the listener is dual stack. While it is
            arriving, the balancer's.
        via: The address and port of the balancer whose PROXY header has named the client, or None.
        local: This side's address and port.
        connected_at: When it was accepted.
        last_activity_at: When the last byte came or went.
        bytes_in: Received in all.
        bytes_out: Taken by the system to be sent, in all.
        messages_in: Whole messages that were received; without a framing, receives that brought data.
        messages_out: Messages whose send was completed; of an echo without a framing, sends.
        pending_bytes: Queued and not yet taken by the system.
        tags: What it was tagged with.
        groups: The groups that it is in.
    """

    id: int
    serial: int
    listener: int
    worker: int
    service: str
    state: State
    reason: Reason | None
    peer: tuple[str, int]
    via: tuple[str, int] | None
    local: tuple[str, int]
    connected_at: datetime
    last_activity_at: datetime
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    pending_bytes: int
    tags: dict[str, str]
    groups: tuple[str, ...]


class KickOutcome(enum.StrEnum):
    """What became of one connection of several that were kicked."""

    KICKED = "kicked"
    """It has left the table."""
    ALREADY_GONE = "already_gone"
    FAILED = "failed"
    """The engine stopped first."""
    BUSY = "busy"
    """Too many commands wait for its worker: nothing was done."""


@dataclass(frozen=True, slots=True)
class ClosedConnection:
    """The record of a connection that has ended.

    Attributes:
        connection: What it was at its end.
        closed_serial: Its number in the order of the ends, from 1.
        closed_at: When it left the table.
        reason: Why it ended.
        by: Who began the end.
        text: The operator's text, or "".
        os_error: The system's error number for client_reset, client_timed_out and io_error, or 0.
    """

    connection: Connection
    closed_serial: int
    closed_at: datetime
    reason: Reason
    by: By
    text: str
    os_error: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing.

    Attributes:
        items: In the order of the workers' tables.
        next: Where the listing goes on; None if and only if nothing is left.
        last_serial: Connections that came later than this one are not shown, on this page or the next ones.
    """

    items: list[Connection]
    next: Cursor | None
    last_serial: int


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a send, a kick or a broadcast. matched = queued + skipped_slow + failed, and
    queued = written + closed_before_write + expired + what still waits.

    Attributes:
        matched: Connections that it was for.
        queued: Connections that it was queued on.
        written: Connections whose send is completed. It does not say that the peer's program has read the data.
        skipped_slow: Connections whose queue was full.
        closed_before_write: Connections that ended while it was queued.
        failed: Connections that there was no memory for.
        done: Nothing will change any more.
        expired: Connections whose turn came after the time to live.
    """

    matched: int
    queued: int
    written: int
    skipped_slow: int
    closed_before_write: int
    failed: int
    done: bool
    expired: int = 0


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """How far a drain has come.

    Attributes:
        phase: Phase.NONE if there was no drain since the start, or it was cancelled.
        stop: The engine stops when it is drained.
        initial: Connections when it began.
        remaining: Connections now.
        evicting: How many of these are on their way out.
        cancelled: Connections that the deadline ended.
        rate_per_s: Connections that are drained each second; 0: all at once.
        started_at: When it began, or None.
        deadline_at: When what is left is cancelled, or None.
        ended_at: When no connection was left, or None.
        exits_posted: Exit completions posted.
        exits_taken: Exit completions taken by their workers.
    """

    phase: Phase
    stop: bool
    initial: int
    remaining: int
    evicting: int
    cancelled: int
    rate_per_s: int
    started_at: datetime | None
    deadline_at: datetime | None
    ended_at: datetime | None
    exits_posted: int
    exits_taken: int


@dataclass(frozen=True, slots=True)
class DominantAddress:
    """An address that had come to hold more than half of all connections; see EventKind.DOMINANT_ADDRESS.

    Attributes:
        network: The address, or for IPv6 its /64.
        connections: How many it held then.
        at: When it came to that.
    """

    network: str
    connections: int
    at: datetime


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs.

    Attributes:
        backend: iocp, io_uring or epoll.
        backend_reason: Why this one and no other.
        workers: Worker threads.
        listeners: Listeners.
        accepting: Every listener is open.
        started_at: When it was started.
        connections: Connections now.
        last_serial: The serial of the newest connection, so the number of all that were accepted.
        bans: Bans that are in force or have run out and not been lifted.
        dominant_address: The last address that had come to hold most of the connections, or None.
    """

    backend: str
    backend_reason: str
    workers: int
    listeners: int
    accepting: bool
    started_at: datetime
    connections: int
    last_serial: int
    bans: int
    dominant_address: DominantAddress | None


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """A worker's counters, since the start where it does not say "now".

    Attributes:
        connections: Connections that it serves now.
        adopted: Connections that it took over.
        bytes_in: Received.
        bytes_out: Taken by the system to be sent.
        messages_in: Whole messages that were received; without a framing, receives that brought data.
        messages_out: Messages whose send was completed; of an echo without a framing, sends.
        discarded_bytes: Came after the end of a drain's sending and were read away.
        pending_bytes: Queued and not yet taken by the system, now.
        turns: Waits on its port.
        events: Completions taken from its port.
        starved: Receives that had to wait for a buffer.
        overflows: Overflows of the completion queue.
        inbox_busy: Commands refused because its inbox was full.
        buffers: Receive buffers that exist now.
        buffers_in_use: Receive buffers that hold data now.
        relay_waiting: Relayed messages on their way to it now.
        closed: Connections that ended, by reason.
        turn_seconds: How long the turns took together, without their waits.
        turn_counts: Turns by how long each took; TURN_BUCKETS has the upper bounds.
    """

    connections: int
    adopted: int
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    discarded_bytes: int
    pending_bytes: int
    turns: int
    events: int
    starved: int
    overflows: int
    inbox_busy: int
    buffers: int
    buffers_in_use: int
    relay_waiting: int
    closed: dict[Reason, int]
    turn_seconds: float
    turn_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """A listener and its counters since the start.

    Attributes:
        host: The bound address.
        port: The bound port, which the system chose if the configuration said 0.
        service: echo, discard, relay, relay_group or python:package.module:Class.
        framing: How messages are cut: the listener's own, or that of its service in Python.
        open: It listens.
        accepted: Connections taken over.
        refused_limit: Refused because of `max_connections`.
        refused_memory: Refused for want of memory or a free slot.
        refused_gone: The client had left before it was taken over.
        refused_banned: Refused because of a ban. Who is refused after a PROXY header, for this reason or one of the
            next three, was accepted too.
        refused_address_limit: Refused because of `max_connections_per_address`.
        refused_address_rate: Refused because of `accepts_per_s_per_address`.
        refused_rate: Refused because of `accepts_per_s`.
        accept_errors: No handle or no memory in the system; accepting went on later.
        connections: Connections now.
    """

    host: str
    port: int
    service: str
    framing: Framing
    open: bool
    accepted: int
    refused_limit: int
    refused_memory: int
    refused_gone: int
    refused_banned: int
    refused_address_limit: int
    refused_address_rate: int
    refused_rate: int
    accept_errors: int
    connections: int


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """A thread of a service in Python and its counters since the start.

    Attributes:
        listener: The listener's place in the configuration, from 0.
        service: As in ListenerStats.
        thread: Which of the listener's threads, from 0.
        connections: Connections that the service knows now.
        messages_in: Messages that it took.
        messages_out: Messages that it sent; a broadcast counts once.
        broadcasts_dropped: Broadcasts of it that nobody has got, for want of memory.
        batches: Calls that brought something.
        waiting_bytes: Received and not handled yet, now, with what it takes to keep them.
        paused: Connections that wait now, because the service has not handled enough.
        pauses: How often one had to.
        errors: Exceptions of its handlers and timers.
    """

    listener: int
    service: str
    thread: int
    connections: int
    messages_in: int
    messages_out: int
    broadcasts_dropped: int
    batches: int
    waiting_bytes: int
    paused: int
    pauses: int
    errors: int
