"""The engine's events as the plain values that go out as JSON, with the members of schemas.EventView."""

from typing import Any

from iocpd.api.connections.rows import endpoint_row
from iocpd.api.identity import Instance
from iocpd.core import Event, EventKind


def event_row(event: Event, instance: Instance) -> dict[str, Any]:
    """An event's members: those that fit its kind."""
    row: dict[str, Any] = {"at": event.at}
    if event.kind is EventKind.DRAIN:
        return row | {"phase": event.phase}
    if event.kind in (EventKind.BAN, EventKind.UNBAN):
        return row | {"address": event.network, "text": event.text}
    if event.kind is EventKind.DOMINANT_ADDRESS:
        return row | {"address": event.network, "connections": event.connections}
    assert event.id is not None  # the others are of a connection
    row |= {
        "id": instance.encode(event.id),
        "listener": event.listener,
        "worker": event.worker,
        "peer": endpoint_row(event.peer),
        "via": endpoint_row(event.via),
    }
    match event.kind:
        case EventKind.SLOW_CONSUMER:
            row["pending_bytes"] = event.pending_bytes
        case EventKind.DISCONNECTED:
            row |= {
                "reason": event.reason,
                "by": event.by,
                "text": event.text,
                "bytes_in": event.bytes_in,
                "bytes_out": event.bytes_out,
                "messages_in": event.messages_in,
                "messages_out": event.messages_out,
            }
    return row
