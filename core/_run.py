"""One life of the native engine, from iocpd_start to iocpd_free; Engine makes one for each start.

The native engine may be freed only when it is joined and nobody is inside a call. Therefore a Run frees it when the
last reference to the Run goes: a thread in a call has one, as its local variable, and so have the pump and each command
that is under way. Reads then need no lock and no count, and still work on an engine that has stopped.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeAlias, TypeVar

from . import _rows
from ._native import ffi, lib
from ._service_plan import Plan, service_plan
from .config import BACKENDS, SERVICES, WORKERS_MAX, EngineConfig, ListenerConfig, milliseconds
from .errors import (
    BackendUnavailable,
    BanTableFull,
    ConfigurationError,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    EngineBusy,
    EngineError,
    EngineStopped,
    LabelsChanged,
    ListenError,
    SendQueueFull,
    StartError,
)
from .framing import Framing, Raw, struct_of
from .model import ClosedConnection, Connection, Report

T = TypeVar("T")
# Takes what a ticket has beside its report, before it goes, and gives what makes the result.
Read: TypeAlias = Callable[["Command[Any]", Any], Callable[[Report], Any]]

_WAIT_MS = 60_000
_BATCH = 256
_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


class Command(Generic[T]):
    """A send, kick or broadcast that is under way.

    Attributes:
        future: Done when the command is; has its result, or the error that it met. It can't be cancelled. Its
            callbacks run in a thread of the engine and must not wait for another command.
    """

    def __init__(self, run: Run, token: int, result: Callable[[Report], T] | None, read: Read | None) -> None:
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()
        self._run = run
        self._token = token
        self._result = result
        self._read_more = read
        self._ticket: Any = None  # the engine's, until it is done
        self._last = Report(0, 0, 0, 0, 0, 0, False)

    def report(self) -> Report:
        """What became of it so far. May be asked at any time, from any thread."""
        with self._run.lock:
            if self._ticket is not None:
                self._read()
            return self._last

    def _read(self) -> int:
        row = ffi.new("iocpd_report *")
        lib.iocpd_ticket_read(self._ticket, row)
        self._last = _rows.report(row)
        status: int = row.status
        return status

    def _free(self) -> int:
        """Lets go of the ticket; its report stays. Under the run's lock."""
        status = self._read()
        if self._read_more is not None:
            self._result = self._read_more(self, self._ticket)
        lib.iocpd_ticket_free(self._run.native, self._ticket)
        self._ticket = None
        return status


class Run:
    def __init__(self, config: EngineConfig) -> None:
        self.joined = False
        self.services = tuple(listener.service_name for listener in config.listeners)
        self.plans = [service_plan(listener) for listener in config.listeners]
        self.framings = [
            plan.framing if plan else listener.framing or Raw()
            for plan, listener in zip(self.plans, config.listeners, strict=True)
        ]
        self.service_threads: list[Any] = []
        self.workers = 0
        self.lock = threading.Lock()  # guards what follows, and each command's ticket
        self._commands: dict[Any, Command[Any]] = {}  # by ticket
        self._ended = False
        self.native = _start(config, self.plans, self.framings)
        self.workers = self.info().workers
        self._pump = threading.Thread(target=self._pump_forever, name="iocpd-pump", daemon=True)
        self._pump.start()

    def __del__(self) -> None:
        if self.joined:
            lib.iocpd_free(self.native)

    def info(self) -> Any:
        row = ffi.new("iocpd_info *")
        lib.iocpd_info_read(self.native, row)
        return row

    def closed(self, token: int) -> ClosedConnection | None:
        row = ffi.new("iocpd_closed[1]")
        if lib.iocpd_closed_get(self.native, token, row) != lib.IOCPD_OK:
            return None
        return _rows.closed_connections(row, 1, self.services, self.closed_labels)[0]

    def connection(self, token: int) -> Connection:
        row = ffi.new("iocpd_connection[1]")
        status = lib.iocpd_get(self.native, token, row)
        if status != lib.IOCPD_OK:
            raise self.error(status, token)
        return _rows.connections(row, 1, self.services, self.labels_of)[0]

    def labels(self, token: int) -> tuple[bytes, int]:
        """A connection's tags and groups as JSON members, and their version."""
        out, size, version = (
            _new_uncleared("char[]", lib.IOCPD_LABEL_BYTES),
            ffi.new("uint32_t *"),
            ffi.new("uint64_t *"),
        )
        status = lib.iocpd_labels_read(self.native, token, out, size, version)
        if status != lib.IOCPD_OK:
            raise self.error(status, token)
        return bytes(ffi.buffer(out, size[0])), version[0]

    def labels_of(self, token: int) -> bytes:
        """The first of `labels`; empty when it has just ended."""
        out, size, version = (
            _new_uncleared("char[]", lib.IOCPD_LABEL_BYTES),
            ffi.new("uint32_t *"),
            ffi.new("uint64_t *"),
        )
        lib.iocpd_labels_read(self.native, token, out, size, version)
        return bytes(ffi.buffer(out, size[0]))

    def closed_labels(self, row: Any) -> bytes:
        out, size = _new_uncleared("char[]", lib.IOCPD_LABEL_BYTES), ffi.new("uint32_t *")
        lib.iocpd_closed_labels_read(self.native, row, out, size)
        return bytes(ffi.buffer(out, size[0]))

    def configure(self, config: EngineConfig) -> None:
        limits = ffi.new("iocpd_limits *")
        _limits(config, limits)
        lib.iocpd_configure(self.native, limits)

    def error(self, status: int, token: int = 0) -> Exception:
        """The exception for a status that is not IOCPD_OK."""
        if status == lib.IOCPD_UNKNOWN:
            return ConnectionUnknown(token)
        if status == lib.IOCPD_ENDED:
            return ConnectionEnded(token, self.closed(token))
        if status == lib.IOCPD_CLOSING:
            return ConnectionClosing(token)
        if status == lib.IOCPD_QUEUE_FULL:
            return SendQueueFull(token)
        if status == lib.IOCPD_BUSY:
            return EngineBusy()
        if status == lib.IOCPD_CONFLICT:
            return LabelsChanged(token)
        if status == lib.IOCPD_FULL:
            return BanTableFull()
        if status == lib.IOCPD_STOPPED:
            return EngineStopped()
        if status == lib.IOCPD_NO_MEMORY:
            return MemoryError("the engine could not allocate memory")
        return EngineError(f"unexpected status {status} of the engine")

    def submit(
        self,
        token: int,
        begin: Callable[[Any], int],
        result: Callable[[Report], T] | None = None,
        *,
        read: Read | None = None,
    ) -> Command[T]:
        """Begins a command: `begin` gets an iocpd_ticket** and returns a status; `result` makes the future's result, or
        is what `read` gives.

        The lock is held from before the ticket exists until it is known here, so the pump never meets one that isn't.
        """
        command = Command(self, token, result, read)
        out = ffi.new("iocpd_ticket **")
        with self.lock:
            status = lib.IOCPD_STOPPED if self.joined or self._ended else begin(out)
            if status == lib.IOCPD_OK:
                command._ticket = out[0]
                self._commands[out[0]] = command
        if status != lib.IOCPD_OK:
            raise self.error(status, token)
        return command

    def join(self, timeout_ms: int) -> bool:
        """Waits for the workers' threads, and then for the pump. A time that is up says False."""
        if lib.iocpd_join(self.native, timeout_ms) != lib.IOCPD_OK:
            return False
        self.joined = True
        lib.iocpd_wait_wake(self.native)
        if threading.current_thread() is not self._pump:  # it may be: in a callback of a future
            self._pump.join()
        return True

    def _pump_forever(self) -> None:
        done = ffi.new("iocpd_ticket *[]", _BATCH)
        while True:
            # One wake may come together with a ticket, so it is not only the wake that says that the end has come.
            count = lib.iocpd_wait(self.native, done, _BATCH, 0 if self.joined else _WAIT_MS)
            for ticket in done[0:count]:
                self._settle(ticket)
            if count == 0 and self.joined:
                break
        with self.lock:
            self._ended = True
            left = list(self._commands.values())
            self._commands.clear()
            for command in left:
                command._free()
        for command in left:
            command.future.set_exception(EngineStopped())

    def _settle(self, ticket: Any) -> None:
        with self.lock:
            command = self._commands.pop(ticket)
            status = command._free()
        if status != lib.IOCPD_OK:
            command.future.set_exception(self.error(status, command._token))
            return
        assert command._result is not None
        try:
            command.future.set_result(command._result(command._last))
        except EngineError as error:  # what the result is made of has ended meanwhile
            command.future.set_exception(error)


def lower_priority() -> None:
    """Gives the calling thread a lower priority than the workers of an engine have, as far as the system allows.

    For a thread that works a lot beside an engine, such as an event loop that serves an API: where processors are few,
    a worker that has something to do then doesn't wait for it. Threads that it starts later inherit this on Linux, so
    start the engine first. There is no way back without a privilege. On Windows it does nothing: priorities are strict
    there, and the thread would get no time at all while the workers are busy.
    """
    lib.iocpd_lower_priority()


def probe(backend: str) -> None:
    """Tries whether a backend works on this machine, by a real round trip through a completion port.

    Args:
        backend: iocp, io_uring or epoll.

    Raises:
        BackendUnavailable: It does not; the error has the reason.
        ConfigurationError: There is no backend of this name.
    """
    if backend not in BACKENDS[1:]:
        raise ConfigurationError("backend", backend, "must be one of " + ", ".join(BACKENDS[1:]))
    problem = ffi.new("iocpd_problem *")
    if lib.iocpd_probe(BACKENDS.index(backend), problem) != lib.IOCPD_OK:
        raise BackendUnavailable(backend, _text(problem))


def _text(problem: Any) -> str:
    text: str = ffi.string(problem.text).decode(errors="replace")
    return text


def _start(config: EngineConfig, plans: list[Plan | None], framings: list[Framing]) -> Any:
    listeners = ffi.new("iocpd_listener_config[]", len(config.listeners))
    for row, listener, plan, framing in zip(listeners, config.listeners, plans, framings, strict=True):
        ip, scope_id = _resolve(listener)
        row.ip = _rows.address_bytes(ip)
        row.scope_id = scope_id
        row.port = listener.port
        row.family = 6 if ":" in ip else 4
        row.dual_stack = listener.dual_stack and ip == "::"
        row.backlog = listener.backlog
        row.framing = struct_of(framing)[0]
        if plan is None:
            row.service = SERVICES.index(listener.service_name)
        else:
            row.service = lib.IOCPD_PYTHON
            row.threads, row.inbox_bytes, row.concurrent = listener.threads, listener.inbox_bytes, plan.concurrent
        row.name = listener.service_name.encode()
        row.proxy_from_count = len(listener.balancers)
        for place, network in zip(row.proxy_from, listener.balancers, strict=False):
            place.ip, place.prefix = _rows.network_bytes(network)

    native = ffi.new("iocpd_config *")
    native.backend = BACKENDS.index(config.backend)
    native.workers = config.workers or min(_processors(), WORKERS_MAX)
    native.busy_poll_us = config.busy_poll_us
    native.listener_count = len(config.listeners)
    native.listeners = listeners
    _limits(config, native)
    native.receive_buffer_bytes = config.receive_buffer_bytes
    native.receive_buffers = config.receive_buffers
    native.closed_capacity = config.closed_capacity
    native.inbox_capacity = config.inbox_capacity
    native.relay_capacity = config.relay_capacity
    native.event_capacity = config.event_capacity
    native.max_bans = config.max_bans
    native.seed = secrets.randbits(64)

    out, problem = ffi.new("iocpd_engine **"), ffi.new("iocpd_problem *")
    status = lib.iocpd_start(native, out, problem)
    if status == lib.IOCPD_UNAVAILABLE:
        raise BackendUnavailable(config.backend, _text(problem))
    if problem.listener >= 0:
        listener = config.listeners[problem.listener]
        raise ListenError(listener.host, listener.port, problem.os_error)
    if status != lib.IOCPD_OK:
        raise StartError(_text(problem))
    return out[0]


def _limits(config: EngineConfig, out: Any) -> None:
    """Into an iocpd_limits or an iocpd_config, which name them alike."""
    out.max_connections = config.max_connections
    out.first_byte_ms = milliseconds("first_byte_timeout", config.first_byte_timeout)
    out.idle_ms = milliseconds("idle_timeout", config.idle_timeout)
    out.send_soft_bytes = config.send_soft_bytes
    out.send_soft_ms = milliseconds("send_soft_seconds", config.send_soft_seconds)
    out.send_hard_bytes = config.send_hard_bytes
    out.max_per_address = config.max_connections_per_address
    out.accepts_per_s = config.accepts_per_s
    out.accepts_per_s_per_address = config.accepts_per_s_per_address


def _processors() -> int:
    """Those that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _resolve(listener: ListenerConfig) -> tuple[str, int]:
    """The first address of a listener's host, and its scope (0, but for link-local IPv6)."""
    try:
        found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        why = f"the name does not resolve ({error.strerror}): give an address, such as 127.0.0.1"
        raise ListenError(listener.host, listener.port, error.errno or 0, why) from None
    except UnicodeError:
        raise ListenError(listener.host, listener.port, socket.EAI_NONAME, "this can't be a name of a host") from None
    family, _, _, _, address = found[0]
    ip = str(address[0]).partition("%")[0]
    return ip, int(address[3]) if family == socket.AF_INET6 and len(address) == 4 else 0
