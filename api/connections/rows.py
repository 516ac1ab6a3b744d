"""The engine's connections as the plain values that go out as JSON.

schemas.py declares the same shapes for the OpenAPI document. A page of connections does not come through here: the
engine writes its rows as JSON itself. A test holds all of them together.
"""

from typing import Any

from iocpd.api.identity import Instance
from iocpd.core import ClosedConnection, Connection


def endpoint_row(endpoint: tuple[str, int] | None) -> dict[str, Any] | None:
    """One end of a connection, if it has it."""
    return {"ip": endpoint[0], "port": endpoint[1]} if endpoint else None


def connection_row(connection: Connection, instance: Instance) -> dict[str, Any]:
    """A connection, with the members of schemas.ConnectionView and in their order."""
    return {
        "id": instance.encode(connection.id),
        "listener": connection.listener,
        "service": connection.service,
        "state": connection.state,
        "reason": connection.reason,
        "peer": endpoint_row(connection.peer),
        "via": endpoint_row(connection.via),
        "local": endpoint_row(connection.local),
        "connected_at": connection.connected_at,
        "last_activity_at": connection.last_activity_at,
        "bytes_in": connection.bytes_in,
        "bytes_out": connection.bytes_out,
        "messages_in": connection.messages_in,
        "messages_out": connection.messages_out,
        "pending_bytes": connection.pending_bytes,
        "tags": connection.tags,
        "groups": connection.groups,
        "worker": connection.worker,
    }


def closed_row(closed: ClosedConnection, instance: Instance) -> dict[str, Any]:
    """An ended connection, with the members of schemas.ClosedConnectionView; every value fits in JSON as it is."""
    row = connection_row(closed.connection, instance)
    for name in ("state", "pending_bytes"):  # they say nothing of a connection that is no more
        del row[name]
    for name in ("connected_at", "last_activity_at"):
        row[name] = row[name].isoformat().replace("+00:00", "Z")
    return row | {
        "closed_at": closed.closed_at.isoformat().replace("+00:00", "Z"),
        "reason": closed.reason,
        "by": closed.by,
        "text": closed.text,
        "os_error": closed.os_error or None,
    }


def ended_text(closed: ClosedConnection) -> str:
    """How a connection ended, in words: `ended at 2025-01-31T12:00:00Z: kicked by operator (maintenance)`."""
    when = closed.closed_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    text = f" ({closed.text})" if closed.text else ""
    return f"ended at {when}: {closed.reason} by {closed.by}{text}"
