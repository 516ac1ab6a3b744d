"""Exit statuses, and what an error says on stderr."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING

from iocpd.api.cli.safe import safe

if TYPE_CHECKING:
    from iocpd.api.client import ClientError


class Status(IntEnum):
    """How the command ended; each has one meaning for every verb."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    PARTIAL = 4
    REFUSED = 5
    UNREACHABLE = 6
    TIMED_OUT = 7
    INTERRUPTED = 130


MEANINGS = {
    Status.DONE: "done",
    Status.FAILED: "failed, or answered no at a question",
    Status.USAGE: "wrong usage: an option, a value, or a question that nobody can answer",
    Status.NOT_FOUND: "not found: it never was, or has ended",
    Status.PARTIAL: "partial: some were reached, some were not",
    Status.REFUSED: "refused by the service or the system: key, scope, rights, conflict, size or rate",
    Status.UNREACHABLE: "unreachable: no service there, or it went away",
    Status.TIMED_OUT: "timed out: whether it was done is not known, or it is still going on",
    Status.INTERRUPTED: "interrupted with Ctrl-C",
}


class Stop(Exception):
    """Ends the command with a line on stderr."""

    def __init__(self, line: str, status: Status = Status.FAILED) -> None:
        super().__init__(line)
        self.status = status


def status_of(error: ClientError) -> Status:
    """The exit status for what the client raised."""
    from iocpd.api.client import Invalid, ProblemError, SetupError, TimedOut, Unreachable

    if isinstance(error, (SetupError, Invalid)):
        return Status.USAGE
    if isinstance(error, Unreachable):
        return Status.UNREACHABLE
    if isinstance(error, TimedOut):
        return Status.TIMED_OUT
    if isinstance(error, ProblemError):
        if error.status in (404, 410):
            return Status.NOT_FOUND
        if error.status == 504:
            return Status.TIMED_OUT
        if error.status < 500:
            return Status.REFUSED
    return Status.FAILED


def explain(error: ClientError) -> list[str]:
    """What the client raised, as lines for a person."""
    from iocpd.api.client import ProblemError, Unauthorized, Unreachable

    lines = [str(error)]
    if isinstance(error, ProblemError):
        lines += [f"{each.field}: {each.detail}" for each in error.errors if each.detail not in lines[0]]
        if isinstance(error, Unauthorized):
            lines.append("a key comes from --key-file, --ask-key, IOCPD_KEY, IOCPD_KEY_FILE or a context's own")
        if error.status >= 500 and error.request_id:
            lines.append(f"request {error.request_id}, as in the service's log")
    elif isinstance(error, Unreachable) and not error.sent:
        lines.append("does `iocpd serve` run there? --url, IOCPD_URL or `iocpd context use NAME` say where to look")
    return lines


def complain(line: str) -> None:
    """A line on stderr."""
    print(f"iocpd: {safe(line)}", file=sys.stderr)
