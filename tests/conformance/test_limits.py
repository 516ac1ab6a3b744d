"""Clients that are silent, idle, slow or too many."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

import pytest

from iocpd.core import By, Engine, Reason, SendQueueFull, State
from tests.support import PATIENCE, ROOM, WINDOWS, Client, connect, connection_of, eventually, fill, port_of, refused

Start = Callable[..., Engine]


def test_a_client_without_a_first_byte_is_ended(start: Start) -> None:
    engine = start("echo", first_byte_timeout=0.3)
    (silent,) = connect(engine, 1)
    talking = Client(port_of(engine))
    assert talking.echoes(b"here I am")
    assert silent.read_to_end() == b""
    silent.close()
    record = eventually(lambda: engine.closed())[0]
    assert (record.connection.peer, record.reason, record.by) == (silent.address, Reason.FIRST_BYTE_TIMEOUT, By.ENGINE)
    assert (record.closed_at - record.connection.connected_at).total_seconds() >= 0.3
    assert talking.echoes(b"and here I stay")


def test_an_idle_client_is_ended_and_a_busy_one_is_not(start: Start) -> None:
    engine = start("echo", idle_timeout=0.5)
    idle, busy = connect(engine, 2)
    assert idle.echoes(b"once")
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        assert busy.echoes(b"again")
        time.sleep(0.05)
    assert idle.read_to_end() == b""
    idle.close()
    record = eventually(lambda: engine.closed())[0]
    assert (record.connection.peer, record.reason, record.by) == (idle.address, Reason.IDLE_TIMEOUT, By.ENGINE)
    assert busy.echoes(b"still")
    assert len(engine.closed()) == 1


def test_silent_clients_do_not_keep_others_from_being_accepted(start: Start) -> None:
    engine = start("echo")
    silent = connect(engine, 200)
    with Client(port_of(engine)) as client:
        assert client.echoes(b"x")
    assert engine.count() >= len(silent)


def test_above_the_soft_limit_for_too_long_is_a_slow_consumer(start: Start) -> None:
    engine = start("discard", send_soft_bytes=32 * 1024, send_hard_bytes=12 << 20, send_soft_seconds=2.0)
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    fill(engine, id, above=32 * 1024)
    record = eventually(lambda: engine.closed())[0]
    assert (record.connection.id, record.reason, record.by) == (id, Reason.SLOW_CONSUMER, By.ENGINE)
    client.close()


def test_below_the_soft_limit_again_in_time_is_no_slow_consumer(start: Start) -> None:
    engine = start("discard", send_soft_bytes=32 * 1024, send_hard_bytes=12 << 20, send_soft_seconds=2.0)
    reader, slow = connect(engine, 2)
    id, later = (connection_of(engine, client).id for client in (reader, slow))
    fill(engine, id, above=32 * 1024)
    row = engine.connection(id)
    reader.read(row.bytes_out + row.pending_bytes)
    fill(engine, later, above=32 * 1024)  # its time begins when the other's has begun long ago, and runs out
    assert eventually(lambda: engine.closed())[0].connection.id == later
    assert engine.connection(id).state == State.OPEN


def test_an_echo_client_that_never_reads_is_a_slow_consumer_and_holds_little(start: Start) -> None:
    engine = start("echo", send_soft_bytes=64 * 1024, send_soft_seconds=0.5, workers=1)
    (client,) = connect(engine, 1)
    client.socket.settimeout(0.2)
    most = 0
    for _ in range(10_000):
        most = max(most, engine.worker_stats()[0].pending_bytes)
        try:
            client.send(bytes(65536))
        except OSError:  # timed out, or ended
            if engine.count() == 0:
                break
    record = engine.closed()[0]
    assert (record.reason, record.by) == (Reason.SLOW_CONSUMER, By.ENGINE)
    assert most <= 64 * 1024 + 256 * 4096  # what one batch of the port may still bring


def test_a_half_closed_client_that_never_reads_is_ended(start: Start) -> None:
    engine = start("discard", send_soft_bytes=8 << 20, send_hard_bytes=16 << 20, send_soft_seconds=0.3)
    (client,) = connect(engine, 1)
    fill(engine, connection_of(engine, client).id)
    client.shut()
    record = eventually(lambda: engine.closed())[0]
    assert record.reason == Reason.SLOW_CONSUMER


def test_a_relay_client_that_never_reads_is_ended_and_the_others_lose_nothing(start: Start) -> None:
    engine = start("relay", send_soft_bytes=256 * 1024, send_hard_bytes=512 * 1024, send_soft_seconds=PATIENCE)
    sender, reader, deaf = connect(engine, 3)
    piece = bytes(range(256)) * 64
    for _ in range(4000):
        sender.send(piece)
        assert reader.read(len(piece)) == piece
        if engine.count() < 3:
            break
    record = eventually(lambda: engine.closed())[0]
    assert (record.connection.peer, record.reason) == (deaf.address, Reason.SLOW_CONSUMER)


def test_connections_above_the_limit_are_refused_and_counted(start: Start) -> None:
    engine = start("echo", max_connections=5)
    clients = connect(engine, 5)
    for _ in range(3):
        assert refused(port_of(engine))
    stats = eventually(lambda: stats if (stats := engine.listener_stats()[0]).refused_limit == 3 else None)
    assert (stats.accepted, stats.connections) == (5, 5)
    assert all(client.echoes(b"x") for client in clients)
    clients.pop().close()
    eventually(lambda: engine.info().connections == 4)
    with Client(port_of(engine)) as welcome:
        assert welcome.echoes(b"there is room again")


@pytest.mark.skipif(WINDOWS, reason="RLIMIT_NOFILE is of Unix; the number of sockets has no such limit on Windows")
def test_accepting_goes_on_after_the_handles_ran_out(backend: str) -> None:
    code = f"""
        import resource, sys
        from iocpd.core import Engine, EngineConfig, ListenerConfig
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))  # before the start: io_uring keeps the limit of that time
        with Engine(EngineConfig(listeners=[ListenerConfig(port=0)], backend={backend!r}, workers=1)) as engine:
            print(engine.listener_stats()[0].port, flush=True)
            for line in sys.stdin:
                stats = engine.listener_stats()[0]
                print(stats.accept_errors, stats.connections, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        output = process.stdout

        def ask() -> tuple[int, int]:
            print(file=process.stdin, flush=True)
            errors, connections = output.readline().split()
            return int(errors), int(connections)

        port = int(output.readline())
        clients = [Client(port) for _ in range(60)]
        eventually(lambda: ask()[0] > 0)
        served = ask()[1]
        assert 0 < served < 32
        for client in clients[:served]:  # accepted in the order of the connects
            assert client.echoes(b"x")
            client.close()
        for client in clients[served : 2 * served]:
            assert client.echoes(b"x")
        for client in clients:
            client.close()
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_what_a_client_does_not_take_waits_in_its_queue_and_not_in_the_system(start: Start) -> None:
    """The queue has a bound and the system, which would take megabytes, has it too."""
    engine = start("discard", **ROOM)
    with Client(port_of(engine), receive_buffer=4096) as client:
        id = connection_of(engine, client).id
        fill(engine, id)
        assert engine.connection(id).bytes_out <= 512 * 1024


def test_a_message_of_the_hard_limit_fits_in_an_empty_queue(start: Start) -> None:
    engine = start("discard", send_soft_bytes=1000, send_hard_bytes=100_000)
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    with pytest.raises(SendQueueFull):
        engine.send(id, bytes(100_001))
    engine.send(id, bytes(100_000))
    assert client.read(100_000) == bytes(100_000)
