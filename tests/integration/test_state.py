"""One service for a state directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.server import BACKENDS, run

QUIET = ("--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--backend", BACKENDS[-1])


@pytest.fixture
def backend() -> str:
    """State is the API's."""
    return BACKENDS[-1]


def test_a_second_service_is_told_who_has_the_state_and_the_way_out(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = serve(state_dir=state)
    assert first.http.post("/v1/bans", json={"address": "192.0.2.1"}).status_code == 201
    done = run(QUIET, state)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"process {first.get('/v1/node')['pid']} uses the state directory" in line
    assert "--state-dir" in line
    other = serve()  # with a directory of its own
    assert other.get("/v1/bans")["items"] == []
    assert first.http.post("/v1/bans", json={"address": "192.0.2.2"}).status_code == 201


@pytest.mark.parametrize("end", ["kill -9", "shutdown"])
def test_the_state_is_free_when_its_service_has_ended(serve: Serve, tmp_path: Path, end: str) -> None:
    state = tmp_path / "state"
    first = serve(state_dir=state)
    assert first.http.post("/v1/bans", json={"address": "192.0.2.1"}).status_code == 201
    if end == "shutdown":
        assert first.http.post("/v1/node/shutdown").status_code == 202
        assert first.wait() == 0
    else:
        first.kill()
    second = serve(state_dir=state)
    assert [ban["address"] for ban in second.get("/v1/bans")["items"]] == ["192.0.2.1"]
    assert (state / "service.lock").read_text().split() == [str(second.get("/v1/node")["pid"])]
