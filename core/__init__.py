"""A TCP service on a completion port: IOCP on Windows, io_uring or epoll on Linux.

    from iocpd.core import Engine, EngineConfig, ListenerConfig

    with Engine(EngineConfig(listeners=[ListenerConfig(port=7000, service="echo")])) as engine:
        print(engine.info().backend, engine.listener_stats()[0].port)

The engine's threads are native and never take Python's lock; `Engine` reads from them and commands them.
"""

from ._run import Command
from .config import CHANGEABLE, EngineConfig, ListenerConfig
from .engine import TURN_BUCKETS, Broadcast, Engine, KickResult, lower_priority, probe
from .errors import (
    BackendUnavailable,
    BanTableFull,
    ConfigurationError,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    DrainConflict,
    EngineBusy,
    EngineError,
    EngineStopped,
    EngineTimeout,
    LabelsChanged,
    ListenError,
    SendQueueFull,
    StartError,
)
from .events import Event, EventBatch, EventKind, EventPosition
from .listing import SortedListing, SortKey
from .model import (
    By,
    ClosedConnection,
    Connection,
    Cursor,
    DrainProgress,
    EngineInfo,
    Filter,
    KickOutcome,
    ListenerStats,
    Page,
    Phase,
    Reason,
    Report,
    State,
    WorkerStats,
)

__all__ = [
    "CHANGEABLE",
    "TURN_BUCKETS",
    "BackendUnavailable",
    "BanTableFull",
    "Broadcast",
    "By",
    "ClosedConnection",
    "Command",
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
    "Event",
    "EventBatch",
    "EventKind",
    "EventPosition",
    "Filter",
    "KickOutcome",
    "KickResult",
    "LabelsChanged",
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
