"""Everything at once, at random: clients of all kinds, commands, drains and stops. Afterwards all sums must be right.

It says little when it passes, and much under a sanitizer.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from ipaddress import ip_network
from typing import Any

import pytest

from iocpd.core import (
    BanTableFull,
    Command,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    DrainConflict,
    Engine,
    EngineBusy,
    EngineStopped,
    Filter,
    LabelsChanged,
    Reason,
    Report,
    SendQueueFull,
    State,
)
from tests.support import PATIENCE, Client

Start = Callable[..., Engine]

REFUSALS = (
    EngineBusy,
    EngineStopped,
    DrainConflict,
    SendQueueFull,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    LabelsChanged,
    BanTableFull,
)
LOOPBACK, OTHERS = ip_network("127.0.0.1"), ip_network("192.0.2.0/24")


def misbehave(source: random.Random, ports: list[int], halt: threading.Event) -> None:
    """Clients that send, read, half-close, reset and leave in any order."""
    clients: list[Client] = []
    while not halt.is_set():
        client = None
        try:
            if len(clients) < 20:
                clients.append(Client(source.choice(ports)))
                clients[-1].socket.settimeout(0.02)
            client = source.choice(clients)
            action = source.random()
            if action < 0.5:
                client.socket.send(source.randbytes(source.choice([1, 100, 5000, 100_000])))
            elif action < 0.8:
                client.socket.recv(100_000)
            elif action < 0.85:
                client.shut()
            else:
                clients.remove(client)
                (client.reset if action < 0.9 else client.close)()
        except TimeoutError:
            pass
        except OSError:  # it was ended, or could not connect
            if client in clients:
                clients.remove(client)
                client.close()
    for client in clients:
        client.close()


class Commands:
    """What one thread asks of the engine, and what it was answered."""

    def __init__(self, source: random.Random, engine: Engine) -> None:
        self.source = source
        self.engine = engine
        self.futures: list[Future[Any]] = []
        self.many: list[Command[Report]] = []

    def run(self, halt: threading.Event) -> None:
        chances = {
            self.send: 6,
            self.kick: 4,
            self.kick_many: 2,
            self.broadcast: 6,
            self.label: 3,
            self.ban: 2,
            self.ask: 3,
            self.look: 2,
            self.configure: 1,
            self.drain: 1,
        }
        while not halt.is_set():
            rows = self.engine.connections(limit=self.source.choice([1, 5, 100])).items
            ids = [row.id for row in rows] or [1]
            (action,) = self.source.choices(list(chances), list(chances.values()))
            with contextlib.suppress(*REFUSALS):
                action(ids)
            for command in self.many[-5:]:
                settled(command.report())

    def data(self) -> bytes:
        return self.source.randbytes(self.source.choice([1, 1000, 30_000]))

    def send(self, ids: list[int]) -> None:
        self.futures.append(self.engine.submit_send(self.source.choice(ids), self.data()))

    def kick(self, ids: list[int]) -> None:
        force, timeout = self.source.random() < 0.3, self.source.choice([0, 0.01, 0.3])
        id, farewell = self.source.choice(ids), self.data()
        self.futures.append(self.engine.submit_kick(id, farewell=farewell, force=force, timeout=timeout))

    def kick_many(self, ids: list[int]) -> None:
        some = self.source.choices(ids, k=self.source.choice([1, 2, 30]))
        reason = self.source.choice([Reason.KICKED, Reason.BANNED])
        self.futures.append(self.engine.submit_kicks(some, timeout=self.source.choice([0, 0.05]), reason=reason).future)

    def broadcast(self, ids: list[int]) -> None:
        filter = self.source.choice(
            [None, Filter(listener=1), Filter(state=State.OPEN, idle_for=0.01), Filter(group="a")]
        )
        command = self.engine.submit_broadcast(
            self.data(),
            filter,
            ids=self.source.choice([None, ids]),
            exclude=self.source.choice([(), ids[:3]]),
            on_slow=self.source.choice(["skip", "disconnect"]),
            ttl=self.source.choice([0, 0.001, 0.05]),
        )
        self.many.append(command)
        self.futures.append(command.future)

    def label(self, ids: list[int]) -> None:
        tags = {self.source.choice("abc"): self.source.choice([None, "x", "y" * 100])}
        groups = self.source.choice([None, [], ["a"], ["a", "b"]])
        self.futures.append(self.engine.submit_label(self.source.choice(ids), tags=tags, groups=groups).future)

    def ban(self, _: list[int]) -> None:
        if self.source.random() < 0.5:
            self.futures.append(self.engine.submit_bans([(LOOPBACK, 0.005)]).future)
        else:
            self.futures.append(self.engine.submit_bans([(OTHERS, 0)], [LOOPBACK]).future)

    def ask(self, ids: list[int]) -> None:
        if self.source.random() < 0.7:
            self.futures.append(self.engine.submit_rtt(self.source.choice(ids)).future)
        else:
            self.futures.append(self.engine.submit_barrier().future)

    def look(self, _: list[int]) -> None:
        assert all(stats.port for stats in self.engine.listener_stats())
        assert self.engine.count() <= self.engine.info().last_serial
        self.engine.closed(limit=10)

    def configure(self, _: list[int]) -> None:
        self.engine.configure(
            idle_timeout=self.source.choice([0, 0.05, 1]),
            send_soft_bytes=self.source.choice([1000, 100_000]),
            send_soft_seconds=self.source.choice([0.02, 0.5]),
            max_connections=self.source.choice([30, 60_000]),
            accepts_per_s_per_address=self.source.choice([0, 1000]),
        )

    def drain(self, _: list[int]) -> None:
        self.engine.drain(
            lb_delay=self.source.choice([0, 0.005]),
            grace=self.source.choice([0, 0.01]),
            deadline=self.source.choice([0, 0.05, 1]),
            rate_per_s=self.source.choice([0, 100]),
            farewell=self.source.choice([b"", self.data()]),
        )
        time.sleep(self.source.random() * 0.03)
        self.engine.cancel_drain()


def settled(report: Report) -> None:
    """The sums of a report, while some still waits and when none does."""
    waiting = report.queued - report.written - report.closed_before_write - report.expired
    assert waiting == 0 if report.done else waiting >= 0, report
    assert not report.done or report.matched == report.queued + report.skipped_slow + report.failed, report


def watch(engine: Engine, halt: threading.Event) -> None:
    """Reads events: each is told once, or counted as missed."""
    position = engine.event_position()
    while not halt.is_set():
        batch = engine.events(position, limit=100)
        assert sum(batch.position.counts) - sum(position.counts) == len(batch.events) + batch.missed
        position = batch.position
        halt.wait(0.002)


def crowd(engine: Engine, source: random.Random, seconds: float, deadline: float) -> list[Future[Any]]:
    """Clients, operators and a reader of events for so long, and then a stop with this deadline. What became of all
    commands of the operators."""
    ports, halt = [stats.port for stats in engine.listener_stats()], threading.Event()
    commands = [Commands(random.Random(source.random()), engine) for _ in range(2)]
    with ThreadPoolExecutor(7) as pool:
        work = [pool.submit(misbehave, random.Random(source.random()), ports, halt) for _ in range(4)]
        work += [pool.submit(each.run, halt) for each in commands]
        work += [pool.submit(watch, engine, halt)]
        try:
            wait(work, seconds, FIRST_EXCEPTION)
            engine.stop(deadline=deadline, farewell=b"end")
        finally:
            halt.set()
        for each in work:
            each.result(PATIENCE)
    futures = [future for each in commands for future in each.futures]
    assert not wait(futures, PATIENCE).not_done
    return futures


@pytest.mark.parametrize("seed", range(6))
def test_chaos_leaves_no_command_open_and_all_sums_right(start: Start, seed: int) -> None:
    source = random.Random(seed)
    engine = start(
        "echo",
        "relay",
        "discard",
        workers=source.choice([1, 2, 3]),
        max_connections=source.choice([30, 60_000]),
        idle_timeout=source.choice([0, 0.05, 1]),
        first_byte_timeout=source.choice([0, 0.05]),
        send_soft_bytes=source.choice([1000, 100_000]),
        send_soft_seconds=source.choice([0.02, 0.5]),
        send_hard_bytes=source.choice([100_000, 4_000_000]),
        receive_buffers=source.choice([2, 64, 4096]),
        receive_buffer_bytes=source.choice([256, 4096]),
        inbox_capacity=source.choice([2, 4096]),
        relay_capacity=source.choice([1, 64]),
        closed_capacity=source.choice([1, 100]),
        event_capacity=source.choice([64, 4096]),
    )
    for future in crowd(engine, source, 0.7, source.choice([0, 0.05, 0.5])):
        error = future.exception()
        assert error is None or isinstance(error, REFUSALS), error
        result = None if error else future.result()
        if isinstance(result, Report):
            assert result.done
            settled(result)
    workers, listeners = engine.worker_stats(), engine.listener_stats()
    assert all((stats.connections, stats.pending_bytes, stats.relay_waiting) == (0, 0, 0) for stats in workers)
    adopted = sum(stats.adopted for stats in workers)
    assert adopted == sum(sum(stats.closed.values()) for stats in workers)
    assert adopted == sum(stats.accepted - stats.refused_memory for stats in listeners)
    assert all(stats.connections == 0 for stats in listeners)
