"""Sending to many: whom it reaches, each outcome, rates, jobs; against the real process."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.support import PATIENCE, ROOM, SYSTEM_TAKES, Client, eventually

OUTCOMES = ("written", "skipped_slow", "closed_before_write", "expired", "failed")
LARGE = {"base64": base64.b64encode(bytes(1 << 20)).decode()}


def send(server: Server, **body: Any) -> dict[str, Any]:
    """The report of a broadcast that is answered at once."""
    answer = server.http.post("/v1/broadcasts", json={"payload": {"text": "hello"}} | body)
    assert answer.status_code == 200, answer.text
    return checked(answer)


def begin(server: Server, *, headers: dict[str, str] | None = None, **body: Any) -> str:
    """Where the job of a broadcast is."""
    answer = server.http.post("/v1/broadcasts", json={"payload": {"text": "hello"}} | body, headers=headers)
    assert answer.status_code == 202, answer.text
    where: str = answer.headers["location"]
    assert where == f"/v1/broadcasts/{checked(answer)['job']}"
    return where


def watch(server: Server, where: str) -> dict[str, Any]:
    return checked(server.http.get(where))


def ended(server: Server, where: str) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        report = watch(server, where)
        return report if report["ended_at"] else None

    return eventually(find, 3 * PATIENCE) or {}


def checked(answer: httpx.Response) -> dict[str, Any]:
    """The report, which holds what it promises."""
    report: dict[str, Any] = answer.json()
    if report["done"] and report["state"] == "done" and not report["dry_run"]:
        assert report["matched"] == sum(report[name] for name in OUTCOMES)
    return report


def test_it_reaches_those_who_match_and_are_not_excluded(server: Server) -> None:
    clients = server.connect(5)
    spared = clients[2]
    body = {"all": True, "exclude": [server.id_of(spared)]}
    dry = send(server, **body, dry_run=True)
    assert (dry["state"], dry["matched"], dry["queued"], dry["done"]) == ("done", 4, 0, True)
    report = send(server, **body)
    assert (report["state"], report["matched"], report["written"]) == ("done", 4, 4)
    for client in clients:
        assert client.echoes(b"spared") if client is spared else client.read(5) == b"hello"


def test_an_exclusion_of_what_is_no_id_of_this_run_is_refused(server: Server) -> None:
    for path in ("/v1/broadcasts", "/v1/kicks"):
        for id, code in (("nonsense", "no_id"), ("bbbbbb-1", "another_run")):
            body = {"all": True, "exclude": [id]} | ({"payload": {"text": "x"}} if "broad" in path else {})
            answer = server.http.post(path, json=body)
            assert answer.status_code == 422
            [error] = answer.json()["errors"]
            assert (error["field"], error["code"]) == ("exclude.0", code)
            assert id in error["detail"]


def test_a_limit_reaches_so_many(server: Server) -> None:
    clients = server.connect(10)
    report = send(server, all=True, limit=3)
    assert (report["matched"], report["written"]) == (3, 3)
    got = 0
    for client in clients:
        client.send(b"?")
        got += client.read(1) == b"h"
    assert got == 3


def test_a_rate_makes_it_a_job_that_reaches_each_once(server: Server) -> None:
    clients = server.connect(30)
    where = begin(server, all=True, rate_per_s=20)
    report = watch(server, where)
    assert (report["state"], report["matched"], report["done"]) == ("running", 30, False)
    assert report["eta"] is not None
    report = ended(server, where)
    assert (report["state"], report["written"], report["done"], report["eta"]) == ("done", 30, True, None)
    assert all(client.read(5) == b"hello" and client.echoes(b"once") for client in clients)
    assert "done, 5 bytes to 30: 30 queued, 30 written" in server.log()


def test_a_cancelled_job_sends_to_nobody_else(server: Server) -> None:
    clients = server.connect(10)
    where = begin(server, all=True, rate_per_s=1)
    eventually(lambda: watch(server, where)["written"])
    assert server.http.delete(where).status_code == 204
    report = ended(server, where)
    assert (report["state"], report["matched"]) == ("cancelled", 10)
    got = 0
    for client in clients:
        client.send(b"?")
        got += client.read(1) == b"h"
    assert got == report["written"] == watch(server, where)["written"]


def test_those_who_leave_before_their_turn_are_counted(server: Server) -> None:
    clients = server.connect(4)
    where = begin(server, all=True, rate_per_s=2)
    last = server.everything()[-1]
    next(client for client in clients if client.address[1] == last["peer"]["port"]).reset()
    report = ended(server, where)
    assert (report["written"], report["closed_before_write"]) == (3, 1)


def test_more_than_a_thousand_become_a_job_and_each_gets_it_once(server: Server) -> None:
    clients = server.connect(1100)
    report = ended(server, begin(server, all=True))
    assert (report["state"], report["matched"], report["written"], report["done"]) == ("done", 1100, 1100, True)
    assert all(client.read(5) == b"hello" for client in clients)
    assert all(client.echoes(b"once") for client in clients[::50])
    for client in clients:
        client.close()


def test_a_client_may_prefer_a_job(server: Server) -> None:
    [client] = server.connect()
    answer = server.http.post(
        "/v1/broadcasts", json={"all": True, "payload": {"text": "x"}}, headers={"prefer": "respond-async"}
    )
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    assert ended(server, answer.headers["location"])["written"] == 1
    assert client.read(1) == b"x"


def fill(server: Server) -> Client:
    """A client that does not read; whatever the system may still take of its queue, something stays in it."""
    client = Client(server.port, receive_buffer=4096)
    id = server.id_of(client)
    while server.get(f"/v1/connections/{id}")["pending_bytes"] <= SYSTEM_TAKES:
        assert send(server, all=True, payload=LARGE, timeout="0s")["skipped_slow"] == 0
    return client


def test_a_slow_reader_is_skipped_or_ended_as_is_wished(serve: Serve) -> None:
    server = serve(**ROOM)
    slow = fill(server)
    id = server.id_of(slow)

    def skipped(**options: str) -> bool:
        """Once there is no room; until then it waits in vain for the message to be written."""
        return bool(send(server, all=True, payload=LARGE, timeout="500ms", **options)["skipped_slow"])

    eventually(skipped, 3 * PATIENCE)
    assert server.everything()[0]["state"] == "open"
    eventually(lambda: skipped(on_slow="disconnect"), 3 * PATIENCE)
    record = server.closed(id)
    assert (record["reason"], record["by"]) == ("slow_consumer", "engine")


def test_what_is_too_old_is_not_sent_any_more(serve: Serve) -> None:
    server = serve(**ROOM)
    slow = fill(server)
    later = [
        begin(server, all=True, payload={"text": "old news"}, ttl_ms=1, timeout="60s", **options)
        for options in ({"headers": {"prefer": "respond-async"}}, {"rate_per_s": 100})
    ]
    send(server, all=True, payload={"text": "THE END"}, timeout="0s")
    stream = bytearray()
    while not stream.endswith(b"THE END"):
        stream += slow.socket.recv(1 << 20)
    assert b"old news" not in stream
    for where in later:
        report = ended(server, where)
        assert (report["matched"], report["expired"], report["written"]) == (1, 1, 0)


def test_one_who_does_not_read_delays_the_report_for_its_timeout_alone(serve: Serve) -> None:
    server = serve(**ROOM)
    slow = fill(server)
    quick = server.connect(3)
    report = send(server, all=True, timeout="200ms")
    assert (report["matched"], report["written"], report["done"]) == (4, 3, False)
    assert all(client.read(5) == b"hello" for client in quick)
    where = begin(server, all=True, timeout="200ms", headers={"prefer": "respond-async"})
    report = ended(server, where)
    assert (report["state"], report["written"], report["done"]) == ("done", 3, False)
    slow.reset()
    report = eventually(lambda: (found := watch(server, where))["done"] and found)
    assert (report["written"], report["closed_before_write"]) == (3, 1)
