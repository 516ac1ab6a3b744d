"""Bans."""

from datetime import datetime

from iocpd.api.client.models.base import Model, Snapshot


class Ban(Model):
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


class BanPage(Model):
    """A page of bans.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
        total: How many there are in all.
    """

    items: tuple[Ban, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: int
