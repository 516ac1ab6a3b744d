"""Services in Python over real sockets, on every backend."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from iocpd.core import (
    By,
    ConfigurationError,
    Engine,
    EngineConfig,
    Fixed,
    LengthPrefixed,
    Lines,
    ListenerConfig,
    Reason,
    Service,
    ServiceConnection,
    StartError,
    _service_threads,
)
from iocpd.core._native import lib
from tests.support import PATIENCE, ROOM, WINDOWS, Client, connect, connection_of, eventually, exchange, port_of

Start = Callable[..., Engine]


def python(service: type[Service], **options: Any) -> ListenerConfig:
    return ListenerConfig(port=0, service=service, **options)


def stats(engine: Engine) -> Any:
    (row,) = engine.service_stats()
    return row


class Upper(Service):
    framing = Lines(max_bytes=65536)

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        connection.send(message.upper())


class UpperInBatches(Service):
    framing = Lines(max_bytes=65536)

    def on_messages(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        for message in messages:
            connection.send(message.upper())


class UpperTogether(Service):
    framing = Lines(max_bytes=65536)

    def on_messages(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        connection.send_all(message.upper() for message in messages)


class UpperLater(Service):
    framing = Lines(max_bytes=65536)

    async def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        if len(message) % 5 == 0:
            await asyncio.sleep(0)
        connection.send(message.upper())


def lines(source: random.Random, count: int, longest: int = 300) -> bytes:
    each = (bytes(source.choices(b"abcdefgh ", k=source.randrange(longest))) for _ in range(count))
    return b"".join(line + b"\n" for line in each)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("service", [Upper, UpperInBatches, UpperTogether, UpperLater])
def test_every_line_is_answered_once_and_in_order(start: Start, service: type[Service], threads: int) -> None:
    engine, source = start(python(service, threads=threads), workers=2), random.Random(1)
    clients = connect(engine, 40)
    data = [lines(source, source.randrange(1, 1000)) for _ in clients]
    assert exchange(clients, data, shut=True) == [each.upper() for each in data]
    eventually(lambda: engine.count() == 0)
    assert {record.reason for record in engine.closed()} == {Reason.CLIENT_CLOSED}
    eventually(lambda: not any(row.connections or row.waiting_bytes for row in engine.service_stats()))
    rows = engine.service_stats()
    assert len(rows) == threads
    total = sum(each.count(b"\n") for each in data)
    assert (sum(row.messages_in for row in rows), sum(row.messages_out for row in rows)) == (total, total)
    assert all(row.messages_in > 0 for row in rows)
    records = engine.closed()
    assert sum(record.connection.messages_in for record in records) == total
    assert sum(record.connection.messages_out for record in records) == total


@pytest.mark.parametrize("service", [Upper, UpperLater])
def test_a_small_inbox_loses_nothing(start: Start, service: type[Service]) -> None:
    full = threading.Event()

    class Late(service):  # type: ignore[misc,valid-type]
        def on_open(self, connection: ServiceConnection) -> None:
            full.wait(60)

    engine, source = start(python(Late, inbox_bytes=16384), receive_buffer_bytes=512), random.Random(2)
    clients = connect(engine, 30)
    data = [lines(source, 2000, 100) for _ in clients]
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.extend(exchange(clients, data, shut=True)))
    thread.start()
    eventually(lambda: stats(engine).pauses > 0)
    full.set()
    thread.join(60)
    assert results == [each.upper() for each in data]
    eventually(lambda: stats(engine).paused == 0)  # a client sees its end before its connection has left


def test_messages_of_any_bytes_arrive_as_they_were(start: Start) -> None:
    class Mirror(Service):
        framing = LengthPrefixed(2)

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            connection.send(message)

    engine, source = start(python(Mirror)), random.Random(3)
    clients = connect(engine, 10)
    data = [
        b"".join(Mirror.framing.encode(source.randbytes(source.choice((0, 1, 50, 5000)))) for _ in range(100))
        for _ in clients
    ]
    assert exchange(clients, data, shut=True) == data


def test_without_a_framing_a_message_is_what_was_received(start: Start) -> None:
    class Mirror(Service):
        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            connection.send(message)

    engine, source = start(python(Mirror)), random.Random(4)
    clients = connect(engine, 10)
    data = [source.randbytes(source.randrange(1, 300_000)) for _ in clients]
    assert exchange(clients, data, shut=True) == data


def test_a_message_larger_than_a_batch_arrives_whole(start: Start) -> None:
    engine = start(python(Upper, framing=Lines(max_bytes=3 << 20)), **ROOM)
    with Client(port_of(engine)) as client:
        for size in (10, 3 << 20, 300_000, 5):
            client.send(b"x" * size + b"\n")
            assert client.read(size + 1) == b"X" * size + b"\n"
        client.send(b"x" * ((3 << 20) + 2))
        assert client.read_to_end() == b""
    assert eventually(lambda: engine.closed())[0].reason == Reason.FRAME_TOO_LARGE


def test_the_listeners_framing_counts_before_the_class(start: Start) -> None:
    engine = start(python(Upper, framing=Fixed(3)))
    with Client(port_of(engine)) as client:
        client.send(b"abcde")
        assert client.read(3) == b"ABC"


# --- the life of a connection -----------------------------------------------------------------------------------------


class Diary(Service):
    """Writes down what it is told."""

    framing = Lines()
    told: ClassVar[list[tuple[Any, ...]]]
    threads: ClassVar[set[int]]

    def on_open(self, connection: ServiceConnection) -> None:
        self.note(connection, "open")

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        self.note(connection, message)
        if message == b"close":
            connection.send(b"last words")
            connection.close()
            connection.send(b"too late")
        elif message == b"kick":
            connection.kick("enough", farewell=b"bye")
        elif message == b"reset":
            connection.kick("at once", force=True)
        elif message == b"raise":
            connection.send(b"before")
            raise RuntimeError("as it was asked to")

    def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
        assert not connection.open
        self.note(connection, reason)

    def note(self, connection: ServiceConnection, what: object) -> None:
        self.threads.add(threading.get_ident())
        self.told.append((connection.peer, what))


class LateDiary(Diary):
    async def on_message(self, connection: ServiceConnection, message: bytes) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().on_message(connection, message)


@pytest.fixture(params=[Diary, LateDiary])
def diary(request: pytest.FixtureRequest) -> type[Diary]:
    request.param.told, request.param.threads = [], set()
    return request.param


def told(diary: type[Diary], client: Client) -> list[Any]:
    return [what for peer, what in diary.told if peer == client.address]


def test_a_connection_is_told_from_its_beginning_to_its_end(start: Start, diary: type[Diary]) -> None:
    engine = start(python(diary))
    with Client(port_of(engine)) as client:
        client.send(b"one\ntwo\nthr")
        client.shut()
        assert client.read_to_end() == b""
        eventually(lambda: told(diary, client)[-1:] == [Reason.CLIENT_CLOSED])
        assert told(diary, client) == ["open", b"one", b"two", Reason.CLIENT_CLOSED]
    assert len(diary.threads) == 1
    assert threading.get_ident() not in diary.threads


def test_a_reset_is_told(start: Start, diary: type[Diary]) -> None:
    engine = start(python(diary))
    (client,) = connect(engine, 1)
    client.send(b"one\n")
    eventually(lambda: b"one" in told(diary, client))
    client.reset()
    eventually(lambda: told(diary, client)[-1:] == [Reason.CLIENT_RESET])
    assert told(diary, client) == ["open", b"one", Reason.CLIENT_RESET]


def test_close_sends_what_was_said_and_then_the_end(start: Start, diary: type[Diary]) -> None:
    engine = start(python(diary))
    with Client(port_of(engine)) as client:
        client.send(b"close\nmore\n")
        assert client.read_to_end() == b"last words\n"
        client.close()
        eventually(lambda: told(diary, client)[-1:] == [Reason.SERVICE_CLOSED])
        assert told(diary, client) == ["open", b"close", Reason.SERVICE_CLOSED]
    record = engine.closed()[0]
    assert (record.reason, record.by) == (Reason.SERVICE_CLOSED, By.ENGINE)


def test_a_kick_has_its_text_and_its_farewell(start: Start, diary: type[Diary]) -> None:
    engine = start(python(diary))
    with Client(port_of(engine)) as client:
        client.send(b"kick\n")
        assert client.read_to_end() == b"bye\n"
        client.close()
        record = eventually(lambda: engine.closed())[0]
        assert (record.reason, record.text) == (Reason.KICKED, "enough")
    with Client(port_of(engine)) as client:
        client.send(b"reset\n")
        client.read_to_any_end()
        record = eventually(lambda: found[0] if len(found := engine.closed()) == 2 else None)
        assert (record.reason, record.text) == (Reason.KICKED, "at once")


def test_an_exception_ends_its_connection_and_harms_nobody_else(
    start: Start, diary: type[Diary], caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(python(diary))
    with Client(port_of(engine)) as other, Client(port_of(engine)) as client:
        connection_of(engine, other)
        client.send(b"raise\nnever seen\n")
        assert client.read_to_end() == b"before\n"
        client.close()
        eventually(lambda: told(diary, client)[-1:] == [Reason.SERVICE_ERROR])
        assert told(diary, client) == ["open", b"raise", Reason.SERVICE_ERROR]
        assert (engine.closed()[0].reason, engine.closed()[0].by) == (Reason.SERVICE_ERROR, By.ENGINE)
        other.send(b"still here\n")
        eventually(lambda: told(diary, other) == ["open", b"still here"])
    assert stats(engine).errors == 1
    (entry,) = [entry for entry in caplog.records if entry.name == "iocpd.service"]
    assert entry.levelno == logging.ERROR
    assert "RuntimeError: as it was asked to" in caplog.text
    del entry
    caplog.clear()  # a traceback holds its engine


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
def test_whatever_a_handler_raises_ends_its_connection_and_not_the_thread(
    start: Start, later: bool, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Raises(Upper):
        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            if message == b"raise":
                raise kind
            super().on_message(connection, message)

    class RaisesLater(UpperLater):
        async def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            await asyncio.sleep(0)
            if message == b"raise":
                raise kind
            await super().on_message(connection, message)

    engine = start(python(RaisesLater if later else Raises))
    with Client(port_of(engine)) as other, Client(port_of(engine)) as client:
        connection_of(engine, other)
        client.send(b"raise\n")
        assert client.read_to_end() == b""
        client.close()
        assert eventually(lambda: engine.closed())[0].reason == Reason.SERVICE_ERROR
        other.send(b"here\n")
        assert other.read(5) == b"HERE\n"
    assert stats(engine).errors == 1
    caplog.clear()


def test_a_task_that_a_service_has_made_may_raise_what_ends_a_loop(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class Makes(UpperLater):
        async def on_open(self, connection: ServiceConnection) -> None:  # type: ignore[override]
            self.task = asyncio.create_task(self.exit())

        async def exit(self) -> None:
            raise SystemExit(3)

    engine = start(python(Makes))
    with Client(port_of(engine)) as client:
        eventually(lambda: stats(engine).errors == 1)
        client.send(b"here\n")
        assert client.read(5) == b"HERE\n"
    caplog.clear()


def test_a_thread_that_can_not_go_on_ends_its_connections_and_who_comes(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    engine = start(python(Upper))
    with Client(port_of(engine)) as client:
        client.send(b"here\n")
        assert client.read(5) == b"HERE\n"
        monkeypatch.setattr(_service_threads.ServiceThread, "read", fails)
        with Client(port_of(engine)) as first:  # its own beginning is what fails
            assert [each.read_to_end() for each in (first, client)] == [b"", b""]
        with Client(port_of(engine)) as later:
            assert later.read_to_end() == b""
    assert stats(engine).errors == 1
    eventually(lambda: [row.reason for row in engine.closed()] == [Reason.SERVICE_ERROR] * 3)
    eventually(lambda: stats(engine).connections == 0)
    caplog.clear()


@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("where", ["on_open", "on_close", "timer", "check"])
def test_an_exception_anywhere_is_logged_and_counted(
    start: Start, where: str, later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(Service):
        framing = Lines()

        def __init__(self) -> None:
            if where == "timer":
                self.every(0.01, self.tick)

        def tick(self) -> None:
            raise RuntimeError(where)

        def on_open(self, connection: ServiceConnection) -> None:
            if where == "on_open":
                raise RuntimeError(where)

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            connection.send(message + b"\n" if where == "check" else message)

        def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
            if where == "on_close":
                raise RuntimeError(where)

    class BreaksLater(Breaks):
        async def on_open(self, connection: ServiceConnection) -> None:  # type: ignore[override]
            Breaks.on_open(self, connection)

        async def on_message(self, connection: ServiceConnection, message: bytes) -> None:  # type: ignore[override]
            Breaks.on_message(self, connection, message)

        async def on_close(self, connection: ServiceConnection, reason: Reason) -> None:  # type: ignore[override]
            Breaks.on_close(self, connection, reason)

    engine = start(python(BreaksLater if later else Breaks))
    with Client(port_of(engine)) as client:
        client.send(b"x\n")
        client.shut()
        assert client.read_to_end() == (b"" if where in ("on_open", "check") else b"x\n")
    eventually(lambda: stats(engine).errors)
    assert "Error" in caplog.text
    reason = Reason.SERVICE_ERROR if where in ("on_open", "check") else Reason.CLIENT_CLOSED
    assert eventually(lambda: engine.closed())[0].reason == reason
    eventually(lambda: stats(engine).connections == 0)
    engine.stop()
    caplog.clear()


def test_a_connection_tells_of_itself(start: Start) -> None:
    seen: list[tuple[Any, ...]] = []

    class Curious(Service):
        framing = Lines()
        kept: ClassVar[list[ServiceConnection]] = []

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            self.kept.append(connection)
            connection.label(tags={"name": "ada", "role": "x"})
            connection.label(tags={"role": None})
            connection.join("one")
            connection.join("two")
            connection.leave("one")
            seen.append((connection.id, connection.peer, connection.local, connection.tags, connection.groups))
            seen.append(connection.counters)
            connection.send(b"done")

    engine = start(python(Curious))
    with Client(port_of(engine)) as client:
        row = connection_of(engine, client)
        client.send(b"hello\n")
        assert client.read(5) == b"done\n"
        assert seen[0] == (row.id, client.address, ("127.0.0.1", port_of(engine)), {"name": "ada"}, ("two",))
        assert (seen[1].bytes_in, seen[1].messages_in, seen[1].groups) == (6, 1, ("two",))
        assert engine.connection(row.id).tags == {"name": "ada"}
        client.shut()
        assert client.read_to_end() == b""
    eventually(lambda: engine.closed())
    (connection,) = Curious.kept
    assert connection.counters.bytes_out == 5
    connection.label(tags={"x": "y"})
    connection.send(b"nobody hears this")
    Curious.kept.clear()


def test_broadcasts_reach_all_or_a_group_in_the_order_in_which_they_were_said(start: Start) -> None:
    class Rooms(Service):
        framing = Lines()

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            verb, _, rest = message.partition(b" ")
            if verb == b"join":
                connection.join(rest.decode())
                connection.send(b"joined")
            elif verb == b"all":
                self.broadcast(rest)
            elif verb == b"others":
                self.broadcast(rest, exclude=connection)
            else:
                for number in range(20):
                    self.broadcast(b"%d" % number, group=verb.decode())

    engine = start(python(Rooms, threads=2), "echo")
    one, two, three = connect(engine, 3)
    with Client(port_of(engine, 1)) as stranger:
        for client, room in ((one, b"a"), (two, b"a"), (three, b"b")):
            client.send(b"join " + room + b"\n")
            assert client.read(7) == b"joined\n"
        one.send(b"a x\n")
        numbers = b"".join(b"%d\n" % number for number in range(20))
        assert one.read(len(numbers)) == two.read(len(numbers)) == numbers
        two.send(b"others hi\n")
        assert one.read(3) == three.read(3) == b"hi\n"
        three.send(b"all end\n")
        assert [client.read(4) for client in (one, two, three)] == [b"end\n"] * 3
        assert stranger.echoes(b"nothing came before this")


# --- slow services, slow clients --------------------------------------------------------------------------------------


class Gate(Service):
    """Handles nothing until it is let."""

    framing = Lines()
    open: ClassVar[threading.Event]

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        self.open.wait(60)
        connection.send(message)


def resident_bytes() -> int:
    """This process's memory, the engine's with it. 0 where it says nothing: a sanitizer keeps what is freed."""
    if WINDOWS or "LD_PRELOAD" in os.environ:
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def gate() -> Any:
    Gate.open = threading.Event()
    yield Gate
    Gate.open.set()


def test_a_slow_service_makes_its_clients_wait_and_loses_nothing(start: Start, gate: type[Gate]) -> None:
    bound, count = 256 * 1024, 20
    engine = start(python(gate, inbox_bytes=bound), receive_buffers=256, receive_buffer_bytes=1024)
    clients = connect(engine, count)
    data = [b"".join(b"%d:%d\n" % (name, number) for number in range(100_000)) for name in range(count)]
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.extend(exchange(clients, data, shut=True)))
    thread.start()
    eventually(lambda: stats(engine).paused == count)
    levels, received = [], -1
    while received != (received := sum(row.bytes_in for row in engine.worker_stats())):
        levels.append(stats(engine).waiting_bytes)
        time.sleep(0.5)
    # What a receive brings is taken in whole, and a receive that is cancelled may still bring some.
    assert max(levels) < 2 * bound + count * 64 * 1024
    assert received < sum(map(len, data)) / 2
    blocks = lib.iocpd_allocations()
    time.sleep(0.5)
    assert lib.iocpd_allocations() == blocks
    assert 0 < stats(engine).paused <= min(count, stats(engine).pauses)
    gate.open.set()
    thread.join(60)
    assert results == data
    eventually(lambda: stats(engine).waiting_bytes == 0)
    assert stats(engine).paused == 0


class Patient(Gate):
    """Handles nothing until it is let, and then looks whether all comes in order; keeps nothing."""

    next: ClassVar[dict[int, int]]

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        self.open.wait(60)
        if int(message) == self.next.get(connection.id, 0):
            self.next[connection.id] = int(message) + 1


@pytest.fixture
def patient() -> Any:
    Patient.open, Patient.next = threading.Event(), {}
    yield Patient
    Patient.open.set()


class Flood:
    """What clients send who never wait of themselves: each the same, numbered lines of 1 KiB."""

    def __init__(self, clients: list[Client], lines: int) -> None:
        self._data = memoryview(b"".join(b"%01023d\n" % number for number in range(lines)))
        self._sent = dict.fromkeys(clients, 0)
        self._selector = selectors.DefaultSelector()
        for client in clients:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            client.socket.setblocking(False)
            self._selector.register(client.socket, selectors.EVENT_WRITE, client)

    @property
    def sent(self) -> int:
        return sum(self._sent.values())

    def flow(self, look: Callable[[], None]) -> bool:
        """Until all is sent, or nobody could send anything for a second. `look` is called all the time."""
        while ready := self._selector.select(1.0):
            for key, _ in ready:
                at = self._sent[key.data]
                self._sent[key.data] += key.data.socket.send(self._data[at : at + (1 << 16)])
                if self._sent[key.data] == len(self._data):
                    self._selector.unregister(key.data.socket)
            look()
            if not self._selector.get_map():
                self._selector.close()
                return True
        return False


def test_a_flood_through_a_slow_service_takes_no_more_memory_than_its_bounds(
    start: Start, patient: type[Patient]
) -> None:
    bound, count, lines = 256 * 1024, 20, 1024 if WINDOWS else 4096  # under Wine, bytes take long
    engine = start(python(patient, inbox_bytes=bound), receive_buffers=256, receive_buffer_bytes=1024)
    clients = connect(engine, count)
    flood = Flood(clients, lines)
    before, waiting, resident = resident_bytes(), 0, 0

    def look() -> None:
        nonlocal waiting, resident
        waiting, resident = max(waiting, stats(engine).waiting_bytes), max(resident, resident_bytes())

    def check() -> None:
        look()
        assert resident < before + (8 << 20), "the flood is ten times as much"
        # What a receive brings is taken in whole, and a receive that is cancelled may still bring some.
        assert waiting < 2 * bound + count * 64 * 1024

    all_sent = flood.flow(look)
    check()
    assert not all_sent
    patient.open.set()
    assert flood.flow(look)
    eventually(lambda: patient.next == {row.id: lines for row in engine.connections().items})
    check()
    assert flood.sent == count * lines * 1024
    for client in clients:
        client.close()


def test_who_goes_while_it_waits_for_the_service_is_no_longer_counted(start: Start, gate: type[Gate]) -> None:
    engine = start(python(gate, inbox_bytes=65536))
    clients = connect(engine, 3)
    for client in clients:
        client.send(b"x" * 60_000 + b"\n")
    eventually(lambda: stats(engine).paused == 3)
    for row in engine.connections().items:
        engine.kick(row.id, force=True)
    assert stats(engine).paused == 0
    for client in clients:
        client.read_to_any_end()


def test_clients_that_come_and_go_do_not_fill_the_inbox(start: Start, gate: type[Gate]) -> None:
    bound, later = 65536, 30
    engine = start(python(gate, inbox_bytes=bound), workers=1, first_byte_timeout=1.0)
    come_and_gone, full = 0, False
    while not full:  # each leaves a message behind, until there is no room for the next one's
        with Client(port_of(engine)) as client:
            client.send(b"x" * 1000 + b"\n")
            come_and_gone += 1
            taken = come_and_gone * 1001
            eventually(lambda taken=taken: stats(engine).paused or engine.worker_stats()[0].bytes_in == taken)
            full = stats(engine).paused > 0  # asked before it goes, and is no longer counted
            client.reset()
        assert come_and_gone * 1000 < bound + 10_000
    clients = [Client(port_of(engine)) for _ in range(later)]  # some of those before may still be on their way out
    for number, client in enumerate(clients):
        client.send(b"%d" % number * 1000 + b"\n")
    eventually(lambda: stats(engine).paused >= later)
    time.sleep(1.5)  # who is not read from is not silent
    assert stats(engine).waiting_bytes < bound + 10_000
    gate.open.set()
    for number, client in enumerate(clients):
        line = b"%d" % number * 1000 + b"\n"
        assert client.read(len(line)) == line
    eventually(lambda: (stats(engine).waiting_bytes, stats(engine).paused) == (0, 0))


def test_one_client_that_floods_does_not_fill_the_inbox(start: Start, gate: type[Gate]) -> None:
    engine = start(python(gate, inbox_bytes=8 << 20), workers=1)
    with Client(port_of(engine)) as flood, Client(port_of(engine)) as other:
        flood.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            flood.send((b"x" * 1000 + b"\n") * 50_000)
        assert stats(engine).waiting_bytes < 6 << 20
        other.send(b"hello\n")
        gate.open.set()
        assert other.read(6) == b"hello\n"


def test_a_client_that_does_not_read_its_answers_is_not_read_from(start: Start) -> None:
    engine = start(python(Upper, inbox_bytes=1 << 20), send_soft_bytes=64 * 1024)
    with Client(port_of(engine), receive_buffer=4096) as client:
        client.socket.settimeout(1)
        sent = 0
        try:
            while True:
                sent += client.socket.send(b"x" * 999 + b"\n")
        except TimeoutError:
            pass
        assert connection_of(engine, client).pending_bytes < 4 << 20
        client.socket.settimeout(20)
        whole = sent // 1000 * 1000
        assert client.read(whole) == (b"X" * 999 + b"\n") * (whole // 1000)


def test_answers_above_the_hard_limit_end_the_connection_as_slow(start: Start) -> None:
    class Flood(Service):
        framing = Lines()

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            for _ in range(400):
                connection.send(b"x" * 65000)

    engine = start(python(Flood))
    with Client(port_of(engine), receive_buffer=4096) as client:
        client.send(b"go\n")
        assert eventually(lambda: engine.closed())[0].reason == Reason.SLOW_CONSUMER
        client.read_to_any_end()


def test_what_was_taken_in_is_answered_after_a_half_close_however_slow(start: Start, gate: type[Gate]) -> None:
    engine = start(python(gate), send_soft_seconds=0.2)
    with Client(port_of(engine)) as client:
        data = b"".join(b"%d\n" % number for number in range(1000))
        client.send(data)
        client.shut()
        eventually(lambda: [row for row in engine.connections().items if row.state == "draining"])
        time.sleep(0.5)
        gate.open.set()
        assert client.read_to_end() == data


def test_who_waits_for_a_slow_service_is_not_idle(start: Start, gate: type[Gate]) -> None:
    engine = start(python(gate), idle_timeout=0.3)
    with Client(port_of(engine)) as client:
        client.send(b"one\n")
        time.sleep(1)
        gate.open.set()
        assert client.read(4) == b"one\n"
        assert eventually(lambda: engine.closed())[0].reason == Reason.IDLE_TIMEOUT


def test_a_drain_answers_what_was_taken_in_and_then_says_farewell(start: Start, gate: type[Gate]) -> None:
    engine = start(python(gate))
    with Client(port_of(engine)) as client:
        client.send(b"one\ntwo\n")
        eventually(lambda: stats(engine).messages_in == 2)
        engine.drain(deadline=20, farewell=b"farewell\n")
        eventually(lambda: [row for row in engine.connections().items if row.state == "draining"])
        gate.open.set()
        assert client.read_to_end() == b"one\ntwo\nfarewell\n"
        client.close()
        assert eventually(lambda: engine.closed())[0].reason == Reason.DRAINED


def test_a_kick_does_not_wait_for_the_answers_to_a_client_that_has_closed(start: Start, gate: type[Gate]) -> None:
    engine = start(python(gate))
    with Client(port_of(engine)) as client:
        id = connection_of(engine, client).id
        client.send(b"one\ntwo\n")
        eventually(lambda: stats(engine).messages_in == 2)
        client.shut()
        eventually(lambda: engine.connection(id).state == "draining")
        kicked = engine.submit_kick(id, farewell=b"farewell\n")
        assert client.read_to_end() == b"farewell\n"
        record = kicked.result(PATIENCE)
        assert record is not None
        assert record.reason == Reason.CLIENT_CLOSED
        gate.open.set()


# --- timers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_timers_run_in_the_services_thread_until_they_are_cancelled(start: Start, late: bool) -> None:
    ticks: Counter[str] = Counter()
    threads: set[int] = set()

    class Ticks(Service):
        framing = Lines()

        def __init__(self) -> None:
            self.first = self.every(0.01, self.tick)

            @self.every(0.005)
            def other() -> None:
                ticks["other"] += 1

        def tick(self) -> None:
            threads.add(threading.get_ident())
            ticks["first"] += 1
            for connection in self.connections.values():
                connection.send(b"tick")

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            threads.add(threading.get_ident())
            self.first.cancel()
            connection.send(b"stopped")

    class LateTicks(Ticks):
        async def on_start(self) -> None:
            pass

    engine = start(python(LateTicks if late else Ticks))
    with Client(port_of(engine)) as client:
        assert client.read(15) == b"tick\n" * 3
        client.send(b"stop\n")
        rest = b""
        while not rest.endswith(b"stopped\n"):
            rest += client.read(1)
        before = ticks["first"], ticks["other"]
        eventually(lambda: ticks["other"] > before[1] + 5)
        assert ticks["first"] == before[0]
    assert len(threads) == 1


# --- start and stop ---------------------------------------------------------------------------------------------------


class Loud(Upper):
    events: ClassVar[list[str]] = []

    def on_start(self) -> None:
        self.events.append(f"start {self.thread}")

    def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
        self.events.append(f"close {reason}")

    def on_stop(self) -> None:
        self.events.append(f"stop {self.thread}")


class LateLoud(Loud):
    async def on_stop(self) -> None:  # type: ignore[override]
        super().on_stop()


@pytest.mark.parametrize("service", [Loud, LateLoud])
def test_a_stop_closes_every_connection_and_ends_the_threads(start: Start, service: type[Loud]) -> None:
    service.events.clear()
    engine = start(python(service, threads=2))
    clients = connect(engine, 10)
    for client in clients:
        client.send(b"x\n")
        assert client.read(2) == b"X\n"
    before = threading.active_count()
    ended = threading.Thread(target=lambda: [client.read_to_any_end() for client in clients])
    ended.start()
    engine.stop(deadline=1)
    ended.join()
    assert Counter(service.events) == {
        "start 0": 1,
        "start 1": 1,
        "close shutdown": 10,
        "stop 0": 1,
        "stop 1": 1,
    }
    assert threading.active_count() < before
    engine.start()
    with Client(port_of(engine)) as client:
        client.send(b"again\n")
        assert client.read(6) == b"AGAIN\n"


def test_a_stop_does_not_wait_for_a_handler_that_blocks(
    start: Start, gate: type[Gate], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iocpd.core._service_threads._END_SECONDS", 0.5)
    engine = start(python(gate))
    with Client(port_of(engine)) as client:
        client.send(b"x\n")
        eventually(lambda: stats(engine).messages_in)
        (thread,) = [each for each in threading.enumerate() if each.name == "iocpd-service-0"]
        begun = time.monotonic()
        engine.stop(deadline=0.5)
        assert time.monotonic() - begun < 10
        client.read_to_any_end()
    assert "left behind" in caplog.text
    gate.open.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_handler_may_stop_the_engine(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Stops(Service):
        framing = Lines()

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            self.engine.stop(deadline=0.2)

    engine = start(python(Stops))
    with Client(port_of(engine)) as client:
        client.send(b"now\n")
        client.read_to_any_end()
        eventually(lambda: not engine.running)
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("iocpd-service")])
    assert not caplog.records


def test_a_stop_cancels_handlers_that_wait(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iocpd.core._service_threads._HANDLER_SECONDS", 0.2)
    monkeypatch.setattr("iocpd.core._service_threads._END_SECONDS", 20.0)
    ends: list[Reason] = []

    class Waits(Service):
        framing = Lines()

        async def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            await asyncio.sleep(3600)

        def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
            ends.append(reason)

    engine = start(python(Waits))
    (client,) = connect(engine, 1)
    client.send(b"x\ny\n")
    eventually(lambda: stats(engine).messages_in == 2)
    engine.stop(deadline=0.2)
    assert ends == [Reason.SHUTDOWN]
    assert "cancelled" in caplog.text
    caplog.clear()


def test_async_handlers_of_several_connections_run_side_by_side(start: Start) -> None:
    class Meeting(Service):
        framing = Lines()

        def __init__(self) -> None:
            self.present = 0
            self.all_here: asyncio.Event | None = None

        async def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            self.all_here = self.all_here or asyncio.Event()
            self.present += 1
            if self.present == 5:
                self.all_here.set()
            await self.all_here.wait()
            connection.send(message)

    engine = start(python(Meeting))
    clients = connect(engine, 5)
    for client in clients:
        client.send(b"here\n")
    assert [client.read(5) for client in clients] == [b"here\n"] * 5


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("python:no.such.module:Upper", "can't be imported: ModuleNotFoundError"),
        ("python:tests.conformance:NoSuch", "there is no NoSuch in the module"),
        ("python:tests.support:Client", "is not a class that is derived"),
        ("python:iocpd.core:Lines.max_bytes", "is not a class that is derived"),
    ],
)
def test_a_service_that_is_not_there_is_a_clear_error(name: str, why: str) -> None:
    engine = Engine(EngineConfig(listeners=[ListenerConfig(port=0, service=name)]))
    with pytest.raises(StartError, match=why) as caught:
        engine.start()
    assert name in str(caught.value)


def test_a_service_that_can_not_be_made_is_a_clear_error() -> None:
    class Broken(Service):
        def __init__(self) -> None:
            self.every(0, self.on_stop)

    engine = Engine(EngineConfig(listeners=[python(Broken)]))
    with pytest.raises(StartError, match="could not be made: ConfigurationError: seconds = 0"):
        engine.start()


def test_an_async_timer_needs_an_async_service() -> None:
    async def tick() -> None:
        pass

    with pytest.raises(ConfigurationError, match="async"):
        Upper().every(1, tick)


def test_a_service_is_named_in_a_listener(start: Start) -> None:
    engine = start(ListenerConfig(port=0, service=f"python:{__name__}:Upper"), python(Upper))
    assert [row.service for row in engine.listener_stats()] == [f"python:{__name__}:Upper"] * 2
    with Client(port_of(engine)) as client:
        client.send(b"x\n")
        assert client.read(2) == b"X\n"
        rows, _ = engine.connections_json(fields=["service"])
        assert rows == f'{{"service":"python:{__name__}:Upper"}}'.encode()


def test_many_connections_that_come_and_go_are_each_told_once(start: Start, diary: type[Diary]) -> None:
    engine, source, clients = start(python(diary, threads=2)), random.Random(5), []
    for number in range(300):
        client = Client(port_of(engine))
        clients.append(client.address)
        if number % 3:
            client.send(b"hello\n")
        client.reset() if source.random() < 0.5 else client.close()
    with Client(port_of(engine)) as client:
        client.send(b"last\n")
        eventually(lambda: (client.address, b"last") in diary.told)  # and those that came before it are in or gone
    eventually(lambda: engine.count() == 0)
    if os.name != "nt":  # Windows may take those that have gone out of the backlog without a word
        assert engine.listener_stats()[0].accepted + gone(engine) == 301
    accepted = engine.listener_stats()[0].accepted
    engine.stop()  # the service threads have worked off all that was before it
    opened = [peer for peer, what in diary.told if what == "open"]
    ended = [peer for peer, what in diary.told if isinstance(what, Reason)]
    assert sorted(opened) == sorted(ended)
    assert len(opened) == accepted


def gone(engine: Engine) -> int:
    return engine.listener_stats()[0].refused_gone
