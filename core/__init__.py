"""A TCP service on a completion port: IOCP on Windows, io_uring or epoll on Linux.

    from iocpd.core import Engine, ListenerConfig

    with Engine(listeners=[ListenerConfig(port=7000, service="echo")]) as engine:
        print(engine.info().backend, engine.listener_stats()[0].port)

The engine's threads are native and never take Python's lock; `Engine` reads from them and commands them.
"""

from ._run import Command
from ._service_plan import load_service
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
    ServiceUnusable,
    StartError,
)
from .events import Event, EventBatch, EventKind, EventPosition
from .framing import Delimited, Fixed, FrameParser, FrameTooLarge, Framing, LengthPrefixed, Lines, Raw
from .listing import SortedListing, SortKey
from .model import (
    By,
    ClosedConnection,
    Connection,
    Cursor,
    DominantAddress,
    DrainProgress,
    EngineInfo,
    Filter,
    KickOutcome,
    ListenerStats,
    Page,
    Phase,
    Reason,
    Report,
    ServiceStats,
    State,
    WorkerStats,
)
from .service import Service, ServiceConnection, Timer

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
    "Delimited",
    "DominantAddress",
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
    "Fixed",
    "FrameParser",
    "FrameTooLarge",
    "Framing",
    "KickOutcome",
    "KickResult",
    "LabelsChanged",
    "LengthPrefixed",
    "Lines",
    "ListenError",
    "ListenerConfig",
    "ListenerStats",
    "Page",
    "Phase",
    "Raw",
    "Reason",
    "Report",
    "SendQueueFull",
    "Service",
    "ServiceConnection",
    "ServiceStats",
    "ServiceUnusable",
    "SortKey",
    "SortedListing",
    "StartError",
    "State",
    "Timer",
    "WorkerStats",
    "load_service",
    "lower_priority",
    "probe",
]
