"""What the services do with bytes: echo, discard and relay, over real sockets on every backend."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from iocpd.core import By, Engine, Reason
from tests.support import Client, await_turn, connect, connection_of, eventually, exchange, port_of

Start = Callable[..., Engine]


def test_echo_returns_random_bytes_on_many_connections(start: Start) -> None:
    engine, source = start("echo"), random.Random(1)
    clients = connect(engine, 100)
    data = [source.randbytes(source.randrange(1, 200_000)) for _ in clients]
    assert exchange(clients, data) == data


def test_echo_counts_bytes_and_remembers_times(start: Start) -> None:
    engine = start("echo")
    with Client(port_of(engine)) as client:
        before = connection_of(engine, client)
        assert (before.bytes_in, before.bytes_out, before.messages_in) == (0, 0, 0)
        assert client.echoes(bytes(100_000))
        eventually(lambda: engine.connection(before.id).bytes_out == 100_000)
        await_turn(engine)  # the bytes are the first that is told of a send
        after = engine.connection(before.id)
        assert after.bytes_in == 100_000
        assert after.pending_bytes == 0
        assert after.messages_in >= 1
        assert after.messages_out >= 1
        assert before.connected_at == after.connected_at <= before.last_activity_at <= after.last_activity_at
        stats = engine.worker_stats()[after.worker]
        assert (stats.bytes_in, stats.bytes_out, stats.pending_bytes) == (100_000, 100_000, 0)


def test_half_close_gets_everything_back_before_the_end(start: Start) -> None:
    engine, source = start("echo"), random.Random(2)
    clients = connect(engine, 20)
    data = [source.randbytes(500_000) for _ in clients]
    assert exchange(clients, data, shut=True) == data
    eventually(lambda: engine.count() == 0)
    records = engine.closed()
    assert {(record.reason, record.by) for record in records} == {(Reason.CLIENT_CLOSED, By.CLIENT)}
    assert {record.connection.bytes_out for record in records} == {500_000}


def test_half_close_without_a_byte_ends_the_connection(start: Start) -> None:
    engine = start("echo")
    with Client(port_of(engine)) as client:
        client.shut()
        assert client.read_to_end() == b""
    eventually(lambda: engine.count() == 0)


def test_a_reset_is_recorded_as_the_clients(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    assert client.echoes(b"x")
    client.reset()
    record = eventually(lambda: engine.closed())[0]
    assert (record.reason, record.by) == (Reason.CLIENT_RESET, By.CLIENT)
    assert record.os_error != 0


def test_clients_that_reset_at_once_hurt_nobody(start: Start) -> None:
    engine = start("echo")
    with Client(port_of(engine)) as steady:
        for _ in range(300):
            Client(port_of(engine)).reset()
        assert steady.echoes(b"still here")
        eventually(lambda: engine.count() == 1)
        with Client(port_of(engine)) as newcomer:
            assert newcomer.echoes(b"me too")


def test_discard_reads_everything_and_answers_nothing(start: Start) -> None:
    engine = start("discard")
    with Client(port_of(engine)) as client:
        id = connection_of(engine, client).id
        client.send(bytes(3_000_000))
        eventually(lambda: engine.connection(id).bytes_in == 3_000_000)
        client.shut()
        assert client.read_to_end() == b""


def test_relay_reaches_all_others_of_its_listener_and_nobody_else(start: Start) -> None:
    engine = start("relay", "relay")
    here, there = connect(engine, 5, listener=0), connect(engine, 2, listener=1)
    here[0].send(b"first")
    for client in here[1:]:
        assert client.read(5) == b"first"
    here[1].send(b"second")
    for client in (here[0], *here[2:]):  # the sender of "first" did not get it: "second" comes first
        assert client.read(6) == b"second"
    there[0].send(b"third")
    assert there[1].read(5) == b"third"
    for client in (*here, *there):
        client.shut()
        assert client.read_to_end() == b""


def test_relay_keeps_each_senders_order(start: Start) -> None:
    engine = start("relay")
    senders, (reader,) = connect(engine, 8), connect(engine, 1)
    for number in range(30):
        for name, sender in enumerate(senders):
            sender.send(b"%d:%02d;" % (name, number))
    messages = [tuple(map(int, each.split(b":"))) for each in reader.read(8 * 30 * 5).split(b";")[:-1]]
    for name in range(8):
        assert [number for sender, number in messages if sender == name] == list(range(30))


def test_relay_loses_nothing_when_senders_are_faster_than_it(start: Start) -> None:
    engine = start("relay", relay_capacity=4, send_hard_bytes=64 * 1024 * 1024, send_soft_bytes=64 * 1024 * 1024)
    sender, *readers = connect(engine, 4)
    data = random.Random(3).randbytes(4_000_000)
    thread = threading.Thread(target=sender.send, args=(data,))
    thread.start()
    for reader in readers:
        assert reader.read(len(data)) == data
    thread.join()


@pytest.mark.parametrize("buffers", [1, 8])
def test_no_byte_is_lost_when_receive_buffers_run_out(start: Start, buffers: int) -> None:
    engine, source = start("echo", receive_buffers=buffers, receive_buffer_bytes=256, workers=1), random.Random(4)
    clients = connect(engine, 40)
    data = [source.randbytes(20_000) for _ in clients]
    assert exchange(clients, data) == data
    assert engine.worker_stats()[0].buffers <= buffers


def test_clients_that_do_not_read_do_not_starve_the_others(start: Start) -> None:
    engine = start("echo", receive_buffers=32, workers=1)
    deaf, (client,) = connect(engine, 20), connect(engine, 1)
    for each in deaf:
        each.socket.setblocking(False)
        try:
            while True:
                each.socket.send(bytes(65536))
        except BlockingIOError:
            pass
    for _ in range(20):
        assert client.echoes(bytes(3000))
