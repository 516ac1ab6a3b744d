"""What the routes do with the engine."""

from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from iocpd.api import problems
from iocpd.api.connections.rows import closed_row, connection_row
from iocpd.api.connections.schemas import LabelBody, ListQuery
from iocpd.api.connections.sorting import Sort, sort_key
from iocpd.api.context import Context
from iocpd.api.futures import finished
from iocpd.api.identity import ForeignId
from iocpd.api.paging import Snapshot
from iocpd.api.problems import Problem
from iocpd.core import ConnectionClosing, Cursor, EngineBusy, LabelsChanged

# The engine itself resets what has not left within a kick's timeout; this is for the reset to be noticed.
_KICK_MARGIN_SECONDS = 5.0
# A worker answers within a turn; a listing of details must not wait for one that is held up.
_RTT_SECONDS = 0.25
_LABEL_SECONDS = 5.0
# Each time somebody else was quicker, so that many are at it.
_LABEL_TRIES = 100


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


def list_connections(context: Context, query: ListQuery) -> tuple[bytes, str | None]:
    """One page as the JSON of schemas.ConnectionPage, and its `next_cursor`."""
    if query.sort is not None:
        return _list_sorted(context, query, query.sort)
    listing, limit, cursor = "connections?" + query.canonical(), query.limit, query.cursor
    taken_at, position = datetime.now(UTC), None
    if cursor is not None:
        place, taken_at = context.cursors.read(listing, cursor)
        position = Cursor(*place)
    wanted = query.for_engine()
    # The rows come as JSON: up to 1,000 of them would be some ten thousand Python objects.
    rows, following = context.engine.connections_json(
        wanted, limit=limit, cursor=position, prefix=context.instance.prefix, fields=query.members()
    )
    next_cursor = None
    if following is not None:
        place = following.last_serial, following.worker, following.slot
        next_cursor = context.cursors.make(listing, place, taken_at)
    total = context.engine.count(wanted) if query.count == "exact" else None
    return _page_json(rows, next_cursor, Snapshot(taken_at=taken_at, expires_at=None), total), next_cursor


def _list_sorted(context: Context, query: ListQuery, sort: Sort) -> tuple[bytes, str | None]:
    name, position = f"connections?{query.canonical()}&sort={sort}", 0
    if query.cursor is None:
        key, descending = sort_key(sort)
        kept = context.sorted.keep(context.engine.sort(query.for_engine(), key=key, descending=descending))
    else:
        (number, position, _), _ = context.cursors.read(name, query.cursor)
        kept = context.sorted.find(number)
    rows, following = kept.listing.page_json(
        position, limit=query.limit, prefix=context.instance.prefix, fields=query.members()
    )
    next_cursor = None
    if following is not None:
        next_cursor = context.cursors.make(name, (kept.number, following, 0), kept.taken_at)
    total = len(kept.listing) if query.count == "exact" else None
    snapshot = Snapshot(taken_at=kept.taken_at, expires_at=kept.expires_at)
    return _page_json(rows, next_cursor, snapshot, total), next_cursor


def _page_json(rows: bytes, next_cursor: str | None, snapshot: Snapshot, total: int | None) -> bytes:
    rest = {"next_cursor": next_cursor, "snapshot": snapshot, "total": total}
    return b'{"items":[' + rows + b"]," + to_json(rest)[1:]


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


async def describe(context: Context, id: str) -> dict[str, Any]:
    """A connection, with the members of schemas.ConnectionDetail. Problem; the engine's errors."""
    token = token_of(context, id)
    row = connection_row(context.engine.connection(token), context.instance)
    rtt: float | None = None
    try:
        command = context.engine.submit_rtt(token)
        if await finished(command.future, _RTT_SECONDS):
            rtt = command.future.result()
    except (EngineBusy, ConnectionClosing):
        pass  # the rest is known
    return row | {"rtt_ms": None if rtt is None else round(rtt * 1000, 3)}


async def label(context: Context, id: str, body: LabelBody) -> dict[str, Any]:
    """Changes tags and groups; the connection afterwards, with the members of schemas.ConnectionView. Problem; the
    engine's errors.
    """
    token = token_of(context, id)
    for _ in range(_LABEL_TRIES):
        command = context.engine.submit_label(token, tags=body.tags, groups=body.groups)
        if not await finished(command.future, _LABEL_SECONDS):
            raise Problem(problems.COMMAND_TIMEOUT, f"{id} has not taken its labels within {_LABEL_SECONDS:g} s")
        try:
            return connection_row(command.future.result(), context.instance)
        except LabelsChanged:
            continue
    raise Problem(problems.ENGINE_BUSY, f"the labels of {id} are being changed by many at once; try again in a moment")


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
