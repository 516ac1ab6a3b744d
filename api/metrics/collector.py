"""The engine's counters as Prometheus metrics, read when somebody asks.

Names follow Prometheus' conventions: base units, `_total` on counters. Labels are few and bounded: worker, listener,
thread, reason, side, phase; never a connection or an address of a client.
"""

from collections.abc import Iterator
from dataclasses import fields
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from iocpd.api.context import Context
from iocpd.api.settings import HttpAddress
from iocpd.api.version import version
from iocpd.core import TURN_BUCKETS, By, Engine, ListenerStats, Phase, Reason, ServiceStats, WorkerStats

_WORKER_COUNTERS = (
    ("iocpd_worker_adopted_connections", "Connections that a worker was given.", "adopted"),
    ("iocpd_received_bytes", "Bytes received from clients.", "bytes_in"),
    ("iocpd_sent_bytes", "Bytes of which the system has taken the sending.", "bytes_out"),
    ("iocpd_received_messages", "Receives that brought data.", "messages_in"),
    ("iocpd_sent_messages", "Messages sent.", "messages_out"),
    ("iocpd_discarded_bytes", "Bytes read away after the end of a drain's sending.", "discarded_bytes"),
    ("iocpd_worker_turns", "Waits on the completion port that returned.", "turns"),
    ("iocpd_worker_events", "Completions taken from the port.", "events"),
    ("iocpd_receive_buffer_waits", "Receives that had to wait for a buffer.", "starved"),
    ("iocpd_completion_queue_overflows", "Overflows of the completion queue.", "overflows"),
    ("iocpd_inbox_refused_commands", "Commands refused because a worker's inbox was full.", "inbox_busy"),
)
_WORKER_GAUGES = (
    ("iocpd_worker_connections", "Connections of a worker.", "connections"),
    ("iocpd_send_queue_bytes", "Bytes queued and not yet taken by the system.", "pending_bytes"),
    ("iocpd_receive_buffers", "Receive buffers that exist.", "buffers"),
    ("iocpd_receive_buffers_in_use", "Receive buffers that hold data.", "buffers_in_use"),
    ("iocpd_relay_waiting_messages", "Relayed messages that wait for a worker.", "relay_waiting"),
)
_SERVICE_COUNTERS = (
    ("iocpd_service_received_messages", "Messages that a service in Python took.", "messages_in"),
    ("iocpd_service_sent_messages", "Messages that a service in Python sent; a broadcast is one.", "messages_out"),
    ("iocpd_service_dropped_broadcasts", "Broadcasts for which there was no memory.", "broadcasts_dropped"),
    ("iocpd_service_batches", "Calls in which a service in Python took something.", "batches"),
    ("iocpd_service_pauses", "How often a connection had to wait for its service in Python.", "pauses"),
    ("iocpd_service_errors", "Exceptions of a service's handlers and timers.", "errors"),
)
_SERVICE_GAUGES = (
    ("iocpd_service_connections", "Connections that a service in Python knows.", "connections"),
    ("iocpd_service_inbox_bytes", "Bytes that wait for a service in Python.", "waiting_bytes"),
    ("iocpd_service_paused_connections", "Connections that wait for their service in Python.", "paused"),
)
_REFUSED = "refused_"
_REFUSALS = tuple(field.name for field in fields(ListenerStats) if field.name.startswith(_REFUSED))
_BY_CLIENT = frozenset({Reason.CLIENT_CLOSED, Reason.CLIENT_RESET, Reason.CLIENT_TIMED_OUT})
_BY_OPERATOR = frozenset({Reason.KICKED, Reason.BANNED, Reason.DRAINED, Reason.SHUTDOWN})


class EngineCollector(Collector):
    """Reads the engine each time that it is asked to collect."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every family once."""
        info = self._engine.info()
        build = {"version": version(), "backend": info.backend}
        yield InfoMetricFamily("iocpd_build", "What is running.", build)
        yield GaugeMetricFamily(
            "iocpd_start_time_seconds", "When the engine started (Unix time).", info.started_at.timestamp()
        )
        yield GaugeMetricFamily(
            "iocpd_connections_limit", "Connections in all that are let in.", self._engine.config.max_connections
        )
        yield from self._drain()
        yield from _workers(self._engine.worker_stats())
        listeners = self._engine.listener_stats()
        yield from _listeners(listeners)
        yield from _services(self._engine.service_stats(), listeners)

    def _drain(self) -> Iterator[Metric]:
        progress = self._engine.drain_progress()
        phases = GaugeMetricFamily("iocpd_drain_phase", "1 for the phase that a drain is in.", labels=["phase"])
        for phase in Phase:
            phases.add_metric([phase], phase is progress.phase)
        yield phases
        draining = progress.phase is not Phase.NONE
        yield GaugeMetricFamily(
            "iocpd_drain_remaining_connections",
            "Connections that a drain has still to end.",
            progress.remaining if draining else 0,
        )


class ApiCollector(Collector):
    """Reads what the API itself counts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        """Every family once."""
        streams = self._context.streams
        yield GaugeMetricFamily("iocpd_bans", "Bans that are in force.", self._context.bans.count())
        yield GaugeMetricFamily(
            "iocpd_bans_limit", "Bans that there is room for.", self._context.engine.config.max_bans
        )
        yield GaugeMetricFamily(
            "iocpd_jobs_running", "Kicks and broadcasts that run as jobs.", self._context.jobs.running
        )
        yield GaugeMetricFamily("iocpd_event_streams", "Streams of events that are open.", streams.open)
        yield CounterMetricFamily("iocpd_streamed_events", "Events that were sent to a stream.", streams.sent)
        yield CounterMetricFamily(
            "iocpd_missed_events", "Events that a stream was too slow or came back too late for.", streams.missed
        )


def _workers(workers: list[WorkerStats]) -> Iterator[Metric]:
    for name, text, attribute in _WORKER_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=["worker"])
        for number, stats in enumerate(workers):
            counter.add_metric([str(number)], getattr(stats, attribute))
        yield counter
    for name, text, attribute in _WORKER_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=["worker"])
        for number, stats in enumerate(workers):
            gauge.add_metric([str(number)], getattr(stats, attribute))
        yield gauge
    closed = CounterMetricFamily(
        "iocpd_closed_connections", "Connections that have ended, by the side that began it.", labels=["reason", "by"]
    )
    for reason in workers[0].closed if workers else ():
        closed.add_metric([reason, _side(reason)], sum(stats.closed[reason] for stats in workers))
    yield closed
    turns = HistogramMetricFamily(
        "iocpd_worker_turn_duration_seconds",
        "From the return of a wait on the completion port until all that it brought is worked off.",
        labels=["worker"],
    )
    bounds = [floatToGoString(bound) for bound in TURN_BUCKETS]  # type: ignore[no-untyped-call]
    for number, stats in enumerate(workers):
        buckets = list(zip(bounds, accumulate(stats.turn_counts), strict=True))
        turns.add_metric([str(number)], buckets, stats.turn_seconds)
    yield turns


def _side(reason: Reason) -> By:
    """Who begins an end of this kind; as the engine has it in the record of each connection."""
    return By.CLIENT if reason in _BY_CLIENT else By.OPERATOR if reason in _BY_OPERATOR else By.ENGINE


def _listeners(listeners: list[ListenerStats]) -> Iterator[Metric]:
    # The configured address is not a client's, and two listeners never have the same one.
    labels = ["listener", "service"]
    connections = GaugeMetricFamily("iocpd_listener_connections", "Connections of a listener.", labels=labels)
    is_open = GaugeMetricFamily("iocpd_listener_open", "1 while a listener accepts.", labels=labels)
    accepted = CounterMetricFamily("iocpd_accepted_connections", "Connections accepted.", labels=labels)
    errors = CounterMetricFamily("iocpd_accept_errors", "Accepts that failed and were tried again.", labels=labels)
    refused = CounterMetricFamily("iocpd_refused_connections", "Connections turned away.", labels=[*labels, "reason"])
    for stats in listeners:
        values = _names(stats)
        connections.add_metric(values, stats.connections)
        is_open.add_metric(values, stats.open)
        accepted.add_metric(values, stats.accepted)
        errors.add_metric(values, stats.accept_errors)
        for name in _REFUSALS:
            refused.add_metric([*values, name.removeprefix(_REFUSED)], getattr(stats, name))
    yield from (connections, is_open, accepted, errors, refused)


def _services(threads: list[ServiceStats], listeners: list[ListenerStats]) -> Iterator[Metric]:
    labels = ["listener", "service", "thread"]
    for kind, families in ((CounterMetricFamily, _SERVICE_COUNTERS), (GaugeMetricFamily, _SERVICE_GAUGES)):
        for name, text, attribute in families:
            family = kind(name, text, labels=labels)
            for stats in threads:
                values = [*_names(listeners[stats.listener]), str(stats.thread)]
                family.add_metric(values, getattr(stats, attribute))
            yield family


def _names(listener: ListenerStats) -> list[str]:
    return [str(HttpAddress(listener.host, listener.port)), listener.service]
