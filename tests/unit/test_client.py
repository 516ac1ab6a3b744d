"""What the Python client does by itself: retries, errors, where address and key come from."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from iocpd.api.client import (
    AsyncClient,
    Client,
    ClientError,
    Event,
    ProblemError,
    SetupError,
    TimedOut,
    UnexpectedAnswer,
    Unreachable,
)
from iocpd.api.client.operations.events import _Parser

Answer = httpx.Response | type[httpx.RequestError]

REPORT = dict.fromkeys(("matched", "queued", "written", "skipped_slow", "closed_before_write", "failed"), 1) | {
    "done": True
}
IN_FLIGHT = {"code": "idempotency_in_flight", "status": 409, "title": "In flight", "detail": "wait", "request_id": "r"}
BUSY = {"code": "engine_busy", "status": 503, "title": "The engine is busy", "detail": "try again", "request_id": "r"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IOCPD_URL", "IOCPD_KEY", "IOCPD_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


class Service:
    """Gives these answers, one after another."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        raise answer("it failed", request=request)


Run = Callable[..., Any]


@pytest.fixture(params=["blocking", "asynchronous"])
def run(request: pytest.FixtureRequest) -> Run:
    """`run(service, name, ...)` calls a method of either client."""

    def blocking(service: Service, name: str, *args: Any, retries: int = 2, **kwargs: Any) -> Any:
        with Client(transport=httpx.MockTransport(service), retries=retries) as client:
            return getattr(client, name)(*args, **kwargs)

    def asynchronous(service: Service, name: str, *args: Any, retries: int = 2, **kwargs: Any) -> Any:
        async def call() -> Any:
            async with AsyncClient(transport=httpx.MockTransport(service), retries=retries) as client:
                return await getattr(client, name)(*args, **kwargs)

        return asyncio.run(call())

    return blocking if request.param == "blocking" else asynchronous


def busy(retry_after: str | None = "0") -> httpx.Response:
    headers = {"content-type": "application/problem+json"} | ({"retry-after": retry_after} if retry_after else {})
    return httpx.Response(503, json=BUSY, headers=headers)


def live() -> httpx.Response:
    return httpx.Response(200, json={"items": []})


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError])
def test_a_get_is_made_again_after_a_connection_error(run: Run, failure: type[httpx.RequestError]) -> None:
    service = Service(failure, failure, live())
    assert run(service, "list_listeners").items == ()
    assert len(service.requests) == 3


def test_retries_have_a_bound_and_grow_apart(run: Run) -> None:
    service = Service(*[httpx.ConnectError] * 4)
    began = time.monotonic()
    with pytest.raises(Unreachable) as raised:
        run(service, "list_listeners", retries=3)
    assert not raised.value.sent
    assert len(service.requests) == 4
    assert 0.05 + 0.1 + 0.2 <= time.monotonic() - began < 5


@pytest.mark.parametrize(("name", "arguments"), [("kick", ["x"]), ("begin_drain", []), ("cancel_drain", [])])
def test_a_put_or_delete_is_made_again_only_if_it_was_surely_not_carried_out(
    run: Run, name: str, arguments: list[str]
) -> None:
    service = Service(httpx.ReadError)
    with pytest.raises(Unreachable) as raised:
        run(service, name, *arguments)
    assert raised.value.sent
    service = Service(httpx.ConnectError, busy(), httpx.ReadError)
    with pytest.raises(Unreachable):
        run(service, name, *arguments)
    assert len(service.requests) == 3


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadError])
def test_a_post_is_made_again_under_the_same_key(run: Run, failure: type[httpx.RequestError]) -> None:
    service = Service(failure, busy(), httpx.Response(200, json=REPORT))
    assert run(service, "send", "x", "hello").written == 1
    keys = [request.headers["idempotency-key"] for request in service.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0].startswith('"')
    again = Service(httpx.Response(200, json=REPORT))
    run(again, "send", "x", "hello")
    assert again.requests[0].headers["idempotency-key"] != keys[0]


def test_a_post_whose_answer_was_lost_waits_for_what_it_began(run: Run) -> None:
    headers = {"content-type": "application/problem+json", "retry-after": "1"}
    flying = [httpx.Response(409, json=IN_FLIGHT, headers=headers) for _ in range(4)]
    service = Service(httpx.ReadError, *flying, httpx.Response(200, json=REPORT))
    assert run(service, "send", "x", "hello", retries=1).written == 1
    assert len(service.requests) == 6


def test_only_a_post_has_an_idempotency_key(run: Run) -> None:
    service = Service(live(), httpx.Response(204))
    run(service, "list_listeners")
    run(service, "kick", "x")
    assert not any("idempotency-key" in request.headers for request in service.requests)


def test_a_post_that_can_not_be_made_again_is_an_error(run: Run) -> None:
    service = Service(busy(None))
    with pytest.raises(ProblemError) as raised:
        run(service, "broadcast", "hello", all=True)
    assert raised.value.code == "engine_busy"


def test_what_timed_out_is_not_made_again(run: Run) -> None:
    for failure in (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
        with pytest.raises(TimedOut):
            run(Service(failure), "get_node")


def test_no_connection_in_time_is_unreachable(run: Run) -> None:
    with pytest.raises(Unreachable) as raised:
        run(Service(httpx.ConnectTimeout), "get_node", retries=0)
    assert not raised.value.sent


def test_a_503_is_tried_again_when_it_asks_for_it_within_bounds(run: Run) -> None:
    service = Service(busy(), busy("1"), live())
    began = time.monotonic()
    assert run(service, "list_listeners").items == ()
    assert 1 <= time.monotonic() - began < 10
    for refusal in (busy(None), busy("3600"), busy("Wed, 21 Oct 2015 07:28:00 GMT")):
        with pytest.raises(ProblemError) as raised:
            run(Service(refusal), "list_listeners")
        assert raised.value.status == 503


def test_a_probe_is_answered_at_once(run: Run) -> None:
    with pytest.raises(ProblemError):
        run(Service(busy()), "get_ready")


# --- requests and answers ---------------------------------------------------------------------------------------------


def test_a_request_waits_as_long_as_the_service_was_asked_to(run: Run) -> None:
    service = Service(httpx.Response(204), httpx.Response(200, json=REPORT))
    run(service, "kick", "x", timeout=60)
    run(service, "send", "x", b"m", timeout=30)
    assert [request.extensions["timeout"]["read"] for request in service.requests] == [75, 40]
    assert [request.extensions["timeout"]["connect"] for request in service.requests] == [10, 10]


@pytest.mark.parametrize("id", ["../node/drain", "..", "a/b", "a?b=c", "a#b", "a%2Fb", "å b"])
def test_an_id_stays_one_segment_of_the_path(run: Run, id: str) -> None:
    service = Service(httpx.Response(204))
    run(service, "kick", id)
    url = service.requests[0].url
    assert url.raw_path.partition(b"?")[0].count(b"/") == 3
    assert url.path == "/v1/connections/" + id.replace("/", "%2F")
    assert set(url.params) == {"timeout"}


def test_numbers_in_a_query_are_as_the_service_reads_them(run: Run) -> None:
    page = {"items": [], "next_cursor": None, "snapshot": {"taken_at": "2025-01-01T00:00:00Z", "expires_at": None}}
    service = Service(httpx.Response(200, json=page | {"total": None}))
    run(service, "list_connections", older_than=0.1 + 0.2, idle_for="5m", listener=0)
    assert dict(service.requests[0].url.params) == {
        "limit": "100",
        "count": "none",
        "older_than": "0.300000",
        "idle_for": "5m",
        "listener": "0",
    }


def test_what_a_later_service_adds_does_no_harm(run: Run) -> None:
    drain = dict.fromkeys(("initial", "remaining", "evicting", "cancelled", "rate_per_s"), 0)
    drain |= dict.fromkeys(("exits_posted", "exits_taken"), 0)
    drain |= dict.fromkeys(("then", "started_at", "eta", "deadline", "ended_at"))
    answer = httpx.Response(200, json={**drain, "phase": "a_new_one", "more": 1})
    assert run(Service(answer), "get_drain").phase == "a_new_one"


def test_an_answer_of_something_else_is_told_from_one_of_the_service(run: Run) -> None:
    with pytest.raises(UnexpectedAnswer, match="is not a Node"):
        run(Service(httpx.Response(200, html="<p>welcome</p>")), "get_node")
    with pytest.raises(ProblemError) as raised:
        run(Service(httpx.Response(502, html="<p>bad gateway</p>")), "get_node")
    assert (raised.value.status, raised.value.code) == (502, "http_502")
    assert "bad gateway" in str(raised.value)
    broken = httpx.Response(500, content=b"{", headers={"content-type": "application/problem+json"})
    with pytest.raises(ProblemError) as raised:
        run(Service(broken), "get_node")
    assert raised.value.code == "http_500"
    with pytest.raises(ProblemError) as raised:  # a key must not follow it
        run(Service(httpx.Response(307, headers={"location": "http://elsewhere.invalid/"})), "get_node")
    assert raised.value.code == "http_307"


# --- events -----------------------------------------------------------------------------------------------------------


def stream_of(*parts: bytes) -> httpx.Response:
    return httpx.Response(200, content=b"".join(parts), headers={"content-type": "text/event-stream"})


def event(number: int, kind: str = "connected", end: bytes = b"\n") -> bytes:
    data = json.dumps({"at": "2025-01-31T12:00:00Z", "id": f"c-{number}", "listener": 0})
    lines = (f"event: {kind}", f"data: {data}", f"id: run.{number}")
    return end.join(line.encode() for line in (*lines, "", ""))


Events = Callable[..., list[Event]]


@pytest.fixture(params=["blocking", "asynchronous"])
def take(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Events:
    """`take(service, count, ...)` reads so many events with either client; pauses are none."""
    monkeypatch.setattr("iocpd.api.client.operations.events._FIRST_PAUSE_SECONDS", 0)

    def blocking(service: Service, count: int, **options: Any) -> list[Event]:
        with Client(transport=httpx.MockTransport(service)) as client:
            return list(itertools.islice(client.events(**options), count))

    def asynchronous(service: Service, count: int, **options: Any) -> list[Event]:
        async def read() -> list[Event]:
            found = []
            async with AsyncClient(transport=httpx.MockTransport(service)) as client:
                events = client.events(**options)
                async for each in events:
                    found.append(each)
                    if len(found) == count:
                        break
                await events.aclose()
            return found

        return asyncio.run(read())

    return blocking if request.param == "blocking" else asynchronous


def test_events_go_on_where_the_connection_was_lost(take: Events) -> None:
    service = Service(
        stream_of(event(1), b": ping\n\n", event(2)), httpx.ConnectError, busy(), stream_of(event(3), event(4))
    )
    found = take(service, 4, types=["connected", "drain"], listener=0)
    assert [(each.kind, each.id, each.position) for each in found] == [
        ("connected", f"c-{number}", f"run.{number}") for number in (1, 2, 3, 4)
    ]
    assert [request.headers.get("last-event-id") for request in service.requests] == [None, "run.2", "run.2", "run.2"]
    assert dict(service.requests[0].url.params) == {"types": "connected,drain", "listener": "0"}
    assert take(Service(stream_of(event(1))), 1, after="run.0")[0].id == "c-1"


def test_what_was_missed_is_an_event(take: Events) -> None:
    service = Service(
        stream_of(b'event: missed\ndata: {"missed": 37}\nid: run.9\n\n', b'event: missed\ndata: {"missed": null}\n\n')
    )
    first, second = take(service, 2)
    assert (first.kind, first.missed, first.position) == ("missed", 37, "run.9")
    assert (second.kind, second.missed, second.position) == ("missed", None, None)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_lines_of_events_end_as_the_standard_says(end: bytes) -> None:
    whole = event(1, end=end) + event(2, end=end)
    # In pieces of every size, also in the middle of a line's end and of a character.
    for size in range(1, 20):
        parser = _Parser()
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        found = [fields for piece in [*pieces, b":\n"] for fields in parser.feed(piece)]
        assert [fields["id"] for fields in found] == ["run.1", "run.2"]


def test_characters_that_only_look_like_the_end_of_a_line_stay_in_the_event() -> None:
    text = "a\u2028b\x85c\x0bd"
    data = json.dumps({"text": text}, ensure_ascii=False)
    (fields,) = _Parser().feed(f"event: ban\ndata: {data}\n\n".encode())
    assert json.loads(fields["data"], strict=False) == {"text": text}


def test_a_stream_that_can_not_be_had_is_an_error(take: Events) -> None:
    refused = httpx.Response(403, json={**BUSY, "status": 403, "code": "scope_missing"})
    refused.headers["content-type"] = "application/problem+json"
    with pytest.raises(ProblemError) as raised:
        take(Service(refused), 1)
    assert raised.value.code == "scope_missing"
    service = Service(*[httpx.ConnectError] * 3)
    with pytest.raises(Unreachable):
        take(service, 1, attempts=3)
    assert len(service.requests) == 3
    with pytest.raises(Unreachable, match="ends each stream"):
        take(Service(*[stream_of() for _ in range(3)]), 1, attempts=3)
    with pytest.raises(UnexpectedAnswer, match="not an event"):
        take(Service(stream_of(b"event: ban\ndata: {\n\n")), 1)
    with pytest.raises(UnexpectedAnswer, match="endless"):
        take(Service(stream_of(b"x" * 2_000_000)), 1)


# --- address and key --------------------------------------------------------------------------------------------------


def sent(**options: Any) -> httpx.Request:
    service = Service(live())
    with Client(**options, transport=httpx.MockTransport(service)) as client:
        client.list_listeners()
    return service.requests[0]


def test_the_address_is_the_arguments_or_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(sent().url) == "http://127.0.0.1:8080/v1/listeners"
    monkeypatch.setenv("IOCPD_URL", "https://iocpd.invalid/behind/a/proxy")
    assert str(sent().url) == "https://iocpd.invalid/behind/a/proxy/v1/listeners"
    assert str(sent(url="http://[::1]:81/").url) == "http://[::1]:81/v1/listeners"


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://host", "http://", "http://me:secret@host", "http://h:x"])
def test_an_address_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="url") as raised:
        Client(url)
    assert "secret" not in str(raised.value)
    if url:
        monkeypatch.setenv("IOCPD_URL", url)
        with pytest.raises(SetupError, match="IOCPD_URL"):
            AsyncClient()


def test_the_key_comes_from_the_first_place_that_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("of-a-file\n")
    second.write_text("of-another\r\n")
    assert "authorization" not in sent().headers
    monkeypatch.setenv("IOCPD_KEY_FILE", str(second))
    assert sent().headers["authorization"] == "Bearer of-another"
    monkeypatch.setenv("IOCPD_KEY", "of-the-environment")
    assert sent().headers["authorization"] == "Bearer of-the-environment"
    assert sent(key_file=first).headers["authorization"] == "Bearer of-a-file"
    assert sent(key="of-an-argument").headers["authorization"] == "Bearer of-an-argument"
    assert "authorization" not in sent(key="").headers


def test_a_key_that_can_be_none_is_refused_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text in ("sec ret", "sec\nret", "sécret"):
        with pytest.raises(SetupError) as raised:
            Client(key=text)
        assert text not in str(raised.value)
    for content in ("", "\n", "sec ret\n"):
        file.write_text(content)
        with pytest.raises(SetupError, match="first line of the key file"):
            Client(key_file=file)
    with pytest.raises(SetupError, match="No such file"):
        Client(key_file=tmp_path / "missing")
    with pytest.raises(SetupError, match="not both"):
        Client(key="a", key_file=file)
    assert issubclass(SetupError, ClientError)


def test_a_clients_text_has_no_key_in_it() -> None:
    assert repr(Client(key="secret")) == "Client('http://127.0.0.1:8080')"


def test_proxies_of_the_environment_never_see_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    with Client("http://127.0.0.1:1", retries=0) as client, pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        client.get_node()
