"""Every endpoint, described once for both clients.

To add one: a method here that returns its Call, with the parameters that the OpenAPI document names, and its result in
models.py; for a listing also a stream that follows its pages. tests/unit/test_client_contract.py says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack

from iocpd.api.client.calls import Call, Duration, Item, Pause, Payload, Steps, ask, operation, payload_json, stream
from iocpd.api.client.errors import ProblemError, Unreachable
from iocpd.api.client.models import (
    ClosedConnection,
    ClosedPage,
    Connection,
    ConnectionPage,
    Drain,
    ListenerList,
    Node,
    Probe,
    Report,
    Sort,
    State,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# In which a drain moves no more.
_ENDED = ("none", "drained", "stopped")


class Filter(TypedDict, total=False):
    """Which connections: every field that is given must match.

    Attributes:
        ip: The peer's address, or the CIDR block that it is in, such as "192.0.2.0/24".
        listener: `id` of the listener.
        state: The state now.
        older_than: Connected for longer than this.
        idle_for: Nothing received or sent for longer than this.
        min_pending_bytes: At least so much is queued to be sent.
        min_bytes_in: At least so much has been received.
        min_bytes_out: At least so much has been sent.
    """

    ip: str | None
    listener: int | None
    state: State | None
    older_than: Duration | None
    idle_for: Duration | None
    min_pending_bytes: int | None
    min_bytes_in: int | None
    min_bytes_out: int | None


class DrainOptions(TypedDict, total=False):
    """How to drain. What is left out is taken from the service's settings.

    Attributes:
        lb_delay: First be not ready for so long and still accept, so that load balancers notice.
        grace: Then accept nobody for so long, and leave clients the time to go by themselves.
        rate_per_s: Then end so many connections a second; 0: all at once.
        deadline: So long after the request, what is left is cut off.
        farewell: What each connection is sent before its end.
    """

    lb_delay: Duration | None
    grace: Duration | None
    rate_per_s: int | None
    deadline: Duration | None
    farewell: Payload | None


class Operations:
    """What both clients can do.

    Each method raises Unreachable, TimedOut, UnexpectedAnswer or a ProblemError: Unauthorized and Forbidden for the
    key, Invalid for a value that the service does not take, and what its own text names. A request is made again after
    a failure only where that can't do anything twice.
    """

    # --- connections --------------------------------------------------------------------------------------------------

    @operation
    def list_connections(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        count: Literal["none", "exact"] = "none",
        sort: Sort | None = None,
        **where: Unpack[Filter],
    ) -> Call[ConnectionPage]:
        """One page of connections; `connections` follows the pages by itself.

        Args:
            limit: How many a page has at most, from 1 to 1,000.
            cursor: `next_cursor` of the page before, only together with the same filter and order.
            count: "exact" fills in `total`.
            sort: The order at the moment of the first page, such as "-bytes_in": the largest first. The service keeps
                it until the page's `snapshot.expires_at`.
            where: See Filter; without any, all connections.

        Raises:
            Gone: The cursor belongs to an earlier run of the service, or to an order that is no longer kept (code
                "snapshot_expired"); begin again without it.
            Invalid: It is not a cursor, or one of another filter or order.
        """
        query = {"limit": limit, "cursor": cursor, "count": count, "sort": sort, **where}
        return Call(method="GET", route="/v1/connections", result=ConnectionPage, query=query)

    @stream
    def connections(
        self, *, page_size: int = 1000, sort: Sort | None = None, **where: Unpack[Filter]
    ) -> Steps[Connection]:
        """Iterates over connections, and asks for the next page when one is used up.

        Each connection that stays until the end is given exactly once, and none that came after the beginning is. Those
        that end meanwhile may or may not be.

        Args:
            page_size: How many are asked for at a time, from 1 to 1,000.
            sort: The order at the beginning, such as "-bytes_in": the largest first.
            where: See Filter; without any, all connections.

        Raises:
            Gone: The service was started again in the meantime, or does not keep the order any longer (code
                "snapshot_expired"): it does so for 30 s, so go through sorted connections quickly.
        """
        return _pages(
            lambda cursor: Operations.list_connections.call(limit=page_size, cursor=cursor, sort=sort, **where)
        )

    @operation
    def list_closed(self, *, limit: int = 100, cursor: str | None = None) -> Call[ClosedPage]:
        """One page of connections that have ended, newest first; `closed_connections` follows the pages by itself.

        Args:
            limit: How many a page has at most, from 1 to 1,000.
            cursor: `next_cursor` of the page before.

        Raises:
            Gone, Invalid: As `list_connections` does.
        """
        query = {"limit": limit, "cursor": cursor}
        return Call(method="GET", route="/v1/connections/closed", result=ClosedPage, query=query)

    @stream
    def closed_connections(self, *, page_size: int = 1000) -> Steps[ClosedConnection]:
        """Iterates over connections that have ended, newest first, as far back as the service remembers.

        Args:
            page_size: How many are asked for at a time, from 1 to 1,000.

        Raises:
            Gone: The service was started again in the meantime.
        """
        return _pages(lambda cursor: Operations.list_closed.call(limit=page_size, cursor=cursor))

    @operation
    def get_connection(self, id: str) -> Call[Connection]:
        """One connection.

        Raises:
            NotFound: No connection ever had this id.
            Gone: It has ended, and `closed` tells how; or the id is from another run.
        """
        return Call(method="GET", route="/v1/connections/{id}", result=Connection, path={"id": id})

    @operation
    def kick(
        self, id: str, *, reason: str = "", farewell: Payload | None = None, force: bool = False, timeout: float = 5.0
    ) -> Call[None]:
        """Ends a connection, and returns once it has left the service's table.

        What is queued for it is sent, then the farewell, then the end of the stream.

        Args:
            reason: Kept with the ended connection as its `text`: at most 199 bytes, on one line.
            farewell: What it is sent before its end.
            force: Reset it at once; then nothing that is queued is sent, and there may be no farewell.
            timeout: Seconds after which it is reset if it has not left, at most 300.

        Raises:
            NotFound: No connection ever had this id.
            Gone: It had ended before, and `closed` tells how; or the id is from another run.
            ProblemError: status 413 for a farewell that is too large; 503 if the service is too busy or is stopping;
                504 if it is still on its way out.
        """
        return Call(
            method="DELETE",
            route="/v1/connections/{id}",
            result=NoneType,
            path={"id": id},
            query={"reason": reason or None, "force": force or None, "timeout": timeout},
            json={"farewell": payload_json(farewell)},
            # The service has some seconds more for the reset to be noticed.
            waits=timeout + 5,
        )

    # --- messages -----------------------------------------------------------------------------------------------------

    @operation
    def send(self, id: str, payload: Payload, *, timeout: float = 5.0) -> Call[Report]:
        """Sends to one connection; returns once the system has taken every byte, or the time is up.

        Args:
            payload: At least one byte.
            timeout: Seconds to wait for the report to be final, from 0.1 to 300. After it, `done` is False and the
                message stays queued.

        Raises:
            NotFound: No connection ever had this id.
            Gone: It has ended, and `closed` tells how; or the id is from another run.
            Conflict: It is on its way out and takes nothing more.
            ProblemError: status 413 if it is too large; 429 if too much unread is queued for the connection; 503 if
                the service is too busy or is stopping.
        """
        return Call(
            method="POST",
            route="/v1/connections/{id}/messages",
            result=Report,
            path={"id": id},
            query={"timeout": timeout},
            content=payload.encode() if isinstance(payload, str) else payload,
            waits=timeout,
        )

    @operation
    def broadcast(
        self, payload: Payload, *, all: bool = False, timeout: float = 5.0, **where: Unpack[Filter]
    ) -> Call[Report]:
        """Sends to every connection that the filter matches; returns once the report is final, or the time is up.

        Args:
            payload: At least one byte.
            all: Needed when no filter is given, so that nobody is sent to by accident.
            timeout: Seconds to wait for the report to be final, at most 300. After it, `done` is False and nothing is
                cancelled.
            where: See Filter.

        Raises:
            Invalid: Neither a filter nor `all` is given, or both.
            ProblemError: status 413 if it is too large; 503 if the service is too busy or is stopping.
        """
        json = {"payload": payload_json(payload), "all": all or None, "timeout": timeout, **where}
        return Call(method="POST", route="/v1/broadcasts", result=Report, json=json, waits=timeout)

    # --- the node -----------------------------------------------------------------------------------------------------

    @operation
    def get_node(self) -> Call[Node]:
        """The process: version, backend and why, limits, totals of each worker."""
        return Call(method="GET", route="/v1/node", result=Node)

    @operation
    def list_listeners(self) -> Call[ListenerList]:
        """Where the service listens, with each listener's counters."""
        return Call(method="GET", route="/v1/listeners", result=ListenerList)

    @operation
    def get_drain(self) -> Call[Drain]:
        """How far the drain has come; its phase is "none" when there is none."""
        return Call(method="GET", route="/v1/node/drain", result=Drain)

    @operation
    def begin_drain(
        self, *, then: Literal["stay", "shutdown"] = "stay", **options: Unpack[DrainOptions]
    ) -> Call[Drain]:
        """Begins a drain and returns at once: not ready, then listeners close, then connections are ended.

        Args:
            then: Stay drained until `cancel_drain`, or shut down, which needs the scope node:shutdown too.
            options: See DrainOptions.

        Raises:
            Conflict: A drain is under way already.
            ProblemError: status 413 for a farewell that is too large; 503 if the service is stopping.
        """
        json = {"then": then, **_drain_json(options)}
        return Call(method="PUT", route="/v1/node/drain", result=Drain, json=json)

    @operation
    def cancel_drain(self) -> Call[None]:
        """Opens the listeners again. Connections that are on their way out go on leaving.

        Raises:
            Conflict: There is no drain, or it is a shutdown.
            ProblemError: status 503 if a listener can't open again, or the service is stopping.
        """
        return Call(method="DELETE", route="/v1/node/drain", result=NoneType)

    @operation
    def shutdown(self, **options: Unpack[DrainOptions]) -> Call[Drain]:
        """Begins a drain after which the process ends with status 0, and returns at once.

        A second one may only be quicker.

        Args:
            options: See DrainOptions.

        Raises:
            Conflict: It would be slower than the one that is under way.
            ProblemError: status 413 for a farewell that is too large; 503 if the service has stopped.
        """
        return Call(method="POST", route="/v1/node/shutdown", result=Drain, json=_drain_json(options))

    @stream
    def watch_drain(self, *, begun: Drain | None = None, interval: float = 0.5) -> Steps[Drain]:
        """Iterates over a drain's progress until it has ended; the last one given says how.

        It ends with phase "drained"; with phase "none" if the drain was cancelled or there is none; and in a shutdown
        with phase "stopped", or earlier when the process is gone.

        Args:
            begun: What `begin_drain` or `shutdown` returned. Without it, that the process is gone at the first look
                already is an error, and not a shutdown that was quick.
            interval: Seconds between two looks.

        Raises:
            Unreachable: The service went away, and not because of a shutdown.
        """
        # Once it is known to be leaving, that it does not answer is no reason to ask again.
        leaving = begun is not None and begun.then == "shutdown"
        while True:
            try:
                progress = yield from ask(_look(retry=not leaving))
            except Unreachable:
                if not leaving:
                    raise
                return
            except ProblemError as problem:
                if not (leaving and problem.status == 503):
                    raise
                return
            yield Item(progress)
            if progress.phase in _ENDED:
                return
            leaving = progress.then == "shutdown"
            yield Pause(interval)

    # --- metrics and probes -------------------------------------------------------------------------------------------

    @operation
    def get_metrics(self) -> Call[str]:
        """The engine's and the API's counters in Prometheus' text format."""
        return Call(method="GET", route="/metrics", result=str)

    @operation
    def get_live(self) -> Call[Probe]:
        """Returns while the process answers at all, also during a drain. Needs no key, as all probes."""
        return Call(method="GET", route="/livez", result=Probe, retry=False)

    @operation
    def get_ready(self) -> Call[Probe]:
        """Returns while new connections are welcome.

        Raises:
            ProblemError: status 503, code "not_ready": they are not, and its detail says why.
        """
        return Call(method="GET", route="/readyz", result=Probe, retry=False)

    @operation
    def get_started(self) -> Call[Probe]:
        """Returns once the engine runs.

        Raises:
            ProblemError: status 503, code "not_ready": it does not.
        """
        return Call(method="GET", route="/startupz", result=Probe, retry=False)


class _Page(Protocol[T_co]):
    @property
    def items(self) -> tuple[T_co, ...]: ...
    @property
    def next_cursor(self) -> str | None: ...


def _pages(page_at: Callable[[str | None], Call[_Page[T]]]) -> Steps[T]:
    cursor = None
    while True:
        page = yield from ask(page_at(cursor))
        for item in page.items:
            yield Item(item)
        cursor = page.next_cursor
        if cursor is None:
            return


def _look(*, retry: bool) -> Call[Drain]:
    return Call(method="GET", route="/v1/node/drain", result=Drain, retry=retry)


def _drain_json(options: Mapping[str, Any]) -> dict[str, object]:
    return {**options, "farewell": payload_json(options.get("farewell"))}
