"""Which thread runs a service in Python, and in what order and portions it is told; on every backend."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from iocpd.core import Engine, Lines, ListenerConfig, Reason, Service, ServiceConnection
from tests.support import connect, eventually, exchange

Start = Callable[..., Engine]


@pytest.mark.parametrize("late", [False, True])
def test_a_connection_stays_with_its_thread(start: Start, late: bool) -> None:
    threads: defaultdict[int, set[int]] = defaultdict(set)
    told: Counter[int] = Counter()

    class Stays(Service):
        framing = Lines()

        def on_open(self, connection: ServiceConnection) -> None:
            self.note(connection)

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            self.note(connection)
            connection.send(message)

        def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
            self.note(connection)

        def note(self, connection: ServiceConnection) -> None:
            threads[connection.id].add(threading.get_ident())
            told[connection.id] += 1

    class StaysLate(Stays):
        async def on_message(self, connection: ServiceConnection, message: bytes) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            super().on_message(connection, message)

    listener = ListenerConfig(port=0, service=StaysLate if late else Stays, threads=3)
    engine = start(listener)
    clients = connect(engine, 30)
    for _ in range(10):
        lines = [b"one\ntwo\n"] * len(clients)
        assert exchange(clients, lines) == lines
    for client in clients:
        client.close()
    eventually(lambda: list(told.values()) == [22] * len(clients))
    assert [len(each) for each in threads.values()] == [1] * len(clients)
    assert len(set.union(*threads.values())) == 3


def test_messages_that_wait_are_taken_together(start: Start) -> None:
    opened, taken = threading.Event(), threading.Event()
    calls: list[int] = []

    class Waits(Service):
        framing = Lines()

        def on_messages(self, connection: ServiceConnection, messages: list[bytes]) -> None:
            if messages == [b"wait"]:
                taken.set()
                assert opened.wait(60)
            else:
                calls.append(len(messages))
            connection.send_all(messages)

    engine = start(ListenerConfig(port=0, service=Waits))
    first, *others = connect(engine, 11)
    first.send(b"wait\n")
    assert taken.wait(60)
    (before,) = engine.service_stats()
    lines = b"".join(b"%d\n" % number for number in range(1000))
    for client in others:
        client.send(lines)
    eventually(lambda: engine.service_stats()[0].waiting_bytes >= len(others) * len(lines))
    opened.set()
    assert first.read(5) == b"wait\n"
    assert [client.read(len(lines)) for client in others] == [lines] * 10
    (after,) = engine.service_stats()
    assert after.messages_in - before.messages_in == sum(calls) == 10_000
    assert after.batches - before.batches <= 2
    assert len(calls) <= 100


class Later(Service):
    """All that it has is async, and takes several turns of the loop."""

    framing = Lines()

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.inside: set[int] = set()
        self.ticks = 0
        self.timer = self.every(0.002, self.tick)
        made.append(self)

    async def tick(self) -> None:
        await asyncio.sleep(0)
        self.ticks += 1
        if self.ticks == 20:
            self.timer.cancel()

    async def on_start(self) -> None:
        await asyncio.sleep(0.01)
        self.told.append(("start",))

    async def on_open(self, connection: ServiceConnection) -> None:
        connection.send(b"wait")
        await self.alone(connection, 0.01)
        connection.send(b"welcome")
        self.told.append((connection.peer, "open"))

    async def on_messages(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        for message in messages:
            await self.alone(connection, 0)
            self.told.append((connection.peer, message))
        connection.send_all(message.upper() for message in messages)

    async def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
        await self.alone(connection, 0.01)
        self.told.append((connection.peer, reason))

    async def on_stop(self) -> None:
        await asyncio.sleep(0)
        self.told.append(("stop",))

    async def alone(self, connection: ServiceConnection, seconds: float) -> None:
        """No other handler of the connection runs meanwhile."""
        assert connection.id not in self.inside
        self.inside.add(connection.id)
        await asyncio.sleep(seconds)
        self.inside.remove(connection.id)


made: list[Later] = []


def test_a_service_whose_handlers_are_all_async_is_told_in_order(start: Start) -> None:
    made.clear()
    engine = start(ListenerConfig(port=0, service=Later))
    clients = connect(engine, 8)
    words = [b"%d" % number for number in range(50)]
    for client in clients:
        client.send(b"\n".join(words) + b"\n")
        client.shut()
    answer = b"wait\nwelcome\n" + b"\n".join(words) + b"\n"
    assert [client.read_to_end() for client in clients] == [answer] * 8
    (service,) = made
    eventually(lambda: service.ticks >= 20)
    eventually(lambda: sum(isinstance(each[-1], Reason) for each in service.told) == 8)
    engine.stop()
    assert (service.told[0], service.told[-1]) == (("start",), ("stop",))
    for client in clients:
        told = [what for peer, *rest in service.told[1:-1] for what in rest if peer == client.address]
        assert told == ["open", *words, Reason.CLIENT_CLOSED]
    assert len(service.told) == 2 + 8 * 52
    assert service.ticks == 20, "it was cancelled"
    assert sum(row.errors for row in engine.service_stats()) == 0
    made.clear()  # they hold the engine


def test_an_async_timer_sends_until_it_is_cancelled(start: Start) -> None:
    class Ticks(Service):
        framing = Lines()

        def __init__(self) -> None:
            self.timer = self.every(0.005, self.tick)

        async def tick(self) -> None:
            await asyncio.sleep(0)
            for connection in self.connections.values():
                connection.send(b"tick")

        async def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            self.timer.cancel()
            await asyncio.sleep(0.05)
            connection.send(message)

    engine = start(ListenerConfig(port=0, service=Ticks))
    (client,) = connect(engine, 1)
    assert client.read(15) == b"tick\n" * 3
    client.send(b"stop\n")
    rest = b""
    while not rest.endswith(b"stop\n"):
        rest += client.read(5)
    assert rest.removesuffix(b"stop\n") == b"tick\n" * (len(rest) // 5 - 1)
    assert client.echoes(b"again\n")
