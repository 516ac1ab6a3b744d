"""What every route works on, and how it asks for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from iocpd.api.connections.sorting import SortedListings
from iocpd.api.identity import Instance
from iocpd.api.keys import KeyRing
from iocpd.api.metrics.requests import RequestMetrics
from iocpd.api.paging import Cursors
from iocpd.api.settings import Settings
from iocpd.core import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One application: an engine and what the API knows beside it."""

    engine: Engine
    settings: Settings
    keys: KeyRing | None
    """None: there is no key file."""
    on_shutdown: Callable[[], None]
    """Called on the event loop once a drain that stops the engine has begun."""
    request_metrics: RequestMetrics
    instance: Instance = field(default_factory=Instance)
    cursors: Cursors = field(default_factory=Cursors)
    sorted: SortedListings = field(default_factory=SortedListings)


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _engine(context: Annotated[Context, Depends(_context)]) -> Engine:
    return context.engine


ContextDep = Annotated[Context, Depends(_context)]
EngineDep = Annotated[Engine, Depends(_engine)]
