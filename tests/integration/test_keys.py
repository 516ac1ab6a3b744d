"""/v1/keys: making and revoking keys while the service runs, and what a caller may not give."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from iocpd.api import auth
from iocpd.api.access.store import KeyStore
from iocpd.api.keys import add_key, create_key, read_keys
from tests.integration.conftest import Api, Serve
from tests.support import eventually

MakeApi = Callable[[Path], Api]


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {"authorization": f"Bearer {key}"}}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


def metric(api: Api, key: str, name: str) -> float:
    text = api.call("GET", "/metrics", **bearer(key)).text
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).rpartition(" ")[2])


def test_a_key_is_made_shown_once_listed_and_revoked(keys: Path, api_with_keys: MakeApi) -> None:
    admin = add_key(keys, "alice", role="admin")
    api = api_with_keys(keys)
    answer = api.call("POST", "/v1/keys", json={"name": "bob", "role": "viewer", "expires_in": "90d"}, **bearer(admin))
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert list(made) == ["name", "role", "scopes", "created_at", "expires_at", "key"]
    assert answer.headers["cache-control"] == "no-store"
    lasts = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert lasts == timedelta(days=90)
    assert api.call("GET", "/v1/node", **bearer(made["key"])).status_code == 200
    assert api.call("POST", "/v1/keys", json={"name": "x", "role": "viewer"}, **bearer(made["key"])).status_code == 403

    scoped = {"name": "prometheus", "scopes": ["metrics:read"]}
    assert api.call("POST", "/v1/keys", json=scoped, **bearer(admin)).status_code == 201
    items = api.call("GET", "/v1/keys", **bearer(admin)).json()["items"]
    assert [(item["name"], item["role"], item["scopes"]) for item in items] == [
        ("alice", "admin", []),
        ("bob", "viewer", []),
        ("prometheus", None, ["metrics:read"]),
    ]
    assert "key" not in items[1]
    assert made["key"] not in keys.read_text()

    assert api.call("DELETE", "/v1/keys/bob", **bearer(admin)).status_code == 204
    assert api.call("GET", "/v1/node", **bearer(made["key"])).status_code == 401
    again = api.call("DELETE", "/v1/keys/bob", **bearer(admin))
    assert (again.status_code, again.json()["code"]) == (404, "key_name_unknown")


def test_a_caller_can_give_no_scope_and_no_time_that_it_has_not(keys: Path, api_with_keys: MakeApi) -> None:
    limited = add_key(keys, "limited", scopes=("keys:write", "connections:read", "node:read"))
    short = add_key(keys, "short", role="admin", expires_in=3600)
    api = api_with_keys(keys)

    def make(caller: str, **body: Any) -> int:
        answer = api.call("POST", "/v1/keys", json={"name": f"n{len(read_keys(keys))}", **body}, **bearer(caller))
        if answer.status_code == 403:
            assert answer.json()["code"] == "scope_missing"
        return answer.status_code

    assert make(limited, scopes=["connections:read", "node:read"]) == 201
    assert make(limited, scopes=["keys:write"]) == 201
    assert make(limited, scopes=["connections:read", "connections:kick"]) == 403
    for role in ("viewer", "operator", "admin"):
        assert make(limited, role=role) == 403
    assert make(short, role="viewer", expires_in="30m") == 201
    assert make(short, role="viewer", expires_in="2h") == 403
    assert make(short, role="viewer") == 403
    assert {record.name for record in read_keys(keys)} == {"limited", "short", "n2", "n3", "n4"}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "bob"},
        {"name": "bob", "role": "viewer", "scopes": ["node:read"]},
        {"name": "bob", "role": "root"},
        {"name": "bob", "scopes": []},
        {"name": "bob", "scopes": ["everything"]},
        {"name": "a b", "role": "viewer"},
        {"name": "local", "role": "viewer"},
        {"name": "x" * 65, "role": "viewer"},
        {"name": "bob\n", "role": "viewer"},
        {"name": "bob", "role": "viewer", "expires_in": "0s"},
        {"name": "bob", "role": "viewer", "expires_in": "soon"},
        {"name": "bob", "role": "viewer", "key": "mine"},
    ],
    ids=str,
)
def test_a_wrong_body_is_refused_and_makes_nothing(keys: Path, api_with_keys: MakeApi, body: dict[str, Any]) -> None:
    admin = add_key(keys, "alice", role="admin")
    answer = api_with_keys(keys).call("POST", "/v1/keys", json=body, **bearer(admin))
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert len(read_keys(keys)) == 1


def test_a_name_is_given_once_and_the_last_key_that_can_make_keys_stays(keys: Path, api_with_keys: MakeApi) -> None:
    admin = add_key(keys, "alice", role="admin")
    api = api_with_keys(keys)
    taken = api.call("POST", "/v1/keys", json={"name": "alice", "role": "viewer"}, **bearer(admin))
    assert (taken.status_code, taken.json()["code"]) == (409, "key_exists")
    last = api.call("DELETE", "/v1/keys/alice", **bearer(admin))
    assert (last.status_code, last.json()["code"]) == (409, "last_key_writer")
    bob = api.call("POST", "/v1/keys", json={"name": "bob", "role": "admin"}, **bearer(admin)).json()["key"]
    assert api.call("DELETE", "/v1/keys/alice", **bearer(admin)).status_code == 204
    assert api.call("GET", "/v1/keys", **bearer(admin)).status_code == 401
    assert [item["name"] for item in api.call("GET", "/v1/keys", **bearer(bob)).json()["items"]] == ["bob"]


def test_a_key_that_has_expired_is_told_so(keys: Path, api_with_keys: MakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(keys, "alice", role="admin")
    key, record = create_key(keys, "bob", role="admin", expires_in=60)
    api = api_with_keys(keys)
    assert api.call("GET", "/v1/node", **bearer(key)).status_code == 200
    text = keys.read_text().replace(
        record.model_dump(mode="json")["expires_at"],
        (datetime.now(UTC) - timedelta(seconds=1)).isoformat(),
    )
    keys.write_text(text)
    monkeypatch.setattr(KeyStore, "CHECK_SECONDS", 0.0)
    api = api_with_keys(keys)
    answer = api.call("GET", "/v1/node", **bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (401, "key_expired")
    assert "'bob' expired at" in answer.json()["detail"]
    assert key not in answer.text


def test_the_first_key_ends_the_time_without_keys(api: Api, keys: Path) -> None:
    assert api.call("GET", "/v1/keys").json() == {"items": []}
    assert api.call("DELETE", "/v1/keys/alice").status_code == 404
    key = api.call("POST", "/v1/keys", json={"name": "alice", "role": "admin"}).json()["key"]
    assert api.call("GET", "/v1/node").status_code == 401
    assert api.call("GET", "/v1/node", **bearer(key)).status_code == 200
    assert [record.name for record in read_keys(keys)] == ["alice"]


def test_a_key_file_that_can_not_be_written_is_a_problem_and_changes_nothing(
    keys: Path, api_with_keys: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = add_key(keys, "alice", role="admin")
    api = api_with_keys(keys)

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("iocpd.api.keys.replace_file", read_only)
    answer = api.call("POST", "/v1/keys", json={"name": "bob", "role": "viewer"}, **bearer(admin))
    assert (answer.status_code, answer.json()["code"]) == (503, "keys_unavailable")
    assert "Read-only file system" in answer.json()["detail"]
    assert api.call("DELETE", "/v1/keys/alice", **bearer(admin)).status_code == 409
    assert api.call("GET", "/v1/keys", **bearer(admin)).status_code == 200


def test_wrong_keys_are_limited_for_each_address_and_right_ones_are_not(keys: Path, api_with_keys: MakeApi) -> None:
    admin = add_key(keys, "alice", role="admin")
    api = api_with_keys(keys)
    statuses = [api.call("GET", "/v1/node", **bearer(f"iocpd_{number}")).status_code for number in range(30)]
    assert statuses == [401] * auth.WRONG_KEYS_BURST + [429] * (30 - auth.WRONG_KEYS_BURST)
    answer = api.call("GET", "/v1/node", **bearer("iocpd_not_a_key"))
    assert answer.json()["code"] == "too_many_wrong_keys"
    assert 1 <= int(answer.headers["retry-after"]) <= 6
    assert api.call("GET", "/v1/node", **bearer(admin)).status_code == 200
    assert metric(api, admin, 'iocpd_wrong_keys_total{answer="refused"}') == auth.WRONG_KEYS_BURST
    assert metric(api, admin, 'iocpd_wrong_keys_total{answer="limited"}') == 31 - auth.WRONG_KEYS_BURST
    assert metric(api, admin, "iocpd_keys") == 1


def test_a_running_service_follows_its_key_file(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    admin = add_key(file, "alice", role="admin")
    server = serve(arguments=("--keys", str(file)))
    server.http.headers["authorization"] = f"Bearer {admin}"
    bob = add_key(file, "bob", role="viewer")

    def status(key: str) -> int:
        return server.http.get("/v1/node", headers={"authorization": f"Bearer {key}"}).status_code

    assert status(bob) == 200, "a key that has just been made works at once"
    content = file.read_bytes()
    file.unlink()
    eventually(lambda: "the key file can't be used" in (status(bob), server.log())[1])
    assert status(bob) == 200
    assert server.http.get("/v1/node", headers={"authorization": ""}).status_code == 401
    file.touch(0o600)
    file.write_bytes(content[:100])
    assert (status(bob), status("wrong")) == (200, 401)
    file.write_bytes(content)
    revoked = server.http.delete("/v1/keys/bob")
    assert revoked.status_code == 204
    assert status(bob) == 401
    assert admin not in server.log()
