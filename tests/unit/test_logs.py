"""The log: both forms, the standard library's loggers, and values that try to be more than a value."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from iocpd.api import logs

HOSTILE = 'x\n2026-01-01 [error] forged\r\x1b[2J\x1b]0;owned\x07\x00\x85\u2028\u202e\ud800"y=z'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def objects() -> Callable[[], list[dict[str, Any]]]:
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def console() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("info", "console", stream)
    return stream


def test_a_line_for_machines_is_an_object_that_begins_with_when_how_grave_and_who(objects: Any) -> None:
    logs.get_logger("iocpd.test").warning("kick", actor="alice", status=204, nothing=None)
    (line,) = objects()
    assert list(line) == ["timestamp", "level", "logger", "event", "actor", "status", "nothing"]
    assert re.fullmatch(r"[0-9-]{10}T[0-9:.]{15}Z", line["timestamp"])
    assert (line["level"], line["logger"], line["event"]) == ("warning", "iocpd.test", "kick")
    assert (line["actor"], line["status"], line["nothing"]) == ("alice", 204, None)


def test_the_standard_librarys_loggers_and_warnings_come_the_same_way(objects: Any) -> None:
    logging.getLogger("uvicorn.error").error("%s went %d times", "it", 3)
    warnings.warn("look out", stacklevel=1)
    first, second = objects()
    assert (first["logger"], first["event"], first["level"]) == ("uvicorn.error", "it went 3 times", "error")
    assert second["logger"] == "py.warnings"
    assert "look out" in second["event"]


def test_what_is_bound_while_a_request_is_served_is_in_every_line(objects: Any) -> None:
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        logs.get_logger("iocpd.test").info("ours")
        logging.getLogger("others").info("theirs")
    logs.get_logger("iocpd.test").info("after")
    assert [line.get("request_id") for line in objects()] == ["abc", "abc", None]


def test_the_level_and_the_form_can_be_changed_and_there_is_one_line_each(console: io.StringIO) -> None:
    log = logs.get_logger("iocpd.test")
    log.debug("unseen")
    log.info("seen")
    assert console.getvalue().count("\n") == 1
    again = io.StringIO()
    logs.configure("debug", "json", again)
    log.debug("now seen")
    assert json.loads(again.getvalue())["event"] == "now seen"
    assert console.getvalue().count("\n") == 1


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("foreign", [False, True])
def test_a_value_can_not_forge_a_line_or_steer_a_terminal(form: Any, foreign: bool) -> None:
    stream = io.StringIO()
    logs.configure("info", form, stream)
    if foreign:
        logging.getLogger("others").info("refused %s", HOSTILE)
    else:
        logs.get_logger("iocpd.test").info("kick", target=HOSTILE, other=[HOSTILE])
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    if form == "json":
        line = json.loads(text)
        assert line["event"] == "refused " + HOSTILE if foreign else line["target"] == HOSTILE


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_can_not_either_and_shows_no_values_of_variables(form: Any) -> None:
    stream = io.StringIO()
    logs.configure("info", form, stream)
    try:
        secret = "iocpd_" + "s" * 10
        raise ValueError(HOSTILE + str(len(secret)))
    except ValueError:
        logs.get_logger("iocpd.test").exception("failed")
        logging.getLogger("asyncio").exception("failed too")
    text = stream.getvalue()
    assert "s" * 10 not in text.replace('"s" * 10', "")
    assert "Traceback" in text
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    if form == "json":
        assert [json.loads(line)["event"] for line in lines] == ["failed", "failed too"]
    else:
        assert len([line for line in lines if not line.startswith("    | ")]) == 2


def test_a_value_has_a_bound(objects: Any) -> None:
    logs.get_logger("iocpd.test").info("long", value="x" * 100_000)
    assert len(objects()[0]["value"]) == 4000
    assert len(logs.printable("y" * 300, 200)) == 200


def test_on_a_terminal_it_is_for_people_and_elsewhere_for_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, file = Terminal(), io.StringIO()
    logs.configure("info", "auto", terminal)
    logs.get_logger("iocpd.test").info("hello", name="a b")
    logs.configure("info", "auto", file)
    logs.get_logger("iocpd.test").info("hello", name="a b")
    assert json.loads(file.getvalue())["event"] == "hello"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert re.fullmatch(r"\S+T\S+ \[info +\] hello .*name='a b'.*\n", plain), plain
    monkeypatch.setenv("NO_COLOR", "1")
    plain_terminal = Terminal()
    logs.configure("info", "auto", plain_terminal)
    logs.get_logger("iocpd.test").info("hello")
    assert "\x1b" not in plain_terminal.getvalue()
