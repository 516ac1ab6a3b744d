"""What overloads the service, each with what must become of it meanwhile."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.integration.server import Server
from tests.integration.test_metrics import samples
from tests.overload.load import ADDRESSES, Paced, Program, again_and_again, ask, deaf
from tests.support import PATIENCE, Client, eventually

ECHO, CROWD = 0, 1
"""The listeners: of the paced load, and of those who overload where they would be in its way otherwise."""


@dataclass(frozen=True)
class Size:
    """How much of each."""

    files: int | None
    """The server may open so many; None: as many as this machine allows."""
    readers: int
    slow_clients: int
    streams: int


FULL = Size(files=None, readers=1000, slow_clients=500, streams=500)
SMALL = Size(files=1500, readers=150, slow_clients=400, streams=330)


@dataclass(frozen=True)
class Scenario:
    """`overload` is on for as long as its block lasts, and has begun when it is entered."""

    overload: Callable[[Server, Size], Any]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.overload.__name__


def refused(server: Server, reason: str) -> float:
    """TCP clients that were turned away, of all listeners."""
    return sum(
        value
        for (name, *labels), value in samples(server).items()
        if name == "iocpd_refused_connections_total" and ("reason", reason) in labels
    )


def http_refused(server: Server, reason: str) -> float:
    """HTTP connections that were turned away before a request was understood."""
    return samples(server).get(("iocpd_http_refused_connections_total", ("reason", reason)), 0)


def problems(server: Server, code: str) -> float:
    return samples(server).get(("iocpd_http_problems_total", ("code", code)), 0)


def closed(server: Server, reason: str) -> float:
    """Connections that have ended for this reason."""
    return sum(
        value
        for (name, *labels), value in samples(server).items()
        if name == "iocpd_closed_connections_total" and ("reason", reason) in labels
    )


# ---- all handles of the machine held ---------------------------------------------------------------------------------


@contextmanager
def all_handles_held(server: Server, size: Size) -> Iterator[None]:
    """As many connections as the server takes, with echo on all of them; more are refused, and the API is not."""
    limit = server.get("/v1/node")["limits"]["max_connections"]
    before = refused(server, "limit")
    with Paced(server.ports[CROWD], limit - server.count(), 1000, addresses=ADDRESSES) as crowd:
        eventually(lambda: server.count() == limit)
        for asked in range(1, 6):
            assert is_turned_away(server)
            eventually(lambda asked=asked: refused(server, "limit") == before + asked)
        assert server.get("/v1/connections", limit=1000)["items"]
        yield
        assert is_turned_away(server)
        assert server.count() == limit
        found = crowd.measure(1)
        assert (found["errors"], found["mismatches"], found["unanswered"]) == (0, 0, 0), found
        crowd.end()
    # As soon as some leave, others get in.
    eventually(lambda: not is_turned_away(server))


def is_turned_away(server: Server) -> bool:
    """What a client finds who comes now."""
    try:
        with Client(server.ports[CROWD]) as client:
            return not client.echoes(b"may I?")
    except (ConnectionResetError, BrokenPipeError, AssertionError):  # at once, or with what it says
        return True


# ---- accept flood ----------------------------------------------------------------------------------------------------


@contextmanager
def accept_flood(server: Server, size: Size) -> Iterator[None]:
    """Clients come and reset as fast as they can."""

    def taken() -> float:
        found = samples(server)
        accepted = sum(value for (name, *_), value in found.items() if name == "iocpd_accepted_connections_total")
        return accepted + refused(server, "gone")

    before = taken()
    with Program("flood", "-p", server.ports[CROWD], "-a", ADDRESSES) as flood:
        eventually(lambda: taken() > before + 100)
        yield
        connects = json.loads(flood.end())["connects"]
    # Those who reset before the system had them in its backlog were never seen. A client in earnest is served at once.
    assert taken() <= before + connects
    with Client(server.ports[CROWD]) as client:
        assert client.echoes(b"at last")


# ---- readers that never read -----------------------------------------------------------------------------------------

SOFT_BYTES, SOFT_SECONDS, HARD_BYTES = 64 * 1024, 2.0, 256 * 1024
MESSAGE = "x" * 64 * 1024


@contextmanager
def deaf_readers(server: Server, size: Size) -> Iterator[None]:
    """Broadcasts without pause to many who never read: half of a queue's bound is the least that each can cost."""
    skipped: list[int] = []
    before = closed(server, "slow_consumer")

    def send() -> None:
        message = {"listener": CROWD, "payload": {"text": MESSAGE}, "timeout": "100ms"}
        report = httpx.post(server.url + "/v1/broadcasts", json=message, timeout=PATIENCE, trust_env=False).json()
        skipped.append(report["skipped_slow"])

    def all_ended() -> bool:
        queued = sum(value for (name, *_), value in samples(server).items() if name == "iocpd_send_queue_bytes")
        assert queued <= size.readers * HARD_BYTES, "more is queued than the bound of all queues"
        return closed(server, "slow_consumer") == before + size.readers

    with deaf(server.ports[CROWD], size.readers):
        eventually(lambda: server.count() >= size.readers)
        with again_and_again(send, 0.01):
            yield
            # Above the hard limit nothing more is queued for them; above the soft one for too long, they are ended.
            eventually(all_ended, 3 * PATIENCE)
        assert sum(skipped) > 0


# ---- slow HTTP clients -----------------------------------------------------------------------------------------------

HALF_HEADERS = b"GET /v1/node HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
HALF_BODY = b"POST /v1/broadcasts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{"
NOT_READ = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20
TOO_LONG_HEADERS = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"y" * 100_000 + b"\r\n\r\n"


@contextmanager
def slow_http(server: Server, size: Size) -> Iterator[None]:
    """Clients of the API, more than it serves, that say nothing, that say a header or a body a byte at a time, and that
    ask for more than they read. Those who are in earnest get their answers."""
    each = size.slow_clients // 4
    displaced = http_refused(server, "displaced")
    headers, bodies = http_refused(server, "headers_too_large"), problems(server, "body_too_large")
    asked = 0

    def ask_too_much() -> None:
        nonlocal asked
        refuses_what_is_too_large(server)
        asked += 1

    def crawl(clients: list[socket.socket]) -> None:
        for client in clients:
            with suppress(OSError):
                client.send(b"y")

    with ExitStack() as stack:
        slow = []
        for said in (HALF_HEADERS, HALF_BODY, b"", NOT_READ):
            slow += [client.socket for client in stack.enter_context(deaf(server.http_port, each, said))]
        stack.enter_context(again_and_again(lambda: crawl(slow[: 2 * each]), 0.2))
        stack.enter_context(again_and_again(ask_too_much, 0.2))
        yield
    eventually(lambda: http_refused(server, "displaced") > displaced)
    assert http_refused(server, "headers_too_large") == headers + asked
    assert problems(server, "body_too_large") == bodies + asked


def refuses_what_is_too_large(server: Server) -> None:
    """With the codes that say so."""
    assert ask(server.http_port, TOO_LONG_HEADERS).startswith(b"HTTP/1.1 431 ")
    body = b"x" * 4_000_000
    head = b"POST /v1/broadcasts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert ask(server.http_port, head + body).startswith(b"HTTP/1.1 413 ")


# ---- event streams ---------------------------------------------------------------------------------------------------

STREAMS = 64
STREAM = b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextmanager
def event_streams(server: Server, size: Size) -> Iterator[None]:
    """More streams of events than there may be, while much happens; none of those who have one reads it."""

    def churn() -> None:
        for client in [Client(server.ports[CROWD]) for _ in range(20)]:
            client.reset()

    before = problems(server, "too_many_streams")
    with deaf(server.http_port, size.streams, STREAM) as watchers, again_and_again(churn, 0.02):
        answers = [watcher.socket.recv(12) for watcher in watchers]
        expected = {b"HTTP/1.1 200": STREAMS, b"HTTP/1.1 429": size.streams - STREAMS}
        assert Counter(answers) == expected, Counter(answers)
        assert problems(server, "too_many_streams") == before + size.streams - STREAMS
        assert samples(server)[("iocpd_event_streams",)] == STREAMS
        yield
    eventually(lambda: samples(server)[("iocpd_event_streams",)] == 0)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(all_handles_held),
        Scenario(accept_flood),
        Scenario(
            deaf_readers,
            {
                "send_soft_bytes": SOFT_BYTES,
                "send_soft_seconds": SOFT_SECONDS,
                "send_hard_bytes": HARD_BYTES,
                "max_message_bytes": HARD_BYTES,
            },
        ),
        Scenario(slow_http),
        Scenario(event_streams, {"http_connections": 1000}),
    )
}
