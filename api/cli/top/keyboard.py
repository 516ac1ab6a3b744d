"""Keys, on Linux and on Windows. One that is no character has a name: up, page down, escape, enter, delete."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

# A key that is no character comes as several bytes at once; Escape itself comes alone.
_SEQUENCE_SECONDS = 0.05


class Keyboard(Protocol):
    """Gives keys as they are pressed."""

    def read(self, seconds: float) -> str | None:
        """The next key; None if there was none for so long. EOFError when the terminal is gone."""


if sys.platform == "win32":
    import msvcrt

    _POLL_SECONDS = 0.02
    _EXTENDED = {
        "H": "up",
        "P": "down",
        "K": "left",
        "M": "right",
        "I": "page up",
        "Q": "page down",
        "G": "home",
        "O": "end",
        "S": "delete",
    }
    _PLAIN = {"\r": "enter", "\n": "enter", "\x1b": "escape", "\x08": "backspace"}

    class _Console:
        def read(self, seconds: float) -> str | None:
            until = time.monotonic() + seconds
            # A console's handle can be waited for, but is ready for moves of the mouse and the like too.
            while not msvcrt.kbhit():
                if time.monotonic() >= until:
                    return None
                time.sleep(_POLL_SECONDS)
            key = msvcrt.getwch()
            if key in ("\x00", "\xe0"):
                return _EXTENDED.get(msvcrt.getwch(), "")
            if key == "\x03":
                raise KeyboardInterrupt
            return _PLAIN.get(key, key)

    @contextlib.contextmanager
    def keyboard() -> Iterator[Keyboard]:
        """The keyboard of this console."""
        yield _Console()

else:
    import os
    import select
    import termios
    import tty

    _SEQUENCES = {
        "[A": "up",
        "[B": "down",
        "[C": "right",
        "[D": "left",
        "OA": "up",
        "OB": "down",
        "OC": "right",
        "OD": "left",
        "[5~": "page up",
        "[6~": "page down",
        "[H": "home",
        "[F": "end",
        "OH": "home",
        "OF": "end",
        "[1~": "home",
        "[4~": "end",
        "[7~": "home",
        "[8~": "end",
        "[3~": "delete",
    }
    _PLAIN = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"}

    class _Terminal:
        def __init__(self, descriptor: int) -> None:
            self._descriptor = descriptor
            self._rest = b""

        def read(self, seconds: float) -> str | None:
            if not self._rest and not self._fill(seconds):
                return None
            first = self._take()
            if first != "\x1b":
                return _PLAIN.get(first, first)
            if not self._rest and not self._fill(_SEQUENCE_SECONDS):
                return "escape"
            sequence = self._take()
            if sequence not in "[O":
                return ""  # a character with Alt
            # Parameters are digits and semicolons, and another character ends it.
            while (self._rest or self._fill(_SEQUENCE_SECONDS)) and (
                len(sequence) == 1 or sequence[-1] in "0123456789;"
            ):
                sequence += self._take()
            return _SEQUENCES.get(sequence, "")

        def _fill(self, seconds: float) -> bool:
            if not select.select([self._descriptor], [], [], max(seconds, 0))[0]:
                return False
            self._rest += os.read(self._descriptor, 1024)
            if not self._rest:
                raise EOFError
            return True

        def _take(self) -> str:
            """One character; what is no UTF-8 counts as one each."""
            for length in (1, 2, 3, 4):
                try:
                    character = self._rest[:length].decode()
                except UnicodeDecodeError:
                    continue
                self._rest = self._rest[length:]
                return character
            self._rest = self._rest[1:]
            return "�"

    @contextlib.contextmanager
    def keyboard() -> Iterator[Keyboard]:
        """The keyboard of this terminal, which gives each key at once and shows none; as it was before at the end."""
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        try:
            tty.setcbreak(descriptor)
            yield _Terminal(descriptor)
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
