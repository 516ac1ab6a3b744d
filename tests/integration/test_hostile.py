"""What others wrote, shown to people: it forges no line of a log, no entry of the audit, no metric, no event, no row of
a table, and steers no terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError
from rich.console import Console

from iocpd.api.app import create_app
from iocpd.api.cli import main
from iocpd.api.cli.top.sample import Rates, Sample
from iocpd.api.cli.top.screen import draw
from iocpd.api.cli.top.state import State
from iocpd.api.client import models
from iocpd.api.connections.schemas import TEXT_BYTES
from iocpd.api.settings import Settings
from iocpd.core import Engine, EngineConfig, ListenerConfig
from tests.integration.conftest import Api, Serve
from tests.integration.server import BACKENDS, OVERRIDE, Server
from tests.integration.sse import watch
from tests.integration.terminal import Person
from tests.support import Client, connect, eventually

# Ends a line, begins another one, retitles a terminal, asks it to answer, clears it (also with the one character that
# stands for two), rings, turns the direction of writing, and is more than a line in every alphabet that has line ends.
MARK = "FORGED"
HOSTILE = (
    "a\x1b]0;owned\x07\x1b[6n\x9b2J\x7f\r\n"
    f"{MARK} 1 2 3\r{MARK}\x0b\x0c\x85{MARK}\u2028{MARK}\u202e\u2066{MARK}\ufeff\u200b"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # the command's own; what is hostile here has none
LONG = HOSTILE + "x" * 100_000 + HOSTILE
PAYLOAD = "a payload, and nothing else: "


@pytest.fixture
def backend() -> str:
    """What shows text sees no difference between them."""
    return BACKENDS[0] if OVERRIDE else "auto"


def assert_harmless(text: str) -> None:
    """Lines of visible characters, none of which begins with what somebody else wrote."""
    for line in _COLOURS.sub("", text).split("\n"):
        assert line.isprintable(), repr(line)
        assert not line.lstrip().startswith(MARK), repr(line)


class Screen(io.StringIO):
    """A terminal, as far as a program can see."""

    def isatty(self) -> bool:
        return True


WIDE = {"NO_COLOR": "1", "COLUMNS": "400"}


def assert_shows_harmless(person: Person, arguments: list[str], people: bool) -> str:
    """Runs the command, before people or before a program; what it shows."""
    out, err = (Screen(), Screen()) if people else (io.StringIO(), io.StringIO())
    with (
        mock.patch.dict(os.environ, person.environment() | person.variables, clear=True),
        mock.patch("sys.stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = main(arguments)
    assert status in range(8), (status, err.getvalue())
    shown = out.getvalue() + err.getvalue()
    assert shown
    assert_harmless(shown if people else shown.replace("\t", ""))
    return shown


# --- the service ------------------------------------------------------------------------------------------------------


def attack(server: Server, peer: Client, id: str) -> list[int]:
    """Puts the hostile texts wherever a request has room for one; the statuses of the answers."""
    answers = []

    def ask(method: str, path: str, **options: Any) -> int:
        answer = server.http.request(method, path, **options)
        assert_harmless(answer.text)
        assert len(answer.content) < 4000, answer.text[:4000]
        for name, value in answer.headers.items():
            assert value.isprintable(), (name, value)
        answers.append(answer.status_code)
        return answer.status_code

    for text in (HOSTILE, LONG):
        payload = {"text": PAYLOAD + text}
        short = text[:2000]
        ask("DELETE", f"/v1/connections/{quote(short, safe='')}")
        ask("DELETE", f"/v1/connections/{id}", params={"reason": short})
        ask("PATCH", f"/v1/connections/{id}", json={"tags": {"a": text}})
        ask("PATCH", f"/v1/connections/{id}", json={"tags": {text: "a"}, "groups": [text]})
        ask("GET", "/v1/connections", params={"tag": f"a:{short}", "cursor": short, "group": short})
        ask("GET", "/v1/connections", params={short: short})
        ask("POST", "/v1/bans", json={"address": text})
        ask("POST", "/v1/bans", json={"address": "192.0.2.1", "reason": text, "ttl": text})
        ask("DELETE", f"/v1/bans/{quote(short, safe='')}")
        ask("POST", "/v1/kicks", json={"ip": "192.0.2.1", "reason": text})
        ask("POST", "/v1/keys", json={"name": text, "role": text})
        ask("DELETE", f"/v1/keys/{quote(short, safe='')}")
        ask("GET", "/v1/audit", params={"actor": short, "action": short})
        ask("PUT", "/v1/node/drain", json={"then": text, "deadline": text})
        data = payload["text"].encode()
        assert ask("POST", f"/v1/connections/{id}/messages", json=payload) == 200
        assert peer.read(len(data)) == data
        assert ask("POST", "/v1/broadcasts", json={"all": True, "payload": payload}) == 200
        assert peer.read(len(data)) == data
        assert ask("POST", "/v1/broadcasts", json={"all": True, "payload": payload, "on_slow": text}) == 422
        ask("POST", f"/v1/{quote(short, safe='')}")
        ask("POST", "/v1/node/reload", content=text.encode(), headers={"content-type": "application/json"})
    # A header can hold no line's end; what else it may hold is tried.
    header = f"\x1b]0;owned\x07{MARK}\u202e".encode()
    for name in (b"x-request-id", b"idempotency-key", b"last-event-id", b"user-agent", b"prefer", b"content-type"):
        with contextlib.suppress(Exception):  # the client itself may refuse to send it
            ask("POST", "/v1/kicks", json={"ip": "192.0.2.1", "dry_run": True}, headers={name: header})
    return answers


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_in_a_request_forges_a_line_an_entry_a_metric_or_an_event(
    serve: Serve, tmp_path: Path, form: str
) -> None:
    server = serve(log_format=form, log_level="debug", access_log="true")
    peer, other = server.connect(2)
    id = server.id_of(peer)
    person = Person(tmp_path / "home", server.leaks, IOCPD_URL=server.url, **WIDE)
    with watch(server.url) as stream:
        begin = stream.last_id or ""
        answers = attack(server, peer, id)
        assert set(answers) & {404, 422} == {404, 422}
        assert not [status for status in answers if status >= 500], answers
        # The longest text that is allowed, which has everything that is no letter and yet can be printed.
        reason = "]0;'\"\\,{}<script>[bold]%s\u05d0\u0301" + MARK
        kicked = server.http.delete(f"/v1/connections/{id}", params={"reason": reason, "force": "true"})
        assert kicked.status_code == 204
        seen = stream.until("disconnected")
        assert seen.data["text"] == reason
        assert not any(PAYLOAD in line for line in stream.lines)
        known = ("id:", "data:", "event:", "retry:", ":")
        assert all(not line or line.startswith(known) for line in stream.lines)
        assert not any(line.isspace() or not line.isprintable() for line in stream.lines if line)

    def samples(text: str) -> set[str]:
        assert_harmless(text)
        return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}

    for people in (True, False):
        for verb in (["ls"], ["closed"], ["audit"], ["events", "--after", begin, "--count", "1"]):
            assert PAYLOAD not in assert_shows_harmless(person, verb, people)
    assert MARK not in server.http.get("/metrics").text
    assert all(name.startswith(("iocpd_", "process_")) for name in samples(server.http.get("/metrics").text))
    assert_harmless(server.log())
    assert PAYLOAD not in server.log()
    audit = (tmp_path / "server0" / "audit.jsonl").read_bytes().decode()
    assert_harmless(audit)
    assert PAYLOAD not in audit
    entries = [json.loads(line) for line in audit.splitlines()]
    assert all(entry["actor"] in ("local", "system") for entry in entries)
    if form == "json":
        assert not any(MARK in line["logger"] for line in map(json.loads, server.log().splitlines()))
    else:
        assert all(line[:3] == "202" for line in server.log().splitlines() if not line.startswith("    | "))
    peer.close()
    other.close()


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("text", [HOSTILE, LONG], ids=["short", "long"])
def test_what_a_service_in_python_says_is_told_and_forges_nothing(
    serve: Serve, tmp_path: Path, form: str, text: str
) -> None:
    shout = "python:tests.integration.shouting:Shout?framing=lines&max_bytes=200000"
    server = serve(tcp=(f"127.0.0.1:0/{shout}",), log_format=form, log_level="debug")
    person = Person(tmp_path / "home", server.leaks, IOCPD_URL=server.url, **WIDE)
    kicked, failed = server.connect(2)
    kept = text.encode()[:TEXT_BYTES].decode(errors="ignore")
    ends = {}
    with watch(server.url) as stream:
        begin = stream.last_id or ""
        for client, asked in ((kicked, "kick "), (failed, "fail ")):
            client.send(f"{asked}{json.dumps(text)}\n".encode())
            assert client.read_to_end() == b""
            client.close()
            ended = stream.until("disconnected").data
            ends[ended["reason"]] = ended["text"]
        assert not any(not line.isprintable() or line.startswith(MARK) for line in stream.lines)
    assert ends == {"kicked": kept, "service_error": ""}
    assert {row["text"] for row in server.get("/v1/connections/closed")["items"]} == {kept, ""}
    for people in (True, False):
        for verb in (["closed"], ["events", "--after", begin, "--types", "disconnected", "--count", "2"]):
            assert_shows_harmless(person, verb, people)
    assert "RuntimeError: " in server.log()
    assert_harmless(server.log())


def test_a_body_that_is_wrong_in_many_places_is_answered_in_short(api: Api) -> None:
    answer = api.call("POST", "/v1/kicks", json={f"{HOSTILE}{number}": 1 for number in range(5000)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100
    assert "(and 4999 more)" in answer.json()["detail"]
    assert_harmless(answer.text)


def test_a_text_that_a_program_gave_the_engine_is_told_as_json(api: Api) -> None:
    client = connect(api.engine, 1)[0]
    (row,) = api.engine.connections().items
    api.engine.kick(row.id, text=HOSTILE, force=True)
    eventually(lambda: api.engine.closed())
    answer = api.call("GET", "/v1/connections/closed")
    assert min(answer.content) >= 0x20
    assert answer.json()["items"][0]["text"] == HOSTILE
    client.close()


# --- the command, with a service that is not what it should be --------------------------------------------------------

PAGES: dict[tuple[str, str], type[BaseModel]] = {
    ("GET", "/v1/connections"): models.ConnectionPage,
    ("GET", "/v1/connections/closed"): models.ClosedPage,
    ("GET", "/v1/connections/{id}"): models.ConnectionDetail,
    ("PATCH", "/v1/connections/{id}"): models.Connection,
    ("GET", "/v1/bans"): models.BanPage,
    ("POST", "/v1/bans"): models.Ban,
    ("GET", "/v1/audit"): models.AuditPage,
    ("GET", "/v1/keys"): models.KeyList,
    ("POST", "/v1/keys"): models.NewKey,
    ("GET", "/v1/node"): models.Node,
    ("GET", "/v1/listeners"): models.ListenerList,
    ("GET", "/v1/node/drain"): models.Drain,
    ("POST", "/v1/node/reload"): models.Reload,
    ("GET", "/v1/kicks/{job}"): models.KickReport,
    ("POST", "/v1/kicks"): models.KickReport,
    ("POST", "/v1/broadcasts"): models.BroadcastReport,
}
# Numbers in the form of texts, and what would be asked for again without end.
_SPARED = {"next_cursor", "uptime"}


def poisoned(model: type[BaseModel], example: Any, text: str) -> Any:
    """The example with the text in every place that the client takes it from."""
    whole = json.loads(json.dumps(example))

    def fits() -> bool:
        try:
            model.model_validate_json(json.dumps(whole))
        except ValidationError:
            return False
        return True

    def visit(value: Any) -> None:
        places = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        for at, member in places:
            if isinstance(member, (dict, list)):
                visit(member)
            elif (isinstance(member, str) or member is None) and at not in _SPARED:
                value[at] = text
                if not fits():
                    value[at] = member
        if isinstance(value, dict) and "tags" in value:
            value["tags"], value["groups"] = {text: text}, [text]

    visit(whole)
    assert fits()
    return whole


class Impostor(ThreadingHTTPServer):
    """Answers every request in place of the service: with these pages, or with a problem that has the text in it."""

    def __init__(self, document: dict[str, Any], text: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[tuple[str, str], Any] = {}
        for (method, path), model in PAGES.items():
            answers = document["paths"][path][method.lower()]["responses"]
            schema = answers["200" if "200" in answers else "201"]["content"]["application/json"]["schema"]
            while "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            self.pages[method, path] = poisoned(model, schema["examples"][0], text)
        self.problem = {"status": 409, **dict.fromkeys(("type", "title", "code", "detail", "request_id"), text)}
        self.problem["errors"] = [{"location": text, "field": text, "code": text, "detail": text + "."}]
        data = dict.fromkeys(("id", "reason", "by", "text", "phase", "address"), text)
        # What ends a line would end the member, so the kind can't have it.
        kinds = ("disconnected", "ban", "drain", "".join(text.split()))
        self.stream = "".join(f"id: 1\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for kind in kinds)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def page(self, method: str, path: str) -> Any:
        """What is there; `x` stands for any id."""
        return next(
            (self.pages[each] for each in PAGES if (each[0], re.sub(r"{\w+}", "x", each[1])) == (method, path)), None
        )


class Handler(BaseHTTPRequestHandler):
    """One request of the command."""

    server: Impostor

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.rfile.read(int(self.headers.get("content-length", 0)))
        page = self.server.page(self.command, path)
        if page is not None:
            status, media_type, body = 200, "application/json", json.dumps(page)
        elif path == "/v1/events":
            status, media_type, body = 200, "text/event-stream", self.server.stream
        else:
            status, media_type, body = 409, "application/problem+json", json.dumps(self.server.problem)
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Not to stderr, which is looked at."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app: FastAPI = create_app(Engine(EngineConfig(listeners=[ListenerConfig(port=0)], workers=1)), Settings())
    return app.openapi()


@pytest.fixture(scope="module", params=[HOSTILE, LONG], ids=["short", "long"])
def impostor(request: pytest.FixtureRequest, document: dict[str, Any]) -> Iterator[Impostor]:
    with Impostor(document, request.param) as impostor:
        thread = threading.Thread(target=impostor.serve_forever, args=(0.01,))
        thread.start()
        yield impostor
        impostor.shutdown()
        thread.join()


VERBS = [
    ["ls"],
    ["ls", "--fields", "id,tags,service"],
    ["show", "x"],
    ["closed"],
    ["bans"],
    ["audit"],
    ["keys", "list", "--remote"],
    ["keys", "add", "x", "--role", "viewer", "--remote"],
    ["keys", "revoke", "x", "--remote", "--yes"],
    ["node"],
    ["events", "--count", "4"],
    ["job", "x"],
    ["kick", "x"],
    ["kick", "--all", "--yes"],
    ["tag", "x", "a=1"],
    ["ban", "192.0.2.1"],
    ["unban", "x"],
    ["send", "x", "text"],
    ["broadcast", "--all", "--yes", "text"],
    ["drain", "--yes"],
    ["shutdown", "--yes"],
    ["reload"],
    ["top", "-o", "-", "--interval", "0.2"],
]


@pytest.mark.parametrize("arguments", VERBS, ids=" ".join)
@pytest.mark.parametrize("people", [True, False], ids=["people", "programs"])
def test_nothing_that_a_service_answers_steers_the_terminal(
    impostor: Impostor, tmp_path: Path, arguments: list[str], people: bool
) -> None:
    assert_shows_harmless(Person(tmp_path / "home", IOCPD_URL=impostor.url, **WIDE), arguments, people)


@pytest.mark.parametrize("keys", ["", "x", "/a", "?"])
def test_nothing_in_a_connection_steers_top(impostor: Impostor, keys: str) -> None:
    page = models.ConnectionPage.model_validate_json(json.dumps(impostor.pages["GET", "/v1/connections"]))
    node = models.Node.model_validate_json(json.dumps(impostor.pages["GET", "/v1/node"]))
    state = State()
    state.take(Sample(node, page.items, 0.0, {each.id: Rates(bytes_in=1) for each in page.items}))
    for key in keys:
        state.press(key)
    screen = Console(file=io.StringIO(), width=400, height=20, color_system=None, markup=False, highlight=False)
    with screen.capture() as captured:
        screen.print(draw(state, impostor.url, 400, 20))
    assert_harmless(captured.get())
