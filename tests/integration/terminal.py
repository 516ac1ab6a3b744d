"""Runs the command as a person does, on a terminal of its own (not on Windows), and as a program does, with pipes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self
from unittest import mock

import pytest

from iocpd.api.cli import main
from tests.integration.leaks import Leaks
from tests.integration.server import OVERRIDE, SERVE, environment
from tests.support import PATIENCE

COMMAND = SERVE[:-1] if SERVE[-1] == "serve" else SERVE

on_a_terminal = pytest.mark.skipif(sys.platform == "win32" or bool(OVERRIDE), reason="there is no pty")

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>()][0-9A-B]?)")


class Person:
    """Somebody with a home of their own, who may have set variables.

    leaks: of the service that is asked, which also looks through what the command writes.
    """

    def __init__(self, home: Path, leaks: Leaks | None = None, **variables: str) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        self.leaks = leaks or Leaks()
        self.variables = variables

    def environment(self) -> dict[str, str]:
        config = str(self.home / "config")
        places = {"XDG_CONFIG_HOME": config, "APPDATA": config, "HOME": str(self.home), "TERM": "xterm-256color"}
        kept = {name: value for name, value in environment(self.home).items() if name not in ("NO_COLOR", "COLUMNS")}
        return kept | places | self.variables

    def run(self, *arguments: str, stdin: bytes = b"", variables: Mapping[str, str] | None = None) -> Done:
        """Runs the command with pipes, to its end."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment() | dict(variables or {}),
            input=stdin,
            capture_output=True,
            timeout=3 * PATIENCE,
            check=False,
        )
        return self._noted(arguments, Done(done.returncode, done.stdout.decode(), done.stderr.decode()))

    def call(self, *arguments: str, variables: Mapping[str, str] | None = None) -> Done:
        """As `run`, but in this process: the same command without the second that a process takes to begin."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment() | dict(variables or {}), clear=True),
            mock.patch("sys.stdin", io.StringIO()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = main(arguments)
        return self._noted(arguments, Done(status, out.getvalue(), err.getvalue()))

    def terminal(self, *arguments: str, columns: int = 100, lines: int = 30) -> Terminal:
        """Runs the command on a terminal."""
        return Terminal([*COMMAND, *arguments], self.environment(), columns, lines, self._note)

    def _noted(self, arguments: Sequence[str], done: Done) -> Done:
        # The one place where a key is shown, once.
        self._note(("" if {"keys", "add"} <= set(arguments) else done.out) + done.err)
        return done

    def _note(self, written: str) -> None:
        Leaks().check("what the command wrote", written.encode())
        self.leaks.note_output("what the command wrote", written.encode())


class Done:
    """How a command ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def __repr__(self) -> str:
        return f"Done({self.status}, {self.out!r}, {self.err!r})"


class Terminal:
    """A command on a terminal; every wait has a bound."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        columns: int,
        lines: int,
        note: Callable[[str], None],
    ) -> None:
        if sys.platform == "win32":
            raise AssertionError("there is no pty")
        import fcntl
        import pty
        import struct
        import termios

        def take_terminal() -> None:
            """Ctrl-C reaches it as it does a person's command, also where these tests run in a background that has it
            ignored."""
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            env=dict(variables),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(slave)
        self.raw = b""
        self._note = note
        self._mark = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._master)
        self._note(self.text)

    @property
    def text(self) -> str:
        """All that was ever shown, without colours and moves of the cursor."""
        return _ESCAPES.sub("", self.raw.decode("utf-8", "replace")).replace("\r\n", "\n")

    def expect(self, text: str) -> str:
        """What is shown until this is, from where the last one ended."""
        until = time.monotonic() + PATIENCE
        while (found := self.text.find(text, self._mark)) < 0:
            assert self._read(until), f"it ended without {text!r}: {self.text[self._mark :]!r}"
        seen = self.text[self._mark : found + len(text)]
        self._mark = found + len(text)
        return seen

    def type(self, keys: str) -> None:
        """Presses keys; what is shown before counts no more."""
        while self._read(time.monotonic()):
            pass
        self._mark = len(self.text)
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """The exit status, once it has ended; all that it has shown is in `text`."""
        until = time.monotonic() + PATIENCE
        while self._read(until):
            pass
        return self.process.wait(max(until - time.monotonic(), 1))

    def _read(self, until: float) -> bool:
        """Takes what there is; False at the end, or when there was nothing until then."""
        if not select.select([self._master], [], [], max(until - time.monotonic(), 0))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += data
        return bool(data)
