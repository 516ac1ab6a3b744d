"""Engine: a thread-safe handle on the native engine."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from . import _rows, listing
from ._native import ffi, lib
from ._run import Command, Run, lower_priority, probe
from .config import EngineConfig, milliseconds
from .errors import (
    ConfigurationError,
    ConnectionUnknown,
    DrainConflict,
    EngineError,
    EngineStopped,
    EngineTimeout,
    StartError,
)
from .listing import SortedListing, SortKey
from .model import (
    ClosedConnection,
    Connection,
    Cursor,
    DrainProgress,
    EngineInfo,
    Filter,
    ListenerStats,
    Page,
    Report,
    WorkerStats,
)

__all__ = ["Broadcast", "Engine", "KickResult", "lower_priority", "probe"]

T = TypeVar("T")

Broadcast: TypeAlias = Command[Report]
KickResult: TypeAlias = ClosedConnection | None

# A kick's timeout is the client's; the engine then resets the connection, and gets so long to tell.
_KICK_MARGIN = 5.0
_JOIN_MS = 100  # a call into C answers to no signal, so Ctrl-C waits so long at most
_TOKEN_BITS = 53
_BYTES_MAX = 1024**3


class Engine:
    """A TCP service on a completion port.

    Every method may be called from any thread. Only `start`, `stop`, `join`, `send`, `kick` and `broadcast` wait for
    anything, and reading never stops a worker. Reads go on working after `stop`, until the next `start`.

        with Engine(EngineConfig(listeners=[ListenerConfig.parse("127.0.0.1:7000/echo")])) as engine:
            for connection in engine.connections().items:
                engine.kick(connection.id, text="maintenance", farewell=b"bye\\n")

    An engine that was started must be stopped: its threads don't end with the last reference.

    Args:
        config: What to start with; without one, an echo service on 127.0.0.1:12345.

    Raises:
        EngineStopped: By every method that reads or commands, if the engine was never started; by commands also once it
            has stopped.
    """

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self._run: Run | None = None
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        listeners = ", ".join(map(str, self.config.listeners))
        return f"<Engine {listeners} {'running' if self.running else 'stopped'}>"

    def __del__(self) -> None:
        if self.running:
            warnings.warn(f"{self!r} was never stopped", ResourceWarning, source=self, stacklevel=1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Binds the listeners and starts the workers. When it returns, clients can connect.

        May be called again after `stop`: that is a fresh engine, which knows nothing of the former one's connections.

        Raises:
            ListenError: A listener's address is taken, isn't this machine's, is not allowed or does not resolve.
            BackendUnavailable: The configured backend does not work here.
            StartError: The engine runs already, or there is no thread or no memory for it.
        """
        with self._starting:
            if self.running:
                raise StartError("the engine runs already: stop it first")
            self._run = Run(self.config)

    def stop(self, *, deadline: float = 10.0, farewell: bytes = b"") -> None:
        """Stops gracefully, and returns when all threads have ended.

        Listeners close, connections get what is queued for them, the farewell, and then the end of the stream. Does
        nothing on an engine that does not run. Called in two threads, both return when it has stopped, and the earlier
        of their deadlines counts.

        Args:
            deadline: Seconds after which the connections that are left are reset. 0 resets all of them at once.
            farewell: Sent to each connection before its end.
        """
        if self.running:
            with suppress(EngineStopped, DrainConflict):  # it is stopping already
                self.drain(deadline=deadline, farewell=farewell, stop=True)
            self.join()

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end of the stop that `drain(stop=True)` began: when nothing is outstanding on the ports,
        posts an exit completion to each worker, and joins the threads.

        Args:
            timeout: Seconds at most; None: no limit.

        Returns:
            Whether the engine has stopped. True also if it does not run.
        """
        run, until = self._run, None if timeout is None else time.monotonic() + timeout
        while run is not None and not run.joined:
            left_ms = _JOIN_MS if until is None else min(_JOIN_MS, int((until - time.monotonic()) * 1000))
            if not run.join(max(left_ms, 0)) and left_ms <= 0:
                return False
        return True

    @property
    def running(self) -> bool:
        """Started and not stopped; still true while it stops."""
        return self._run is not None and not self._run.joined

    # --- reading ------------------------------------------------------------------------------------------------------

    def info(self) -> EngineInfo:
        """What runs: backend, workers, listeners, connections."""
        return _rows.engine_info(self._started().info())

    def worker_stats(self) -> list[WorkerStats]:
        """Each worker's counters."""
        run, rows = self._started(), []
        for worker in range(run.workers):
            row = ffi.new("iocpd_worker_stats *")
            lib.iocpd_worker_read(run.native, worker, row)
            rows.append(_rows.worker_stats(row))
        return rows

    def listener_stats(self) -> list[ListenerStats]:
        """Each listener's bound address and counters, in the order of the configuration."""
        run, rows = self._started(), []
        for listener, service in enumerate(run.services):
            row = ffi.new("iocpd_listener_stats *")
            lib.iocpd_listener_read(run.native, listener, row)
            rows.append(_rows.listener_stats(row, service))
        return rows

    def connections(self, filter: Filter | None = None, *, limit: int = 100, cursor: Cursor | None = None) -> Page:
        """A page of the connections that match.

        A connection that is there from the first page to the last is on exactly one of them; one that came after the
        first page is on none. The cost is that of the slots that are passed over.

        Args:
            filter: Which connections; None: all.
            limit: Rows at most, up to 65536.
            cursor: `next` of the page before; None: from the beginning.

        Raises:
            ConfigurationError: For a limit or a cursor that can't be.
        """
        return listing.page(self._started(), filter, limit, cursor)

    def connections_json(
        self, filter: Filter | None = None, *, limit: int = 100, cursor: Cursor | None = None, prefix: str = ""
    ) -> tuple[bytes, Cursor | None]:
        """The same page as JSON objects with commas between them, and where the next page begins.

        It is written in C, for listings that are long or asked for often: no Python object is made for a connection.

        Args:
            filter: Which connections; None: all.
            limit: Rows at most, up to 65536.
            cursor: Where the page before said that the next one begins; None: from the beginning.
            prefix: At most 16 letters, digits and dashes that stand in an `id` before the token in hexadecimal digits.

        Raises:
            ConfigurationError: For a limit, a cursor or a prefix that can't be.
        """
        return listing.page_json(self._started(), filter, limit, cursor, prefix)

    def sort(
        self, filter: Filter | None = None, *, key: SortKey = SortKey.CONNECTED_AT, descending: bool = False
    ) -> SortedListing:
        """The connections that match now, sorted once; pages of it stay consistent while connections come and go.

        Args:
            filter: Which connections; None: all.
            key: What to sort by; equal ones are in the order in which they connected.
            descending: The largest, or the latest, first.
        """
        return SortedListing(self._started(), filter, SortKey(key), descending)

    def count(self, filter: Filter | None = None) -> int:
        """How many connections match."""
        found: int = lib.iocpd_count(self._started().native, _rows.filter_struct(filter))
        return found

    def connection(self, id: int) -> Connection:
        """One connection.

        Raises:
            ConnectionUnknown: No connection ever had this id.
            ConnectionEnded: It has left the table; the error has its record.
        """
        run, row = self._started(), ffi.new("iocpd_connection[1]")
        status = lib.iocpd_get(run.native, _token(id), row)
        if status != lib.IOCPD_OK:
            raise run.error(status, id)
        return _rows.connections(row, 1, run.services)[0]

    def closed(self, *, limit: int = 100, before: int = 0) -> list[ClosedConnection]:
        """Connections that ended, the newest first.

        Args:
            limit: Rows at most, up to 65536.
            before: Only those whose `closed_serial` is below this one; 0: all that are remembered.

        Raises:
            ConfigurationError: For a limit or a serial that can't be.
        """
        listing.check_limit(limit)
        if not 0 <= before < 1 << 64:
            raise ConfigurationError("before", before, "must be a closed_serial, or 0")
        run, rows = self._started(), ffi.new("iocpd_closed[]", limit)
        count = lib.iocpd_closed_list(run.native, before, rows, limit)
        return _rows.closed_connections(rows, count, run.services)

    # --- commands -----------------------------------------------------------------------------------------------------

    def submit_send(self, id: int, data: bytes) -> Future[Report]:
        """Queues data on a connection and returns at once; the future is done when the system has taken all of it.

        Data of several sends goes out in the order of the calls of one thread, and never mixed up.

        Raises:
            ConnectionUnknown: No connection ever had this id.
            ConnectionEnded: It has left the table. Also set on the future, if it ends before the worker gets to it.
            ConnectionClosing: Set on the future: it is on its way out.
            SendQueueFull: Set on the future: nothing was queued, since its queue would go over `send_hard_bytes`.
            EngineBusy: Too many commands wait for the worker.
            ConfigurationError: The data is empty.
        """
        return self._send(id, data).future

    def send(self, id: int, data: bytes, *, timeout: float = 5.0) -> Report:
        """`submit_send`, and waits until the system has taken the data, or the connection has ended before.

        Raises:
            EngineTimeout: Not within `timeout` seconds. The data stays queued.
            Exception: As `submit_send`, with what is set on its future.
        """
        return _wait("the send", self._send(id, data), timeout)

    def submit_kick(
        self, id: int, *, text: str = "", farewell: bytes = b"", force: bool = False, timeout: float = 5.0
    ) -> Future[ClosedConnection | None]:
        """Begins to end a connection and returns at once; the future is done when it has left the table.

        What is queued is sent, then the farewell, then the end of the stream; the client then has until the timeout to
        close its side. A kick of a connection that is being kicked already joins the first one.

        Args:
            id: The connection's.
            text: For the record, why; cut to 199 bytes of UTF-8.
            farewell: Sent last.
            force: Reset it at once: nothing more is sent, not even the farewell.
            timeout: Seconds after which it is reset.

        Returns:
            A future of the connection's record, or of None if that is no longer remembered.

        Raises:
            ConnectionUnknown: No connection ever had this id.
            ConnectionEnded: It has left the table. Also set on the future, if it ends before the worker gets to it.
            EngineBusy: Too many commands wait for the worker.
        """
        return self._kick(id, text, farewell, force, timeout).future

    def kick(
        self, id: int, *, text: str = "", farewell: bytes = b"", force: bool = False, timeout: float = 5.0
    ) -> ClosedConnection | None:
        """`submit_kick`, and waits until the connection has left the table.

        Raises:
            EngineTimeout: It has not left 5 s after the timeout, at which it is reset.
            Exception: As `submit_kick`, with what is set on its future.
        """
        return _wait("the kick", self._kick(id, text, farewell, force, timeout), timeout + _KICK_MARGIN)

    def submit_broadcast(self, data: bytes, filter: Filter | None = None) -> Broadcast:
        """Queues data on every connection that matches, and returns at once.

        A connection with a full send queue is skipped, and none waits for another.

        Raises:
            EngineBusy: Too many commands wait for a worker; nothing was sent to anybody.
            ConfigurationError: The data is empty.
        """
        run, view, which = self._started(), _view("data", data, least=1), _rows.filter_struct(filter)
        return run.submit(0, lambda out: lib.iocpd_broadcast(run.native, which, view, len(view), out), _same)

    def broadcast(self, data: bytes, filter: Filter | None = None, *, timeout: float = 5.0) -> Report:
        """`submit_broadcast`, and waits until each send is completed or its connection has ended.

        Returns:
            The report; if `timeout` seconds were not enough, as it is then, with `done` False. What is queued stays
            queued.
        """
        command = self.submit_broadcast(data, filter)
        try:
            return command.future.result(timeout)
        except TimeoutError:
            return command.report()

    # --- drain --------------------------------------------------------------------------------------------------------

    def drain(
        self,
        *,
        lb_delay: float = 0,
        grace: float = 0,
        rate_per_s: int = 0,
        deadline: float = 30.0,
        farewell: bytes = b"",
        stop: bool = False,
    ) -> None:
        """Begins to empty the engine and returns at once; `drain_progress` tells how far it is.

        A drain with `stop` takes over from one without, keeping what is done already. A second one with `stop` may only
        bring the deadline forward.

        Args:
            lb_delay: Seconds to go on accepting, for a load balancer to notice.
            grace: Seconds for the clients to leave by themselves, once the listeners are closed.
            rate_per_s: Connections to drain each second; 0: all at once.
            deadline: Seconds from now after which what is left is reset.
            farewell: Sent to each connection before its end.
            stop: When nothing is left, the engine exits: call `join`. Can't be cancelled.

        Raises:
            DrainConflict: A drain is under way.
            EngineStopped: The engine has stopped.
            ConfigurationError: For a value that can't be used.
        """
        run, last_words = self._started(), _view("farewell", farewell)
        if not 0 <= rate_per_s < 1 << 32:
            raise ConfigurationError("rate_per_s", rate_per_s, "must be from 0 to 4294967295")
        plan = ffi.new("iocpd_drain_config *")
        plan.lb_delay_ms = milliseconds("lb_delay", lb_delay)
        plan.grace_ms = milliseconds("grace", grace)
        plan.deadline_ms = milliseconds("deadline", deadline)
        plan.rate_per_s = rate_per_s
        plan.stop = stop
        plan.farewell = last_words
        plan.farewell_bytes = len(last_words)
        status = lib.iocpd_drain(run.native, plan)
        if status == lib.IOCPD_CONFLICT:
            raise DrainConflict("a drain is under way: cancel it first")
        if status != lib.IOCPD_OK:
            raise run.error(status)

    def cancel_drain(self) -> None:
        """Ends a drain: listeners open again. Connections that are on their way out go on leaving.

        Raises:
            DrainConflict: None is under way, or it stops the engine.
            EngineStopped: The engine has stopped.
            EngineError: A listener could not be opened again.
        """
        run, problem = self._started(), ffi.new("iocpd_problem *")
        status = lib.iocpd_drain_cancel(run.native, problem)
        if status == lib.IOCPD_CONFLICT:
            stopping = self.drain_progress().stop
            raise DrainConflict("the drain stops the engine" if stopping else "there is no drain to cancel")
        if status == lib.IOCPD_SYSTEM:
            raise EngineError(ffi.string(problem.text).decode(errors="replace"))
        if status != lib.IOCPD_OK:
            raise run.error(status)

    def drain_progress(self) -> DrainProgress:
        """How far the drain is that is under way, or how the last one ended."""
        run, row = self._started(), ffi.new("iocpd_drain_progress *")
        lib.iocpd_drain_read(run.native, row)
        return _rows.drain_progress(row)

    # --- private ------------------------------------------------------------------------------------------------------

    def _started(self) -> Run:
        run = self._run
        if run is None:
            raise EngineStopped
        return run

    def _send(self, id: int, data: bytes) -> Command[Report]:
        run, token, view = self._started(), _token(id), _view("data", data, least=1)
        return run.submit(id, lambda out: lib.iocpd_send(run.native, token, view, len(view), out), _same)

    def _kick(self, id: int, text: str, farewell: bytes, force: bool, timeout: float) -> Command[KickResult]:
        run, token, last_words = self._started(), _token(id), _view("farewell", farewell)
        timeout_ms = milliseconds("timeout", timeout)
        # Cut here, since C would cut a character in two.
        why = text.encode(errors="replace")[: lib.IOCPD_TEXT_BYTES - 1].decode(errors="ignore").encode()

        def begin(out: Any) -> int:
            status: int = lib.iocpd_kick(run.native, token, force, timeout_ms, why, last_words, len(last_words), out)
            return status

        return run.submit(id, begin, lambda _: run.closed(token))


def _same(report: Report) -> Report:
    return report


def _token(id: int) -> int:
    if not 0 <= id < 1 << _TOKEN_BITS:
        raise ConnectionUnknown(id)
    return id


def _view(field: str, data: bytes, *, least: int = 0) -> Any:
    """The bytes as C sees them, for as long as the result is held."""
    view = ffi.from_buffer("uint8_t[]", data)
    if not least <= len(view) <= _BYTES_MAX:
        raise ConfigurationError(field, f"{len(view)} bytes", f"must be from {least} to {_BYTES_MAX} bytes")
    return view


def _wait(what: str, command: Command[T], timeout: float) -> T:
    try:
        return command.future.result(timeout)
    except TimeoutError:
        raise EngineTimeout(what, timeout, command.report()) from None
    finally:
        del command  # an error's traceback has this frame, and would keep the engine's memory through it
