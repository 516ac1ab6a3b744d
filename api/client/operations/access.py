"""Keys, and the record of who did what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import NoneType
from typing import Literal

from iocpd.api.client.calls import Call, Duration, Steps, operation, stream
from iocpd.api.client.models import AuditEntry, AuditPage, KeyList, NewKey, Scope
from iocpd.api.client.operations.paging import pages


class AccessOperations:
    """/v1/keys and /v1/audit."""

    @operation
    def list_keys(self) -> Call[KeyList]:
        """The keys: their names and what they may do; the keys themselves nobody can read again."""
        return Call(method="GET", route="/v1/keys", result=KeyList)

    @operation
    def add_key(
        self,
        name: str,
        *,
        role: Literal["viewer", "operator", "admin"] | None = None,
        scopes: Sequence[Scope] | None = None,
        expires_in: Duration | None = None,
    ) -> Call[NewKey]:
        """Makes a key and returns it; it is shown this once.

        Args:
            name: Who or what will use it; stands in the audit.
            role: A bundle of scopes; or
            scopes: single ones, such as "connections:read". No more than the caller's own key has.
            expires_in: How long it works; None: until it is revoked.

        Raises:
            Conflict: There is a key of this name.
            Forbidden: It would have a scope that the caller's own key has not.
        """
        json = {"name": name, "role": role, "scopes": scopes, "expires_in": expires_in}
        return Call(method="POST", route="/v1/keys", result=NewKey, json=json)

    @operation
    def revoke_key(self, name: str) -> Call[None]:
        """Revokes a key: from now on it opens nothing.

        Raises:
            NotFound: There is no key of this name.
            Conflict: Without it, nobody could make keys any more.
        """
        return Call(method="DELETE", route="/v1/keys/{name}", result=NoneType, path={"name": name})

    @operation
    def list_audit(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
    ) -> Call[AuditPage]:
        """One page of who did what when, newest first; `audit` follows the pages by itself.

        Args:
            limit: How many a page has at most, from 1 to 1,000.
            cursor: `next_cursor` of the page before, only together with the same filters.
            actor: Only what was done with the key of this name.
            action: Only this action, such as "kick".
            since: Only what was done at this time or later.

        Raises:
            Gone: The cursor belongs to an earlier run of the service.
            Invalid: It is not a cursor, or one of other filters.
        """
        query = {"limit": limit, "cursor": cursor, "actor": actor, "action": action, "since": since}
        return Call(method="GET", route="/v1/audit", result=AuditPage, query=query)

    @stream
    def audit(
        self,
        *,
        page_size: int = 1000,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
    ) -> Steps[AuditEntry]:
        """Iterates over who did what when, newest first, as far back as the service keeps it.

        Args:
            page_size: How many are asked for at a time, from 1 to 1,000.
            actor, action, since: As in `list_audit`.

        Raises:
            Gone: The service was started again in the meantime.
        """
        return pages(
            lambda cursor: AccessOperations.list_audit.call(
                limit=page_size, cursor=cursor, actor=actor, action=action, since=since
            )
        )
