"""What every route works on, and how it asks for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from iocpd.api.audit.trail import AuditTrail
from iocpd.api.auth import Gate
from iocpd.api.bans.service import Bans
from iocpd.api.connections.sorting import SortedListings
from iocpd.api.events.streams import EventStreams
from iocpd.api.identity import Instance
from iocpd.api.jobs.store import Jobs
from iocpd.api.messages.rate import MessageRate
from iocpd.api.metrics.requests import RequestMetrics
from iocpd.api.paging import Cursors
from iocpd.api.settings import Settings
from iocpd.core import Engine


@dataclass(slots=True, kw_only=True)
class Context:
    """One application: an engine and what the API knows beside it."""

    engine: Engine
    settings: Settings
    """Replaced as a whole, on the event loop, when they are read again: take what belongs together from one of them."""
    gate: Gate
    audit: AuditTrail
    reread: Callable[[], Settings]
    """What the sources of the settings say now; SettingsError."""
    on_shutdown: Callable[[], None]
    """Called on the event loop once a drain that stops the engine has begun."""
    request_metrics: RequestMetrics
    bans: Bans
    streams: EventStreams
    instance: Instance
    cursors: Cursors = field(default_factory=Cursors)
    sorted: SortedListings = field(default_factory=SortedListings)
    message_rate: MessageRate = field(default_factory=MessageRate)
    jobs: Jobs = field(default_factory=Jobs)


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _engine(context: Annotated[Context, Depends(_context)]) -> Engine:
    return context.engine


ContextDep = Annotated[Context, Depends(_context)]
EngineDep = Annotated[Engine, Depends(_engine)]
