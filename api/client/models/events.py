"""Live events."""

from datetime import datetime
from typing import Literal

from iocpd.api.client.models.base import Address, Model
from iocpd.api.client.models.connections import By, Reason
from iocpd.api.client.models.node import Phase

EventKind = Literal["connected", "disconnected", "slow_consumer", "drain", "ban", "unban", "dominant_address"]


class EventData(Model):
    """What is told of an event; what does not fit its kind is None.

    connected: id, listener, worker, peer, via. disconnected: these and reason, by, text, bytes and messages.
    slow_consumer: those of connected and pending_bytes. drain: phase. ban and unban: address, text. dominant_address:
    address, connections. missed: missed alone.

    Attributes:
        id: The connection's.
        phase: That the drain has come to.
        via: The balancer whose PROXY header has named the peer, or None.
        address: What was banned, or is no more; or who has come to hold most of the connections.
        connections: So many of them that address holds.
        missed: So many events of all kinds were lost before this one; None: nobody knows how many.
    """

    at: datetime | None = None
    id: str | None = None
    listener: int | None = None
    worker: int | None = None
    peer: Address | None = None
    via: Address | None = None
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
    connections: int | None = None
    missed: int | None = None


class Event(EventData):
    """Something that happened.

    Attributes:
        kind: What; "missed" when events were lost before this one.
        position: For `after`: the stream goes on behind this event.
    """

    kind: EventKind | Literal["missed"] | str
    position: str | None
