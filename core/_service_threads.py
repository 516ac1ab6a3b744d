"""The threads of services in Python: they take batches, call the handlers, and hand over what these send.

Everything that is done for each message stands in `ServiceThread.read`, `ServiceThread._handle` and
`ServiceConnection.send`; the rest is done for each run of messages of one connection, or for each batch.
core/native/README.md has what was measured.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import logging
import struct
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import _rows, labels
from ._native import ffi, lib
from .errors import ConnectionClosing, ConnectionEnded, EngineBusy, EngineStopped, EngineTimeout
from .framing import Framing, Lines, Raw
from .model import ServiceStats
from .service import Service, ServiceConnection, Timer

if TYPE_CHECKING:
    import asyncio

    from ._run import Run
    from .engine import Engine

_log = logging.getLogger("iocpd.service")

_RECORDS = struct.Struct("=" + _rows.struct_format(ffi.typeof("iocpd_service_record")))
_OPENS = struct.Struct("=" + _rows.struct_format(ffi.typeof("iocpd_service_open")))
_OPEN, _MESSAGES, _END = lib.IOCPD_SERVICE_OPEN, lib.IOCPD_SERVICE_MESSAGES, lib.IOCPD_SERVICE_END
_CLOSE = lib.IOCPD_SERVICE_CLOSE
_OPS = {
    name: getattr(lib, f"IOCPD_OP_{name}") << 60
    for name in ("CLOSE", "KICK", "RESET", "FAIL", "TO", "BROADCAST", "HANDLED", "ANSWERED", "FORGET")
}
assert lib.IOCPD_OP_SEND == 0  # so a count and a connection's number alone send
_NOBODY = 0xFFFFFFFF
_WAIT_MS = 60_000
_HANDLER_SECONDS = 2.5  # that `async def` handlers get to come back once the engine has stopped
_END_SECONDS = 5.0  # that a thread gets in all
_LABEL_SECONDS = 5.0
_OPS_MAX = 1024  # that are handed over together
_LARGE = 16 * 1024  # a message above it is counted,
_LARGE_MAX = 4 * 1024 * 1024  # and with so much of them all that was sent is handed over


class ServiceThread:
    """One thread of a listener: takes batches, calls the handlers, hands over what they send."""

    concurrent = False

    def __init__(self, engine: Engine, run: Run, number: int, name: str, service: Service, framing: Framing) -> None:
        self.service = service
        self.name = name
        self.errors = 0
        self.framing = framing
        # What is sent: messages to one connection, and what was complete before, as iocpd_service_reply takes it.
        self.to: ServiceConnection | None = None
        self.messages: list[bytes] = []
        self._ops: list[int] = []
        self._data: list[bytes] = []  # of each op
        self._lengths = array("I")
        self._lines = isinstance(framing, Lines)
        # Up to here, a message without LF can be one; -1: the framing must be asked.
        self.quick = _LARGE if isinstance(framing, Raw) else -1
        if isinstance(framing, Lines):
            self.quick = min(_LARGE, framing.max_bytes)
        self._engine = engine
        self._run: Run | None = run
        self._number = number
        self._held = 0
        self._batch = ffi.new("iocpd_service_batch *")
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

    def check(self, message: bytes) -> None:
        """What `ServiceConnection.send` can't let pass at once."""
        self.framing.check(message)
        if len(message) > _LARGE:
            self._hold(len(message))

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > _LARGE_MAX:
            to = self.to
            self.flush()
            self.turn(to)

    def turn(self, connection: ServiceConnection | None) -> None:
        """`messages` are for this connection from here on."""
        messages = self.messages
        if messages and self.to is not None:
            self._add(self.to, messages)
            messages.clear()
        self.to = connection

    def send_all(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        """ServiceConnection.send_all; the list is this thread's."""
        if self.messages:
            self.turn(None)
        if not messages:
            return
        data = b"".join(messages)
        size = len(data)
        if size > self.quick or (self._lines and 10 in data):
            messages = [message if type(message) is bytes else memoryview(message).tobytes() for message in messages]
            if max(map(len, messages)) > self.quick or (self._lines and 10 in data):
                for message in messages:
                    self.framing.check(message)
        self._add(connection, messages)
        if size > _LARGE:
            self._hold(size)

    def _add(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        self._ops.append(len(messages) << 32 | connection._number)
        if self._lines:
            messages.append(b"")  # so that LF stands behind the last, too
            self._data.append(b"\n".join(messages))
        else:
            self._lengths.extend(map(len, messages))
            self._data.append(b"".join(messages))

    def op(self, name: str, number: int, data: bytes = b"", *, amount: int = 0) -> None:
        """Something else than a message, after all that was sent before."""
        self.turn(None)
        self._ops.append(_OPS[name] | amount << 32 | number)
        self._data.append(data)

    def flush(self) -> None:
        """Hands over what was sent."""
        self.turn(None)
        if not self._ops:
            return
        ops, sizes, lengths = array("Q", self._ops), array("I", map(len, self._data)), self._lengths
        data = b"".join(self._data)
        self._ops.clear()
        self._data.clear()
        self._lengths, self._held = array("I"), 0
        lib.iocpd_service_reply(
            self.running().native,
            self._number,
            ffi.from_buffer("uint64_t[]", ops),
            ffi.from_buffer("uint32_t[]", sizes),
            len(ops),
            ffi.from_buffer("uint32_t[]", lengths),
            ffi.from_buffer(data),
        )

    def broadcast(self, message: bytes, group: str | None, exclude: ServiceConnection | None) -> None:
        """Service.broadcast."""
        if type(message) is not bytes:
            message = memoryview(message).tobytes()
        self.framing.check(message)
        if group is not None:
            labels.check_group(group)
        if not message and isinstance(self.framing, Raw):
            return
        who = _NOBODY if exclude is None or exclude._number not in self._connections else exclude._number
        self.op("TO", who, b"" if group is None else labels.encode({}, [group]))
        self.op("BROADCAST", 0, message)
        self._hold(len(message))

    def label(self, id: int, tags: dict[str, str | None] | None, groups: list[str] | None) -> None:
        self.flush()
        until = time.monotonic() + _LABEL_SECONDS
        while True:
            try:
                self._engine.label(id, tags=tags, groups=groups)
            except (ConnectionEnded, ConnectionClosing, EngineStopped):
                return
            except EngineBusy:
                if time.monotonic() > until:
                    raise EngineTimeout("the change of labels", _LABEL_SECONDS) from None
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
            _log.exception("%s: the service's thread can't go on: all of its connections are ended", self.name)
            self.errors += 1
            self._turn_away()
        finally:
            self.service._running = None
            self._connections.clear()
            self.messages.clear()
            self._run = None

    def _turn_away(self) -> None:
        """Ends all that this thread has, and who comes to it, until the engine stops."""
        batch, native, status = self._batch, self.running().native, lib.IOCPD_OK
        for unsent in (self.messages, self._ops, self._data):
            unsent.clear()
        self._lengths = array("I")
        for number in self._connections:
            self.op("FAIL", number)
        while True:
            records = ffi.buffer(batch.records, batch.record_count * _RECORDS.size)
            for number, kind, *_ in _RECORDS.iter_unpack(records):
                if kind == _OPEN:
                    self.op("FAIL", number)
            self.flush()
            if status == lib.IOCPD_STOPPED:
                break
            status = lib.iocpd_service_take(native, self._number, _WAIT_MS, batch)

    def _loop(self) -> None:
        batch, native = self._batch, self.running().native
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

    # Whatever a handler raises, also SystemExit, ends what it was called for and not the thread, which serves others.

    def _call(self, what: str, function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException:
            self.note_error(what)

    def note_error(self, what: str) -> None:
        _log.exception("%s: %s has raised", self.name, what)
        self.errors += 1

    def failed(self, what: str, connection: ServiceConnection) -> None:
        """In an exception's handler."""
        host, port = connection.peer
        _log.exception(
            "%s: %s has raised; the connection %x of %s:%d is ended", self.name, what, connection.id, host, port
        )
        self.errors += 1
        connection._end("FAIL")

    def read(self, batch: Any) -> Iterator[tuple[int, int, Any, int]]:
        """What a batch tells of each connection: its number, a kind, what belongs to that, and what it took of the
        inbox. To be read before the next take.
        """
        data, lines, at, first = ffi.buffer(batch.data, batch.bytes), self._lines, 0, 0
        opens = _OPENS.iter_unpack(ffi.buffer(batch.opens, batch.open_count * _OPENS.size))
        lengths = [] if lines else ffi.unpack(batch.lengths, batch.message_count)
        records = ffi.buffer(batch.records, batch.record_count * _RECORDS.size)
        for number, kind, count, took, size in _RECORDS.iter_unpack(records):
            if kind == _MESSAGES:
                end = at + size
                if lines:
                    yield number, kind, data[at : end - 1].split(b"\n"), took
                else:
                    ends = itertools.accumulate(lengths[first : first + count], initial=at)
                    yield number, kind, [data[start:end] for start, end in itertools.pairwise(ends)], took
                    first += count
                at = end
            elif kind == _OPEN:
                yield number, kind, next(opens), 0
            else:
                yield number, kind, count, 0

    def _handle(self, batch: Any) -> None:
        service, connections = self.service, self._connections
        on_message, on_messages = service.on_message, service.on_messages
        for number, kind, item, _ in self.read(batch):
            if kind == _MESSAGES:
                connection = connections[number]
                try:
                    if on_messages is None:
                        for message in item:
                            if connection._over:
                                break
                            on_message(connection, message)
                    elif not connection._over:
                        on_messages(connection, item)
                except BaseException:
                    self.failed("on_message" if on_messages is None else "on_messages", connection)
            elif kind == _OPEN:
                connection = connections[number] = ServiceConnection(self, number, item)
                service.connections[connection.id] = connection
                try:
                    service.on_open(connection)
                except BaseException:
                    self.failed("on_open", connection)
            elif kind == _CLOSE:
                self._closed(number, item)
            if len(self._ops) > _OPS_MAX:
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
        except BaseException:
            self.note_error("on_close")


class _AsyncConnection(ServiceConnection):
    __slots__ = ("queue", "task")

    def __init__(self, thread: AsyncServiceThread, number: int, row: tuple[Any, ...]) -> None:
        super().__init__(thread, number, row)
        self.queue: deque[tuple[int, Any, int]] = deque()
        self.task: asyncio.Task[None] | None = None


class AsyncServiceThread(ServiceThread):
    """The handlers run on a loop, and another thread waits for the engine."""

    concurrent = True
    _loop_object: asyncio.AbstractEventLoop
    _flushing: bool

    def turn(self, connection: ServiceConnection | None) -> None:
        super().turn(connection)
        self._flush_soon()

    def send_all(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        super().send_all(connection, messages)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop_object.call_soon(self._flush)

    def _flush(self) -> None:
        self.flush()
        self._flushing = False

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
            self._run_through(loop.create_task(self._amain(taker)))
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

    def _run_through(self, main: asyncio.Task[None]) -> None:
        while True:
            try:
                return self._loop_object.run_until_complete(main)
            except (SystemExit, KeyboardInterrupt):
                # asyncio lets these two, from a task or callback that the service has made, through its loop.
                if main.done():
                    raise
                self.note_error("a task of its own")

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
            await asyncio.wait(self._tasks, timeout=_HANDLER_SECONDS)
        if self._tasks:
            _log.error(
                "%s: %d handlers wait for something at the engine's stop: cancelled", self.name, len(self._tasks)
            )
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=_HANDLER_SECONDS / 2)

    def _take(self) -> None:
        batch, native, loop = ffi.new("iocpd_service_batch *"), self.running().native, self._loop_object
        while True:
            status = lib.iocpd_service_take(native, self._number, _WAIT_MS, batch)
            if batch.record_count:
                loop.call_soon_threadsafe(self._dispatch, list(self.read(batch)))
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
        import asyncio

        task = asyncio.current_task()
        try:
            await _maybe(function())
        except GeneratorExit:
            raise
        except BaseException:
            if task is not None and task.cancelling():
                raise
            self.note_error(what)

    def _dispatch(self, records: list[tuple[int, int, Any, int]]) -> None:
        for number, kind, item, took in records:
            if kind == _OPEN:
                connection = self._connections[number] = _AsyncConnection(self, number, item)
                self.service.connections[connection.id] = connection
            connection = self._connections[number]
            connection.queue.append((kind, item, took))
            if connection.task is None:
                connection.task = task = self._loop_object.create_task(self._serve(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: _AsyncConnection) -> None:
        """What waits for one connection, in order."""
        service = self.service
        while connection.queue:
            kind, item, took = connection.queue.popleft()
            if kind == _OPEN:
                await self._guard("on_open", connection, service.on_open, connection)
            elif kind == _MESSAGES:
                if service.on_messages is not None:
                    await self._guard("on_messages", connection, service.on_messages, connection, item)
                else:
                    for message in item:
                        await self._guard("on_message", connection, service.on_message, connection, message)
                self.op("HANDLED", connection._number, amount=took)
            elif kind == _END:
                self.op("ANSWERED", connection._number)
            else:
                await self._aclosed(connection, item)
        connection.task = None

    async def _guard(self, what: str, connection: ServiceConnection, handler: Callable[..., Any], *given: Any) -> None:
        if connection._over:
            return
        try:
            await _maybe(handler(*given))
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException:
            self.failed(what, connection)

    async def _aclosed(self, connection: ServiceConnection, reason: int) -> None:
        connection._over = True
        self.service.connections.pop(connection.id, None)
        try:
            await _maybe(self.service.on_close(connection, _rows.REASONS[reason]))  # type: ignore[arg-type]
        except GeneratorExit:
            raise
        except BaseException:
            self.note_error("on_close")
        del self._connections[connection._number]
        self.op("FORGET", connection._number)


async def _maybe(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


def end_threads(threads: Iterable[ServiceThread]) -> None:
    """Waits for them, but not for ever."""
    until = time.monotonic() + _END_SECONDS
    for thread in threads:
        if not thread.join(max(0.0, until - time.monotonic())):
            _log.error("%s: a handler does not come back: its thread is left behind", thread.name)


def thread_stats(run: Run, threads: Iterable[ServiceThread]) -> list[ServiceStats]:
    rows = []
    for thread in threads:
        row = ffi.new("iocpd_service_stats *")
        lib.iocpd_service_read(run.native, thread._number, row)
        values = {name: getattr(row, name) for name, _ in ffi.typeof(row).item.fields}
        rows.append(ServiceStats(**values, service=thread.name, thread=thread.service.thread, errors=thread.errors))
    return rows
