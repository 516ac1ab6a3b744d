"""Random legal and illegal calls of the engine against a model (tests/machine.py), with two workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from concurrent.futures import Future
from ipaddress import ip_network
from typing import Any

from hypothesis.stateful import run_state_machine_as_test

from iocpd.core import (
    ConfigurationError,
    ConnectionEnded,
    ConnectionUnknown,
    Cursor,
    DrainConflict,
    Engine,
    Filter,
)
from tests.machine import MANY, Face, Machine
from tests.support import PATIENCE, Client, connection_of, port_of

Start = Callable[..., Engine]
LOOPBACK = ip_network("127.0.0.0/8")


def word(call: Callable[[], Any]) -> str:
    """What came of it."""
    try:
        call()
    except ConnectionUnknown:
        return "unknown"
    except ConnectionEnded:
        return "ended"
    except ConfigurationError:
        return "invalid"
    except DrainConflict:
        return "conflict"
    return "done"


class EngineFace:
    """The engine, asked through its own methods."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ports = [port_of(engine)]

        def asks(question: Callable[[], Any]) -> Callable[[], str]:
            return lambda: word(question)

        self.mistakes = {
            "a group": asks(lambda: engine.connections(Filter(group="a b"))),
            "a tag": asks(lambda: engine.connections(Filter(tags={"a": "x\ny"}))),
            "a listener": asks(lambda: engine.broadcast(b"x", Filter(listener=-1))),
            "a time": asks(lambda: engine.count(Filter(idle_for=math.nan))),
            "bytes": asks(lambda: engine.connections(Filter(min_bytes_in=-1))),
            "a limit": asks(lambda: engine.connections(limit=0)),
            "a cursor behind the last": asks(lambda: engine.connections(cursor=Cursor(1, 0, 1 << 32))),
            "a cursor before the first": asks(lambda: engine.connections(cursor=Cursor(-1, 0, 0))),
            "a drain": asks(lambda: engine.drain(lb_delay=-1)),
            "a ban": asks(lambda: engine.submit_bans(add=[(LOOPBACK, math.inf)])),
        }

    def ids(self, group: str | None) -> list[int]:
        return [row.id for row in self.engine.connections(Filter(group=group) if group else None, limit=1000).items]

    def id_of(self, client: Client) -> int:
        return connection_of(self.engine, client).id

    def unknown_id(self) -> int:
        return (1 << 53) - 1

    def labels(self, id: int) -> tuple[dict[str, str], list[str]] | str:
        try:
            row = self.engine.connection(id)
        except ConnectionUnknown:
            return "unknown"
        except ConnectionEnded:
            return "ended"
        return dict(row.tags), list(row.groups)

    def reason(self, id: int) -> str:
        return str(next(record.reason for record in self.engine.closed(limit=1000) if record.connection.id == id))

    def label(self, id: int, tags: dict[str, str | None], groups: list[str]) -> str:
        return word(lambda: self.engine.label(id, tags=tags, groups=groups, timeout=PATIENCE))

    def send(self, id: int, data: bytes) -> str:
        return word(lambda: self.engine.submit_send(id, data).result(PATIENCE))

    def broadcast(self, data: bytes, group: str | None, exclude: Collection[int]) -> tuple[int, int]:
        report = self.engine.broadcast(data, Filter(group=group) if group else None, exclude=exclude, timeout=PATIENCE)
        return report.matched, report.written

    def kick(self, id: int, farewell: bytes, force: bool) -> Future[str]:
        asked: Future[str] = Future()

        def answer(done: Future[Any]) -> None:
            asked.set_result(word(done.result))

        try:
            self.engine.submit_kick(id, farewell=farewell, force=force, timeout=PATIENCE).add_done_callback(answer)
        except (ConnectionEnded, ConnectionUnknown) as error:
            asked.set_result("ended" if isinstance(error, ConnectionEnded) else "unknown")
        return asked

    def ban(self, on: bool) -> None:
        change = {"add": [(LOOPBACK, 0.0)]} if on else {"remove": [LOOPBACK]}
        self.engine.submit_bans(**change).future.result(PATIENCE)  # type: ignore[arg-type]

    def drain(self) -> str:
        return word(lambda: self.engine.drain(lb_delay=PATIENCE, deadline=2 * PATIENCE))

    def cancel_drain(self) -> str:
        return word(self.engine.cancel_drain)


def test_the_engine_does_what_the_model_says(start: Start) -> None:
    class Engines(Machine):
        def open(self) -> Face:
            return EngineFace(start("echo", closed_capacity=1000))

        def teardown(self) -> None:
            super().teardown()
            engine = self.face.engine  # type: ignore[attr-defined]
            engine.stop(deadline=PATIENCE)
            for stats in engine.worker_stats():
                assert (stats.connections, stats.pending_bytes) == (0, 0)
            assert sum(stats.adopted for stats in engine.worker_stats()) == sum(
                sum(stats.closed.values()) for stats in engine.worker_stats()
            )

    run_state_machine_as_test(Engines, settings=MANY)
