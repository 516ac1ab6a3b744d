"""The engine's connections as the plain values that go out as JSON.

A listing has up to 1,000 of them, so they are dicts that pydantic_core writes as they are, without a model for each;
schemas.py declares the same shape for the OpenAPI document, and a test holds the two together.
"""

from collections.abc import Iterable
from typing import Any

from iocpd.api.identity import Instance
from iocpd.core import ClosedConnection, Connection


def connection_rows(connections: Iterable[Connection], instance: Instance) -> list[dict[str, Any]]:
    """One dict for each connection, with the members of schemas.ConnectionView."""
    prefix = instance.prefix
    return [
        {
            "id": f"{prefix}{c.id:x}",
            "listener": c.listener,
            "service": c.service,
            "state": c.state,
            "reason": c.reason,
            "peer": {"ip": c.peer[0], "port": c.peer[1]},
            "local": {"ip": c.local[0], "port": c.local[1]},
            "connected_at": c.connected_at,
            "last_activity_at": c.last_activity_at,
            "bytes_in": c.bytes_in,
            "bytes_out": c.bytes_out,
            "messages_in": c.messages_in,
            "messages_out": c.messages_out,
            "pending_bytes": c.pending_bytes,
            "worker": c.worker,
        }
        for c in connections
    ]


def connection_row(connection: Connection, instance: Instance) -> dict[str, Any]:
    """One connection."""
    return connection_rows([connection], instance)[0]


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
