"""Servers without the second of processor time that their imports take: most of what the tests here would spend.

A process of its own has made the imports, and becomes `iocpd serve` for each order: it forks, and the child runs the
command with the arguments, the environment and the streams that it was given, to its own end. Between the two stands a
process that waits for the child and writes down how it ended.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

_ROOT = Path(__file__).parents[2]
_LONGEST_ORDER = 1 << 18


class Forked:
    """A server that the template has become: of `subprocess.Popen` what tests use."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], stderr: IO[str]) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self._lock = threading.Lock()
        out, their_out = os.pipe()
        self.stdout = os.fdopen(out, encoding="utf-8")
        self._news, their_news = os.pipe()
        order = json.dumps({"arguments": self.args, "environment": dict(env), "folder": os.getcwd()}).encode()
        assert len(order) <= _LONGEST_ORDER
        try:
            socket.send_fds(_template(env.get("LD_PRELOAD")), [order], [their_out, stderr.fileno(), their_news])
        finally:
            os.close(their_out)
            os.close(their_news)
        self.pid = self._read()

    def poll(self) -> int | None:
        """How it ended, in Popen's numbers; None while it runs."""
        return self._ended_within(0)

    def wait(self, timeout: float) -> int:
        status = self._ended_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float) -> int | None:
        with self._lock:
            if self.returncode is None:
                waiting = select.poll()  # select() knows no descriptor above 1023, and some tests have ten thousand
                waiting.register(self._news)
                if waiting.poll(seconds * 1000):
                    self.returncode = os.waitstatus_to_exitcode(self._read())
                    os.close(self._news)
            return self.returncode

    def _read(self) -> int:
        number = os.read(self._news, 4)
        assert len(number) == 4, "the template or the process beside the server has ended"
        return int.from_bytes(number)


@cache
def _template(preloaded: str | None) -> socket.socket:
    """Where orders are sent. The template ends when this end is closed. There is one for each library that servers are
    to have before all others, which this process's environment names."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IOCPD_")}
    assert kept.get("LD_PRELOAD") == preloaded
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.template"], env=kept, cwd=_ROOT, stdin=theirs
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def main() -> None:
    # All that a service has imported once it is ready.
    import iocpd.api.cli.app
    import iocpd.api.server  # noqa: F401

    link = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps those who wait
    while True:
        order, streams, _, _ = socket.recv_fds(link, _LONGEST_ORDER, 3)
        if not order:
            return
        if os.fork() == 0:
            link.close()
            _wait_for_a_server(order, *streams)
        for each in streams:
            os.close(each)


def _wait_for_a_server(order: bytes, out: int, err: int, news: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server = os.fork()
    if server == 0:
        os.close(news)
        _become_a_server(order, out, err)
    os.close(out)
    os.close(err)
    with contextlib.suppress(BrokenPipeError):
        os.write(news, server.to_bytes(4))
        os.write(news, os.waitpid(server, 0)[1].to_bytes(4))
    os._exit(0)


def _become_a_server(order: bytes, out: int, err: int) -> NoReturn:
    from iocpd.api.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    # Python's own know whether the template's could seek.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    wanted = json.loads(order)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.argv[1:] = wanted["arguments"]
    sys.exit(main())


if __name__ == "__main__":
    main()
