"""Errors on the wire: RFC 9457 problem details, each with a code that a program can test.

Routes raise `Problem`, or let the engine's exceptions through; the handlers here turn both, and what FastAPI and
Starlette raise, into application/problem+json.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from iocpd.api.logs import printable

MEDIA_TYPE = "application/problem+json"

# Details name values, fields and paths that came from clients: nothing in them may steer a terminal that shows the
# answer, or make it long.
_LONGEST = 1000
_FIELD = 200
_MOST_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its code, HTTP status and title are stable."""

    code: str
    status: int
    title: str
    example: str
    retry_after_s: int | None = None


CONNECTION_UNKNOWN = Kind(
    "connection_unknown",
    404,
    "No such connection",
    "no connection ever had the id k3f9qz-2b00001; GET /v1/connections lists them",
)
CONNECTION_ENDED = Kind(
    "connection_ended",
    410,
    "The connection has ended",
    "k3f9qz-1c00001 ended at 2025-01-31T12:00:00+00:00: kicked by operator",
)
CONNECTION_OF_ANOTHER_RUN = Kind(
    "connection_of_another_run",
    410,
    "The connection belongs to another run",
    "w7hxmk-1c00001 was given out by an earlier run of the service, or by another node; this one is k3f9qz",
)
CONNECTION_CLOSING = Kind(
    "connection_closing", 409, "The connection is closing", "k3f9qz-1c00001 is on its way out and takes nothing more"
)
SEND_QUEUE_FULL = Kind(
    "send_queue_full",
    429,
    "The connection's send queue is full",
    "k3f9qz-1c00001 has more unread bytes queued than send_hard_bytes allows; try again when its client has read some",
    retry_after_s=1,
)
MESSAGE_TOO_LARGE = Kind(
    "message_too_large", 413, "The message is too large", "2000000 bytes are more than the 1048576 of max_message_bytes"
)
BODY_TOO_LARGE = Kind(
    "body_too_large", 413, "The request body is too large", "a request body may have at most 2162688 bytes"
)
UNSUPPORTED_MEDIA_TYPE = Kind(
    "unsupported_media_type",
    415,
    "Unsupported media type",
    "the body is text/plain; send application/json or application/octet-stream",
)
VALIDATION_FAILED = Kind(
    "validation_failed",
    422,
    "The request is not valid",
    "query parameter limit is 5000: Input should be less than or equal to 1000",
)
MALFORMED_JSON = Kind(
    "malformed_json", 400, "The body is not JSON", "the body is not JSON: Expecting value at character 0"
)
BAD_REQUEST = Kind("bad_request", 400, "Not an HTTP request", "what arrived is not HTTP/1.1")
CURSOR_MALFORMED = Kind(
    "cursor_malformed", 422, "Not a cursor", "cursor is not one that this API gave out; begin again without it"
)
CURSOR_MISMATCH = Kind(
    "cursor_mismatch",
    422,
    "The cursor belongs to other filters",
    "cursor was made with other filters; repeat them exactly, or begin again without cursor",
)
CURSOR_EXPIRED = Kind(
    "cursor_expired",
    410,
    "The cursor belongs to another run",
    "the service has been restarted since; begin again without cursor",
)
SNAPSHOT_EXPIRED = Kind(
    "snapshot_expired",
    410,
    "The sorted listing is no longer kept",
    "it is kept for 30 s, and for less while many are asked for; begin again without cursor, or list without sort",
)
DRAIN_CONFLICT = Kind(
    "drain_conflict", 409, "The drain can't be changed so", "a drain is under way; GET it to watch, DELETE it to cancel"
)
BAN_UNKNOWN = Kind(
    "ban_unknown", 404, "No such ban", "there is no ban 'k3f9qzw7hx', or it is over; GET /v1/bans lists them"
)
BAN_EXISTS = Kind(
    "ban_exists",
    409,
    "There is a ban already",
    "192.0.2.0/24 is banned already, as k3f9qzw7hx; DELETE that first to change it",
)
BANS_FULL = Kind(
    "bans_full", 507, "Too many bans", "there is room for max_bans (131072); lift some, ban blocks, or raise max_bans"
)
BANS_NOT_SAVED = Kind(
    "bans_not_saved",
    507,
    "The bans could not be saved",
    "cannot write /var/lib/iocpd/bans.json: No space left on device; no ban has changed",
)
TOO_MANY_STREAMS = Kind(
    "too_many_streams",
    429,
    "Too many event streams",
    "64 streams of events are open, and that is as many as there may be; close one",
    retry_after_s=5,
)
MESSAGE_RATE = Kind(
    "message_rate",
    429,
    "Too many messages to one connection",
    "k3f9qz-1c00001 gets at most 10 messages a second (messages_per_s_per_connection); try again in a second",
    retry_after_s=1,
)
JOB_UNKNOWN = Kind(
    "job_unknown",
    404,
    "No such job",
    "there is no job 'Pm3n0v_xkQ2d' here; it is forgotten 15 minutes after its end, or when many end, or by a restart",
)
TOO_MANY_JOBS = Kind(
    "too_many_jobs",
    429,
    "Too many jobs",
    "16 jobs run at once, and no more: wait for one of them, or cancel one with DELETE",
    retry_after_s=1,
)
IDEMPOTENCY_KEY_MALFORMED = Kind(
    "idempotency_key_malformed",
    400,
    "Not an idempotency key",
    "give one Idempotency-Key of 1 to 255 visible ASCII characters, such as a UUID, with or without quotes",
)
IDEMPOTENCY_IN_FLIGHT = Kind(
    "idempotency_in_flight",
    409,
    "The first request is under way",
    "the request with this Idempotency-Key has not been answered yet; send it again in a moment for its answer",
    retry_after_s=1,
)
IDEMPOTENCY_MISMATCH = Kind(
    "idempotency_mismatch",
    422,
    "The idempotency key belongs to another request",
    "this Idempotency-Key came with another path, query or body before; give each request a new one",
)
IDEMPOTENCY_FULL = Kind(
    "idempotency_full",
    503,
    "Too many requests with idempotency keys",
    "1000 requests with an Idempotency-Key are under way; try again in a moment",
    retry_after_s=1,
)
KEY_MISSING = Kind("key_missing", 401, "A key is needed", "send a key as Authorization: Bearer iocpd_...")
KEY_UNKNOWN = Kind(
    "key_unknown", 401, "The key is not accepted", "the key that was sent is not known here, or was revoked"
)
KEY_EXPIRED = Kind("key_expired", 401, "The key has expired", "the key 'alice' expired at 2025-01-31T12:00:00+00:00")
TOO_MANY_WRONG_KEYS = Kind(
    "too_many_wrong_keys",
    429,
    "Too many wrong keys",
    "192.0.2.7 has sent too many keys that are not accepted; a right one is taken at any time",
    retry_after_s=6,
)
KEY_EXISTS = Kind(
    "key_exists",
    409,
    "There is a key of that name",
    "there is a key named 'alice' already: choose another name, or revoke that one first",
)
KEY_NAME_UNKNOWN = Kind(
    "key_name_unknown", 404, "No such key", "there is no key named 'alice'; GET /v1/keys lists them"
)
LAST_KEY_WRITER = Kind(
    "last_key_writer",
    409,
    "The last key that can make keys",
    "'alice' is the last key with keys:write: make another one first, or use `iocpd keys revoke`",
)
KEYS_UNAVAILABLE = Kind(
    "keys_unavailable",
    503,
    "The key file can't be used",
    "cannot write the key file /var/lib/iocpd/keys.json: Read-only file system",
)
AUDIT_UNAVAILABLE = Kind(
    "audit_unavailable",
    503,
    "The audit can't be read",
    "cannot read the audit in /var/lib/iocpd: Input/output error",
)
SETTINGS_REFUSED = Kind(
    "settings_refused",
    422,
    "The settings can't be used",
    "nothing has changed: /etc/iocpd.toml, line 3: idle_timeout is 'soon': write a duration as 90s or 5m",
)
SCOPE_MISSING = Kind(
    "scope_missing", 403, "The key may not do this", "the key 'alice' has no scope connections:kick, which this needs"
)
ORIGIN_REFUSED = Kind(
    "origin_refused",
    403,
    "Refused without keys",
    "without keys, requests that a web page made are refused; add a key to allow them",
)
ROUTE_UNKNOWN = Kind("route_unknown", 404, "No such resource", "there is nothing at /v1/conections; see /openapi.json")
METHOD_NOT_ALLOWED = Kind(
    "method_not_allowed", 405, "Method not allowed", "POST does not work on /v1/connections; use GET"
)
REQUEST_TIMEOUT = Kind(
    "request_timeout", 408, "The request took too long", "the request's body was not complete after 30 s"
)
HEADERS_TOO_LARGE = Kind(
    "headers_too_large", 431, "The headers are too large", "headers may have at most 32768 bytes in all"
)
COMMAND_TIMEOUT = Kind(
    "command_timeout",
    504,
    "The engine did not finish in time",
    "k3f9qz-1c00001 is still on its way out; look again with GET",
)
INTERNAL_ERROR = Kind(
    "internal_error", 500, "Internal error", "an error of iocpd itself; its log has more under this request_id"
)
ENGINE_BUSY = Kind(
    "engine_busy", 503, "The engine is busy", "a worker's inbox is full; try again in a moment", retry_after_s=1
)
ENGINE_STOPPED = Kind(
    "engine_stopped", 503, "The engine is stopping", "the service is shutting down and takes no more commands"
)
LISTENER_UNAVAILABLE = Kind(
    "listener_unavailable",
    503,
    "A listener could not open again",
    "cannot listen on 127.0.0.1:12345: the address is in use",
)
NOT_READY = Kind("not_ready", 503, "Not ready", "draining (evict): 12 connections are left", retry_after_s=1)
TOO_MANY_REQUESTS_AT_ONCE = Kind(
    "too_many_http_connections",
    503,
    "Too many HTTP connections",
    "the API serves at most 256 HTTP connections",
    retry_after_s=1,
)

# What Starlette and uvicorn say with a status alone.
_BY_STATUS = {
    400: MALFORMED_JSON,
    404: ROUTE_UNKNOWN,
    405: METHOD_NOT_ALLOWED,
    413: BODY_TOO_LARGE,
    415: UNSUPPORTED_MEDIA_TYPE,
}

# Every route may answer with these, the last ones before it is known which it would have been.
EVERYWHERE = (
    INTERNAL_ERROR,
    ENGINE_STOPPED,
    BAD_REQUEST,
    REQUEST_TIMEOUT,
    BODY_TOO_LARGE,
    HEADERS_TOO_LARGE,
    TOO_MANY_REQUESTS_AT_ONCE,
)
AUTHORISED = (KEY_MISSING, KEY_UNKNOWN, KEY_EXPIRED, TOO_MANY_WRONG_KEYS, SCOPE_MISSING, ORIGIN_REFUSED)
WITH_BODY = (BODY_TOO_LARGE, MALFORMED_JSON, UNSUPPORTED_MEDIA_TYPE, REQUEST_TIMEOUT)


class FieldProblem(BaseModel):
    """One thing that is wrong with a request."""

    location: str = Field(description="where it is", examples=["query"])
    field: str = Field(description="its name, with dots between the parts", examples=["limit"])
    code: str = Field(description="what is wrong, for a program", examples=["less_than_equal"])
    detail: str = Field(
        description="what is wrong, for a person", examples=["Input should be less than or equal to 1000"]
    )


class ProblemDetails(BaseModel):
    """RFC 9457 problem details. Some kinds add members of their own, such as `closed`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="a URI that names the kind of problem", examples=["urn:iocpd:problem:connection_ended"]
    )
    title: str
    status: int
    detail: str = Field(description="what happened here, and the way out")
    code: str = Field(description="the kind of problem, for a program", examples=["connection_ended"])
    request_id: str = Field(description="the same as in the X-Request-ID header and in the log")
    errors: list[FieldProblem] = Field(default=[], description="what is wrong with the request, one by one")


class Problem(HTTPException):
    """Raised by routes. `detail` names the value, the rule and the way out; `extra` are members beside the standard
    ones.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str | None = None,
        *,
        errors: Iterable[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(kind.status, detail or kind.example, dict(headers or {}))
        self.kind = kind
        self.errors = list(errors)
        self.extra = dict(extra or {})


def body_of(problem: Problem, request_id: str) -> dict[str, Any]:
    """The members of the problem document."""
    kind = problem.kind
    return {
        "type": f"urn:iocpd:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": printable(problem.detail, _LONGEST),
        "code": kind.code,
        "request_id": request_id,
        "errors": problem.errors,
        **problem.extra,
    }


def response_of(problem: Problem, scope: Scope) -> Response:
    """The HTTP response for a problem; the request's state notes its code, for log and audit."""
    scope.setdefault("state", {})["problem"] = problem.kind.code
    headers = dict(problem.headers or {})
    if problem.kind.retry_after_s is not None:
        headers.setdefault("retry-after", str(problem.kind.retry_after_s))
    body = body_of(problem, scope.get("state", {}).get("request_id", ""))
    return Response(to_json(body), problem.kind.status, headers, MEDIA_TYPE)


def from_http_exception(request: Request, error: HTTPException) -> Problem:
    """What Starlette's own routing raises: unknown paths, wrong methods."""
    if isinstance(error, Problem):
        return error
    kind = _BY_STATUS.get(error.status_code)
    if kind is None:
        return Problem(Kind(f"http_{error.status_code}", error.status_code, str(error.detail), ""), str(error.detail))
    path = f"{request.scope['path']:.200}"
    if kind is ROUTE_UNKNOWN:
        return Problem(kind, f"there is nothing at {path}; /openapi.json lists what there is")
    if kind is METHOD_NOT_ALLOWED:
        # The error names the methods of one route; a path may have several.
        allowed = ", ".join(sorted(request.app.state.methods[request.scope["route"].path]))
        return Problem(kind, f"{request.method} does not work on {path}; use {allowed}", headers={"allow": allowed})
    return Problem(kind, str(error.detail))


def from_validation_error(request: Request, error: RequestValidationError) -> Problem:
    """What FastAPI says of a request that does not fit its schema."""
    items = error.errors()
    if items[0]["type"] == "json_invalid":
        return Problem(
            MALFORMED_JSON, f"the body is not JSON: {items[0]['ctx']['error']} at character {items[0]['loc'][-1]}"
        )
    media_type = request.headers.get("content-type", "")
    if any(item["loc"] == ("body",) and isinstance(item["input"], bytes) for item in items):
        sent = f"is {media_type}" if media_type else "has no Content-Type"
        return Problem(UNSUPPORTED_MEDIA_TYPE, f"the body {sent}; send it as Content-Type: application/json")
    errors = [_field_problem(item) for item in items[:_MOST_ERRORS]]
    first, item = errors[0], items[0]
    name = (
        f"{first['location']} {first['field']}".strip()
        if first["location"] == "body"
        else f"parameter {first['field']}"
    )
    # Scalars from the query and the path are named; what is in a body may be a message, and those are repeated nowhere.
    shown = f" is {item['input']!r:.80}" if first["location"] != "body" and isinstance(item["input"], str) else ""
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return Problem(VALIDATION_FAILED, f"{name}{shown}: {first['detail']}{more}", errors=errors)


def invalid(location: str, field: str, code: str, detail: str) -> Problem:
    """A 422 for a rule that the schema can't express."""
    entry = {"location": location, "field": field, "code": code, "detail": detail}
    name = f"{location} {field}" if location == "body" else f"parameter {field}"
    return Problem(VALIDATION_FAILED, f"{name}: {detail}", errors=[entry])


def _field_problem(item: Mapping[str, Any]) -> dict[str, str]:
    location, *path = item["loc"]
    detail = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        detail = "there is no such field here"
    return {
        "location": str(location),
        "field": printable(".".join(map(str, path)), _FIELD),
        "code": str(item["type"]),
        "detail": printable(detail, _LONGEST),
    }


_CHALLENGE = {"description": "what is asked for (RFC 6750)", "schema": {"type": "string", "pattern": "^Bearer "}}
_RETRY_AFTER = {"description": "try again after so many seconds", "schema": {"type": "integer", "minimum": 1}}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {**_CHALLENGE, "required": True}},
    403: {"WWW-Authenticate": _CHALLENGE},
    429: {"Retry-After": {**_RETRY_AFTER, "required": True}},
    503: {"Retry-After": _RETRY_AFTER},
}


def responses(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses=` for these kinds: the schema, and an example of each."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        entry = found.setdefault(
            kind.status,
            {
                "description": kind.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}, "examples": {}}},
            },
        )
        if header := _HEADERS.get(kind.status):
            entry["headers"] = header
        if kind.title not in entry["description"]:
            entry["description"] += f"; {kind.title[0].lower()}{kind.title[1:]}"
        value = body_of(Problem(kind), "5f2c7d1e9a")
        entry["content"][MEDIA_TYPE]["examples"][kind.code] = {"summary": kind.title, "value": value}
    return found
