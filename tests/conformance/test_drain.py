"""Drain: phases, farewell, deadline, rate, cancel, and the stop that takes over."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from iocpd.core import (
    By,
    ConfigurationError,
    DrainConflict,
    Engine,
    Phase,
    Reason,
    State,
)
from tests.support import PATIENCE, ROOM, Client, connect, connection_of, eventually, fill, port_of

Start = Callable[..., Engine]


def phase_is(engine: Engine, phase: Phase) -> None:
    eventually(lambda: engine.drain_progress().phase == phase)


def accepts(port: int) -> bool:
    try:
        Client(port).close()
    except OSError:
        return False
    return True


def test_there_is_no_drain_at_first(start: Start) -> None:
    progress = start("echo").drain_progress()
    assert (progress.phase, progress.stop, progress.initial, progress.remaining) == (Phase.NONE, False, 0, 0)
    assert (progress.started_at, progress.deadline_at, progress.ended_at) == (None, None, None)


def test_a_drain_says_farewell_and_waits_for_the_clients(start: Start) -> None:
    engine = start("echo", "discard")
    clients = connect(engine, 20) + connect(engine, 5, listener=1)
    port = port_of(engine)
    engine.drain(deadline=3 * PATIENCE, farewell=b"see you\n")
    for client in clients:
        assert client.read_to_end() == b"see you\n"
    progress = engine.drain_progress()
    assert (progress.phase, progress.stop, progress.initial, progress.remaining) == (Phase.EVICT, False, 25, 25)
    assert progress.started_at is not None
    assert progress.deadline_at is not None
    assert progress.ended_at is None
    assert not accepts(port)
    assert not engine.info().accepting
    assert not any(stats.open for stats in engine.listener_stats())
    for client in clients:
        client.close()
    phase_is(engine, Phase.DRAINED)
    progress = engine.drain_progress()
    assert (progress.remaining, progress.cancelled) == (0, 0)
    assert progress.ended_at is not None
    assert progress.started_at is not None
    assert progress.ended_at >= progress.started_at
    assert {(record.reason, record.by) for record in engine.closed()} == {(Reason.DRAINED, By.OPERATOR)}
    assert engine.running


def test_every_byte_that_was_taken_in_is_echoed_before_the_end(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 20)
    for client in clients:
        client.send(bytes(300_000))
    engine.drain(deadline=3 * PATIENCE, farewell=b"!")
    got = {client.address: client.read_to_end() for client in clients}
    for client in clients:
        client.close()
    phase_is(engine, Phase.DRAINED)
    for record in engine.closed():
        assert got[record.connection.peer] == bytes(record.connection.bytes_in) + b"!"


def test_the_deadline_cuts_off_who_stays_or_does_not_read(start: Start) -> None:
    engine = start("discard", **ROOM)
    stays, deaf = connect(engine, 2)
    fill(engine, connection_of(engine, deaf).id)
    begun = time.monotonic()
    engine.drain(deadline=0.5, farewell=b"bye")
    phase_is(engine, Phase.DRAINED)
    assert 0.4 < time.monotonic() - begun < PATIENCE
    progress = engine.drain_progress()
    assert (progress.cancelled, progress.remaining) == (2, 0)
    assert {record.reason for record in engine.closed()} == {Reason.DRAINED}
    stays.close()


def test_a_deadline_of_nothing_resets_at_once(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 50)
    engine.drain(deadline=0)
    phase_is(engine, Phase.DRAINED)
    assert engine.count() == 0
    assert len(clients) == 50


def test_a_drain_of_nobody_is_over_at_once(start: Start) -> None:
    engine = start("echo")
    engine.drain(grace=3 * PATIENCE, deadline=3 * PATIENCE)
    phase_is(engine, Phase.DRAINED)


def test_a_cancelled_drain_opens_the_listeners_again(start: Start) -> None:
    engine = start("echo", "echo")
    clients, ports = connect(engine, 5), (port_of(engine, 0), port_of(engine, 1))
    engine.drain(grace=3 * PATIENCE, deadline=3 * PATIENCE)
    phase_is(engine, Phase.GRACE)
    assert not any(map(accepts, ports))
    engine.cancel_drain()
    assert engine.drain_progress().phase == Phase.NONE
    assert engine.info().accepting
    for listener, port in enumerate(ports):
        assert port_of(engine, listener) == port
        with Client(port) as client:
            assert client.echoes(b"back again")
    assert all(client.echoes(b"x") for client in clients)


def test_who_is_on_the_way_out_goes_on_leaving_after_a_cancel(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    engine.drain(deadline=3 * PATIENCE)
    assert client.read_to_end() == b""
    engine.cancel_drain()
    assert engine.connection(id).state == State.DRAINING
    client.close()
    eventually(lambda: engine.count() == 0)


@pytest.mark.parametrize("rounds", [20])
def test_drains_and_cancels_in_any_phase_leave_an_engine_that_serves(start: Start, rounds: int) -> None:
    engine = start("echo")
    port = port_of(engine)
    for number in range(rounds):
        engine.drain(lb_delay=0.01 * (number % 3), grace=0.01 * (number % 2), deadline=PATIENCE)
        time.sleep(0.002 * (number % 10))
        engine.cancel_drain()
        with Client(port) as client:
            assert client.echoes(b"x")
        eventually(lambda: engine.count() == 0)


def test_load_balancers_get_time_to_notice(start: Start) -> None:
    engine = start("echo")
    engine.drain(lb_delay=0.5, grace=PATIENCE, deadline=3 * PATIENCE)
    assert engine.drain_progress().phase == Phase.LB_DELAY
    client = Client(port_of(engine))
    assert client.echoes(b"still welcome")
    phase_is(engine, Phase.GRACE)
    progress = engine.drain_progress()
    assert progress.remaining == 1
    assert client.echoes(b"still served")
    assert engine.count() == 1


def test_clients_may_leave_by_themselves_in_the_grace_time(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 3)
    engine.drain(grace=3 * PATIENCE, deadline=6 * PATIENCE)
    for client in clients:
        assert client.echoes(b"x")
        client.close()
    phase_is(engine, Phase.DRAINED)
    assert {record.reason for record in engine.closed()} == {Reason.CLIENT_CLOSED}


def test_a_rate_spreads_the_evictions(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 20)
    begun = time.monotonic()
    engine.drain(rate_per_s=20, deadline=3 * PATIENCE)
    assert engine.drain_progress().rate_per_s == 20
    for client in clients:
        assert client.read_to_end() == b""
        client.close()
    assert 0.5 < time.monotonic() - begun < PATIENCE  # a second, give or take the jitter
    phase_is(engine, Phase.DRAINED)


def test_one_drain_at_a_time(start: Start) -> None:
    engine = start("echo")
    with pytest.raises(DrainConflict, match="no drain to cancel"):
        engine.cancel_drain()
    clients = connect(engine, 1)
    engine.drain(grace=PATIENCE, deadline=PATIENCE)
    with pytest.raises(DrainConflict, match="cancel it first"):
        engine.drain()
    engine.cancel_drain()
    engine.drain(grace=PATIENCE, deadline=PATIENCE)
    assert len(clients) == 1


def test_a_stop_takes_a_drain_over_and_can_not_be_cancelled(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    engine.drain(grace=10 * PATIENCE, deadline=10 * PATIENCE)
    phase_is(engine, Phase.GRACE)
    engine.drain(deadline=3 * PATIENCE, stop=True)
    with pytest.raises(DrainConflict, match="stops the engine"):
        engine.cancel_drain()
    assert client.read_to_end() == b""
    assert not engine.join(timeout=0.1)
    assert engine.running
    client.close()
    assert engine.join(timeout=PATIENCE)
    assert not engine.running
    assert engine.drain_progress().phase == Phase.STOPPED
    assert engine.closed()[0].reason == Reason.SHUTDOWN


def test_a_second_stop_brings_the_deadline_forward_and_never_back(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 3)
    engine.drain(stop=True, deadline=10 * PATIENCE)
    first = engine.drain_progress().deadline_at
    engine.drain(stop=True, deadline=20 * PATIENCE)
    assert engine.drain_progress().deadline_at == first
    engine.drain(stop=True, deadline=0)
    assert engine.join(timeout=PATIENCE)
    assert len(clients) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("lb_delay", -1), ("grace", float("nan")), ("deadline", float("inf")), ("rate_per_s", -1), ("rate_per_s", 2**32)],
)
def test_a_drain_refuses_what_can_not_be(start: Start, field: str, value: float) -> None:
    engine = start("echo")
    with pytest.raises(ConfigurationError) as caught:
        engine.drain(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert engine.drain_progress().phase == Phase.NONE


def test_the_farewell_of_a_stop_takes_the_place_of_the_drains(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    engine.drain(grace=3 * PATIENCE, deadline=3 * PATIENCE, farewell=b"back soon")
    phase_is(engine, Phase.GRACE)
    engine.drain(deadline=3 * PATIENCE, stop=True, farewell=b"for good")
    assert client.read_to_end() == b"for good"


def test_a_stop_without_a_farewell_leaves_the_drains(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    engine.drain(grace=3 * PATIENCE, deadline=3 * PATIENCE, farewell=b"back soon")
    phase_is(engine, Phase.GRACE)
    engine.drain(deadline=3 * PATIENCE, stop=True)
    assert client.read_to_end() == b"back soon"


def test_a_stop_after_a_drain_keeps_when_it_ended(start: Start) -> None:
    engine = start("echo")
    engine.drain(deadline=3 * PATIENCE)
    phase_is(engine, Phase.DRAINED)
    ended_at = engine.drain_progress().ended_at
    engine.drain(deadline=3 * PATIENCE, stop=True)
    phase_is(engine, Phase.EXITING)
    assert engine.drain_progress().ended_at == ended_at
