"""Framings as values, and the parser in C against one that anybody can check."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iocpd.core import (
    ConfigurationError,
    Delimited,
    Fixed,
    FrameTooLarge,
    Framing,
    LengthPrefixed,
    Lines,
    ListenerConfig,
    Raw,
)
from iocpd.core._native import lib

FRAMINGS = [
    Lines(max_bytes=8),
    Lines(max_bytes=8, crlf=True),
    LengthPrefixed(1, max_bytes=8),
    LengthPrefixed(2, "little", max_bytes=8),
    LengthPrefixed(4, max_bytes=8),
    LengthPrefixed(4, "little", max_bytes=8),
    Fixed(3),
    Delimited(b"\0", max_bytes=8),
    Delimited(b"aab", max_bytes=8),
    Delimited(b"\r\n.\r\n", max_bytes=8),
]


def split(framing: Framing, data: bytes) -> list[bytes | None]:
    """What the parser should give for the whole stream; None at the end: a message is above the limit."""
    messages: list[bytes | None] = []
    while data:
        if isinstance(framing, Lines):
            line, end, rest = data.partition(b"\n")
            if end:
                line = line.removesuffix(b"\r")
            elif len(line) == framing.max_bytes + 1 and line.endswith(b"\r"):
                line = line[:-1]  # its end may follow
            size, whole, message = len(line), bool(end), line
            limit = framing.max_bytes
        elif isinstance(framing, LengthPrefixed):
            if len(data) < framing.prefix_bytes:
                break
            code = {1: "B", 2: "H", 4: "I"}[framing.prefix_bytes]
            size = struct.unpack(("<" if framing.order == "little" else ">") + code, data[: framing.prefix_bytes])[0]
            end_at = framing.prefix_bytes + size
            message, rest, whole, limit = (
                data[framing.prefix_bytes : end_at],
                data[end_at:],
                len(data) >= end_at,
                framing.limit,
            )
        elif isinstance(framing, Fixed):
            message, rest, whole = data[: framing.size], data[framing.size :], len(data) >= framing.size
            size = limit = framing.size
        else:
            assert isinstance(framing, Delimited)
            message, end, rest = data.partition(framing.delimiter)
            size, whole, limit = len(message), bool(end), framing.max_bytes
            if not end:
                size -= min(len(framing.delimiter) - 1, size)
        if size > limit:
            return [*messages, None]
        if not whole:
            break
        messages.append(message)
        data = rest
    return messages


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_every_cut_of_a_stream_gives_the_same_messages(framing: Framing) -> None:
    alphabet = [
        b"a",
        b"b",
        b"aa",
        b"aab",
        b"\r",
        b"\n",
        b"\r\n",
        b".",
        b"\0",
        b"\x01",
        b"\x03",
        b"\x00\x02",
        b"xyz",
        b"\xff",
    ]

    @settings(max_examples=400, deadline=None)
    @given(st.lists(st.sampled_from(alphabet), max_size=24).map(b"".join), st.lists(st.integers(0, 60), max_size=12))
    def check(data: bytes, places: list[int]) -> None:
        expected = split(framing, data)
        parser, messages, too_large = framing.parser(), [], False
        for piece in cut(data, places):
            try:
                messages += parser.feed(piece)
            except FrameTooLarge:
                too_large = True
                break
        if not too_large and expected[-1:] == [None]:
            with pytest.raises(FrameTooLarge):
                parser.feed(b"x")
            too_large = True
        assert messages == [message for message in expected if message is not None]
        assert too_large == (expected[-1:] == [None])

    check()


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_what_is_encoded_comes_back_as_it_was(framing: Framing) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(max_size=8), max_size=8), st.lists(st.integers(0, 100), max_size=10))
    def check(messages: list[bytes], places: list[int]) -> None:
        wire, sent = b"", []
        for message in messages:
            try:
                wire += framing.encode(message)
            except ValueError:
                continue
            sent.append(message.removesuffix(b"\r") if isinstance(framing, Lines) and not framing.crlf else message)
        parser = framing.parser()
        assert [message for piece in cut(wire, places) for message in parser.feed(piece)] == sent
        assert parser.pending_bytes == 0

    check()


def test_a_parser_holds_no_more_than_one_message_and_gives_its_memory_back() -> None:
    blocks = lib.iocpd_allocations()
    parser = Lines(max_bytes=1000).parser()
    assert lib.iocpd_allocations() == blocks + 1
    assert parser.feed(b"x" * 1000) == []
    assert (parser.pending_bytes, lib.iocpd_allocations()) == (1000, blocks + 2)
    assert parser.feed(b"\r\n") == [b"x" * 1000]
    assert (parser.pending_bytes, lib.iocpd_allocations()) == (0, blocks + 1)
    del parser
    assert lib.iocpd_allocations() == blocks


def test_messages_before_one_that_is_too_large_are_given() -> None:
    parser = Lines(max_bytes=3).parser()
    assert parser.feed(b"a\nb\ncccc") == [b"a", b"b"]
    with pytest.raises(FrameTooLarge):
        parser.feed(b"\n")


@pytest.mark.parametrize(
    ("framing", "message", "wire"),
    [
        (Raw(), b"x\n", b"x\n"),
        (Lines(), b"x", b"x\n"),
        (Lines(crlf=True), b"", b"\r\n"),
        (LengthPrefixed(1), b"x" * 255, b"\xff" + b"x" * 255),
        (LengthPrefixed(2), b"xy", b"\0\2xy"),
        (LengthPrefixed(2, "little"), b"xy", b"\2\0xy"),
        (LengthPrefixed(), b"", b"\0\0\0\0"),
        (LengthPrefixed(4, "little"), b"x" * 258, b"\2\1\0\0" + b"x" * 258),
        (Fixed(2), b"xy", b"xy"),
        (Delimited(b"--"), b"x", b"x--"),
    ],
)
def test_a_message_is_encoded(framing: Framing, message: bytes, wire: bytes) -> None:
    assert framing.encode(message) == wire


@pytest.mark.parametrize(
    ("framing", "message"),
    [
        (Lines(max_bytes=2), b"xyz"),
        (Lines(), b"x\ny"),
        (LengthPrefixed(1), b"x" * 256),
        (LengthPrefixed(), b"x" * (1024 * 1024 + 1)),
        (Fixed(2), b"x"),
        (Fixed(2), b"xyz"),
        (Delimited(b"--"), b"x--y"),
        (Delimited(b"--"), b"x-"),
        (Delimited(b"-", max_bytes=1), b"xy"),
    ],
)
def test_what_can_not_be_one_message_is_refused(framing: Framing, message: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|line"):
        framing.encode(message)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Lines(max_bytes=0), "max_bytes"),
        (lambda: Lines(max_bytes=True), "max_bytes"),
        (lambda: Lines(max_bytes=64 * 1024 * 1024 + 1), "max_bytes"),
        (lambda: LengthPrefixed(3), "prefix_bytes"),
        (lambda: LengthPrefixed(1, max_bytes=256), "max_bytes"),
        (lambda: LengthPrefixed(order="middle"), "order"),
        (lambda: Fixed(0), "size"),
        (lambda: Delimited(b""), "delimiter"),
        (lambda: Delimited(bytes(17)), "delimiter"),
        (lambda: Delimited("x"), "delimiter"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_can_not_be_is_named(make: Any, field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "framing"),
    [
        ("framing=raw", Raw()),
        ("framing=lines", Lines()),
        ("framing=lines&max_bytes=100&newline=crlf", Lines(100, crlf=True)),
        ("framing=length", LengthPrefixed()),
        ("max_bytes=9&framing=length&prefix_bytes=2&order=little", LengthPrefixed(2, "little", 9)),
        ("framing=fixed&size=12", Fixed(12)),
        ("framing=delimited&delimiter=%0D%0A.%26&max_bytes=7", Delimited(b"\r\n.&", 7)),
    ],
)
def test_a_listeners_framing_is_parsed_and_written(options: str, framing: Framing) -> None:
    listener = ListenerConfig.parse(f"127.0.0.1:7000/relay?{options}")
    assert listener.framing == framing
    assert ListenerConfig.parse(str(listener)) == listener


@pytest.mark.parametrize(
    ("options", "field", "way_out"),
    [
        ("", "listener", "NAME=VALUE"),
        ("framing", "listener", "NAME=VALUE"),
        ("framing=lines&&max_bytes=1", "listener", "NAME=VALUE"),
        ("framing=", "listener", "NAME=VALUE"),
        ("framing=json", "framing", "raw, lines, length, fixed, delimited"),
        ("max_bytes=9", "max_bytes", "give framing too"),
        ("framing=lines&size=9", "size", "max_bytes, newline"),
        ("framing=raw&size=9", "size", "no option"),
        ("framing=lines&max_bytes=many", "max_bytes", "whole number"),
        ("framing=lines&max_bytes=0", "max_bytes", "from 1"),
        ("framing=lines&max_bytes=1&max_bytes=2", "max_bytes", "twice"),
        ("framing=lines&newline=cr", "newline", "lf, crlf"),
        ("framing=length&prefix_bytes=3", "prefix_bytes", "1, 2 or 4"),
        ("colour=red", "colour", "framing"),
        ("threads=2", "threads", "service in Python"),
        ("threads=x", "threads", "whole number"),
    ],
)
def test_a_listeners_wrong_option_is_named_with_the_way_out(options: str, field: str, way_out: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ListenerConfig.parse(f"127.0.0.1:7000/relay?{options}")
    assert caught.value.field == field
    assert way_out in str(caught.value)


def test_a_python_listener_is_parsed_and_written() -> None:
    text = "127.0.0.1:7000/python:a.b:C.D?framing=lines&max_bytes=65536&threads=3&inbox_bytes=65536"
    listener = ListenerConfig.parse(text)
    assert (listener.service, listener.threads, listener.inbox_bytes) == ("python:a.b:C.D", 3, 65536)
    assert str(listener) == text
    assert listener.service_name == "python:a.b:C.D"


@pytest.mark.parametrize("name", ["", ":a", ":a:", "::C", ":a-b:C", ":a:C:D", ":ä:C"])
def test_a_python_services_name_has_one_form(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"python:package\.module:Class"):
        ListenerConfig.parse(f"127.0.0.1:7000/python{name}")


@pytest.mark.parametrize(
    ("options", "limit", "shown"),
    [
        ("framing=raw", None, "framing=raw"),
        ("framing=lines", 65536, "framing=lines&max_bytes=65536"),
        ("framing=lines&newline=crlf", 65536, "framing=lines&max_bytes=65536&newline=crlf"),
        ("framing=length", 1024 * 1024, "framing=length&prefix_bytes=4&order=big&max_bytes=1048576"),
        ("framing=length&prefix_bytes=1", 255, "framing=length&prefix_bytes=1&order=big&max_bytes=255"),
        ("framing=length&prefix_bytes=2&max_bytes=9", 9, "framing=length&prefix_bytes=2&order=big&max_bytes=9"),
        ("framing=fixed", 64, "framing=fixed&size=64"),
        ("framing=delimited", 65536, "framing=delimited&delimiter=%00&max_bytes=65536"),
    ],
)
def test_a_framing_shows_what_holds_where_nothing_is_said(options: str, limit: int | None, shown: str) -> None:
    framing = ListenerConfig.parse(f"127.0.0.1:7000/echo?{options}").framing
    assert framing is not None
    assert (framing.limit, str(framing)) == (limit, shown)
    assert str(ListenerConfig.parse(f"127.0.0.1:7000/echo?{shown}").framing) == shown
