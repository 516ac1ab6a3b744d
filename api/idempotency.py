"""Idempotency-Key on POST (draft-ietf-httpapi-idempotency-key-header): what is sent again is done once.

The first request with a key is carried out, and its answer kept. Another one with the same key and the same method,
path, query and body gets that answer again, byte for byte, and nothing is done; while the first is under way it gets
409, and with anything else in it 422. Keys belong to whoever sent them: two callers with the same key know nothing of
each other.

Not kept are answers after which a client should try again (429 and 5xx) and those that refuse the caller (401, 403),
as nothing was done then. Answers are kept in memory, so a restart forgets them.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iocpd.api import problems
from iocpd.api.problems import Problem

KEEP_SECONDS = 600
KEEP_ANSWERS = 1000
"""Of all callers, with those under way; beyond it the oldest answer is forgotten early."""
KEEP_BYTES = 16 * 1024 * 1024
"""Of the bodies of all answers that are kept."""
KEY_LENGTH = 255

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_BARE = rf"[!#-~][!-~]{{0,{KEY_LENGTH - 1}}}"
_QUOTED = rf'"([!#-\[\]-~]|\\["\\]){{1,{KEY_LENGTH}}}"'  # a string as structured fields (RFC 9651) have it
_PROBLEMS = (
    problems.IDEMPOTENCY_KEY_MALFORMED,
    problems.IDEMPOTENCY_IN_FLIGHT,
    problems.IDEMPOTENCY_MISMATCH,
    problems.IDEMPOTENCY_FULL,
)

_Name = tuple[bytes, str]  # who sent it, and the key


@dataclass(slots=True)
class _Entry:
    """A request, and its answer once there is one."""

    fingerprint: bytes
    messages: list[Message] | None = None
    size: int = 0
    expires: float = 0.0
    route: Any = None


class IdempotencyMiddleware:
    """Comes after authentication and the bounds on a request's body. For one event loop."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self._clock = clock
        self._under_way: dict[_Name, _Entry] = {}
        self._answered: dict[_Name, _Entry] = {}  # the oldest first
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # Without a caller it is a route that needs none, and none of those takes a POST.
        if scope["method"] != "POST" or HEADER.lower() not in headers or "caller" not in scope["state"]:
            await self.app(scope, receive, send)
            return
        key = parse_key(headers.getlist(HEADER))
        body = await _read(receive)
        if body is None:
            return  # the client has left
        name = hashlib.sha256(headers.get("authorization", "").encode("latin-1")).digest(), key
        fingerprint = _fingerprint(scope, headers, body)
        if (entry := self._find(name, fingerprint)) is not None:
            await _replay(entry, scope, send)
        else:
            await self._carry_out(name, _Entry(fingerprint), scope, _again(body, receive), send)

    def _find(self, name: _Name, fingerprint: bytes) -> _Entry | None:
        """The answer to this request, if it was answered before. Problem 409, 422, 503."""
        self._forget()
        entry = self._under_way.get(name) or self._answered.get(name)
        if entry is not None and entry.fingerprint != fingerprint:
            raise Problem(problems.IDEMPOTENCY_MISMATCH)
        if name in self._under_way:
            raise Problem(problems.IDEMPOTENCY_IN_FLIGHT)
        if entry is None and len(self._under_way) >= KEEP_ANSWERS:
            raise Problem(problems.IDEMPOTENCY_FULL)
        return entry

    async def _carry_out(self, name: _Name, entry: _Entry, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def send_and_keep(message: Message) -> None:
            # Those around this one change the headers in place.
            messages.append({**message, "headers": list(message["headers"])} if "headers" in message else message)
            await send(message)

        self._under_way[name] = entry
        try:
            await self.app(scope, receive, send_and_keep)
        finally:
            del self._under_way[name]
            if messages and not messages[-1].get("more_body", False) and _worth_keeping(messages[0]["status"]):
                entry.messages = messages
                entry.size = sum(len(message.get("body", b"")) for message in messages)
                entry.expires = self._clock() + KEEP_SECONDS
                entry.route = scope.get("route")
                self._answered[name] = entry
                self._bytes += entry.size
                self._forget()

    def _forget(self) -> None:
        """Drops what is too old, and the oldest of what is too much."""
        now = self._clock()
        while self._answered:
            name, entry = next(iter(self._answered.items()))
            many = len(self._answered) + len(self._under_way) > KEEP_ANSWERS or self._bytes > KEEP_BYTES
            if entry.expires > now and not many:
                break
            del self._answered[name]
            self._bytes -= entry.size


def parse_key(values: list[str]) -> str:
    """The key in these header lines, bare or as a quoted string; Problem 400."""
    value = values[0].strip()
    if len(values) == 1 and re.fullmatch(_BARE, value):
        return value
    if len(values) == 1 and re.fullmatch(_QUOTED, value):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    rule = f"give one {HEADER} of 1 to {KEY_LENGTH} visible ASCII characters, such as a UUID, with or without quotes"
    raise Problem(problems.IDEMPOTENCY_KEY_MALFORMED, rule)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None if the client left before its end."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once more."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()  # waits for the client to leave
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _fingerprint(scope: Scope, headers: Headers, body: bytes) -> bytes:
    """The same for requests that ask for the same."""
    digest = hashlib.sha256()
    parts = (scope["method"], scope["path"], headers.get("content-type", ""))
    for part in (*(part.encode("utf-8", "surrogateescape") for part in parts), scope["query_string"], body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _worth_keeping(status: int) -> bool:
    return status < 500 and status not in (401, 403, 429)


async def _replay(entry: _Entry, scope: Scope, send: Send) -> None:
    assert entry.messages is not None  # it is answered
    if entry.route is not None:
        scope["route"] = entry.route  # for the metrics
    start, *rest = entry.messages
    await send({**start, "headers": [*start["headers"], (REPLAYED.lower().encode(), b"true")]})
    for message in rest:
        await send(message)


# --- the OpenAPI document ---------------------------------------------------------------------------------------------

_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": (
        "makes it safe to send the request again: with the same key, which a client draws at random, it is carried out"
        f" once, and its answer kept for {KEEP_SECONDS // 60} minutes"
    ),
    "schema": {"type": "string", "pattern": f"^({_BARE}|{_QUOTED})$"},
    "example": "8e03978e-40d5-43e8-bc93-6894a57f9324",
}
_REPLAYED_HEADER = {
    "description": f"the request was carried out before, under the same {HEADER}, and this is its answer",
    "schema": {"type": "string", "enum": ["true"]},
}


def declare(document: dict[str, Any]) -> None:
    """Adds the header and its problems to each POST of an OpenAPI document."""
    for operation in _posts(document):
        operation.setdefault("parameters", []).append(_PARAMETER)
        answers = operation["responses"]
        for number, answer in problems.responses(*_PROBLEMS).items():
            _add_problem(answers, str(number), answer)
        for status, answer in answers.items():
            if _worth_keeping(int(status)):
                answer.setdefault("headers", {})[REPLAYED] = _REPLAYED_HEADER


def _posts(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, operations in document["paths"].items():
        if path.startswith("/v1/") and "post" in operations:
            yield operations["post"]


def _add_problem(answers: dict[str, Any], status: str, added: dict[str, Any]) -> None:
    there = answers.setdefault(status, added)
    if there is not added:
        there["description"] += f"; {added['description'][0].lower()}{added['description'][1:]}"
        there["content"][problems.MEDIA_TYPE]["examples"] |= added["content"][problems.MEDIA_TYPE]["examples"]
