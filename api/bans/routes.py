"""/v1/bans."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from iocpd.api import problems
from iocpd.api.actions import action
from iocpd.api.auth import needs
from iocpd.api.bans.model import Ban, row_of, text_of
from iocpd.api.bans.schemas import BanBody, BanPage, BanQuery, BanView
from iocpd.api.context import Context, ContextDep
from iocpd.api.keys import Caller
from iocpd.api.paging import NEXT_PAGE, link_next
from iocpd.api.payloads import checked
from iocpd.api.responses import json_response, links, location

router = APIRouter(
    prefix="/v1/bans",
    tags=["bans"],
    responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE, problems.ENGINE_STOPPED),
)

_CHANGE_PROBLEMS = (problems.BANS_NOT_SAVED, problems.ENGINE_BUSY, problems.COMMAND_TIMEOUT)

BanId = Annotated[str, Path(max_length=100, description="`id` of a ban", examples=["k3f9qzw7hx"])]


@router.get(
    "",
    name="list",
    response_model=BanPage,
    responses={
        200: NEXT_PAGE,
        **problems.responses(
            problems.CURSOR_MALFORMED, problems.CURSOR_MISMATCH, problems.VALIDATION_FAILED, problems.CURSOR_EXPIRED
        ),
    },
    dependencies=[needs("bans:read")],
)
async def list_bans(request: Request, context: ContextDep, query: Annotated[BanQuery, Query()]) -> Response:
    """A page of the bans that are in force.

    Follow `next_cursor` (or the Link header) until it is null: each ban that stays meanwhile is shown exactly once, and
    none that was made after the first page is.
    """
    page = await _page(context, query)
    next_page = link_next(request.scope["path"], request.query_params.multi_items(), page["next_cursor"])
    return json_response(page, headers=next_page)


@router.post(
    "",
    name="create",
    status_code=201,
    response_model=BanView,
    responses={
        201: {**links({"id": "$response.body#/id"}, get="bans-get", lift="bans-lift"), **location("the ban")},
        **problems.responses(
            problems.BAN_EXISTS,
            problems.BANS_FULL,
            problems.VALIDATION_FAILED,
            *problems.WITH_BODY,
            problems.MESSAGE_TOO_LARGE,
            *_CHANGE_PROBLEMS,
        ),
    },
)
async def create_ban(
    request: Request, body: BanBody, context: ContextDep, caller: Annotated[Caller, needs("bans:write")]
) -> Response:
    """Keeps an address or a block away, and ends the connections that are there from it.

    The ban is on disk and in force when 201 is answered, and outlives a restart of the service. The connections get
    what is queued for them, the farewell and the end of the stream, and are reset if they have not left after 5 s.

    Theirs is who is their `peer`. A ban that holds a balancer (`via`) refuses all that comes through it from then on;
    clients who came through it before are not kicked, since a kick with `via` in mind would hit them all.
    """
    with action(request, caller, "ban", str(body.address)) as banning:
        farewell = checked(body.farewell.data, context.settings, "farewell") if body.farewell else b""
        ban = await context.bans.add(body.address, body.ttl, body.reason, caller.name)
        kicked = await context.bans.kick(ban, farewell) if body.kick else None
        banning.outcome = f"{ban.id}, reason {ban.reason!r}, {kicked or 0} kicked"
    return json_response(_view(ban, kicked), status=201, headers={"location": f"/v1/bans/{ban.id}"})


@router.get(
    "/{id}",
    name="get",
    response_model=BanView,
    responses=problems.responses(problems.BAN_UNKNOWN, problems.VALIDATION_FAILED),
    dependencies=[needs("bans:read")],
)
async def get_ban(id: BanId, context: ContextDep) -> Response:
    """One ban that is in force."""
    await context.bans.load()
    return json_response(_view(context.bans.find(id), None))


@router.delete(
    "/{id}",
    name="lift",
    status_code=204,
    response_class=Response,
    responses=problems.responses(problems.BAN_UNKNOWN, problems.VALIDATION_FAILED, *_CHANGE_PROBLEMS),
)
async def lift_ban(
    request: Request, id: BanId, context: ContextDep, caller: Annotated[Caller, needs("bans:write")]
) -> Response:
    """Ends a ban: its addresses may connect again, unless another ban holds them too."""
    with action(request, caller, "unban", id) as lifting:
        ban = await context.bans.remove(id)
        lifting.outcome = f"done, {text_of(ban.network)}"
    return Response(status_code=204)


async def _page(context: Context, query: BanQuery) -> dict[str, Any]:
    """One page, with the members of schemas.BanPage."""
    bans = context.bans
    await bans.load()
    listing, taken_at = f"bans?address={query.address or ''}", datetime.now(UTC)
    place: int | None = None
    if query.cursor is not None:
        (place, _, _), taken_at = context.cursors.read(listing, query.cursor)
    if query.address is None:
        found = bans.newest(query.limit + 1, place)  # one more tells whether there is a next page
        following, total = found[query.limit - 1].serial if len(found) > query.limit else None, bans.count()
    else:
        # At most one for each length of a prefix, of 128, in the order of these, which are the places then.
        matching = bans.containing(query.address)
        found = [ban for ban in matching if place is None or _length(ban) > place]
        following = _length(found[query.limit - 1]) if len(found) > query.limit else None
        total = len(matching)
    return {
        "items": [_view(ban, None) for ban in found[: query.limit]],
        "next_cursor": None if following is None else context.cursors.make(listing, (following, 0, 0), taken_at),
        "snapshot": {"taken_at": taken_at, "expires_at": None},
        "total": total,
    }


def _length(ban: Ban) -> int:
    return ban.network.prefixlen + (96 if ban.network.version == 4 else 0)


def _view(ban: Ban, kicked: int | None) -> dict[str, Any]:
    """A ban with the members of schemas.BanView."""
    return row_of(ban) | {"kicked": kicked}
