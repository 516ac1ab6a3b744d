"""Who is let in: bans of addresses and networks, limits by address, rates, and limits that change."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Callable

import pytest

from iocpd.core import BanTableFull, ConfigurationError, Engine, Filter, ListenerConfig, Reason
from tests.support import PATIENCE, Client, connect, connection_of, eventually, port_of, refused

Start = Callable[..., Engine]

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
ONE = ipaddress.ip_network("127.0.0.1")


def test_who_is_refused_is_reset(start: Start) -> None:
    engine = start("echo")
    engine.submit_bans([(LOOPBACK, 0)]).future.result(PATIENCE)
    # When it reads, or while it still connects: never an end of the stream.
    with pytest.raises((ConnectionResetError, ConnectionAbortedError)), Client(port_of(engine)) as client:
        client.socket.recv(1)
    eventually(lambda: engine.listener_stats()[0].refused_banned == 1)


def come_and_go(engine: Engine) -> None:
    with contextlib.suppress(ConnectionResetError, ConnectionAbortedError):
        Client(port_of(engine)).reset()


def test_a_ban_refuses_and_its_end_lets_in(start: Start) -> None:
    engine = start("echo")
    (before,) = connect(engine, 1)
    engine.submit_bans([(LOOPBACK, 0)]).future.result(PATIENCE)
    assert engine.info().bans == 1
    assert refused(port_of(engine))
    eventually(lambda: engine.listener_stats()[0].refused_banned == 1)
    assert before.echoes(b"who is there stays")
    engine.submit_bans(remove=[ONE]).future.result(PATIENCE)  # another network: no effect
    assert refused(port_of(engine))
    engine.submit_bans(remove=[LOOPBACK]).future.result(PATIENCE)
    assert engine.info().bans == 0
    with Client(port_of(engine)) as client:
        assert client.echoes(b"welcome")


@pytest.mark.parametrize(
    ("network", "hit"),
    [
        ("127.0.0.1/32", True),
        ("127.0.0.0/31", True),
        ("127.0.0.0/9", True),
        ("0.0.0.0/0", True),
        ("::/0", True),
        ("::ffff:0:0/96", True),
        ("127.0.0.2/32", False),
        ("127.0.0.2/31", False),
        ("127.128.0.0/9", False),
        ("2000::/3", False),
        ("::1/128", False),
    ],
)
def test_which_networks_hold_an_address(start: Start, network: str, hit: bool) -> None:
    engine = start("echo")
    engine.submit_bans([(ipaddress.ip_network(network), 0)]).future.result(PATIENCE)
    assert refused(port_of(engine)) == hit


def test_an_ipv6_address_is_banned_by_its_network(start: Start) -> None:
    engine = start(ListenerConfig(host="::1", port=0))
    engine.submit_bans([(ipaddress.ip_network("::/127"), 0)]).future.result(PATIENCE)
    assert refused(port_of(engine), "::1")
    engine.submit_bans([(ipaddress.ip_network("0.0.0.0/0"), 0)], [ipaddress.ip_network("::/127")]).future.result(
        PATIENCE
    )
    assert not refused(port_of(engine), "::1")


def test_a_ban_ends_by_itself_and_can_be_prolonged(start: Start) -> None:
    engine = start("echo")
    engine.submit_bans([(ONE, 3600)]).future.result(PATIENCE)
    began = time.monotonic()
    engine.submit_bans([(ONE, 0.4)]).future.result(PATIENCE)
    assert engine.info().bans == 1
    eventually(lambda: not refused(port_of(engine)))
    assert time.monotonic() - began >= 0.3


def test_many_bans_of_all_lengths_hit_only_what_they_hold(start: Start) -> None:
    engine = start("echo", max_bans=50_000)
    networks = [ipaddress.IPv4Network((0x0A000000 + number * 256, 24)) for number in range(20_000)]
    networks += [
        ipaddress.IPv6Network((0x2001 << 112 | number << 64, 64 + number % 64), strict=False)
        for number in range(20_000)
    ]
    for at in range(0, len(networks), 1000):
        engine.submit_bans([(network, 0) for network in networks[at : at + 1000]]).future.result(PATIENCE)
    assert engine.info().bans == len(set(networks)) == 40_000
    with Client(port_of(engine)) as client:
        assert client.echoes(b"in")
    for at in range(0, len(networks), 1000):
        engine.submit_bans(remove=networks[at : at + 1000]).future.result(PATIENCE)
    assert engine.info().bans == 0


def test_the_table_of_bans_has_a_bound(start: Start) -> None:
    engine = start("echo", max_bans=2)
    bans = [(ipaddress.ip_network(f"10.0.0.{number}"), 0.0) for number in range(3)]
    with pytest.raises(BanTableFull):
        engine.submit_bans(bans).future.result(PATIENCE)
    assert engine.info().bans == 2
    engine.submit_bans([bans[0]]).future.result(PATIENCE)  # one that is there needs no room
    engine.submit_bans([bans[2]], [bans[1][0]]).future.result(PATIENCE)  # and lifting makes some
    with pytest.raises(ConfigurationError, match="1024"):
        engine.submit_bans([(ONE, 0)] * 1025)


def test_who_connected_before_a_ban_is_found_after_it(start: Start) -> None:
    engine = start("echo", workers=2)
    clients = [Client(port_of(engine)) for _ in range(50)]
    engine.submit_bans([(ONE, 0)]).future.result(PATIENCE)
    engine.submit_barrier().future.result(PATIENCE)
    hit = engine.matching(Filter(ip=ONE), limit=1000)
    engine.submit_kicks(hit, reason=Reason.BANNED, text="go away", force=True).future.result(PATIENCE)
    eventually(lambda: len(hit) + engine.listener_stats()[0].refused_banned == 50)
    assert engine.count() == 0
    assert all(client.read_to_any_end() == b"" for client in clients)
    assert {(row.reason, row.text) for row in engine.closed()} <= {(Reason.BANNED, "go away")}


def test_connections_of_one_address_have_a_bound(start: Start) -> None:
    engine = start("echo", max_connections_per_address=3)
    clients = connect(engine, 3)
    assert refused(port_of(engine))
    eventually(lambda: engine.listener_stats()[0].refused_address_limit == 1)
    clients[0].reset()
    eventually(lambda: engine.info().connections == 2)  # and with that its place is free
    connect(engine, 1)


def test_accepts_of_one_address_have_a_rate(start: Start) -> None:
    engine = start("echo", accepts_per_s_per_address=5)
    began = time.monotonic()
    while engine.listener_stats()[0].refused_address_rate == 0:
        come_and_go(engine)
        assert time.monotonic() - began < 5
    stats = engine.listener_stats()[0]
    assert 5 <= stats.accepted <= 5 + 5 * (time.monotonic() - began) + 1
    eventually(lambda: not refused(port_of(engine)))  # it is only a rate


def test_accepts_in_all_have_a_rate(start: Start) -> None:
    engine = start("echo", accepts_per_s=5)
    began = time.monotonic()
    while engine.listener_stats()[0].refused_rate == 0:
        come_and_go(engine)
        assert time.monotonic() - began < 5
    assert 5 <= engine.listener_stats()[0].accepted <= 5 + 5 * (time.monotonic() - began) + 1


def test_limits_change_while_it_runs(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 4)
    engine.configure(max_connections=4)
    assert refused(port_of(engine))
    eventually(lambda: engine.listener_stats()[0].refused_limit == 1)
    engine.configure(max_connections=100, max_connections_per_address=4)
    assert refused(port_of(engine))
    engine.configure(max_connections_per_address=0, idle_timeout=0.2)
    assert engine.config.idle_timeout == 0.2
    # It holds for those that were there before, which had no timer.
    assert [client.read_to_end() for client in clients] == [b""] * 4
    for client in clients:
        client.close()
    eventually(lambda: engine.count() == 0)
    assert {row.reason for row in engine.closed()} == {Reason.IDLE_TIMEOUT}
    with pytest.raises(ConfigurationError, match="workers"):
        engine.configure(workers=3)
    with pytest.raises(ConfigurationError, match="send_soft_bytes"):
        engine.configure(send_hard_bytes=1)
    assert engine.config.send_hard_bytes > 1


def test_a_send_limit_that_changes(start: Start) -> None:
    engine = start("discard")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    engine.configure(send_soft_bytes=1000, send_hard_bytes=2000)
    with pytest.raises(Exception, match="full"):
        engine.send(id, bytes(3000))
    engine.configure(send_soft_bytes=1000, send_hard_bytes=20000)
    assert engine.send(id, bytes(3000)).written == 1
