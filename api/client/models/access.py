"""Keys, and who did what."""

from datetime import datetime
from typing import Literal

from iocpd.api.client.models.base import Model, Snapshot

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


class Key(Model):
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


class KeyList(Model):
    """All keys; there is no next page."""

    items: tuple[Key, ...]


class AuditEntry(Model):
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


class AuditPage(Model):
    """A page of the audit, newest first.

    Attributes:
        next_cursor: `cursor` of the next page; None: this was the last.
    """

    items: tuple[AuditEntry, ...]
    next_cursor: str | None
    snapshot: Snapshot
    total: int | None
