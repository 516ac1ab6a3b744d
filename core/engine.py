"""Engine: a thread-safe handle on the native engine."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeAlias

from . import _rows, events, listing
from ._native import ffi, lib
from ._run import Command, Run, lower_priority, probe
from ._service_threads import end_threads, thread_stats
from .commands import Commands, token_of
from .config import CHANGEABLE, EngineConfig, milliseconds
from .errors import ConfigurationError, DrainConflict, EngineError, EngineStopped, StartError
from .events import EventBatch, EventPosition
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
    ServiceStats,
    WorkerStats,
)

__all__ = ["TURN_BUCKETS", "Broadcast", "Engine", "KickResult", "lower_priority", "probe"]

Broadcast: TypeAlias = Command[Report]
KickResult: TypeAlias = ClosedConnection | None

TURN_BUCKETS: tuple[float, ...] = (
    *(bound / 1e9 for bound in lib.iocpd_turn_bounds_ns()[0 : lib.IOCPD_TURN_BUCKETS - 1]),
    float("inf"),
)
"""Upper bounds, in seconds, of the buckets of WorkerStats.turn_counts."""

_JOIN_MS = 100  # a call into C answers to no signal, so Ctrl-C waits so long at most
_MATCHING_MAX = 1024 * 1024


class Engine(Commands):
    """A TCP service on a completion port.

    Every method may be called from any thread. Only `start`, `stop`, `join`, `send`, `kick` and `broadcast` wait for
    anything, and reading never stops a worker. Reads go on working after `stop`, until the next `start`.

        with Engine(listeners=[ListenerConfig.parse("127.0.0.1:7000/echo")]) as engine:
            for connection in engine.connections().items:
                engine.kick(connection.id, text="maintenance", farewell=b"bye\\n")

    An engine that was started must be stopped: its threads don't end with the last reference.

    Args:
        config: What to start with; without one, an echo service on 127.0.0.1:12345.
        settings: Those of an EngineConfig by their names, in place of one.

    Raises:
        ConfigurationError: A setting has a value that can't be used.
        EngineStopped: By every method that reads or commands, if the engine was never started; by commands also once it
            has stopped.
    """

    _run: Run | None = None

    def __init__(self, config: EngineConfig | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise TypeError(f"give a config or settings, and not both: {', '.join(settings)}")
        self.config = config or EngineConfig(**settings)
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
            run = self._run = Run(self.config)
            try:
                for plan in run.plans:
                    if plan is not None:
                        plan.start(self, run)
            except RuntimeError as error:  # there is no thread for it
                self.stop(deadline=0)
                raise StartError(f"the thread of a service: {error}") from error
            run.plans.clear()

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
        if run is not None:
            end_threads(run.service_threads)
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
        for listener, (service, framing) in enumerate(zip(run.services, run.framings, strict=True)):
            row = ffi.new("iocpd_listener_stats *")
            lib.iocpd_listener_read(run.native, listener, row)
            rows.append(_rows.listener_stats(row, service, framing))
        return rows

    def service_stats(self) -> list[ServiceStats]:
        """The counters of each thread of a service in Python, in the order of the listeners."""
        run = self._started()
        return thread_stats(run, run.service_threads)

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
        self,
        filter: Filter | None = None,
        *,
        limit: int = 100,
        cursor: Cursor | None = None,
        prefix: str = "",
        fields: Collection[str] | None = None,
    ) -> tuple[bytes, Cursor | None]:
        """The same page as JSON objects with commas between them, and where the next page begins.

        It is written in C, for listings that are long or asked for often: no Python object is made for a connection.

        Args:
            filter: Which connections; None: all.
            limit: Rows at most, up to 65536.
            cursor: Where the page before said that the next one begins; None: from the beginning.
            prefix: At most 16 letters, digits and dashes that stand in an `id` before the token in hexadecimal digits.
            fields: The members of listing.MEMBERS that the rows have; None: all.

        Raises:
            ConfigurationError: For a limit, a cursor, a prefix or a field that can't be.
        """
        return listing.page_json(self._started(), filter, limit, cursor, prefix, fields)

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
        return self._started().connection(token_of(id))

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
        return _rows.closed_connections(rows, count, run.services, run.closed_labels)

    def matching(self, filter: Filter | None = None, *, limit: int, exclude: Collection[int] = ()) -> list[int]:
        """The ids of the connections that match, in the order of their slots.

        Args:
            filter: Which connections; None: all.
            limit: Ids at most, up to 1,048,576.
            exclude: Ids that are left out.
        """
        if not 1 <= limit <= _MATCHING_MAX:
            raise ConfigurationError("limit", limit, f"must be from 1 to {_MATCHING_MAX}")
        run = self._started()
        capacity = min(limit + len(exclude), max(run.info().connections, 64) * 2)
        tokens = ffi.new("uint64_t[]", capacity)
        count = lib.iocpd_match(run.native, _rows.filter_struct(filter), tokens, capacity)
        left_out = frozenset(exclude)
        return [token for token in tokens[0:count] if token not in left_out][:limit]

    def event_position(self) -> EventPosition:
        """Behind the newest event."""
        return events.now(self._started())

    def events(self, after: EventPosition, *, limit: int = 256) -> EventBatch:
        """What has happened since; never waits for it.

        Workers write events whether somebody reads them or not, and remember the last `event_capacity` each.

        Args:
            after: Where the last batch ended, or an event's own position.
            limit: Events at most, up to 4096.

        Raises:
            ConfigurationError: For a limit that can't be, or a position that is not of this life of the engine.
        """
        return events.read(self._started(), after, limit)

    # --- limits -------------------------------------------------------------------------------------------------------

    def configure(self, **changes: Any) -> None:
        """Changes limits of a running engine, and of the next start; `config` has them afterwards.

        What is above a new limit stays, but timeouts hold for connections that are there too.

        Args:
            changes: By EngineConfig's names: max_connections, first_byte_timeout, idle_timeout, send_soft_bytes,
                send_soft_seconds, send_hard_bytes, max_connections_per_address, accepts_per_s and
                accepts_per_s_per_address. All of them or none are changed.

        Raises:
            ConfigurationError: Another name, or a value that can't be used.
        """
        for name, value in changes.items():
            if name not in CHANGEABLE:
                raise ConfigurationError(name, value, "can't be changed while the engine runs")
        config, run = replace(self.config, **changes), self._started()
        run.configure(config)
        self.config = config

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
        run, last_words = self._started(), ffi.from_buffer("uint8_t[]", farewell)
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
