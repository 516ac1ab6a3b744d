"""Sending to many connections.

Without a limit and a rate the engine finds and serves all that match in one command. With one of them their ids are
looked up first, and sent to in as few commands as the rate allows.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from iocpd.api.broadcasts.schemas import BroadcastBody
from iocpd.api.context import Context
from iocpd.api.futures import finished
from iocpd.api.jobs.pacing import Pacer
from iocpd.api.jobs.work import JobState, Work
from iocpd.core import Broadcast as Command
from iocpd.core import EngineBusy

# What the engine takes in one command.
_BATCH = 65_536
_ATTEMPTS = 8
_BUSY_SECONDS = 0.02  # before the second attempt; twice as long before each further one

_COUNTS = ("queued", "written", "skipped_slow", "closed_before_write", "expired", "failed")


class Broadcast(Work):
    """Sends to the connections with these ids, or to all that match."""

    def __init__(
        self,
        context: Context,
        body: BroadcastBody,
        *,
        ids: Sequence[int] | None = None,
        exclude: Sequence[int] = (),
        expected: int,
    ) -> None:
        """ids: those that are sent to; None: all that match when it starts, but those in `exclude`. expected: how many
        that will be, as far as can be known before.
        """
        super().__init__(body.rate_per_s)
        self._engine = context.engine
        self._data = body.payload.data
        self._size = len(self._data)
        self._filter = body.for_engine()
        self._on_slow = body.on_slow
        self._ttl = (body.ttl_ms or 0) / 1000
        self._timeout = body.timeout
        self._ids = ids
        self._by_id = ids is not None
        self._exclude = exclude
        self._expected = expected
        self._pacer = Pacer(body.rate_per_s, self.pause) if body.rate_per_s else None
        self._begun = 0  # connections that had their turn, of those with ids
        self._matched = 0  # of commands that are done
        self._counts = dict.fromkeys(_COUNTS, 0)  # of commands that are done, or never were
        self._commands: list[tuple[Command, int]] = []  # the others, each with the number of its ids

    def progress(self) -> tuple[int, int]:
        """How many had their turn, and of how many."""
        if self._by_id:
            return self._begun, self._expected
        counts = self._sum()
        return counts["queued"] + counts["skipped_slow"] + counts["failed"], counts["matched"]

    def summary(self) -> str:
        """The counts in a few words, for the log."""
        report = self.report()
        told = [f"{report[name]} {name}" for name in _COUNTS if report[name] or name == "written"]
        return f"{self._size} bytes to {report['matched']}: {', '.join(told)}"

    def report(self) -> dict[str, Any]:
        """The members of schemas.BroadcastReport. What is still queued goes on being counted after the end."""
        counts = self._sum()
        done = self.ended_at is not None and not self._commands
        return {**self.frame(), "dry_run": False, **counts, "done": done}

    async def _do(self) -> None:
        if self._ids is None:
            await self._send(None, 0)
        else:
            await self._send_by_id(self._ids)
        await self._wait()

    def _let_go(self) -> None:
        self._fold()
        self._data, self._exclude = b"", ()
        self._ids = () if self._by_id else None

    async def _send_by_id(self, ids: Sequence[int]) -> None:
        while self._begun < len(ids):
            count = await self._pacer.take(_BATCH) if self._pacer else _BATCH
            if self.stopped:
                return
            batch = ids[self._begun : self._begun + count]
            try:
                await self._send(batch, len(batch))
            except EngineBusy:
                self._counts["failed"] += len(batch)
            self._begun += len(batch)

    async def _send(self, ids: Sequence[int] | None, size: int) -> None:
        """One command, tried again while the engine has no room for it: EngineBusy after some time."""
        for attempt in range(_ATTEMPTS):
            try:
                command = self._engine.submit_broadcast(
                    self._data,
                    self._filter if ids is None else None,
                    ids=ids,
                    exclude=self._exclude,
                    on_slow=self._on_slow,
                    ttl=self._ttl,
                )
            except EngineBusy:
                if attempt == _ATTEMPTS - 1:
                    raise
                await self.pause(_BUSY_SECONDS * 2**attempt)
            else:
                self._commands.append((command, size))
                return

    async def _wait(self) -> None:
        """Until all commands are done, or the time is up."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._timeout
        for command, _ in list(self._commands):
            if not await finished(command.future, max(until - clock(), 0)):
                break
            command.future.result()

    def _sum(self) -> dict[str, int]:
        """The counts of all commands as they are now."""
        self._fold()
        counts, matched = dict(self._counts), self._matched
        for command, _ in self._commands:
            report = command.report()
            matched += report.matched
            for name in _COUNTS:
                counts[name] += getattr(report, name)
        if self._by_id or self.ended_at is None:
            matched = max(matched, self._expected)
        return {"matched": matched, **counts}

    def _fold(self) -> None:
        """Adds what will not change any more to the counts, and lets go of it."""
        under_way = []
        for command, size in self._commands:
            if not command.future.done():
                under_way.append((command, size))
                continue
            report = command.report()
            self._matched += report.matched
            for name in _COUNTS:
                self._counts[name] += getattr(report, name)
            self._counts["closed_before_write"] += max(size - report.matched, 0)  # had ended before their turn
        self._commands = under_way


def dry_run(context: Context, body: BroadcastBody, ids: Sequence[int]) -> dict[str, Any]:
    """The report of whom it would be sent to, with the members of schemas.BroadcastReport."""
    work = Broadcast(context, body, expected=len(ids))
    work.state, work.ended_at = JobState.DONE, work.started_at
    return work.report() | {"dry_run": True, "matched": len(ids)}
