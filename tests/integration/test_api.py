"""What each route answers: problems, probes, metrics. The application in this process."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iocpd.api.connections.schemas import ClosedPage, ConnectionDetail, ConnectionPage
from iocpd.core import (
    ConnectionClosing,
    ConnectionEnded,
    Engine,
    EngineBusy,
    EngineError,
    EngineStopped,
    Report,
    SendQueueFull,
)
from tests.integration.conftest import Api
from tests.support import await_turn, connect, eventually

TEXT = {"json": {"text": "x"}}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code", "mentions"),
    [
        ("GET", "/v1/nothing", {}, 404, "route_unknown", "/v1/nothing"),
        ("POST", "/v1/connections", {}, 405, "method_not_allowed", "use GET"),
        ("POST", "/v1/node/drain", {}, 405, "method_not_allowed", "use DELETE, GET, PUT"),
        ("GET", "/v1/connections/abc", {}, 404, "connection_unknown", "'abc'"),
        ("GET", "/v1/connections/bbbbbb-1", {}, 410, "connection_of_another_run", "earlier run"),
        ("DELETE", "/v1/connections/abc", {}, 404, "connection_unknown", "'abc'"),
        ("POST", "/v1/connections/abc/messages", TEXT, 404, "connection_unknown", "'abc'"),
        ("GET", "/v1/connections?limit=0", {}, 422, "validation_failed", "limit is '0'"),
        ("GET", "/v1/connections?limit=1001", {}, 422, "validation_failed", "1000"),
        ("GET", "/v1/connections?ip=example.com", {}, 422, "validation_failed", "CIDR"),
        ("GET", "/v1/connections?ip=192.0.2.1/24", {}, 422, "validation_failed", "192.0.2.0/24"),
        ("GET", "/v1/connections?ip=fe80::1%25eth0", {}, 422, "validation_failed", "zone"),
        ("GET", "/v1/connections?state=asleep", {}, 422, "validation_failed", "'open'"),
        ("GET", "/v1/connections?older_than=old", {}, 422, "validation_failed", "90s"),
        ("GET", "/v1/connections?idel_for=5m", {}, 422, "validation_failed", "idel_for"),
        ("GET", "/v1/connections?cursor=abc", {}, 422, "cursor_malformed", "without it"),
        ("GET", "/v1/connections/closed?cursor=%00", {}, 422, "cursor_malformed", "without it"),
        ("DELETE", "/v1/connections/abc?timeout=1h", {}, 422, "validation_failed", "timeout"),
        ("DELETE", "/v1/connections/abc?reason=" + "x" * 200, {}, 422, "validation_failed", "199"),
        ("DELETE", "/v1/connections/abc?reason=a%0Ab", {}, 422, "validation_failed", "printable"),
        ("DELETE", "/v1/connections/abc?force=true&farewell=bye", {}, 422, "validation_failed", "reset"),
        ("POST", "/v1/broadcasts", {"json": {"payload": {"text": "x"}}}, 422, "validation_failed", '"all": true'),
        ("POST", "/v1/broadcasts", {"json": {"all": True, "payload": {}}}, 422, "validation_failed", '"text"'),
        (
            "POST",
            "/v1/broadcasts",
            {"json": {"all": True, "listener": 0, "payload": {"text": "x"}}},
            422,
            "validation_failed",
            "contradict",
        ),
        (
            "POST",
            "/v1/broadcasts",
            {"json": {"all": True, "payload": {"base64": "%%%"}}},
            422,
            "validation_failed",
            "base64",
        ),
        ("POST", "/v1/broadcasts", {"content": b"{"}, 415, "unsupported_media_type", "application/json"),
        (
            "POST",
            "/v1/broadcasts",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "malformed_json",
            "JSON",
        ),
        ("PUT", "/v1/node/drain", {"json": {"deadline": "2d"}}, 422, "validation_failed", "deadline"),
        ("PUT", "/v1/node/drain", {"json": {"then": "dance"}}, 422, "validation_failed", "then"),
        ("DELETE", "/v1/node/drain", {}, 409, "drain_conflict", "no drain"),
    ],
)
def test_each_error_is_a_problem_that_names_the_value_the_rule_and_the_way_out(
    api: Api, method: str, path: str, options: dict[str, Any], status: int, code: str, mentions: str
) -> None:
    answer = api.call(method, path, **options)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:iocpd:problem:{code}"
    assert problem["title"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert mentions in problem["detail"], problem["detail"]
    if code == "validation_failed":
        assert problem["errors"]
        assert all(set(error) == {"location", "field", "code", "detail"} for error in problem["errors"])


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"content": b"x"}, 415, "unsupported_media_type"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"content": b"", "headers": {"content-type": "application/octet-stream"}}, 422, "validation_failed"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed_json"),
        ({"json": {}}, 422, "validation_failed"),
        ({"json": []}, 422, "validation_failed"),
        ({"json": {"text": ""}}, 422, "validation_failed"),
        ({"json": {"text": "a", "base64": "YQ=="}}, 422, "validation_failed"),
        ({"json": {"base64": "YQ"}}, 422, "validation_failed"),
        ({"content": rb'{"text": "\ud800"}', "headers": {"content-type": "application/json"}}, 422, None),
    ],
)
def test_a_message_that_is_no_payload_is_refused_without_repeating_it(
    api: Api, options: dict[str, Any], status: int, code: str | None
) -> None:
    client = connect(api.engine, 1)[0]
    id = api.call("GET", "/v1/connections").json()["items"][0]["id"]
    answer = api.call("POST", f"/v1/connections/{id}/messages", **options)
    # What JSON may hold is the parser's to say: half a surrogate pair is refused as one or the other.
    assert answer.status_code == status or (code is None and answer.status_code == 400), answer.text
    assert code is None or answer.json()["code"] == code
    assert client.echoes(b"nothing was sent")


def test_what_is_wrong_in_a_message_is_not_repeated(api: Api) -> None:
    secret = "hunter2hunter2"
    body = {"all": True, "payload": {"text": secret, "base64": secret}, "timeout": secret}
    answer = api.call("POST", "/v1/broadcasts", json=body)
    assert answer.status_code == 422
    assert secret not in answer.text


def test_a_bug_is_answered_without_its_traceback(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Engine) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Engine, "info", broken)
    answer = api.call("GET", "/v1/node")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_an_engine_that_has_stopped_answers_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise EngineStopped

    monkeypatch.setattr(Engine, "submit_broadcast", stopped)
    answer = api.call("POST", "/v1/broadcasts", json={"all": True, "payload": {"text": "x"}})
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_stopped")
    api.engine.stop()
    assert api.call("GET", "/readyz").status_code == 503
    assert api.call("GET", "/startupz").status_code == 503
    assert api.call("GET", "/livez").status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConnectionClosing(1), 409, "connection_closing"),
        (SendQueueFull(1), 429, "send_queue_full"),
        (EngineBusy(), 503, "engine_busy"),
        (EngineStopped(), 503, "engine_stopped"),
        (ConnectionEnded(1, None), 410, "connection_ended"),
        (EngineError("unexpected"), 500, "internal_error"),
        (MemoryError("no memory"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_each_refusal_of_the_engine_has_its_answer(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str, late: bool
) -> None:
    def refuse(*_: object) -> Future[Report]:
        if not late:
            raise error
        future: Future[Report] = Future()
        threading.Timer(0.02, future.set_exception, [error]).start()
        return future

    monkeypatch.setattr(Engine, "submit_send", refuse)
    client = connect(api.engine, 1)[0]
    id = api.call("GET", "/v1/connections").json()["items"][0]["id"]
    answer = api.call("POST", f"/v1/connections/{id}/messages", json={"text": "x"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (code in ("send_queue_full", "engine_busy"))
    assert client.echoes(b"x")


def test_a_send_that_is_not_done_in_time_is_reported_as_under_way(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    futures: list[Future[Report]] = []

    def never(*_: object) -> Future[Report]:
        futures.append(Future())
        return futures[-1]

    monkeypatch.setattr(Engine, "submit_send", never)
    client = connect(api.engine, 1)[0]
    id = api.call("GET", "/v1/connections").json()["items"][0]["id"]
    answer = api.call("POST", f"/v1/connections/{id}/messages?timeout=100ms", json={"text": "x"})
    assert answer.status_code == 200
    assert answer.json()["done"] is False
    assert not futures[0].cancelled()
    futures[0].set_result(Report(1, 1, 1, 0, 0, 0, True))
    assert client


def test_a_request_id_is_echoed_or_made(api: Api) -> None:
    assert api.call("GET", "/livez", headers={"x-request-id": "abc-123"}).headers["x-request-id"] == "abc-123"
    made = [api.call("GET", "/livez").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert re.fullmatch("[0-9a-f]{32}", made[0])
    for unfit in ("x" * 200, "a b", "<script>"):
        assert api.call("GET", "/livez", headers={"x-request-id": unfit}).headers["x-request-id"] != unfit


def test_a_cursor_works_with_its_own_filters_alone(api: Api) -> None:
    clients = connect(api.engine, 5)
    first = api.call("GET", "/v1/connections?limit=2&state=open").json()
    cursor = first["next_cursor"]
    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    for query in ("", "state=draining", "state=open&listener=0"):
        answer = api.call("GET", f"/v1/connections?limit=2&{query}&cursor={cursor}")
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor_mismatch")
    closed = api.call("GET", f"/v1/connections/closed?cursor={cursor}")
    assert closed.json()["code"] == "cursor_mismatch"
    altered = ("A" if cursor[20] != "A" else "B").join((cursor[:20], cursor[21:]))
    assert api.call("GET", f"/v1/connections?state=open&cursor={altered}").status_code in (410, 422)
    same = api.call("GET", f"/v1/connections?limit=5&cursor={cursor}&state=open")
    assert len(same.json()["items"]) == 3
    assert clients


def test_a_cursor_of_another_run_says_so(api: Api, engine: Engine) -> None:
    from iocpd.api.app import create_app
    from iocpd.api.settings import Settings

    clients = connect(engine, 3)
    cursor = api.call("GET", "/v1/connections?limit=1").json()["next_cursor"]
    restarted = Api(create_app(engine, Settings()), engine)
    answer = restarted.call("GET", f"/v1/connections?limit=1&cursor={cursor}")
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_expired")
    assert clients


def test_pages_have_the_shape_that_is_declared(api: Api) -> None:
    clients = connect(api.engine, 3)
    clients[0].close()
    eventually(lambda: api.engine.closed())
    page = api.call("GET", "/v1/connections?count=exact&limit=1")
    parsed = ConnectionPage.model_validate_json(page.content)
    assert parsed.total == 2
    assert json.loads(parsed.model_dump_json()) == page.json()
    row = page.json()["items"][0]
    one = api.call("GET", f"/v1/connections/{row['id']}").json()
    assert json.loads(ConnectionDetail.model_validate(one).model_dump_json()) == one
    del one["rtt_ms"]
    assert one == row
    assert list(one) == list(row)
    assert api.call("GET", "/v1/connections").json()["total"] is None
    closed = api.call("GET", "/v1/connections/closed")
    assert json.loads(ClosedPage.model_validate_json(closed.content).model_dump_json()) == closed.json()


def test_metrics_follow_the_conventions_and_count_requests_by_route(api: Api) -> None:
    clients = connect(api.engine, 4)
    clients.pop().close()
    eventually(lambda: api.engine.closed())
    await_turn(api.engine)  # it is counted after it is recorded
    api.call("GET", "/v1/connections/abc")
    api.call("GET", "/no/such/thing")
    answer = api.call("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["iocpd_worker_connections", ("worker", "0")] == 3
    assert values["iocpd_closed_connections_total", ("by", "client"), ("reason", "client_closed")] == 1
    listener = ("listener", f"127.0.0.1:{api.engine.listener_stats()[0].port}")
    assert values["iocpd_accepted_connections_total", listener, ("service", "echo")] == 4
    route = ("route", "/v1/connections/{id}")
    assert values["iocpd_http_requests_total", ("method", "GET"), route, ("status", "404")] == 1
    unmatched = ("route", "unmatched")
    assert values["iocpd_http_requests_total", ("method", "GET"), unmatched, ("status", "404")] == 1
    assert values["iocpd_drain_phase", ("phase", "none")] == 1
    for family in families.values():
        assert family.documentation
        assert re.fullmatch("[a-z][a-z0-9_]*", family.name)
        for sample in family.samples:
            assert "peer" not in sample.labels
            assert "id" not in sample.labels


def test_metrics_speak_openmetrics_to_those_who_ask(api: Api) -> None:
    answer = api.call("GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_no_page_is_served_that_loads_from_elsewhere(api: Api) -> None:
    for path in ("/docs", "/redoc"):
        assert api.call("GET", path).status_code == 404
