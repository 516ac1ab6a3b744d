"""What the engine raises. Every exception is an EngineError; where Python has a fitting class, it is that too."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import ClosedConnection, Report


class EngineError(Exception):
    """The base of all exceptions of iocpd.core."""


class ConfigurationError(EngineError, ValueError):
    """A value that can't be used. The text holds the field, the value, the rule and so the way out.

    Attributes:
        field: The name of the field or argument.
        value: What was given.
        rule: What it must be.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field} = {value!r}: {rule}")
        self.field = field
        self.value = value
        self.rule = rule


class BackendUnavailable(EngineError):
    """This kind of completion port does not work on this machine.

    Attributes:
        backend: iocp, io_uring or epoll.
        reason: The call that failed and what the system said.
    """

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"the {backend} backend does not work here: {reason}; 'auto' takes one that does")
        self.backend = backend
        self.reason = reason


_WAYS_OUT = {
    errno.EADDRINUSE: "the address is in use: choose another port, or stop the program that listens there",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose one of its own, 0.0.0.0 or [::]",
    errno.EACCES: "permission denied: choose a port above 1023, or run with the right to take this one",
}
if hasattr(errno, "WSAEACCES"):  # Windows has no ports that need a right
    _WAYS_OUT[errno.WSAEACCES] = (
        "another program has this port for itself, or Windows reserves it (`netsh int ipv4 show excludedportrange"
        " protocol=tcp`): choose another port"
    )


def system_text(code: int) -> str:
    """The system's own words for an error number (on Windows, one of Winsock's)."""
    table: dict[int, str] = getattr(socket, "errorTab", {})  # there on Windows alone
    return table.get(code) or os.strerror(code)


class ListenError(EngineError, OSError):
    """A listener could not be opened: the address is taken, isn't this machine's, is not allowed or does not resolve.

    Attributes:
        host: As in the configuration.
        port: As in the configuration.
        errno: The system's number (socket.gaierror's if the name does not resolve).
    """

    def __init__(self, host: str, port: int, code: int, why: str = "") -> None:
        super().__init__(code, why or _WAYS_OUT.get(code) or system_text(code))
        self.host = host
        self.port = port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"cannot listen on {host}:{self.port}: {self.strerror}"


class StartError(EngineError):
    """The engine could not start for another reason: no thread, no memory, or it runs already."""


class ServiceUnusable(StartError):
    """A listener's service in Python can't be imported, is none, could not be made, or has handlers that nobody would
    call. The text names the listener's service and, where it is the service's code that failed, the file and the line.
    """


class ConnectionUnknown(EngineError, LookupError):
    """No connection ever had this id.

    Attributes:
        id: The id that was asked for.
    """

    def __init__(self, id: int) -> None:
        super().__init__(f"no connection ever had the id {id}")
        self.id = id


class ConnectionEnded(EngineError):
    """The connection has left the table.

    Attributes:
        id: The connection's id.
        closed: Its record, or None when that is no longer remembered.
    """

    def __init__(self, id: int, closed: ClosedConnection | None) -> None:
        super().__init__(f"connection {id} has ended" + (f": {closed.reason}" if closed else ""))
        self.id = id
        self.closed = closed


class ConnectionClosing(EngineError):
    """The connection is draining or closing and takes nothing more; or it is still arriving and takes nothing yet.

    Attributes:
        id: The connection's id.
    """

    def __init__(self, id: int) -> None:
        super().__init__(f"connection {id} is closing, or has not sent its PROXY header yet, and takes nothing")
        self.id = id


class SendQueueFull(EngineError):
    """The client reads too slowly: its send queue would go over `send_hard_bytes`. Nothing of the data was queued.

    Attributes:
        id: The connection's id.
    """

    def __init__(self, id: int) -> None:
        super().__init__(f"the send queue of connection {id} is full: its client does not read fast enough")
        self.id = id


class EngineBusy(EngineError):
    """Too many commands wait for one worker (`inbox_capacity`). Nothing was done: try again later."""

    def __init__(self) -> None:
        super().__init__("too many commands wait for a worker: try again later")


class LabelsChanged(EngineError):
    """Somebody else has changed the connection's tags or groups meanwhile. Nothing was done: try again.

    Attributes:
        id: The connection's id.
    """

    def __init__(self, id: int) -> None:
        super().__init__(f"the labels of connection {id} were changed by somebody else at the same time: try again")
        self.id = id


class BanTableFull(EngineError):
    """There are `max_bans` bans. Those of the call before the first that found no room are in force."""

    def __init__(self) -> None:
        super().__init__("the table of bans is full: lift some, or raise max_bans")


class EngineStopped(EngineError):
    """The engine was never started, is stopping or has stopped."""

    def __init__(self) -> None:
        super().__init__("the engine is not running")


class DrainConflict(EngineError):
    """Another drain is under way, or there is none to cancel, or it stops the engine and so can't be cancelled."""


class EngineTimeout(EngineError, TimeoutError):
    """The time was up before a command was done. The command was not taken back: it may still be carried out.

    Attributes:
        report: How far the command had come, where it has a report.
    """

    def __init__(self, what: str, seconds: float, report: Report | None = None) -> None:
        super().__init__(f"{what} was not done after {seconds:g} s")
        self.report = report
