"""/v1/bans of the real process."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from iocpd.api.bans.schemas import BanPage, BanView
from tests.integration.conftest import Api, Serve
from tests.integration.server import START_SECONDS, Server, run
from tests.support import Client, connect, eventually, leaving, refused


def ban(server: Server, address: str, **more: Any) -> dict[str, Any]:
    answer = server.http.post("/v1/bans", json={"address": address, **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/bans/{made['id']}"
    return made


def test_a_ban_keeps_away_until_it_is_lifted(server: Server) -> None:
    assert not refused(server.port)
    made = ban(server, "127.0.0.0/8", reason="abuse")
    BanView.model_validate(made, extra="forbid")
    assert made["expires_at"] is None
    assert made["created_by"] == "local"
    assert refused(server.port)
    assert server.get("/v1/listeners")["items"][0]["accepted"] == 1
    assert server.get(f"/v1/bans/{made['id']}") == made | {"kicked": None}
    assert server.http.delete(f"/v1/bans/{made['id']}").status_code == 204
    assert not refused(server.port)
    for method in ("GET", "DELETE"):
        answer = server.http.request(method, f"/v1/bans/{made['id']}")
        assert (answer.status_code, answer.json()["code"]) == (404, "ban_unknown")


def test_a_ban_has_an_end(server: Server) -> None:
    began = time.monotonic()
    made = ban(server, "127.0.0.1", ttl="700ms")
    assert made["address"] == "127.0.0.1"
    eventually(lambda: not refused(server.port))
    assert time.monotonic() - began > 0.6
    eventually(lambda: server.http.get(f"/v1/bans/{made['id']}").status_code == 404)
    assert server.get("/v1/bans")["total"] == 0
    ban(server, "127.0.0.1")


def test_a_ban_ends_who_is_there_with_its_reason_and_a_farewell(server: Server) -> None:
    clients = server.connect(20)
    received: list[bytes] = []

    def read(client: Client) -> None:
        received.append(client.read_to_end())
        client.close()

    readers = [threading.Thread(target=read, args=[client]) for client in clients]
    for reader in readers:
        reader.start()
    made = ban(server, "127.0.0.0/8", reason="abuse", farewell={"text": "go away\n"})
    for reader in readers:
        reader.join()
    assert received == [b"go away\n"] * 20
    assert made["kicked"] == 20
    assert server.count() == 0
    for closed in server.get("/v1/connections/closed")["items"]:
        assert (closed["reason"], closed["by"], closed["text"]) == ("banned", "operator", "abuse")
    metrics = server.http.get("/metrics").text
    assert 'iocpd_closed_connections_total{by="operator",reason="banned"} 20.0' in metrics.splitlines()
    assert refused(server.port)
    metrics = server.http.get("/metrics").text
    assert (
        f'iocpd_refused_connections_total{{listener="127.0.0.1:{server.port}",reason="banned",service="echo"}} 1.0'
        in (metrics.splitlines())
    )


def test_a_ban_can_leave_who_is_there_and_spares_others(server: Server) -> None:
    client = server.connect()[0]
    assert ban(server, "127.0.0.1", kick=False)["kicked"] is None
    assert client.echoes(b"still here")
    assert ban(server, "192.0.2.0/24")["kicked"] == 0
    assert client.echoes(b"still here")


def test_bans_outlive_a_restart(tmp_path: Path, serve: Serve) -> None:
    first = serve()
    state = tmp_path / "server0"
    kept = ban(first, "127.0.0.1", reason="kept")
    lifted = ban(first, "192.0.2.7")
    first.http.delete(f"/v1/bans/{lifted['id']}")
    ban(first, "2001:db8::/32", ttl="1s")  # last: a write leaves out those that are over
    first.process.kill()  # what was answered is on disk
    first.wait()
    assert {row["address"] for row in json.loads((state / "bans.json").read_text())["bans"]} == {
        "127.0.0.1",
        "2001:db8::/32",
    }
    second = serve(state_dir=state)
    assert second.get(f"/v1/bans/{kept['id']}") == kept | {"kicked": None}
    assert refused(second.port)
    eventually(lambda: second.get("/v1/bans")["total"] == 1)


def test_a_broken_file_ends_the_start_with_a_line_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "bans.json").write_text('{"version": 1, "bans": [{"id": 5}]}')
    ended = run(["--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"], tmp_path)
    assert ended.returncode == 1
    assert "bans.json" in ended.stderr
    assert "ban 1" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ready" not in ended.stdout


def test_nothing_changes_when_the_file_can_not_be_written_and_the_service_goes_on(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    file = tmp_path / "server0" / "bans.json"
    file.mkdir()  # so that no file can take its place
    client = server.connect()[0]
    answer = server.http.post("/v1/bans", json={"address": "127.0.0.1"})
    assert (answer.status_code, answer.json()["code"]) == (507, "bans_not_saved")
    assert "bans.json" in answer.json()["detail"]
    assert client.echoes(b"not kicked")
    client.close()  # or the ban below would wait for it
    assert not refused(server.port)
    assert server.get("/v1/bans")["items"] == []
    assert [path.name for path in file.parent.glob("*bans*")] == ["bans.json"]
    file.rmdir()
    made = ban(server, "127.0.0.1")
    file.unlink()
    file.mkdir()
    answer = server.http.delete(f"/v1/bans/{made['id']}")
    assert (answer.status_code, answer.json()["code"]) == (507, "bans_not_saved")
    assert refused(server.port)
    assert server.get("/v1/bans")["total"] == 1


def test_an_address_is_banned_once_under_whatever_name(server: Server) -> None:
    made = ban(server, "192.0.2.7")
    for name in ("192.0.2.7", "192.0.2.7/32", "::ffff:192.0.2.7", "::ffff:c000:207/128"):
        answer = server.http.post("/v1/bans", json={"address": name})
        assert (answer.status_code, answer.json()["code"]) == (409, "ban_exists")
        assert answer.json()["ban"]["id"] == made["id"]
    ban(server, "192.0.2.0/24")


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        ({}, "address"),
        ({"address": "example.com"}, "CIDR"),
        ({"address": "192.0.2.1/24"}, "192.0.2.0/24"),
        ({"address": "fe80::1%eth0"}, "zone"),
        ({"address": "192.0.2.1", "ttl": "soon"}, "90s"),
        ({"address": "192.0.2.1", "ttl": 0}, "greater than 0"),
        ({"address": "192.0.2.1", "reason": "a\nb"}, "printable"),
        ({"address": "192.0.2.1", "reason": "x" * 200}, "199"),
        ({"address": "192.0.2.1", "kick": False, "farewell": {"text": "x"}}, "farewell"),
        ({"address": "192.0.2.1", "until": "1h"}, "until"),
    ],
)
def test_what_is_no_ban_is_refused(api: Api, body: dict[str, Any], mentions: str) -> None:
    answer = api.call("POST", "/v1/bans", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert mentions in answer.json()["detail"]


def test_pages_show_each_ban_that_stays_once_newest_first(api: Api) -> None:
    made = [
        api.call("POST", "/v1/bans", json={"address": f"192.0.2.{number}", "kick": False}).json()
        for number in range(25)
    ]
    first = api.call("GET", "/v1/bans?limit=7")
    BanPage.model_validate_json(first.content, extra="forbid")
    page, seen = first.json(), first.json()["items"]
    assert page["total"] == 25
    assert first.links["next"]["url"].startswith("/v1/bans?limit=7&cursor=")
    api.call("DELETE", f"/v1/bans/{made[0]['id']}")  # on a later page
    api.call("POST", "/v1/bans", json={"address": "198.51.100.1"})  # after the first page
    while page["next_cursor"]:
        page = api.call("GET", f"/v1/bans?limit=7&cursor={page['next_cursor']}").json()
        seen += page["items"]
    assert [row["id"] for row in seen] == [row["id"] for row in reversed(made[1:])]
    other = api.call("GET", f"/v1/bans?address=192.0.2.1&cursor={first.json()['next_cursor']}")
    assert (other.status_code, other.json()["code"]) == (422, "cursor_mismatch")


def test_the_bans_that_hold_an_address_are_found(api: Api) -> None:
    for address in ("192.0.2.0/24", "192.0.2.7", "192.0.2.8", "0.0.0.0/0", "2001:db8::/32", "::/0"):
        assert api.call("POST", "/v1/bans", json={"address": address, "kick": False}).status_code == 201

    def found(address: str) -> list[str]:
        names, query = [], f"address={address}&limit=2"
        while True:
            page = api.call("GET", f"/v1/bans?{query}").json()
            names += [row["address"] for row in page["items"]]
            if not page["next_cursor"]:
                assert page["total"] == len(names)
                return names
            query = f"address={address}&limit=2&cursor={page['next_cursor']}"

    assert found("192.0.2.7") == ["::/0", "0.0.0.0/0", "192.0.2.0/24", "192.0.2.7"]
    assert found("192.0.2.0/25") == ["::/0", "0.0.0.0/0", "192.0.2.0/24"]
    assert found("2001:db8::1") == ["::/0", "2001:db8::/32"]


def test_a_ban_of_all_of_ipv6_keeps_ipv4_away_as_the_engine_has_it(api: Api) -> None:
    with leaving(connect(api.engine, 1)):
        made = api.call("POST", "/v1/bans", json={"address": "::/0"}).json()
    assert made["kicked"] == 1


@pytest.mark.slow
def test_a_hundred_thousand_bans_are_loaded_before_the_service_is_ready(tmp_path: Path, serve: Serve) -> None:
    count = 100_000
    state = tmp_path / "many"
    state.mkdir()
    rows = [
        {
            "id": _id(number),
            "address": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "reason": "",
            "created_at": "2026-01-01T00:00:00Z",
            "expires_at": None,
            "created_by": "alice",
        }
        for number in range(count - 1)
    ]
    rows.append(rows[0] | {"id": _id(count), "address": "127.0.0.0/8"})
    (state / "bans.json").write_text(json.dumps({"version": 1, "bans": rows}))
    server = serve(state_dir=state)
    assert refused(server.port)
    assert server.get("/v1/bans", limit=1)["total"] == count
    assert len(server.get("/v1/bans", limit=1000)["items"]) == 1000
    assert server.get("/v1/bans", address="10.1.2.3")["items"][0]["address"] == "10.1.2.3"
    assert server.http.delete(f"/v1/bans/{_id(count)}").status_code == 204
    assert not refused(server.port)
    server.http.post("/v1/node/shutdown")
    assert server.wait(START_SECONDS) == 0
    assert len(json.loads((state / "bans.json").read_text())["bans"]) == count - 1


def _id(number: int) -> str:
    letters = "bcdfghjkmnpqrstvwxz23456789"
    return "".join(letters[number // len(letters) ** place % len(letters)] for place in range(10))
