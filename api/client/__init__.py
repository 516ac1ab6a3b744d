"""The Python client of the management API, blocking and asynchronous.

    from iocpd.api.client import Client

    with Client() as client:
        for connection in client.connections(idle_for="10m"):
            client.kick(connection.id, reason="idle", farewell="bye")

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
    Backend,
    By,
    ClosedConnection,
    ClosedPage,
    Connection,
    ConnectionPage,
    Drain,
    Limits,
    Listener,
    ListenerList,
    Node,
    Phase,
    Probe,
    Reason,
    Report,
    Snapshot,
    Sort,
    State,
    Worker,
)
from iocpd.api.client.operations import DrainOptions, Filter

__all__ = [
    "DEFAULT_URL",
    "Address",
    "AsyncClient",
    "Backend",
    "By",
    "Client",
    "ClientError",
    "ClosedConnection",
    "ClosedPage",
    "Conflict",
    "Connection",
    "ConnectionPage",
    "Drain",
    "DrainOptions",
    "Duration",
    "FieldProblem",
    "Filter",
    "Forbidden",
    "Gone",
    "Invalid",
    "Limits",
    "Listener",
    "ListenerList",
    "Node",
    "NotFound",
    "Payload",
    "Phase",
    "Probe",
    "ProblemError",
    "Reason",
    "Report",
    "SetupError",
    "Snapshot",
    "Sort",
    "State",
    "TimedOut",
    "Unauthorized",
    "UnexpectedAnswer",
    "Unreachable",
    "Worker",
]
