"""What happens around every request: its id, who asks, bounds on its body, its metrics, and the answer to a bug."""

import asyncio
import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iocpd.api import problems
from iocpd.api.audit.requests import RequestAudit
from iocpd.api.context import Context
from iocpd.api.idempotency import REPLAYED
from iocpd.api.logs import get_logger
from iocpd.api.problems import Problem, response_of

BODY_SECONDS = 30.0
"""A body that takes longer than this to arrive is refused."""

# A body that is too large is read away, within these bounds, before it is refused: closing a socket with unread bytes
# would reset it, and the client would see the reset and not the answer.
_DISCARD_SECONDS = 2.0
_DISCARD_BYTES = 16 * 1024 * 1024

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=-]{1,80}")
_GUARDED = ("/v1", "/metrics")

_log = get_logger("iocpd.api")
_access_log = get_logger("iocpd.access")


class RequestMiddleware:
    """Pure ASGI, so that a stream passes through as it is."""

    def __init__(self, app: ASGIApp, context: Context, audit: RequestAudit) -> None:
        self.app = app
        self.context = context
        self.audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._serve(scope, receive, send, request_id)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()
        status = 0
        replayed = False

        async def send_and_note(message: Message) -> None:
            nonlocal status, replayed
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = request_id
                out.setdefault("cache-control", "no-store")
                if replayed := REPLAYED in out:
                    self.context.request_metrics.note_replayed()
                if status in (408, 413):
                    out["connection"] = "close"  # the rest of the body may still be on its way
                # Before the answer leaves: what somebody was told is in the audit, even if the process dies now.
                self.audit.note(scope, status, replayed=replayed)
            await send(message)

        try:
            if scope["path"].startswith(_GUARDED):
                scope["state"]["caller"] = self.context.gate.authenticate(scope)
            bounded = await _bounded_receive(Headers(scope=scope), receive, self.context.settings.max_body_bytes)
            await self.app(scope, bounded, send_and_note)
        except Problem as problem:
            if not status:  # otherwise the answer is under way, and the server ends it
                await response_of(problem, scope)(scope, receive, send_and_note)
        except asyncio.CancelledError:
            # The HTTP server stops, and this request is in its way. The task ends here, so there is nobody to pass it
            # on to.
            if not status:
                await response_of(Problem(problems.ENGINE_STOPPED), scope)(scope, receive, send_and_note)
        except Exception:
            _log.exception("request failed", method=scope["method"], path=scope["path"])
            if status:
                raise  # too late for an answer: the server cuts the connection
            await response_of(Problem(problems.INTERNAL_ERROR), scope)(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            self.context.request_metrics.note(scope["method"], route, status, seconds)
            if (code := scope["state"].get("problem")) is not None:
                self.context.request_metrics.note_problem(code)
            if not status:
                self.audit.note(scope, status, replayed=False)
            if self.context.settings.access_log:
                _note_access(scope, status, seconds)


def _note_access(scope: Scope, status: int, seconds: float) -> None:
    """A line in the log. Without the query: a farewell may be in it, and that is a payload."""
    caller: Any = scope["state"].get("caller")
    _access_log.info(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status or None,
        ms=round(seconds * 1000, 1),
        actor=caller and caller.name,
        client=scope["client"][0],
    )


async def _bounded_receive(headers: Headers, receive: Receive, limit: int) -> Receive:
    """A receive that gives at most `limit` bytes of body, waiting at most BODY_SECONDS for them; Problem 408, 413."""
    too_large = Problem(problems.BODY_TOO_LARGE, f"a request body may have at most {limit} bytes here")
    declared = headers.get("content-length", "0")
    if int(declared) > limit:  # the HTTP parser has checked that it is a number
        # A client that asked first is waiting for the answer and has sent nothing.
        if headers.get("expect", "").lower() != "100-continue":
            await _discard(receive)
        raise too_large
    taken = 0
    complete = False
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS

    async def bounded() -> Message:
        nonlocal taken, complete
        if complete:
            return await receive()  # waits for the client to leave
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            detail = f"the request's body was not complete after {BODY_SECONDS:.0f} s"
            raise Problem(problems.REQUEST_TIMEOUT, detail) from None
        taken += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if taken > limit:
            if not complete:
                await _discard(receive)
            raise too_large
        return message

    return bounded


async def _discard(receive: Receive) -> None:
    left = _DISCARD_BYTES
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                left -= len(message["body"])
    except TimeoutError:
        pass
