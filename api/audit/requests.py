"""One entry for each request that changes something, or would have: written once its answer is known.

Requests without an accepted key are noted within a limit for each address and one for all, so that nobody without a key
can push what others did out of the files.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from iocpd.api.access.attempts import Attempts
from iocpd.api.audit.entries import ANONYMOUS
from iocpd.api.audit.trail import AuditTrail
from iocpd.api.keys import Caller
from iocpd.api.logs import get_logger

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_log = get_logger("iocpd.access")


class RequestAudit:
    """Notes the requests of one application. For the event loop's thread alone."""

    def __init__(self, trail: AuditTrail, routers: Iterable[APIRouter]) -> None:
        self._trail = trail
        self._routes = [
            route
            for router in routers
            for route in router.routes
            if isinstance(route, APIRoute) and not _SAFE.issuperset(route.methods or ())
        ]
        self._of_address = Attempts(burst=20, per_s=0.1)
        self._of_all = Attempts(burst=200, per_s=1.0, addresses=1)
        self._left_out = 0

    def note(self, scope: Scope, status: int, *, replayed: bool) -> None:
        """A request has been answered with this status; 0: its client had left."""
        state = scope["state"]
        route = None if scope["method"] in _SAFE else self._route_of(scope)
        if route is None:
            return
        caller, action, client = state.get("caller"), state.get("action"), scope["client"][0]
        detail = _detail(action.outcome) if action else "replayed" if replayed else ""
        if caller is None:
            if self._of_address.take(client) or self._of_all.take(""):
                self._left_out += 1
                return
            if self._left_out:
                detail = f"{self._left_out} others without a key were left out"
                self._left_out = 0
        outcome = _outcome(status, state)
        actor = caller.name if caller else ANONYMOUS
        operation = _operation(route)
        target = action.target if action else scope["path"]
        if action is None and status >= 400:
            _log.info("refused", operation=operation, target=target, actor=actor, client=client, outcome=outcome)
        self._trail.record(
            actor=actor,
            action=operation,
            target=target,
            outcome=outcome,
            status=status or None,
            detail="" if detail == outcome else detail,
            request_id=state["request_id"],
            client=client,
        )

    def _route_of(self, scope: Scope) -> APIRoute | None:
        """The operation that was asked for, also when the request was refused before it was looked for."""
        return next((route for route in self._routes if route.matches(scope)[0] is Match.FULL), None)


class Done(Protocol):
    """What somebody did to something, and what came of it."""

    target: str
    outcome: str
    failed: bool


def record_further(trail: AuditTrail, scope: Scope, caller: Caller, done: Done) -> None:
    """An entry for what a request has done beside what its answer tells, such as the end of a job that it began."""
    trail.record(
        actor=caller.name,
        action=_operation(scope["route"]),
        target=done.target,
        outcome=done.outcome if done.failed else "done",
        detail="" if done.failed else _detail(done.outcome),
        request_id=scope["state"]["request_id"],
        client=scope["client"][0],
    )


def _operation(route: APIRoute) -> str:
    return f"{route.tags[0]}-{route.name}"


def _outcome(status: int, state: dict[str, Any]) -> str:
    if not status:
        return "no_answer"
    return "done" if status < 400 else state.get("problem", f"http_{status}")


def _detail(outcome: str) -> str:
    return outcome.removeprefix("done").removeprefix(", ")
