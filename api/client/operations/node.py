"""The node: what it is, draining, stopping, settings, metrics, probes."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, TypedDict, Unpack

from iocpd.api.client.calls import Call, Duration, Item, Pause, Payload, Steps, ask, operation, payload_json, stream
from iocpd.api.client.errors import ProblemError, Unreachable
from iocpd.api.client.models import Drain, ListenerList, Node, Probe, Reload

# In which a drain moves no more.
_ENDED = ("none", "drained", "stopped")


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


class NodeOperations:
    """/v1/node, /v1/listeners, /metrics and the probes."""

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

    @operation
    def reload(self) -> Call[Reload]:
        """Has the service read its settings again: what can change while it runs is in force on return.

        Raises:
            Invalid: The settings are broken, and nothing has changed.
        """
        return Call(method="POST", route="/v1/node/reload", result=Reload)

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


def _look(*, retry: bool) -> Call[Drain]:
    return Call(method="GET", route="/v1/node/drain", result=Drain, retry=retry)


def _drain_json(options: Mapping[str, Any]) -> dict[str, object]:
    return {**options, "farewell": payload_json(options.get("farewell"))}
