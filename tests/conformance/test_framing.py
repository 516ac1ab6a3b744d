"""Whole messages on the services in C, on every backend."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from iocpd.core import (
    By,
    Delimited,
    Engine,
    Fixed,
    Framing,
    LengthPrefixed,
    Lines,
    ListenerConfig,
    Raw,
    Reason,
)
from tests.support import Client, await_turn, connect, connection_of, eventually, exchange, port_of

Start = Callable[..., Engine]

FRAMINGS = [
    Lines(),
    LengthPrefixed(2, "little"),
    LengthPrefixed(4),
    Fixed(100),
    Delimited(b"\r\n.\r\n"),
]


def framed(service: str, framing: Framing) -> ListenerConfig:
    return ListenerConfig(port=0, service=service, framing=framing)


def messages_of(framing: Framing, source: random.Random, count: int) -> list[bytes]:
    if isinstance(framing, Fixed):
        return [source.randbytes(framing.size) for _ in range(count)]
    return [bytes(source.choices(b"abcdefgh. ", k=source.choice((0, 1, 20, 300, 9000)))) for _ in range(count)]


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_echo_gives_whole_messages_back_and_counts_them(start: Start, framing: Framing) -> None:
    engine, source = start(framed("echo", framing), receive_buffer_bytes=1024), random.Random(1)
    messages = [messages_of(framing, source, 200) for _ in range(10)]
    data = [b"".join(map(framing.encode, each)) for each in messages]
    clients = connect(engine, len(data))
    assert exchange(clients, data) == data
    rows = [connection_of(engine, client) for client in clients]
    assert {row.messages_in for row in rows} == {200}
    assert [row.bytes_in for row in rows] == [len(each) for each in data]
    assert sum(stats.messages_in for stats in engine.worker_stats()) == 2000


def test_a_message_in_single_bytes_comes_back_when_it_is_whole(start: Start) -> None:
    engine = start(framed("echo", Lines()))
    with Client(port_of(engine)) as client:
        id = connection_of(engine, client).id
        for number, byte in enumerate(b"hello\r"):
            client.send(bytes([byte]))
            eventually(lambda number=number: engine.connection(id).bytes_in == number + 1)
        assert (engine.connection(id).bytes_out, engine.connection(id).messages_in) == (0, 0)
        client.send(b"\nnext")
        assert client.read(7) == b"hello\r\n"
        assert engine.connection(id).messages_in == 1
        client.shut()
        assert client.read_to_end() == b""  # what has no end is no message
    record = eventually(lambda: engine.closed())[0]
    assert (record.reason, record.connection.messages_in) == (Reason.CLIENT_CLOSED, 1)
    assert sum(stats.discarded_bytes for stats in engine.worker_stats()) == 4


def test_relay_never_mixes_the_messages_of_its_senders(start: Start) -> None:
    framing = LengthPrefixed(2)
    engine = start(framed("relay", framing), send_hard_bytes=64 << 20, send_soft_bytes=64 << 20)
    senders, (reader,) = connect(engine, 4), connect(engine, 1)
    messages = [[bytes([name]) * (number * 17 % 3000 + 4) for number in range(200)] for name in range(4)]
    total = sum(len(framing.encode(message)) for each in messages for message in each)
    streams = [b"".join(map(framing.encode, each)) for each in messages]
    while any(streams):  # in pieces that end anywhere, each sender in turn
        for name, sender in enumerate(senders):
            sender.send(streams[name][:1500])
            streams[name] = streams[name][1500:]
    received = framing.parser().feed(reader.read(total))
    assert all(len(set(message)) == 1 for message in received)
    for name in range(4):
        assert [message for message in received if message[0] == name] == messages[name]


def test_discard_counts_messages(start: Start) -> None:
    engine = start(framed("discard", Fixed(10)))
    with Client(port_of(engine)) as client:
        id = connection_of(engine, client).id
        client.send(bytes(100_005))
        eventually(lambda: engine.connection(id).bytes_in == 100_005)
        await_turn(engine)  # the messages are counted after the bytes
        assert engine.connection(id).messages_in == 10_000


def test_raw_is_as_without_a_framing(start: Start) -> None:
    engine = start(framed("echo", Raw()))
    with Client(port_of(engine)) as client:
        assert client.echoes(b"no end")


@pytest.mark.parametrize(
    ("framing", "whole", "large"),
    [
        (Lines(max_bytes=100), b"x" * 100 + b"\r\n", b"x" * 102),
        (LengthPrefixed(2, max_bytes=100), b"\0\x01x", b"\0\x65"),
        (Delimited(b"--", max_bytes=100), b"x" * 100 + b"--", b"x" * 102),
    ],
    ids=str,
)
def test_a_frame_above_its_limit_ends_its_connection_alone(
    start: Start, framing: Framing, whole: bytes, large: bytes
) -> None:
    engine = start(framed("echo", framing))
    with Client(port_of(engine)) as other, Client(port_of(engine)) as client:
        client.send(whole + large)
        assert client.read_to_end() == whole  # in order, and then the end of the stream
        client.close()
        record = eventually(lambda: engine.closed())[0]
        assert (record.reason, record.by, record.connection.messages_in) == (Reason.FRAME_TOO_LARGE, By.ENGINE, 1)
        assert other.echoes(whole)


def test_who_goes_on_with_a_frame_that_is_too_large_is_read_away(start: Start) -> None:
    engine = start(framed("echo", Lines(max_bytes=1000)), send_soft_seconds=1.0)
    with Client(port_of(engine)) as client:
        client.send(b"x" * 500_000)
        assert client.read_to_end() == b""
        eventually(lambda: engine.closed())
    assert engine.closed()[0].reason == Reason.FRAME_TOO_LARGE


def test_a_slow_reader_of_framed_echo_is_not_read_from(start: Start) -> None:
    engine = start(framed("echo", Lines()), send_soft_bytes=64 * 1024, workers=1)
    with Client(port_of(engine), receive_buffer=4096) as client:
        client.socket.settimeout(0.5)
        line, sent = b"x" * 1000 + b"\n", 0
        while True:
            try:
                sent += client.socket.send(line)
                if sent % 1001:
                    break
            except TimeoutError:
                break
        row = connection_of(engine, client)
        assert row.pending_bytes < 1024 * 1024
        client.socket.settimeout(20)
        assert client.read(sent // 1001 * 1001)[:1001] == line


def test_an_idle_connection_keeps_no_memory_of_its_framing(start: Start) -> None:
    from iocpd.core._native import lib

    engine = start(framed("echo", Lines()), workers=1)
    clients = connect(engine, 20)
    for client in clients:
        assert client.echoes(b"hello\n")
    eventually(lambda: engine.worker_stats()[0].pending_bytes == 0)
    await_turn(engine)  # and what was sent is freed
    before = lib.iocpd_allocations()
    for client in clients:
        client.send(b"partial")
    eventually(lambda: engine.worker_stats()[0].bytes_in == 20 * 13)
    eventually(lambda: lib.iocpd_allocations() == before + 20)
    for client in clients:
        client.send(b"\n")
        assert client.read(8) == b"partial\n"
    eventually(lambda: lib.iocpd_allocations() == before)


def test_what_an_operator_sends_goes_out_as_it_is(start: Start) -> None:
    engine = start(framed("echo", LengthPrefixed(2)))
    with Client(port_of(engine)) as client:
        id = connection_of(engine, client).id
        assert engine.send(id, b"bare").written == 1
        assert engine.broadcast(LengthPrefixed(2).encode(b"framed")).written == 1
        engine.submit_kick(id, farewell=b"bye")
        assert client.read_to_end() == b"bare" + b"\0\6framed" + b"bye"
