"""Keys, scopes, and what is allowed without keys."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from iocpd.api.auth import check_scopes, needs, public
from iocpd.api.keys import ROLES, SCOPES, KeyFileError, add_key, read_keys, revoke_key
from tests.integration.conftest import Api, Serve
from tests.integration.server import SERVE, environment, run
from tests.operations import OPERATIONS

MakeApi = Callable[[Path], Api]

BODIES: dict[str, dict[str, Any]] = {
    "bans-create": {"address": "192.0.2.1", "ttl": "1s"},
    "broadcasts-send": {"ip": "192.0.2.1", "payload": {"text": "x"}},
    "connections-label": {"groups": ["a"]},
    "keys-create": {"name": "another", "scopes": ["keys:write"]},
    "kicks-start": {"ip": "192.0.2.1"},
    "messages-send": {"text": "x"},
}


def bearer(key: str) -> dict[str, dict[str, str]]:
    return {"headers": {"authorization": f"Bearer {key}"}}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


def path_of(document: dict[str, Any], id: str) -> tuple[str, str]:
    """The method and the path of an operation, on something that is not there."""
    return next(
        (method.upper(), re.sub(r"{\w+}", "x", path))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation["operationId"] == id
    )


@pytest.mark.parametrize("id", OPERATIONS)
def test_an_operation_is_open_to_its_scope_and_to_nothing_else(id: str, keys: Path, api_with_keys: MakeApi) -> None:
    scope = OPERATIONS[id]
    others = tuple(each for each in SCOPES if each != scope)
    without = add_key(keys, "without", scopes=others)
    only = add_key(keys, "only", scopes=(scope,)) if scope else without
    api = api_with_keys(keys)
    method, path = path_of(api.app.openapi(), id)
    body = {"json": BODIES[id]} if id in BODIES else {}

    def call(key: str | None) -> httpx.Response:
        headers = {"last-event-id": "none"}  # or the stream would not end
        return api.call(method, path, headers=headers | (bearer(key)["headers"] if key else {}), **body)

    if scope is None:
        assert call(None).status_code == 200
        return
    nobody, refused = call(None), call(without)
    assert (nobody.status_code, nobody.json()["code"]) == (401, "key_missing")
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert f"has no scope {scope}," in refused.json()["detail"]
    assert f'scope="{scope}"' in refused.headers["www-authenticate"]
    assert api.engine.running
    let_in = call(only)
    assert let_in.status_code in (200, 201, 202, 204, 404, 409, 422), let_in.text


def test_without_a_key_or_with_a_wrong_one_nothing_is_told(keys: Path, api_with_keys: MakeApi) -> None:
    key = add_key(keys, "alice", role="admin")
    api = api_with_keys(keys)
    for path in ("/v1/connections", "/v1/node", "/metrics", "/v1/no/such/route"):
        answer = api.call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (401, "key_missing")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        for wrong in (key[:-1], key + "x", key.swapcase(), "\u00e9"):
            answer = api.call("GET", path, headers={b"authorization": f"Bearer {wrong}".encode()})
            assert (answer.status_code, answer.json()["code"]) == (401, "key_unknown")
            assert wrong not in answer.text
        assert api.call("GET", path, headers={"authorization": f"Basic {key}"}).status_code == 401
    assert api.call("GET", "/v1/node", **bearer(key)).status_code == 200


def test_probes_and_the_openapi_document_need_no_key(keys: Path, api_with_keys: MakeApi) -> None:
    add_key(keys, "alice", role="admin")
    api = api_with_keys(keys)
    for path in ("/livez", "/readyz", "/startupz", "/openapi.json"):
        assert api.call("GET", path).status_code == 200


def test_a_drain_that_shuts_down_needs_both_scopes(keys: Path, api_with_keys: MakeApi) -> None:
    operator = add_key(keys, "operator", role="operator")
    api = api_with_keys(keys)
    answer = api.call("PUT", "/v1/node/drain", json={"then": "shutdown"}, **bearer(operator))
    assert answer.status_code == 403
    assert "node:shutdown" in answer.json()["detail"]
    assert api.call("POST", "/v1/node/shutdown", **bearer(operator)).status_code == 403


def test_a_route_that_declares_no_scope_fails_the_start() -> None:
    router = APIRouter()

    @router.get("/open")
    async def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match="/open declares no scope"):
        check_scopes([router])
    with pytest.raises(ValueError, match="no scope"):
        needs("everything")

    declared = APIRouter()
    declared.get("/a", dependencies=[needs("node:read")])(forgotten)
    declared.get("/b", dependencies=[public()])(forgotten)
    check_scopes([declared])


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "attacker.example"},
        {"host": "127.0.0.1.attacker.example"},
        {"origin": "http://attacker.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
    ids=str,
)
def test_without_keys_a_web_page_can_not_use_the_api(api: Api, headers: dict[str, str]) -> None:
    answer = api.call("POST", "/v1/node/shutdown", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert api.engine.running


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:8080", "127.1.2.3"])
def test_without_keys_loopback_is_served_under_each_of_its_names(api: Api, host: str) -> None:
    assert api.call("GET", "/v1/node", headers={"host": host}).status_code == 200


def test_roles_are_bundles_of_scopes_and_admin_has_all() -> None:
    assert set(ROLES["admin"]) == set(SCOPES)
    assert ROLES["viewer"] < ROLES["operator"] < ROLES["admin"]
    assert "node:shutdown" not in ROLES["operator"]


def test_the_file_holds_no_key_and_only_its_owner_reads_it(keys: Path) -> None:
    made = add_key(keys, "alice", role="viewer")
    assert made not in keys.read_text()
    assert len(made) > 40
    if os.name != "nt":
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert list(keys.parent.iterdir()) == [keys], "another file was left"


def test_a_name_is_there_once_and_can_be_revoked(keys: Path) -> None:
    add_key(keys, "alice", role="viewer")
    with pytest.raises(KeyFileError, match="already"):
        add_key(keys, "alice", role="admin")
    with pytest.raises(KeyFileError, match="not a name"):
        add_key(keys, "a b", role="admin")
    with pytest.raises(KeyFileError, match="no scope 'everything'"):
        add_key(keys, "bob", scopes=("everything",))
    revoke_key(keys, "alice")
    assert read_keys(keys) == []
    with pytest.raises(KeyFileError, match="no key named"):
        revoke_key(keys, "alice")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 2}', '{"keys": [{"name": "a"}]}', "[" * 100_000])
def test_a_damaged_key_file_is_refused_and_named(keys: Path, content: str) -> None:
    keys.parent.mkdir()
    keys.write_text(content)
    with pytest.raises(KeyFileError, match=r"keys\.json is not a key file"):
        read_keys(keys)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_key_file_that_others_may_write_to_fails_the_start(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys.json"
    add_key(file, "alice", role="admin")
    file.chmod(mode)
    done = run(["--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--keys", str(file)], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"its mode is {mode:04o}" in line
    assert f"chmod go-w {file}" in line


def test_the_command_makes_keys_that_the_service_asks_for(serve: Serve, tmp_path: Path) -> None:
    base = SERVE[:-1] if SERVE[-1] == "serve" else SERVE
    file = tmp_path / "my-keys.json"

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*base, "keys", *arguments, "--keys", str(file)]
        return subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
        )

    viewer = keys("add", "watcher", "--role", "viewer").stdout.strip()
    kicker = keys("add", "kicker", "--scope", "connections:kick", "--scope", "connections:read").stdout.strip()
    listed = keys("list").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["watcher", "kicker"]
    assert keys("add", "watcher", "--role", "admin").returncode == 5
    assert keys("add", "nobody").returncode == 2
    assert {entry["name"] for entry in json.loads(file.read_text())["keys"]} == {"watcher", "kicker"}

    server = serve(arguments=("--keys", str(file)))
    assert any("with keys from" in line for line in server.lines)
    assert server.http.get("/v1/connections").status_code == 401
    server.http.headers["authorization"] = f"Bearer {kicker}"
    client = server.connect()[0]
    id = server.id_of(client)
    kicked = server.http.delete(f"/v1/connections/{id}", params={"force": "true"})
    assert kicked.status_code == 204
    assert server.http.delete(f"/v1/connections/{id}", headers={"authorization": f"Bearer {viewer}"}).status_code == 403
    (line,) = [line for line in server.log().splitlines() if '"iocpd.actions"' in line and '"kick"' in line]
    assert (json.loads(line)["actor"], json.loads(line)["target"]) == ("kicker", id)
    for secret in (viewer, kicker):
        assert secret not in server.log()
        assert secret not in "".join(server.lines)
    assert keys("revoke", "watcher", "--yes").returncode == 0
    assert keys("revoke", "watcher", "--yes").returncode != 0
