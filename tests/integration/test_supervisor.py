"""What the service tells systemd, and that process 1 obeys from the beginning."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.server import OVERRIDE, Server
from tests.support import PATIENCE

Serve = Callable[..., Server]

pytestmark = pytest.mark.skipif(sys.platform != "linux" or bool(OVERRIDE), reason="systemd and containers of Linux")


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@iocpd-{os.getpid()}-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(PATIENCE)
        channel.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        server = serve()
        assert channel.recv(100) == b"READY=1"
        assert [channel.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        server.signal()
        assert server.wait() == 0
        channel.setblocking(False)
        told = []
        while not told or told[-1]:
            try:
                told.append(channel.recv(100))
            except BlockingIOError:
                told.append(b"")
    assert b"STOPPING=1" in told


def test_the_watchdog_of_another_process_is_not_ours(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(PATIENCE)
        channel.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000")
        monkeypatch.setenv("WATCHDOG_PID", "1")
        server = serve()
        server.signal()
        assert server.wait() == 0
        assert [channel.recv(100) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]


def test_process_one_obeys_and_reaps(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a process 1 of its own takes root and unshare")
    program = [sys.executable, "-m", "iocpd.api", "serve", "--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *program],
        env=os.environ | {"IOCPD_STATE_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(line == "ready\n" for line in process.stdout)
        (inner,) = _children(process.pid)
        os.kill(inner, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
