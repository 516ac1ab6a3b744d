"""Workers that go on asking before they sleep (`busy_poll_us`): nothing is late or lost, and an idle one sleeps."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from iocpd.core import Engine, Reason
from tests.support import Client, connect, connection_of, eventually, port_of

Start = Callable[..., Engine]
LONGEST_US = 1000


def sleeps_of_worker() -> int:
    """How often the only worker's thread has gone to sleep."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text() == "iocpd-0\n":
            fields = dict(line.split(":\t") for line in (task / "status").read_text().splitlines())
            return int(fields["voluntary_ctxt_switches"])
    raise AssertionError("no worker's thread")


def test_messages_and_commands_come_while_it_asks_and_while_it_sleeps(start: Start) -> None:
    engine = start("echo", busy_poll_us=LONGEST_US)
    clients = connect(engine, 4)
    rows = [connection_of(engine, client) for client in clients]
    for round in range(200):  # some while it asks, some while it sleeps
        client, row = clients[round % 4], rows[round % 4]
        assert client.echoes(b"%d" % round)
        engine.send(row.id, b"told %d" % round)
        assert client.read(len(b"told %d" % round)) == b"told %d" % round
    for client, row in zip(clients, rows, strict=True):
        engine.kick(row.id, force=True)
        assert client.read_to_any_end() == b""


def test_stop_does_not_wait_for_a_worker_that_always_has_something(start: Start) -> None:
    engine = start("echo", busy_poll_us=LONGEST_US, workers=1)
    with Client(port_of(engine)) as client:
        assert client.echoes(b"x")

        def talk() -> None:
            with contextlib.suppress(OSError):
                while client.socket.recv(64):
                    client.send(b"more")

        client.send(b"first")
        talker = threading.Thread(target=talk)
        talker.start()
        engine.stop(deadline=0)
        talker.join()
    assert not engine.running


def test_a_timer_is_not_late_while_the_worker_never_sleeps(start: Start) -> None:
    engine = start("echo", busy_poll_us=LONGEST_US, workers=1, idle_timeout=0.4)
    idle, busy = connect(engine, 2)
    assert idle.echoes(b"once")
    ended = threading.Event()

    def talk() -> None:
        while not ended.is_set():
            busy.echoes(b"again")

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        assert idle.read_to_end() == b""
    finally:
        ended.set()
        talker.join()
    idle.close()
    (record,) = eventually(lambda: engine.closed())
    assert (record.connection.peer, record.reason) == (idle.address, Reason.IDLE_TIMEOUT)
    assert busy.echoes(b"still")


def test_an_idle_worker_takes_no_processor(start: Start) -> None:
    engine = start("echo", busy_poll_us=LONGEST_US, workers=1)
    (client,) = connect(engine, 1)
    assert client.echoes(b"x")
    never = threading.Event()

    def used_while_idle() -> float:
        before = time.process_time()
        never.wait(0.5)
        return time.process_time() - before

    # A worker that does not sleep takes all of it. Other threads of this process may take some, but not each time.
    assert eventually(lambda: used_while_idle() < 0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how often a thread has slept")
def test_a_worker_that_is_asked_again_soon_does_not_sleep(start: Start) -> None:
    engine = start("echo", busy_poll_us=LONGEST_US, workers=1)
    (client,) = connect(engine, 1)

    def sleeps_in_50_rounds() -> int:
        before = sleeps_of_worker()
        assert all(client.echoes(b"ping") for _ in range(50))
        return sleeps_of_worker() - before

    # 50 if it slept each time. On a busy machine this thread may be late for over a millisecond, but not each time.
    assert eventually(lambda: sleeps_in_50_rounds() < 25)
