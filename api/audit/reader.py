"""Reading the audit: the newest entries first, from all files, as far as one page or one request's share of work goes.

A page ends at an entry's number, and the next one begins below it: what is written meanwhile, and files that are put
aside or removed, move nothing.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from pydantic_core import to_json

from iocpd.api.audit.entries import LINE_BYTES, AuditEntry, read_line
from iocpd.api.audit.trail import NAME, files_aside, last_number_aside

SCAN_BYTES = 8 * 1024 * 1024
"""What one page reads at most: with a filter that matches little, pages are short and the next one goes on."""

_BLOCK_BYTES = 64 * 1024
_ATTEMPTS = 10
_PAUSE_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries; all must match, and None matches all."""

    actor: str | None = None
    action: str | None = None
    since: datetime | None = None


@dataclass(slots=True)
class AuditSlice:
    """Entries, the newest first. `next_before`: where to go on; None: there are no more."""

    items: list[AuditEntry] = field(default_factory=list)
    next_before: int | None = None


def read_slice(folder: Path, wanted: AuditFilter, *, before: int | None, limit: int) -> AuditSlice:
    """At most `limit` entries with numbers below `before`. OSError."""
    found = AuditSlice()
    budget = SCAN_BYTES
    earliest = int(wanted.since.timestamp() * 1_000_000) if wanted.since else 0
    # In a line as it is written these stand so; most lines need not be parsed then.
    marks = [
        b'"%s":%s' % (name, to_json(value))
        for name, value in ((b"actor", wanted.actor), (b"action", wanted.action))
        if value is not None
    ]
    for line in _lines(folder, before):
        budget -= len(line) + 1
        spent = budget < 0
        if not spent and not all(mark in line for mark in marks):
            continue
        entry = read_line(line)
        if entry is None:
            continue
        number, shown = entry
        if number < earliest:
            return found
        if not spent and not _matches(shown, wanted):
            continue
        if spent or len(found.items) == limit:
            found.next_before = number + 1
            return found
        found.items.append(shown)
    return found


def _matches(entry: AuditEntry, wanted: AuditFilter) -> bool:
    return (
        (wanted.actor is None or entry.actor == wanted.actor)
        and (wanted.action is None or entry.action == wanted.action)
        and (wanted.since is None or entry.at >= wanted.since)
    )


def _lines(folder: Path, before: int | None) -> Iterator[bytes]:
    """Lines with numbers below `before`, and perhaps some that are no entries; the newest first."""
    with contextlib.ExitStack() as opened:
        # The one that grows is opened before the others are listed: if it is put aside in between, it is both.
        growing = _open(folder / NAME, opened)
        aside = [path for path in files_aside(folder) if growing is None or not _is(path, growing)]
        if growing is not None and (not aside or before is None or last_number_aside(aside[0]) < before):
            yield from _lines_of(growing, before)
        for place, path in enumerate(aside):
            if before is not None and any(last_number_aside(older) >= before for older in aside[place + 1 :][:1]):
                continue  # everything in this file is newer still
            with contextlib.ExitStack() as one:
                if (file := _open(path, one)) is not None:
                    yield from _lines_of(file, before)


def _open(path: Path, stack: contextlib.ExitStack) -> BinaryIO | None:
    for left in reversed(range(_ATTEMPTS)):
        try:
            return stack.enter_context(path.open("rb"))
        except FileNotFoundError:
            return None  # nothing has been written yet, or it was the oldest and has been removed since
        except PermissionError:
            # Windows opens no file while it is being renamed or removed, which is soon over.
            if os.name != "nt" or left == 0:
                raise
            time.sleep(_PAUSE_SECONDS)
    return None


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lines_of(file: BinaryIO, before: int | None) -> Iterator[bytes]:
    end = file.seek(0, os.SEEK_END)
    if before is not None:
        end = _end_before(file, end, before)
    yield from _backwards(file, end)


def _end_before(file: BinaryIO, size: int, before: int) -> int:
    """The place where the first line with a number not below `before` begins."""
    low, high = 0, size  # lines that begin before `low` are below it; those from `high` on are not
    while high - low > _BLOCK_BYTES:
        middle = (low + high) // 2
        found = _first_from(file, middle, high)
        if found is None or found[1] >= before:
            high = middle
        else:
            low = found[0]
    file.seek(low)
    place = low
    for line in file:
        entry = read_line(line)
        if entry is not None and entry[0] >= before:
            return place
        place += len(line)
        if place >= size:
            break
    return place


def _first_from(file: BinaryIO, place: int, end: int) -> tuple[int, int] | None:
    """Where the first entry that begins after `place` and before `end` begins, and its number."""
    file.seek(place)
    place += len(file.readline())  # the rest of the line that `place` is in
    while place < end and (line := file.readline()):
        entry = read_line(line)
        if entry is not None:
            return place, entry[0]
        place += len(line)
    return None


def _backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines before `end`, the last one first. What is too long for a line is left out."""
    rest = b""
    too_long = False
    while end > 0:
        begin = max(end - _BLOCK_BYTES, 0)
        file.seek(begin)
        first, *lines = (file.read(end - begin) + rest).split(b"\n")
        for line in reversed(lines):
            if line and not too_long:
                yield line
            too_long = False
        rest = first if len(first) <= LINE_BYTES else b""
        too_long = too_long or len(first) > LINE_BYTES
        end = begin
    if rest and not too_long:
        yield rest
