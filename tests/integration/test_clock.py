"""The system's clock is set while the service runs: an hour on, as when a machine wakes, or an hour back."""

from __future__ import annotations

import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from iocpd.api.keys import add_key
from tests.conformance.test_port import compiler, run_compiler
from tests.integration.conftest import Serve
from tests.integration.server import OVERRIDE, Server
from tests.support import eventually, refused

pytestmark = pytest.mark.skipif(sys.platform != "linux" or bool(OVERRIDE), reason="LD_PRELOAD is of Linux")
HOUR = 3600


@pytest.fixture
def backend() -> str:
    """All of them read one clock."""
    return "auto"


class SetClock:
    """The system's clock as a server sees it."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock.so", folder / "clock"
        source = str(Path(__file__).with_name("clock.c"))
        run_compiler([*compiler("cc"), "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", source, "-o", str(library)], folder)
        self._file.write_bytes(struct.pack("q", 0))
        self.before = ("env", f"LD_PRELOAD={library}", f"TEST_CLOCK={self._file}")

    def set(self, ahead: int) -> None:
        """So many seconds before the one that everybody else has."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", ahead))


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    return SetClock(tmp_path)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["on", "back"])
def test_nothing_ends_too_early_or_too_late_when_the_clock_is_set(serve: Serve, clock: SetClock, ahead: int) -> None:
    server = serve(before=clock.before, drain_deadline="60s")
    banned = server.http.post("/v1/bans", json={"address": "192.0.2.1", "ttl": "30m"})
    assert banned.status_code == 201, banned.text
    (client,) = server.connect()
    clock.set(ahead)

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


SHORT, LONG, NEW = "127.0.0.5", "127.0.0.6", "127.0.0.7"


def ban(server: Server, address: str, ttl: str) -> None:
    answer = server.http.post("/v1/bans", json={"address": address, "ttl": ttl})
    assert answer.status_code == 201, answer.text


def make_key(server: Server, name: str, expires_in: str) -> str:
    answer = server.http.post("/v1/keys", json={"name": name, "role": "viewer", "expires_in": expires_in})
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["key"]
    return key


def code_for(server: Server, key: str) -> str:
    """What the API says to who brings this key."""
    answer = server.http.get("/v1/node", headers={"authorization": f"Bearer {key}"})
    return "" if answer.status_code == 200 else str(answer.json()["code"])


def kept_out(server: Server) -> set[str]:
    return {address for address in (SHORT, LONG, NEW) if refused(server.port, source=address)}


def banned(server: Server) -> set[str]:
    return {row["address"] for row in server.get("/v1/bans")["items"]}


def test_bans_and_keys_end_when_the_clock_says_so_however_it_is_set(
    serve: Serve, clock: SetClock, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    admin = add_key(state / "keys.json", "admin", role="admin")
    server = serve(before=clock.before, state_dir=state, key=admin)
    ban(server, LONG, "30m")
    ban(server, SHORT, "3s")
    long, short = make_key(server, "long", "30m"), make_key(server, "short", "3s")
    assert LONG in kept_out(server) & banned(server)

    clock.set(-HOUR)
    ban(server, NEW, "3s")
    new = make_key(server, "new", "3s")
    # When these are over, so are the seconds that the former ones were given, but the clock is not yet there.
    eventually(lambda: kept_out(server) == banned(server) == {SHORT, LONG})
    eventually(lambda: code_for(server, new) == "key_expired")
    assert [code_for(server, key) for key in (short, long)] == ["", ""]
    server.kill()
    server = serve(before=clock.before, state_dir=state, key=admin)
    assert kept_out(server) == banned(server) == {SHORT, LONG}
    assert [code_for(server, key) for key in (new, short, long)] == ["key_expired", "", ""]

    clock.set(0)
    eventually(lambda: kept_out(server) == banned(server) == {LONG})
    assert [code_for(server, key) for key in (short, long)] == ["key_expired", ""]

    clock.set(HOUR)
    eventually(lambda: kept_out(server) == banned(server) == set())
    assert code_for(server, long) == "key_expired"
    assert code_for(server, admin) == ""
    server.kill()
    server = serve(before=clock.before, state_dir=state, key=admin)
    assert kept_out(server) == banned(server) == set()
    assert [code_for(server, key) for key in (short, long)] == ["key_expired"] * 2
