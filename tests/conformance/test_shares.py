"""What one turn of a worker does at most, so that those who are ready do not wait: told by its count of turns."""

from __future__ import annotations

import threading
from collections.abc import Callable

from iocpd.core import Engine, Lines, ListenerConfig, Service, ServiceConnection
from tests.support import connect, eventually

Start = Callable[..., Engine]

MESSAGES_PER_TURN = 32  # worker.c


def turns(engine: Engine) -> int:
    return sum(stats.turns for stats in engine.worker_stats())


def test_the_answers_of_a_service_have_a_share_of_each_turn(start: Start) -> None:
    members: list[ServiceConnection] = []
    rounds = 40

    class Bell(Service):
        framing = Lines()

        def on_open(self, connection: ServiceConnection) -> None:
            members.append(connection)

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            for _ in range(rounds):
                for member in members:
                    member.send(message)

    engine = start(ListenerConfig(port=0, service=Bell), workers=1)
    clients = connect(engine, 100)
    eventually(lambda: len(members) == len(clients))
    before = turns(engine)
    clients[0].send(b"ding\n")
    for client in clients:
        assert client.read(5 * rounds) == b"ding\n" * rounds
    assert turns(engine) - before >= rounds * len(clients) / MESSAGES_PER_TURN


def test_all_who_were_paused_go_on_though_few_do_so_in_a_turn(start: Start) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Waits(Service):
        framing = Lines()

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            begun.set()
            assert go_on.wait(60)
            connection.send(message)

    # One receive of each is its share of the inbox, a sixteenth.
    engine = start(ListenerConfig(port=0, service=Waits, inbox_bytes=65536), workers=1, receive_buffer_bytes=4096)
    clients = connect(engine, 40)
    lines = b"".join(b"%063d\n" % number for number in range(64))
    for paused, client in enumerate(clients, 1):
        client.send(lines)
        eventually(lambda paused=paused: engine.service_stats()[0].paused == paused)
    assert begun.is_set()
    go_on.set()
    for client in clients:
        assert client.read(len(lines)) == lines
    for client in reversed(clients):  # who was paused last has nobody behind him whose messages would wake him
        assert client.echoes(b"and on\n")
    assert engine.service_stats()[0].paused == 0
