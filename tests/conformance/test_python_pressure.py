"""Services in Python that are slower than their clients, or faster; on every backend."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from iocpd.core import (
    Engine,
    Lines,
    Reason,
    Service,
    ServiceConnection,
)
from iocpd.core._native import lib
from tests.python_services import Gate, Upper, python, stats
from tests.support import PATIENCE, WINDOWS, Client, connect, connection_of, eventually, exchange, port_of

Start = Callable[..., Engine]


def resident_bytes() -> int:
    """This process's memory, the engine's with it. 0 where it says nothing: a sanitizer keeps what is freed."""
    if WINDOWS or "LD_PRELOAD" in os.environ:
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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

    def flow(self, look: Callable[[], None], patience: float) -> bool:
        """Until all is sent, or nobody could send anything for so many seconds. `look` is called all the time."""
        while ready := self._selector.select(patience):
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

    all_sent = flood.flow(look, 1.0)
    check()
    assert not all_sent
    patient.open.set()
    assert flood.flow(look, PATIENCE)
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
        assert client.read_to_end() == b""
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
