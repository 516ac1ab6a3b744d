"""A TCP service on a completion port: IOCP on Windows, io_uring or epoll on Linux.

    from iocpd.core import Engine, EngineConfig, ListenerConfig

    with Engine(EngineConfig(listeners=[ListenerConfig(port=7000, service="echo")])) as engine:
        print(engine.info().backend, engine.listener_stats()[0].port)

The engine's threads are native and never take Python's lock; `Engine` reads from them and commands them.
"""

from .config import EngineConfig, ListenerConfig
from .engine import Broadcast, Engine, KickResult, lower_priority, probe
from .errors import (
    BackendUnavailable,
    ConfigurationError,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    DrainConflict,
    EngineBusy,
    EngineError,
    EngineStopped,
    EngineTimeout,
    ListenError,
    SendQueueFull,
    StartError,
)
from .listing import SortedListing, SortKey
from .model import (
    By,
    ClosedConnection,
    Connection,
    Cursor,
    DrainProgress,
    EngineInfo,
    Filter,
    ListenerStats,
    Page,
    Phase,
    Reason,
    Report,
    State,
    WorkerStats,
)

__all__ = [
    "BackendUnavailable",
    "Broadcast",
    "By",
    "ClosedConnection",
    "ConfigurationError",
    "Connection",
    "ConnectionClosing",
    "ConnectionEnded",
    "ConnectionUnknown",
    "Cursor",
    "DrainConflict",
    "DrainProgress",
    "Engine",
    "EngineBusy",
    "EngineConfig",
    "EngineError",
    "EngineInfo",
    "EngineStopped",
    "EngineTimeout",
    "Filter",
    "KickResult",
    "ListenError",
    "ListenerConfig",
    "ListenerStats",
    "Page",
    "Phase",
    "Reason",
    "Report",
    "SendQueueFull",
    "SortKey",
    "SortedListing",
    "StartError",
    "State",
    "WorkerStats",
    "lower_priority",
    "probe",
]
