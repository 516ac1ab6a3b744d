"""Kicks of many, and broadcasts to some: targets, exceptions, those who are too slow, and a time to live."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from iocpd.core import ConfigurationError, Engine, Filter, KickOutcome, Reason, State
from tests.support import PATIENCE, ROOM, Client, connect, connection_of, eventually, fill, port_of

Start = Callable[..., Engine]


def test_each_of_many_kicks_has_its_outcome(start: Start) -> None:
    engine = start("echo", workers=3)
    clients = connect(engine, 30)
    ids = [connection_of(engine, client).id for client in clients]
    clients[0].reset()
    eventually(lambda: engine.count() == 29)
    asked = [*ids[:20], (1 << 53) - 5, -1, 1 << 60]
    kicks = engine.submit_kicks(asked, text="all of you", farewell=b"bye", timeout=10)
    assert [client.read_to_end() for client in clients[1:20]] == [b"bye"] * 19
    assert not kicks.future.done()
    for client in clients[1:20]:
        client.close()
    gone = KickOutcome.ALREADY_GONE
    assert kicks.future.result(PATIENCE) == [gone, *[KickOutcome.KICKED] * 19, gone, gone, gone]
    assert engine.count() == 10
    assert {(row.reason, row.text) for row in engine.closed(limit=19)} == {(Reason.KICKED, "all of you")}
    assert engine.submit_kicks([ids[20]], force=True).future.result(PATIENCE) == [KickOutcome.KICKED]
    assert engine.submit_kicks([]).future.result(PATIENCE) == []
    with pytest.raises(ConfigurationError, match="1024"):
        engine.submit_kicks(range(1025))
    with pytest.raises(ConfigurationError, match="banned"):
        engine.submit_kicks(ids, reason=Reason.IDLE_TIMEOUT)


def test_the_same_one_twice_in_one_kick(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    first, *others = engine.submit_kicks([id, id, id], force=True).future.result(PATIENCE)
    assert first is KickOutcome.KICKED
    assert set(others) <= {KickOutcome.KICKED, KickOutcome.ALREADY_GONE}  # as the first may be through or not


def test_a_full_inbox_refuses_some_and_says_which(start: Start) -> None:
    engine = start("echo", inbox_capacity=4, workers=1)
    clients = connect(engine, 200)
    ids, kicks = engine.matching(limit=1000), []
    assert len(ids) == 200
    # The worker may be as quick as we are for a while.
    while engine.worker_stats()[0].inbox_busy == 0:
        kicks.append(engine.submit_kicks(ids, timeout=600))
        assert len(kicks) < 1000
    left = ids
    while left:
        outcomes = engine.submit_kicks(left, force=True).future.result(PATIENCE)
        assert set(outcomes) <= {KickOutcome.KICKED, KickOutcome.BUSY}
        left = [id for id, outcome in zip(left, outcomes, strict=True) if outcome is KickOutcome.BUSY]
    outcomes = [outcome for kick in kicks for outcome in kick.future.result(PATIENCE)]
    assert set(outcomes) == {KickOutcome.KICKED, KickOutcome.BUSY}
    assert outcomes.count(KickOutcome.BUSY) <= engine.worker_stats()[0].inbox_busy
    assert engine.count() == 0
    assert all(client.read_to_any_end() == b"" for client in clients)


def test_a_stop_answers_kicks_that_wait(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 5)
    kicks = engine.submit_kicks(engine.matching(limit=10), timeout=600)
    eventually(lambda: engine.count(Filter(state=State.DRAINING)) == 5)
    engine.stop(deadline=0)
    assert kicks.future.result(PATIENCE) == [KickOutcome.KICKED] * 5
    assert all(client.read_to_any_end() == b"" for client in clients)


def test_matching_leaves_out_and_has_a_limit(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 10)
    every = engine.matching(limit=100)
    assert every == [row.id for row in engine.connections().items]
    assert engine.matching(limit=4) == every[:4]
    assert engine.matching(limit=4, exclude=every[:3]) == every[3:7]
    assert engine.matching(Filter(listener=1), limit=4) == []
    with pytest.raises(ConfigurationError):
        engine.matching(limit=0)
    del clients


def test_a_broadcast_to_some_but_not_to_others(start: Start) -> None:
    engine = start("echo", workers=3)
    clients = connect(engine, 12)
    ids = [connection_of(engine, client).id for client in clients]
    report = engine.broadcast(b"some", ids=[*ids[:6], 5, 1 << 60], exclude=ids[4:8])
    assert (report.matched, report.written, report.done) == (4, 4, True)
    report = engine.broadcast(b"all but", exclude=[*ids[:4], -1])
    assert (report.matched, report.written) == (8, 8)
    assert [client.read(4) for client in clients[:4]] == [b"some"] * 4
    assert [client.read(7) for client in clients[4:]] == [b"all but"] * 8
    assert engine.broadcast(b"nobody", ids=[]).matched == 0
    assert engine.broadcast(b"nobody", Filter(listener=1), ids=ids).matched == 0
    with pytest.raises(ConfigurationError, match="65536"):
        engine.submit_broadcast(b"x", ids=range(65537))


def test_a_slow_one_can_be_skipped_or_ended(start: Start) -> None:
    engine = start("discard", send_soft_seconds=600, **ROOM)
    slow, quick = connect(engine, 2)
    id = connection_of(engine, slow).id
    room = ROOM["send_hard_bytes"]
    fill(engine, id)
    report = engine.broadcast(bytes(room - 1000), on_slow="skip", timeout=0)
    quick.read(room - 1000)
    eventually(lambda: connection_of(engine, quick).pending_bytes == 0)  # its queue has room again
    assert engine.connection(id).state is State.OPEN
    command = engine.submit_broadcast(bytes(room - 1000), on_slow="disconnect")
    quick.read(room - 1000)
    report = command.future.result(10)
    assert (report.matched, report.skipped_slow, report.written) == (2, 1, 1)
    record = eventually(lambda: engine.closed())[0]
    assert (record.connection.id, record.reason) == (id, Reason.SLOW_CONSUMER)


def test_what_is_too_old_is_not_sent_any_more(start: Start) -> None:
    engine = start("discard", send_soft_seconds=600, **ROOM)
    slow, quick = connect(engine, 2)
    id = connection_of(engine, slow).id
    fill(engine, id)
    command = engine.submit_broadcast(b"news", ttl=0.5)
    assert quick.read(4) == b"news"
    engine.submit_send(id, b"END")
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 0.55)
    data = bytearray()
    while not data.endswith(b"END"):
        data += slow.socket.recv(1 << 20)
    assert b"news" not in data
    report = command.future.result(PATIENCE)
    assert (report.matched, report.queued, report.written, report.expired, report.done) == (2, 2, 1, 1, True)


def test_a_round_trip_time(start: Start) -> None:
    engine = start("echo")
    with Client(port_of(engine)) as client:
        assert client.echoes(b"x")
        seconds = engine.submit_rtt(connection_of(engine, client).id).future.result(PATIENCE)
        assert seconds is None or 0 <= seconds < 5


def test_turns_are_timed(start: Start) -> None:
    engine = start("echo", workers=1)
    (client,) = connect(engine, 1)
    assert client.echoes(b"x")
    stats = engine.worker_stats()[0]
    assert sum(stats.turn_counts) > 0
    assert 0 < stats.turn_seconds < 10
    assert sum(stats.turn_counts) <= stats.turns
