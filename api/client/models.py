"""What the API answers with, as frozen values.

Times are aware datetimes in UTC, sizes are in bytes. A field that a newer service adds is left out here, and a state or
reason that it adds comes as its plain text: an older client goes on working. tests/unit/test_client_contract.py holds
all of this to the OpenAPI document.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["open", "draining", "closing"]
By = Literal["client", "operator", "engine"]
Reason = Literal[
    "client_closed",
    "client_reset",
    "client_timed_out",
    "kicked",
    "drained",
    "shutdown",
    "first_byte_timeout",
    "idle_timeout",
    "slow_consumer",
    "out_of_memory",
    "io_error",
]
Phase = Literal["none", "lb_delay", "listeners", "grace", "evict", "hard", "drained", "exiting", "stopped"]

Sort = Literal[
    "connected_at",
    "-connected_at",
    "last_activity_at",
    "-last_activity_at",
    "bytes_in",
    "-bytes_in",
    "bytes_out",
    "-bytes_out",
    "messages_in",
    "-messages_in",
    "messages_out",
    "-messages_out",
    "pending_bytes",
    "-pending_bytes",
]
"""A member of a connection to sort by; with a minus the largest, or the latest, comes first."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Address(_Model):
    """One end of a connection."""

    ip: str
    port: int


class Connection(_Model):
    """A connection as it was when it was asked for.

    Attributes:
        id: Opaque, and never used again, not even by another run of the service.
        listener: `id` of its listener.
        reason: Why it is on its way out; None while it is open.
        last_activity_at: When something was last received or sent.
        bytes_out: Bytes that the system has taken to send.
        pending_bytes: Bytes that are queued, and not yet taken by the system.
        worker: The worker that serves it, from 0.
    """

    id: str
    listener: int
    service: str
    state: State | str
    reason: Reason | str | None
    peer: Address
    local: Address
    connected_at: datetime
    last_activity_at: datetime
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    pending_bytes: int
    worker: int


class ClosedConnection(_Model):
    """A connection that has ended.

    Attributes:
        by: Who began its end.
        text: The operator's, from `reason` of the kick; empty if there is none.
        os_error: The system's error number, if one ended it.
    """

    id: str
    listener: int
    service: str
    peer: Address
    local: Address
    connected_at: datetime
    last_activity_at: datetime
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    worker: int
    closed_at: datetime
    reason: Reason | str
    by: By | str
    text: str
    os_error: int | None


class Snapshot(_Model):
    """What a listing shows: those that were there at `taken_at` and stay until they are shown.

    Attributes:
        expires_at: When its cursors stop working; None: they don't.
    """

    taken_at: datetime
    expires_at: datetime | None


class ConnectionPage(_Model):
    """A page of connections.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
        total: How many match in all, if count="exact" was asked for.
    """

    items: tuple[Connection, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: int | None


class ClosedPage(_Model):
    """A page of ended connections, newest first.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
        total: Always None: older ones fall out of the service's memory all the time.
    """

    items: tuple[ClosedConnection, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: None


class Report(_Model):
    """What became of a message; matched = queued + skipped_slow + failed.

    Attributes:
        matched: Connections that it was for.
        queued: Put into a connection's send queue.
        written: The send completed; that the peer's program has read it, it does not mean.
        skipped_slow: Left out, because too much unread was queued for the connection.
        closed_before_write: Queued, but the connection ended first.
        failed: There was no memory for it.
        done: False if the time was up before all of it was written; nothing is cancelled then.
    """

    matched: int
    queued: int
    written: int
    skipped_slow: int
    closed_before_write: int
    failed: int
    done: bool


class Drain(_Model):
    """How far a drain has come.

    Attributes:
        phase: "none" when there is no drain.
        then: What follows: "stay" drained, or "shutdown"; None when there is no drain.
        initial: Connections when it began.
        remaining: Connections now.
        evicting: Of these, how many are on their way out.
        cancelled: Connections that the deadline cut off.
        rate_per_s: Connections ended each second; 0: all at once.
        eta: When the last one will have been told to go, at this rate; None: not known.
        deadline: When what is left is cut off.
        exits_posted: Exit completions posted, one for each worker.
        exits_taken: Workers that have taken theirs.
    """

    phase: Phase | str
    then: Literal["stay", "shutdown"] | str | None
    initial: int
    remaining: int
    evicting: int
    cancelled: int
    rate_per_s: int
    started_at: datetime | None
    eta: datetime | None
    deadline: datetime | None
    ended_at: datetime | None
    exits_posted: int
    exits_taken: int


class Backend(_Model):
    """The completion port behind the workers, and why it is this one."""

    name: str
    reason: str


class Limits(_Model):
    """Bounds that are in force. Durations are texts such as `90s`; `0s` is no limit."""

    max_connections: int
    first_byte_timeout: str
    idle_timeout: str
    send_soft_bytes: int
    send_soft_seconds: str
    send_hard_bytes: int
    max_message_bytes: int
    closed_capacity: int
    http_connections: int


class Worker(_Model):
    """Totals since the start, of one worker or of all; `connections`, `pending_bytes` and the buffers are as of now.

    Attributes:
        adopted: Connections that it was given.
        starved: Receives that had to wait for a buffer.
        overflows: Of the completion queue.
        inbox_busy: Commands refused because the inbox was full.
        closed: Ended connections by reason.
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
    closed: dict[str, int]


class Node(_Model):
    """The service's process.

    Attributes:
        instance: This run; ids of its connections begin with it.
        uptime: Such as `5403s`.
        workers: How many there are.
        phase: "none" while it serves; otherwise how far a drain has come.
        accepting: Every listener is open.
        connections: How many there are now.
    """

    instance: str
    version: str
    pid: int
    started_at: datetime
    uptime: str
    backend: Backend
    workers: int
    phase: Phase | str
    accepting: bool
    connections: int
    limits: Limits
    totals: Worker
    per_worker: tuple[Worker, ...]


class Listener(_Model):
    """Where the service listens.

    Attributes:
        id: `listener` of its connections.
        connections: How many there are now.
        refused_limit: Turned away because of max_connections.
        refused_memory: Turned away for want of memory.
        refused_gone: Had left before they were taken over.
        accept_errors: No handle or no memory in the system; tried again.
    """

    id: int
    host: str
    port: int
    service: str
    open: bool
    connections: int
    accepted: int
    refused_limit: int
    refused_memory: int
    refused_gone: int
    accept_errors: int


class ListenerList(_Model):
    """All listeners; there is no next page."""

    items: tuple[Listener, ...]


class Probe(_Model):
    """A probe that is content."""

    status: Literal["live", "ready", "started"] | str
