"""Kicking many connections.

They are given to the engine in batches, each after the workers have worked off the batch before, so that other
commands find room in the workers' inboxes. A batch isn't waited for: a client that does not close its side takes its
whole timeout, and nobody waits for another's.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from iocpd.api.context import Context
from iocpd.api.engine_errors import to_problem
from iocpd.api.futures import finished
from iocpd.api.jobs.pacing import Pacer
from iocpd.api.jobs.targets import settle_inboxes
from iocpd.api.jobs.work import JobState, Work
from iocpd.api.kicks.schemas import OUTCOMES, KickOrder
from iocpd.api.problems import Problem
from iocpd.core import ConnectionEnded, EngineBusy, EngineError, EngineStopped, KickOutcome, Reason

BATCH = 256
"""Connections in one command to the engine."""
UNDER_WAY = 16_384
"""Connections that are told to go and have not left, at most."""

# So many are banned with one write of the file of bans, or as many as one second kicks.
_BAN_CHUNK = 8192
_ATTEMPTS = 8
_BUSY_SECONDS = 0.02  # before the second attempt; twice as long before each further one
# The engine resets what has not left within the timeout; this is for the reset to be noticed.
_MARGIN_SECONDS = 5.0


class Kicks(Work):
    """Ends the connections with these ids, which GET /v1/connections would have shown at its start.

    Attributes:
        ban_problem: Why addresses could not be banned; their connections were left alone, and count as failed.
    """

    def __init__(self, context: Context, order: KickOrder, ids: Sequence[int], *, by: str) -> None:
        super().__init__(order.rate_per_s)
        self.ban_problem: Problem | None = None
        self._context = context
        self._order = order.model_copy(update={"farewell": None, "exclude": []})
        self._farewell = order.farewell.data if order.farewell else b""
        self._ids = ids
        self._matched = len(ids)
        self._by = by
        self._pacer = Pacer(order.rate_per_s, self.pause) if order.rate_per_s else None
        self._counts = dict.fromkeys((KickOutcome.KICKED, KickOutcome.ALREADY_GONE, KickOutcome.FAILED), 0)
        self._peers: dict[int, tuple[str, int] | None] = {}  # of those that the report lists
        self._outcomes: list[dict[str, Any]] = []
        self._banned: set[str] = set()
        self._banned_count = 0
        self._busy: list[int] = []
        self._under_way = 0
        self._fewer = asyncio.Event()

    def done_to_any(self) -> bool:
        """Whether somebody was kicked, or had left before."""
        return bool(self._counts[KickOutcome.KICKED] or self._counts[KickOutcome.ALREADY_GONE])

    def progress(self) -> tuple[int, int]:
        """How many are settled, and of how many."""
        return sum(self._counts.values()), self._matched

    def summary(self) -> str:
        """The counts in a few words, for the log."""
        settled, matched = self.progress()
        told = [f"{count} {outcome}" for outcome, count in self._counts.items()]
        if settled < matched:
            told.append(f"{matched - settled} left")
        if self._banned_count:
            told.append(f"{self._banned_count} banned")
        if self.ban_problem is not None:
            told.append(f"bans failed: {self.ban_problem.detail}")
        return f"{matched} matched: {', '.join(told)}, reason {self._order.reason!r}"

    def report(self) -> dict[str, Any]:
        """The members of schemas.KickReport."""
        settled, matched = self.progress()
        return {
            **self.frame(),
            "dry_run": False,
            "matched": matched,
            **{outcome.value: count for outcome, count in self._counts.items()},
            "waiting": matched - settled,
            "banned": self._banned_count,
            "outcomes": self._outcomes,
            "outcomes_omitted": settled - len(self._outcomes),
        }

    async def _do(self) -> None:
        left = self._ids
        self._peers = {id: peer_of(self._context, id) for id in left[:OUTCOMES]}
        for attempt in range(_ATTEMPTS):
            self._busy = []
            async with asyncio.TaskGroup() as group:
                try:
                    await self._kick_all(left, group, ban=not attempt and self._order.ban_ttl is not None)
                except EngineStopped:  # what is under way is still counted
                    self.cancel()
            left = self._busy
            if not left or self.stopped:
                return
            await self.pause(_BUSY_SECONDS * 2**attempt)
        self._note(left, [KickOutcome.FAILED] * len(left))

    def _let_go(self) -> None:
        self._ids, self._farewell, self._peers, self._banned = (), b"", {}, set()

    async def _kick_all(self, ids: Sequence[int], group: asyncio.TaskGroup, *, ban: bool) -> None:
        size = min(self.rate_per_s or _BAN_CHUNK, _BAN_CHUNK) if ban else max(len(ids), 1)
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            if self.stopped:
                return
            if not ban or await self._ban(chunk):
                await self._kick(chunk, group)
            else:
                self._note(chunk, [KickOutcome.FAILED] * len(chunk))

    async def _kick(self, ids: Sequence[int], group: asyncio.TaskGroup) -> None:
        order, at = self._order, 0
        while at < len(ids):
            count = await self._pacer.take(BATCH) if self._pacer else BATCH
            batch = ids[at : at + count]
            at += len(batch)
            await self._room(len(batch))
            if self.stopped:
                return
            try:
                command = self._context.engine.submit_kicks(
                    batch, text=order.reason, farewell=self._farewell, force=order.force, timeout=order.timeout
                )
            except EngineBusy:
                self._busy += batch
                await self.pause(_BUSY_SECONDS)
                continue
            self._under_way += len(batch)
            group.create_task(self._watch(batch, command.future))
            # When a worker hangs or has no room even for this, the next batch finds out what can be done.
            with contextlib.suppress(EngineBusy, Problem):
                await settle_inboxes(self._context)

    async def _room(self, count: int) -> None:
        while self._under_way + count > UNDER_WAY:
            self._fewer.clear()
            await self._fewer.wait()

    async def _watch(self, ids: Sequence[int], future: Future[list[KickOutcome]]) -> None:
        """Waits until all have left, and counts them."""
        try:
            if await finished(future, self._order.timeout + _MARGIN_SECONDS):
                self._note(ids, future.result())
            else:
                self._note(ids, [self._from_record(id) or KickOutcome.FAILED for id in ids])
        except EngineStopped:
            self.cancel()
            self._note(ids, [self._from_record(id) for id in ids])
        finally:
            self._under_way -= len(ids)
            self._fewer.set()

    def _note(self, ids: Sequence[int], outcomes: Sequence[KickOutcome | None]) -> None:
        """None: it is not settled."""
        for id, outcome in zip(ids, outcomes, strict=True):
            if outcome is KickOutcome.BUSY:
                self._busy.append(id)
            elif outcome is not None:
                self._counts[outcome] += 1
                if id in self._peers:
                    self._outcomes.append(outcome_row(self._context, id, self._peers[id], outcome))

    def _from_record(self, id: int) -> KickOutcome | None:
        """What became of a connection as its record tells; None: it is still there."""
        try:
            self._context.engine.connection(id)
        except ConnectionEnded as error:
            kicked = error.closed is not None and error.closed.reason is Reason.KICKED
            return KickOutcome.KICKED if kicked else KickOutcome.ALREADY_GONE
        return None

    async def _ban(self, ids: Sequence[int]) -> bool:
        """Bans the addresses of these; when it returns true, that is in force."""
        wanted: dict[str, None] = {}
        for start in range(0, len(ids), BATCH):
            peers = (peer_of(self._context, id) for id in ids[start : start + BATCH])
            wanted |= dict.fromkeys(peer[0] for peer in peers if peer and peer[0] not in self._banned)
            await asyncio.sleep(0)  # other requests have their turn
        networks = [ipaddress.ip_network(ip) for ip in wanted]
        try:
            await self._context.bans.add_many(networks, self._order.ban_ttl, self._order.reason, self._by)
        except EngineStopped:
            raise
        except (Problem, EngineError) as error:
            self.ban_problem = error if isinstance(error, Problem) else to_problem(self._context, error)
            return False
        self._banned |= wanted.keys()
        self._banned_count += len(wanted)
        return True


def dry_run(context: Context, order: KickOrder, ids: Sequence[int]) -> dict[str, Any]:
    """The report of what would be kicked, with the members of schemas.KickReport."""
    work = Kicks(context, order, (), by="")
    work.state, work.ended_at = JobState.DONE, work.started_at
    outcomes = [outcome_row(context, id, peer_of(context, id), "would_kick") for id in ids[:OUTCOMES]]
    return work.report() | {
        "dry_run": True,
        "matched": len(ids),
        "outcomes": outcomes,
        "outcomes_omitted": len(ids) - len(outcomes),
    }


def outcome_row(context: Context, id: int, peer: tuple[str, int] | None, outcome: str) -> dict[str, Any]:
    """The members of schemas.KickOutcomeView."""
    return {
        "id": context.instance.encode(id),
        "peer": {"ip": peer[0], "port": peer[1]} if peer else None,
        "outcome": outcome,
    }


def peer_of(context: Context, id: int) -> tuple[str, int] | None:
    """A connection's address, also of one that has ended; None once its record is gone."""
    try:
        return context.engine.connection(id).peer
    except ConnectionEnded as error:
        return error.closed.connection.peer if error.closed else None
