"""Looks for keys and payloads where none may be: logs, a process's arguments, problems, metrics, the audit, the files
that it keeps, the names of those in its folder, and what the command writes.

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
# Of what TCP clients send and read: the beginning, so that it is found where it was cut; and not of thousands, so that
# the search ends soon.
_BEGINNING = 48
_MOST = 100
_TOLD = ("/metrics", "/v1/audit")  # successes in which none of them may be either


class Leaks:
    """What must not be seen, and the search for it."""

    def __init__(self) -> None:
        self._secrets: set[bytes] = set()
        self._pieces: set[bytes] = set()
        self._written: list[tuple[str, bytes]] = []

    def remember(self, secret: bytes) -> None:
        """Neither it nor its base64 may be anywhere, nor as JSON or Python write it."""
        if len(secret) >= _SHORTEST:
            shown = repr(secret)[2:-1]
            text = json.dumps(secret.decode(errors="replace"))[1:-1]
            self._secrets |= {secret, b64encode(secret)}
            self._secrets |= {each.encode() for each in (text, shown, json.dumps(shown)[1:-1])}

    def note_tcp(self, data: bytes) -> None:
        """Remembers what a TCP client sends or reads: its beginning, and the lines of that, unless they have so few
        different bytes that they may be anywhere."""
        beginning = data[:_BEGINNING]
        for piece in {beginning, *beginning.splitlines()}:
            if len(set(piece)) >= _SHORTEST and len(self._pieces) < _MOST:
                self._pieces.add(piece)
                self.remember(piece)

    def note_output(self, where: str, content: bytes) -> None:
        """What was written by somebody else than the service: it is looked through at the end, when all is known."""
        self._written.append((where, content))

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
        """A problem, a metric and the audit repeat none of them."""
        if answer.status_code >= 400 or answer.request.url.path in _TOLD:
            answer.read()
            self.check("a problem" if answer.status_code >= 400 else answer.request.url.path, answer.content)

    def check(self, where: str, content: bytes) -> None:
        """AssertionError if one of them is in there; it does not say which."""
        assert not _KEY.search(content), f"a key is in {where}"
        for secret in tuple(self._secrets):  # clients of other threads may go on
            assert secret not in content, f"a payload or a key that was sent is in {where}"

    def check_names(self, paths: Iterable[Path]) -> None:
        """Not in the names of files."""
        for path in paths:
            self.check(f"the name of {path.parent}/...", path.name.encode(errors="surrogateescape"))

    def check_files(self, paths: Iterable[Path]) -> None:
        """Neither in their names nor in what they hold."""
        for path in paths:
            self.check_names([path])
            if path.is_file():
                self.check(str(path), path.read_bytes())

    def check_outputs(self) -> None:
        """Not in what was noted as written."""
        for where, content in self._written:
            self.check(where, content)


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
