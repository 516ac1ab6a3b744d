"""The ASGI application over a running engine."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import ProcessCollector
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from iocpd.api import problems
from iocpd.api.access.metrics import KeyCollector
from iocpd.api.access.routes import router as keys_router
from iocpd.api.access.store import KeyStore
from iocpd.api.audit.metrics import AuditCollector
from iocpd.api.audit.requests import RequestAudit
from iocpd.api.audit.routes import router as audit_router
from iocpd.api.audit.trail import AuditTrail
from iocpd.api.auth import Gate, check_scopes
from iocpd.api.bans.routes import router as bans
from iocpd.api.bans.service import Bans
from iocpd.api.broadcasts.routes import router as broadcasts
from iocpd.api.connections.routes import router as connections
from iocpd.api.context import Context
from iocpd.api.engine_errors import to_problem
from iocpd.api.events.routes import router as events
from iocpd.api.events.schemas import EventView
from iocpd.api.events.streams import EventStreams
from iocpd.api.idempotency import IdempotencyMiddleware
from iocpd.api.idempotency import declare as declare_idempotency
from iocpd.api.identity import Instance
from iocpd.api.kicks.routes import router as kicks
from iocpd.api.messages.routes import router as messages
from iocpd.api.metrics.collector import ApiCollector, EngineCollector
from iocpd.api.metrics.requests import RequestMetrics
from iocpd.api.metrics.routes import router as metrics
from iocpd.api.middleware import RequestMiddleware
from iocpd.api.node.routes import listeners
from iocpd.api.node.routes import router as node
from iocpd.api.payloads import Payload
from iocpd.api.probes.routes import router as probes
from iocpd.api.problems import ProblemDetails, response_of
from iocpd.api.settings import Settings, read_again
from iocpd.api.version import version
from iocpd.core import Engine, EngineError

_ROUTERS = (
    connections,
    messages,
    kicks,
    broadcasts,
    bans,
    events,
    node,
    listeners,
    keys_router,
    audit_router,
    metrics,
    probes,
)

_DESCRIPTION = """Steers a running iocpd: who is connected, ending, sending, draining, metrics.

Errors are RFC 9457 problem details with a `code`. Times are RFC 3339 in UTC, durations are `90s` or `5m`, sizes are in
bytes. Each operation names the scope that a key needs for it."""

_REQUEST_ID = {
    "description": "the request's own, if it brought one, or one that was drawn; the same as in log, audit and problem",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 80},
}


def create_app(
    engine: Engine,
    settings: Settings,
    *,
    keys: KeyStore | None = None,
    audit: AuditTrail | None = None,
    reread: Callable[[], Settings] | None = None,
    on_shutdown: Callable[[], None] = lambda: None,
    request_metrics: RequestMetrics | None = None,
) -> FastAPI:
    """The management API over `engine`, for one run of it: make a new application when the engine is started again.

    keys: what requests must bring; None lets everybody in who comes from this machine. audit: where actions are noted;
    None: nowhere. reread: gives the settings as they are now, or raises SettingsError, when they are to be read again.
    on_shutdown: called on the event loop when a request has begun to stop the engine; whoever runs the process then
    waits with Engine.join and ends it.
    Raises RuntimeError if a route declares no scope.
    """
    check_scopes(_ROUTERS)
    app = FastAPI(
        title="iocpd",
        version=version(),
        description=_DESCRIPTION,
        # The pages of /docs and /redoc load their scripts from elsewhere; the machine that this runs on may have no way
        # there.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # see _Document
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    instance = Instance()
    context = Context(
        engine=engine,
        settings=settings,
        gate=Gate(keys or KeyStore(None)),
        audit=audit or AuditTrail(None, max_bytes=settings.audit_max_bytes, files=settings.audit_files),
        reread=reread or partial(read_again, settings),
        on_shutdown=on_shutdown,
        request_metrics=request_metrics or RequestMetrics(),
        bans=Bans(engine, settings.state_dir / "bans.json"),
        streams=EventStreams(engine, instance),
        instance=instance,
    )
    registry = context.request_metrics.registry
    registry.register(EngineCollector(engine))
    registry.register(ApiCollector(context))
    registry.register(KeyCollector(context.gate))
    registry.register(AuditCollector(context.audit))
    ProcessCollector(registry=registry)
    app.state.context = context
    app.state.methods = defaultdict(set)
    for router in _ROUTERS:
        app.include_router(router)
        for route in router.routes:
            assert isinstance(route, APIRoute)  # check_scopes has refused any other
            app.state.methods[route.path] |= route.methods
    app.add_middleware(IdempotencyMiddleware)
    # Around the other: an idempotency key belongs to a caller.
    app.add_middleware(RequestMiddleware, context=context, audit=RequestAudit(context.audit, _ROUTERS))
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(EngineError, _answer_engine_error)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_route("/openapi.json", _Document(app).answer, include_in_schema=False)
    return app


class _Document:
    """The contract, made once: as it needs no key, anybody may ask for it again and again."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._text = b""

    async def answer(self, request: Request) -> Response:
        if not self._text:
            self._text = to_json(self._app.openapi())
        return Response(self._text, media_type="application/json")


def _operation_id(route: APIRoute) -> str:
    return f"{route.tags[0]}-{route.name}"


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return response_of(problems.from_http_exception(request, error), request.scope)


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response_of(problems.from_validation_error(request, error), request.scope)


async def _answer_engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return response_of(to_problem(request.app.state.context, error), request.scope)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        # Routes refer to these by name, so FastAPI does not see them.
        models = schema.setdefault("components", {}).setdefault("schemas", {})
        for model in (ProblemDetails, Payload, EventView):
            own = model.model_json_schema(ref_template="#/components/schemas/{model}")
            models.update(own.pop("$defs", {}))
            models[model.__name__] = own
        _restore_examples(models)
        declare_idempotency(schema)
        for operations in schema["paths"].values():
            for operation in operations.values():
                for answer in operation["responses"].values():
                    answer.setdefault("headers", {})["X-Request-ID"] = _REQUEST_ID
        app.openapi_schema = schema
    return app.openapi_schema


def _restore_examples(models: dict[str, Any], above: type[BaseModel] = BaseModel) -> None:
    """Examples as the models have them: FastAPI leaves out every member that is null."""
    for model in above.__subclasses__():
        extra = model.model_config.get("json_schema_extra")
        if model.__name__ in models and isinstance(extra, dict) and "examples" in extra:
            models[model.__name__]["examples"] = extra["examples"]
        _restore_examples(models, model)
