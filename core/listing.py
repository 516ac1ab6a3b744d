"""Pages of connections: as Python objects, as JSON from C, and sorted. Engine's methods of these names lead here."""

from __future__ import annotations

import enum
import re
from collections.abc import Collection
from typing import Any

from . import _rows
from ._native import ffi, lib
from ._run import Run
from .errors import ConfigurationError
from .model import Cursor, Filter, Page

_TOKEN_SLOT_BITS, _TOKEN_WORKER_BITS = 20, 6
_PAGE_MAX = 65536
MEMBERS = {
    name: getattr(lib, f"IOCPD_MEMBER_{name.upper()}")
    for name in (
        "id",
        "listener",
        "service",
        "state",
        "reason",
        "peer",
        "via",
        "local",
        "connected_at",
        "last_activity_at",
        "bytes_in",
        "bytes_out",
        "messages_in",
        "messages_out",
        "pending_bytes",
        "tags",
        "groups",
        "worker",
    )
}
"""The members of a row in JSON, in their order."""
_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


class SortKey(enum.StrEnum):
    """What a listing can be sorted by."""

    CONNECTED_AT = "connected_at"
    LAST_ACTIVITY_AT = "last_activity_at"
    BYTES_IN = "bytes_in"
    BYTES_OUT = "bytes_out"
    MESSAGES_IN = "messages_in"
    MESSAGES_OUT = "messages_out"
    PENDING_BYTES = "pending_bytes"


class SortedListing:
    """The connections that matched at one moment, in the order of a counter or a time at that moment.

    The order never changes, whatever the connections do: pages of it show each that is still there exactly once. It
    holds 24 bytes for each connection, and the engine's memory, for as long as it lives. Any thread may use it.
    """

    def __init__(self, run: Run, filter: Filter | None, key: SortKey, descending: bool) -> None:
        self._run = run
        where = _rows.filter_struct(filter)
        capacity = max(run.info().connections, 64) + 64
        while True:
            self._sorted = _new_uncleared("iocpd_sorted[]", capacity)
            self._count: int = lib.iocpd_sort(
                run.native, where, list(SortKey).index(key), int(descending), self._sorted, capacity
            )
            if self._count <= capacity:
                break
            capacity = self._count + self._count // 8  # more have come meanwhile

    def __len__(self) -> int:
        """How many matched."""
        return self._count

    def page_json(
        self, position: int = 0, *, limit: int = 100, prefix: str = "", fields: Collection[str] | None = None
    ) -> tuple[bytes, int | None]:
        """Rows from `position` on, as `Engine.connections_json` gives them, and the next page's position.

        None as the next position is exact: nobody who is still there comes behind this page.

        Raises:
            ConfigurationError: For a position, a limit, a prefix or a field that can't be.
        """
        if not 0 <= position <= self._count:
            raise ConfigurationError("position", position, f"must be from 0 to {self._count}")
        text, members, space = _prefix(prefix), _members(fields), _Space(limit)
        place = ffi.new("uint32_t *", position)
        while space.wanted and place[0] < self._count:
            written = lib.iocpd_sorted_json(
                self._run.native, self._sorted, self._count, place, space.wanted, members, text, *space.out
            )
            if not space.take(written):
                break
        return space.rows(), place[0] if place[0] < self._count else None


def page(run: Run, filter: Filter | None, limit: int, cursor: Cursor | None) -> Page:
    """See Engine.connections."""
    place = _place(limit, cursor)
    rows = ffi.new("iocpd_connection[]", limit + 1)  # one more tells whether the page is the last
    count = lib.iocpd_list(run.native, _rows.filter_struct(filter), place, rows, limit + 1)
    following = _before(rows[limit], place) if count > limit else None
    return Page(_rows.connections(rows, min(count, limit), run.services, run.labels_of), following, place.last_serial)


def page_json(
    run: Run, filter: Filter | None, limit: int, cursor: Cursor | None, prefix: str, fields: Collection[str] | None
) -> tuple[bytes, Cursor | None]:
    """See Engine.connections_json."""
    where, place, text, members = _rows.filter_struct(filter), _place(limit, cursor), _prefix(prefix), _members(fields)
    space, more = _Space(limit), ffi.new("int32_t *", 1)
    while space.wanted and more[0]:
        space.take(lib.iocpd_list_json(run.native, where, place, space.wanted, members, text, *space.out, more))
    beyond = ffi.new("iocpd_connection *")
    left = more[0] and lib.iocpd_list(run.native, where, place, beyond, 1) == 1
    return space.rows(), _before(beyond, place) if left else None


class _Space:
    """Memory that C writes rows to, as often as it takes: labels may make them much longer than they are without."""

    def __init__(self, limit: int) -> None:
        check_limit(limit)
        self.wanted = limit
        capacity = limit * lib.IOCPD_ROW_JSON_BYTES + 2 * lib.IOCPD_LABEL_BYTES
        self._size = ffi.new("uint32_t *")
        self.out = _new_uncleared("char[]", capacity), capacity, self._size
        self._parts: list[bytes] = []

    def take(self, written: int) -> int:
        """So many rows were written; the same number."""
        if written:
            self._parts.append(bytes(ffi.buffer(self.out[0], self._size[0])))
        self.wanted -= written
        return written

    def rows(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b",".join(self._parts)


def _prefix(prefix: str) -> bytes:
    if not re.fullmatch(rf"[A-Za-z0-9-]{{0,{lib.IOCPD_PREFIX_BYTES}}}", prefix):
        raise ConfigurationError("prefix", prefix, f"must be at most {lib.IOCPD_PREFIX_BYTES} letters, digits, dashes")
    return prefix.encode()


def _members(fields: Collection[str] | None) -> int:
    if fields is None:
        every: int = lib.IOCPD_MEMBER_ALL
        return every
    if not fields:
        raise ConfigurationError("fields", fields, "must be one at least")
    bits = 0
    for field in fields:
        if field not in MEMBERS:
            raise ConfigurationError("fields", field, "must be of " + ", ".join(MEMBERS))
        bits |= MEMBERS[field]
    return bits


def check_limit(limit: int) -> None:
    """ConfigurationError for a number of rows that can't be."""
    if not 1 <= limit <= _PAGE_MAX:
        raise ConfigurationError("limit", limit, f"must be from 1 to {_PAGE_MAX}")


def _place(limit: int, cursor: Cursor | None) -> Any:
    """The cursor for C of a page that begins at `cursor`."""
    check_limit(limit)
    place = ffi.new("iocpd_cursor *")
    if cursor is not None:
        if not (0 <= cursor.worker < 1 << 32 and 0 <= cursor.slot < 1 << 32 and 0 <= cursor.last_serial < 1 << 64):
            raise ConfigurationError("cursor", cursor, "must be one that a page gave")
        place.last_serial, place.worker, place.slot = cursor.last_serial, cursor.worker, cursor.slot
    return place


def _before(row: Any, place: Any) -> Cursor:
    """Where a page begins that shows `row` first."""
    slot = row.token & ((1 << _TOKEN_SLOT_BITS) - 1)
    worker = row.token >> _TOKEN_SLOT_BITS & ((1 << _TOKEN_WORKER_BITS) - 1)
    return Cursor(place.last_serial, worker, slot)
