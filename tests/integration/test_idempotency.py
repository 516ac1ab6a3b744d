"""Idempotency-Key, against the real process: what is sent again is done once, and answered the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from iocpd.api.keys import add_key
from tests.integration.conftest import Api, Serve
from tests.integration.server import Server
from tests.support import PATIENCE, eventually

RAW = {"content-type": "application/octet-stream"}


def keyed(key: str, **more: str) -> dict[str, str]:
    return {"idempotency-key": key} | more


def same(first: httpx.Response, second: httpx.Response) -> None:
    """The second is the first one's answer, byte for byte, under an id of its own."""
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert (second.status_code, second.content) == (first.status_code, first.content)
    own = {"date", "x-request-id", "idempotency-replayed"}
    assert {name: value for name, value in first.headers.items() if name not in own} == {
        name: value for name, value in second.headers.items() if name not in own
    }
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_a_message_that_is_sent_again_arrives_once(server: Server) -> None:
    [client] = server.connect()
    path = f"/v1/connections/{server.id_of(client)}/messages"
    for key, options in (
        ("a", {"content": b"\x00raw", "headers": keyed("a", **RAW)}),
        ("b", {"json": {"text": "text"}, "headers": keyed("b")}),
    ):
        answers: list[httpx.Response] = [server.http.post(path, **options) for _ in range(3)]
        assert answers[0].status_code == 200
        for again in answers[1:]:
            same(answers[0], again)
        assert client.read(4) == (b"\x00raw" if key == "a" else b"text")
    assert client.echoes(b"nothing twice")


def test_a_kick_that_is_sent_again_spares_who_came_since(server: Server) -> None:
    [client] = server.connect()
    body = {"all": True, "force": True}
    first = server.http.post("/v1/kicks", json=body, headers=keyed("k"))
    assert first.json()["kicked"] == 1
    assert client.was_reset()
    [client] = server.connect()
    same(first, server.http.post("/v1/kicks", json=body, headers=keyed('"k"')))
    assert client.echoes(b"still here")


def test_a_job_that_is_asked_for_again_is_the_same_job(server: Server) -> None:
    clients = server.connect(5)
    body = {"all": True, "rate_per_s": 1, "force": True}
    first = server.http.post("/v1/kicks", json=body, headers=keyed("job"))
    assert first.status_code == 202
    second = server.http.post("/v1/kicks", json=body, headers=keyed("job"))
    same(first, second)
    assert second.headers["location"] == first.headers["location"]
    where = first.headers["location"]
    assert server.http.delete(where).status_code == 204
    assert eventually(lambda: server.get(where)["ended_at"])
    assert clients


def test_an_error_of_the_request_is_its_answer_again(server: Server) -> None:
    body: dict[str, Any] = {"all": True, "rate_per_s": 0}
    first = server.http.post("/v1/kicks", json=body, headers=keyed("e"))
    assert first.status_code == 422
    same(first, server.http.post("/v1/kicks", json=body, headers=keyed("e")))
    body["rate_per_s"] = 1
    answer = server.http.post("/v1/kicks", json=body, headers=keyed("e"))
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


def test_while_the_first_is_under_way_the_second_is_told_so_and_later_gets_its_answer(server: Server) -> None:
    [client] = server.connect()  # it does not close its side, so the kick takes its time
    body = {"all": True, "timeout": "2s"}
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(server.http.post("/v1/kicks", json=body, headers=keyed("slow")))

    thread = threading.Thread(target=send)
    thread.start()
    eventually(lambda: server.everything(state="draining"))
    with httpx.Client(base_url=server.url, trust_env=False) as other:
        answer = other.post("/v1/kicks", json=body, headers=keyed("slow"))
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_flight")
    assert answer.headers["retry-after"] == "1"
    thread.join(PATIENCE)
    same(answers[0], server.http.post("/v1/kicks", json=body, headers=keyed("slow")))
    assert answers[0].json()["kicked"] == 1
    assert client


def test_a_client_that_gave_up_waiting_finds_the_answer_when_it_asks_again(server: Server) -> None:
    [client] = server.connect()  # it does not close its side, so the kick takes its time
    body = {"all": True, "timeout": "1s"}
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/v1/kicks", json=body, headers=keyed("lost"), timeout=0.3)

    def again() -> httpx.Response | None:
        answer = server.http.post("/v1/kicks", json=body, headers=keyed("lost"))
        return answer if answer.status_code != 409 else None

    answer = eventually(again)
    assert answer is not None
    assert (answer.status_code, answer.headers["idempotency-replayed"]) == (200, "true")
    assert answer.json()["kicked"] == 1
    assert client


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 256, '"a'])
def test_what_is_no_key_is_refused_and_nothing_is_done(api: Api, key: str) -> None:
    answer = api.call("POST", "/v1/kicks", json={"all": True}, headers=keyed(key))
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_malformed")


def test_a_body_beyond_the_bound_is_refused_as_without_a_key(server: Server) -> None:
    answer = server.http.post("/v1/kicks", content=iter([bytes(1 << 20)] * 4), headers=keyed("large", **RAW))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert server.http.post("/v1/kicks", json={"all": True}, headers=keyed("large")).status_code == 200


def test_a_caller_gets_nobody_elses_answers(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    alice, bob = (add_key(path, name, role="operator") for name in ("alice", "bob"))
    viewer = add_key(path, "viewer", role="viewer")
    server = serve(keys_file=path, key=alice)
    body = {"all": True, "dry_run": True}

    def post(key: str) -> httpx.Response:
        headers = keyed("same", authorization=f"Bearer {key}")
        return server.http.post("/v1/kicks", json=body, headers=headers)

    first = post(alice)
    same(first, post(alice))
    other = post(bob)
    assert (other.status_code, "idempotency-replayed" in other.headers) == (200, False)
    assert other.json()["started_at"] != first.json()["started_at"]
    for key, status in (("iocpd_wrong", 401), (viewer, 403), (viewer, 403)):
        refused = post(key)
        assert (refused.status_code, "idempotency-replayed" in refused.headers) == (status, False)


def test_every_post_declares_it(api: Api) -> None:
    document = api.call("GET", "/openapi.json").json()
    posts = [entry["post"] for entry in document["paths"].values() if "post" in entry]
    assert len(posts) >= 4
    for operation in posts:
        [parameter] = [each for each in operation["parameters"] if each["in"] == "header" and each["name"] != "Prefer"]
        assert parameter["name"] == "Idempotency-Key"
        for status, code in (("400", "key_malformed"), ("409", "in_flight"), ("422", "mismatch"), ("503", "full")):
            content = operation["responses"][status]["content"]["application/problem+json"]
            assert content["examples"][f"idempotency_{code}"]["value"]["status"] == int(status)
    for path, entry in document["paths"].items():
        for method in entry.keys() - {"post"}:
            names = [parameter["name"] for parameter in entry[method].get("parameters", ())]
            assert "Idempotency-Key" not in names, (method, path)
