"""Random legal and illegal calls of the HTTP API against a model (tests/machine.py): the real process, two workers."""

from __future__ import annotations

import base64
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.machine import MANY, Face, Machine
from tests.support import Client

WORDS = {404: "unknown", 410: "ended", 422: "invalid"}


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

    def drain_and_cancel(self) -> None:
        assert self.http.put("/v1/node/drain", json={"lb_delay": "20s", "deadline": "60s"}).status_code == 202
        assert self.http.delete("/v1/node/drain").status_code == 204


@pytest.fixture
def backend() -> str:
    """The engine has a test like this on each."""
    return "auto"


def test_the_api_does_what_the_model_says(serve: Serve) -> None:
    server = serve(workers=2, closed_capacity=10_000)
    with ThreadPoolExecutor(1) as pool:

        class Service(Machine):
            def open(self) -> Face:
                return HttpFace(server, pool)

        run_state_machine_as_test(Service, settings=MANY)
