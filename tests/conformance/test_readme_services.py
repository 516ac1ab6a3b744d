"""The two services that the README shows, as they stand there."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocpd.core import Engine, Filter, ListenerConfig, Reason
from tests.support import Client, connect, connection_of, eventually

Start = Callable[..., Engine]

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The module that the README has for a class."""

    def load(name: str) -> Any:
        blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        (code,) = [block for block in blocks if f"class {name}(Service)" in block]
        module = types.ModuleType(f"shown_{name.lower()}")
        exec(compile(code, f"README.md, {name}", "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    return load


def line(client: Client) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        data += client.read(1)
    return data[:-1]


def test_the_chat_keeps_its_rooms_apart(start: Start, shown: Callable[[str], Any]) -> None:
    module = shown("Chat")
    engine = start(ListenerConfig(port=0, service=f"python:{module.__name__}:Chat", threads=2))
    ada, bob, eve = connect(engine, 3)
    for client in (ada, bob, eve):
        assert line(client) == b"* welcome: /nick NAME, /join ROOM"
    ada.send(b"hello?\n")
    assert line(ada) == b"* /join a room first"
    eve.send(b"/join attic\n")
    eventually(lambda: connection_of(engine, eve).groups == ("room/attic",))
    ada.send(b"/nick ada\n/join hall\n")
    eventually(lambda: connection_of(engine, ada).groups == ("room/hall",))
    # Three welcomes, the hint, and that eve and ada are there: bob is not told of ada.
    eventually(lambda: sum(row.messages_out for row in engine.service_stats()) == 6)
    bob.send(b"/join the hall\n")
    assert line(bob) == b"* a room's name has letters, digits, dots, dashes and underscores"
    bob.send(b"/nick bob\r\n/join hall\r\nhi ada\r\n")
    assert [line(ada), line(ada)] == [b"* bob is here", b"bob: hi ada"]
    ada.send(b"hi bob\n")
    assert line(bob) == b"ada: hi bob"
    engine.broadcast(b"* the hall closes\n", Filter(group="room/hall"))
    assert [line(ada), line(bob)] == [b"* the hall closes"] * 2
    ada.close()
    assert line(bob) == b"* ada has left"
    eve.shut()
    assert eve.read_to_end() == b""  # nothing of all this


def test_the_collector_writes_what_came(
    start: Start, shown: Callable[[str], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = shown("Telemetry").Telemetry
    service.path, service.period = tmp_path / "telemetry.jsonl", 0.05
    engine = start(ListenerConfig(port=0, service=service))
    clients = connect(engine, 4)
    for client in clients[1:]:
        client.send(b"".join(b"temperature %d\npressure 2.5\n" % number for number in range(1000)))
        client.shut()
        assert client.read_to_end() == b""
    eventually(lambda: engine.count() == 1)  # the others have left, too, before one comes who is counted
    nothing, infinite = clients[0], connect(engine, 1)[0]
    nothing.send(b"temperature hot\n")
    infinite.send(b"temperature inf\n")
    assert [each.read_to_end() for each in (nothing, infinite)] == [b"", b""]
    for client in (nothing, infinite):
        client.close()
    engine.stop()
    rows = [json.loads(each) for each in service.path.read_text().splitlines()]
    assert sum(row["sums"]["temperature"] for row in rows) == 3 * 999 * 500
    assert sum(row["counts"]["pressure"] for row in rows) == 3000
    assert sum(row["sums"]["pressure"] for row in rows) == 7500
    reasons = {record.reason for record in engine.closed()}
    assert reasons == {Reason.CLIENT_CLOSED, Reason.SERVICE_ERROR}
    caplog.clear()  # a traceback holds its engine
