"""Connections: who is there, who was, one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Literal, Unpack

from iocpd.api.client.calls import Call, Payload, Steps, comma, operation, payload_json, stream
from iocpd.api.client.models import ClosedConnection, ClosedPage, Connection, ConnectionDetail, ConnectionPage, Sort
from iocpd.api.client.operations.filters import Filter
from iocpd.api.client.operations.paging import pages


class ConnectionOperations:
    """/v1/connections."""

    @operation
    def list_connections(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        count: Literal["none", "exact"] = "none",
        sort: Sort | None = None,
        fields: Sequence[str] | None = None,
        **where: Unpack[Filter],
    ) -> Call[ConnectionPage]:
        """One page of connections; `connections` follows the pages by itself.

        Args:
            limit: How many a page has at most, from 1 to 1,000.
            cursor: `next_cursor` of the page before, only together with the same filter and order.
            count: "exact" fills in `total`.
            sort: The order at the moment of the first page, such as "-bytes_in": the largest first. The service keeps
                it until the page's `snapshot.expires_at`.
            fields: The members that each has; the others can't be read then (AttributeError). `id` is always there.
            where: See Filter; without any, all connections.

        Raises:
            Gone: The cursor belongs to an earlier run of the service, or to an order that is no longer kept (code
                "snapshot_expired"); begin again without it.
            Invalid: It is not a cursor, or one of another filter or order.
        """
        query = {"limit": limit, "cursor": cursor, "count": count, "sort": sort, "fields": comma(fields), **where}
        return Call(method="GET", route="/v1/connections", result=ConnectionPage, query=query)

    @stream
    def connections(
        self,
        *,
        page_size: int = 1000,
        sort: Sort | None = None,
        fields: Sequence[str] | None = None,
        **where: Unpack[Filter],
    ) -> Steps[Connection]:
        """Iterates over connections, and asks for the next page when one is used up.

        Each connection that stays until the end is given exactly once, and none that came after the beginning is. Those
        that end meanwhile may or may not be.

        Args:
            page_size: How many are asked for at a time, from 1 to 1,000.
            sort: The order at the beginning, such as "-bytes_in": the largest first.
            fields: As in `list_connections`.
            where: See Filter; without any, all connections.

        Raises:
            Gone: The service was started again in the meantime, or does not keep the order any longer (code
                "snapshot_expired"): it does so for 30 s, so go through sorted connections quickly.
        """
        return pages(
            lambda cursor: ConnectionOperations.list_connections.call(
                limit=page_size, cursor=cursor, sort=sort, fields=fields, **where
            )
        )

    @operation
    def list_closed(self, *, limit: int = 100, cursor: str | None = None) -> Call[ClosedPage]:
        """One page of connections that have ended, newest first; `closed_connections` follows the pages by itself.

        Args:
            limit: How many a page has at most, from 1 to 1,000.
            cursor: `next_cursor` of the page before.

        Raises:
            Gone, Invalid: As `list_connections` does.
        """
        query = {"limit": limit, "cursor": cursor}
        return Call(method="GET", route="/v1/connections/closed", result=ClosedPage, query=query)

    @stream
    def closed_connections(self, *, page_size: int = 1000) -> Steps[ClosedConnection]:
        """Iterates over connections that have ended, newest first, as far back as the service remembers.

        Args:
            page_size: How many are asked for at a time, from 1 to 1,000.

        Raises:
            Gone: The service was started again in the meantime.
        """
        return pages(lambda cursor: ConnectionOperations.list_closed.call(limit=page_size, cursor=cursor))

    @operation
    def get_connection(self, id: str) -> Call[ConnectionDetail]:
        """One connection, with what only a look at itself tells.

        Raises:
            NotFound: No connection ever had this id.
            Gone: It has ended, and `closed` tells how; or the id is from another run.
        """
        return Call(method="GET", route="/v1/connections/{id}", result=ConnectionDetail, path={"id": id})

    @operation
    def label(
        self, id: str, *, tags: Mapping[str, str | None] | None = None, groups: Sequence[str] | None = None
    ) -> Call[Connection]:
        """Changes a connection's tags and groups; at least one of the two. Returns the connection afterwards.

        Args:
            tags: These are added or changed, the others stay; None removes one. At most 16, a key of 1 to 64 letters,
                digits and `._/-`, a value of at most 128 bytes.
            groups: The whole list from now on; at most 16.

        Raises:
            NotFound: No connection ever had this id.
            Gone: It has ended, and `closed` tells how; or the id is from another run.
            Conflict: It is on its way out.
        """
        return Call(
            method="PATCH",
            route="/v1/connections/{id}",
            result=Connection,
            path={"id": id},
            json={"tags": tags, "groups": groups},
        )

    @operation
    def kick(
        self, id: str, *, reason: str = "", farewell: Payload | None = None, force: bool = False, timeout: float = 5.0
    ) -> Call[None]:
        """Ends a connection, and returns once it has left the service's table.

        What is queued for it is sent, then the farewell, then the end of the stream.

        Args:
            reason: Kept with the ended connection as its `text`: at most 199 bytes, on one line.
            farewell: What it is sent before its end.
            force: Reset it at once; then nothing that is queued is sent, and there may be no farewell.
            timeout: Seconds after which it is reset if it has not left, at most 300.

        Raises:
            NotFound: No connection ever had this id.
            Gone: It had ended before, and `closed` tells how; or the id is from another run.
            ProblemError: status 413 for a farewell that is too large; 503 if the service is too busy or is stopping;
                504 if it is still on its way out.
        """
        return Call(
            method="DELETE",
            route="/v1/connections/{id}",
            result=NoneType,
            path={"id": id},
            query={"reason": reason or None, "force": force or None, "timeout": timeout},
            json={"farewell": payload_json(farewell)},
            # The service has some seconds more for the reset to be noticed.
            waits=timeout + 5,
        )
