"""The search for keys and payloads that all tests with a server end with finds what it is there to find."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from iocpd.api.keys import add_key
from tests.integration.leaks import Leaks

PAYLOAD = 'the "payload"\x1b itself'


def sent(**options: Any) -> Leaks:
    leaks = Leaks()
    leaks.note_request(httpx.Request("POST", "http://127.0.0.1/v1/x", **options))
    return leaks


@pytest.mark.parametrize(
    "leaks",
    [
        sent(json={"payload": {"text": PAYLOAD}}),
        sent(json={"targets": [{"farewell": {"text": PAYLOAD}}]}),
        sent(json={"text": PAYLOAD}),
        sent(json={"base64": base64.b64encode(PAYLOAD.encode()).decode()}),
        sent(content=PAYLOAD.encode(), headers={"content-type": "application/octet-stream"}),
        sent(params={"farewell": PAYLOAD}),
    ],
    ids=["payload", "within", "text", "base64", "bytes", "farewell"],
)
def test_a_payload_is_found_in_each_of_its_forms(leaks: Leaks) -> None:
    leaks.check("a line", b'{"event":"sent","target":"k3f9qz-1"}')
    with pytest.raises(AssertionError, match="in a line"):
        leaks.check("a line", b'{"event":"sent","body":"' + base64.b64encode(PAYLOAD.encode()) + b'"}')


def test_a_payload_is_found_as_it_is_and_as_json_writes_it(tmp_path: Path) -> None:
    leaks = sent(json={"text": PAYLOAD})
    for content in (PAYLOAD, r"the \"payload\"\u001b itself"):
        file = tmp_path / "audit.jsonl"
        file.write_text(f"x {content} y")
        with pytest.raises(AssertionError, match="audit"):
            leaks.check_files([file])


def test_a_key_is_found_also_one_that_nobody_sent_and_one_that_is_wrong(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "alice", role="viewer")
    Leaks().check_files(tmp_path.rglob("*"))
    with pytest.raises(AssertionError, match="name"):
        Leaks().check_files([tmp_path / f"core.iocpd.{key}.123"])
    with pytest.raises(AssertionError):
        Leaks().check("a line", f"refused {key}".encode())
    wrong = sent(headers={"authorization": "Bearer not-a-key-at-all"})
    with pytest.raises(AssertionError):
        wrong.check("a line", b"refused not-a-key-at-all")


def answer(status: int, path: str) -> httpx.Response:
    request = httpx.Request("GET", f"http://127.0.0.1{path}")
    return httpx.Response(status, content=f"text is {PAYLOAD}", request=request)


def test_problems_metrics_and_the_audit_are_looked_at_and_other_successes_are_not() -> None:
    leaks = sent(json={"text": PAYLOAD})
    leaks.check_answer(answer(200, "/v1/connections"))
    places = ((422, "/v1/kicks", "a problem"), (200, "/metrics", "metrics"), (200, "/v1/audit", "audit"))
    for status, path, where in places:
        with pytest.raises(AssertionError, match=where):
            leaks.check_answer(answer(status, path))


SAID = b"\x00\xffpassword=tiger\n" + bytes(1000)


@pytest.mark.parametrize(
    "written",
    [
        b"<" + SAID + b">",
        b"cut to: " + SAID[:50],
        b"the line " + SAID.splitlines()[0],
        repr(SAID[:100]).encode(),
        base64.b64encode(SAID),
        json.dumps({"got": repr(SAID)}).encode(),
        json.dumps(SAID[:100].decode(errors="replace")).encode(),
    ],
    ids=["whole", "cut", "line", "python", "base64", "python in json", "json"],
)
def test_what_a_tcp_client_sends_is_found(written: bytes) -> None:
    leaks = Leaks()
    leaks.note_tcp(SAID)
    leaks.note_tcp(b"x" * 100)
    leaks.note_tcp(b"hello\n")
    leaks.check("a line", b"hello x" + b"x" * 100)
    with pytest.raises(AssertionError, match="in a line"):
        leaks.check("a line", written)


def test_what_was_written_before_it_was_sent_is_looked_through_at_the_end() -> None:
    leaks = Leaks()
    leaks.note_output("the command", SAID)
    leaks.check_outputs()
    leaks.note_tcp(SAID)
    with pytest.raises(AssertionError, match="in the command"):
        leaks.check_outputs()
