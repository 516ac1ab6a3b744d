"""/v1/events."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import StreamingResponse

from iocpd.api import problems
from iocpd.api.auth import needs
from iocpd.api.context import ContextDep
from iocpd.api.events.schemas import EventsQuery
from iocpd.api.identity import NAME_PATTERN
from iocpd.api.problems import Problem
from iocpd.core import EventPosition

router = APIRouter(
    prefix="/v1/events",
    tags=["events"],
    responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE, problems.ENGINE_STOPPED),
)

_SCOPE = "connections:read"


class _EventStream(StreamingResponse):
    """FastAPI's own takes each event through three tasks, which is too much for many events to many watchers."""

    media_type = "text/event-stream"
    HEADERS: ClassVar = {"cache-control": "no-cache", "x-accel-buffering": "no"}


_EXAMPLE = """event: connected
data: {"at":"2026-01-31T12:00:00.123Z","id":"k3f9qz-1c00001","listener":0,"worker":1,"peer":{"ip":"192.0.2.7","port":4}}
id: k3f9qz.12.7

event: missed
data: {"missed":37}

"""

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events, until the node stops or the client leaves",
        "content": {
            _EventStream.media_type: {
                "itemSchema": {
                    "properties": {
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": "#/components/schemas/EventView"},
                        }
                    }
                },
                "example": _EXAMPLE,
            }
        },
    }
}


async def _beginning(
    context: ContextDep,
    last_event_id: Annotated[
        str,
        Header(
            alias="Last-Event-ID",
            max_length=200,
            description="the `id` of the last event that came: go on after it",
            examples=["k3f9qz.12.7"],
            json_schema_extra={"pattern": rf"^({NAME_PATTERN}(\.[0-9]{{1,18}})+)?$"},
        ),
    ] = "",
) -> AsyncIterator[tuple[EventPosition, bool]]:
    """Where the stream begins. It has a place among the streams until its answer is over."""
    with context.streams.place():
        yield context.streams.begin(last_event_id)


@router.get(
    "",
    name="stream",
    response_class=_EventStream,
    responses={**_STREAM, **problems.responses(problems.VALIDATION_FAILED, problems.TOO_MANY_STREAMS)},
    dependencies=[needs(_SCOPE)],
)
async def stream_events(
    request: Request,
    context: ContextDep,
    query: Annotated[EventsQuery, Query()],
    beginning: Annotated[tuple[EventPosition, bool], Depends(_beginning)],
) -> _EventStream:
    """Events as server-sent events, from now on or after Last-Event-ID.

    `event` is the type and `data` a JSON object. The engine keeps the last `event_capacity` events of each worker;
    whoever reads too slowly, or comes back too late, gets `missed` with the number of those that are lost, of all
    types. It has no `id`: Last-Event-ID stays before the gap until what follows has come, so that nothing is skipped.
    When the node stops, or the key is no longer accepted, the stream ends.
    """
    position, foreign = beginning

    def allowed() -> bool:
        try:
            return _SCOPE in context.gate.authenticate(request.scope).scopes
        except Problem:
            return False

    events = context.streams.follow(
        position, foreign=foreign, types=query.wanted(), listener=query.listener, allowed=allowed
    )
    return _EventStream(events, headers=_EventStream.HEADERS)
