"""The PROXY protocol: whose connection it is that a balancer passes on, and what is done before that is known."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from iocpd.core import (
    By,
    ClosedConnection,
    Connection,
    ConnectionClosing,
    Engine,
    EventKind,
    Filter,
    Lines,
    ListenerConfig,
    Reason,
    Service,
    ServiceConnection,
    State,
)
from tests.support import PATIENCE, Client, await_turn, eventually, everything, port_of, refused

Start = Callable[..., Engine]

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
CLIENT = ("192.0.2.7", 56324)
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
V2 = (
    SIGNATURE
    + b"\x21\x11"
    + struct.pack("!H4s4sHH", 12, *map(socket.inet_aton, ("192.0.2.7", "198.51.100.1")), 56324, 443)
)
LOCAL = SIGNATURE + b"\x20\x00\0\0"


def v1(client: str, port: int = 56324) -> bytes:
    return (
        f"PROXY TCP{6 if ':' in client else 4} {client} {'::1' if ':' in client else '127.0.0.1'} {port} 1\r\n".encode()
    )


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(block)) + block


def block6(client: str, port: int) -> bytes:
    return socket.inet_pton(socket.AF_INET6, client) + bytes(16) + struct.pack("!HH", port, 443)


def behind(service: Any = "echo", *networks: str, **options: Any) -> ListenerConfig:
    """A listener behind a balancer on this machine."""
    return ListenerConfig(port=0, service=service, proxy_protocol_from=networks or ["127.0.0.1"], **options)


def row_of(engine: Engine, client: Client) -> Connection:
    """The engine's side of a client, which may be named by a header or not yet."""
    return eventually(
        lambda: next((row for row in everything(engine) if client.address in (row.via or row.peer, row.peer)), None)
    )


def record_of(engine: Engine, client: Client) -> ClosedConnection:
    def find() -> ClosedConnection | None:
        found = (each for each in engine.closed() if client.address in (each.connection.via, each.connection.peer))
        return next(found, None)

    return eventually(find)


# ---- what is a header, and whose -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        pytest.param(
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", ("192.168.0.1", 56324), id="v1 of the paper"
        ),
        pytest.param(
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535), id="v1 longest"
        ),
        pytest.param(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0), id="v1 all zero"),
        pytest.param(
            f"PROXY TCP6 {':'.join(['ffff'] * 8)} {':'.join(['ffff'] * 8)} 65535 65535\r\n".encode(),
            (":".join(["ffff"] * 8), 65535),
            id="v1 IPv6 longest",
        ),
        pytest.param(b"PROXY TCP6 2001:DB8::7 ::1 1 2\r\n", ("2001:db8::7", 1), id="v1 IPv6"),
        pytest.param(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", ("192.0.2.7", 1), id="v1 mapped"),
        pytest.param(b"PROXY UNKNOWN\r\n", None, id="v1 unknown"),
        pytest.param(
            f"PROXY UNKNOWN {':'.join(['ffff'] * 8)} {':'.join(['ffff'] * 8)} 65535 65535\r\n".encode(),
            None,
            id="v1 unknown, 107 bytes",
        ),
        pytest.param(b"PROXY UNKNOWN \r \0 whatever\r\n", None, id="v1 unknown and more"),
        pytest.param(V2, CLIENT, id="v2 IPv4"),
        pytest.param(v2(0x21, 0x21, block6("2001:db8::7", 7)), ("2001:db8::7", 7), id="v2 IPv6"),
        pytest.param(v2(0x21, 0x21, block6("::ffff:192.0.2.7", 7)), ("192.0.2.7", 7), id="v2 mapped"),
        pytest.param(v2(0x21, 0x11, V2[16:] + b"\x04\0\x03\0\0\0"), CLIENT, id="v2 with a TLV"),
        pytest.param(v2(0x21, 0x21, block6("2001:db8::7", 7) + bytes(65499)), ("2001:db8::7", 7), id="v2 longest"),
        pytest.param(LOCAL, None, id="v2 local"),
        pytest.param(v2(0x20, 0xFF, b"x" * 300), None, id="v2 local with a block of anything"),
        pytest.param(v2(0x21, 0x00, b""), None, id="v2 unspecified"),
        pytest.param(v2(0x21, 0x00, b"x" * 40), None, id="v2 unspecified with a block"),
        pytest.param(v2(0x21, 0x12, V2[16:]), None, id="v2 UDP"),
        pytest.param(v2(0x21, 0x31, b"/run/balancer".ljust(216, b"\0")), None, id="v2 Unix"),
    ],
)
def test_a_header_names_the_client(start: Start, header: bytes, peer: tuple[str, int] | None) -> None:
    engine = start(behind())
    client = Client(port_of(engine))
    client.send(header + b"hello")
    assert client.read(5) == b"hello"
    row = row_of(engine, client)
    assert (row.peer, row.via) == ((peer, client.address) if peer else (client.address, None))
    assert (row.state, row.bytes_in) == (State.OPEN, 5)


@pytest.mark.parametrize(
    "header",
    [
        b"hello",
        b"GET / HTTP/1.1\r\n",
        b"PROXX",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n",
        b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 0x1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 2001:db8::7::1 ::1 1 2\r\n",
        b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
        b"PROXY TCP6 [::1] ::1 1 2\r\n",
        b"PROXY TCP6 12345::1 ::1 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",  # 108 bytes
        b"PROXY UNKNOWN " + b"x" * 94,
        SIGNATURE[:11] + b"\x0b",
        SIGNATURE + b"\x11\x11" + V2[14:],  # version 1 of the binary form
        SIGNATURE + b"\x22\x11" + V2[14:],  # a command that there is not
        v2(0x21, 0x41, V2[16:]),
        v2(0x21, 0x13, V2[16:]),
        v2(0x21, 0x11, V2[16:-1]),
        v2(0x21, 0x21, block6("::1", 1)[:-1]),
    ],
    ids=repr,
)
def test_what_is_no_header_ends_the_connection(start: Start, header: bytes) -> None:
    engine = start(behind())
    with Client(port_of(engine)) as client:
        client.send(header)
        assert client.read_to_any_end() == b""
        record = record_of(engine, client)
    assert (record.reason, record.by) == (Reason.PROXY_HEADER_INVALID, By.ENGINE)
    assert (record.connection.peer, record.connection.via) == (client.address, None)
    await_turn(engine)  # it is counted after it is recorded
    assert sum(stats.closed[Reason.PROXY_HEADER_INVALID] for stats in engine.worker_stats()) == 1


# ---- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [V1, V2, LOCAL], ids=["v1", "v2", "local"])
@pytest.mark.parametrize("workers", [1, 2])
def test_it_may_come_split_anywhere(start: Start, header: bytes, workers: int) -> None:
    engine = start(behind(), workers=workers)
    stream = header + b"data behind it"
    clients = [Client(port_of(engine)) for _ in range(1, len(stream))]
    for at, client in enumerate(clients, 1):
        client.send(stream[:at])
    # The second piece comes when the first has been received: only then has the connection been active.
    eventually(lambda: len(everything(engine)) == len(clients))
    eventually(lambda: all(row.last_activity_at > row.connected_at for row in everything(engine)))
    for at, client in enumerate(clients, 1):
        client.send(stream[at:])
    for client in clients:
        assert client.read(14) == b"data behind it"
    assert {row.bytes_in for row in everything(engine)} == {14}


@pytest.mark.parametrize("workers", [1, 2])
def test_it_may_come_byte_by_byte(start: Start, workers: int) -> None:
    engine = start(behind(), workers=workers)
    clients = [Client(port_of(engine)) for _ in range(4)]
    for client in clients:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in V1 + b"hello":
        for client in clients:
            client.send(bytes([byte]))
    assert [client.read(5) for client in clients] == [b"hello"] * 4
    assert {(row.peer, row.via) for row in everything(engine)} == {(CLIENT, client.address) for client in clients}


def test_long_headers_are_passed_over_without_being_kept(start: Start) -> None:
    """There are far fewer buffers than these headers would fill."""
    engine = start(behind(), receive_buffer_bytes=256, receive_buffers=8)
    stream = v2(0x21, 0x11, V2[16:].ljust(65535, b"\xee")) + b"hello"
    clients = [Client(port_of(engine)) for _ in range(20)]
    for client in clients:
        client.send(stream[:-6])
    with Client(port_of(engine)) as other:
        other.send(LOCAL + b"x")
        assert other.read(1) == b"x"
    assert {row.state for row in everything(engine) if not row.bytes_in} == {State.ARRIVING}
    for client in clients:
        client.send(stream[-6:])
    assert [client.read(5) for client in clients] == [b"hello"] * 20


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_stream_in_one_piece_is_answered(start: Start, workers: int) -> None:
    """Header, data and end of file are often there before anybody has looked at the connection."""
    engine = start(behind(), workers=workers, receive_buffer_bytes=256)
    data = bytes(range(256)) * 40
    for _ in range(30):
        with Client(port_of(engine)) as client:
            client.send(V2 + data)
            client.shut()
            assert client.read_to_end() == data
    eventually(lambda: engine.count() == 0)
    assert {row.reason for row in engine.closed()} == {Reason.CLIENT_CLOSED}
    assert {row.connection.bytes_in for row in engine.closed()} == {len(data)}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_follows_a_header_is_framed(start: Start, workers: int) -> None:
    engine = start(behind(framing=Lines(max_bytes=64)), workers=workers)
    with Client(port_of(engine)) as client:
        client.send(V1 + b"one\ntwo\nth")
        assert client.read(8) == b"one\ntwo\n"
        client.send(b"ree\n")
        assert client.read(6) == b"three\n"
        assert row_of(engine, client).messages_in == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_that_is_too_large_behind_a_header(start: Start, workers: int) -> None:
    engine = start(behind(framing=Lines(max_bytes=4)), workers=workers)
    with Client(port_of(engine)) as client:
        client.send(V1 + b"one\nmuch too long")
        assert client.read_to_end() == b"one\n"
    assert record_of(engine, client).reason == Reason.FRAME_TOO_LARGE


# ---- who must send one -----------------------------------------------------------------------------------------------


def test_from_elsewhere_a_header_is_data(start: Start) -> None:
    engine = start(behind("echo", "127.0.0.2", "10.0.0.0/8", "::1"))
    with Client(port_of(engine)) as client:
        assert client.echoes(V1)
        row = row_of(engine, client)
    assert (row.peer, row.via, row.bytes_in) == (client.address, None, len(V1))


@pytest.mark.parametrize("network", ["127.0.0.0/8", "0.0.0.0/0", "::ffff:127.0.0.0/104"])
def test_networks_of_balancers(start: Start, network: str) -> None:
    engine = start(behind("echo", "192.0.2.0/24", network))
    with Client(port_of(engine)) as client:
        client.send(V1 + b"hello")
        assert client.read(5) == b"hello"


def test_a_balancer_with_ipv6(start: Start) -> None:
    engine = start(ListenerConfig(host="::", port=0, proxy_protocol_from=["::1"]))
    with Client(port_of(engine), "::1") as client, Client(port_of(engine)) as plain:
        client.send(V1 + b"hello")
        assert client.read(5) == b"hello"
        row = row_of(engine, client)
        assert (row.peer, row.via) == (CLIENT, client.address)
        assert plain.echoes(b"plain")


@pytest.mark.parametrize("sent", [b"", V1[:-1], v2(0x21, 0x11, V2[16:] + b"more")[:-1]], ids=["none", "v1", "v2"])
def test_a_header_has_a_limit_in_time(start: Start, sent: bytes) -> None:
    engine = start(behind(), first_byte_timeout=0.3)
    with Client(port_of(engine)) as client:
        client.send(sent)
        assert client.read_to_any_end() == b""
        record = record_of(engine, client)
    assert (record.reason, record.by) == (Reason.PROXY_HEADER_TIMEOUT, By.ENGINE)
    assert 0.25 <= (record.closed_at - record.connection.connected_at).total_seconds() < PATIENCE


def test_the_first_byte_is_the_one_behind_the_header(start: Start) -> None:
    engine = start(behind(), first_byte_timeout=0.3)
    with Client(port_of(engine)) as client:
        client.send(V1)
        assert client.read_to_end() == b""
    assert record_of(engine, client).reason == Reason.FIRST_BYTE_TIMEOUT


@pytest.mark.parametrize("sent", [b"", V1[:20]], ids=["nothing", "a part"])
def test_a_balancer_that_only_looks_whether_somebody_is_there(start: Start, sent: bytes) -> None:
    engine = start(behind())
    with Client(port_of(engine)) as client:
        client.send(sent)
        client.shut()
        assert client.read_to_end() == b""
    assert record_of(engine, client).reason == Reason.CLIENT_CLOSED


# ---- before the header is there --------------------------------------------------------------------------------------


def test_an_arriving_connection_is_shown_and_gets_nothing(start: Start) -> None:
    engine = start(behind("relay"), workers=2)
    silent, member = Client(port_of(engine)), Client(port_of(engine))
    member.send(V1)
    eventually(lambda: engine.count(Filter(state=State.OPEN)) == 1)
    row = row_of(engine, silent)
    assert (row.state, row.peer, row.via) == (State.ARRIVING, silent.address, None)
    assert [each.id for each in engine.connections(Filter(state=State.ARRIVING)).items] == [row.id]
    with pytest.raises(ConnectionClosing):
        engine.send(row.id, b"too early")
    report = engine.broadcast(b"to all")
    assert (report.matched, report.written) == (1, 1)
    engine.label(row.id, tags={"k": "v"})
    assert engine.connection(row.id).tags == {"k": "v"}
    engine.kick(row.id, text="away", farewell=b"not for those who are not in")
    assert silent.read_to_any_end() == b""
    assert (record_of(engine, silent).reason, record_of(engine, silent).text) == (Reason.KICKED, "away")


def test_events_tell_of_a_connection_when_it_is_known_whose_it_is(start: Start) -> None:
    engine = start(behind(), workers=2)
    position = engine.event_position()
    silent, named = Client(port_of(engine)), Client(port_of(engine))
    named.send(V1 + b"x")
    assert named.read(1) == b"x"
    silent.close()
    record_of(engine, silent)
    named.close()
    record_of(engine, named)
    await_turn(engine)  # its event comes after its record
    events = engine.events(position).events
    assert {(event.kind, event.peer, event.via) for event in events} == {
        (EventKind.CONNECTED, CLIENT, named.address),
        (EventKind.DISCONNECTED, CLIENT, named.address),
        (EventKind.DISCONNECTED, silent.address, None),
    }
    assert len(events) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_ends_arriving_connections(start: Start, workers: int) -> None:
    engine = start(behind(), workers=workers)
    clients = [Client(port_of(engine)) for _ in range(20)]
    for client in clients[::2]:
        client.send(V1[:10])
    eventually(lambda: engine.count(Filter(state=State.ARRIVING)) == 20)
    engine.stop(deadline=PATIENCE)
    assert engine.drain_progress().cancelled == 0
    assert Counter(row.reason for row in engine.closed(limit=100)) == {Reason.SHUTDOWN: 20}


@pytest.mark.parametrize("workers", [1, 4])
def test_headers_while_the_engine_stops(start: Start, workers: int) -> None:
    """Some are under way to worker 0 or back when their connections, or the workers, end."""
    engine = start(behind(), workers=workers, max_connections_per_address=1000)
    for _ in range(5):
        clients = [Client(port_of(engine)) for _ in range(60)]
        for number, client in enumerate(clients):
            with contextlib.suppress(ConnectionError):
                client.send(V2 + b"data")
                if number % 3 == 0:
                    client.reset()
    engine.stop(deadline=0.3)
    records = engine.closed(limit=1000)
    assert len(records) == engine.listener_stats()[0].accepted
    assert {row.reason for row in records} <= {Reason.CLIENT_RESET, Reason.CLIENT_CLOSED, Reason.SHUTDOWN}


# ---- bans and limits are for the client ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_ban_of_the_client(start: Start, workers: int) -> None:
    engine = start(behind(), workers=workers)
    engine.submit_bans([(ipaddress.ip_network("192.0.2.0/24"), 0)]).future.result(PATIENCE)
    for _ in range(4):
        assert refused(port_of(engine), header=V1)
        assert not refused(port_of(engine), header=v1("192.0.3.7"))
    eventually(lambda: engine.count() == 0)
    assert engine.listener_stats()[0].refused_banned == 4
    by_peer = Counter((row.connection.peer[0], row.reason, row.by) for row in engine.closed(limit=100))
    assert by_peer.pop(("192.0.2.7", Reason.BANNED, By.OPERATOR)) == 4
    assert {peer for peer, _, _ in by_peer} == {"192.0.3.7"}


def test_a_ban_of_the_balancer(start: Start) -> None:
    engine = start(behind())
    engine.submit_bans([(ipaddress.ip_network("127.0.0.1"), 0)]).future.result(PATIENCE)
    assert refused(port_of(engine), header=V1)
    assert refused(port_of(engine), header=LOCAL)
    eventually(lambda: engine.listener_stats()[0].refused_banned == 2)
    assert (engine.listener_stats()[0].accepted, engine.closed()) == (0, [])


def test_the_filter_by_address_means_the_client(start: Start) -> None:
    engine = start(behind(), workers=2)
    clients = [Client(port_of(engine)) for _ in range(6)]
    for number, client in enumerate(clients):
        client.send(v1(f"192.0.2.{number}") + b"x")
        assert client.read(1) == b"x"
    assert engine.count(Filter(ip=ipaddress.ip_network("192.0.2.0/30"))) == 4
    assert engine.count(Filter(ip=ipaddress.ip_network("127.0.0.1"))) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_that_comes_before_a_ban_is_found_after_it(start: Start, workers: int) -> None:
    engine = start(behind(), workers=workers)
    clients = [Client(port_of(engine)) for _ in range(60)]
    for client in clients:
        client.send(V1 + b"x")
    engine.submit_bans([(ipaddress.ip_network("192.0.2.7"), 0)]).future.result(PATIENCE)
    engine.submit_barrier().future.result(PATIENCE)
    hit = engine.matching(Filter(ip=ipaddress.ip_network("192.0.2.7")), limit=1000)
    engine.submit_kicks(hit, reason=Reason.BANNED, force=True).future.result(PATIENCE)
    eventually(lambda: len(engine.closed(limit=1000)) == 60)  # some may not have been accepted before
    assert {row.reason for row in engine.closed(limit=1000)} == {Reason.BANNED}


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_of_one_client_have_a_bound(start: Start, workers: int) -> None:
    engine = start(behind(), workers=workers, max_connections_per_address=2)
    clients = [Client(port_of(engine)) for _ in range(10)]
    for number, client in enumerate(clients):
        client.send(v1(f"192.0.2.{number // 2}") + b"x")
        assert client.read(1) == b"x"
    assert refused(port_of(engine), header=v1("192.0.2.3"))
    assert engine.listener_stats()[0].refused_address_limit == 1
    eventually(lambda: engine.count() == 10)
    assert [(row.reason, row.by, row.connection.peer[0]) for row in engine.closed()] == [
        (Reason.ADDRESS_LIMIT, By.ENGINE, "192.0.2.3")
    ]
    clients[6].close()
    eventually(lambda: engine.info().connections == 9)  # and with that its place is free
    assert not refused(port_of(engine), header=v1("192.0.2.3"))
    # The balancer's own connections are not counted.
    local = [Client(port_of(engine)) for _ in range(5)]
    for client in local:
        client.send(LOCAL + b"x")
        assert client.read(1) == b"x"


@pytest.mark.parametrize(
    ("limit", "counter", "reason"),
    [
        ("accepts_per_s_per_address", "refused_address_rate", Reason.ADDRESS_RATE),
        ("accepts_per_s", "refused_rate", Reason.ACCEPT_RATE),
    ],
)
def test_clients_have_a_rate(start: Start, limit: str, counter: str, reason: Reason) -> None:
    engine = start(behind(), **{limit: 3})
    admitted = 0
    while getattr(engine.listener_stats()[0], counter) == 0:
        admitted += not refused(port_of(engine), header=V1)
        assert admitted < 1000
    assert admitted >= 3
    eventually(lambda: engine.count() == 0)
    assert Counter(row.reason for row in engine.closed(limit=1000))[reason] == 1
    if limit == "accepts_per_s_per_address":
        assert not refused(port_of(engine), header=v1("192.0.2.8"))
        assert not refused(port_of(engine), header=LOCAL)


def test_a_service_in_python_sees_the_client_and_its_balancer(start: Start) -> None:
    class Who(Service):
        framing = Lines()

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            connection.send(repr((connection.peer, connection.via)).encode())

    def answer(client: Client, sent: bytes, expected: object) -> None:
        client.send(sent)
        assert client.read(len(repr(expected)) + 1) == repr(expected).encode() + b"\n"

    engine = start(behind(Who), workers=2)
    with Client(port_of(engine)) as client, Client(port_of(engine)) as balancer:
        answer(client, V1 + b"?\n", (CLIENT, client.address))
        answer(balancer, LOCAL + b"?\n", (balancer.address, None))


# ---- one address with most of the connections ------------------------------------------------------------------------


def dominant(engine: Engine, position: Any) -> list[tuple[str | None, int]]:
    events = engine.events(position, limit=4096).events
    return [(each.network, each.connections) for each in events if each.kind is EventKind.DOMINANT_ADDRESS]


def test_an_address_with_most_of_the_connections_is_told_once(start: Start) -> None:
    engine = start("echo", workers=2)
    position = engine.event_position()
    clients = [Client(port_of(engine)) for _ in range(99)]
    eventually(lambda: engine.count() == 99)
    assert dominant(engine, position) == []
    clients += [Client(port_of(engine)) for _ in range(30)]
    eventually(lambda: engine.count() == 129)
    assert dominant(engine, position) == [("127.0.0.1", 100)]
    for client in clients[:50]:
        client.reset()
    eventually(lambda: engine.count() == 79)
    clients[:50] = [Client(port_of(engine)) for _ in range(50)]
    eventually(lambda: engine.count() == 129)
    assert len(dominant(engine, position)) == 1


def crowd(engine: Engine, ip: str) -> list[Client]:
    """130 connections of one client, one after the other."""
    clients = []
    for _ in range(130):
        clients.append(client := Client(port_of(engine)))
        client.send(v1(ip) + b"x")
        assert client.read(1) == b"x"
    return clients


def test_clients_behind_headers_are_told_apart(start: Start) -> None:
    engine = start(behind(), workers=2)
    position = engine.event_position()
    clients = [Client(port_of(engine)) for _ in range(120)]
    for number, client in enumerate(clients):
        client.send(v1(f"192.0.2.{number // 2}") + b"x")
        assert client.read(1) == b"x"
    assert dominant(engine, position) == []
    # One client now comes to more than half, and falls below a quarter, and comes to more than half again.
    many = crowd(engine, "2001:db8::7")
    assert dominant(engine, position) == [("2001:db8::/64", 121)]
    for client in many:
        client.reset()
    eventually(lambda: engine.count() == 120)
    many = crowd(engine, "2001:db8::8")
    assert dominant(engine, position) == [("2001:db8::/64", 121)] * 2
