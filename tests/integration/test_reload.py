"""Settings that are read again while the service runs: by POST /v1/node/reload and by SIGHUP."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from iocpd.api.keys import add_key
from iocpd.api.node.reload import RELOADABLE
from iocpd.api.settings import Settings
from tests.integration.conftest import Api, Serve
from tests.integration.server import Server
from tests.support import eventually, refused

needs_hangup = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "iocpd.toml"
    path.write_text('idle_timeout = "5m"\nmax_message_bytes = 1000\n')
    return path


def reload(server: Server) -> Any:
    answer = server.http.post("/v1/node/reload")
    assert answer.status_code == 200, answer.text
    return answer.json()


def log_of(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines()]


def test_what_can_change_changes_and_the_rest_is_told(serve: Serve, file: Path) -> None:
    server = serve(arguments=("--config", str(file)), workers=1)
    assert reload(server) == {"changed": [], "needs_restart": []}
    file.write_text(
        'idle_timeout = "1h"\nmax_message_bytes = 10\nmax_connections = 2\ndrain_deadline = "45s"\n'
        'log_level = "warning"\nclosed_capacity = 7\nworkers = 2\nhttp_keep_alive = "5s"\n'
    )
    client = server.connect()[0]
    report = reload(server)
    changed = {each["name"]: (each["before"], each["after"]) for each in report["changed"]}
    assert changed.pop("max_connections")[1] == "2"
    assert changed == {
        "idle_timeout": ("300s", "3600s"),
        "max_message_bytes": ("1000", "10"),
        "drain_deadline": ("30s", "45s"),
        "log_level": ("info", "warning"),
    }
    # A variable wins over the file, so workers is as it was.
    late = [(each["name"], each["before"], each["after"]) for each in report["needs_restart"]]
    assert late == [("closed_capacity", "4096", "7"), ("http_keep_alive", "60s", "5s")]
    assert reload(server) == {"changed": [], "needs_restart": report["needs_restart"]}

    limits = server.get("/v1/node")["limits"]
    assert (limits["max_connections"], limits["max_message_bytes"], limits["closed_capacity"]) == (2, 10, 4096)
    sent = server.http.post(f"/v1/connections/{server.id_of(client)}/messages", json={"text": "x" * 11})
    assert sent.status_code == 413
    assert client.echoes(b"still here")
    (second,) = server.connect()
    assert refused(server.port)
    assert server.get("/v1/listeners")["items"][0]["refused_limit"] == 1
    for each in (client, second):
        each.close()


def test_a_new_limit_holds_for_who_is_there_already(serve: Serve, file: Path) -> None:
    server = serve(arguments=("--config", str(file)))
    with server.connect()[0] as client:
        file.write_text('idle_timeout = "250ms"\n')
        assert {each["name"]: each["after"] for each in reload(server)["changed"]}["idle_timeout"] == "0.25s"
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('log_level = "debug"\nidle_timeout = "soon"\n', "line 2: idle_timeout is 'soon'"),
        ("log_level = ", "is not TOML"),
        ('log_level = "debug"\nmax_connections = 0\n', "max_connections = 0"),
        ('log_level = "debug"\nno_such_setting = 1\n', "no_such_setting is not a setting"),
        ("max_message_bytes = 8000000\n", "more than send_hard_bytes"),
        (None, "cannot read the settings file"),
    ],
)
def test_settings_that_can_not_be_used_change_nothing(
    serve: Serve, file: Path, content: str | None, expected: str
) -> None:
    server = serve(arguments=("--config", str(file)))
    before = server.get("/v1/node")["limits"]
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    answer = server.http.post("/v1/node/reload")
    assert (answer.status_code, answer.json()["code"]) == (422, "settings_refused")
    assert expected in answer.json()["errors"][0]["detail"]
    assert expected in answer.json()["detail"]
    assert server.get("/v1/node")["limits"] == before
    if sys.platform != "win32":
        server.signal(signal.SIGHUP)
        eventually(lambda: any(expected in line.get("reason", "") for line in log_of(server)))
        assert server.get("/v1/node")["limits"] == before
    last = server.get("/v1/audit", limit=1)["items"][0]
    assert (last["action"], last["outcome"]) == ("node-reload", "settings_refused")


@needs_hangup
def test_a_hangup_reads_settings_and_keys_again(serve: Serve, file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    admin = add_key(keys, "alice", role="admin")
    server = serve(arguments=("--config", str(file), "--keys", str(keys)))
    server.http.headers["authorization"] = f"Bearer {admin}"
    file.write_text('idle_timeout = "7m"\nlog_format = "console"\n')
    server.signal(signal.SIGHUP)
    eventually(lambda: server.get("/v1/node")["limits"]["idle_timeout"] == "420s")
    entry = eventually(lambda: server.get("/v1/audit", action="node-reload")["items"])[0]
    assert (entry["actor"], entry["target"], entry["outcome"]) == ("system", "SIGHUP", "done")
    assert "idle_timeout 300s -> 420s" in entry["detail"]
    last = server.log().splitlines()[-1]
    assert "SIGHUP: " in last
    assert "idle_timeout 300s -> 420s" in last
    assert not last.startswith("{")
    assert "\x1b" not in server.log()

    keys.write_text("{")
    answer = server.http.post("/v1/node/reload")
    assert (answer.status_code, answer.json()["code"]) == (422, "settings_refused")
    assert "is not a key file" in answer.json()["detail"]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_settings_that_were_not_read_from_anywhere_can_not_be_read_again(api: Api) -> None:
    answer = api.call("POST", "/v1/node/reload")
    assert (answer.status_code, answer.json()["code"]) == (422, "settings_refused")


def test_what_can_be_reloaded_is_a_setting() -> None:
    assert set(Settings.model_fields) >= RELOADABLE
    assert "tcp" not in RELOADABLE
    assert "keys_file" not in RELOADABLE
