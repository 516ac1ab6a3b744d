"""The node, its listeners, its drain, its settings."""

from datetime import datetime
from typing import Literal

from iocpd.api.client.models.base import Model

Phase = Literal["none", "lb_delay", "listeners", "grace", "evict", "hard", "drained", "exiting", "stopped"]


class Drain(Model):
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


class Backend(Model):
    """The completion port behind the workers, and why it is this one."""

    name: str
    reason: str


class Limits(Model):
    """Bounds that are in force. Durations are texts such as `90s`; `0s` is no limit."""

    max_connections: int
    first_byte_timeout: str
    idle_timeout: str
    send_soft_bytes: int
    send_soft_seconds: str
    send_hard_bytes: int
    max_message_bytes: int
    max_connections_per_address: int
    accepts_per_s: int
    accepts_per_s_per_address: int
    messages_per_s_per_connection: int
    max_bans: int
    closed_capacity: int
    event_capacity: int
    http_connections: int


class Worker(Model):
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


class DominantAddress(Model):
    """An address that had come to hold more than half of the connections.

    Attributes:
        network: The address, or for IPv6 its /64.
        connections: How many it held then.
        at: When it had come to that.
    """

    network: str
    connections: int
    at: datetime


class Node(Model):
    """The service's process.

    Attributes:
        instance: This run; ids of its connections begin with it.
        uptime: Such as `5403s`.
        workers: How many there are.
        busy_poll_us: Microseconds for which a worker asks for more before it sleeps.
        phase: "none" while it serves; otherwise how far a drain has come.
        accepting: Every listener is open.
        connections: How many there are now.
        bans: How many are in force.
        dominant_address: The last address that had come to hold most of the connections; None: there was none.
        audit_trouble: Why the audit can't be written at the moment; None: it can.
    """

    instance: str
    version: str
    pid: int
    started_at: datetime
    uptime: str
    backend: Backend
    workers: int
    busy_poll_us: int
    phase: Phase | str
    accepting: bool
    connections: int
    bans: int
    dominant_address: DominantAddress | None
    audit_trouble: str | None
    limits: Limits
    totals: Worker
    per_worker: tuple[Worker, ...]


class ServiceThread(Model):
    """A thread of a service in Python, with totals since the start.

    Attributes:
        connections: That the service knows now.
        messages_in: Messages that it took.
        messages_out: Messages that it sent; a broadcast counts once.
        broadcasts_dropped: Broadcasts that nobody has got, for want of memory.
        batches: How often it took messages, or news of connections.
        waiting_bytes: Its inbox: received and not handled yet, with what it takes to keep them.
        paused: Connections that wait now, because the service has not handled enough.
        pauses: How often one had to.
        errors: Exceptions of handlers and timers.
    """

    connections: int
    messages_in: int
    messages_out: int
    broadcasts_dropped: int
    batches: int
    waiting_bytes: int
    paused: int
    pauses: int
    errors: int


class Framing(Model):
    """How a listener's streams are cut into messages.

    Attributes:
        kind: raw is not at all: a message is what one receive brings.
        max_bytes: Of a message; None: raw has no limit.
        options: As one writes it behind a listener's `?`.
    """

    kind: Literal["raw", "lines", "length", "fixed", "delimited"] | str
    max_bytes: int | None
    options: str


class Listener(Model):
    """Where the service listens.

    Attributes:
        id: `listener` of its connections.
        connections: How many there are now.
        refused_limit: Turned away because of max_connections.
        refused_memory: Turned away for want of memory.
        refused_gone: Had left before they were taken over.
        refused_banned: Turned away because of a ban.
        refused_address_limit: Turned away because of max_connections_per_address.
        refused_address_rate: Turned away because of accepts_per_s_per_address.
        refused_rate: Turned away because of accepts_per_s.
        accept_errors: No handle or no memory in the system; tried again.
        service_threads: Of a service in Python; empty for the others.
    """

    id: int
    host: str
    port: int
    service: str
    framing: Framing
    open: bool
    connections: int
    accepted: int
    refused_limit: int
    refused_memory: int
    refused_gone: int
    refused_banned: int
    refused_address_limit: int
    refused_address_rate: int
    refused_rate: int
    accept_errors: int
    service_threads: tuple[ServiceThread, ...]


class ListenerList(Model):
    """All listeners; there is no next page."""

    items: tuple[Listener, ...]


class Probe(Model):
    """A probe that is content."""

    status: Literal["live", "ready", "started"] | str


class Change(Model):
    """A setting that has another value than before, both as one writes them; for "keys" how many there are."""

    name: str
    before: str
    after: str


class Reload(Model):
    """What reading the settings again has changed.

    Attributes:
        changed: In force now.
        needs_restart: In force when the service is started again.
    """

    changed: tuple[Change, ...]
    needs_restart: tuple[Change, ...]
