"""Kick, send and broadcast: what reaches the client, what the record and the report say."""

from __future__ import annotations

import ipaddress
import random
import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from iocpd.core import (
    By,
    ConfigurationError,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    Engine,
    EngineBusy,
    EngineTimeout,
    Filter,
    Reason,
    Report,
    SendQueueFull,
    State,
)
from tests.support import PATIENCE, ROOM, Client, connect, connection_of, eventually, fill, port_of

Start = Callable[..., Engine]


# --- kick -------------------------------------------------------------------------------------------------------------


def test_kick_sends_what_is_queued_then_the_farewell_then_the_end(start: Start) -> None:
    engine, data = start("discard"), random.Random(1).randbytes(2_000_000)
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    engine.submit_send(id, data)
    kicked = engine.submit_kick(id, text="maintenance", farewell=b"bye", timeout=PATIENCE)
    assert client.read_to_end() == data + b"bye"
    assert not kicked.done()
    client.close()
    record = kicked.result(PATIENCE)
    assert record is not None
    assert (record.reason, record.by, record.text) == (Reason.KICKED, By.OPERATOR, "maintenance")
    assert record.connection.id == id
    assert record.connection.bytes_out == len(data) + 3
    assert record == engine.closed()[0]


def test_kick_returns_when_the_connection_has_left_the_table(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 20)
    ids = [connection_of(engine, client).id for client in clients]
    for left, (id, client) in enumerate(zip(ids, clients, strict=True), start=1):
        threading.Thread(target=lambda client=client: (client.read_to_end(), client.close())).start()
        engine.kick(id)
        with pytest.raises(ConnectionEnded) as caught:
            engine.connection(id)
        assert caught.value.id == id
        assert caught.value.closed is not None
        assert caught.value.closed.reason == Reason.KICKED
        counts = engine.count(), engine.info().connections, engine.listener_stats()[0].connections
        assert counts == (20 - left,) * 3
        assert sum(stats.connections for stats in engine.worker_stats()) == 20 - left


def test_a_kicked_connection_shows_as_draining(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    engine.submit_kick(id, timeout=PATIENCE)
    row = eventually(lambda: row if (row := engine.connection(id)).state != State.OPEN else None)
    assert (row.state, row.reason) == (State.DRAINING, Reason.KICKED)
    assert engine.count(Filter(state=State.DRAINING)) == 1
    assert engine.count(Filter(state=State.OPEN)) == 0


def test_a_client_that_does_not_leave_is_reset_after_the_timeout(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    record = engine.kick(connection_of(engine, client).id, timeout=0.2)
    assert record is not None
    assert record.reason == Reason.KICKED
    assert (record.closed_at - record.connection.connected_at).total_seconds() >= 0.2


def test_a_forced_kick_resets(start: Start) -> None:
    engine = start("discard")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    record = engine.kick(id, force=True, farewell=b"never sent", text="abuse")
    assert record is not None
    assert (record.reason, record.text) == (Reason.KICKED, "abuse")
    assert select.select([client.socket], [], [], PATIENCE)[0], "the client is told nothing"
    with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
        client.send(b"x")  # after an orderly end it would still go out
    assert client.read_to_any_end() == b""


def test_a_forced_kick_does_not_wait_for_a_client_that_does_not_read(start: Start) -> None:
    engine = start("discard", **ROOM)
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    fill(engine, id)
    record = engine.kick(id, force=True)
    assert record is not None
    assert record.reason == Reason.KICKED
    client.close()


def test_a_second_kick_joins_the_first(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    first = engine.submit_kick(id, text="first", timeout=PATIENCE)
    eventually(lambda: engine.connection(id).state == State.DRAINING)
    second = engine.submit_kick(id, text="second", timeout=PATIENCE)
    with pytest.raises(ConnectionClosing):  # a worker takes commands in their order, so the kick is known now
        engine.send(id, b"x")
    assert client.read_to_end() == b""
    client.close()
    assert first.result(PATIENCE) == second.result(PATIENCE)
    record = first.result()
    assert record is not None
    assert record.text == "first"


def test_a_forced_kick_overtakes_a_kick_that_waits(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    patient = engine.submit_kick(id, text="first", timeout=3 * PATIENCE)
    engine.kick(id, force=True)
    record = patient.result(PATIENCE)
    assert record is not None
    assert record.reason == Reason.KICKED
    client.close()


def test_the_text_of_a_kick_is_cut_between_characters(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    record = engine.kick(connection_of(engine, client).id, text="x" + "ü" * 150, force=True)
    assert record is not None
    assert record.text == "x" + "ü" * 99
    client.close()


def test_a_stale_id_is_gone_and_never_somebody_else(start: Start) -> None:
    engine = start("echo", workers=1)
    with Client(port_of(engine)) as client:
        stale = connection_of(engine, client).id
    eventually(lambda: engine.count() == 0)
    with Client(port_of(engine)) as heir:
        fresh = connection_of(engine, heir).id
        assert fresh != stale
        assert fresh & 0xFFFFF == stale & 0xFFFFF  # the same slot
        calls: list[Callable[[], object]] = [
            lambda: engine.kick(stale),
            lambda: engine.send(stale, b"x"),
            lambda: engine.connection(stale),
        ]
        for call in calls:
            with pytest.raises(ConnectionEnded) as caught:
                call()
            assert caught.value.id == stale
            assert caught.value.closed is not None
            assert caught.value.closed.connection.id == stale
        assert heir.echoes(b"undisturbed")


@pytest.mark.parametrize("id", [0, 1, -1, 2**53 - 1, 2**53, 2**64, 63 << 20 | 1 << 26, 2 << 26, 5 | 1 << 26])
def test_an_id_that_nobody_ever_had_is_unknown(start: Start, id: int) -> None:
    engine = start("echo", workers=1)
    (client,) = connect(engine, 1)
    calls: list[Callable[[], object]] = [
        lambda: engine.kick(id),
        lambda: engine.send(id, b"x"),
        lambda: engine.connection(id),
    ]
    for call in calls:
        with pytest.raises(ConnectionUnknown) as caught:
            call()
        assert caught.value.id == id
    assert client.echoes(b"x")


# --- send -------------------------------------------------------------------------------------------------------------


def test_send_reports_that_it_was_written(start: Start) -> None:
    engine = start("discard")
    with Client(port_of(engine)) as client:
        report = engine.send(connection_of(engine, client).id, b"hello")
        assert report == Report(1, 1, 1, skipped_slow=0, closed_before_write=0, failed=0, done=True)
        assert client.read(5) == b"hello"


def test_sends_arrive_in_order_and_whole(start: Start) -> None:
    engine, source = start("discard"), random.Random(2)
    with Client(port_of(engine)) as client:
        id = connection_of(engine, client).id
        pieces = [source.randbytes(source.randrange(1, 3000)) for _ in range(1000)]
        futures = [engine.submit_send(id, piece) for piece in pieces]
        assert client.read(sum(map(len, pieces))) == b"".join(pieces)
        assert all(future.result(PATIENCE).written == 1 for future in futures)


def test_a_send_to_a_connection_on_its_way_out_is_refused(start: Start) -> None:
    engine = start("discard")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    engine.submit_kick(id, timeout=PATIENCE)
    with pytest.raises(ConnectionClosing) as caught:
        engine.send(id, b"too late")
    assert caught.value.id == id
    assert client.read_to_end() == b""


def test_a_send_that_the_end_overtakes_is_reported_as_closed_before_write(start: Start) -> None:
    engine = start("discard", **ROOM)
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    fill(engine, id)
    sent = engine.submit_send(id, b"never written")

    def given_up() -> Report | None:
        with pytest.raises(EngineTimeout) as caught:
            engine.send(id, b"neither", timeout=0.05)
        return caught.value.report

    # Until then, not even its worker has had the time to look at it.
    report = eventually(lambda: found if (found := given_up()) and found.queued else None)
    assert (report.queued, report.written, report.done) == (1, 0, False)
    engine.kick(id, force=True)
    report = sent.result(PATIENCE)
    assert (report.queued, report.written, report.closed_before_write) == (1, 0, 1)
    client.close()


def test_a_full_send_queue_refuses_and_the_connection_lives_on(start: Start) -> None:
    engine = start("discard", **ROOM)
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    fill(engine, id, above=6 << 20)
    with pytest.raises(SendQueueFull) as caught:
        engine.send(id, bytes(7 << 20))
    assert caught.value.id == id
    row = engine.connection(id)
    assert row.state == State.OPEN
    assert row.pending_bytes <= ROOM["send_hard_bytes"]
    sent = row.bytes_out + row.pending_bytes
    assert client.read(sent) == bytes(sent)
    assert engine.send(id, b"again").written == 1
    assert client.read(5) == b"again"


@pytest.mark.parametrize("data", [b"", bytearray(), memoryview(b"")])
def test_nothing_can_not_be_sent(start: Start, data: bytes) -> None:
    engine = start("discard")
    (client,) = connect(engine, 1)
    with pytest.raises(ConfigurationError, match="1 to"):
        engine.send(connection_of(engine, client).id, data)
    with pytest.raises(ConfigurationError, match="1 to"):
        engine.broadcast(data)
    client.close()


def test_a_command_can_not_be_cancelled(start: Start) -> None:
    engine = start("discard")
    (client,) = connect(engine, 1)
    kicked = engine.submit_kick(connection_of(engine, client).id, timeout=PATIENCE)
    assert not kicked.cancel()
    assert client.read_to_end() == b""
    client.close()
    assert kicked.result(PATIENCE) is not None


# --- broadcast --------------------------------------------------------------------------------------------------------


def test_a_broadcast_reaches_everybody_once_and_its_report_adds_up(start: Start) -> None:
    engine, data = start("discard"), random.Random(3).randbytes(1000)
    clients = connect(engine, 300)
    report = engine.broadcast(data, timeout=PATIENCE)
    expected = Report(matched=300, queued=300, written=300, skipped_slow=0, closed_before_write=0, failed=0, done=True)
    assert report == expected
    for client in clients:
        client.shut()
        assert client.read_to_end() == data


def test_broadcasts_arrive_in_order(start: Start) -> None:
    engine = start("discard")
    clients = connect(engine, 20)
    commands = [engine.submit_broadcast(b"%04d" % number) for number in range(200)]
    expected = b"".join(b"%04d" % number for number in range(200))
    for client in clients:
        assert client.read(800) == expected
    done, waiting = wait([command.future for command in commands], PATIENCE)
    assert not waiting
    assert {future.result().written for future in done} == {20}


def test_a_broadcast_goes_to_those_that_match(start: Start) -> None:
    engine = start("discard", "discard")
    here, there = connect(engine, 3, listener=0), connect(engine, 4, listener=1)
    assert engine.broadcast(b"all").written == 7
    assert engine.broadcast(b"here", Filter(listener=0)).written == 3
    assert engine.broadcast(b"net", Filter(listener=1, ip=ipaddress.ip_network("127.0.0.0/8"))).written == 4
    assert engine.broadcast(b"nobody", Filter(ip=ipaddress.ip_network("192.0.2.0/24"))).matched == 0
    assert engine.broadcast(b"old", Filter(older_than=3600)).matched == 0
    for clients, expected in ((here, b"allhere"), (there, b"allnet")):
        for client in clients:
            client.shut()
            assert client.read_to_end() == expected


def test_a_broadcast_to_nobody_is_done(start: Start) -> None:
    assert start("discard").broadcast(b"x") == Report(0, 0, 0, 0, 0, 0, True)


def test_a_broadcast_skips_who_is_slow_and_waits_for_nobody(start: Start) -> None:
    engine = start("discard", **ROOM)
    clients = connect(engine, 10)
    slow = connection_of(engine, clients[0]).id
    fill(engine, slow, above=6 << 20)
    message = bytes(7 << 20)
    with ThreadPoolExecutor(9) as readers:
        received = [readers.submit(client.read, len(message)) for client in clients[1:]]
        report = engine.broadcast(message)
    assert [each.result() for each in received] == [message] * 9
    assert report == Report(matched=10, queued=9, written=9, skipped_slow=1, closed_before_write=0, failed=0, done=True)

    waiting = engine.submit_broadcast(b"queued on all")
    report = eventually(lambda: report if (report := waiting.report()).written == 9 else None)
    assert (report.matched, report.queued, report.skipped_slow, report.done) == (10, 10, 0, False)
    assert not engine.broadcast(b"as well", timeout=0.05).done
    engine.kick(slow, force=True)
    report = waiting.future.result(PATIENCE)
    assert (report.queued, report.written, report.closed_before_write) == (10, 9, 1)
    assert waiting.report() == report


def test_broadcasts_that_there_is_no_room_for_are_refused_and_counted(start: Start) -> None:
    engine = start("discard", inbox_capacity=1, workers=1)
    clients = connect(engine, 500)
    futures, refused = [], 0
    for _ in range(200):
        try:
            futures.append(engine.submit_broadcast(b"x").future)
        except EngineBusy:
            refused += 1
    assert refused > 0
    assert futures
    assert engine.worker_stats()[0].inbox_busy >= refused
    assert not wait(futures, PATIENCE).not_done
    for client in clients:
        client.shut()
        assert client.read_to_end() == b"x" * len(futures)  # what was refused went to nobody


def test_commands_that_a_worker_has_no_room_for_are_refused_and_counted(start: Start) -> None:
    engine = start("discard", inbox_capacity=1, workers=1)
    clients = connect(engine, 500)
    id, sent = connection_of(engine, clients[0]).id, []

    def send_many() -> None:
        while len(sent) < 10_000:
            sent.append(engine.submit_send(id, b"x"))

    engine.submit_broadcast(b"x")  # keeps the worker from its inbox for a moment
    with pytest.raises(EngineBusy):
        send_many()
    assert engine.worker_stats()[0].inbox_busy == 1
    assert not wait(sent, PATIENCE).not_done
    clients[0].shut()
    assert clients[0].read_to_end() == b"x" * (1 + len(sent))
