"""Parts of the command that need neither a terminal nor a service."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest

from iocpd.api.cli import main
from iocpd.api.cli.listing import as_json, fields_of, fit
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status, Stop, status_of
from iocpd.api.cli.top.columns import NAMES
from iocpd.api.cli.top.sample import Rates, Sample
from iocpd.api.cli.top.state import Mode, State
from iocpd.api.cli.units import count, size, span
from iocpd.api.cli.verbs import messages
from iocpd.api.client import (
    Address,
    Connection,
    Gone,
    Invalid,
    Node,
    NotFound,
    ProblemError,
    SetupError,
    TimedOut,
    UnexpectedAnswer,
    Unreachable,
)

# --- what others wrote ------------------------------------------------------------------------------------------------

HOSTILE = [
    "\x1b[31m",
    "\x9b2J",
    "\x07",
    "\r",
    "\n",
    "\u202e",
    "\u2066",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\x7f",
    "\U000e0041",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_steers_a_terminal_gets_through(text: str) -> None:
    assert safe(f"a{text}b").isprintable()
    shown = safe_json({"text": f"a{text}b"})
    assert shown.isprintable()
    assert json.loads(shown) == {"text": f"a{text}b"}


@pytest.mark.parametrize("text", ["grüße", "日本語", "שלום", "emoji 🎉", "back\\slash", "[bold]markup[/bold]"])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert safe(text) == text
    assert json.loads(safe_json(text)) == text
    assert text.replace("\\", "\\\\") in safe_json(text)


def test_half_a_character_is_no_reason_to_fail() -> None:
    assert safe("\ud800") == "\\ud800"
    assert json.loads(safe_json("\ud800")) == "\ud800"


# --- numbers and times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1023, "1023"),
        (1024, "1.0K"),
        (10_239, "10K"),
        (1_048_575, "1.0M"),
        (5 << 30, "5.0G"),
        (1 << 62, "4096P"),
    ],
)
def test_sizes_are_short(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (90, "1m30s"),
        (3599, "59m"),
        (3600 * 2 + 300, "2h05m"),
        (86400 * 12, "12d"),
        (86400 * 400, "1y35d"),
    ],
)
def test_spans_are_short(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_counts_have_separators() -> None:
    assert count(1234567) == "1,234,567"


# --- listings ---------------------------------------------------------------------------------------------------------


def connection(number: int, **values: Any) -> Connection:
    now = datetime.now(UTC)
    return Connection(
        **{
            "id": f"id-{number}",
            "listener": 0,
            "service": "echo",
            "state": "open",
            "reason": None,
            "peer": Address(ip="192.0.2.1", port=number),
            "local": Address(ip="192.0.2.2", port=1),
            "connected_at": now - timedelta(seconds=number),
            "last_activity_at": now,
            "bytes_in": 100 * number,
            "bytes_out": 0,
            "messages_in": 0,
            "messages_out": 0,
            "pending_bytes": 0,
            "tags": {},
            "groups": (),
            "worker": 0,
            **values,
        }
    )


def test_fields_are_checked_and_taken_in_their_order() -> None:
    names = fields_of(Connection, "peer.port, id ,tags.a.b")
    assert names == ["peer.port", "id", "tags.a.b"]
    shown = json.loads(as_json(connection(7, tags={"a.b": "x"}), names))
    assert list(shown.items()) == [("peer.port", 7), ("id", "id-7"), ("tags.a.b", "x")]
    assert fields_of(Connection, None) == []
    for text in ("nonsense", "peer.host"):
        with pytest.raises(Stop, match="there is no") as raised:
            fields_of(Connection, text)
        assert raised.value.status is Status.USAGE


def test_a_connection_has_only_what_was_asked_for() -> None:
    row = Connection(id="x", peer=Address(ip="192.0.2.1", port=1))
    assert json.loads(as_json(row)) == {"id": "x", "peer": {"ip": "192.0.2.1", "port": 1}}
    with pytest.raises(AttributeError):
        _ = row.bytes_in


def test_columns_go_by_their_rank_until_the_rest_fits() -> None:
    headers, rows = ["A", "B", "C"], [["x" * 10, "y" * 10, "z" * 10]]
    assert fit(headers, rows, [0, 2, 1], 34) == [0, 1, 2]
    assert fit(headers, rows, [0, 2, 1], 33) == [0, 2]
    assert fit(headers, rows, [0, 2, 1], 12) == [0]
    assert fit(headers, rows, [0, 0, 0], 5) == [0, 1, 2]
    assert fit(["A", "B"], [["日本", "x"]], [0, 1], 6) == [0]  # two cells each


# --- exit statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SetupError("x"), Status.USAGE),
        (Invalid(status=422, code="x"), Status.USAGE),
        (NotFound(status=404, code="x"), Status.NOT_FOUND),
        (Gone(status=410, code="x"), Status.NOT_FOUND),
        (ProblemError(status=401, code="x"), Status.REFUSED),
        (ProblemError(status=403, code="x"), Status.REFUSED),
        (ProblemError(status=409, code="x"), Status.REFUSED),
        (ProblemError(status=413, code="x"), Status.REFUSED),
        (ProblemError(status=429, code="x"), Status.REFUSED),
        (ProblemError(status=503, code="x"), Status.FAILED),
        (ProblemError(status=504, code="x"), Status.TIMED_OUT),
        (Unreachable("x", sent=False), Status.UNREACHABLE),
        (TimedOut("x"), Status.TIMED_OUT),
        (UnexpectedAnswer("x"), Status.FAILED),
    ],
    ids=str,
)
def test_each_error_has_its_exit_status(error: Any, status: Status) -> None:
    assert status_of(error) is status


# --- top --------------------------------------------------------------------------------------------------------------


def state_with(numbers: list[int], **options: Any) -> State:
    state = State(**options)
    take(state, numbers)
    return state


def take(state: State, numbers: list[int]) -> None:
    rates = {f"id-{number}": Rates(bytes_in=number) for number in numbers}
    state.take(Sample(Node.model_construct(), tuple(map(connection, numbers)), 0.0, rates))


def shown(state: State) -> list[int]:
    return [row[0].peer.port for row in state.rows]


def press(state: State, *keys: str) -> State:
    for key in keys:
        state.press(key)
    return state


def test_the_largest_rates_come_first_and_any_column_sorts() -> None:
    state = state_with([2, 3, 1])
    assert shown(state) == [3, 2, 1]
    assert shown(press(state, "r")) == [1, 2, 3]
    for _ in NAMES:
        press(state, "right")
        assert sorted(shown(state)) == [1, 2, 3]
    assert state.sort == "in/s"
    assert not state.reverse
    press(state, "left")
    assert (state.sort, shown(state), state.stale) == ("peer", [1, 2, 3], True)
    press(state, "left")
    assert state.sort == "id"
    assert press(state, "left").sort == NAMES[-1]


def test_the_selected_connection_stays_selected_where_it_goes() -> None:
    state = press(state_with([1, 2, 3, 4, 5]), "down", "down")
    assert state.selected_id == "id-3"
    take(state, [1, 2, 3, 6, 7, 8])
    assert (state.selected_id, state.selected) == ("id-3", 3)
    take(state, [9, 10])
    assert state.selected_id == "id-9"
    take(state, [])
    assert state.selected_id is None
    press(state, "down", "page down", "end", "x", "y")
    assert state.wishes == []


def test_the_selected_row_is_always_on_the_screen() -> None:
    state = state_with(list(range(1, 31)), height=10)
    for key, first in (("end", 20), ("up", 20), ("page up", 18), ("home", 0), ("page down", 1), ("page down", 11)):
        press(state, key)
        assert state.first == first, key
        assert state.first <= state.selected < state.first + 10


def test_a_filter_is_typed_kept_and_cleared() -> None:
    state = press(state_with([1, 2, 12]), "/", "i", "d", "-", "1")
    assert (state.mode, shown(state)) == (Mode.FILTER, [12, 1])
    press(state, "2", "enter")
    assert (state.mode, shown(state)) == (Mode.TABLE, [12])
    press(state, "/", "backspace", "q", "backspace")
    assert (shown(state), state.over) == ([12, 1], False)
    assert shown(press(state, "escape")) == [12, 2, 1]


def test_only_yes_to_the_question_kicks_and_only_whom_it_named() -> None:
    state = state_with([1, 2, 3])
    for no in ("n", "enter", "escape", "q", "x"):
        press(state, "x", no)
        assert (state.wishes, state.mode, state.over) == ([], Mode.TABLE, False)
    press(state, "x")
    take(state, [1, 2])  # whom it is about has left meanwhile, and another row is in its place
    press(state, "y")
    assert state.wishes == ["id-3"]


def test_help_pause_and_the_interval() -> None:
    state = press(state_with([1]), "?")
    assert state.mode is Mode.HELP
    assert press(state, "q").mode is Mode.TABLE
    assert not state.over
    assert press(state, " ").paused
    assert press(state, "+").interval == 4.0
    assert press(state, *"-" * 20).interval == 0.2
    assert press(state, *"+" * 20).interval == 60
    assert press(state, "q").over


@pytest.mark.skipif(sys.platform == "win32", reason="a console of Windows has no such sequences")
def test_keys_that_are_no_characters_have_names() -> None:
    from iocpd.api.cli.top.keyboard import _Terminal

    read, write = os.pipe()
    try:
        keys = _Terminal(read)
        for typed, names in (
            ("\x1b[A\x1bOB", ["up", "down"]),
            ("\x1b[5~\x1b[6~\x1b[3~", ["page up", "page down", "delete"]),
            ("q/ä日🎉", ["q", "/", "ä", "日", "🎉"]),
            ("\r\x7f", ["enter", "backspace"]),
            ("\x1b[1;5Cx", ["", "x"]),  # one that means nothing here, and is not taken for characters
            ("\x1b", ["escape"]),
        ):
            os.write(write, typed.encode())
            assert [keys.read(0.2) for _ in names] == names
        assert keys.read(0.01) is None
        os.write(write, b"\xff")
        assert keys.read(0.2) == "�"
        os.close(write)
        with pytest.raises(EOFError):
            keys.read(0.2)
    finally:
        os.close(read)


# --- times ------------------------------------------------------------------------------------------------------------


class Recorder:
    """In the place of a client: what a broadcast is asked with, and then it has seen enough."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def broadcast(self, message: str, **options: Any) -> None:
        self.options = options
        raise Stop("enough")


@pytest.mark.parametrize(("text", "ms"), [("30s", 30_000), ("5m", 300_000), ("2", 2000), ("250ms", 250), ("1.5", 1500)])
def test_the_time_to_live_of_a_broadcast_is_written_as_every_time(
    monkeypatch: pytest.MonkeyPatch, text: str, ms: int
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(messages, "connect", lambda _: recorder)
    assert main(["broadcast", "--all", "x", "--ttl", text, "--timeout", text]) == Status.FAILED
    assert (recorder.options["ttl_ms"], recorder.options["timeout"]) == (ms, ms / 1000)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("broadcast", "--all", "x", "--ttl", "2h"), "'2h': it must be from 0.001s to 3600s"),
        (("broadcast", "--all", "x", "--ttl", "0"), "'0': it must be from"),
        (("send", "ID", "x", "--timeout", "soon"), "'soon': write a duration as 250ms, 90s"),
        (("kick", "ID", "--timeout", "6m"), "'6m': it must be from 0s to 300s"),
        (("ls", "--patience", "nan"), "'nan': write a duration"),
        (("top", "--interval", "1e9"), "'1e9': "),
    ],
)
def test_a_time_that_can_not_be_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    assert main(words) == Status.USAGE
    assert why in capsys.readouterr().err
