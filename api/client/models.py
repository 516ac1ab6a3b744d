"""What the API answers with, as frozen values.

Times are aware datetimes in UTC, sizes are in bytes. A field that a newer service adds is left out here, and a state or
reason that it adds comes as its plain text: an older client goes on working. tests/unit/test_client_contract.py holds
all of this to the OpenAPI document.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

State = Literal["open", "draining", "closing"]
By = Literal["client", "operator", "engine"]
Reason = Literal[
    "client_closed",
    "client_reset",
    "client_timed_out",
    "kicked",
    "banned",
    "drained",
    "shutdown",
    "first_byte_timeout",
    "idle_timeout",
    "slow_consumer",
    "out_of_memory",
    "io_error",
]
Scope = Literal[
    "connections:read",
    "connections:kick",
    "connections:tag",
    "messages:send",
    "broadcasts:send",
    "bans:read",
    "bans:write",
    "node:read",
    "node:drain",
    "node:shutdown",
    "node:reload",
    "metrics:read",
    "audit:read",
    "keys:read",
    "keys:write",
]
"""What a key may do."""

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


_LEFT_OUT: Any = None


class Connection(_Model):
    """A connection as it was when it was asked for.

    A listing that asks for some `fields` alone has connections without the others: to read one is an AttributeError.

    Attributes:
        id: Opaque, and never used again, not even by another run of the service.
        listener: `id` of its listener.
        reason: Why it is on its way out; None while it is open.
        last_activity_at: When something was last received or sent.
        bytes_out: Bytes that the system has taken to send.
        pending_bytes: Bytes that are queued, and not yet taken by the system.
        tags: What operators have written to it.
        groups: What it belongs to; a relay listener may relay within a group.
        worker: The worker that serves it, from 0.
    """

    id: str
    listener: int = _LEFT_OUT
    service: str = _LEFT_OUT
    state: State | str = _LEFT_OUT
    reason: Reason | str | None = _LEFT_OUT
    peer: Address = _LEFT_OUT
    local: Address = _LEFT_OUT
    connected_at: datetime = _LEFT_OUT
    last_activity_at: datetime = _LEFT_OUT
    bytes_in: int = _LEFT_OUT
    bytes_out: int = _LEFT_OUT
    messages_in: int = _LEFT_OUT
    messages_out: int = _LEFT_OUT
    pending_bytes: int = _LEFT_OUT
    tags: dict[str, str] = _LEFT_OUT
    groups: tuple[str, ...] = _LEFT_OUT
    worker: int = _LEFT_OUT

    def model_post_init(self, context: Any, /) -> None:
        """Takes away what the service did not tell, so that nobody takes it for a value."""
        for name in type(self).model_fields.keys() - self.model_fields_set:
            del self.__dict__[name]


class ConnectionDetail(Connection):
    """One connection that was asked for by its id.

    Attributes:
        rtt_ms: The smoothed round trip to the peer in milliseconds; None where the system does not tell.
    """

    rtt_ms: float | None = _LEFT_OUT


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
    tags: dict[str, str]
    groups: tuple[str, ...]
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


JobState = Literal["running", "done", "cancelled"]


class KickOutcome(_Model):
    """What became of one connection of a kick of many.

    Attributes:
        peer: None: it had ended so long ago that its record is gone.
        outcome: "kicked": it has left the table; "already_gone": it had ended by itself; "failed": it is still on its
            way out, or its address could not be banned; "would_kick": of a dry run.
    """

    id: str
    peer: Address | None
    outcome: Literal["kicked", "already_gone", "failed", "would_kick"] | str


class KickReport(_Model):
    """What became of a kick of many; but for a dry run, matched = kicked + already_gone + failed + waiting.

    Attributes:
        job: For `watch_kicks` and `cancel_kicks`; None: this is the whole answer.
        waiting: Not settled yet; once it is cancelled, left alone.
        banned: Addresses that it banned.
        eta: When it will be over; None: not known, or it is over.
        outcomes: Of the first connections.
        outcomes_omitted: Settled, but not among `outcomes`.
    """

    job: str | None
    state: JobState | str
    dry_run: bool
    matched: int
    kicked: int
    already_gone: int
    failed: int
    waiting: int
    banned: int
    rate_per_s: int | None
    started_at: datetime
    ended_at: datetime | None
    eta: datetime | None
    outcomes: tuple[KickOutcome, ...]
    outcomes_omitted: int


class BroadcastReport(_Model):
    """What became of a message to many.

    Attributes:
        job: For `watch_broadcast` and `cancel_broadcast`; None: this is the whole answer.
        matched: Connections that it is for.
        queued: Put into a connection's send queue.
        written: The send completed; that the peer's program has read it, it does not mean.
        skipped_slow: Left out, because too much unread was queued for the connection.
        closed_before_write: Queued, but the connection ended first.
        expired: Queued, but its time was over before it began to be sent.
        failed: There was no memory for it.
        done: Nothing is on its way any more.
        eta: When it will be over; None: not known, or it is over.
    """

    job: str | None
    state: JobState | str
    dry_run: bool
    matched: int
    queued: int
    written: int
    skipped_slow: int
    closed_before_write: int
    expired: int
    failed: int
    done: bool
    rate_per_s: int | None
    started_at: datetime
    ended_at: datetime | None
    eta: datetime | None


class Ban(_Model):
    """A ban that is in force.

    Attributes:
        id: Opaque, and the same after a restart of the service.
        address: An address or a CIDR block.
        expires_at: None: it stays until it is lifted.
        created_by: The name of the key.
        kicked: In what `ban` returns: connections that it has ended; otherwise None.
    """

    id: str
    address: str
    reason: str
    created_at: datetime
    expires_at: datetime | None
    created_by: str
    kicked: int | None


class BanPage(_Model):
    """A page of bans.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
        total: How many there are in all.
    """

    items: tuple[Ban, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: int


class Key(_Model):
    """What a key may do; the key itself nobody can read again.

    Attributes:
        scopes: Everything that it may do, what its role brings included.
        expires_at: None: it works until it is revoked.
    """

    name: str
    role: Literal["viewer", "operator", "admin"] | str | None
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None


class NewKey(Key):
    """A key that was just made.

    Attributes:
        key: The key itself, this once.
    """

    key: str


class KeyList(_Model):
    """All keys; there is no next page."""

    items: tuple[Key, ...]


class AuditEntry(_Model):
    """Something that somebody did, or tried to do.

    Attributes:
        at: When it was over.
        actor: The key's name; "local" without keys, "anonymous" without a key that is accepted, "system" for the node.
        action: The operation's id, such as "connections-kick"; "node-start", "node-stop" and "node-signal" besides.
        target: What it was done to: a connection, an address, a name, a filter.
        outcome: "done", or the code of the problem.
        status: Of the HTTP answer; None: there was none.
        detail: More on the outcome.
        request_id: The same as in the service's log.
        client: The address that the request came from.
    """

    at: datetime
    id: str
    actor: str
    action: str
    target: str
    outcome: str
    status: int | None
    detail: str
    request_id: str | None
    client: str | None


class AuditPage(_Model):
    """A page of the audit, newest first.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
    """

    items: tuple[AuditEntry, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: int | None


class Change(_Model):
    """A setting that has another value than before, both as one writes them; for "keys" how many there are."""

    name: str
    before: str
    after: str


class Reload(_Model):
    """What reading the settings again has changed.

    Attributes:
        changed: In force now.
        needs_restart: In force when the service is started again.
    """

    changed: tuple[Change, ...]
    needs_restart: tuple[Change, ...]


EventKind = Literal["connected", "disconnected", "slow_consumer", "drain", "ban", "unban"]


class EventData(_Model):
    """What is told of an event; what does not fit its kind is None.

    connected: id, listener, worker, peer. disconnected: these and reason, by, text, bytes and messages. slow_consumer:
    those of connected and pending_bytes. drain: phase. ban and unban: address, text. missed: missed alone.

    Attributes:
        id: The connection's.
        phase: That the drain has come to.
        address: What was banned, or is no more.
        missed: So many events of all kinds were lost before this one; None: nobody knows how many.
    """

    at: datetime | None = None
    id: str | None = None
    listener: int | None = None
    worker: int | None = None
    peer: Address | None = None
    reason: Reason | str | None = None
    by: By | str | None = None
    text: str | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    messages_in: int | None = None
    messages_out: int | None = None
    pending_bytes: int | None = None
    phase: Phase | str | None = None
    address: str | None = None
    missed: int | None = None


class Event(EventData):
    """Something that happened.

    Attributes:
        kind: What; "missed" when events were lost before this one.
        position: For `after`: the stream goes on behind this event.
    """

    kind: EventKind | Literal["missed"] | str
    position: str | None
