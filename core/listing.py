"""Pages of connections: as Python objects, as JSON from C, and sorted. Engine's methods of these names lead here."""

from __future__ import annotations

import enum
import re
from typing import Any

from . import _rows
from ._native import ffi, lib
from ._run import Run
from .errors import ConfigurationError
from .model import Cursor, Filter, Page

_TOKEN_SLOT_BITS, _TOKEN_WORKER_BITS = 20, 6
_PAGE_MAX = 65536
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

    def page_json(self, position: int = 0, *, limit: int = 100, prefix: str = "") -> tuple[bytes, int | None]:
        """Rows from `position` on, as `Engine.connections_json` gives them, and the next page's position.

        None as the next position is exact: nobody who is still there comes behind this page.

        Raises:
            ConfigurationError: For a position, a limit or a prefix that can't be.
        """
        if not 0 <= position <= self._count:
            raise ConfigurationError("position", position, f"must be from 0 to {self._count}")
        out, size = json_space(limit, prefix)
        place = ffi.new("uint32_t *", position)
        lib.iocpd_sorted_json(self._run.native, self._sorted, self._count, place, limit, prefix.encode(), out, size)
        return bytes(ffi.buffer(out, size[0])), place[0] if place[0] < self._count else None


def page(run: Run, filter: Filter | None, limit: int, cursor: Cursor | None) -> Page:
    """See Engine.connections."""
    place = _place(limit, cursor)
    rows = ffi.new("iocpd_connection[]", limit + 1)  # one more tells whether the page is the last
    count = lib.iocpd_list(run.native, _rows.filter_struct(filter), place, rows, limit + 1)
    following = _before(rows[limit], place) if count > limit else None
    return Page(_rows.connections(rows, min(count, limit), run.services), following, place.last_serial)


def page_json(
    run: Run, filter: Filter | None, limit: int, cursor: Cursor | None, prefix: str
) -> tuple[bytes, Cursor | None]:
    """See Engine.connections_json."""
    where, place = _rows.filter_struct(filter), _place(limit, cursor)
    out, size = json_space(limit, prefix)
    lib.iocpd_list_json(run.native, where, place, limit, prefix.encode(), out, size)
    beyond = ffi.new("iocpd_connection *")
    more = lib.iocpd_list(run.native, where, place, beyond, 1) == 1
    return bytes(ffi.buffer(out, size[0])), _before(beyond, place) if more else None


def json_space(limit: int, prefix: str) -> tuple[Any, Any]:
    """Room for that many rows, and for how many bytes were written."""
    if not re.fullmatch(rf"[A-Za-z0-9-]{{0,{lib.IOCPD_PREFIX_BYTES}}}", prefix):
        raise ConfigurationError("prefix", prefix, f"must be at most {lib.IOCPD_PREFIX_BYTES} letters, digits, dashes")
    check_limit(limit)
    return _new_uncleared("char[]", limit * lib.IOCPD_ROW_JSON_BYTES), ffi.new("uint32_t *")


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
