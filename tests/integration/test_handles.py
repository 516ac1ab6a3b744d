"""A process that may open nothing more: what needs a file or a socket is refused and told, the rest goes on, and all of
it works again once there are handles."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path

import httpx
import pytest

from iocpd.api.keys import add_key
from tests.integration.conftest import Serve
from tests.integration.server import OVERRIDE, Server
from tests.support import PATIENCE, Client, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux" or bool(OVERRIDE), reason="limits of Linux")

WHY = "Too many open files"


class Handles:
    """How many a server may have."""

    def __init__(self, server: Server) -> None:
        import resource

        self._pid = server.process.pid
        self._former = resource.prlimit(self._pid, resource.RLIMIT_NOFILE)

    def take_away(self) -> None:
        """It may have those that it has, and no other."""
        import resource

        used = {int(name) for name in os.listdir(f"/proc/{self._pid}/fd")}
        free = next(number for number in range(len(used) + 1) if number not in used)
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (free, self._former[1]))

    def give_back(self) -> None:
        import resource

        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._former)


def said(answer: httpx.Response) -> tuple[int, str]:
    assert WHY in answer.json()["detail"], answer.text
    return answer.status_code, answer.json()["code"]


def test_state_and_listeners_do_without_handles_and_heal(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = add_key(state / "keys.json", "admin", role="admin")
    add_key(state / "keys.json", "bob", role="viewer")
    server = serve(state_dir=state, key=key, http_keep_alive="300s")
    made = server.http.post("/v1/bans", json={"address": "192.0.2.1"}).json()
    (client,) = server.connect()
    kept = {name: (state / name).read_bytes() for name in ("keys.json", "bans.json")}
    handles = Handles(server)

    handles.take_away()
    assert said(server.http.post("/v1/bans", json={"address": "192.0.2.2"})) == (507, "bans_not_saved")
    assert said(server.http.delete(f"/v1/bans/{made['id']}")) == (507, "bans_not_saved")
    assert said(server.http.post("/v1/keys", json={"name": "carol", "role": "viewer"})) == (503, "keys_unavailable")
    assert said(server.http.delete("/v1/keys/bob")) == (503, "keys_unavailable")
    assert said(server.http.get("/v1/keys")) == (503, "keys_unavailable")
    assert said(server.http.get("/v1/audit")) == (503, "audit_unavailable")
    assert {name: (state / name).read_bytes() for name in kept} == kept
    assert [row["address"] for row in server.get("/v1/bans")["items"]] == ["192.0.2.1"]
    assert client.echoes(b"served")
    for path in ("/livez", "/readyz", "/metrics", "/v1/node", "/v1/connections"):
        assert server.http.get(path).status_code == 200
    assert server.get("/v1/node")["audit_trouble"] is None

    handles.give_back()
    client.close()
    assert server.http.put("/v1/node/drain").status_code == 202
    eventually(lambda: server.drain()["phase"] == "drained")
    handles.take_away()
    for _ in range(2):
        assert said(server.http.delete("/v1/node/drain")) == (503, "listener_unavailable")
        assert server.drain()["phase"] == "drained"
        assert server.http.get("/readyz").status_code == 503
    handles.give_back()
    assert server.http.delete("/v1/node/drain").status_code == 204
    assert server.http.get("/readyz").status_code == 200
    assert Client(server.port).echoes(b"again")

    assert server.http.post("/v1/bans", json={"address": "192.0.2.2"}).status_code == 201
    assert server.http.delete(f"/v1/bans/{made['id']}").status_code == 204
    assert server.http.post("/v1/keys", json={"name": "carol", "role": "viewer"}).status_code == 201
    assert server.http.delete("/v1/keys/bob").status_code == 204
    assert {row["name"] for row in server.get("/v1/keys")["items"]} == {"admin", "carol"}
    noted = [(entry["action"], entry["status"]) for entry in server.get("/v1/audit")["items"]][::-1]
    assert [status for action, status in noted if action == "bans-create"] == [201, 507, 201]
    assert [status for action, status in noted if action == "keys-revoke"] == [503, 204]
    assert [status for action, status in noted if action == "node-cancel_drain"] == [503, 503, 204]


def test_who_comes_while_there_are_no_handles_waits_for_them_and_the_log_says_it_once(serve: Serve) -> None:
    server = serve(http_keep_alive="300s")
    assert server.http.get("/livez").status_code == 200
    handles = Handles(server)
    handles.take_away()
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.get(f"{server.url}/livez", timeout=PATIENCE, trust_env=False))

    newcomers = [threading.Thread(target=ask) for _ in range(3)]
    for newcomer in newcomers:
        newcomer.start()
    eventually(lambda: "no socket can be accepted" in server.log())
    assert server.http.get("/livez").status_code == 200
    assert not answers
    handles.give_back()
    for newcomer in newcomers:
        newcomer.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    (line,) = server.log().splitlines()
    assert json.loads(line)["reason"] == WHY


def test_clients_of_the_service_who_come_while_there_are_no_handles_are_told_of_and_served_later(serve: Serve) -> None:
    server = serve(http_keep_alive="300s")
    here = server.connect(3)
    handles = Handles(server)

    def counted() -> tuple[int, int]:
        (listener,) = server.get("/v1/listeners")["items"]
        return listener["accepted"], listener["accept_errors"]

    def accepted_all_that_it_can() -> int:
        """So many, once it has tried again some times and has got no handle."""
        before, errors = counted()
        eventually(lambda: counted()[1] >= errors + 3)
        return before if counted()[0] == before else 0

    handles.take_away()
    come = [Client(server.port) for _ in range(40)]  # an accept that io_uring has may still bring one: 32 at most
    accepted = eventually(accepted_all_that_it_can)
    served, waiting = here + come[: accepted - len(here)], come[accepted - len(here) :]
    assert len(waiting) >= 8
    assert all(client.echoes(b"still here") for client in served)
    eventually(lambda: "accepts fail" in server.log())
    errors = counted()[1]
    metrics = re.findall(r"^iocpd_accept_errors_total{.*} (\S+)$", server.http.get("/metrics").text, re.MULTILINE)
    assert [float(value) >= errors for value in metrics] == [True]

    here[0].close()  # somebody leaves, and the one who has waited longest has his handle
    served.remove(here[0])
    assert waiting[0].echoes(b"at last")
    handles.give_back()
    assert all(client.echoes(b"all of us") for client in waiting)
    assert all(client.echoes(b"still here") for client in served)
    assert counted()[0] == accepted + len(waiting)
    (line,) = map(json.loads, server.log().splitlines())
    assert (line["listener"], line["level"]) == (f"127.0.0.1:{server.port}", "error")
    assert 0 < line["failed"] <= errors
    for client in served + waiting:
        client.close()
