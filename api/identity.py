"""What a connection is called on the wire.

The engine's tokens are never reused while it lives, but the next process starts counting again. So an id on the wire
carries the instance too: a few random letters that are drawn once for each start. An id from an earlier run is then
recognised as such and never names somebody else.
"""

import re
import secrets
import time

# No vowels, so no words; no l, o, 0, 1, so it can be read aloud.
_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
_LETTERS = 6
NAME_PATTERN = rf"[{_ALPHABET}]{{{_LETTERS}}}"
ID_PATTERN = rf"({NAME_PATTERN})-([1-9a-f][0-9a-f]{{0,15}}|0)"


class ForeignId(Exception):
    """The id is well formed, but another run of the service gave it out."""


class Instance:
    """One run of the service: names itself and its connections."""

    def __init__(self) -> None:
        self.name = "".join(secrets.choice(_ALPHABET) for _ in range(_LETTERS))
        self.prefix = self.name + "-"
        self._began = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since it began, whatever the system's clock was set to meanwhile."""
        return time.monotonic() - self._began

    @staticmethod
    def is_name(text: str) -> bool:
        """Whether some run might be called so."""
        return re.fullmatch(NAME_PATTERN, text) is not None

    def encode(self, token: int) -> str:
        """The id on the wire of the engine's connection `token`."""
        return f"{self.prefix}{token:x}"

    def decode(self, text: str) -> int | None:
        """The engine's token; None if `text` is not an id at all; ForeignId if another run gave it out."""
        match = re.fullmatch(ID_PATTERN, text)
        if match is None:
            return None
        if match[1] != self.name:
            raise ForeignId(text)
        return int(match[2], 16)
