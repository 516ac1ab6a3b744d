"""`iocpd service` with Wine's service control manager: iocpd in a virtual environment of the Windows Python, with the
launcher in its Scripts.

What Wine 8 can't do, and what so nobody has seen here: services run as the one user that Wine has, whatever account
they are given; recovery actions are taken and forgotten; recovery after failures that are no crash, service SIDs and a
delayed start are unknown to it (install says so); icacls and netsh do nothing; no event log takes entries; nobody lacks
rights; there is no preshutdown. The automatic start is not tested: it would need an end of Wine's server.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import Running, Windows

SITE = """{packages}
{libraries}
import sys; sys.dont_write_bytecode = True
"""
SERVICES = r"SYSTEM\CurrentControlSet\Services"

READ = """
import json, sys, winreg
found = {}
try:
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, sys.argv[1]) as key:
        for at in range(winreg.QueryInfoKey(key)[1]):
            name, value, _ = winreg.EnumValue(key, at)
            found[name] = value.hex() if isinstance(value, bytes) else value
except FileNotFoundError:
    found = None
print(json.dumps(found))
"""
ROUND_TRIP = """
import json, subprocess, sys
from iocpd.api.cli.winservice.binary import quoted
back = "import json, sys; print(json.dumps(sys.argv[1:]))"
line = " ".join(map(quoted, [sys.executable, "-IS", "-c", back, *json.loads(sys.argv[1])]))
print(subprocess.run(line, stdout=subprocess.PIPE, text=True).stdout)
"""


def status_of(running: Running) -> int:
    """Python, its imports and the service's own start take their time under Wine."""
    for _ in range(4):
        try:
            return running.status()
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(running.lines)


@pytest.fixture(scope="module")
def installed(windows_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python that the service is run by. Services see no variable of ours, so paths are in files."""
    from tests.windows.build import MODULE
    from tests.windows.wine import PACKAGES, PYTHON

    if not MODULE.exists():
        pytest.skip("the engine is not built for Windows: `python -m tests.windows build`")
    folder = tmp_path_factory.mktemp("with space") / "venv"
    machine = Windows(windows_programs)
    try:
        made = machine.start("python", "-m", "venv", "--without-pip", machine.path(folder))
        assert status_of(made) == 0, made.lines
    finally:
        machine.end()
    libraries = machine.path(PYTHON / "Lib" / "site-packages")
    (folder / "Lib" / "site-packages" / "site.pth").write_text(
        SITE.format(packages=machine.path(PACKAGES), libraries=libraries)
    )
    shutil.copy(windows_programs / "iocpd-launcher.exe", folder / "Scripts")
    return folder / "Scripts" / "python.exe"


class Service:
    """`iocpd service VERB --name NAME`, and the name's entries in the registry.

    The state folder is on Wine's drive C, where all of the way to it is this user's.
    """

    def __init__(self, windows: Windows, python: Path, name: str) -> None:
        from tests.windows.wine import CACHE

        self.name, self.folder = name, rf"C:\{name}\state dir"
        self.state_dir = CACHE / "prefix" / "drive_c" / name / "state dir"
        self._windows, self._python = windows, str(python)
        self.lines: list[str] = []

    def begin(self, verb: str, *words: str) -> Running:
        return self._windows.start(self._python, "-m", "iocpd.api", "service", verb, "--name", self.name, *words)

    def call(self, verb: str, *words: str) -> int:
        done = self.begin(verb, *words)
        status = status_of(done)
        self.lines = done.lines
        return status

    def install(self, *words: str, tcp: str) -> int:
        serve = ["--tcp", tcp, "--http", "127.0.0.1:0", "--state-dir", self.folder]
        return self.call("install", *words, "--", *serve, "--log-format", "console")

    def status(self) -> dict[str, Any]:
        assert self.call("status", "--json") == 0, self.lines
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found

    def registry(self, key: str) -> dict[str, Any] | None:
        read = self._windows.start("python", "-c", READ, key)
        assert status_of(read) == 0, read.lines
        found: dict[str, Any] | None = json.loads(read.lines[-1])
        return found


@pytest.fixture
def service(windows: Windows, installed: Path) -> Iterator[Service]:
    made = Service(windows, installed, f"iocpd-test-{os.getpid()}")
    made.state_dir.parent.mkdir()
    yield made
    # Wine would start it with every prefix's start from then on.
    for _ in range(3):
        if made.call("remove", "--yes") in (0, 3):
            shutil.rmtree(made.state_dir.parent)
            return
    raise AssertionError(made.lines)


def free_port() -> int:
    """It just was, and is none of those that a system gives to whoever asks for any."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise AssertionError("none of a hundred ports is free")


def test_a_service_s_life(service: Service, windows: Windows, installed: Path) -> None:
    where, name = free_port(), service.name
    assert service.install("--firewall", "--delayed", tcp=f"0.0.0.0:{where}/echo") == 0, service.lines
    left_out = [line.partition("know ")[2] for line in service.lines if "left out" in line]
    assert left_out == [
        "recovery after a failure that is no crash: left out",
        "the service's own identifier: left out",
        "a delayed start: left out",
    ]

    before = service.status()
    log = service.state_dir / "service.log"
    assert before["bin_path"] == (
        f'"{windows.path(installed.parent / "iocpd-launcher.exe")}" --service={name} --grace=60'
        rf' "--log={service.folder}\service.log" -- "{windows.path(installed)}" -m iocpd.api serve'
        f' --tcp 0.0.0.0:{where}/echo --http 127.0.0.1:0 --state-dir "{service.folder}" --log-format console'
    )
    assert (before["state"], before["pid"], before["win32_exit_code"]) == ("stopped", None, 1077)
    assert before["account"] == f"NT SERVICE\\{name}"
    assert before["start_type"].startswith("automatic")

    kept = service.registry(rf"{SERVICES}\{name}")
    assert kept
    assert (kept["Start"], kept["Type"], kept["PreshutdownTimeout"]) == (2, 0x10, 75_000)
    assert "completion port" in kept["Description"]
    assert service.registry(rf"{SERVICES}\{name}\Parameters") == {"FirewallRule": f"iocpd-service-{name}"}
    assert service.registry(rf"{SERVICES}\EventLog\Application\{name}") == {
        "EventMessageFile": r"%SystemRoot%\System32\EventCreate.exe",
        "TypesSupported": 7,
    }

    assert service.call("start") == 0, service.lines
    states = [line.removeprefix(f"{name}: ") for line in service.lines]
    assert states[0].startswith("start pending")
    assert "running" in states
    assert any("checkpoint" in line for line in states)
    running = service.status()
    assert running["state"] == "running"
    assert running["pid"]
    assert "ready" in log.read_text()
    assert service.call("start") == 0  # it runs already

    with socket.create_connection(("127.0.0.1", where), 20) as client:
        client.settimeout(20)
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        stopping = service.begin("stop")
        assert client.recv(1) == b""
    assert status_of(stopping) == 0, stopping.lines
    assert f"{name}: stop pending" in [line.partition(",")[0] for line in stopping.lines]
    assert stopping.lines[-1] == f"the service {name} is stopped; it ended with status 0"
    assert "1 connections drained, 0 cut off" in log.read_text()
    after = service.status()
    assert (after["state"], after["win32_exit_code"], after["service_exit_code"]) == ("stopped", 0, 0)

    assert service.call("start") == 0, service.lines
    assert service.call("remove", "--yes") == 0, service.lines  # which stops it
    assert "stopped: 0 connections drained, 0 cut off" in log.read_text()
    assert service.call("status") == 3
    assert service.registry(rf"{SERVICES}\{name}") is None
    assert service.registry(rf"{SERVICES}\EventLog\Application\{name}") is None
    assert log.exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("place", [".", "keys.json"])
def test_what_somebody_else_has_put_there_is_not_the_service_s(service: Service, place: str) -> None:
    """Wine knows whose files are: its one user's, or not."""
    service.state_dir.mkdir()
    (service.state_dir / "keys.json").touch()
    os.chown(service.state_dir / place, 12345, -1)
    assert service.install(tcp="127.0.0.1:0") == 5
    assert service.folder + ("" if place == "." else rf"\{place}") in service.lines[-1]
    assert "/setowner *S-1-5-32-544" in service.lines[-1]
    assert service.call("status") == 3
    os.chown(service.state_dir / place, os.getuid(), -1)
    assert service.install(tcp="127.0.0.1:0") == 0, service.lines


def test_a_start_that_fails_is_told(service: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert service.install(tcp=f"127.0.0.1:{taken.getsockname()[1]}") == 0, service.lines
        assert service.call("start") == 1
        assert "it ended with status 1" in service.lines[-1]
        assert "service.log" in service.lines[-1]
    after = service.status()
    assert (after["win32_exit_code"], after["service_exit_code"]) == (1066, 1)


def test_what_the_manager_refuses(service: Service) -> None:
    assert service.call("start") == 3
    assert "there is no service" in service.lines[-1]
    assert service.call("remove", "--yes") == 3
    assert service.install(tcp="127.0.0.1:0") == 0, service.lines
    assert service.install(tcp="127.0.0.1:0") == 5
    assert "already" in service.lines[-1]
    assert service.install("--grace", "45", tcp="127.0.0.1:0") == 2


def test_services_of_others_are_left_alone(windows: Windows, installed: Path) -> None:
    theirs = Service(windows, installed, "PlugPlay")
    assert theirs.status()["state"] == "running"
    for words in (("start",), ("stop",), ("remove", "--yes")):
        assert theirs.call(*words) == 5
    assert theirs.status()["state"] == "running"


def test_arguments_come_back_as_they_went(windows: Windows) -> None:
    words = ["", "a b", "C:\\a b\\", 'say "hi"', '\\"', "\\\\server\\share\\", "[fe80::1%3]:7000", "a\tb", "ü"]
    done = windows.start("python", "-c", ROUND_TRIP, json.dumps(words))
    assert status_of(done) == 0, done.lines
    assert json.loads(next(line for line in done.lines if line)) == words
