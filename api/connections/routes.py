"""/v1/connections."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from iocpd.api import problems
from iocpd.api.actions import action
from iocpd.api.auth import needs
from iocpd.api.connections import service
from iocpd.api.connections.schemas import (
    ClosedPage,
    ConnectionDetail,
    ConnectionPage,
    ConnectionView,
    KickBody,
    KickQuery,
    LabelBody,
    ListQuery,
)
from iocpd.api.context import ContextDep
from iocpd.api.keys import Caller
from iocpd.api.paging import DEFAULT_LIMIT, NEXT_PAGE, CursorParam, LimitParam, link_next
from iocpd.api.payloads import checked
from iocpd.api.responses import json_response, links

router = APIRouter(
    prefix="/v1/connections",
    tags=["connections"],
    responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE, problems.ENGINE_STOPPED),
)

_CURSOR_PROBLEMS = (
    problems.CURSOR_MALFORMED,
    problems.CURSOR_MISMATCH,
    problems.VALIDATION_FAILED,
    problems.CURSOR_EXPIRED,
    problems.SNAPSHOT_EXPIRED,
)
_ID_PROBLEMS = (
    problems.CONNECTION_UNKNOWN,
    problems.CONNECTION_ENDED,
    problems.CONNECTION_OF_ANOTHER_RUN,
    problems.VALIDATION_FAILED,
)

ConnectionId = Annotated[str, Path(max_length=100, description="`id` of a connection", examples=["k3f9qz-1c00001"])]


@router.get(
    "",
    name="list",
    response_model=ConnectionPage,
    responses={
        200: {
            **links(
                {"id": "$response.body#/items/0/id"},
                get="connections-get",
                label="connections-label",
                kick="connections-kick",
                send="messages-send",
            ),
            **NEXT_PAGE,
        },
        **problems.responses(*_CURSOR_PROBLEMS),
    },
    dependencies=[needs("connections:read")],
)
async def list_connections(request: Request, context: ContextDep, query: Annotated[ListQuery, Query()]) -> Response:
    """A page of connections.

    Follow `next_cursor` (or the Link header) until it is null: each connection that stays meanwhile is shown exactly
    once, and none that came after the first page is. With `sort` the order is that of the first page's moment.
    """
    page, following = service.list_connections(context, query)
    next_page = link_next(request.scope["path"], request.query_params.multi_items(), following)
    return Response(page, headers=next_page, media_type="application/json")


@router.get(
    "/closed",
    name="list_closed",
    response_model=ClosedPage,
    responses={200: NEXT_PAGE, **problems.responses(*_CURSOR_PROBLEMS)},
    dependencies=[needs("connections:read")],
)
async def list_closed(
    request: Request, context: ContextDep, limit: LimitParam = DEFAULT_LIMIT, cursor: CursorParam = None
) -> Response:
    """Connections that have ended, newest first; the engine remembers `closed_capacity` of them for each worker."""
    page = service.list_closed(context, limit, cursor)
    next_page = link_next(request.scope["path"], request.query_params.multi_items(), page["next_cursor"])
    return json_response(page, headers=next_page)


@router.get(
    "/{id}",
    name="get",
    response_model=ConnectionDetail,
    responses=problems.responses(*_ID_PROBLEMS),
    dependencies=[needs("connections:read")],
)
async def get_connection(id: ConnectionId, context: ContextDep) -> Response:
    """One connection. For one that has ended the problem tells, as `closed`, how that came."""
    return json_response(await service.describe(context, id))


@router.patch(
    "/{id}",
    name="label",
    response_model=ConnectionView,
    responses=problems.responses(
        *_ID_PROBLEMS,
        *problems.WITH_BODY,
        problems.CONNECTION_CLOSING,
        problems.ENGINE_BUSY,
        problems.COMMAND_TIMEOUT,
    ),
)
async def label_connection(
    request: Request,
    id: ConnectionId,
    body: LabelBody,
    context: ContextDep,
    caller: Annotated[Caller, needs("connections:tag")],
) -> Response:
    """Changes a connection's tags and groups, which filters select by. It has them until it ends."""
    with action(request, caller, "tag", id) as tagging:
        row = await service.label(context, id, body)
        tagging.outcome = f"{len(row['tags'])} tags, {len(row['groups'])} groups"
    return json_response(row)


@router.delete(
    "/{id}",
    name="kick",
    status_code=204,
    response_class=Response,
    responses=problems.responses(
        *_ID_PROBLEMS, *problems.WITH_BODY, problems.MESSAGE_TOO_LARGE, problems.ENGINE_BUSY, problems.COMMAND_TIMEOUT
    ),
)
async def kick_connection(
    request: Request,
    id: ConnectionId,
    context: ContextDep,
    caller: Annotated[Caller, needs("connections:kick")],
    query: Annotated[KickQuery, Query()],
    body: Annotated[KickBody | None, Body()] = None,
) -> Response:
    """Ends a connection: what is queued is sent, then the farewell, then end of file. 204 comes once it has left the
    table. What a service in Python has not answered yet is not waited for.
    """
    with action(request, caller, "kick", id) as kick:
        if query.farewell is not None and body is not None and body.farewell is not None:
            raise problems.invalid(
                "query", "farewell", "given_twice", "give the farewell in the query or in the body, not in both"
            )
        farewell = (query.farewell or "").encode("utf-8", "replace")
        if body is not None and body.farewell is not None:
            farewell = body.farewell.data
        if query.force and farewell:
            raise problems.invalid(
                "query", "force", "no_farewell", "a reset sends no farewell: leave out one of the two"
            )
        checked(farewell, context.settings, "farewell")
        await service.kick(context, id, text=query.reason, farewell=farewell, force=query.force, timeout=query.timeout)
        kick.outcome = f"done, reason {query.reason!r}"
    return Response(status_code=204)
