"""EngineConfig and ListenerConfig: what they take, and what they say of what they don't."""

from __future__ import annotations

import ipaddress
import math
from typing import Any

import pytest

from iocpd.core import ConfigurationError, EngineConfig, EngineError, LengthPrefixed, ListenerConfig


@pytest.mark.parametrize(
    ("text", "host", "port", "service"),
    [
        ("127.0.0.1:12345", "127.0.0.1", 12345, "echo"),
        ("127.0.0.1:0/discard", "127.0.0.1", 0, "discard"),
        ("[::]:7000/relay", "::", 7000, "relay"),
        ("[fe80::1%eth0]:7000", "fe80::1%eth0", 7000, "echo"),
        ("localhost:65535/echo", "localhost", 65535, "echo"),
    ],
)
def test_a_listener_is_parsed(text: str, host: str, port: int, service: str) -> None:
    listener = ListenerConfig.parse(text)
    assert (listener.host, listener.port, listener.service) == (host, port, service)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:7000/echo",
        "[::1]:7000/relay",
        "127.0.0.1:7000/echo?proxy_protocol_from=10.0.0.0/8&proxy_protocol_from=2001:db8::/32",
    ],
)
def test_a_listener_is_written_as_it_is_parsed(text: str) -> None:
    assert str(ListenerConfig.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7000",
        "127.0.0.1",
        ":",
        "::1:7000",
        "[::1]",
        "[::1:7000",
        "a:b:c",
        "h:7000/",
        "h:7000/echo/x",
        "h:-1",
        "h:٣",
    ],
)
def test_a_listener_in_another_form_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ListenerConfig.parse(text)
    assert repr(text) in str(caught.value)
    assert "HOST:PORT/SERVICE" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "field", "value", "way_out"),
    [
        ("h:65536", "port", 65536, "from 0 to 65535"),
        ("h:7000/http", "service", "http", "echo, discard, relay"),
        (":7000", "host", "", "127.0.0.1"),
        ("[]:7000", "host", "", "127.0.0.1"),
        ("a b:7000", "host", "a b", "127.0.0.1"),
        ("h:1/echo?proxy_protocol_from=10.0.0.1/8", "proxy_protocol_from", "10.0.0.1/8", "10.0.0.0/8"),
        ("h:1/echo?proxy_protocol_from=fe80::1%eth0", "proxy_protocol_from", "fe80::1%eth0", "addresses or networks"),
        ("h:1/echo?proxy_protocol_from=balancer", "proxy_protocol_from", "balancer", "addresses or networks"),
        ("h:1/echo?" + "&".join(["proxy_protocol_from=::1"] * 65), "proxy_protocol_from", 65, "64 of them at most"),
    ],
)
def test_a_listeners_wrong_value_is_named_with_the_way_out(text: str, field: str, value: object, way_out: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ListenerConfig.parse(text)
    error = caught.value
    assert (error.field, error.value) == (field, value)
    assert f"{field} = {value!r}" in str(error)
    assert way_out in str(error)


@pytest.mark.parametrize(
    ("field", "value", "way_out"),
    [
        ("listeners", [], "from 1 to 64"),
        ("listeners", [ListenerConfig(port=0)] * 65, "from 1 to 64"),
        ("listeners", [ListenerConfig(port=7000), ListenerConfig(port=7000, service="relay")], "another port"),
        ("backend", "kqueue", "auto, iocp, io_uring, epoll"),
        ("workers", -1, "from 0 to 64"),
        ("workers", 65, "from 0 to 64"),
        ("workers", 1.0, "whole number"),
        ("workers", True, "whole number"),
        ("workers", "2", "whole number"),
        ("busy_poll_us", -1, "from 0"),
        ("busy_poll_us", 1001, "to 1000"),
        ("max_connections", 0, "from 1"),
        ("max_connections", 1024 * 1024 + 1, "to 1048576"),
        ("first_byte_timeout", -1, "from 0"),
        ("idle_timeout", math.nan, "seconds"),
        ("idle_timeout", math.inf, "seconds"),
        ("idle_timeout", "5", "seconds"),
        ("send_soft_seconds", 0, "from 0.001"),
        ("send_soft_bytes", 0, "from 1"),
        ("send_soft_bytes", 5 * 1024 * 1024, "raise send_hard_bytes"),
        ("send_hard_bytes", 1024**3 + 1, "to 1073741824"),
        ("receive_buffer_bytes", 255, "from 256"),
        ("receive_buffers", 32769, "to 32768"),
        ("closed_capacity", 0, "from 1"),
        ("inbox_capacity", 0, "from 1"),
        ("relay_capacity", 0, "from 1"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(field: str, value: Any, way_out: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EngineConfig(**{field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field} = ")
    assert way_out in str(caught.value)


def test_a_wrong_value_is_an_engine_error_and_a_value_error() -> None:
    assert issubclass(ConfigurationError, EngineError)
    assert issubclass(ConfigurationError, ValueError)


def test_listeners_with_ports_that_the_system_chooses_are_not_the_same() -> None:
    assert len(EngineConfig(listeners=[ListenerConfig(port=0), ListenerConfig(port=0)]).listeners) == 2


def test_a_configuration_keeps_the_listeners_that_it_was_given() -> None:
    listeners = [ListenerConfig(port=0)]
    config = EngineConfig(listeners=listeners)
    listeners.clear()
    assert len(config.listeners) == 1


def test_the_default_listener_is_echo_on_loopback() -> None:
    assert [str(listener) for listener in EngineConfig().listeners] == ["127.0.0.1:12345/echo"]


def test_balancers_are_given_as_text_or_as_networks() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")]
    assert ListenerConfig(proxy_protocol_from=["10.0.0.0/8", "::1"]).balancers == tuple(networks)
    assert ListenerConfig(proxy_protocol_from=networks).balancers == tuple(networks)
    for wrong in ("10.0.0.0/8", [10], None, [True]):
        with pytest.raises(ConfigurationError, match="proxy_protocol_from"):
            ListenerConfig(proxy_protocol_from=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("service", ["relay", "relay_group"])
def test_a_relay_can_send_on_the_largest_message(service: str) -> None:
    listener = ListenerConfig(service=service, framing=LengthPrefixed(2, max_bytes=1000))
    limits = {"listeners": [ListenerConfig(port=1), listener], "receive_buffer_bytes": 512, "send_soft_bytes": 1}
    assert EngineConfig(send_hard_bytes=1514, **limits).send_hard_bytes == 1514
    with pytest.raises(ConfigurationError) as caught:
        EngineConfig(send_hard_bytes=1513, **limits)
    assert caught.value.field == "send_hard_bytes"
    assert f"at least 1514 for {listener}" in str(caught.value)
    assert EngineConfig(listeners=[ListenerConfig(service=service)], send_soft_bytes=1, send_hard_bytes=4096)
    with pytest.raises(ConfigurationError, match="at least 4096"):
        EngineConfig(listeners=[ListenerConfig(service=service)], send_soft_bytes=1, send_hard_bytes=4095)
