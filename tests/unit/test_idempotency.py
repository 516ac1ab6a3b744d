"""Idempotency-Key: what is sent again is done once. The middleware alone, over a small application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from iocpd.api import idempotency, problems
from iocpd.api.idempotency import IdempotencyMiddleware, declare, parse_key
from iocpd.api.problems import Problem

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class Application:
    """Answers with what `respond` says, and notes what it was given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.respond: Callable[[], Awaitable[Answer]] = self.count

    async def count(self) -> Answer:
        return 200, [(b"content-type", b"text/plain"), (b"location", b"/v1/x")], str(len(self.bodies)).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        scope["route"] = "the route"
        status, headers, content = await self.respond()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content[:1], "more_body": True})
        await send({"type": "http.response.body", "body": content[1:]})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Client:
    def __init__(self) -> None:
        self.application = Application()
        self.clock = Clock()
        self.middleware = IdempotencyMiddleware(self.application, clock=self.clock)
        self.last_scope: Scope = {}

    async def send(
        self,
        key: str | None = "k1",
        body: bytes = b"body",
        *,
        method: str = "POST",
        path: str = "/v1/x",
        query: bytes = b"",
        authorization: str = "Bearer a",
        content_type: str = "application/json",
        authenticated: bool = True,
        chunks: int = 1,
    ) -> Answer:
        headers = [(b"authorization", authorization.encode()), (b"content-type", content_type.encode())]
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        state = {"caller": "somebody"} if authenticated else {}
        self.last_scope = scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query,
            "headers": headers,
            "state": state,
        }
        size = -(-len(body) // chunks) or 1
        pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        incoming = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]
        sent: list[Message] = []

        async def receive() -> Message:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def note(message: Message) -> None:
            if "headers" in message:  # as the middleware around this one does
                message["headers"].append((b"x-request-id", str(id(scope)).encode()))
            sent.append(message)

        await self.middleware(scope, receive, note)
        start = sent[0]
        headers = [header for header in start["headers"] if header[0] != b"x-request-id"]
        assert len(headers) == len(start["headers"]) - 1, "the new request's own id, and no other"
        return start["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def client() -> Client:
    return Client()


def replayed(answer: Answer) -> bool:
    return (b"idempotency-replayed", b"true") in answer[1]


def test_a_second_request_gets_the_first_ones_answer_byte_for_byte(client: Client) -> None:
    async def run() -> None:
        first = await client.send()
        second = await client.send(chunks=3)
        assert not replayed(first)
        assert second == (first[0], [*first[1], (b"idempotency-replayed", b"true")], first[2])
        assert client.application.bodies == [b"body"]
        assert client.last_scope["route"] == "the route"

    asyncio.run(run())


def test_the_application_gets_the_body_as_it_came(client: Client) -> None:
    async def run() -> None:
        for number, body in enumerate([b"", b"x", bytes(range(256)) * 100]):
            await client.send(f"k{number}", body, chunks=7)

    asyncio.run(run())
    assert client.application.bodies == [b"", b"x", bytes(range(256)) * 100]


@pytest.mark.parametrize(
    "other",
    [
        {"body": b"other"},
        {"path": "/v1/y"},
        {"query": b"timeout=1s"},
        {"content_type": "application/octet-stream"},
        {"path": "/v1/xb", "body": b"ody"},
    ],
)
def test_a_key_that_comes_with_another_request_is_refused(client: Client, other: dict[str, Any]) -> None:
    async def run() -> None:
        await client.send()
        with pytest.raises(Problem) as raised:
            await client.send(**other)
        assert raised.value.kind is problems.IDEMPOTENCY_MISMATCH
        assert replayed(await client.send())

    asyncio.run(run())
    assert len(client.application.bodies) == 1


def test_while_the_first_is_under_way_the_second_is_told_to_wait(client: Client) -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def slow() -> Answer:
            await go.wait()
            return await client.application.count()

        client.application.respond = slow
        first = asyncio.create_task(client.send())
        while not client.application.bodies:
            await asyncio.sleep(0)
        with pytest.raises(Problem) as raised:
            await client.send()
        assert raised.value.kind is problems.IDEMPOTENCY_IN_FLIGHT
        with pytest.raises(Problem) as raised:
            await client.send(body=b"other")
        assert raised.value.kind is problems.IDEMPOTENCY_MISMATCH
        go.set()
        assert not replayed(await first)
        assert replayed(await client.send())

    asyncio.run(run())
    assert len(client.application.bodies) == 1


def test_callers_with_the_same_key_know_nothing_of_each_other(client: Client) -> None:
    async def run() -> None:
        await client.send()
        other = await client.send(authorization="Bearer b", body=b"other")
        assert not replayed(other)
        assert replayed(await client.send())

    asyncio.run(run())
    assert client.application.bodies == [b"body", b"other"]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 504])
def test_an_answer_after_which_one_tries_again_is_not_kept(client: Client, status: int) -> None:
    async def refuse() -> Answer:
        return status, [], b"no"

    async def run() -> None:
        client.application.respond = refuse
        await client.send()
        client.application.respond = client.application.count
        assert (await client.send())[2] == b"2"

    asyncio.run(run())


@pytest.mark.parametrize("status", [200, 201, 202, 204, 404, 409, 422])
def test_every_other_answer_is_kept(client: Client, status: int) -> None:
    async def answer() -> Answer:
        return status, [], b"same"

    async def run() -> None:
        client.application.respond = answer
        await client.send()
        assert replayed(await client.send())

    asyncio.run(run())


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()])
def test_a_request_that_ends_without_an_answer_can_be_sent_again(client: Client, error: BaseException) -> None:
    async def fail() -> Answer:
        raise error

    async def run() -> None:
        client.application.respond = fail
        with pytest.raises(type(error)):
            await client.send()
        client.application.respond = client.application.count
        assert not replayed(await client.send())

    asyncio.run(run())


def test_answers_are_kept_for_ten_minutes(client: Client) -> None:
    async def run() -> None:
        await client.send()
        client.clock.now = idempotency.KEEP_SECONDS - 1
        assert replayed(await client.send())
        client.clock.now = idempotency.KEEP_SECONDS
        assert not replayed(await client.send())

    asyncio.run(run())


def test_beyond_the_bound_the_oldest_answer_goes_and_none_that_is_under_way(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "KEEP_ANSWERS", 3)

    async def run() -> None:
        go = asyncio.Event()

        async def slow() -> Answer:
            await go.wait()
            return 200, [], b"slow"

        client.application.respond = slow
        waiting = [asyncio.create_task(client.send(f"slow{number}")) for number in range(2)]
        while len(client.application.bodies) < 2:
            await asyncio.sleep(0)
        client.application.respond = client.application.count
        await client.send("a")
        await client.send("b")
        assert replayed(await client.send("b"))
        assert not replayed(await client.send("a"))  # forgotten, and done again
        client.application.respond = slow
        waiting.append(asyncio.create_task(client.send("slow2")))
        while len(client.application.bodies) < 6:
            await asyncio.sleep(0)
        with pytest.raises(Problem) as raised:
            await client.send("c")
        assert raised.value.kind is problems.IDEMPOTENCY_FULL
        go.set()
        await asyncio.gather(*waiting)
        assert replayed(await client.send("slow2"))

    asyncio.run(run())


def test_large_answers_push_out_older_ones(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "KEEP_BYTES", 1000)

    async def large() -> Answer:
        return 200, [], bytes(400)

    async def run() -> None:
        client.application.respond = large
        for key in "abc":
            await client.send(key)
        assert [replayed(await client.send(key)) for key in "bc"] == [True, True]
        assert not replayed(await client.send("a"))

    asyncio.run(run())


@pytest.mark.parametrize("options", [{"key": None}, {"method": "PUT"}, {"method": "DELETE"}, {"authenticated": False}])
def test_what_is_no_post_of_a_caller_with_a_key_is_left_alone(client: Client, options: dict[str, Any]) -> None:
    async def run() -> None:
        for _ in range(2):
            assert not replayed(await client.send(**options))

    asyncio.run(run())
    assert len(client.application.bodies) == 2


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (r'"a\"b\\c"', r"a\"b\\c".replace("\\\\", "\\").replace('\\"', '"')),
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
    ],
)
def test_a_key_may_be_bare_or_quoted(value: str, key: str) -> None:
    assert parse_key([value]) == key


@pytest.mark.parametrize(
    "values",
    [[""], ['""'], ["x" * 256], ['"' + "x" * 256 + '"'], ["a b"], ['"a'], ['"a";b=c'], ["a\x7f"], ["é"], ["a", "a"]],
)
def test_what_is_no_key_is_refused(values: list[str]) -> None:
    with pytest.raises(Problem) as raised:
        parse_key(values)
    assert raised.value.kind is problems.IDEMPOTENCY_KEY_MALFORMED
    assert "255" in raised.value.detail


def test_it_is_declared_on_each_post() -> None:
    there = problems.responses(problems.VALIDATION_FAILED)[422]
    document = {
        "paths": {
            "/v1/x": {
                "post": {"responses": {"200": {"description": "ok"}, "422": there, "500": {"description": "no"}}},
                "get": {"responses": {"200": {"description": "ok"}}},
            },
        }
    }
    declare(document)
    post: Any = document["paths"]["/v1/x"]["post"]
    assert [parameter["name"] for parameter in post["parameters"]] == ["Idempotency-Key"]
    assert set(post["responses"]) == {"200", "400", "409", "422", "500", "503"}
    assert set(post["responses"]["422"]["content"][problems.MEDIA_TYPE]["examples"]) == {
        "validation_failed",
        "idempotency_mismatch",
    }
    assert "Idempotency-Replayed" in post["responses"]["200"]["headers"]
    assert "headers" not in post["responses"]["500"]
    assert document["paths"]["/v1/x"]["get"] == {"responses": {"200": {"description": "ok"}}}
