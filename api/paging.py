"""Cursors: where a listing goes on.

A cursor is opaque and safe in a URL. It carries its position and a seal over position and filters, under a key that
each run draws anew: used with other filters, altered, or after a restart, it is refused instead of showing a wrong
page.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Query
from pydantic import BaseModel, Field, WithJsonSchema

from iocpd.api import problems
from iocpd.api.problems import Problem

# run, microseconds when the listing began, position
_LAYOUT = struct.Struct(">4sQQII")
_SEAL_BYTES = 8

_LENGTH = (_LAYOUT.size + _SEAL_BYTES) * 4 // 3  # a multiple of 3 bytes, so there is no padding

Position = tuple[int, int, int]

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="how many items a page has at most")]
# The document says what a cursor looks like; what looks otherwise gets `cursor_malformed`.
_Cursor = Annotated[
    str, Field(max_length=200), WithJsonSchema({"type": "string", "pattern": f"^[A-Za-z0-9_-]{{{_LENGTH}}}$"})
]
CursorText = Annotated[
    _Cursor | None, Field(description="`next_cursor` of the page before; only together with the same filters")
]
LimitParam = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many items a page has at most")]
CursorParam = Annotated[_Cursor | None, Query(description="`next_cursor` of the page before")]
Count = Literal["none", "exact"]


class Snapshot(BaseModel):
    """What a listing shows: those that were there at `taken_at` and stay until they are shown."""

    taken_at: datetime = Field(description="when its first page was made")
    expires_at: datetime | None = Field(description="when its cursors stop working; null: they don't")


class Cursors:
    """Makes and reads the cursors of one run."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)
        self._run = secrets.token_bytes(4)

    def make(self, listing: str, position: Position, taken_at: datetime) -> str:
        """A cursor for `listing`, which names the route and its filters."""
        packed = _LAYOUT.pack(self._run, int(taken_at.timestamp() * 1_000_000), *position)
        return base64.urlsafe_b64encode(packed + self._seal(listing, packed)).rstrip(b"=").decode()

    def read(self, listing: str, text: str) -> tuple[Position, datetime]:
        """Position, and when the listing began; Problem if the cursor is not one of this listing and this run."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _LAYOUT.size + _SEAL_BYTES:
            raise Problem(problems.CURSOR_MALFORMED)
        packed, seal = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
        run, taken_at_us, *position = _LAYOUT.unpack(packed)
        if run != self._run:
            raise Problem(problems.CURSOR_EXPIRED)
        if not hmac.compare_digest(seal, self._seal(listing, packed)):
            raise Problem(problems.CURSOR_MISMATCH)
        return (position[0], position[1], position[2]), datetime.fromtimestamp(taken_at_us / 1_000_000, UTC)

    def _seal(self, listing: str, packed: bytes) -> bytes:
        return hashlib.blake2b(packed + listing.encode(), key=self._key, digest_size=_SEAL_BYTES).digest()


NEXT_PAGE: dict[str, Any] = {
    "headers": {
        "Link": {
            "description": 'the next page, as `<...>; rel="next"`; not on the last one',
            "schema": {"type": "string", "pattern": '^<[^>]+>; rel="next"$'},
        }
    }
}
"""FastAPI's `responses=` for a 200 with the header of link_next."""


def link_next(path: str, query: list[tuple[str, str]], cursor: str | None) -> dict[str, str]:
    """The Link header that leads to the next page; empty on the last one."""
    if cursor is None:
        return {}
    kept = [(name, value) for name, value in query if name != "cursor"]
    return {"link": f'<{path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}
