"""Connections, and those that have ended."""

from datetime import datetime
from typing import Any, Literal

from iocpd.api.client.models.base import Address, Model, Snapshot

State = Literal["arriving", "open", "draining", "closing"]

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
    "frame_too_large",
    "service_closed",
    "service_error",
    "proxy_header_invalid",
    "proxy_header_timeout",
    "address_limit",
    "address_rate",
    "accept_rate",
]

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

# Of a member that was not asked for; see Connection.model_post_init.
_LEFT_OUT: Any = None


class Connection(Model):
    """A connection as it was when it was asked for.

    A listing that asks for some `fields` alone has connections without the others: to read one is an AttributeError.

    Attributes:
        id: Opaque, and never used again, not even by another run of the service.
        listener: `id` of its listener.
        reason: Why it is on its way out; None while it is open.
        peer: The client; while the connection is arriving, the balancer.
        via: The balancer whose PROXY header has named the peer; None: the peer has connected itself.
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
    via: Address | None = _LEFT_OUT
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


class ClosedConnection(Model):
    """A connection that has ended.

    Attributes:
        via: The balancer whose PROXY header had named the peer, or None.
        by: Who began its end.
        text: The operator's, from `reason` of the kick; empty if there is none.
        os_error: The system's error number, if one ended it.
    """

    id: str
    listener: int
    service: str
    peer: Address
    via: Address | None
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


class ConnectionPage(Model):
    """A page of connections.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
        total: How many match in all, if count="exact" was asked for.
    """

    items: tuple[Connection, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: int | None


class ClosedPage(Model):
    """A page of ended connections, newest first.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
        total: Always None: older ones fall out of the service's memory all the time.
    """

    items: tuple[ClosedConnection, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: None
