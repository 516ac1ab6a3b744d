"""Messages, and kicks and broadcasts for many connections at once."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Literal, Protocol, TypeVar, Unpack

from iocpd.api.client.calls import Call, Duration, Item, Pause, Payload, Steps, ask, operation, payload_json, stream
from iocpd.api.client.models import BroadcastReport, KickReport, Report
from iocpd.api.client.operations.filters import Target

R = TypeVar("R", bound="_Job")


class _Job(Protocol):
    @property
    def job(self) -> str | None: ...
    @property
    def state(self) -> str: ...


class BulkOperations:
    """/v1/connections/{id}/messages, /v1/kicks, /v1/broadcasts."""

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
            Conflict: It is on its way out and takes nothing more, or is still arriving.
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
    def kick_many(
        self,
        *,
        reason: str = "",
        farewell: Payload | None = None,
        force: bool = False,
        timeout: float = 5.0,
        ban_ttl: Duration | None = None,
        prefer: Literal["respond-async"] | None = None,
        **target: Unpack[Target],
    ) -> Call[KickReport]:
        """Ends every connection that the filter matches.

        Up to 1,000 are answered for once each has left the service's table or has failed to. For more, or with a rate,
        the report has a `job`: `watch_kicks` follows it, `cancel_kicks` stops it.

        Args:
            reason: Kept with each ended connection as its `text`: at most 199 bytes, on one line.
            farewell: What each is sent before its end.
            force: Reset at once; then nothing that is queued is sent, and there may be no farewell.
            timeout: Seconds after which one is reset that has not left, at most 300.
            ban_ttl: Ban each one's address for so long before it is kicked; needs the scope bans:write too.
            prefer: "respond-async": make it a job even if there are few.
            target: See Target.

        Raises:
            Invalid: Neither a filter nor `all` is given, or both.
            ProblemError: status 413 for a farewell that is too large; 429 if too many jobs are running; 503 if the
                service is too busy or is stopping.
        """
        return Call(
            method="POST",
            route="/v1/kicks",
            result=KickReport,
            headers={"prefer": prefer},
            json={
                "reason": reason or None,
                "farewell": payload_json(farewell),
                "force": force or None,
                "timeout": timeout,
                "ban_ttl": ban_ttl,
                **_target_json(target),
            },
            # Those that do not leave are reset at the timeout, and the service has some seconds more for that.
            waits=timeout + 15,
        )

    @operation
    def get_kicks(self, job: str) -> Call[KickReport]:
        """How far a kick of many has come.

        Raises:
            NotFound: There is no such job, or it ended more than 15 minutes ago.
        """
        return Call(method="GET", route="/v1/kicks/{job}", result=KickReport, path={"job": job})

    @operation
    def cancel_kicks(self, job: str) -> Call[None]:
        """Stops a kick of many; whose turn has not come is left alone. One that has ended stays as it is.

        Raises:
            NotFound: As `get_kicks` does.
        """
        return Call(method="DELETE", route="/v1/kicks/{job}", result=NoneType, path={"job": job})

    @stream
    def watch_kicks(self, begun: KickReport | str, *, interval: float = 0.5) -> Steps[KickReport]:
        """Iterates over the progress of a kick of many until it has ended; the last report given is the final one.

        Args:
            begun: What `kick_many` returned, or its `job`.
            interval: Seconds between two looks.

        Raises:
            NotFound: As `get_kicks` does.
        """
        return _watch(begun, lambda job: BulkOperations.get_kicks.call(job), interval)

    @operation
    def broadcast(
        self,
        payload: Payload,
        *,
        on_slow: Literal["skip", "disconnect"] = "skip",
        ttl_ms: int | None = None,
        timeout: float = 5.0,
        prefer: Literal["respond-async"] | None = None,
        **target: Unpack[Target],
    ) -> Call[BroadcastReport]:
        """Sends to every connection that the filter matches; returns once the report is final, or the time is up.

        For more than 1,000, or with a rate, the report has a `job`: `watch_broadcast` follows it, `cancel_broadcast`
        stops it.

        Args:
            payload: At least one byte.
            on_slow: What becomes of a connection that has too much unread queued: leave it out, or end it.
            ttl_ms: Milliseconds after which it is dropped where it has not begun to be sent.
            timeout: Seconds to wait for the report to be final, at most 300. After it, `done` is False and nothing is
                cancelled.
            prefer: "respond-async": make it a job even if there are few.
            target: See Target.

        Raises:
            Invalid: Neither a filter nor `all` is given, or both.
            ProblemError: status 413 if it is too large; 429 if too many jobs are running; 503 if the service is too
                busy or is stopping.
        """
        return Call(
            method="POST",
            route="/v1/broadcasts",
            result=BroadcastReport,
            headers={"prefer": prefer},
            json={
                "payload": payload_json(payload),
                "on_slow": None if on_slow == "skip" else on_slow,
                "ttl_ms": ttl_ms,
                "timeout": timeout,
                **_target_json(target),
            },
            waits=timeout + 10,
        )

    @operation
    def get_broadcast(self, job: str) -> Call[BroadcastReport]:
        """How far a broadcast has come.

        Raises:
            NotFound: There is no such job, or it ended more than 15 minutes ago.
        """
        return Call(method="GET", route="/v1/broadcasts/{job}", result=BroadcastReport, path={"job": job})

    @operation
    def cancel_broadcast(self, job: str) -> Call[None]:
        """Stops a broadcast; what is queued already is sent. One that has ended stays as it is.

        Raises:
            NotFound: As `get_broadcast` does.
        """
        return Call(method="DELETE", route="/v1/broadcasts/{job}", result=NoneType, path={"job": job})

    @stream
    def watch_broadcast(self, begun: BroadcastReport | str, *, interval: float = 0.5) -> Steps[BroadcastReport]:
        """Iterates over the progress of a broadcast until it has ended; the last report given is the final one.

        Args:
            begun: What `broadcast` returned, or its `job`.
            interval: Seconds between two looks.

        Raises:
            NotFound: As `get_broadcast` does.
        """
        return _watch(begun, lambda job: BulkOperations.get_broadcast.call(job), interval)


def _watch(begun: R | str, look: Callable[[str], Call[R]], interval: float) -> Steps[R]:
    if isinstance(begun, str):
        job: str | None = begun
    else:
        yield Item(begun)
        if begun.state != "running":
            return
        job = begun.job
        yield Pause(interval)
    assert job is not None  # what is running is a job
    while True:
        report = yield from ask(look(job))
        yield Item(report)
        if report.state != "running":
            return
        yield Pause(interval)


def _target_json(target: Target) -> dict[str, object]:
    return {name: value for name, value in target.items() if value is not False}
