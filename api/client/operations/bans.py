"""Bans: which addresses are kept away."""

from __future__ import annotations

from types import NoneType

from iocpd.api.client.calls import Call, Duration, Payload, Steps, operation, payload_json, stream
from iocpd.api.client.models import Ban, BanPage
from iocpd.api.client.operations.paging import pages


class BanOperations:
    """/v1/bans."""

    @operation
    def list_bans(self, *, limit: int = 100, cursor: str | None = None, address: str | None = None) -> Call[BanPage]:
        """One page of the bans that are in force; `bans` follows the pages by itself.

        Args:
            limit: How many a page has at most, from 1 to 1,000.
            cursor: `next_cursor` of the page before, only together with the same address.
            address: Only bans that hold this address, or all of this block.

        Raises:
            Gone: The cursor belongs to an earlier run of the service.
            Invalid: It is not a cursor, or one of another address.
        """
        query = {"limit": limit, "cursor": cursor, "address": address}
        return Call(method="GET", route="/v1/bans", result=BanPage, query=query)

    @stream
    def bans(self, *, page_size: int = 1000, address: str | None = None) -> Steps[Ban]:
        """Iterates over the bans that are in force: the newest first; with an address, the largest block first.

        Args:
            page_size: How many are asked for at a time, from 1 to 1,000.
            address: Only bans that hold this address, or all of this block.

        Raises:
            Gone: The service was started again in the meantime.
        """
        return pages(lambda cursor: BanOperations.list_bans.call(limit=page_size, cursor=cursor, address=address))

    @operation
    def get_ban(self, id: str) -> Call[Ban]:
        """One ban that is in force.

        Raises:
            NotFound: There is none with this id, or its time is over.
        """
        return Call(method="GET", route="/v1/bans/{id}", result=Ban, path={"id": id})

    @operation
    def ban(
        self,
        address: str,
        *,
        ttl: Duration | None = None,
        reason: str = "",
        kick: bool = True,
        farewell: Payload | None = None,
    ) -> Call[Ban]:
        """Keeps an address or a block away; it is in force on return and outlives a restart of the service.

        Args:
            address: An address, or a CIDR block such as "192.0.2.0/24" or "2001:db8::/32".
            ttl: How long it lasts; None: until it is lifted.
            reason: Why; also the `text` of the connections that it ends.
            kick: End the connections that are there from this address too.
            farewell: What those are sent before their end.

        Raises:
            Conflict: There is a ban of this very address.
            ProblemError: status 413 for a farewell that is too large; 503 if there are too many bans, or the service
                is too busy, can't write them down or is stopping.
        """
        return Call(
            method="POST",
            route="/v1/bans",
            result=Ban,
            json={
                "address": address,
                "ttl": ttl,
                "reason": reason or None,
                "kick": None if kick else False,
                "farewell": payload_json(farewell),
            },
            # The kick takes some seconds where clients do not leave by themselves.
            waits=15,
        )

    @operation
    def unban(self, id: str) -> Call[None]:
        """Ends a ban: its addresses may connect again, unless another ban holds them too.

        Raises:
            NotFound: There is none with this id, or its time is over.
        """
        return Call(method="DELETE", route="/v1/bans/{id}", result=NoneType, path={"id": id})
