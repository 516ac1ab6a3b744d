"""`iocpd service` with a service control manager that is made up."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iocpd.api.cli import main
from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.verbs import service
from iocpd.api.cli.winservice import machine, native, owners, plan, steps
from iocpd.api.cli.winservice.binary import command_line, is_ours, option_of, quoted
from iocpd.api.cli.winservice.plan import Plan
from iocpd.api.cli.winservice.scm import AUTO_START, INVALID_LEVEL, Condition, Config, ScmError, State

ACCESS_DENIED, NOT_FOUND, EXISTS, MARKED, NOT_ACTIVE, NOT_ACCEPTED, RUNNING = 5, 1060, 1073, 1072, 1062, 1061, 1056
STARTING = [Condition(State.START_PENDING, 7, checkpoint=at, wait_hint_ms=1000) for at in range(3)]
STOPPING = [Condition(State.STOP_PENDING, 7, checkpoint=at, wait_hint_ms=1000) for at in range(3)]
RUNS, STOPPED = Condition(State.RUNNING, 7), Condition(State.STOPPED)


@dataclass
class FakeManager:
    """One service at most. `story` is what its condition is, one after another; the last one stays."""

    made: Plan | None = None
    story: list[Condition] = field(default_factory=lambda: [STOPPED])
    fails: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    on_start: list[Condition] = field(default_factory=lambda: [*STARTING, RUNS])
    on_stop: list[Condition] = field(default_factory=lambda: [RUNS, *STOPPING, STOPPED])
    foreign: str = ""
    calls: list[str] = field(default_factory=list)

    def _called(self, what: str, name: str) -> None:
        self.calls.append(what)
        if code := self.fails.get(what, 0 if self.made or what == "create" else NOT_FOUND):
            raise ScmError(code, name, f"{what} {name}", "what the system says")

    def create(self, plan: Plan) -> None:
        self._called("create", plan.name)
        if self.made:
            raise ScmError(EXISTS, plan.name, f"install {plan.name}")
        self.made = plan

    def configure(self, plan: Plan) -> list[str]:
        self._called("configure", plan.name)
        return self.unknown

    def delete(self, name: str) -> None:
        self._called("delete", name)
        self.made = None

    def start(self, name: str) -> None:
        self._called("start", name)
        if self.story[0].state is not State.STOPPED:
            raise ScmError(RUNNING, name, f"start {name}")
        self.story = list(self.on_start)

    def stop(self, name: str) -> None:
        self._called("stop", name)
        if (state := self.story[0].state) is not State.RUNNING:
            raise ScmError(NOT_ACTIVE if state is State.STOPPED else NOT_ACCEPTED, name, f"stop {name}")
        self.story = list(self.on_stop)

    def condition(self, name: str) -> Condition:
        self._called("condition", name)
        return self.story.pop(0) if len(self.story) > 1 else self.story[0]

    def config(self, name: str) -> Config:
        self._called("config", name)
        assert self.made
        return Config(self.foreign or self.made.command, self.made.account, AUTO_START, delayed=self.made.delayed)


@dataclass
class FakeMachine:
    sources: set[str] = field(default_factory=set)
    folders: dict[Path, tuple[str, str]] = field(default_factory=dict)
    ports: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fails: str = ""

    def _called(self, what: str) -> None:
        if self.fails == what:
            raise Stop(f"cannot do {what}", Status.REFUSED)

    def add_event_source(self, name: str) -> None:
        self._called("event source")
        self.sources.add(name)

    def remove_event_source(self, name: str) -> None:
        self.sources.discard(name)

    def give_folder(self, folder: Path, sid: str, account: str) -> None:
        self._called("folder")
        self.folders[folder] = sid, account

    def open_firewall(self, name: str, ports: Sequence[int]) -> None:
        self.ports[name] = tuple(ports)
        self._called("firewall")

    def close_firewall(self, name: str) -> None:
        self._called("closing")
        self.ports.pop(name, None)


class Here:
    """The command with both, and what it says."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.manager, self.machine = FakeManager(), FakeMachine()
        self.state_dir = tmp_path / "state"
        self.launcher = tmp_path / "iocpd-launcher.exe"
        self.launcher.touch()
        self._capsys = capsys
        self.out = self.err = ""

    def call(self, *words: object) -> int:
        status = main(["service", *map(str, words)])
        self.out, self.err = self._capsys.readouterr()
        return status

    def install(self, *words: object, serve: Sequence[object] = ("--tcp", "0.0.0.0:7000/echo")) -> int:
        own = ["--launcher", self.launcher, *words]
        return self.call("install", *own, "--", "--state-dir", self.state_dir, *serve)


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    made = Here(tmp_path, capsys)
    monkeypatch.setattr(service, "here", lambda: (made.manager, made.machine))
    monkeypatch.setattr(steps, "_POLL_S", 0.001)
    for name in [name for name in os.environ if name.startswith("IOCPD_")]:
        monkeypatch.delenv(name)
    return made


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--tcp", "--tcp"),
        ("", '""'),
        ("a b", '"a b"'),
        ("C:\\a\\", "C:\\a\\"),
        ("C:\\a b\\", '"C:\\a b\\\\"'),
        ('say "hi"', '"say \\"hi\\""'),
        ('\\"', '"\\\\\\""'),
        ("a\tb", '"a\tb"'),
    ],
)
def test_a_word_is_quoted_as_windows_reads_it(word: str, line: str) -> None:
    assert quoted(word) == line


def test_paths_are_quoted_and_the_rest_is_passed_on() -> None:
    line = command_line(
        r"C:\Program Files\iocpd\iocpd-launcher.exe",
        r"C:\Program Files\Python\python.exe",
        "iocpd",
        60,
        r"C:\state dir\service.log",
        ["--tcp", "0.0.0.0:7000/echo", "--state-dir", "C:\\state dir\\"],
    )
    assert line == (
        r'"C:\Program Files\iocpd\iocpd-launcher.exe" --service=iocpd --grace=60 "--log=C:\state dir\service.log" -- '
        r'"C:\Program Files\Python\python.exe" -m iocpd.api serve --tcp 0.0.0.0:7000/echo --state-dir "C:\state dir\\"'
    )
    assert is_ours(line, "iocpd")
    assert is_ours(line, "IOCPD")  # as Windows compares them
    assert not is_ours(line, "iocp")
    assert option_of(line, "log") == r"C:\state dir\service.log"
    assert option_of(line, "grace") == "60"
    assert option_of(line, "tcp") is None


@pytest.mark.parametrize(
    "argument", ["%PATH%", "a\nb", "x" * 3000, "a\x00b"], ids=["a variable", "a line's end", "too long", "a NUL"]
)
def test_what_a_command_line_cannot_say_is_refused(argument: str) -> None:
    with pytest.raises(Stop) as raised:
        command_line("l.exe", "p.exe", "iocpd", 60, "log", [argument])
    assert raised.value.status == Status.USAGE


def test_a_scope_of_an_address_is_no_variable() -> None:
    assert "[fe80::1%3]:7000" in command_line("l.exe", "p.exe", "iocpd", 60, "log", ["--tcp", "[fe80::1%3]:7000"])


def test_another_s_service_is_not_ours() -> None:
    assert not is_ours(r"C:\Windows\System32\spoolsv.exe", "Spooler")
    assert not is_ours(r'"C:\x.exe" -- --service=Spooler', "Spooler")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\\b", '"', "-a", "a" * 81, "a%b"])
def test_names_that_would_need_quotes_are_refused(name: str) -> None:
    with pytest.raises(Stop):
        plan.check_name(name)


def test_the_service_s_identifier_is_windows_own() -> None:
    # As Windows documents it for NT SERVICE\TrustedInstaller.
    assert plan.sid_of("TrustedInstaller") == "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"


@pytest.mark.parametrize(
    ("account", "asks"),
    [
        (r"NT SERVICE\iocpd", False),
        (r"nt service\iocpd", False),
        ("LocalSystem", False),
        (r"NT AUTHORITY\LocalService", False),
        (r"NT AUTHORITY\NETWORK SERVICE", False),
        ("EXAMPLE\\managed$", False),
        (r"EXAMPLE\alice", True),
        (r".\alice", True),
    ],
)
def test_only_accounts_with_a_password_need_one(account: str, asks: bool) -> None:
    assert plan.needs_password(account) is asks


# --- the state folder -------------------------------------------------------------------------------------------------

ADMIN, BOB = "S-1-5-21-1-2-3-500", "S-1-5-21-1-2-3-1001"


@dataclass
class FakeOwners:
    """Everything is the administrators', but for what is in `others`; nobody can tell whose the hidden ones are."""

    others: dict[Path, str] = field(default_factory=dict)
    hidden: set[Path] = field(default_factory=set)

    def owner(self, path: Path) -> str:
        if path in self.hidden:
            raise PermissionError(13, "Access is denied")
        return self.others.get(path, owners.ADMINISTRATORS)

    def name(self, sid: str) -> str:
        return {BOB: "PC\\bob"}.get(sid, sid)

    def this_account(self) -> str:
        return ADMIN

    def account(self, name: str) -> str | None:
        return None


@dataclass
class Prepared:
    """give_folder of the real machine, with these owners and without icacls."""

    owners: FakeOwners
    ran: list[list[str]]
    folder: Path

    def give(self) -> None:
        machine.NativeMachine().give_folder(self.folder, "S-1-5-80-1", r"NT SERVICE\iocpd")


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    made = Prepared(FakeOwners(), [], tmp_path / "data" / "state")
    monkeypatch.setattr(machine, "NativeOwners", lambda: made.owners)
    monkeypatch.setattr(machine, "_run", lambda program, arguments, doing: made.ran.append([program, *arguments]))
    return made


def test_a_state_folder_is_for_nobody_else_whether_or_not_it_was_there(prepared: Prepared) -> None:
    given = ["*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F", "*S-1-5-80-1:(OI)(CI)M"]
    for _ in range(2):
        prepared.give()
        assert prepared.ran.pop() == ["icacls.exe", str(prepared.folder), "/inheritance:r", "/grant:r", *given]


@pytest.mark.parametrize("whose", [owners.SYSTEM, plan.sid_of("TrustedInstaller"), ADMIN, "S-1-5-80-1"])
def test_what_the_system_an_administrator_or_the_service_has_made_is_taken(prepared: Prepared, whose: str) -> None:
    prepared.folder.mkdir(parents=True)
    (prepared.folder / "keys.json").touch()
    places = (prepared.folder, prepared.folder.parent, prepared.folder / "keys.json")
    prepared.owners.others = dict.fromkeys(places, whose)
    prepared.give()
    assert prepared.ran


def test_what_the_service_s_account_has_left_is_taken(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared.folder.mkdir(parents=True)
    prepared.owners.others = {prepared.folder: BOB}
    monkeypatch.setattr(prepared.owners, "account", lambda name: {r"NT SERVICE\iocpd": BOB}[name])
    prepared.give()


@pytest.mark.parametrize("place", [".", ".."])
def test_a_folder_that_somebody_else_has_made_is_refused_as_it_is(prepared: Prepared, place: str) -> None:
    prepared.folder.mkdir(parents=True)
    his = (prepared.folder / place).resolve()
    prepared.owners.others = {his: BOB}
    with pytest.raises(Stop) as raised:
        prepared.give()
    assert raised.value.status == Status.REFUSED
    assert "belongs to PC\\bob" in str(raised.value)
    assert f"icacls {quoted(str(his))} /setowner *S-1-5-32-544`" in str(raised.value)
    assert not prepared.ran


@pytest.mark.skipif(sys.platform == "win32", reason="links are for those who have the right to make them")
def test_a_link_that_somebody_else_has_made_is_refused_whatever_it_leads_to(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    prepared.folder.parent.mkdir()
    prepared.folder.symlink_to(tmp_path / "target", target_is_directory=True)
    prepared.owners.others = {prepared.folder: BOB}
    with pytest.raises(Stop, match="bob"):
        prepared.give()
    prepared.owners.others = {tmp_path / "target": BOB}
    with pytest.raises(Stop, match="bob"):
        prepared.give()


def test_keys_that_somebody_else_has_put_into_the_folder_are_refused_once_he_can_put_no_more(
    prepared: Prepared,
) -> None:
    planted = prepared.folder / "deep" / "keys.json"
    planted.parent.mkdir(parents=True)
    planted.touch()
    prepared.owners.others = {planted: BOB}
    with pytest.raises(Stop) as raised:
        prepared.give()
    assert f"{planted} in the state folder belongs to PC\\bob" in str(raised.value)
    assert f"icacls {quoted(str(prepared.folder))} /setowner *S-1-5-32-544 /T`" in str(raised.value)
    assert prepared.ran


def test_a_folder_that_nobody_may_look_at_is_refused(prepared: Prepared) -> None:
    prepared.folder.mkdir(parents=True)
    prepared.owners.hidden = {prepared.folder}
    with pytest.raises(Stop, match="keeps administrators out"):
        prepared.give()


def test_the_firewall_rule() -> None:
    assert machine.new_rule("iocpd", (7000, 7001))[4:] == [
        "name=iocpd-service-iocpd",
        "dir=in",
        "action=allow",
        "protocol=TCP",
        "localport=7000,7001",
    ]


# --- install ----------------------------------------------------------------------------------------------------------


def test_it_installs_all_of_it(here: Here) -> None:
    tcp = ["--tcp", "0.0.0.0:7001", "--tcp", "127.0.0.1:7002", "--tcp", "[::]:7000/relay"]
    assert here.install("--firewall", "--delayed", serve=[*tcp, "--drain-deadline", "90s"]) == 0
    made = here.manager.made
    assert made
    assert (made.name, made.account, made.password) == ("iocpd", r"NT SERVICE\iocpd", None)
    assert (made.grace, made.preshutdown_ms, made.delayed) == (120, 135_000, True)
    log, arguments = (
        here.state_dir / "service.log",
        ["--state-dir", str(here.state_dir), *tcp, "--drain-deadline", "90s"],
    )
    assert made.command == command_line(str(here.launcher), sys.executable, "iocpd", 120, str(log), arguments)
    given = plan.sid_of("iocpd"), r"NT SERVICE\iocpd"
    assert here.machine == FakeMachine({"iocpd"}, {here.state_dir: given}, {"iocpd": (7000, 7001)})


def test_that_a_folder_was_taken_over_is_said(here: Here) -> None:
    assert here.install() == 0
    assert "was there" not in here.err
    here.manager.made = None
    here.state_dir.mkdir()
    assert here.install() == 0
    assert f"{here.state_dir} was there: only the system, administrators and the service have rights" in here.err


def test_without_arguments_it_is_serve_with_its_defaults(here: Here) -> None:
    assert here.call("install", "--launcher", here.launcher) == 0
    assert here.manager.made
    assert here.manager.made.command.endswith(" -m iocpd.api serve")
    assert here.machine.ports == {}


def test_what_the_system_does_not_know_is_said(here: Here) -> None:
    here.manager.unknown = ["recovery actions"]
    assert here.install() == 0
    assert "this system does not know recovery actions: left out" in here.err


@pytest.mark.parametrize(
    ("words", "serve", "status", "text"),
    [
        ([], ["--tcp", "nowhere"], 2, "HOST:PORT"),
        ([], ["--no-such-flag"], 2, "--no-such-flag"),
        ([], ["stray"], 2, "stray"),
        ([], ["--config", "iocpd.toml"], 2, "whole path"),
        ([], ["--keys", "keys.json"], 2, "whole path"),
        ([], ["--state-dir", "state"], 2, "whole path"),
        ([], ["--keys", Path("%TEMP%", "keys.json").absolute()], 2, "Windows would put a variable"),
        (["--grace", 45], [], 2, "above 45"),
        (["--grace", 86401], [], 2, "at most 86,400"),
        (["--name", "a b"], [], 2, "a b"),
        (["--firewall"], ["--tcp", "127.0.0.1:7000"], 2, "no TCP listener"),
        (["--firewall"], ["--tcp", "0.0.0.0:0"], 2, "port 0"),
        (["--launcher", "/no/such/launcher.exe"], [], 3, "launcher.exe"),
        (["--account", "EXAMPLE\\alice"], [], 2, "on a terminal alone"),
    ],
)
def test_what_can_not_work_is_not_installed(
    here: Here, words: list[object], serve: list[object], status: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert here.install(*words, serve=serve) == status
    assert text in here.err
    assert not here.manager.calls
    assert not here.machine.folders


def test_variables_of_this_session_are_not_the_service_s(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOCPD_TCP", "nowhere")
    assert here.install(serve=[]) == 0
    assert "IOCPD_TCP is set here and not for the service" in here.err
    assert os.environ["IOCPD_TCP"] == "nowhere"


def test_programs_in_a_profile_are_told(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERPROFILE", str(here.launcher.parent))
    for name in ("prefix", "base_prefix", "executable"):
        monkeypatch.setattr(sys, name, str(here.launcher.parent.parent / "elsewhere"))
    assert here.install() == 0
    assert f"{here.launcher} is in your profile, which other accounts can't read" in here.err
    for name in ("prefix", "base_prefix", "executable"):
        here.manager.made = None
        monkeypatch.setattr(sys, name, str(here.launcher.parent / name))
        assert here.install() == 0
        assert f" and {here.launcher.parent / name} are in your profile" in here.err
        monkeypatch.setattr(sys, name, str(here.launcher.parent.parent / "elsewhere"))


def test_what_a_key_file_outside_the_state_folder_needs_is_told(here: Here, tmp_path: Path) -> None:
    assert here.install() == 0
    assert "icacls" not in here.err
    here.manager.made = None
    assert here.install("--name", "relay", serve=["--keys", tmp_path / "secrets" / "keys.json"]) == 0
    assert f'icacls {quoted(str(tmp_path / "secrets"))} /grant "NT SERVICE\\relay:(OI)(CI)M"' in here.err


def test_a_module_that_the_service_would_not_find_is_told(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    serve = ["--tcp", "0.0.0.0:7000/python:only_here:Chat", "--tcp", "0.0.0.0:7001/python:json:Service"]
    assert here.install(serve=serve) == 0
    (line,) = [line for line in here.err.splitlines() if "is not installed beside iocpd" in line]
    assert line.startswith("iocpd: python:only_here:Chat: only_here is not installed")


def test_a_password_is_asked_for_and_is_not_shown(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "s3cret")
    assert here.install("--account", "EXAMPLE\\alice") == 0
    assert here.manager.made
    assert here.manager.made.password == "s3cret"
    assert "s3cret" not in here.out + here.err + repr(here.manager.made)
    assert "log on as a service" in here.err


@pytest.mark.parametrize("step", ["configure", "folder", "event source", "firewall"])
def test_a_failure_on_the_way_takes_everything_back(here: Here, step: str) -> None:
    here.machine.fails = step
    here.manager.fails = {"configure": ACCESS_DENIED} if step == "configure" else {}
    assert here.install("--firewall") == 5
    assert here.manager.made is None
    assert not here.machine.sources
    assert not here.machine.ports


# --- start, stop, status, remove --------------------------------------------------------------------------------------


def test_a_service_s_life(here: Here) -> None:
    assert here.install() == 0
    assert here.call("start") == 0
    shown = ["start pending", "start pending, checkpoint 1", "start pending, checkpoint 2", "running"]
    assert here.err.splitlines() == [*(f"iocpd: {each}" for each in shown), "the service iocpd runs, process 7"]
    assert here.call("start") == 0  # it runs already
    assert here.call("status", "--json") == 0
    assert json.loads(here.out) == {
        "name": "iocpd",
        "state": "running",
        "pid": 7,
        "win32_exit_code": 0,
        "service_exit_code": 0,
        "checkpoint": 0,
        "wait_hint_ms": 0,
        "start_type": "automatic",
        "account": r"NT SERVICE\iocpd",
        "bin_path": here.manager.made.command if here.manager.made else "",
    }
    assert here.call("stop") == 0
    assert here.err.splitlines()[-2:] == ["iocpd: stopped", "the service iocpd is stopped; it ended with status 0"]
    assert "iocpd: stop pending, checkpoint 2" in here.err
    assert here.call("stop") == 0  # it is stopped already
    assert here.call("remove", "--yes") == 0
    assert here.manager.made is None
    assert not here.machine.sources
    assert here.call("status") == 3


def test_remove_asks_and_stops_first(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.install("--firewall") == 0
    here.manager.story = [RUNS]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert here.call("remove") == 2
    assert "Stop the service iocpd, process 7, and remove it?" in here.err
    assert here.manager.made
    here.manager.story = [RUNS]
    assert here.call("remove", "--yes") == 0
    assert here.manager.calls.index("stop") < here.manager.calls.index("delete")
    assert not here.machine.ports


def test_what_remove_has_to_leave_does_not_keep_the_service(here: Here) -> None:
    assert here.install("--firewall") == 0
    here.machine.fails = "closing"
    assert here.call("remove", "--yes") == 4
    assert here.err.splitlines()[-1] == "iocpd: cannot do closing"
    assert here.manager.made is None
    assert not here.machine.sources


def test_a_start_that_fails_says_how(here: Here) -> None:
    assert here.install() == 0
    here.manager.on_start = [*STARTING, Condition(State.STOPPED, error=1066, status=2)]
    assert here.call("start") == 1
    assert "it ended with status 2" in here.err
    assert "service.log" in here.err


def test_a_stop_of_one_that_is_starting_waits_for_it(here: Here) -> None:
    assert here.install() == 0
    here.manager.story = [*STARTING, RUNS]
    assert here.call("stop") == 0


def test_one_that_tells_nothing_new_is_given_up(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_SLACK_S", 0.0)
    assert here.install() == 0
    here.manager.on_start = [Condition(State.START_PENDING, checkpoint=4, wait_hint_ms=50)]
    assert here.call("start") == 7
    assert "start pending after 0 s, checkpoint 4" in here.err


def test_patience_ends_a_wait_that_goes_on(here: Here) -> None:
    assert here.install() == 0
    here.manager.on_start = [Condition(State.START_PENDING, checkpoint=at, wait_hint_ms=9000) for at in range(100_000)]
    assert here.call("start", "--patience", 1) == 7


def test_another_s_service_is_left_alone(here: Here) -> None:
    assert here.install("--name", "Spooler") == 0
    here.manager.foreign = r"C:\Windows\System32\spoolsv.exe"
    for verb in (["start"], ["stop"], ["remove", "--yes"]):
        assert here.call(*verb, "--name", "Spooler") == 5
        assert "not one of iocpd's" in here.err
    assert here.manager.made
    assert here.call("status", "--name", "Spooler") == 0


def test_one_that_somebody_holds_goes_later(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_GONE_S", 0.05)
    monkeypatch.setattr(here.manager, "delete", lambda name: here.manager.calls.append("delete"))
    assert here.install() == 0
    assert here.call("remove", "--yes") == 7
    assert "is marked for deletion" in here.err


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        (ACCESS_DENIED, 5, "prompt of an administrator"),
        (EXISTS, 5, "there is a service iocpd already"),
        (1078, 5, "give another --name"),
        (MARKED, 5, "marked for deletion"),
        (123, 2, "can't be the name"),
        (1057, 2, "the account is not there"),
        (1722, 6, "does not answer"),
        (1053, 7, "not answered the start in time"),
        (1115, 5, "shutting down"),
        (31, 1, "what the system says"),
    ],
)
def test_each_error_has_its_text_and_status(here: Here, code: int, status: int, text: str) -> None:
    here.manager.fails = {"create": code}
    assert here.install() == status
    assert text in here.err
    assert f"(error {code})" in here.err
    assert len(here.err.splitlines()) == 1


@pytest.mark.parametrize(("code", "status"), [(2, 3), (1058, 5), (1069, 5), (1051, 5), (1055, 5), (INVALID_LEVEL, 1)])
def test_errors_of_a_start(here: Here, code: int, status: int) -> None:
    assert here.install() == 0
    here.manager.fails = {"start": code}
    assert here.call("start") == status


@pytest.mark.parametrize(
    ("opened", "text"),
    [(True, "may not run its launcher or its Python"), (False, "access denied: this needs a prompt")],
)
def test_a_start_that_is_denied_is_not_one_that_nobody_may_ask_for(opened: bool, text: str) -> None:
    """The manager denies it too when the service's account can't read the program."""
    real, doors = native.NativeManager(), iter([1, 2 if opened else 0])
    advapi = SimpleNamespace(
        OpenSCManagerW=lambda *_: next(doors),
        OpenServiceW=lambda *_: next(doors),
        StartServiceW=lambda *_: 0,
        CloseServiceHandle=lambda _: 1,
    )
    vars(real).update(
        _advapi=advapi, _ffi=SimpleNamespace(NULL=None, getwinerror=lambda: (ACCESS_DENIED, "Access is denied."))
    )
    with pytest.raises(ScmError) as raised:
        real.start("iocpd")
    assert text in str(raised.value)
    assert raised.value.status == Status.REFUSED


def test_what_the_system_says_is_taken_as_it_is() -> None:
    assert "{0} and {name}" in str(ScmError(31, "x", "do it", "{0} and {name}."))


@pytest.mark.parametrize("verb", ["install", "start", "stop", "remove", "status"])
def test_other_systems_have_systemd(verb: str, capsys: Any) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has services")
    assert main(["service", verb]) == 5
    said = capsys.readouterr().err
    assert "systemd" in said
    assert "deploy/systemd/iocpd.service" in said


@pytest.mark.parametrize("verb", ["", "install", "start", "stop", "remove", "status"])
def test_every_verb_has_help(verb: str, capsys: Any) -> None:
    assert main(["service", *filter(None, [verb]), "--help"]) == 0
    said = capsys.readouterr().out
    assert "\nexamples:\n  " in said or not verb
    assert max(map(len, said.splitlines())) <= 100
