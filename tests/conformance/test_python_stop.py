"""Services in Python when the engine stops, on every backend."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import pytest

from iocpd.core import (
    Engine,
    Lines,
    Reason,
    Service,
    ServiceConnection,
)
from tests.python_services import Gate, Upper, python, stats
from tests.support import Client, connect, eventually, port_of

Start = Callable[..., Engine]


class Loud(Upper):
    events: ClassVar[list[str]] = []

    def on_start(self) -> None:
        self.events.append(f"start {self.thread}")

    def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
        self.events.append(f"close {reason}")

    def on_stop(self) -> None:
        self.events.append(f"stop {self.thread}")


class LateLoud(Loud):
    async def on_stop(self) -> None:  # type: ignore[override]
        super().on_stop()


@pytest.mark.parametrize("service", [Loud, LateLoud])
def test_a_stop_closes_every_connection_and_ends_the_threads(start: Start, service: type[Loud]) -> None:
    service.events.clear()
    engine = start(python(service, threads=2))
    clients = connect(engine, 10)
    for client in clients:
        client.send(b"x\n")
        assert client.read(2) == b"X\n"
    before = threading.active_count()
    ended = threading.Thread(target=lambda: [client.read_to_any_end() for client in clients])
    ended.start()
    engine.stop(deadline=1)
    ended.join()
    assert Counter(service.events) == {
        "start 0": 1,
        "start 1": 1,
        "close shutdown": 10,
        "stop 0": 1,
        "stop 1": 1,
    }
    assert threading.active_count() < before
    engine.start()
    with Client(port_of(engine)) as client:
        client.send(b"again\n")
        assert client.read(6) == b"AGAIN\n"


def test_a_stop_does_not_wait_for_a_handler_that_blocks(
    start: Start, gate: type[Gate], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iocpd.core._service_threads._END_SECONDS", 0.5)
    engine = start(python(gate))
    with Client(port_of(engine)) as client:
        client.send(b"x\n")
        eventually(lambda: stats(engine).messages_in)
        (thread,) = [each for each in threading.enumerate() if each.name == "iocpd-service-0"]
        begun = time.monotonic()
        engine.stop(deadline=0.5)
        assert time.monotonic() - begun < 10
        client.read_to_any_end()
    assert "left behind" in caplog.text
    gate.open.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_handler_may_stop_the_engine(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Stops(Service):
        framing = Lines()

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            self.engine.stop(deadline=0.2)

    engine = start(python(Stops))
    with Client(port_of(engine)) as client:
        client.send(b"now\n")
        client.read_to_any_end()
        eventually(lambda: not engine.running)
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("iocpd-service")])
    assert not caplog.records


def test_a_stop_cancels_handlers_that_wait(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iocpd.core._service_threads._HANDLER_SECONDS", 0.2)
    monkeypatch.setattr("iocpd.core._service_threads._END_SECONDS", 20.0)
    ends: list[Reason] = []

    class Waits(Service):
        framing = Lines()

        async def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            await asyncio.sleep(3600)

        def on_close(self, connection: ServiceConnection, reason: Reason) -> None:
            ends.append(reason)

    engine = start(python(Waits))
    (client,) = connect(engine, 1)
    client.send(b"x\ny\n")
    eventually(lambda: stats(engine).messages_in == 2)
    engine.stop(deadline=0.2)
    assert ends == [Reason.SHUTDOWN]
    assert "cancelled" in caplog.text
    caplog.clear()
