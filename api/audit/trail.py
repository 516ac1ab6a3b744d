"""The audit's files: lines are appended to one, which is put aside when it is large; the oldest go.

`audit.jsonl` grows; those that were put aside are named after the id of their last entry, so that their names sort as
they were written and tell what is in them. An entry's number is the time in microseconds, or one more than the last, so
that numbers only grow, also over restarts.

A line is one write, without waiting for the disk: what the process has written survives its own crash, and a loss of
power may take the last seconds. While the disk takes nothing - it is full, or read-only - the service goes on: entries
wait in memory, up to a bound, and are written when it works again.
"""

import contextlib
import errno
import os
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from iocpd.api.audit.entries import LINE_BYTES, id_of, make_entry, read_line
from iocpd.api.logs import get_logger

NAME = "audit.jsonl"
WAITING_ENTRIES = 1000
"""So many wait for a disk that takes nothing; the oldest are lost first."""

_ASIDE = re.compile(r"audit-([0-9a-f]{16})\.jsonl")
_RETRY_SECONDS = 1.0

_log = get_logger("iocpd.audit")


@dataclass(slots=True)
class TrailCounts:
    """What became of entries since the start."""

    written: int = 0
    failures: int = 0
    """Attempts to write that the disk refused."""
    lost: int = 0
    """Entries that will never be written."""


class AuditTrail:
    """The audit of one node; any thread may use it. One process at a time has the folder."""

    def __init__(self, folder: Path | None, *, max_bytes: int, files: int) -> None:
        """folder: where the files are; None: nothing is kept. Opens nothing yet."""
        self.folder = folder
        self.counts = TrailCounts()
        self._max_bytes = max_bytes
        self._files = files
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._file: _OpenFile | None = None
        self._last = 0
        self._looked_back = False
        self._trouble = ""
        self._next_try = 0.0

    @property
    def trouble(self) -> str:
        """Why entries can't be written at the moment; empty: they can."""
        return self._trouble

    def configure(self, *, max_bytes: int, files: int) -> None:
        """New bounds, from the next entry on."""
        with self._lock:
            self._max_bytes, self._files = max_bytes, files

    def record(
        self,
        *,
        actor: str,
        action: str,
        target: str,
        outcome: str = "done",
        status: int | None = None,
        detail: str = "",
        request_id: str | None = None,
        client: str | None = None,
    ) -> None:
        """Appends an entry. Never fails: see `trouble` and `counts`."""
        if self.folder is None:
            return
        with self._lock:
            if not self._looked_back:
                self._look_back(self.folder)
            at = datetime.now(UTC)
            self._last = max(self._last + 1, int(at.timestamp() * 1_000_000))
            entry = make_entry(
                at,
                id_of(self._last),
                actor=actor,
                action=action,
                target=target,
                outcome=outcome,
                status=status,
                detail=detail,
                request_id=request_id,
                client=client,
            )
            self._waiting.append(entry.model_dump_json().encode("utf-8", "replace") + b"\n")
            self._write()

    def retry(self) -> None:
        """Writes what waits, if the disk takes it again."""
        with self._lock:
            if self._waiting:
                self._write()

    def close(self) -> None:
        """Writes what waits, and waits for the disk."""
        with self._lock:
            self._next_try = 0.0
            self._write()
            self.counts.lost += len(self._waiting)
            self._waiting.clear()
            if self._file is not None:
                self._file.close(wait=True)
                self._file = None

    def _look_back(self, folder: Path) -> None:
        """Numbers go on after those of earlier runs, even if the clock was set back since."""
        self._looked_back = True
        with contextlib.suppress(OSError):
            for path in [folder / NAME, *files_aside(folder)]:
                if last := _last_number(path):
                    self._last = last
                    return

    def _write(self) -> None:
        if self._trouble and time.monotonic() < self._next_try:
            self._drop()
            return
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
                self.counts.written += 1
        except OSError as error:
            self.counts.failures += 1
            self._next_try = time.monotonic() + _RETRY_SECONDS
            self._drop()
            reason = error.strerror or str(error)
            if reason != self._trouble:
                _log.error("the audit can't be written; the service goes on", reason=reason, folder=str(self.folder))
            self._trouble = reason
        else:
            if self._trouble:
                _log.info("the audit is written again", lost=self.counts.lost)
            self._trouble = ""

    def _drop(self) -> None:
        while len(self._waiting) > WAITING_ENTRIES:
            self._waiting.popleft()
            self.counts.lost += 1

    def _append(self, line: bytes) -> None:
        assert self.folder is not None
        path = self.folder / NAME
        if self._file is not None and not self._file.is_at(path):
            self._file.close()  # somebody has moved or removed it
            self._file = None
        if self._file is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = _OpenFile(path)
        if self._file.size and self._file.size + len(line) > self._max_bytes:
            self._put_aside(path)
        self._file.append(line)

    def _put_aside(self, path: Path) -> None:
        assert self._file is not None
        assert self.folder is not None
        last = _last_number(path) or self._last
        self._file.close()  # Windows renames no open file
        self._file = None
        # Where it can't be renamed, it grows on, and the next entry tries again.
        with contextlib.suppress(OSError):
            os.rename(path, self.folder / f"audit-{id_of(last)}.jsonl")
            for old in files_aside(self.folder)[self._files - 1 :]:
                old.unlink(missing_ok=True)
        self._file = _OpenFile(path)


class _OpenFile:
    """The file that lines are appended to. A line that could not be written as a whole is taken back."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags, 0o600)
        try:
            status = os.fstat(self._descriptor)
            self.size = status.st_size
            self._place = status.st_dev, status.st_ino
            self._torn = False
            if self.size:
                os.lseek(self._descriptor, -1, os.SEEK_END)
                self._torn = os.read(self._descriptor, 1) != b"\n"
        except BaseException:
            os.close(self._descriptor)
            raise

    def is_at(self, path: Path) -> bool:
        """Whether the path still leads to this file."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._place

    def append(self, line: bytes) -> None:
        """All of the line, or OSError and nothing of it."""
        if self._torn:
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        if written < len(line):
            self._torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
                self._torn = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False
        self.size += written

    def close(self, *, wait: bool = False) -> None:
        """Lets go of it; with `wait`, once all of it is on the disk."""
        if wait:
            with contextlib.suppress(OSError):
                os.fsync(self._descriptor)
        os.close(self._descriptor)


def files_aside(folder: Path) -> list[Path]:
    """The files that were put aside, the newest first. OSError."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(filter(_ASIDE.fullmatch, names), reverse=True)]


def last_number_aside(path: Path) -> int:
    """The number of the last entry of a file that was put aside."""
    return int(path.stem.removeprefix("audit-"), 16)


def _last_number(path: Path) -> int | None:
    """The number of a file's last entry; None if it has none, or is not there. OSError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - 4 * LINE_BYTES, 0))
        for line in reversed(file.read(4 * LINE_BYTES).split(b"\n")):
            if found := read_line(line):
                return found[0]
    return None
