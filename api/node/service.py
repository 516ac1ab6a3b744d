"""The node's state as the routes show it, and drains."""

import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from iocpd.api import problems
from iocpd.api.context import Context
from iocpd.api.durations import format_duration
from iocpd.api.node.schemas import (
    DrainOptions,
    DrainView,
    FramingView,
    LimitsView,
    ListenerView,
    NodeView,
    ReloadView,
    ServiceThreadView,
    WorkerView,
)
from iocpd.api.payloads import checked
from iocpd.api.problems import Problem
from iocpd.api.settings import Settings
from iocpd.api.version import version
from iocpd.core import (
    DrainConflict,
    DrainProgress,
    Engine,
    EngineError,
    EngineStopped,
    Phase,
    ServiceStats,
    WorkerStats,
)


def describe_node(context: Context) -> NodeView:
    """Everything of GET /v1/node, as of now."""
    engine = context.engine
    info = engine.info()
    workers = [_worker(stats) for stats in engine.worker_stats()]
    return NodeView(
        instance=context.instance.name,
        version=version(),
        pid=os.getpid(),
        started_at=info.started_at,
        uptime=format_duration(context.instance.uptime),
        backend={"name": info.backend, "reason": info.backend_reason},
        workers=info.workers,
        busy_poll_us=context.settings.busy_poll_us,
        phase=engine.drain_progress().phase,
        accepting=info.accepting,
        connections=info.connections,
        bans=context.bans.count(),
        dominant_address=asdict(info.dominant_address) if info.dominant_address else None,
        audit_trouble=context.audit.trouble or None,
        limits=_limits(context.settings),
        totals=_sum(workers),
        per_worker=workers,
    )


def describe_listeners(context: Context) -> list[ListenerView]:
    """Every listener with its counters."""
    threads = context.engine.service_stats()
    return [
        ListenerView(
            id=number,
            host=stats.host,
            port=stats.port,
            service=stats.service,
            framing=FramingView(kind=stats.framing.kind, max_bytes=stats.framing.limit, options=str(stats.framing)),
            open=stats.open,
            connections=stats.connections,
            accepted=stats.accepted,
            refused_limit=stats.refused_limit,
            refused_memory=stats.refused_memory,
            refused_gone=stats.refused_gone,
            refused_banned=stats.refused_banned,
            refused_address_limit=stats.refused_address_limit,
            refused_address_rate=stats.refused_address_rate,
            refused_rate=stats.refused_rate,
            accept_errors=stats.accept_errors,
            service_threads=[_service_thread(thread) for thread in threads if thread.listener == number],
        )
        for number, stats in enumerate(context.engine.listener_stats())
    ]


def describe_reload(view: ReloadView) -> str:
    """What it changed, on one line."""
    changed = ", ".join(f"{each.name} {each.before} -> {each.after}" for each in view.changed) or "nothing changed"
    late = ", ".join(each.name for each in view.needs_restart)
    return f"done, {changed}" + (f"; needs a restart: {late}" if late else "")


def begin_drain(context: Context, options: DrainOptions, then: Literal["stay", "shutdown"]) -> DrainView:
    """Begins a drain, or a shutdown. iocpd.core.DrainConflict, EngineStopped; Problem."""
    farewell = checked(options.farewell.data, context.settings, "farewell") if options.farewell else b""
    drain(
        context.engine,
        context.settings,
        stop=then == "shutdown",
        lb_delay=options.lb_delay,
        grace=options.grace,
        rate_per_s=options.rate_per_s,
        deadline=options.deadline,
        farewell=farewell,
    )
    if then == "shutdown":
        context.on_shutdown()
    return describe_drain(context)


def drain(
    engine: Engine,
    settings: Settings,
    *,
    stop: bool,
    lb_delay: float | None = None,
    grace: float | None = None,
    rate_per_s: int | None = None,
    deadline: float | None = None,
    farewell: bytes = b"",
) -> None:
    """Begins a drain with the settings' values for what is None."""
    engine.drain(
        lb_delay=settings.drain_lb_delay if lb_delay is None else lb_delay,
        grace=settings.drain_grace if grace is None else grace,
        rate_per_s=settings.drain_rate_per_s if rate_per_s is None else rate_per_s,
        deadline=settings.drain_deadline if deadline is None else deadline,
        farewell=farewell,
        stop=stop,
    )


def cancel_drain(engine: Engine) -> None:
    """Ends a drain. Problem if a listener can't be opened again; iocpd.core.DrainConflict, EngineStopped."""
    try:
        engine.cancel_drain()
    except (DrainConflict, EngineStopped):
        raise
    except EngineError as error:
        raise Problem(problems.LISTENER_UNAVAILABLE, str(error)) from error


def describe_drain(context: Context) -> DrainView:
    """How far the drain has come; phase `none` when there is none."""
    progress = context.engine.drain_progress()
    return DrainView(
        phase=progress.phase,
        then=None if progress.phase is Phase.NONE else "shutdown" if progress.stop else "stay",
        initial=progress.initial,
        remaining=progress.remaining,
        evicting=progress.evicting,
        cancelled=progress.cancelled,
        rate_per_s=progress.rate_per_s,
        started_at=progress.started_at,
        eta=_eta(progress),
        deadline=progress.deadline_at,
        ended_at=progress.ended_at,
        exits_posted=progress.exits_posted,
        exits_taken=progress.exits_taken,
    )


def unready_reason(engine: Engine) -> str | None:
    """Why the node should get no new connections; None: it should."""
    if not engine.running:
        return "the engine is not running"
    progress = engine.drain_progress()
    if progress.phase is not Phase.NONE:
        verb = "shutting down" if progress.stop else "draining"
        return f"{verb} ({progress.phase}): {progress.remaining} connections are left"
    if not engine.info().accepting:
        return "a listener is closed: it could not be opened again after a drain"
    return None


def _eta(progress: DrainProgress) -> datetime | None:
    if progress.phase is not Phase.EVICT or not progress.rate_per_s:
        return None
    waiting = max(progress.remaining - progress.evicting, 0)
    eta = datetime.now(UTC) + timedelta(seconds=waiting / progress.rate_per_s)
    return min(eta, progress.deadline_at) if progress.deadline_at else eta


def _worker(stats: WorkerStats) -> WorkerView:
    values: dict[str, Any] = asdict(stats)
    return WorkerView(**{name: values[name] for name in WorkerView.model_fields})


def _service_thread(stats: ServiceStats) -> ServiceThreadView:
    values: dict[str, Any] = asdict(stats)
    return ServiceThreadView(**{name: values[name] for name in ServiceThreadView.model_fields})


def _sum(workers: list[WorkerView]) -> WorkerView:
    total: dict[str, Any] = dict.fromkeys(WorkerView.model_fields, 0) | {"closed": {}}
    for worker in workers:
        for name, value in worker:
            if name == "closed":
                for reason, count in value.items():
                    total["closed"][reason] = total["closed"].get(reason, 0) + count
            else:
                total[name] += value
    return WorkerView(**total)


def _limits(settings: Settings) -> LimitsView:
    return LimitsView(
        max_connections=settings.max_connections,
        first_byte_timeout=format_duration(settings.first_byte_timeout),
        idle_timeout=format_duration(settings.idle_timeout),
        send_soft_bytes=settings.send_soft_bytes,
        send_soft_seconds=format_duration(settings.send_soft_seconds),
        send_hard_bytes=settings.send_hard_bytes,
        max_message_bytes=settings.max_message_bytes,
        max_connections_per_address=settings.max_connections_per_address,
        accepts_per_s=settings.accepts_per_s,
        accepts_per_s_per_address=settings.accepts_per_s_per_address,
        messages_per_s_per_connection=settings.messages_per_s_per_connection,
        max_bans=settings.max_bans,
        closed_capacity=settings.closed_capacity,
        event_capacity=settings.event_capacity,
        http_connections=settings.http_connections,
    )
