"""TCP services in Python: derive from Service, name the class in a listener.

    class Upper(Service):
        framing = Lines(max_bytes=65536)

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            connection.send(message.upper())

    with Engine(EngineConfig(listeners=[ListenerConfig(port=7000, service=Upper)])):
        ...

The engine receives, cuts messages and sends in its own threads. What has become whole meanwhile is taken in batches, in
one call that does not hold Python's lock, and what the handlers send goes back in another one. A service that is slow
makes its clients wait: above `inbox_bytes` the engine stops to receive from those who go on sending, and loses nothing.
"""

from __future__ import annotations

import heapq
import importlib
import inspect
import itertools
import logging
import os
import struct
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import _rows, labels
from ._native import ffi, lib
from .config import ListenerConfig
from .errors import (
    ConfigurationError,
    ConnectionClosing,
    ConnectionEnded,
    EngineBusy,
    EngineStopped,
    EngineTimeout,
    StartError,
)
from .framing import Framing, Lines, Raw
from .model import Connection, Reason, ServiceStats

if TYPE_CHECKING:
    import asyncio

    from ._run import Run
    from .engine import Engine

T = TypeVar("T", bound=Callable[[], Any])

_log = logging.getLogger("iocpd.service")

_RECORDS = struct.Struct("=" + _rows.struct_format(ffi.typeof("iocpd_service_record")))
_OPENS = struct.Struct("=" + _rows.struct_format(ffi.typeof("iocpd_service_open")))
_OPEN, _MESSAGES, _END = lib.IOCPD_SERVICE_OPEN, lib.IOCPD_SERVICE_MESSAGES, lib.IOCPD_SERVICE_END
_CLOSE = lib.IOCPD_SERVICE_CLOSE
_OP_CLOSE, _OP_KICK, _OP_RESET, _OP_FAIL, _OP_TO, _OP_BROADCAST, _OP_HANDLED, _OP_ANSWERED, _OP_FORGET = (
    getattr(lib, f"IOCPD_OP_{name}") << 60
    for name in ("CLOSE", "KICK", "RESET", "FAIL", "TO", "BROADCAST", "HANDLED", "ANSWERED", "FORGET")
)
assert lib.IOCPD_OP_SEND == 0  # so a connection's number alone sends
_NOBODY = 0xFFFFFFFF
_WAIT_MS = 60_000
_END_SECONDS = 5.0  # that handlers get to come back once the engine has stopped
_OPS_MAX = 8192  # answers that are handed over together
_LARGE = 16 * 1024
_LARGE_MAX = 4 * 1024 * 1024


class Timer:
    """What `Service.every` gives: calls until it is cancelled."""

    def __init__(self, seconds: float, function: Callable[[], Any]) -> None:
        self.seconds = seconds
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        """No call will follow. From the service's own thread."""
        self.cancelled = True


class Service:
    """A TCP service. Every handler is optional, and may be `async def`.

    Each thread of a listener has an instance of its own, made without arguments before the engine listens. All handlers
    of an instance run in that one thread, so they need no locks: a plain one keeps the thread's other connections
    waiting; `async def` ones of several connections run side by side on a loop in the thread, but those of one
    connection one after the other. An exception in a handler ends its connection with Reason.SERVICE_ERROR, is logged
    and counted, and harms nobody else.

    Attributes:
        framing: How messages are cut and framed, unless the listener says otherwise.
        engine: The engine that runs it. Not yet there in __init__.
        thread: Which of the listener's threads this is, from 0.
        connections: The thread's connections that are open, by id.
        on_messages: If it is defined, it gets all messages that wait for one connection in a list, and on_message is
            not called.
    """

    framing: ClassVar[Framing] = Raw()
    engine: Engine
    thread: int
    connections: dict[int, ServiceConnection]
    on_messages: ClassVar[Callable[..., Any] | None] = None
    _timers: list[Timer]
    _running: _Thread | None

    def __new__(cls, *_: Any, **__: Any) -> Service:
        self = super().__new__(cls)
        self._timers, self._running = [], None
        self.connections = {}
        return self

    def on_start(self) -> Any:
        """Before everything else in the service's thread."""

    def on_open(self, connection: ServiceConnection) -> Any:
        """A client has connected."""

    def on_message(self, connection: ServiceConnection, message: bytes) -> Any:
        """A whole message. Those of one connection come in their order."""

    def on_close(self, connection: ServiceConnection, reason: Reason) -> Any:
        """A connection has ended; comes exactly once, after its last message."""

    def on_stop(self) -> Any:
        """The engine has stopped; nothing comes after this."""

    def every(self, seconds: float, function: Callable[[], Any] | None = None) -> Any:
        """Calls a function in the service's thread again and again, from __init__ or a handler on.

        Args:
            seconds: From one call to the next. Calls that were missed are not made up for.
            function: What to call; without one, a decorator for it.

        Returns:
            A Timer, or the decorator.

        Raises:
            ConfigurationError: A time that is not from a millisecond to a million seconds, or an `async def` function
                in a service without any other.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.001 <= seconds <= 1e6:
            raise ConfigurationError("seconds", seconds, "must be from 0.001 to 1000000")
        if function is None:

            def decorate(function: T) -> T:
                self.every(seconds, function)
                return function

            return decorate
        if inspect.iscoroutinefunction(function) and not is_async(type(self)):
            raise ConfigurationError("function", function, "must not be async in a service whose handlers are not")
        timer = Timer(seconds, function)
        if self._running is not None:
            self._running.add_timer(timer)
        else:
            self._timers.append(timer)
        return timer

    def broadcast(self, message: bytes, *, group: str | None = None, exclude: ServiceConnection | None = None) -> None:
        """Sends a message to all connections of this listener, in whichever thread, that are open now.

        It comes after what this thread has sent before. Who reads so slowly that it finds no room is ended as
        slow_consumer.

        Args:
            message: One message, which is framed as every other.
            group: Only to those in this group.
            exclude: Not to this one.

        Raises:
            ValueError: It can't be a message of this framing, or that can't be a group.
            EngineStopped: The service does not run.
        """
        if self._running is None:
            raise EngineStopped
        self._running.broadcast(message, group, exclude)


_HANDLERS = ("on_start", "on_open", "on_message", "on_messages", "on_close", "on_stop")


def is_async(service: type[Service]) -> bool:
    """Whether one of its handlers is `async def`."""
    return any(inspect.iscoroutinefunction(getattr(service, name, None)) for name in _HANDLERS)


class ServiceConnection:
    """A connection as its service sees it. Its methods are for the handlers, in the service's own thread; from other
    threads use the engine's with `id`.

    Attributes:
        id: As in Engine.connections.
        peer: The client's address and port.
        local: This side's address and port.
        data: Yours: whatever belongs to this connection.
    """

    __slots__ = (
        "__weakref__",
        "_add",
        "_check",
        "_lines",
        "_number",
        "_over",
        "_put",
        "_quick",
        "_thread",
        "data",
        "id",
        "local",
        "peer",
    )

    def __init__(self, thread: _Thread, number: int, row: tuple[Any, ...]) -> None:
        token, peer_ip, local_ip, peer_port, local_port = row
        self.id: int = token
        self.peer: tuple[str, int] = (_rows.address_text(peer_ip), peer_port)
        self.local: tuple[str, int] = (_rows.address_text(local_ip), local_port)
        self.data: Any = None
        self._thread = thread
        self._number = number
        self._over = False  # nothing that it sends would arrive, and no message comes any more
        self._check = thread.check
        self._lines = thread.lines
        self._quick = thread.quick
        self._add, self._put = thread.ops.append, thread.messages.append

    def __repr__(self) -> str:
        return f"<ServiceConnection {self.id:x} of {self.peer[0]}:{self.peer[1]}{' ended' if self._over else ''}>"

    @property
    def open(self) -> bool:
        """False once it has ended, or the service has ended it."""
        return not self._over

    def send(self, message: bytes) -> None:
        """Sends one message, after all that were sent before. Does nothing once the connection has ended.

        A client that reads too slowly for what it asks is not read from until it does; answers that would bring its
        send queue above `send_hard_bytes` all the same end it as slow_consumer.

        Raises:
            ValueError: It can't be one message of this framing.
        """
        if self._over:
            return
        if type(message) is not bytes:
            message = memoryview(message).tobytes()
        size = len(message)
        if size > self._quick or (self._lines and message.find(b"\n") >= 0):
            self._slow(message)
        self._add(self._number)
        self._put(message)

    def _slow(self, message: bytes) -> None:
        """What `send` does not look at for a small line."""
        if self._check is not None:
            self._check(message)
        if len(message) > _LARGE:
            self._thread.large(len(message))

    def close(self) -> None:
        """Ends it with Reason.SERVICE_CLOSED: what was sent goes out, then the end of the stream."""
        self._end(_OP_CLOSE)

    def kick(self, text: str = "", *, farewell: bytes | None = None, force: bool = False) -> None:
        """Ends it with Reason.KICKED.

        Args:
            text: For the record, why; cut to 199 bytes of UTF-8.
            farewell: A last message.
            force: Reset it at once: what is not sent yet is dropped.
        """
        if farewell is not None and not force:
            self.send(farewell)
        self._end(_OP_RESET if force else _OP_KICK, _rows.cut_text(text))

    def _end(self, op: int, data: bytes = b"") -> None:
        if not self._over:
            self._over = True
            self._thread.op(op | self._number, data)

    @property
    def counters(self) -> Connection:
        """Its row, as Engine.connection gives it; once it has ended, that of its record.

        Raises:
            ConnectionEnded: It has ended and is no longer remembered.
            EngineStopped: The service has ended.
        """
        try:
            return self._thread.running().connection(self.id)
        except ConnectionEnded as error:
            if error.closed is None:
                raise
            return error.closed.connection

    @property
    def tags(self) -> dict[str, str]:
        """The tags that it has now, by whomever they were given."""
        return self._labels()[0]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that it is in now."""
        return self._labels()[1]

    def _labels(self) -> tuple[dict[str, str], tuple[str, ...]]:
        return labels.from_json(self._thread.running().labels_of(self.id))

    def label(self, *, tags: dict[str, str | None] | None = None, groups: Iterable[str] | None = None) -> None:
        """Changes its tags and groups as Engine.label does, and waits until it is done, which takes a worker's turn.
        Does nothing once the connection has ended.

        Raises:
            ConfigurationError: What can't be a tag or a group, or too many.
            EngineTimeout: Not within 5 seconds.
        """
        self._thread.label(self.id, tags, None if groups is None else list(groups))

    def join(self, group: str) -> None:
        """`label` with one group more."""
        self.label(groups=[*self.groups, group])

    def leave(self, group: str) -> None:
        """`label` without this group."""
        self.label(groups=[each for each in self.groups if each != group])


class _AsyncConnection(ServiceConnection):
    __slots__ = ("queue", "task")

    def __init__(self, thread: _AsyncThread, number: int, row: tuple[Any, ...]) -> None:
        super().__init__(thread, number, row)
        self.queue: deque[tuple[int, Any, int]] = deque()
        self.task: asyncio.Task[None] | None = None

    def send(self, message: bytes) -> None:
        super().send(message)
        self._thread.soon()


class _Thread:
    """One thread of a listener: takes batches, calls the handlers, hands over what they send."""

    concurrent = False

    def __init__(self, engine: Engine, run: Run, number: int, name: str, service: Service, framing: Framing) -> None:
        self.service = service
        self.name = name
        self.errors = 0
        self.ops: list[int] = []
        self.messages: list[bytes] = []
        self.check = None if isinstance(framing, Raw) else framing.check
        self.lines = isinstance(framing, Lines)
        # A message up to this size needs no check but that of a line.
        self.quick = (
            _LARGE if self.check is None else min(_LARGE, framing.max_bytes) if isinstance(framing, Lines) else -1
        )
        self._engine = engine
        self._run: Run | None = run
        self._number = number
        self._held = 0
        self._connections: dict[int, Any] = {}  # by number
        self._due: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        service.engine = engine
        service._running = self
        for timer in service._timers:
            self.add_timer(timer)
        self._thread = threading.Thread(target=self._main, name=f"iocpd-service-{number}", daemon=True)
        self._thread.start()

    # --- from connections and services --------------------------------------------------------------------------------

    def running(self) -> Run:
        if self._run is None:
            raise EngineStopped
        return self._run

    def op(self, op: int, data: bytes = b"") -> None:
        self.ops.append(op)
        self.messages.append(data)
        self.soon()

    def large(self, size: int) -> None:
        self._held += size
        if self._held > _LARGE_MAX:
            self.flush()

    def soon(self) -> None:
        """There is something to flush."""

    def flush(self) -> None:
        """Hands over what was sent."""
        self._held = 0
        if not self.ops:
            return
        ops, sizes, data = array("Q", self.ops), array("I", map(len, self.messages)), b"".join(self.messages)
        self.ops.clear()
        self.messages.clear()
        lib.iocpd_service_reply(
            self.running().native,
            self._number,
            ffi.from_buffer("uint64_t[]", ops),
            ffi.from_buffer("uint32_t[]", sizes),
            len(ops),
            ffi.from_buffer(data),
        )

    def broadcast(self, message: bytes, group: str | None, exclude: ServiceConnection | None) -> None:
        if type(message) is not bytes:
            message = memoryview(message).tobytes()
        if self.check is not None:
            self.check(message)
        if group is not None:
            labels.check_group(group)
        if not message and self.check is None:
            return
        who = _NOBODY if exclude is None or exclude._number not in self._connections else exclude._number
        self.op(_OP_TO | who, b"" if group is None else labels.encode({}, [group]))
        self.op(_OP_BROADCAST, message)
        self.large(len(message))

    def label(self, id: int, tags: dict[str, str | None] | None, groups: list[str] | None) -> None:
        self.flush()
        until = time.monotonic() + _END_SECONDS
        while True:
            try:
                self._engine.label(id, tags=tags, groups=groups)
            except (ConnectionEnded, ConnectionClosing, EngineStopped):
                return
            except EngineBusy:
                if time.monotonic() > until:
                    raise EngineTimeout("the change of labels", _END_SECONDS) from None
                time.sleep(0.001)
                continue
            return

    def add_timer(self, timer: Timer) -> None:
        heapq.heappush(self._due, (time.monotonic() + timer.seconds, next(self._count), timer))

    # --- the thread ---------------------------------------------------------------------------------------------------

    def join(self, timeout: float) -> bool:
        """Whether it has ended."""
        if self._thread is threading.current_thread():
            return True  # a handler has asked for the stop
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            self._call("on_start", self.service.on_start)
            self._loop()
            self._call("on_stop", self.service.on_stop)
        except BaseException:
            _log.exception("%s: the service's thread has ended", self.name)
        finally:
            self.service._running = None
            self._connections.clear()
            self.ops.clear()
            self.messages.clear()
            self._run = None

    def _loop(self) -> None:
        batch, native = ffi.new("iocpd_service_batch *"), self.running().native
        while True:
            self.flush()
            status = lib.iocpd_service_take(native, self._number, self._wait_ms(), batch)
            if batch.record_count:
                self._handle(batch)
            if self._due:
                self._run_timers()
            if status == lib.IOCPD_STOPPED:
                break

    def _wait_ms(self) -> int:
        if not self._due:
            return _WAIT_MS
        return min(max(int((self._due[0][0] - time.monotonic()) * 1000) + 1, 1), _WAIT_MS)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, timer = heapq.heappop(self._due)
            if timer.cancelled:
                continue
            self._call("a timer", timer.function)
            missed = max(0.0, (time.monotonic() - due) // timer.seconds)
            if not timer.cancelled:
                heapq.heappush(self._due, (due + (missed + 1) * timer.seconds, next(self._count), timer))

    def _call(self, what: str, function: Callable[[], Any]) -> None:
        try:
            function()
        except Exception:
            self.note_error(what)

    def note_error(self, what: str) -> None:
        _log.exception("%s: %s has raised", self.name, what)
        self.errors += 1

    def failed(self, what: str, connection: ServiceConnection) -> None:
        """In an exception's handler."""
        self.errors += 1
        host, port = connection.peer
        _log.exception(
            "%s: %s has raised; the connection %x of %s:%d is ended", self.name, what, connection.id, host, port
        )
        connection._end(_OP_FAIL)

    def read(self, batch: Any) -> tuple[Iterable[tuple[int, ...]], list[tuple[Any, ...]], list[bytes]]:
        """Records, opens and messages as Python's own."""
        records = list(_RECORDS.iter_unpack(ffi.buffer(batch.records, batch.record_count * _RECORDS.size)[:]))
        opens: list[tuple[Any, ...]] = []
        if batch.open_count:
            opens = list(_OPENS.iter_unpack(ffi.buffer(batch.opens, batch.open_count * _OPENS.size)[:]))
        if not batch.message_count:
            return records, opens, []
        data = ffi.buffer(batch.data, batch.bytes)[:]
        if self.lines:
            return records, opens, data.split(b"\n")
        ends = list(itertools.accumulate(ffi.unpack(batch.lengths, batch.message_count), initial=0))
        return records, opens, [data[start:end] for start, end in itertools.pairwise(ends)]

    def _handle(self, batch: Any) -> None:
        service, at = self.service, 0
        connections, several = self._connections, service.on_messages
        records, opens, messages = self.read(batch)
        for number, kind, count, _ in records:
            if kind == _MESSAGES:
                connection = connections[number]
                mine = messages[at : at + count]
                at += count
                if connection._over:
                    continue
                try:
                    if several is not None:
                        several(connection, mine)
                    else:
                        on_message = service.on_message
                        for message in mine:
                            on_message(connection, message)
                            if connection._over:
                                break
                except Exception:
                    self.failed("on_message" if several is None else "on_messages", connection)
            elif kind == _OPEN:
                connection = connections[number] = ServiceConnection(self, number, opens[count])
                service.connections[connection.id] = connection
                try:
                    service.on_open(connection)
                except Exception:
                    self.failed("on_open", connection)
            elif kind == _CLOSE:
                self._closed(number, count)
            if len(self.ops) > _OPS_MAX:
                self.flush()

    def _forget(self, number: int) -> Any:
        connection = self._connections.pop(number)
        connection._over = True
        self.service.connections.pop(connection.id, None)
        return connection

    def _closed(self, number: int, reason: int) -> None:
        connection = self._forget(number)
        try:
            self.service.on_close(connection, _rows.REASONS[reason])  # type: ignore[arg-type]
        except Exception:
            self.note_error("on_close")


class _AsyncThread(_Thread):
    """The handlers run on a loop, and another thread waits for the engine."""

    concurrent = True
    _loop_object: asyncio.AbstractEventLoop
    _flushing: bool

    def soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop_object.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def add_timer(self, timer: Timer) -> None:
        if hasattr(self, "_loop_object"):
            self._keep(self._tick(timer))
        else:
            super().add_timer(timer)

    def _main(self) -> None:
        import asyncio  # not by those who have no need of it

        self._flushing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tickers: set[asyncio.Task[Any]] = set()
        self._loop_object = loop = asyncio.SelectorEventLoop()
        self._ended = asyncio.Event()
        taker = threading.Thread(target=self._take, name=f"{self._thread.name}-inbox", daemon=True)
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self._amain(taker))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException:
            _log.exception("%s: the service's thread has ended", self.name)
        finally:
            if taker.ident is not None:
                taker.join()
            loop.close()
            self.service._running = None
            self._connections.clear()
            self._run = None

    async def _amain(self, taker: threading.Thread) -> None:
        await self._acall("on_start", self.service.on_start)
        for _, _, timer in self._due:
            self._keep(self._tick(timer))
        taker.start()
        await self._ended.wait()
        await self._finish()
        for task in self._tickers:
            task.cancel()
        await self._acall("on_stop", self.service.on_stop)
        self.flush()

    async def _finish(self) -> None:
        """Handlers that are under way come back, or are cancelled."""
        import asyncio

        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END_SECONDS / 2)
        if self._tasks:
            _log.error(
                "%s: %d handlers wait for something at the engine's stop: cancelled", self.name, len(self._tasks)
            )
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=_END_SECONDS / 4)

    def _take(self) -> None:
        batch, native, loop = ffi.new("iocpd_service_batch *"), self.running().native, self._loop_object
        while True:
            status = lib.iocpd_service_take(native, self._number, _WAIT_MS, batch)
            if batch.record_count:
                loop.call_soon_threadsafe(self._dispatch, *self.read(batch))
            if status == lib.IOCPD_STOPPED:
                break
        loop.call_soon_threadsafe(self._ended.set)

    def _keep(self, awaitable: Any) -> None:
        task = self._loop_object.create_task(awaitable)
        self._tickers.add(task)
        task.add_done_callback(self._tickers.discard)

    async def _tick(self, timer: Timer) -> None:
        import asyncio

        due = time.monotonic() + timer.seconds
        while not timer.cancelled:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if timer.cancelled:
                break
            await self._acall("a timer", timer.function)
            due += (max(0.0, (time.monotonic() - due) // timer.seconds) + 1) * timer.seconds

    async def _acall(self, what: str, function: Callable[[], Any]) -> None:
        try:
            await _maybe(function())
        except Exception:
            self.note_error(what)

    def _dispatch(self, records: Iterable[tuple[int, ...]], opens: list[Any], messages: list[bytes]) -> None:
        at = 0
        for number, kind, count, size in records:
            item: Any = None
            if kind == _OPEN:
                connection = self._connections[number] = _AsyncConnection(self, number, opens[count])
                self.service.connections[connection.id] = connection
            elif kind == _MESSAGES:
                item = messages[at : at + count]
                at += count
            else:
                item = count
            connection = self._connections[number]
            connection.queue.append((kind, item, size))
            if connection.task is None:
                connection.task = task = self._loop_object.create_task(self._serve(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: _AsyncConnection) -> None:
        """What waits for one connection, in order."""
        service = self.service
        while connection.queue:
            kind, item, size = connection.queue.popleft()
            if kind == _OPEN:
                await self._guard("on_open", connection, service.on_open, connection)
            elif kind == _MESSAGES:
                if service.on_messages is not None:
                    await self._guard("on_messages", connection, service.on_messages, connection, item)
                else:
                    for message in item:
                        await self._guard("on_message", connection, service.on_message, connection, message)
                self.op(_OP_HANDLED | size << 32 | connection._number)
            elif kind == _END:
                self.op(_OP_ANSWERED | connection._number)
            else:
                await self._aclosed(connection, item)
        connection.task = None

    async def _guard(self, what: str, connection: ServiceConnection, handler: Callable[..., Any], *given: Any) -> None:
        import asyncio

        if connection._over:
            return
        try:
            await _maybe(handler(*given))
        except (Exception, asyncio.CancelledError):
            self.failed(what, connection)

    async def _aclosed(self, connection: ServiceConnection, reason: int) -> None:
        import asyncio

        connection._over = True
        self.service.connections.pop(connection.id, None)
        try:
            await _maybe(self.service.on_close(connection, _rows.REASONS[reason]))  # type: ignore[arg-type]
        except (Exception, asyncio.CancelledError):
            self.note_error("on_close")
        del self._connections[connection._number]
        self.op(_OP_FORGET | connection._number)


async def _maybe(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


# --- for the engine ---------------------------------------------------------------------------------------------------


class Plan:
    """The service of one listener, ready to run."""

    def __init__(self, listener: ListenerConfig) -> None:
        self.name = listener.service_name
        self.service = _load(listener.service)
        self.framing = listener.framing or self.service.framing
        self.concurrent = is_async(self.service)
        if not isinstance(self.framing, Framing):
            raise StartError(f"{self.name}: framing is {self.framing!r}: it must be one of Raw, Lines, and so on")
        self.instances = [self._make(number) for number in range(listener.threads)]

    def _make(self, number: int) -> Service:
        try:
            service = self.service()
        except Exception as error:
            raise StartError(f"{self.name}: the service could not be made: {type(error).__name__}: {error}") from error
        service.thread = number
        return service

    def start(self, engine: Engine, run: Run) -> None:
        """RuntimeError if there is no thread for it."""
        kind = _AsyncThread if self.concurrent else _Thread
        for service in self.instances:
            number = len(run.service_threads)
            run.service_threads.append(kind(engine, run, number, self.name, service, self.framing))


def plan(listener: ListenerConfig) -> Plan | None:
    """None for a service in C.

    Raises:
        StartError: The service can't be imported, is none, or could not be made.
    """
    return Plan(listener) if listener.in_python else None


def _load(service: str | type) -> type[Service]:
    found: Any = service
    if isinstance(service, str):
        _, module_name, path = service.split(":")
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # as `python -m` would have it
        try:
            found = importlib.import_module(module_name)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise StartError(f"{service}: the module {module_name} can't be imported: {why}") from error
        for name in path.split("."):
            try:
                found = getattr(found, name)
            except AttributeError:
                raise StartError(f"{service}: there is no {path} in the module {module_name}") from None
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise StartError(f"{service}: {found!r} is not a class that is derived from iocpd.core.Service")
    return found


def end_threads(threads: Iterable[_Thread]) -> None:
    """Waits for them, but not for ever."""
    until = time.monotonic() + _END_SECONDS
    for thread in threads:
        if not thread.join(max(0.0, until - time.monotonic())):
            _log.error("%s: a handler does not come back: its thread is left behind", thread.name)


def thread_stats(run: Run, threads: Iterable[_Thread]) -> list[ServiceStats]:
    rows = []
    for thread in threads:
        row = ffi.new("iocpd_service_stats *")
        lib.iocpd_service_read(run.native, thread._number, row)
        values = {name: getattr(row, name) for name, _ in ffi.typeof(row).item.fields}
        rows.append(ServiceStats(**values, service=thread.name, thread=thread.service.thread, errors=thread.errors))
    return rows
