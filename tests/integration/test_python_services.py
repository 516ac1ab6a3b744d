"""`iocpd serve` with services in Python and framings: from flags and the settings file, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iocpd.api.client import Client as ApiClient
from tests.integration.conftest import Serve
from tests.integration.server import Server, run
from tests.integration.test_metrics import samples
from tests.support import Client, eventually

SHOUT = "python:tests.integration.shouting:Shout"


def shouts(server: Server, port: int) -> None:
    with Client(port) as client:
        client.send(b"hello\r\nyou\n")
        assert client.read(10) == b"HELLO\nYOU\n"


def idle(listener: dict[str, Any]) -> bool:
    """Nobody is there, and its service has nothing left to work off."""
    return not listener["connections"] and not any(thread["waiting_bytes"] for thread in listener["service_threads"])


def test_a_service_and_a_framing_from_the_file(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text(f'tcp = ["127.0.0.1:0/{SHOUT}?threads=2", "127.0.0.1:0/echo?framing=lines&max_bytes=10"]\n')
    server = serve(tcp=(), arguments=("--config", str(file)))
    shouts(server, server.ports[0])
    with Client(server.ports[1]) as client:
        client.send(b"whole\n" + b"x" * 20)
        assert client.read_to_end() == b"whole\n"
    eventually(lambda: len(server.get("/v1/connections/closed")["items"]) == 2)
    reasons = {row["listener"]: row["reason"] for row in server.get("/v1/connections/closed")["items"]}
    assert reasons == {0: "client_closed", 1: "frame_too_large"}  # in whichever order they ended


def test_a_service_from_a_flag_is_told_of_everywhere(serve: Serve) -> None:
    server = serve(tcp=(f"127.0.0.1:0/{SHOUT}?threads=2", "127.0.0.1:0/echo"))
    shouts(server, server.port)
    eventually(lambda: server.get("/v1/connections/closed")["items"])  # before the next one
    with Client(server.port) as client:
        client.send(b"fail\n")
        assert client.read_to_end() == b""
    eventually(lambda: len(server.get("/v1/connections/closed")["items"]) == 2)
    # The service is told of an end after everybody else.
    eventually(lambda: idle(server.get("/v1/listeners")["items"][0]))
    (closed, _) = server.get("/v1/connections/closed")["items"]
    assert (closed["reason"], closed["service"]) == ("service_error", SHOUT)
    assert "RuntimeError: as it was asked to" in server.log()

    first, second = server.get("/v1/listeners")["items"]
    assert first["framing"] == {"kind": "lines", "max_bytes": 1000, "options": "framing=lines&max_bytes=1000"}
    assert second["framing"] == {"kind": "raw", "max_bytes": None, "options": "framing=raw"}
    said = [line for line in server.lines if line.startswith("tcp ")]
    assert said == [
        f"tcp 127.0.0.1:{server.ports[0]} {SHOUT} framing=lines&max_bytes=1000",
        f"tcp 127.0.0.1:{server.ports[1]} echo",
    ]
    assert (len(first["service_threads"]), second["service_threads"]) == (2, [])
    totals = {name: sum(thread[name] for thread in first["service_threads"]) for name in first["service_threads"][0]}
    assert (totals["messages_in"], totals["messages_out"], totals["errors"]) == (3, 2, 1)
    assert (totals["waiting_bytes"], totals["paused"], totals["pauses"]) == (0, 0, 0)
    assert totals["broadcasts_dropped"] == 0
    with ApiClient(server.url) as api:
        listeners = api.list_listeners().items
    assert [json.loads(each.model_dump_json()) for each in listeners] == [first, second]

    found = samples(server)
    where = ("listener", f"127.0.0.1:{server.port}"), ("service", SHOUT)
    for name, count in (
        ("received_messages_total", 3),
        ("sent_messages_total", 2),
        ("errors_total", 1),
        ("dropped_broadcasts_total", 0),
    ):
        family = f"iocpd_service_{name}"
        assert sum(found[family, *where, ("thread", str(number))] for number in range(2)) == count
    assert not any(("service", "echo") in labels for name, *labels in found if name.startswith("iocpd_service_"))


@pytest.mark.parametrize(
    ("service", "why"),
    [
        ("python:tests.integration.nowhere:Shout", "the module tests.integration.nowhere can't be imported"),
        ("python:tests.integration.shouting:Whisper", "there is no Whisper in the module tests.integration.shouting"),
        ("python:tests.support:Client", "is not a class that is derived from iocpd.core.Service"),
        ("python:tests.integration.shouting:Broken", "could not be made: RuntimeError: there is no database"),
    ],
)
def test_a_service_that_can_not_be_had_ends_the_start_in_one_line(tmp_path: Path, service: str, why: str) -> None:
    done = run(["--tcp", f"127.0.0.1:0/{service}", "--http", "127.0.0.1:0"], tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"iocpd: {service}: ")
    assert why in line
