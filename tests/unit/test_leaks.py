"""The search for keys and payloads that all tests with a server end with finds what it is there to find."""

from __future__ import annotations

import base64
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


def test_a_problem_is_looked_at_and_a_success_is_not() -> None:
    leaks = sent(json={"text": PAYLOAD})
    leaks.check_answer(httpx.Response(200, content=PAYLOAD))
    with pytest.raises(AssertionError, match="a problem"):
        leaks.check_answer(httpx.Response(422, content=f"text is {PAYLOAD}"))
