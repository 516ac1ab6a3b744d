"""Random legal and illegal calls of the HTTP API against a model (tests/machine.py): the real process, two workers."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from hypothesis import settings
from hypothesis.stateful import consumes, multiple, rule, run_state_machine_as_test

from iocpd.api.keys import add_key
from tests.integration.conftest import Serve
from tests.integration.server import BACKENDS, Server
from tests.machine import DATA, MANY, Face, Machine, Member
from tests.support import Client, eventually

SHARE = settings(MANY, max_examples=max(1, MANY.max_examples // len(BACKENDS)))
"""Of the examples, for each backend."""

WORDS = {404: "unknown", 409: "conflict", 410: "ended", 422: "invalid"}


def word(answer: httpx.Response) -> str:
    """What came of it."""
    return "done" if answer.is_success else WORDS[answer.status_code]


def base64_of(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


class HttpFace:
    """The service, asked through its API."""

    def __init__(self, server: Server, pool: ThreadPoolExecutor) -> None:
        self.server = server
        self.http = server.http
        self.pool = pool
        self.ports = server.ports

        def asks(method: str, path: str, **options: Any) -> Callable[[], str]:
            return lambda: word(self.http.request(method, path, **options))

        listing, text = "/v1/connections", {"text": "x"}
        self.mistakes = {
            "a filter": asks("GET", listing, params={"colour": "red"}),
            "a group": asks("GET", listing, params={"group": "a b"}),
            "a state": asks("GET", listing, params={"state": "tired"}),
            "an address": asks("GET", listing, params={"ip": "127.0.0.256"}),
            "a block": asks("POST", "/v1/kicks", json={"ip": "127.0.0.1/8"}),
            "a prefix": asks("POST", "/v1/broadcasts", json={"ip": "127.0.0.0/33", "payload": text}),
            "a ban": asks("POST", "/v1/bans", json={"address": "127.0.0.1/8"}),
            "a cursor": asks("GET", listing, params={"cursor": "nonsense"}),
            "a limit": asks("GET", listing, params={"limit": 0}),
            "nobody": asks("POST", "/v1/kicks", json={}),
            "all and some": asks("POST", "/v1/kicks", json={"all": True, "group": "red"}),
            "a farewell to a reset": asks("POST", "/v1/kicks", json={"all": True, "force": True, "farewell": text}),
            "whom to spare": asks("POST", "/v1/kicks", json={"all": True, "exclude": ["nobody"]}),
            "no payload": asks("POST", "/v1/broadcasts", json={"all": True, "payload": {"text": ""}}),
            "a drain": asks("PUT", "/v1/node/drain", json={"deadline": "soon"}),
        }

    def ids(self, group: str | None) -> list[str]:
        return [row["id"] for row in self.server.everything(**({"group": group} if group else {}))]

    def id_of(self, client: Client) -> str:
        return self.server.id_of(client)

    def unknown_id(self) -> str:
        return self.server.get("/v1/node")["instance"] + "-1ffffffffffff"

    def labels(self, id: str) -> tuple[dict[str, str], list[str]] | str:
        answer = self.http.get(f"/v1/connections/{id}")
        return (answer.json()["tags"], answer.json()["groups"]) if answer.is_success else word(answer)

    def reason(self, id: str) -> str:
        return str(self.server.closed(id)["reason"])

    def label(self, id: str, tags: dict[str, str | None], groups: list[str]) -> str:
        return word(self.http.patch(f"/v1/connections/{id}", json={"tags": tags, "groups": groups}))

    def send(self, id: str, data: bytes) -> str:
        return word(self.http.post(f"/v1/connections/{id}/messages", json=base64_of(data)))

    def broadcast(self, data: bytes, group: str | None, exclude: Collection[str]) -> tuple[int, int]:
        to = {"group": group} if group else {"all": True}
        report = self.server.broadcast(payload=base64_of(data), exclude=list(exclude), timeout="20s", **to)
        return report["matched"], report["written"]

    def kick(self, id: str, farewell: bytes, force: bool) -> Future[str]:
        how: dict[str, Any] = {"params": {"force": force, "timeout": "20s"}}
        if farewell:
            how["json"] = {"farewell": base64_of(farewell)}
        return self.pool.submit(lambda: word(self.http.request("DELETE", f"/v1/connections/{id}", **how)))

    def ban(self, on: bool) -> None:
        if on:
            answer = self.http.post("/v1/bans", json={"address": "127.0.0.0/8", "kick": False})
        else:
            (ban,) = self.server.get("/v1/bans")["items"]
            answer = self.http.delete(f"/v1/bans/{ban['id']}")
        assert answer.is_success, answer.text

    def drain(self) -> str:
        return word(self.http.put("/v1/node/drain", json={"lb_delay": "20s", "deadline": "60s"}))

    def cancel_drain(self) -> str:
        return word(self.http.delete("/v1/node/drain"))


class HttpMachine(Machine):
    """With what only the API has: kicks of many, keys that repeat a request, jobs, and keys of callers."""

    made = itertools.count()

    @property
    def http(self) -> httpx.Client:
        http: httpx.Client = self.face.http  # type: ignore[attr-defined]
        return http

    @rule(target=Machine.ended, one=consumes(Machine.members), another=consumes(Machine.members))
    def kick_many(self, one: Member, another: Member) -> Any:
        chosen = [one, another]
        ids = [member.id for member in chosen]
        body = {"all": True, "exclude": [each.id for each in self.there if each not in chosen], "force": True}
        tried = self.http.post("/v1/kicks", json=body | {"dry_run": True}).json()
        assert (tried["matched"], tried["kicked"]) == (len(ids), 0)
        assert {row["id"]: row["outcome"] for row in tried["outcomes"]} == dict.fromkeys(ids, "would_kick")
        assert all(member.client.echoes(b"still here") for member in chosen)
        headers = {"idempotency-key": f"kick{next(self.made)}"}
        answer = self.http.post("/v1/kicks", json=body, headers=headers)
        assert {row["id"]: row["outcome"] for row in answer.json()["outcomes"]} == dict.fromkeys(ids, "kicked")
        again = self.http.post("/v1/kicks", json=body, headers=headers)
        assert (again.content, again.headers["idempotency-replayed"]) == (answer.content, "true")
        other = self.http.post("/v1/kicks", json=body | {"reason": "another"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        for member in chosen:
            assert member.client.was_reset()
            assert self.face.reason(self.gone(member)) == "kicked"
        return multiple(*ids)

    @rule(member=Machine.members, data=DATA)
    def send_again(self, member: Member, data: bytes) -> None:
        """The client has it once: what else it gets would be before the echo that the invariants ask for."""
        path, headers = f"/v1/connections/{member.id}/messages", {"idempotency-key": f"send{next(self.made)}"}
        answers = [self.http.post(path, json=base64_of(data), headers=headers) for _ in range(2)]
        assert answers[0].content == answers[1].content
        other = self.http.post(path, json=base64_of(data + b"."), headers=headers)
        assert other.json()["code"] == "idempotency_mismatch"
        assert member.client.read(len(data)) == data
        assert member.client.echoes(b"nothing before")

    @rule(data=DATA)
    def broadcast_as_a_job(self, data: bytes) -> None:
        body = {"all": True, "payload": base64_of(data), "timeout": "20s"}
        begun = self.http.post("/v1/broadcasts", json=body, headers={"prefer": "respond-async"})
        assert begun.status_code == 202
        job = begun.headers["location"]
        for member in self.there:
            assert member.client.read(len(data)) == data
        report = eventually(lambda: found if (found := self.http.get(job).json())["ended_at"] else None)
        assert (report["matched"], report["written"]) == (len(self.there), len(self.there))
        assert word(self.http.delete(job)) == "done"
        assert self.http.get(job).json() == report, "a job that is over stays as it is"
        assert word(self.http.get(job + "x")) == "unknown"
        assert word(self.http.delete(job + "x")) == "unknown"

    @rule()
    def make_and_revoke_a_key(self) -> None:
        name = f"key{next(self.made)}"
        made = self.http.post("/v1/keys", json={"name": name, "role": "viewer"})
        assert made.status_code == 201
        assert word(self.http.post("/v1/keys", json={"name": name, "role": "viewer"})) == "conflict"
        with httpx.Client(base_url=self.http.base_url, trust_env=False) as its_own:
            its_own.headers["authorization"] = f"Bearer {made.json()['key']}"
            assert its_own.get("/v1/connections").status_code == 200
            assert its_own.post("/v1/kicks", json={"all": True}).status_code == 403
            assert word(self.http.delete(f"/v1/keys/{name}")) == "done"
            assert its_own.get("/v1/connections").status_code in (401, 429)  # wrong keys are limited
        assert word(self.http.delete(f"/v1/keys/{name}")) == "unknown"


def test_the_api_does_what_the_model_says(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    server = serve(workers=2, closed_capacity=10_000, keys_file=keys, key=add_key(keys, "admin", role="admin"))
    with ThreadPoolExecutor(1) as pool:

        class Service(HttpMachine):
            def open(self) -> Face:
                return HttpFace(server, pool)

        run_state_machine_as_test(Service, settings=SHARE)
