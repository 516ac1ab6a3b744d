"""The audit over the API and in the real process: who is noted for what, and what a disk that fails does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from iocpd.api.keys import add_key
from tests.integration.conftest import Api, Serve
from tests.integration.server import Server
from tests.support import eventually, leaving

MakeApi = Callable[[Path], Api]

SECRET = "the-payload-itself"


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {"authorization": f"Bearer {key}"}}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


def entries(api: Api, key: str | None = None, **query: Any) -> list[dict[str, Any]]:
    """All of them, the oldest first."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        asked = query | ({"cursor": cursor} if cursor else {})
        answer = api.call("GET", "/v1/audit", params=asked, **(bearer(key) if key else {}))
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return found[::-1]


def brief(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["actor"], entry["action"], entry["target"], entry["outcome"], entry["status"]


def test_every_request_that_changes_something_is_noted_once_also_a_refused_one(
    keys: Path, api_with_keys: MakeApi
) -> None:
    admin = add_key(keys, "alice", role="admin")
    viewer = add_key(keys, "bob", role="viewer")
    api = api_with_keys(keys)
    api.call("PUT", "/v1/node/drain", json={"lb_delay": "60s", "deadline": "120s"}, **bearer(admin))
    api.call("DELETE", "/v1/node/drain", **bearer(admin))
    api.call("DELETE", "/v1/connections/x", **bearer(admin))
    api.call("DELETE", "/v1/connections/x", **bearer(viewer))
    api.call("DELETE", "/v1/connections/x", params={"timeout": "soon"}, **bearer(admin))
    api.call("POST", "/v1/node/shutdown")
    api.call("POST", "/v1/node/shutdown", **bearer("iocpd_not_a_key"))
    for path in ("/v1/node", "/v1/audit", "/v1/connections", "/metrics", "/livez"):
        api.call("GET", path, **bearer(admin))
        api.call("GET", path)
    api.call("POST", "/v1/node", **bearer(admin))
    api.call("POST", "/v1/no/such/route", **bearer(admin))
    assert [brief(entry) for entry in entries(api, admin)] == [
        ("alice", "node-begin_drain", "node, then stay", "done", 202),
        ("alice", "node-cancel_drain", "node", "done", 204),
        ("alice", "connections-kick", "x", "connection_unknown", 404),
        ("bob", "connections-kick", "/v1/connections/x", "scope_missing", 403),
        ("alice", "connections-kick", "/v1/connections/x", "validation_failed", 422),
        ("anonymous", "node-shutdown", "/v1/node/shutdown", "key_missing", 401),
        ("anonymous", "node-shutdown", "/v1/node/shutdown", "key_unknown", 401),
    ]


def test_an_entry_has_the_id_of_the_request_and_the_address_of_the_client(api: Api) -> None:
    answer = api.call("DELETE", "/v1/node/drain", headers={"x-request-id": "deploy-42"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "deploy-42"
    api.call("DELETE", "/v1/node/drain", headers={"x-request-id": "two words"})
    given, made = entries(api)
    assert (given["request_id"], given["client"], given["actor"]) == ("deploy-42", "127.0.0.1", "local")
    assert made["request_id"] != "two words"


def test_pages_are_the_newest_first_and_filters_hold(keys: Path, api_with_keys: MakeApi) -> None:
    admin = add_key(keys, "alice", role="admin")
    carol = add_key(keys, "carol", role="admin")
    api = api_with_keys(keys)
    for number in range(7):
        api.call("DELETE", f"/v1/connections/x{number}", **bearer(admin if number % 2 else carol))
    between = datetime.now(UTC).isoformat()
    api.call("DELETE", "/v1/node/drain", **bearer(admin))

    page = api.call("GET", "/v1/audit", params={"limit": 3}, **bearer(admin))
    assert [item["target"] for item in page.json()["items"]] == ["node", "x6", "x5"]
    assert 'rel="next"' in page.headers["link"]
    assert page.json()["total"] is None
    assert [entry["target"] for entry in entries(api, admin, limit=3)] == [*(f"x{n}" for n in range(7)), "node"]
    assert [entry["target"] for entry in entries(api, admin, limit=2, actor="carol")] == ["x0", "x2", "x4", "x6"]
    assert len(entries(api, admin, action="connections-kick")) == 7
    assert [entry["target"] for entry in entries(api, admin, since=between)] == ["node"]

    cursor = page.json()["next_cursor"]
    other = api.call("GET", "/v1/audit", params={"actor": "carol", "cursor": cursor}, **bearer(admin))
    assert (other.status_code, other.json()["code"]) == (422, "cursor_mismatch")
    for wrong in ({"since": "yesterday"}, {"since": "2025-01-01T00:00:00"}, {"limit": 0}, {"outcome": "done"}):
        assert api.call("GET", "/v1/audit", params=wrong, **bearer(admin)).status_code == 422
    operator = add_key(keys, "oscar", role="operator")
    assert api.call("GET", "/v1/audit", **bearer(operator)).status_code == 403


def test_an_answer_that_was_given_before_is_noted_as_such(api: Api) -> None:
    body = {"ip": "192.0.2.1", "payload": {"text": SECRET}}
    for _ in range(2):
        answer = api.call("POST", "/v1/broadcasts", json=body, headers={"idempotency-key": "once"})
        assert answer.status_code == 200, answer.text
    first, again = entries(api)
    assert first["detail"] != "replayed"
    assert (again["action"], again["status"], again["detail"]) == ("broadcasts-send", 200, "replayed")


def test_who_has_no_key_can_not_push_out_what_others_did(keys: Path, api_with_keys: MakeApi) -> None:
    admin = add_key(keys, "alice", role="admin")
    api = api_with_keys(keys)
    for _ in range(60):
        api.call("POST", "/v1/node/shutdown")
    noted = entries(api, admin)
    assert 20 <= len(noted) < 30
    assert all(entry["outcome"] == "key_missing" for entry in noted)
    api.call("DELETE", "/v1/node/drain", **bearer(admin))
    assert entries(api, admin)[-1]["actor"] == "alice"


# --- the real process -------------------------------------------------------------------------------------------------


def lines_of(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]


def log_of(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines()]


def test_start_signal_and_stop_are_noted_and_no_payload_or_key_is(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    admin = add_key(file, "alice", role="admin")
    server = serve(arguments=("--keys", str(file)), access_log="true", log_level="debug")
    server.http.headers["authorization"] = f"Bearer {admin}"
    client = server.connect()[0]
    id = server.id_of(client)
    sent = server.http.post(f"/v1/connections/{id}/messages", json={"text": SECRET}, headers={"x-request-id": "r-1"})
    assert sent.status_code == 200
    server.http.post("/v1/broadcasts", json={"all": True, "payload": {"text": SECRET}})
    server.http.post("/v1/broadcasts", json={"all": "maybe", "payload": {"text": SECRET}})
    made = server.http.post("/v1/keys", json={"name": "bob", "role": "viewer"}).json()["key"]
    wrong = {"authorization": "Bearer iocpd_" + SECRET}
    assert server.http.delete(f"/v1/connections/{id}", headers=wrong).status_code == 401
    with leaving([client]):
        kicked = server.http.delete(f"/v1/connections/{id}", params={"farewell": SECRET, "reason": "maintenance"})
    assert kicked.status_code == 204
    forged = '%0A{"actor":"root"}%1B[2J%E2%80%AE'
    assert server.http.delete(f"/v1/connections/x{forged}").status_code == 404
    server.signal(signal.SIGTERM)
    assert server.wait() == 0

    written = lines_of(tmp_path / "server0")
    first, *_, signalled, last = written
    assert (first["actor"], first["action"]) == ("system", "node-start")
    assert (signalled["action"], signalled["target"]) == ("node-signal", "SIGTERM")
    assert (last["action"], last["outcome"]) == ("node-stop", "done")
    assert "1 connections drained" not in last["detail"]
    kick = next(entry for entry in written if entry["action"] == "connections-kick" and entry["status"] == 204)
    assert kick["target"] == id
    assert "reason" in kick["detail"]
    send = next(entry for entry in written if entry["action"] == "messages-send")
    assert (send["request_id"], send["target"], send["client"]) == ("r-1", id, "127.0.0.1")
    assert {entry["request_id"] for entry in log_of(server) if entry["logger"] == "iocpd.actions"} >= {"r-1"}
    audit = (tmp_path / "server0" / "audit.jsonl").read_text()
    for text in (audit, server.log()):
        for secret in (SECRET, admin, made):
            assert secret not in text
        assert all(line.isprintable() for line in text.splitlines())


def test_a_job_is_noted_when_it_is_asked_for_and_when_it_is_over(server: Server) -> None:
    clients = server.connect(3)
    asked = server.http.post("/v1/kicks", json={"all": True, "force": True}, headers={"prefer": "respond-async"})
    assert asked.status_code == 202, asked.text
    job = asked.json()["job"]
    eventually(lambda: server.get(f"/v1/kicks/{job}")["state"] == "done")
    noted = eventually(lambda: found if len(found := server.get("/v1/audit", actor="local")["items"]) == 2 else None)
    assert noted is not None
    begun, over = sorted(noted, key=lambda entry: entry["status"] is None)
    assert (begun["status"], begun["outcome"]) == (202, "done")
    assert job in begun["detail"]
    assert job in over["target"]
    assert (over["status"], over["outcome"]) == (None, "done")
    assert "kicked" in over["detail"]
    assert over["action"] == begun["action"]
    assert over["request_id"] == begun["request_id"] == asked.headers["x-request-id"]
    for client in clients:
        client.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_stops_nothing_is_counted_and_heals_by_itself(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "server0"
    server = serve()
    audit = state / "audit.jsonl"
    audit.rename(state / "kept")
    audit.symlink_to("/dev/full")
    client = server.connect()[0]
    id = server.id_of(client)
    assert server.http.post(f"/v1/connections/{id}/messages", json={"text": "x"}).status_code == 200
    assert server.http.delete("/v1/node/drain").status_code == 409
    assert client.echoes(b"served") or client.read(1)

    def metrics() -> dict[str, float]:
        lines = server.http.get("/metrics").text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if line.startswith("iocpd_audit"))
        return {name: float(value) for name, _, value in pairs}

    assert metrics()["iocpd_audit_writable"] == 0
    assert metrics()["iocpd_audit_write_failures_total"] >= 1
    complaints = [line for line in log_of(server) if line["logger"] == "iocpd.audit" and line["level"] == "error"]
    assert len(complaints) == 1
    assert "No space left" in complaints[0]["reason"]
    audit.unlink()
    eventually(lambda: metrics()["iocpd_audit_writable"] == 1)
    assert metrics()["iocpd_audit_lost_entries_total"] == 0
    assert [entry["action"] for entry in lines_of(state)] == ["messages-send", "node-cancel_drain"]
    assert any(line["event"] == "the audit is written again" for line in log_of(server))


def test_pages_go_through_files_that_were_put_aside_and_over_a_restart(serve: Serve, tmp_path: Path) -> None:
    server = serve(audit_max_bytes=4096, audit_files=5)
    for number in range(50):
        server.http.delete(f"/v1/connections/x{number}")

    def targets(server: Server) -> list[str]:
        found: list[str] = []
        page = server.get("/v1/audit", action="connections-kick", limit=9)
        while page["next_cursor"]:
            found += [item["target"] for item in page["items"]]
            page = server.get("/v1/audit", action="connections-kick", limit=9, cursor=page["next_cursor"])
        return found + [item["target"] for item in page["items"]]

    kept = targets(server)
    assert kept == [f"x{number}" for number in range(49, 49 - len(kept), -1)]
    assert len(kept) > 30
    assert len(list((tmp_path / "server0").glob("audit*.jsonl"))) <= 5
    server.signal()
    server.wait()
    again = serve(state_dir=str(tmp_path / "server0"), audit_max_bytes=1 << 20, audit_files=5)
    assert targets(again) == kept
    assert again.get("/v1/audit", limit=1)["items"][0]["action"] == "node-start"
