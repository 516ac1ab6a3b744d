"""The Python client of the management API, blocking and asynchronous.

    from iocpd.api.client import Client

    with Client() as client:
        for connection in client.connections(idle_for="10m"):
            client.kick(connection.id, reason="idle", farewell="bye")
        for event in client.events(types=["disconnected"]):
            print(event.at, event.id, event.reason)

`Client` and `AsyncClient` have the same methods; those of the second are awaited, or iterated with `async for`. What
the service refuses is raised as a `ProblemError`; all exceptions are a `ClientError`.

Nothing here needs the engine or FastAPI: it runs where only httpx and pydantic are installed.
"""

from iocpd.api.client.calls import Duration, Payload
from iocpd.api.client.clients import DEFAULT_URL, AsyncClient, Client
from iocpd.api.client.errors import (
    ClientError,
    Conflict,
    FieldProblem,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    ProblemError,
    SetupError,
    TimedOut,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
)
from iocpd.api.client.models import (
    Address,
    AuditEntry,
    AuditPage,
    Backend,
    Ban,
    BanPage,
    BroadcastReport,
    By,
    Change,
    ClosedConnection,
    ClosedPage,
    Connection,
    ConnectionDetail,
    ConnectionPage,
    Drain,
    Event,
    EventKind,
    JobState,
    Key,
    KeyList,
    KickOutcome,
    KickReport,
    Limits,
    Listener,
    ListenerList,
    NewKey,
    Node,
    Phase,
    Probe,
    Reason,
    Reload,
    Report,
    Scope,
    Snapshot,
    Sort,
    State,
    Worker,
)
from iocpd.api.client.operations import DrainOptions, Filter, Target

__all__ = [
    "DEFAULT_URL",
    "Address",
    "AsyncClient",
    "AuditEntry",
    "AuditPage",
    "Backend",
    "Ban",
    "BanPage",
    "BroadcastReport",
    "By",
    "Change",
    "Client",
    "ClientError",
    "ClosedConnection",
    "ClosedPage",
    "Conflict",
    "Connection",
    "ConnectionDetail",
    "ConnectionPage",
    "Drain",
    "DrainOptions",
    "Duration",
    "Event",
    "EventKind",
    "FieldProblem",
    "Filter",
    "Forbidden",
    "Gone",
    "Invalid",
    "JobState",
    "Key",
    "KeyList",
    "KickOutcome",
    "KickReport",
    "Limits",
    "Listener",
    "ListenerList",
    "NewKey",
    "Node",
    "NotFound",
    "Payload",
    "Phase",
    "Probe",
    "ProblemError",
    "Reason",
    "Reload",
    "Report",
    "Scope",
    "SetupError",
    "Snapshot",
    "Sort",
    "State",
    "Target",
    "TimedOut",
    "Unauthorized",
    "UnexpectedAnswer",
    "Unreachable",
    "Worker",
]
