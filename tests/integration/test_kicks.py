"""Kicking many: whom it hits, what it tells, rates, jobs, bans; against the real process."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from iocpd.api.keys import add_key
from tests.integration.conftest import Api, Serve
from tests.integration.server import Server
from tests.support import PATIENCE, Client, eventually, leaving, refused

COUNTS = ("kicked", "already_gone", "failed", "waiting")


def kick(server: Server, **body: Any) -> dict[str, Any]:
    """The final report of a kick that is answered at once."""
    answer = server.http.post("/v1/kicks", json=body)
    assert answer.status_code == 200, answer.text
    return checked(answer)


def begin(server: Server, *, headers: dict[str, str] | None = None, **body: Any) -> str:
    """Where the job of a kick is."""
    answer = server.http.post("/v1/kicks", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    report = checked(answer)
    assert answer.headers["location"] == f"/v1/kicks/{report['job']}"
    where: str = answer.headers["location"]
    return where


def watch(server: Server, where: str) -> dict[str, Any]:
    return checked(server.http.get(where))


def ended(server: Server, where: str) -> dict[str, Any]:
    """The report of a job, once it is over."""

    def find() -> dict[str, Any] | None:
        report = watch(server, where)
        return report if report["ended_at"] else None

    return eventually(find, 3 * PATIENCE) or {}


def checked(answer: httpx.Response) -> dict[str, Any]:
    """The report, which holds what it promises."""
    report: dict[str, Any] = answer.json()
    assert report["dry_run"] or report["matched"] == sum(report[name] for name in COUNTS)
    settled = report["matched"] - report["waiting"]
    assert len(report["outcomes"]) + report["outcomes_omitted"] == settled
    assert len({row["id"] for row in report["outcomes"]}) == len(report["outcomes"])
    return report


def seconds(report: dict[str, Any]) -> float:
    began, over = (datetime.fromisoformat(report[name]) for name in ("started_at", "ended_at"))
    return (over - began).total_seconds()


def ids(report: dict[str, Any]) -> set[str]:
    return {row["id"] for row in report["outcomes"]}


@contextlib.contextmanager
def closing(clients: list[Client]) -> Iterator[list[Client]]:
    yield clients
    for client in clients:
        client.close()


def test_what_a_filter_shows_is_what_a_dry_run_names_and_what_a_kick_hits(serve: Serve) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/discard"))
    others, clients = server.connect(3), server.connect(5, listener=1)
    spared = server.id_of(clients[0])
    shown = server.everything(listener=1)
    named = kick(server, listener=1, exclude=[spared], dry_run=True)
    assert named["state"] == "done"
    assert ids(named) == {row["id"] for row in shown} - {spared}
    assert {row["outcome"] for row in named["outcomes"]} == {"would_kick"}
    assert server.count() == 8

    with leaving(clients[1:]):
        hit = kick(server, listener=1, exclude=[spared], reason="tidying", farewell={"text": "bye\n"})
        # The answer came after the last of them had left the table.
        assert {row["id"] for row in server.everything()} == {spared} | {server.id_of(client) for client in others}
    assert ids(hit) == ids(named)
    assert (hit["state"], hit["matched"], hit["kicked"], hit["job"]) == ("done", 4, 4, None)
    assert hit["outcomes"][0]["peer"] in [row["peer"] for row in shown]
    for id in ids(hit):
        record = server.closed(id)
        assert (record["reason"], record["by"], record["text"]) == ("kicked", "operator", "tidying")
    assert all(client.echoes(b"still here") for client in others)
    assert "4 matched: 4 kicked" in server.log()


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        ({}, '"all": true'),
        ({"tag": []}, '"all": true'),
        ({"dry_run": True, "limit": 1}, '"all": true'),
        ({"all": True, "ip": "192.0.2.1"}, "contradict"),
        ({"all": True, "force": True, "farewell": {"text": "bye"}}, "reset"),
        ({"all": True, "limit": 0}, "limit"),
        ({"all": True, "rate_per_s": 0}, "rate_per_s"),
        ({"all": True, "rate_per_s": 100_001}, "rate_per_s"),
        ({"all": True, "ban_ttl": "0s"}, "ban_ttl"),
        ({"all": True, "timeout": "1h"}, "timeout"),
        ({"all": True, "exclude": ["x"] * 1001}, "exclude"),
        ({"all": True, "idel_for": "5m"}, "idel_for"),
        ({"all": "true"}, "all"),
    ],
)
def test_an_order_that_can_not_be_meant_is_refused(api: Api, body: dict[str, Any], mentions: str) -> None:
    answer = api.call("POST", "/v1/kicks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert mentions in answer.json()["detail"]


def test_a_farewell_that_is_too_large_is_refused(api: Api) -> None:
    answer = api.call("POST", "/v1/kicks", json={"all": True, "farewell": {"text": "x" * (1 << 20) + "x"}})
    assert (answer.status_code, answer.json()["code"]) == (413, "message_too_large")


def test_the_farewell_comes_last_and_force_sends_none(server: Server) -> None:
    [client] = server.connect()
    client.send(b"hello")
    answer: list[bytes] = []
    reader = threading.Thread(target=lambda: answer.append(client.read_to_end()) or client.close())
    reader.start()
    eventually(lambda: server.everything(min_bytes_out=5))
    assert kick(server, all=True, farewell={"base64": "AAEC"})["kicked"] == 1
    reader.join(PATIENCE)
    assert answer == [b"hello\x00\x01\x02"]
    [client] = server.connect()
    assert kick(server, all=True, force=True)["kicked"] == 1
    assert client.read_to_any_end() == b""


def test_a_limit_takes_so_many_of_those_that_match(server: Server) -> None:
    clients = server.connect(10)
    assert kick(server, all=True, limit=4, dry_run=True)["matched"] == 4
    assert kick(server, all=True, limit=4, force=True)["kicked"] == 4
    assert server.count() == 6
    assert kick(server, all=True, limit=1000, force=True)["kicked"] == 6
    assert kick(server, all=True)["matched"] == 0
    with closing(clients):
        pass


def test_clients_that_stay_silent_cost_one_timeout_and_not_one_each(server: Server) -> None:
    clients = server.connect(900)
    began = time.monotonic()
    report = kick(server, all=True, timeout="1s")
    assert (report["kicked"], server.count()) == (900, 0)
    assert time.monotonic() - began < PATIENCE
    with closing(clients):
        pass


def test_a_job_keeps_its_rate_tells_how_far_it_is_and_leaves_alone_who_comes_later(server: Server) -> None:
    clients = server.connect(40)
    with leaving(clients):
        where = begin(server, all=True, rate_per_s=20, reason="slowly")
        later = [Client(server.port) for _ in range(3)]
        report = watch(server, where)
        assert (report["state"], report["matched"], report["rate_per_s"]) == ("running", 40, 20)
        assert report["eta"] is not None
        assert report["waiting"] > 0
        report = ended(server, where)
    assert (report["state"], report["kicked"], report["waiting"], report["eta"]) == ("done", 40, 0, None)
    assert 1.6 < seconds(report) < 8
    assert all(client.echoes(b"later") for client in later)
    assert "done, 40 matched: 40 kicked" in server.log()


def test_a_cancelled_job_leaves_the_others_alone(server: Server) -> None:
    clients = server.connect(20)
    where = begin(server, all=True, rate_per_s=1, force=True)
    eventually(lambda: watch(server, where)["kicked"])
    assert server.http.delete(where).status_code == 204
    report = ended(server, where)
    assert report["state"] == "cancelled"
    assert 1 <= report["kicked"] <= 5
    assert report["waiting"] == server.count() == 20 - report["kicked"]
    assert server.http.delete(where).status_code == 204
    assert watch(server, where) == report
    left = {row["peer"]["port"] for row in server.everything()}
    for client in clients:
        assert client.echoes(b"left alone") if client.address[1] in left else client.read_to_any_end() == b""


def test_a_job_goes_on_when_its_key_is_revoked_and_another_can_cancel_it(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    admin, bob = add_key(keys, "alice", role="admin"), add_key(keys, "bob", role="operator")
    server = serve(keys_file=keys, key=admin)
    _peers = server.connect(20)  # and kept
    as_bob = {"authorization": f"Bearer {bob}"}
    orders = [{"all": True, "rate_per_s": rate, "limit": most, "force": True} for rate, most in ((5, 4), (1, 10))]
    first, second = (server.http.post("/v1/kicks", json=order, headers=as_bob) for order in orders)
    assert (first.status_code, second.status_code) == (202, 202)
    assert server.http.delete("/v1/keys/bob").status_code == 204
    assert server.http.get("/v1/connections", headers=as_bob).status_code == 401
    assert server.http.delete(second.headers["location"]).status_code == 204
    report = ended(server, first.headers["location"])
    assert (report["state"], report["kicked"] + report["already_gone"]) == ("done", 4)
    assert ended(server, second.headers["location"])["state"] == "cancelled"


def test_those_who_have_gone_before_their_turn_are_told_from_those_who_were_kicked(server: Server) -> None:
    clients = server.connect(6)
    where = begin(server, all=True, rate_per_s=1, force=True)
    last = server.everything()[-1]
    next(client for client in clients if client.address[1] == last["peer"]["port"]).close()
    report = ended(server, where)
    outcomes = {row["id"]: row for row in report["outcomes"]}
    assert outcomes[last["id"]] == {"id": last["id"], "peer": last["peer"], "outcome": "already_gone"}
    assert (report["kicked"], report["already_gone"]) == (5, 1)


def test_more_than_a_thousand_become_a_job(server: Server) -> None:
    with closing(server.connect(1100)):
        dry = kick(server, all=True, dry_run=True)
        assert (dry["matched"], len(dry["outcomes"]), dry["outcomes_omitted"]) == (1100, 1000, 100)
        answer = server.http.post("/v1/kicks", json={"all": True, "force": True})
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers
        report = ended(server, answer.headers["location"])
        assert (report["kicked"], len(report["outcomes"]), report["outcomes_omitted"]) == (1100, 1000, 100)
        assert server.count() == 0


def test_a_client_may_prefer_a_job(server: Server) -> None:
    [client] = server.connect()
    body = {"all": True, "force": True}
    answer = server.http.post("/v1/kicks", json=body, headers={"prefer": "wait=1, respond-async"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert ended(server, answer.headers["location"])["kicked"] == 1
    assert client.read_to_any_end() == b""
    answer = server.http.post("/v1/kicks", json=body | {"dry_run": True}, headers={"prefer": "respond-async"})
    assert (answer.status_code, "preference-applied" in answer.headers) == (200, False)


def test_a_job_is_of_its_kind(server: Server) -> None:
    where = begin(server, all=True, headers={"prefer": "respond-async"})
    for method, path in (
        ("GET", "/v1/kicks/nothing"),
        ("DELETE", "/v1/kicks/nothing"),
        ("GET", where.replace("kicks", "broadcasts")),
        ("DELETE", where.replace("kicks", "broadcasts")),
    ):
        answer = server.http.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "job_unknown")
    assert ended(server, where)["matched"] == 0


def test_sixteen_jobs_run_at_once(server: Server) -> None:
    clients = server.connect(40)
    jobs = [begin(server, all=True, rate_per_s=1, timeout="60s") for _ in range(16)]
    answer = server.http.post("/v1/kicks", json={"all": True, "rate_per_s": 1})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_jobs")
    assert "retry-after" in answer.headers
    for where in jobs:
        assert server.http.delete(where).status_code == 204
    assert kick(server, all=True, force=True)["waiting"] == 0
    for where in jobs:
        assert ended(server, where)["state"] == "cancelled"
    begin(server, all=True, rate_per_s=1)
    with closing(clients):
        pass


def test_a_kick_that_bans_keeps_the_client_away(server: Server) -> None:
    clients = server.connect(3)
    with leaving(clients):
        report = kick(server, all=True, ban_ttl="1h", reason="spam")
    assert (report["kicked"], report["banned"]) == (3, 1)
    [ban] = server.get("/v1/bans")["items"]
    assert (ban["address"], ban["reason"]) == ("127.0.0.1", "spam")
    assert ban["expires_at"] is not None
    assert refused(server.port)
    assert server.count() == 0
    assert server.http.delete(f"/v1/bans/{ban['id']}").status_code == 204
    [client] = server.connect()
    assert client.echoes(b"back")


def test_a_kick_that_bans_needs_the_right_to_ban(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    kicker = add_key(keys, "kicker", scopes=("connections:kick", "connections:read"))
    server = serve(keys_file=keys, key=kicker)
    [client] = server.connect()
    for body in ({"all": True, "ban_ttl": "1h"}, {"all": True, "ban_ttl": "1h", "dry_run": True}):
        answer = server.http.post("/v1/kicks", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert "bans:write" in answer.json()["detail"]
    assert client.echoes(b"still here")
    assert kick(server, all=True, force=True)["kicked"] == 1


def test_the_audit_has_the_counts_of_what_was_asked_for_and_of_the_end_of_a_job(server: Server) -> None:
    clients = server.connect(4)
    kick(server, all=True, limit=1, force=True, reason="one")
    ended(server, begin(server, all=True, rate_per_s=50, force=True, farewell=None))

    def entries() -> list[dict[str, Any]]:
        return [row for row in server.get("/v1/audit")["items"] if row["action"] == "kicks-start"]

    end, start, first = eventually(lambda: len(found := entries()) == 3 and found)
    assert "1 matched: 1 kicked" in first["detail"]
    assert "3 connections" in start["detail"]
    assert (start["status"], end["request_id"]) == (202, start["request_id"])
    assert "3 matched: 3 kicked" in end["detail"]
    with closing(clients):
        pass


def test_who_cannot_be_banned_is_not_kicked(server: Server, tmp_path: Path) -> None:
    clients = server.connect(2)
    (tmp_path / "server0" / "bans.json").mkdir()  # so the file can't be written
    body = {"all": True, "ban_ttl": "1h"}
    answer = server.http.post("/v1/kicks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (507, "bans_not_saved")
    report = ended(server, begin(server, **body, headers={"prefer": "respond-async"}))
    assert (report["state"], report["failed"], report["banned"]) == ("done", 2, 0)
    assert {row["outcome"] for row in report["outcomes"]} == {"failed"}
    assert "bans failed" in server.log()
    assert all(client.echoes(b"still here") for client in clients)


def test_a_shutdown_cancels_a_job_and_its_counts_are_in_the_log(server: Server) -> None:
    clients = server.connect(30)
    where = begin(server, all=True, rate_per_s=2, force=True)
    eventually(lambda: watch(server, where)["kicked"])
    with leaving([]):
        assert server.http.post("/v1/node/shutdown", json={"deadline": "1s"}).status_code == 202
    assert server.wait() == 0
    [line] = [line for line in server.log().splitlines() if "kick many job" in line]
    counts = re.search(r"cancelled, 30 matched: (\d+) kicked, 0 already_gone, 0 failed, (\d+) left", line)
    assert counts, line
    assert int(counts[1]) >= 1
    assert int(counts[1]) + int(counts[2]) == 30
    with closing(clients):
        pass


def test_under_churn_everybody_who_was_there_is_hit_once_and_accounted_for(server: Server) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                client = Client(server.port)
                client.send(b"x")
                client.socket.recv(1)
                (client.close if time.monotonic_ns() % 2 else client.reset)()

    churners = [threading.Thread(target=churn) for _ in range(4)]
    for thread in churners:
        thread.start()
    try:
        for round in range(4):
            clients = [Client(server.port) for _ in range(200)]
            assert all(client.echoes(b"here") for client in clients)
            mine = {client.address[1] for client in clients}
            report = kick(server, all=True, force=bool(round % 2), timeout="1s")
            assert (report["state"], report["waiting"], report["failed"]) == ("done", 0, 0)
            outcomes = {row["peer"]["port"]: row["outcome"] for row in report["outcomes"]}
            assert {port: outcome for port, outcome in outcomes.items() if port in mine} == dict.fromkeys(
                mine, "kicked"
            )
            there = {row["id"] for row in server.everything(limit=1000)}
            assert not there & ids(report)
            with closing(clients):
                pass
    finally:
        stop.set()
        for thread in churners:
            thread.join(PATIENCE)
