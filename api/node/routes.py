"""/v1/node and /v1/listeners."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from iocpd.api import problems
from iocpd.api.actions import action
from iocpd.api.auth import needs, require
from iocpd.api.context import ContextDep
from iocpd.api.keys import Caller
from iocpd.api.node import service
from iocpd.api.node.reload import reload
from iocpd.api.node.schemas import DrainBody, DrainOptions, DrainView, ListenerList, NodeView, ReloadView
from iocpd.api.problems import Problem
from iocpd.api.responses import links
from iocpd.api.settings import SettingsError

_COMMON: dict[int | str, dict[str, Any]] = problems.responses(
    *problems.AUTHORISED, *problems.EVERYWHERE, problems.ENGINE_STOPPED
)
_DRAIN_PROBLEMS = (problems.DRAIN_CONFLICT, problems.VALIDATION_FAILED, *problems.WITH_BODY, problems.MESSAGE_TOO_LARGE)

router = APIRouter(prefix="/v1/node", tags=["node"], responses=_COMMON)
listeners = APIRouter(prefix="/v1/listeners", tags=["listeners"], responses=_COMMON)


@router.get("", name="get", dependencies=[needs("node:read")])
async def get_node(context: ContextDep) -> NodeView:
    """Version, backend and why, limits, uptime, totals of each worker."""
    return service.describe_node(context)


@listeners.get("", name="list", dependencies=[needs("node:read")])
async def list_listeners(context: ContextDep) -> ListenerList:
    """Where the service listens, with each listener's counters."""
    return ListenerList(items=service.describe_listeners(context))


@router.get("/drain", name="get_drain", dependencies=[needs("node:read")])
async def get_drain(context: ContextDep) -> DrainView:
    """How far the drain has come; phase `none` when there is none."""
    return service.describe_drain(context)


@router.put(
    "/drain",
    name="begin_drain",
    status_code=202,
    responses={202: links(watch="node-get_drain", cancel="node-cancel_drain"), **problems.responses(*_DRAIN_PROBLEMS)},
)
async def begin_drain(
    request: Request,
    context: ContextDep,
    caller: Annotated[Caller, needs("node:drain")],
    body: Annotated[DrainBody | None, Body()] = None,
) -> DrainView:
    """Begins a drain: not ready, then listeners close, then connections are ended. Watch it with GET, cancel it with
    DELETE.
    """
    options = body or DrainBody()
    with action(request, caller, "drain", f"node, then {options.then}"):
        if options.then == "shutdown":
            require(caller, "node:shutdown", 'a drain with "then": "shutdown"')
        return service.begin_drain(context, options, options.then)


@router.delete(
    "/drain",
    name="cancel_drain",
    status_code=204,
    response_class=Response,
    responses=problems.responses(problems.DRAIN_CONFLICT, problems.LISTENER_UNAVAILABLE, problems.ENGINE_STOPPED),
)
async def cancel_drain(
    request: Request, context: ContextDep, caller: Annotated[Caller, needs("node:drain")]
) -> Response:
    """Opens the listeners again. Connections that are on their way out go on leaving."""
    with action(request, caller, "cancel drain", "node"):
        service.cancel_drain(context.engine)
    return Response(status_code=204)


@router.post(
    "/shutdown",
    name="shutdown",
    status_code=202,
    responses={202: links(watch="node-get_drain"), **problems.responses(*_DRAIN_PROBLEMS)},
)
async def shut_down(
    request: Request,
    context: ContextDep,
    caller: Annotated[Caller, needs("node:shutdown")],
    body: Annotated[DrainOptions | None, Body()] = None,
) -> DrainView:
    """Drains, posts one exit completion to each worker, and ends the process with status 0; a second one may only be
    quicker.
    """
    with action(request, caller, "shutdown", "node"):
        return service.begin_drain(context, body or DrainOptions(), "shutdown")


@router.post("/reload", name="reload", responses=problems.responses(problems.SETTINGS_REFUSED))
async def reload_settings(
    request: Request, context: ContextDep, caller: Annotated[Caller, needs("node:reload")]
) -> ReloadView:
    """Reads the settings and the key file again, and puts in force what can change while the service runs.

    Flags and variables are as they were at the start, so it is the file that may say something new. If anything in it
    can't be used, nothing changes.
    """
    with action(request, caller, "reload", "node") as reloading:
        try:
            view = reload(context)
        except SettingsError as error:
            errors = [{"location": "settings", "field": "", "code": "invalid", "detail": line} for line in error.lines]
            detail = f"nothing has changed: {error.lines[0]}"
            raise Problem(problems.SETTINGS_REFUSED, detail, errors=errors) from None
        reloading.outcome = service.describe_reload(view)
    return view
