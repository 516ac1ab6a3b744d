"""The system's clock is set while the service runs: an hour on, as when a machine wakes, or an hour back."""

from __future__ import annotations

import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conformance.test_port import compiler, run_compiler
from tests.integration.conftest import Serve
from tests.integration.server import OVERRIDE
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux" or bool(OVERRIDE), reason="LD_PRELOAD is of Linux")
HOUR = 3600


@pytest.fixture
def backend() -> str:
    """All of them read one clock."""
    return "auto"


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["on", "back"])
def test_nothing_ends_too_early_or_too_late_when_the_clock_is_set(serve: Serve, tmp_path: Path, ahead: int) -> None:
    library, clock = tmp_path / "clock.so", tmp_path / "clock"
    source = str(Path(__file__).with_name("clock.c"))
    run_compiler([*compiler("cc"), "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", source, "-o", str(library)], tmp_path)
    clock.write_bytes(struct.pack("q", 0))
    server = serve(before=("env", f"LD_PRELOAD={library}", f"TEST_CLOCK={clock}"), drain_deadline="60s")
    banned = server.http.post("/v1/bans", json={"address": "192.0.2.1", "ttl": "30m"})
    assert banned.status_code == 201, banned.text
    (client,) = server.connect()
    with clock.open("r+b") as file:
        file.write(struct.pack("q", ahead))

    made = server.http.post("/v1/bans", json={"address": "192.0.2.2", "ttl": "30m"}).json()["created_at"]
    assert abs(datetime.fromisoformat(made) - datetime.now(UTC) - timedelta(seconds=ahead)) < timedelta(minutes=5)
    uptime = server.get("/v1/node")["uptime"]
    assert 0 <= float(uptime.removesuffix("s")) < 300
    assert client.echoes(b"served")
    job = server.http.post("/v1/kicks", json={"ip": "192.0.2.9"}, headers={"prefer": "respond-async"})
    assert job.status_code == 202, job.text
    eventually(lambda: server.get(job.headers["location"])["state"] == "done")
    numbers = [int(entry["id"], 16) for entry in server.get("/v1/audit")["items"]]
    assert numbers == sorted(set(numbers), reverse=True), "the audit's order is that of what happened"

    server.signal()
    assert client.read_to_end() == b"", "it is drained, not cut off"
    # It waits for the client to close its side too. The deadline is looked at each half second.
    with pytest.raises(subprocess.TimeoutExpired):
        server.wait(1.5)
    client.close()
    assert server.wait() == 0
    assert "1 connections drained, 0 cut off" in server.log()
