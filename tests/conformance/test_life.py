"""Start, stop, start again: what an engine takes, refuses and gives back."""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import pytest

from iocpd.core import (
    Engine,
    EngineBusy,
    EngineConfig,
    EngineStopped,
    ListenerConfig,
    ListenError,
    Phase,
    Reason,
    StartError,
)
from iocpd.core._native import lib
from tests.support import PATIENCE, ROOM, WINDOWS, Client, connect, connection_of, eventually, fill, port_of

Start = Callable[..., Engine]

HAS_IPV6 = socket.has_ipv6


def handles() -> int:
    """Descriptors of this process. (Windows has no cheap way to count them.)"""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def threads() -> int:
    """Threads of this process, native ones too where they can be counted."""
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else threading.active_count()


def held() -> tuple[int, int, int]:
    """What of an engine's this process has: handles, threads, memory."""
    return handles(), threads(), lib.iocpd_allocations()


def holds_no_more_than(before: tuple[int, int, int]) -> None:
    """Soon: a thread that has been joined may be listed for a moment yet."""
    eventually(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))


# --- start ------------------------------------------------------------------------------------------------------------


def test_what_runs_is_told(start: Start, backend: str) -> None:
    engine = start("echo", "relay", workers=3)
    info = engine.info()
    assert (info.backend, info.workers, info.listeners, info.accepting) == (backend, 3, 2, True)
    assert info.backend_reason
    assert (info.connections, info.last_serial) == (0, 0)
    first, second = engine.listener_stats()
    assert (first.host, first.service, first.open) == ("127.0.0.1", "echo", True)
    assert (second.host, second.service, second.open) == ("127.0.0.1", "relay", True)
    assert first.port != second.port
    assert engine.running
    assert "running" in repr(engine)


def test_auto_takes_a_backend_that_works_and_says_why() -> None:
    with Engine(EngineConfig(listeners=[ListenerConfig(port=0)])) as engine:
        info = engine.info()
        assert info.backend in ("iocp", "io_uring", "epoll")
        assert info.backend_reason
        assert 1 <= info.workers <= 64


def test_an_address_in_use_is_refused_with_a_way_out(start: Start, backend: str) -> None:
    port = port_of(start("echo"))
    free, taken = ListenerConfig(port=0), ListenerConfig(port=port)
    engine = Engine(EngineConfig(listeners=[free, taken], backend=backend))
    before = held()
    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: .*in use.*another port") as caught:
        engine.start()
    assert (caught.value.host, caught.value.port, caught.value.errno) == ("127.0.0.1", port, errno.EADDRINUSE)
    assert not engine.running
    holds_no_more_than(before)
    with pytest.raises(EngineStopped):
        engine.info()


def test_an_address_of_another_machine_is_refused_with_a_way_out(backend: str) -> None:
    engine = Engine(EngineConfig(listeners=[ListenerConfig(host="192.0.2.1", port=0)], backend=backend))
    with pytest.raises(ListenError, match="no such address") as caught:
        engine.start()
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_an_engine_that_runs_is_not_started_again(start: Start) -> None:
    engine = start("echo")
    with pytest.raises(StartError, match="stop it first"):
        engine.start()
    with Client(port_of(engine)) as client:
        assert client.echoes(b"undisturbed")


def test_a_name_is_resolved(start: Start) -> None:
    engine = start(ListenerConfig(host="localhost", port=0))
    stats = engine.listener_stats()[0]
    assert stats.host in ("127.0.0.1", "::1")
    with Client(stats.port, stats.host) as client:
        assert client.echoes(b"x")


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 here")
def test_dual_stack_takes_both_families_and_shows_each_as_itself(start: Start) -> None:
    engine = start(ListenerConfig(host="::", port=0), ListenerConfig(host="::1", port=0), "discard")
    assert [stats.host for stats in engine.listener_stats()] == ["::", "::1", "127.0.0.1"]
    for listener, host in ((0, "127.0.0.1"), (0, "::1"), (1, "::1")):
        with Client(port_of(engine, listener), host) as client:
            assert client.echoes(b"x")
            row = connection_of(engine, client)
            assert row.peer == client.address
            assert row.local == (host, port_of(engine, listener))


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 here")
def test_without_dual_stack_ipv6_is_ipv6_alone(start: Start) -> None:
    engine = start(ListenerConfig(host="::", port=0, dual_stack=False))
    with Client(port_of(engine), "::1") as client:
        assert client.echoes(b"x")
    with pytest.raises(ConnectionRefusedError):
        Client(port_of(engine), "127.0.0.1")


# --- stop -------------------------------------------------------------------------------------------------------------


def test_a_stop_says_farewell_and_posts_an_exit_to_each_worker(start: Start) -> None:
    engine = start("echo", workers=3)
    clients, port = connect(engine, 10), port_of(engine)
    stopping = threading.Thread(target=engine.stop, kwargs={"deadline": PATIENCE, "farewell": b"closing time\n"})
    stopping.start()
    for client in clients:
        assert client.read_to_end() == b"closing time\n"
        client.close()
    stopping.join(PATIENCE)
    assert not engine.running
    progress = engine.drain_progress()
    assert (progress.phase, progress.stop, progress.exits_posted, progress.exits_taken) == (Phase.STOPPED, True, 3, 3)
    assert (progress.initial, progress.remaining, progress.cancelled) == (10, 0, 0)
    assert {record.reason for record in engine.closed()} == {Reason.SHUTDOWN}
    with pytest.raises(ConnectionRefusedError):
        Client(port)


def test_reads_go_on_after_a_stop_and_commands_do_not(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    assert client.echoes(b"hello")
    id = connection_of(engine, client).id
    engine.stop(deadline=0)
    assert engine.info().connections == engine.count() == 0
    assert engine.connections().items == []
    assert engine.closed()[0].connection.id == id
    assert sum(stats.bytes_in for stats in engine.worker_stats()) == 5
    assert [stats.open for stats in engine.listener_stats()] == [False]
    assert "stopped" in repr(engine)
    calls: list[Callable[[], object]] = [
        lambda: engine.send(id, b"x"),
        lambda: engine.kick(id),
        lambda: engine.broadcast(b"x"),
        lambda: engine.submit_broadcast(b"x"),
        engine.drain,
        engine.cancel_drain,
    ]
    for call in calls:
        with pytest.raises(EngineStopped):
            call()
    engine.stop()
    assert engine.join(0)


def test_a_stop_under_load_ends_and_gives_back_only_what_was_sent(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 30)
    sent, got = [0] * 30, [b""] * 30
    pattern = bytes(range(251)) * 400

    def send(number: int) -> None:
        try:
            while True:
                clients[number].send(pattern)
                sent[number] += len(pattern)
        except OSError:
            pass

    def read(number: int) -> None:
        got[number] = clients[number].read_to_any_end()
        clients[number].close()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(30) for work in (send, read)]
    for thread in workers:
        thread.start()
    eventually(lambda: sum(stats.bytes_in for stats in engine.worker_stats()) > 20_000_000)
    begun = time.monotonic()
    engine.stop(deadline=1.0)
    assert time.monotonic() - begun < 1.0 + PATIENCE
    for thread in workers:
        thread.join(PATIENCE)
    for data in got:
        assert data == (pattern * (len(data) // len(pattern) + 1))[: len(data)]
    assert engine.count() == 0


def test_the_deadline_of_a_stop_cuts_off_who_never_reads(start: Start) -> None:
    engine = start("discard", **ROOM)
    clients = connect(engine, 5)
    for client in clients:
        fill(engine, connection_of(engine, client).id)
    begun = time.monotonic()
    engine.stop(deadline=0.3, farewell=b"bye")
    assert time.monotonic() - begun < PATIENCE
    assert engine.drain_progress().cancelled == 5
    assert {record.reason for record in engine.closed()} == {Reason.SHUTDOWN}


def test_no_command_is_lost_when_the_engine_stops(start: Start) -> None:
    engine = start("discard")
    clients = connect(engine, 20)
    ids = [connection_of(engine, client).id for client in clients]
    futures: list[Future[Any]] = []
    go_on = threading.Event()

    def command() -> None:
        while not go_on.is_set():
            try:
                futures.append(engine.submit_broadcast(bytes(1000)).future)
                futures.extend(engine.submit_send(id, bytes(1000)) for id in ids)
            except EngineBusy:
                time.sleep(0.001)
            except Exception:  # the engine has stopped, or the connection has ended
                return

    futures.extend(engine.submit_kick(id, timeout=10 * PATIENCE) for id in ids[:5])
    commanding = [threading.Thread(target=command) for _ in range(3)]
    for thread in commanding:
        thread.start()
    eventually(lambda: len(futures) > 500)
    engine.stop(deadline=0.2)
    go_on.set()
    for thread in commanding:
        thread.join(PATIENCE)
    done, waiting = wait(futures, PATIENCE)
    assert not waiting
    assert len(done) == len(set(futures))
    for future in futures[:5]:
        record = future.result()
        assert record.reason == Reason.KICKED


def test_a_stop_may_come_from_many_threads(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 5)
    stopping = [threading.Thread(target=engine.stop, kwargs={"deadline": 0.2}) for _ in range(8)]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert not engine.running
    assert engine.drain_progress().exits_taken == 2
    assert len(clients) == 5


def test_a_stop_may_come_from_a_futures_callback(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    kicked = engine.submit_kick(connection_of(engine, client).id, timeout=PATIENCE)
    kicked.add_done_callback(lambda _: engine.stop(deadline=0))
    client.close()
    eventually(lambda: not engine.running)


def test_an_engine_that_was_not_stopped_is_warned_of(backend: str) -> None:
    engine = Engine(EngineConfig(listeners=[ListenerConfig(port=0)], backend=backend))
    engine.start()
    run = engine._run
    with pytest.warns(ResourceWarning, match="never stopped"):
        del engine
    saved = Engine()
    saved._run = run
    saved.stop(deadline=0)


# --- again ------------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_started_again_is_a_fresh_one_on_the_same_port(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    port = port_of(engine)
    engine.stop(deadline=0)
    again = start(ListenerConfig(port=port))
    assert port_of(again) == port
    with Client(port) as newcomer:
        assert newcomer.echoes(b"x")
    engine.start()
    assert (engine.count(), engine.closed(), engine.drain_progress().phase) == (0, [], Phase.NONE)
    assert engine.info().last_serial == 0
    client.close()


def test_fifty_lives_leak_no_handle_no_thread_and_no_byte(start: Start) -> None:
    engine = start("echo", "relay")
    engine.stop(deadline=0)
    gc.collect()
    before: tuple[int, int, int] | None = None
    for life in range(50):
        engine.start()
        clients = connect(engine, 4) + connect(engine, 4, listener=1)
        assert all(client.echoes(bytes(2000)) for client in clients[:4])
        clients[4].send(b"to the others")
        for client in clients[5:]:
            assert client.read(13) == b"to the others"
        kicked = engine.submit_kick(connection_of(engine, clients[0]).id, force=life % 2 == 0)
        assert engine.broadcast(b"x", timeout=PATIENCE).done
        for client in clients[life % 8 :]:
            client.close()
        engine.stop(deadline=0 if life % 3 else 0.05)
        for client in clients:
            client.close()
        assert kicked.done()
        gc.collect()
        before = before or held()
        holds_no_more_than(before)


def test_a_broadcast_outlives_its_engine(start: Start) -> None:
    engine = start("discard")
    connect(engine, 2)
    command = engine.submit_broadcast(b"x")
    engine.stop(deadline=0)
    report = command.report()
    assert report.matched == report.queued + report.skipped_slow + report.failed
    assert command.future.done()


@pytest.mark.skipif(WINDOWS, reason="fork is of Unix")
def test_nothing_is_left_of_an_engine_whose_process_ends(backend: str) -> None:
    """A program that forgets to stop still exits: the engine's threads don't hold it."""
    import subprocess

    code = (
        "from iocpd.core import *;"
        f"e = Engine(EngineConfig(listeners=[ListenerConfig(port=0)], backend={backend!r}));"
        "e.start(); print(e.count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0")
