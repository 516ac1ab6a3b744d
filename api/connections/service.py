"""What the routes do with the engine."""

from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from iocpd.api import problems
from iocpd.api.connections.rows import closed_row
from iocpd.api.connections.schemas import ConnectionFilter
from iocpd.api.context import Context
from iocpd.api.futures import finished
from iocpd.api.identity import ForeignId
from iocpd.api.paging import Count
from iocpd.api.problems import Problem
from iocpd.core import Cursor

# The engine itself resets what has not left within a kick's timeout; this is for the reset to be noticed.
_KICK_MARGIN_SECONDS = 5.0


def token_of(context: Context, id: str) -> int:
    """The engine's token for an id on the wire; Problem 404 or 410."""
    try:
        token = context.instance.decode(id)
    except ForeignId:
        detail = (
            f"{id} was given out by an earlier run of the service, or by another node;"
            f" the ids of this run begin with {context.instance.prefix}"
        )
        raise Problem(problems.CONNECTION_OF_ANOTHER_RUN, detail, extra={"closed": None}) from None
    if token is None:
        detail = f"{id!r:.80} is not a connection's id; GET /v1/connections lists them"
        raise Problem(problems.CONNECTION_UNKNOWN, detail)
    return token


def list_connections(
    context: Context, where: ConnectionFilter, limit: int, cursor: str | None, count: Count
) -> tuple[bytes, str | None]:
    """One page as the JSON of schemas.ConnectionPage, and its `next_cursor`."""
    listing = "connections?" + where.canonical()
    taken_at, position = datetime.now(UTC), None
    if cursor is not None:
        place, taken_at = context.cursors.read(listing, cursor)
        position = Cursor(*place)
    wanted = where.for_engine()
    # The rows come as JSON: up to 1,000 of them would be some ten thousand Python objects.
    rows, following = context.engine.connections_json(
        wanted, limit=limit, cursor=position, prefix=context.instance.prefix
    )
    next_cursor = None
    if following is not None:
        place = following.last_serial, following.worker, following.slot
        next_cursor = context.cursors.make(listing, place, taken_at)
    rest = {
        "next_cursor": next_cursor,
        "snapshot": {"taken_at": taken_at, "expires_at": None},
        "total": context.engine.count(wanted) if count == "exact" else None,
    }
    return b'{"items":[' + rows + b"]," + to_json(rest)[1:], next_cursor


def list_closed(context: Context, limit: int, cursor: str | None) -> dict[str, Any]:
    """One page, as the members of schemas.ClosedPage."""
    taken_at, before = datetime.now(UTC), 0
    if cursor is not None:
        (before, _, _), taken_at = context.cursors.read("closed", cursor)
    # One more than asked for tells whether there is a next page.
    found = context.engine.closed(limit=limit + 1, before=before)
    items = found[:limit]
    more = len(found) > limit
    return {
        "items": [closed_row(closed, context.instance) for closed in items],
        "next_cursor": context.cursors.make("closed", (items[-1].closed_serial, 0, 0), taken_at) if more else None,
        "snapshot": {"taken_at": taken_at, "expires_at": None},
        "total": None,
    }


async def kick(context: Context, id: str, *, text: str, farewell: bytes, force: bool, timeout: float) -> None:
    """Ends a connection; returns once it has left the table. Problem, or the engine's error."""
    future = context.engine.submit_kick(
        token_of(context, id), text=text, farewell=farewell, force=force, timeout=timeout
    )
    if not await finished(future, timeout + _KICK_MARGIN_SECONDS):
        raise Problem(
            problems.COMMAND_TIMEOUT,
            f"{id} is still on its way out after {timeout:g} s and a reset; look again with GET",
        )
    future.result()
