"""Services in Python over real sockets, on every backend."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
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
from tests.python_services import Upper, python, stats
from tests.support import ROOM, Client, connect, connection_of, eventually, exchange, port_of

Start = Callable[..., Engine]


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
    engine = start(ListenerConfig(port=0, service=f"python:{Upper.__module__}:Upper"), python(Upper))
    assert [row.service for row in engine.listener_stats()] == [f"python:{Upper.__module__}:Upper"] * 2
    with Client(port_of(engine)) as client:
        client.send(b"x\n")
        assert client.read(2) == b"X\n"
        rows, _ = engine.connections_json(fields=["service"])
        assert rows == f'{{"service":"python:{Upper.__module__}:Upper"}}'.encode()


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
