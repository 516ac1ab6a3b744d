"""Every framing, as a service in Python has it: messages come as they were sent, and go out framed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from iocpd.core import (
    Delimited,
    Engine,
    Fixed,
    Framing,
    LengthPrefixed,
    Lines,
    ListenerConfig,
    Reason,
    Service,
    ServiceConnection,
)
from tests.support import Client, connect, eventually, exchange, port_of

Start = Callable[..., Engine]


class Mirror(Service):
    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        connection.send(message)


class MirrorTogether(Service):
    def on_messages(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        connection.send_all(messages)


class MirrorLater(Service):
    async def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        if len(message) % 3 == 0:
            await asyncio.sleep(0)
        connection.send(message)


MIRRORS = [Mirror, MirrorTogether, MirrorLater]


def length(prefix_bytes: int, order: str) -> Callable[[bytes], bytes]:
    return lambda message: len(message).to_bytes(prefix_bytes, order) + message  # type: ignore[arg-type]


def behind(end: bytes) -> Callable[[bytes], bytes]:
    return lambda message: message + end


# Each framing, and what it makes of a message, told once more.
FRAMINGS: list[tuple[Framing, Callable[[bytes], bytes]]] = [
    (Lines(), behind(b"\n")),
    (Lines(crlf=True), behind(b"\r\n")),
    (LengthPrefixed(1), length(1, "big")),
    (LengthPrefixed(2), length(2, "big")),
    (LengthPrefixed(2, "little"), length(2, "little")),
    (LengthPrefixed(4), length(4, "big")),
    (LengthPrefixed(4, "little"), length(4, "little")),
    (Fixed(100), behind(b"")),
    (Delimited(), behind(b"\0")),
    (Delimited(b"aab"), behind(b"aab")),
    (Delimited(b"\r\n.\r\n"), behind(b"\r\n.\r\n")),
]


def messages_of(framing: Framing, source: random.Random, count: int) -> list[bytes]:
    """What can be messages of it, also such as nearly hold its mark."""
    if isinstance(framing, Fixed):
        return [source.randbytes(framing.size) for _ in range(count)]
    if isinstance(framing, LengthPrefixed):
        longest = min(256**framing.prefix_bytes - 1, 100_000)
        return [source.randbytes(source.choice((0, 1, 10, 200, 255, longest))) for _ in range(count)]
    if isinstance(framing, Lines):
        return [bytes(source.choices(b"\0\xff\rab ", k=source.choice((0, 1, 20, 3000)))) + b"." for _ in range(count)]
    assert isinstance(framing, Delimited)
    mark, found = framing.delimiter, []
    while len(found) < count:
        message = bytes(source.choices(mark + b"cd", k=source.choice((0, 1, 5, 20))))
        if (message + mark).index(mark) == len(message):
            found.append(message)
    return found


@pytest.mark.parametrize("service", MIRRORS)
@pytest.mark.parametrize(("framing", "framed"), FRAMINGS, ids=[str(framing) for framing, _ in FRAMINGS])
def test_a_mirror_gives_every_message_back_as_it_was(
    start: Start, framing: Framing, framed: Callable[[bytes], bytes], service: type[Service]
) -> None:
    listener = ListenerConfig(port=0, service=service, framing=framing, threads=2)
    engine, source = start(listener, receive_buffer_bytes=512), random.Random(1)
    messages = [messages_of(framing, source, 200) for _ in range(8)]
    data = [b"".join(map(framed, each)) for each in messages]
    assert exchange(connect(engine, len(data)), data, shut=True) == data
    rows = engine.service_stats()
    assert sum(row.messages_in for row in rows) == sum(row.messages_out for row in rows) == 1600
    assert sum(row.errors for row in rows) == 0


@pytest.mark.parametrize("service", MIRRORS)
def test_lines_that_end_in_either_way_go_out_with_cr_lf(start: Start, service: type[Service]) -> None:
    engine = start(ListenerConfig(port=0, service=service, framing=Lines(crlf=True)))
    with Client(port_of(engine)) as client:
        client.send(b"one\ntwo\r\n\nthree\r\r\n")
        client.shut()
        assert client.read_to_end() == b"one\r\ntwo\r\n\r\nthree\r\r\n"


@pytest.mark.parametrize(
    ("framing", "whole", "too_long"),
    [
        (LengthPrefixed(4, max_bytes=5), b"\0\0\0\5hello", b"\0\0\0\6"),
        (LengthPrefixed(1, max_bytes=5), b"\5hello", b"\6"),
        (Delimited(b"--", max_bytes=5), b"hello--", b"hello-x"),
        (Lines(max_bytes=5, crlf=True), b"hello\r\n", b"hello!\n"),
    ],
    ids=str,
)
def test_a_message_above_the_limit_ends_the_connection_behind_those_before_it(
    start: Start, framing: Framing, whole: bytes, too_long: bytes
) -> None:
    engine = start(ListenerConfig(port=0, service=Mirror, framing=framing))
    with Client(port_of(engine)) as client:
        client.send(whole + too_long + whole)
        assert client.read_to_end() == whole
    assert eventually(lambda: engine.closed())[0].reason == Reason.FRAME_TOO_LARGE
