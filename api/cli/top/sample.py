"""One look at the service, and rates from two looks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iocpd.api.client import Client, Connection, Node, Sort

FIELDS = (
    "id",
    "peer",
    "service",
    "state",
    "connected_at",
    "last_activity_at",
    "bytes_in",
    "bytes_out",
    "messages_in",
    "messages_out",
    "pending_bytes",
    "tags",
    "groups",
)
MOST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, between two looks."""

    bytes_in: float = 0.0
    bytes_out: float = 0.0
    messages_in: float = 0.0
    messages_out: float = 0.0


@dataclass(frozen=True)
class Sample:
    """One look.

    Attributes:
        connections: Up to MOST_ROWS, those that count most for the order that was asked for.
        rates: By id; none for those that were not in the look before.
        total: Rates of the whole node.
    """

    node: Node
    connections: tuple[Connection, ...]
    at: float
    rates: Mapping[str, Rates] = field(default_factory=dict)
    total: Rates = Rates()


def look(client: Client, sort: Sort, rows: int, before: Sample | None) -> Sample:
    """Asks the service; with the look before, there are rates too. ClientError."""
    page = client.list_connections(limit=rows, sort=sort, fields=FIELDS)
    node, now = client.get_node(), time.monotonic()
    if before is None or before.node.instance != node.instance:
        return Sample(node, page.items, now)
    seconds = max(now - before.at, 0.001)
    known = {each.id: each for each in before.connections}
    rates = {each.id: _rates(known[each.id], each, seconds) if each.id in known else Rates() for each in page.items}
    return Sample(node, page.items, now, rates, _rates(before.node.totals, node.totals, seconds))


def _rates(before: object, after: object, seconds: float) -> Rates:
    names = ("bytes_in", "bytes_out", "messages_in", "messages_out")
    return Rates(*(max(getattr(after, name) - getattr(before, name), 0) / seconds for name in names))
