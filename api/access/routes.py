"""/v1/keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from iocpd.api import problems
from iocpd.api.access import service
from iocpd.api.access.schemas import KeyBody, KeyCreated, KeyList
from iocpd.api.actions import action
from iocpd.api.auth import needs
from iocpd.api.context import ContextDep
from iocpd.api.keys import Caller
from iocpd.api.responses import links

_COMMON: dict[int | str, dict[str, Any]] = problems.responses(
    *problems.AUTHORISED, *problems.EVERYWHERE, problems.KEYS_UNAVAILABLE
)

router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=_COMMON)

KeyName = Annotated[str, Path(max_length=100, description="`name` of a key", examples=["alice"])]


@router.get("", name="list", dependencies=[needs("keys:read")])
async def list_keys(context: ContextDep) -> KeyList:
    """Every key, also those that have expired, without the keys themselves."""
    return KeyList(items=await service.list_keys(context.gate.keys))


@router.post(
    "",
    name="create",
    status_code=201,
    responses={
        201: links({"name": "$response.body#/name"}, revoke="keys-revoke"),
        **problems.responses(problems.KEY_EXISTS, problems.VALIDATION_FAILED, *problems.WITH_BODY),
    },
)
async def create_key(
    request: Request, context: ContextDep, caller: Annotated[Caller, needs("keys:write")], body: KeyBody
) -> KeyCreated:
    """Makes a key. It is shown in this answer and never again, and works at once.

    A caller can give no scope that it has not, and no longer time than its own key has. The first key of a service
    without keys ends the time in which everybody on its machine was served without one.
    """
    with action(request, caller, "create key", body.name) as creating:
        created = await service.create_key(context.gate.keys, caller, body)
        until = f"until {created.expires_at.isoformat()}" if created.expires_at else "without an end"
        creating.outcome = f"done, {created.role or ' '.join(created.scopes)}, {until}"
    return created


@router.delete(
    "/{name}",
    name="revoke",
    status_code=204,
    response_class=Response,
    responses=problems.responses(problems.KEY_NAME_UNKNOWN, problems.LAST_KEY_WRITER, problems.VALIDATION_FAILED),
)
async def revoke_key(
    request: Request, name: KeyName, context: ContextDep, caller: Annotated[Caller, needs("keys:write")]
) -> Response:
    """Revokes a key: from the answer on no request is let in with it. The last one that can make keys stays.

    A job that was begun with it goes on to its end, as it was allowed to begin; who has the scope can cancel it.
    """
    with action(request, caller, "revoke key", name):
        await service.revoke_key(context.gate.keys, name)
    return Response(status_code=204)
