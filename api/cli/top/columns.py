"""What the table has, and how it is sorted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iocpd.api.cli.listing import endpoint
from iocpd.api.cli.top.sample import Rates
from iocpd.api.cli.units import age, count, size
from iocpd.api.cli.verbs.connections import labels

if TYPE_CHECKING:
    from iocpd.api.client import Connection, Sort

Row = tuple["Connection", Rates]


@dataclass(frozen=True)
class Column:
    """A column, by which the table can be sorted.

    Attributes:
        name: How --sort calls it.
        key: What is compared.
        server: The order in which the service is asked, so that those that count most are among the rows. Who has a
            rate was active a moment ago.
        rank: Where there is not room for all columns, the one with the highest goes first; 0: it always stays.
    """

    name: str
    header: str
    text: Callable[[Row], str]
    key: Callable[[Row], Any]
    server: Sort = "-last_activity_at"
    right: bool = True
    rank: int = 0


def _rate(number: float, show: Callable[[float], str]) -> str:
    return show(number) if number >= 0.5 else "·"


COLUMNS: tuple[Column, ...] = (
    Column("id", "ID", lambda row: row[0].id, lambda row: row[0].id, "-connected_at", right=False),
    Column(
        "peer",
        "PEER",
        lambda row: endpoint(row[0].peer.ip, row[0].peer.port),
        lambda row: (row[0].peer.ip, row[0].peer.port),
        right=False,
    ),
    Column("in/s", "IN/s", lambda row: _rate(row[1].bytes_in, size), lambda row: row[1].bytes_in),
    Column("out/s", "OUT/s", lambda row: _rate(row[1].bytes_out, size), lambda row: row[1].bytes_out),
    Column("msg-in/s", "MSGI/s", lambda row: _rate(row[1].messages_in, count), lambda row: row[1].messages_in, rank=1),
    Column(
        "msg-out/s", "MSGO/s", lambda row: _rate(row[1].messages_out, count), lambda row: row[1].messages_out, rank=2
    ),
    Column("in", "IN", lambda row: size(row[0].bytes_in), lambda row: row[0].bytes_in, "-bytes_in", rank=3),
    Column("out", "OUT", lambda row: size(row[0].bytes_out), lambda row: row[0].bytes_out, "-bytes_out", rank=4),
    Column(
        "queued", "QUEUED", lambda row: size(row[0].pending_bytes), lambda row: row[0].pending_bytes, "-pending_bytes"
    ),
    Column(
        "idle",
        "IDLE",
        lambda row: age(row[0].last_activity_at),
        lambda row: -row[0].last_activity_at.timestamp(),
        "last_activity_at",
        rank=5,
    ),
    Column(
        "age", "AGE", lambda row: age(row[0].connected_at), lambda row: -row[0].connected_at.timestamp(), "connected_at"
    ),
    Column(
        "state", "STATE", lambda row: row[0].state, lambda row: row[0].state != "open", "-pending_bytes", False, rank=7
    ),
    Column(
        "labels",
        "LABELS",
        lambda row: labels(row[0].tags, row[0].groups),
        lambda row: labels(row[0].tags, row[0].groups),
        right=False,
        rank=6,
    ),
)
NAMES = tuple(column.name for column in COLUMNS)


def text_of(row: Row) -> str:
    """What a filter looks into."""
    connection = row[0]
    parts = (connection.id, endpoint(connection.peer.ip, connection.peer.port), connection.service, connection.state)
    return " ".join((*parts, labels(connection.tags, connection.groups))).lower()
