"""deploy/windows/launcher, built with mingw-w64 and run under Wine."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.deploy.conftest import DEPLOY, Running, Tool, Windows, run

EVENTS = {"CTRL_C": 0, "CTRL_BREAK": 1, "CTRL_CLOSE": 2, "CTRL_LOGOFF": 5, "CTRL_SHUTDOWN": 6}
KILLED, NO_START, NOT_FOUND = 125, 126, 127


def launch(windows: Windows, *words: str, console: bool = False) -> Running:
    """The launcher in a console of its own, in which `raise` can raise events."""
    raiser = [str(windows.folder / "raise.exe"), *(["--console"] if console else [])]
    return windows.start(*raiser, windows.program("iocpd-launcher.exe"), *words)


def service(windows: Windows, *words: str) -> tuple[str, ...]:
    return (windows.program("service.exe"), *words)


def test_it_imports_kernel32_alone(windows_programs: Path, tool: Tool) -> None:
    text = run(tool("x86_64-w64-mingw32-objdump"), "-p", windows_programs / "iocpd-launcher.exe")
    assert [line.split()[-1] for line in text.splitlines() if "DLL Name" in line] == ["KERNEL32.dll"]
    assert "delay" not in text.lower().replace("delay import directory", "")


def test_its_bytes_depend_on_nothing_but_the_source(windows_programs: Path, tmp_path: Path) -> None:
    run("python3", DEPLOY / "windows" / "launcher" / "build.py", tmp_path / "again.exe")
    assert (tmp_path / "again.exe").read_bytes() == (windows_programs / "iocpd-launcher.exe").read_bytes()


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_ends_in_a_full_drain(windows: Windows, event: str) -> None:
    launched = launch(windows, *service(windows, "1500", "7"))
    launched.saw("ready")
    began = time.monotonic()
    launched.tell(EVENTS[event])
    assert launched.status() == 7
    assert time.monotonic() - began > 1.4  # the two clocks differ by a tick
    assert [line for line in launched.lines if not line.startswith("iocpd-launcher")] == [
        "ready",
        "draining",
        "drained",
    ]


@pytest.mark.parametrize("event", EVENTS)
def test_that_windows_will_not_wait_for_the_drain_is_said(windows: Windows, event: str) -> None:
    launched = launch(windows, *service(windows, "0", "0"))
    launched.saw("ready")
    launched.tell(EVENTS[event])
    assert launched.status() == 0
    said = any(line.startswith("iocpd-launcher: Windows") and "some 5 s" in line for line in launched.lines)
    assert said is (event not in ("CTRL_C", "CTRL_BREAK"))


def test_the_service_sees_no_console_event_itself(windows: Windows) -> None:
    launched = launch(windows, *service(windows, "800", "0"))
    launched.saw("ready")
    launched.tell(EVENTS["CTRL_BREAK"])
    assert launched.status() == 0
    assert not any("console event" in line for line in launched.lines)


def test_events_together_are_one_and_a_later_one_kills(windows: Windows) -> None:
    launched = launch(windows, *service(windows, "60000", "0"))
    launched.saw("ready")
    launched.tell(EVENTS["CTRL_C"])
    launched.tell(EVENTS["CTRL_C"])
    launched.saw("draining")
    time.sleep(0.6)
    began = time.monotonic()
    launched.tell(EVENTS["CTRL_C"])
    assert launched.status() == KILLED
    assert time.monotonic() - began < 10
    launched.saw("iocpd-launcher: killed: told to stop again")


def test_a_service_that_does_not_stop_is_killed_in_time(windows: Windows) -> None:
    launched = launch(windows, "--grace=2", "--", *service(windows, "0", "0", "deaf"))
    launched.saw("ready")
    began = time.monotonic()
    launched.tell(EVENTS["CTRL_SHUTDOWN"])
    assert launched.status() == KILLED
    assert 1.9 <= time.monotonic() - began < 15
    launched.saw("iocpd-launcher: killed: the service has not ended in time")


def test_a_stop_that_comes_before_the_service_waits_for_it_is_not_lost(windows: Windows) -> None:
    launched = launch(windows, *service(windows, "0", "3", "late"))
    launched.saw("late")
    launched.tell(EVENTS["CTRL_CLOSE"])
    assert launched.status() == 3
    assert "drained" in launched.lines


@pytest.mark.parametrize(("status", "seen"), [("0", 0), ("42", 42), ("0xC0000005", 255)])
def test_the_status_is_the_service_s(windows: Windows, status: str, seen: int) -> None:
    launched = launch(windows, *service(windows, "0", status, "exit"))
    assert launched.status() == seen  # a Linux status has 8 bits
    if seen == 255:
        launched.saw("launch: exit code 3221225477 (0xC0000005)")


def test_what_the_service_has_started_ends_with_it(windows: Windows) -> None:
    launched = launch(windows, *service(windows, "0", "0", "leave", "exit"))
    assert launched.status() == 0
    left = launched.saw("left").split()[1]
    assert windows.start(str(windows.folder / "service.exe"), "alive", left).status() == 0


def test_the_service_ends_with_a_killed_launcher(windows: Windows, tmp_path: Path) -> None:
    launched = launch(windows, *service(windows, "0", "0", "leave"))
    launched.saw("ready")
    left = launched.saw("left").split()[1]
    launched.tell("kill")
    assert launched.status() == 99
    assert windows.start(str(windows.folder / "service.exe"), "alive", left).status() == 0


def test_in_a_console_its_output_goes_through_a_pipe(windows: Windows, tmp_path: Path) -> None:
    said = tmp_path / "said"
    launched = launch(windows, *service(windows, "0", "5", f"file={windows.path(said)}"), console=True)
    until = time.monotonic() + 30
    while not (said.exists() and "ready" in said.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    launched.tell(EVENTS["CTRL_C"])
    assert launched.status() == 5
    assert said.read_text().split() == ["ready", "draining", "drained"]


def test_arguments_are_passed_on_as_they_stand(windows: Windows) -> None:
    launched = launch(windows, "--grace=5", *service(windows, "0", "0", "a b", '"quoted"', "--grace=1", "", "exit"))
    assert launched.status() == 0
    assert [line for line in launched.lines if line.startswith("word")] == [
        "word a b",
        'word "quoted"',
        "word --grace=1",
        "word",
    ]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], NO_START),
        (["--grace=1"], NO_START),
        (["--grace=", "x.exe"], NO_START),
        (["--grace=99999999999", "x.exe"], NO_START),
        (["--other", "x.exe"], NO_START),
        (["--log=Z:\\no\\such\\folder\\log", "x.exe"], NO_START),
        (["Z:\\no\\such\\program.exe"], NOT_FOUND),
    ],
)
def test_what_it_cannot_do_it_says(windows: Windows, words: list[str], status: int) -> None:
    launched = windows.start(str(windows.folder / "iocpd-launcher.exe"), *words)
    assert launched.status() == status
    launched.saw("iocpd-launcher: ")


def test_a_log_file_is_appended_to_and_moved_when_it_is_large(windows: Windows, tmp_path: Path) -> None:
    log = tmp_path / "with space" / "log"
    log.parent.mkdir()
    log.write_text("before\n")
    for _ in range(2):
        words = [f"--log={windows.path(log)}", *service(windows, "0", "0", "said", "exit")]
        assert windows.start(str(windows.folder / "iocpd-launcher.exe"), *words).status() == 0
    assert log.read_text().split("\n") == ["before", "word said", "word said", ""]
    log.write_bytes(bytes(16 << 20))
    assert windows.start(str(windows.folder / "iocpd-launcher.exe"), *words).status() == 0
    assert log.read_text() == "word said\n"
    assert (tmp_path / "with space" / "log.1").stat().st_size == 16 << 20


@pytest.mark.parametrize("event", ["CTRL_C", "CTRL_BREAK", "CTRL_CLOSE", "CTRL_SHUTDOWN"])
def test_the_real_service_drains(windows: Windows, event: str) -> None:
    """iocpd in the Windows Python, with a client that stays: it gets the end of the stream, and the status is 0."""
    pytest.importorskip("tests.windows.build")
    from tests.windows.build import MODULE

    if not MODULE.exists():
        pytest.skip("the engine is not built for Windows: `python -m tests.windows build`")
    words = [
        windows.python,
        "-m",
        "iocpd.api",
        "serve",
        "--tcp",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]
    launched = launch(windows, *words)
    launched.saw("ready")
    port = int(launched.saw("tcp 127.0.0.1:").split(":")[1].split()[0])
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.settimeout(20)
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        launched.tell(EVENTS[event])
        assert client.recv(1) == b""
    assert launched.status() == 0
    assert any("1 connections drained, 0 cut off" in line for line in launched.lines)


class TestService:
    """As a Windows service, with Wine's service control manager."""

    def start(self, windows: Windows, name: str, *command: str) -> Running:
        launcher = windows.program("iocpd-launcher.exe")
        line = " ".join([launcher, f"--service={name}", *command])
        return windows.start(str(windows.folder / "manager.exe"), name, line)

    def test_it_runs_once_ready_and_stops_with_checkpoints(self, windows: Windows, tmp_path: Path) -> None:
        log = tmp_path / "log"
        managed = self.start(
            windows, "iocpd-test-a", f"--log={windows.path(log)}", *service(windows, "2500", "0", "late")
        )
        managed.saw("Running")
        assert "ready" in log.read_text()
        managed.tell("stop")
        assert managed.status() == 0
        states = [line for line in managed.lines if not line.startswith(" ")]
        assert states == ["StartPending", "Running", "StopPending", "Stopped", "error 0, status 0"]
        assert int(managed.lines[-3].split()[-1]) >= 2  # checkpoints while it drained
        assert log.read_text().split() == ["late", "ready", "draining", "drained"]

    def test_its_failure_is_the_manager_s_to_see(self, windows: Windows) -> None:
        managed = self.start(windows, "iocpd-test-b", *service(windows, "0", "7", "exit"))
        assert managed.status() == 0
        assert managed.lines[-1] == "error 1066, status 7"  # ERROR_SERVICE_SPECIFIC_ERROR

    def test_one_that_can_not_start(self, windows: Windows) -> None:
        managed = self.start(windows, "iocpd-test-c", "Z:\\no\\such\\program.exe")
        assert managed.status() == 0
        assert managed.lines[-1] == "error 2, status 0"  # ERROR_FILE_NOT_FOUND

    def test_only_the_manager_can_start_it_so(self, windows: Windows) -> None:
        launched = windows.start(
            str(windows.folder / "iocpd-launcher.exe"), "--service=x", *service(windows, "0", "0", "exit")
        )
        assert launched.status() == NO_START
        launched.saw("iocpd-launcher: --service is for the service control manager alone")
