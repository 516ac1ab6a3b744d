"""The HTTP side of the process: its listening socket, and uvicorn with bounds on what a client may do before it is
understood.

uvicorn leaves four things open that an API which shares its process with the service must not: a connection that never
sends a request, headers without an end, answers that are never read, and any number of connections. `BoundedProtocol`
closes them, in problem details where an answer is possible.

Clients that only hold connections keep nobody out: above the bound, the one that has waited longest without a request
gives its place to the one that comes. Only while all are being answered, others are told that there are too many; a
probe is answered even then.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar

import uvicorn
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from iocpd.api import problems
from iocpd.api.logs import get_logger
from iocpd.api.metrics.requests import RequestMetrics
from iocpd.api.problems import Problem
from iocpd.api.settings import HttpAddress, Settings

HEADERS_SECONDS = 10.0
"""A request's headers must be complete this long after the connection, or after the first byte of a later request."""
HEADERS_BYTES = 32 * 1024
ANSWER_SECONDS = 30.0
"""A client that does not read its answer, or reads it slower than some 2 kB/s, is cut off."""
STOP_SECONDS = 2
"""How long an answer that is on its way may hold up the end of the process."""

_BACKLOG = 1024
_ACCEPTS = 64  # asyncio takes at most so many clients before it reads from any
_UNSENT_BYTES = 32 * 1024
_NO_HANDLES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # asyncio accepts again after a second
_COMPLAINT_SECONDS = 60.0
# Beyond the limit so many more connections are told so; the next ones are cut without a word.
_TOLD = 64
_PROBES = (b"/livez", b"/readyz", b"/startupz")

_log = get_logger("iocpd.http")


class ListenFailure(Exception):
    """The API can't listen where it should; the text says why, and what to do."""


def listen(address: HttpAddress) -> socket.socket:
    """A listening socket for the API. ListenFailure.

    It is made before anything is served, so that a port that is taken ends the start and not a service that runs.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "this can't be a name"
        raise ListenFailure(f"cannot listen on {address} (HTTP): {address.host!r} is no address here: {why}") from None
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR would let another process take the port away.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and where[0] == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Accepted sockets inherit it. asyncio sets it on those that its selector loop accepts; not on every system and
        # loop.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _bound_unsent(listener)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ListenFailure(f"cannot listen on {address} (HTTP): {_advice(error)}") from None
    return listener


def _bound_unsent(listener: socket.socket) -> None:
    """What a client does not read waits in this process and not in the kernel, which would copy 200 kB of it in one
    call, and a worker waits for the processor as long. Accepted sockets inherit it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a system that does not know the option
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; give another with --http HOST:PORT, or 0 to let the system choose"
    if isinstance(error, PermissionError):
        if sys.platform == "win32":
            return (
                "another program has this port for itself, or Windows reserves it (`netsh int ipv4 show"
                " excludedportrange protocol=tcp`); give another with --http HOST:PORT"
            )
        return "no right to use this port; give another with --http HOST:PORT, above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has that address"
    return error.strerror or str(error)


class HttpServer(uvicorn.Server):
    """uvicorn, with signals left to whoever runs it."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: RequestMetrics) -> None:
        class Protocol(BoundedProtocol):
            connection_limit = settings.http_connections
            request_metrics = metrics
            waiting: ClassVar[dict[BoundedProtocol, None]] = {}

        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,  # api/middleware.py writes one, without queries
                proxy_headers=False,
                server_header=False,
                # asyncio's bound on accepts in a row is the backlog. Whoever comes with a request is heard before so
                # many have come after him that he would give them his place.
                backlog=max(1, min(_ACCEPTS, settings.http_connections // 4)),
                timeout_keep_alive=int(settings.http_keep_alive),
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self.ready = asyncio.Event()
        self._next_complaint = 0.0
        # What it says below that level is what clients do wrong, a line for each: the metrics count it.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none: a signal drains the engine first, and this server stops last."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept, and says so."""
        asyncio.get_running_loop().set_exception_handler(self._note_exception)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)
        self.ready.set()

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio tells of a lack of handles, with a traceback, as many times as it would have accepted; and of who is
        gone before he is accepted, which Windows has accept() say of a client that resets while it waits."""
        error = context.get("exception")
        if isinstance(error, ConnectionError) and "handle" in context:  # of a callback, and not of a task
            return
        if not (isinstance(error, OSError) and error.errno in _NO_HANDLES and "socket" in context):
            loop.default_exception_handler(context)
        elif loop.time() >= self._next_complaint:
            self._next_complaint = loop.time() + _COMPLAINT_SECONDS
            _log.error("who connects to the API has to wait: no socket can be accepted", reason=error.strerror)


class BoundedProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    connection_limit: int
    request_metrics: RequestMetrics
    waiting: ClassVar[dict["BoundedProtocol", None]]
    """Those without a request that is being answered; the one that has waited longest comes first."""

    _headers_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _in_headers = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.connection_limit:
            self._make_room()
        self.waiting[self] = None
        if len(self.connections) > self.connection_limit + _TOLD:
            # On Windows select() takes 512 sockets and no more, so this bound must hold whatever clients do.
            self.request_metrics.note_refused("too_many")
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_answer_timer()
        self.waiting.pop(self, None)
        # uvicorn leaves the timer of a connection that was reset, and with it what belongs to that, for its whole time.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._arm()
        began = self._in_headers
        super().data_received(data)
        # Whole headers are measured when they are complete; this is for those that never are.
        self._header_bytes = self._header_bytes + len(data) if began and self._in_headers else 0
        if self._header_bytes > HEADERS_BYTES and not self.transport.is_closing():
            self._refuse("headers_too_large", _headers_too_large())

    def on_message_begin(self) -> None:
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._disarm()
        self.waiting.pop(self, None)
        served = self.app
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEADERS_BYTES:
            self.request_metrics.note_refused("headers_too_large")
            self.app = _answer(_headers_too_large())
        elif len(self.connections) > self.connection_limit and self.url.partition(b"?")[0] not in _PROBES:
            self.request_metrics.note_refused("too_many")
            detail = f"the API serves at most {self.connection_limit} HTTP connections at once"
            self.app = _answer(Problem(problems.TOO_MANY_REQUESTS_AT_ONCE, detail))
        super().on_headers_complete()
        self.app = served

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # otherwise the next request has come already
            self.waiting[self] = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_timer = self.loop.call_later(ANSWER_SECONDS, self._answer_late)

    def resume_writing(self) -> None:
        self._stop_answer_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What arrived is not HTTP."""
        self._refuse("not_http", Problem(problems.BAD_REQUEST))

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not made is no event: the request is answered as HTTP/1.1."""

    def _arm(self) -> None:
        if self._headers_timer is None:
            self._headers_timer = self.loop.call_later(HEADERS_SECONDS, self._headers_late)

    def _disarm(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_late(self) -> None:
        self._headers_timer = None
        if self.transport.is_closing():
            return
        if self._in_headers:
            detail = f"the request's headers were not complete after {HEADERS_SECONDS:.0f} s"
            self._refuse("headers_timeout", Problem(problems.REQUEST_TIMEOUT, detail))
        else:
            self.transport.close()

    def _make_room(self) -> None:
        """Cuts off the one that has waited longest; nobody, while all are being answered."""
        longest = next(iter(self.waiting), None)
        if longest is not None:
            self.request_metrics.note_refused("displaced")
            del self.waiting[longest]
            self.connections.discard(longest)  # now, and not when its end is told
            longest.transport.abort()

    def _answer_late(self) -> None:
        self._answer_timer = None
        self.request_metrics.note_refused("answer_timeout")
        self.transport.abort()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _refuse(self, reason: str, problem: Problem) -> None:
        self.request_metrics.note_refused(reason)
        self._disarm()
        # In the middle of another answer this one would read as a part of it.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            status, headers, body = _plain(problem)
            head = [f"HTTP/1.1 {status} {problem.kind.title}".encode()]
            head += [name + b": " + value for name, value in headers]
            self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        self.transport.close()


def _headers_too_large() -> Problem:
    return Problem(problems.HEADERS_TOO_LARGE, f"a request's headers may have at most {HEADERS_BYTES} bytes in all")


def _plain(problem: Problem) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    request_id = os.urandom(16).hex()
    body = to_json(problems.body_of(problem, request_id))
    headers = [
        (b"content-type", problems.MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    if problem.kind.retry_after_s is not None:
        headers.append((b"retry-after", str(problem.kind.retry_after_s).encode()))
    return problem.kind.status, headers, body


def _answer(problem: Problem) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """An application that says only this."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        status, headers, body = _plain(problem)
        start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return answer
