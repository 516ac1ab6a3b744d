"""Looks for keys and payloads where none may be: logs, a process's arguments, problems, the files that it keeps.

Each `Server` and each `Api` of these tests has a `Leaks` that remembers what was sent through it and looks at the end,
so that the whole suite is the search.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

# A key shows by itself; a payload has to be remembered, and one that is short may be in a line by chance.
_KEY = re.compile(rb"iocpd_[A-Za-z0-9_-]{43}")
_SHORTEST = 8


class Leaks:
    """What must not be seen, and the search for it."""

    def __init__(self) -> None:
        self._secrets: set[bytes] = set()

    def remember(self, secret: bytes) -> None:
        """Neither it nor its base64 may be anywhere."""
        if len(secret) >= _SHORTEST:
            self._secrets |= {secret, b64encode(secret), json.dumps(secret.decode(errors="replace"))[1:-1].encode()}

    def note_request(self, request: httpx.Request) -> None:
        """Remembers the key and the payload of a request."""
        self.remember(request.headers.get("authorization", "").partition(" ")[2].encode(errors="surrogateescape"))
        self.remember(request.url.params.get("farewell", "").encode(errors="replace"))
        try:
            body = request.content
        except httpx.RequestNotRead:
            return
        if request.headers.get("content-type") == "application/octet-stream":
            self.remember(body)
            return
        try:
            for payload in _payloads(json.loads(body)):
                self.remember(payload.encode(errors="surrogatepass"))
        except ValueError:
            return

    def check_answer(self, answer: httpx.Response) -> None:
        """A problem repeats none of them."""
        if answer.status_code >= 400:
            answer.read()
            self.check("a problem", answer.content)

    def check(self, where: str, content: bytes) -> None:
        """AssertionError if one of them is in there; it does not say which."""
        assert not _KEY.search(content), f"a key is in {where}"
        for secret in self._secrets:
            assert secret not in content, f"a payload or a key that was sent is in {where}"

    def check_files(self, paths: Iterable[Path]) -> None:
        """Neither in their names nor in what they hold."""
        for path in paths:
            self.check(f"the name of {path.parent}/...", path.name.encode(errors="surrogateescape"))
            if path.is_file():
                self.check(str(path), path.read_bytes())


def _payloads(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name in ("text", "base64") and isinstance(member, str):
                yield member
            else:
                yield from _payloads(member)
    elif isinstance(value, list):
        for member in value:
            yield from _payloads(member)
