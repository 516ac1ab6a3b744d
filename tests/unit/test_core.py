"""The parts of iocpd.core that need no running engine."""

from __future__ import annotations

import errno
import ipaddress
import math
import socket
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

import iocpd.core
from iocpd.core import (
    BackendUnavailable,
    ConfigurationError,
    Engine,
    EngineConfig,
    EngineError,
    EngineStopped,
    Filter,
    ListenerConfig,
    ListenError,
    Phase,
    Reason,
    State,
    probe,
)
from iocpd.core import _rows as rows
from iocpd.core._native import ffi, lib
from iocpd.core.config import BACKENDS, LISTENERS_MAX, PROXY_NETWORKS_MAX, SERVICES, WORKERS_MAX, milliseconds


def test_names_and_bounds_are_the_engines() -> None:
    assert [ffi.string(lib.iocpd_backend_name(number)).decode() for number in range(1, 4)] == list(BACKENDS[1:])
    assert [getattr(lib, f"IOCPD_{name.upper()}") for name in SERVICES] == list(range(4))
    assert [getattr(lib, f"IOCPD_PHASE_{phase.name}") for phase in Phase] == list(range(len(Phase)))
    assert (None, *Reason) == rows.REASONS
    assert (WORKERS_MAX, LISTENERS_MAX) == (lib.IOCPD_WORKERS_MAX, lib.IOCPD_LISTENERS_MAX)
    assert PROXY_NETWORKS_MAX == lib.IOCPD_PROXY_FROM_MAX


def test_everything_that_is_exported_is_there() -> None:
    assert all(hasattr(iocpd.core, name) for name in iocpd.core.__all__)


def test_core_does_not_import_ctypes() -> None:
    """On Windows it loads user32, and such a process gets no CTRL_SHUTDOWN_EVENT."""
    import subprocess

    code = "import sys, iocpd.core; sys.exit('ctypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("text", ["127.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "2001:db8::1:0:0:1"])
def test_addresses_go_to_16_bytes_and_back(text: str) -> None:
    assert rows.address_text(rows.address_bytes(text)) == text


def test_a_mapped_address_is_shown_as_ipv4() -> None:
    assert rows.address_text(ipaddress.IPv6Address("::ffff:192.0.2.7").packed) == "192.0.2.7"


def test_a_row_is_unpacked_field_by_field() -> None:
    row = ffi.new("iocpd_connection[1]")
    row[0].token, row[0].serial, row[0].listener, row[0].worker = 2**52 + 1, 2**40, 1, 63
    row[0].peer_ip, row[0].peer_port = rows.address_bytes("192.0.2.7"), 65535
    row[0].local_ip, row[0].local_port = rows.address_bytes("::1"), 7000
    row[0].via_ip, row[0].via_port = rows.address_bytes("198.51.100.1"), 40000
    row[0].state, row[0].reason = lib.IOCPD_DRAINING, lib.IOCPD_KICKED
    row[0].connected_at_us, row[0].last_activity_at_us = 1_700_000_000_123_456, 1_700_000_001_654_321
    row[0].bytes_in, row[0].bytes_out, row[0].pending_bytes = 2**63, 2, 5
    row[0].messages_in, row[0].messages_out = 3, 4
    row[0].labels = 1
    (connection,) = rows.connections(
        row, 1, ("echo", "relay"), {2**52 + 1: b',"tags":{"k":"v"},"groups":["g"]'}.__getitem__
    )
    assert (connection.tags, connection.groups) == ({"k": "v"}, ("g",))
    assert (connection.id, connection.serial, connection.listener, connection.worker) == (2**52 + 1, 2**40, 1, 63)
    assert (connection.service, connection.state, connection.reason) == ("relay", "draining", "kicked")
    assert (connection.peer, connection.local) == (("192.0.2.7", 65535), ("::1", 7000))
    assert connection.via == ("198.51.100.1", 40000)
    assert connection.connected_at == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert connection.last_activity_at == datetime(2023, 11, 14, 22, 13, 21, 654321, UTC)
    assert (connection.bytes_in, connection.bytes_out, connection.pending_bytes) == (2**63, 2, 5)
    assert (connection.messages_in, connection.messages_out) == (3, 4)


def test_a_record_is_unpacked_with_its_connection() -> None:
    row = ffi.new("iocpd_closed[1]")
    row[0].connection.token, row[0].connection.reason = 7, lib.IOCPD_KICKED
    row[0].closed_serial, row[0].closed_at_us, row[0].os_error = 9, 1_700_000_000_000_000, -5
    row[0].text = "Wartung: ü".encode()
    (closed,) = rows.closed_connections(row, 1, ("echo",), lambda _: pytest.fail("it has no labels"))
    assert (closed.connection.tags, closed.connection.groups) == ({}, ())
    assert (closed.connection.id, closed.connection.reason, closed.closed_serial) == (7, "kicked", 9)
    assert (closed.reason, closed.by, closed.text, closed.os_error) == ("kicked", "operator", "Wartung: ü", -5)


def test_a_filter_becomes_its_struct() -> None:
    network = ipaddress.ip_network("10.1.0.0/16")
    struct = rows.filter_struct(Filter(ip=network, state=State.DRAINING, older_than=1.5))
    assert struct.fields == lib.IOCPD_BY_NETWORK | lib.IOCPD_BY_STATE | lib.IOCPD_BY_AGE
    assert (bytes(struct.network), struct.prefix) == (rows.address_bytes("10.1.0.0"), 112)
    assert (struct.state, struct.older_than_us) == (lib.IOCPD_DRAINING, 1_500_000)
    assert rows.filter_struct(None).fields == 0


@pytest.mark.parametrize(
    ("field", "value"), [("listener", -1), ("older_than", -0.1), ("idle_for", math.nan), ("idle_for", math.inf)]
)
def test_a_filter_refuses_what_can_not_be(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Filter(**{field: value})
    assert caught.value.field == field


def test_a_short_time_does_not_become_none() -> None:
    assert [milliseconds("t", seconds) for seconds in (0, 0.0001, 0.0011, 1.5)] == [0, 1, 2, 1500]


@pytest.mark.parametrize(
    ("code", "way_out"),
    [
        (errno.EADDRINUSE, "choose another port"),
        (errno.EADDRNOTAVAIL, "no such address"),
        (errno.EACCES, "above 1023"),
        pytest.param(
            getattr(errno, "WSAEACCES", 0),
            "excludedportrange",
            marks=pytest.mark.skipif(sys.platform != "win32", reason="of Windows"),
        ),
        (errno.ENOBUFS, ""),
    ],
)
def test_a_listen_error_says_where_and_what_to_do(code: int, way_out: str) -> None:
    error = ListenError("::1", 80, code)
    assert (error.host, error.port, error.errno) == ("::1", 80, code)
    assert str(error).startswith("cannot listen on [::1]:80: ")
    assert way_out in str(error)
    assert isinstance(error, EngineError)
    assert isinstance(error, OSError)


def test_a_name_that_does_not_resolve_is_a_listen_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ListenError, match="cannot listen on nowhere:7000: the name does not resolve") as caught:
        Engine(EngineConfig(listeners=[ListenerConfig(host="nowhere", port=7000)])).start()
    assert caught.value.errno == socket.EAI_NONAME


def test_a_name_that_can_not_be_one_is_a_listen_error() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on a\.\.b:7000"):
        Engine(EngineConfig(listeners=[ListenerConfig(host="a..b", port=7000)])).start()


def test_a_backend_of_another_system_is_unavailable() -> None:
    other = "epoll" if sys.platform == "win32" else "iocp"
    with pytest.raises(BackendUnavailable) as caught:
        probe(other)
    assert caught.value.backend == other
    assert other in str(caught.value)
    with pytest.raises(BackendUnavailable):
        Engine(EngineConfig(listeners=[ListenerConfig(port=0)], backend=other)).start()


def test_a_backend_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="kqueue"):
        probe("kqueue")


def test_an_engine_that_was_never_started_says_so() -> None:
    engine = Engine()
    assert not engine.running
    assert engine.join()
    engine.stop()
    for call in (
        engine.info,
        engine.worker_stats,
        engine.listener_stats,
        engine.connections,
        engine.count,
        engine.closed,
        engine.drain,
        engine.cancel_drain,
        engine.drain_progress,
        lambda: engine.connection(1),
        lambda: engine.send(1, b"x"),
        lambda: engine.kick(1),
        lambda: engine.broadcast(b"x"),
    ):
        with pytest.raises(EngineStopped):
            call()


def test_settings_by_name_are_those_of_a_config() -> None:
    listeners = [ListenerConfig(port=0, service="discard")]
    assert Engine(listeners=listeners, workers=1).config == EngineConfig(listeners=listeners, workers=1)
    with pytest.raises(TypeError, match="a config or settings, and not both: workers"):
        Engine(EngineConfig(), workers=1)
    with pytest.raises(TypeError, match="worker"):
        Engine(worker=1)
    with pytest.raises(ConfigurationError):
        Engine(workers=-1)
