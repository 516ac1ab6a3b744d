"""Everything at once, at random: clients of all kinds, commands, drains and stops. Afterwards all sums must be right.

It says little when it passes, and much under a sanitizer.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import pytest

from iocpd.core import (
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    DrainConflict,
    Engine,
    EngineBusy,
    EngineStopped,
    Filter,
    Report,
    SendQueueFull,
    State,
)
from tests.support import PATIENCE, Client, port_of

Start = Callable[..., Engine]

REFUSALS = (
    EngineBusy,
    EngineStopped,
    DrainConflict,
    SendQueueFull,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
)


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


def command(source: random.Random, engine: Engine, futures: list[Future[Any]], halt: threading.Event) -> None:
    while not halt.is_set():
        rows = engine.connections(limit=source.choice([1, 5, 100])).items
        id = source.choice(rows).id if rows else 1
        data = source.randbytes(source.choice([1, 1000, 30_000]))
        action = source.random()
        try:
            if action < 0.35:
                futures.append(engine.submit_send(id, data))
            elif action < 0.6:
                force, timeout = source.random() < 0.3, source.choice([0, 0.01, 0.3])
                futures.append(engine.submit_kick(id, farewell=data, force=force, timeout=timeout))
            elif action < 0.85:
                filter = source.choice([None, Filter(listener=1), Filter(state=State.OPEN, idle_for=0.01)])
                futures.append(engine.submit_broadcast(data, filter).future)
            elif action < 0.95:
                assert all(stats.port for stats in engine.listener_stats())
                assert engine.count() <= engine.info().last_serial
                engine.closed(limit=10)
            else:
                engine.drain(
                    lb_delay=source.choice([0, 0.005]),
                    grace=source.choice([0, 0.01]),
                    deadline=source.choice([0, 0.05, 1]),
                    rate_per_s=source.choice([0, 100]),
                    farewell=source.choice([b"", data]),
                )
                time.sleep(source.random() * 0.03)
                engine.cancel_drain()
        except REFUSALS:
            pass


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
    )
    ports, futures, halt = [port_of(engine, listener) for listener in range(3)], list[Future[Any]](), threading.Event()
    sources = [random.Random(source.random()) for _ in range(6)]
    threads = [threading.Thread(target=misbehave, args=(each, ports, halt)) for each in sources[:4]]
    threads += [threading.Thread(target=command, args=(each, engine, futures, halt)) for each in sources[4:]]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    engine.stop(deadline=source.choice([0, 0.05, 0.5]), farewell=b"end")
    halt.set()
    for thread in threads:
        thread.join(PATIENCE)

    assert not wait(futures, PATIENCE).not_done
    for future in futures:
        error = future.exception()
        assert error is None or isinstance(error, REFUSALS)
        result = None if error else future.result()
        if isinstance(result, Report):
            assert result.done
            assert result.matched == result.queued + result.skipped_slow + result.failed
            assert result.queued == result.written + result.closed_before_write
    workers, listeners = engine.worker_stats(), engine.listener_stats()
    assert all((stats.connections, stats.pending_bytes, stats.relay_waiting) == (0, 0, 0) for stats in workers)
    adopted = sum(stats.adopted for stats in workers)
    assert adopted == sum(sum(stats.closed.values()) for stats in workers)
    assert adopted == sum(stats.accepted - stats.refused_memory for stats in listeners)
    assert all(stats.connections == 0 for stats in listeners)
