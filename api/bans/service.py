"""The bans of the service: in memory, in the file and in the engine, the same in all three.

Changes are made by one writer, in groups: what came while the last group was being written makes the next, so that many
changes at once cost few writes. A group is first written to the file, then applied to the engine, and only then in
memory and answered. If the file can't be written, nothing has changed anywhere; if the engine refuses, it and the file
get back what they had.

A ban ends at a time of the system's clock. The engine counts seconds by one that nobody sets, and is told anew how many
are left when the system's has been set, or has gone on while the machine slept.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from iocpd.api import problems
from iocpd.api.bans.file import BanFileError, read_bans, write_bans
from iocpd.api.bans.model import Ban, Network, canonical, new_id, now, row_of, text_of
from iocpd.api.bans.table import BanTable
from iocpd.api.futures import finished
from iocpd.api.logs import get_logger
from iocpd.api.problems import Problem
from iocpd.core import Command, Cursor, Engine, EngineBusy, EngineError, EngineTimeout, Filter, KickOutcome, Reason

T = TypeVar("T")

# What the engine takes in one call.
_BATCH = 1024
# So many at a time are worked on before the event loop gets its turn: a few milliseconds.
_SLICE = 250
# Each time that the table takes some it sorts their ends.
_PUT = 4096

_BUSY_PAUSE = 0.02
_BUSY_SECONDS = 5.0
_COMMAND_SECONDS = 30.0
# A kick gives a client so long to take what is queued for it, and the engine then resets it.
_KICK_SECONDS = 5.0
_KICK_MARGIN_SECONDS = 5.0
_ALL = 1 << 20  # more than the engine ever has, also where max_connections was lowered under those who stay

# So often the clock is looked at, and by so much it may be off.
_CLOCK_SECONDS = 1.0
_CLOCK_SLACK_SECONDS = 0.5

_log = get_logger("iocpd.bans")


class Bans:
    """For the event loop's thread alone, but for `count`. Needs a running engine."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._table = BanTable()
        self._serials = itertools.count(1)
        self._loading = asyncio.Lock()
        self._loaded = False
        self._waiting: list[tuple[Callable[[_Stage], Awaitable[Any]], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None
        # The engine lets them in by itself, but has room for others only once it is told that they are gone.
        self._over: list[Network] = []

    # --- changing -----------------------------------------------------------------------------------------------------

    async def add(self, network: Network, ttl: float | None, reason: str, by: str) -> Ban:
        """Bans a network for `ttl` seconds, or for ever; when it returns, that is on disk and in force.

        Who is there stays there: see `kick`. Problem: ban_exists, bans_full, bans_not_saved; the engine's errors.
        """

        async def change(stage: _Stage) -> Ban:
            ban = self._make(canonical(network), ttl, reason, by)
            if (former := stage.of_network(ban.network)) is not None:
                raise _exists(former)
            stage.check_room(1)
            stage.add(ban)
            return ban

        return await self._change(change)

    async def add_many(self, networks: Iterable[Network], ttl: float | None, reason: str, by: str) -> list[Ban]:
        """Bans all of them with one write of the file; the bans now in force, one for each different network.

        Where there is a ban already it stays, and its time is made longer if it would end before the new one. All of
        them are made, or none. Who is there stays there. Problem: bans_full, bans_not_saved; the engine's errors.
        """
        wanted = list(dict.fromkeys(map(canonical, networks)))

        async def change(stage: _Stage) -> list[Ban]:
            bans, new = [], 0
            for slice in _slices(wanted, _SLICE):
                for network in slice:
                    ban, former = self._make(network, ttl, reason, by), stage.of_network(network)
                    new += former is None
                    bans.append(ban if former is None else _longer(former, ban))
                await asyncio.sleep(0)
            stage.check_room(new)
            for made in _slices(bans, _SLICE):
                for ban in made:
                    stage.add(ban)
                await asyncio.sleep(0)
            return bans

        return await self._change(change) if wanted else []

    async def remove(self, id: str) -> Ban:
        """Lifts a ban; when it returns, that is on disk and in force. Problem: ban_unknown, bans_not_saved."""

        async def change(stage: _Stage) -> Ban:
            if (ban := stage.find(id)) is None:
                raise _unknown(id)
            stage.remove(ban)
            return ban

        return await self._change(change)

    async def follow_clock(self) -> None:
        """Keeps the ends in the engine where the system's clock has them, until it is cancelled."""
        known = _clock_ahead()
        while True:
            await asyncio.sleep(_CLOCK_SECONDS)
            ahead = _clock_ahead()
            if abs(ahead - known) > _CLOCK_SLACK_SECONDS:
                try:
                    await self._change(self._renew_ends)
                except (EngineError, Problem) as error:  # the next look finds the same
                    _log.warning("the clock was set, and the bans still end by the former one", error=str(error))
                else:
                    _log.info("the clock was set, and the bans end by it", seconds=round(ahead - known, 3))
                    known = ahead

    async def _renew_ends(self, stage: "_Stage") -> None:
        await self._apply([ban for ban in self._table if ban.expires_at is not None], self._over)
        self._over.clear()

    async def kick(self, ban: Ban, farewell: bytes = b"") -> int:
        """Ends the connections that the ban would not have let in; how many have left the table within 10 s.

        What is left then is on its way out, and is reset by the engine.
        """
        # What was accepted before the ban was in force is in the table afterwards.
        await self._command(self._engine.submit_barrier)
        return await self._kick(self._engine.matching(Filter(ip=ban.network), limit=_ALL), ban.reason, farewell)

    # --- reading ------------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """How many are in force. May be called from any thread."""
        return self._table.count(now())

    def find(self, id: str) -> Ban:
        """The ban with this id; Problem ban_unknown."""
        ban = self._table.find(id)
        if ban is None or ban.expired(now()):
            raise _unknown(id)
        return ban

    def newest(self, limit: int, before: int | None) -> list[Ban]:
        """At most so many, the newest first; `before`: only those with a serial below it."""
        return self._table.newest(limit, before, now())

    def containing(self, network: Network) -> list[Ban]:
        """Those that hold all of this network, the largest first."""
        return self._table.containing(canonical(network), now())

    # --- the start ----------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Reads the file and applies it to the engine; does so once, however often it is called.

        BanFileError; the engine's errors.
        """
        if self._loaded:
            return
        async with self._loading:
            if not self._loaded:
                await self._load()
                self._loaded = True

    async def _load(self) -> None:
        found = await asyncio.to_thread(read_bans, self._path)
        self._serials = itertools.count(len(found) + 1)
        moment = now()
        bans = [ban for ban in found if not ban.expired(moment)]
        if len(bans) > self._engine.config.max_bans:
            raise BanFileError(
                f"{self._path} has {len(bans)} bans, and max_bans is {self._engine.config.max_bans}: raise max_bans"
            )
        for slice in _slices(bans, _PUT):
            self._table.put(slice)
            await asyncio.sleep(0)
        if bans:
            await self._apply(bans, [])
            await self._kick_unwanted()
            _log.info("bans are in force", count=len(bans), path=str(self._path))

    async def _kick_unwanted(self) -> None:
        """Ends who came between the opening of the listeners and the moment at which the bans were in force."""
        await self._command(self._engine.submit_barrier)
        cursor: Cursor | None = None
        unwanted: dict[str, list[int]] = {}
        while True:
            page = self._engine.connections(limit=_SLICE, cursor=cursor)
            for connection in page.items:
                for ban in self.containing(_network_of(connection.peer[0]))[:1]:
                    unwanted.setdefault(ban.reason, []).append(connection.id)
            if (cursor := page.next) is None:
                break
            await asyncio.sleep(0)
        for reason, ids in unwanted.items():
            await self._kick(ids, reason, b"")

    # --- the writer ---------------------------------------------------------------------------------------------------

    def _make(self, network: Network, ttl: float | None, reason: str, by: str) -> Ban:
        created = now()
        expires = None if ttl is None else created + timedelta(seconds=ttl)
        return Ban(new_id(), network, reason, created, expires, by, next(self._serials))

    async def _change(self, change: Callable[["_Stage"], Awaitable[T]]) -> T:
        """Hands a change to the writer, and gives what came of it."""
        await self.load()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            results: list[tuple[asyncio.Future[Any], Any]] = []
            try:
                while over := self._table.drop_expired(now(), _SLICE):
                    self._over += [ban.network for ban in over]
                    await asyncio.sleep(0)
                stage = _Stage(self._table, self._engine.config.max_bans)
                for change, future in group:
                    try:
                        results.append((future, await change(stage)))
                    except Problem as problem:
                        _settle(future, problem)
                await self._commit(stage)
            except Exception as error:  # each of them is waiting for an answer
                for _, future in group:
                    _settle(future, error)
            for future, result in results:
                _settle(future, result)

    async def _commit(self, stage: "_Stage") -> None:
        added, removed = list(stage.added.values()), list(stage.removed.values())
        if not added and not removed:
            return
        await self._save(stage.everything)
        try:
            await self._apply(added, [*self._over, *(ban.network for ban in removed)])
        except BaseException:
            await self._undo(stage)
            raise
        self._over.clear()
        for ban in removed:
            # Not what the stage has of it, which the same group may have made longer.
            if (former := self._table.of_network(ban.network)) is not None:
                self._table.remove(former)
        for slice in _slices(added, _PUT):
            self._table.put(slice)
            await asyncio.sleep(0)
        for ban in removed:
            self._engine.note_ban(ban.network, ban.reason, lifted=True)
        for slice in _slices(added, _SLICE):
            for ban in slice:
                self._engine.note_ban(ban.network, ban.reason)
            await asyncio.sleep(0)

    async def _save(self, bans: Callable[[], Iterable[Ban]]) -> None:
        # The table changes nowhere but in the writer, which waits here, so the thread may walk through it.
        try:
            await asyncio.to_thread(lambda: write_bans(self._path, bans()))
        except OSError as error:
            _log.error("bans not saved", path=str(self._path), error=error.strerror)
            detail = f"cannot write {self._path}: {error.strerror}; no ban has changed"
            raise Problem(problems.BANS_NOT_SAVED, detail) from error

    async def _undo(self, stage: "_Stage") -> None:
        """The engine has refused: it and the file get back what the table has."""
        former = [ban for network in stage.added if (ban := self._table.of_network(network)) is not None]
        again = [*former, *stage.removed.values()]
        kept = {ban.network for ban in again}
        with contextlib.suppress(Exception):  # the file must be as it was whatever the engine says
            await self._apply(again, [network for network in stage.added if network not in kept])
        with contextlib.suppress(Problem):
            await self._save(lambda: self._table)

    async def _apply(self, add: Sequence[Ban], remove: Sequence[Network]) -> None:
        moment = now()
        for networks in _slices(remove, _BATCH):
            await self._command(partial(self._engine.submit_bans, remove=networks))
        for bans in _slices(add, _BATCH):
            rows = [(ban.network, ban.seconds_left(moment)) for ban in bans]
            await self._command(partial(self._engine.submit_bans, add=rows))
            await asyncio.sleep(0)

    # --- the engine's commands ----------------------------------------------------------------------------------------

    async def _command(self, submit: Callable[[], "Command[T]"]) -> T:
        """The result of a command, which is given to the engine again while that is busy. Its errors; Problem."""
        clock = asyncio.get_running_loop().time
        until = clock() + _BUSY_SECONDS
        while True:
            try:
                command = submit()
                break
            except EngineBusy:
                if clock() > until:
                    raise
                await asyncio.sleep(_BUSY_PAUSE)
        if not await finished(command.future, _COMMAND_SECONDS):
            raise EngineTimeout("a change of the bans", _COMMAND_SECONDS)
        return command.future.result()

    async def _kick(self, ids: Sequence[int], text: str, farewell: bytes) -> int:
        """Kicks them all at once, and again those that found the engine busy."""
        clock = asyncio.get_running_loop().time
        until = clock() + _KICK_SECONDS + _KICK_MARGIN_SECONDS
        kicked = 0

        async def kick(batch: list[int]) -> None:
            nonlocal kicked
            while batch and clock() < until:
                try:
                    command = self._engine.submit_kicks(
                        batch, text=text, farewell=farewell, timeout=_KICK_SECONDS, reason=Reason.BANNED
                    )
                except EngineBusy:
                    await asyncio.sleep(_BUSY_PAUSE)
                    continue
                if not await finished(command.future, max(until - clock(), 0)):
                    return
                outcomes = command.future.result()
                kicked += outcomes.count(KickOutcome.KICKED)
                batch = [id for id, outcome in zip(batch, outcomes, strict=True) if outcome is KickOutcome.BUSY]
                if batch:
                    await asyncio.sleep(_BUSY_PAUSE)

        await asyncio.gather(*(kick(list(batch)) for batch in _slices(ids, _BATCH)))
        return kicked


class _Stage:
    """What a group of changes will make of the table."""

    def __init__(self, table: BanTable, room: int) -> None:
        self.added: dict[Network, Ban] = {}
        self.removed: dict[Network, Ban] = {}
        self._table = table
        self._room = room - table.count(now())

    def of_network(self, network: Network) -> Ban | None:
        """The ban of exactly this network."""
        if (ban := self.added.get(network)) is not None:
            return ban
        return None if network in self.removed else self._table.of_network(network)

    def find(self, id: str) -> Ban | None:
        """The ban with this id."""
        found = self._table.find(id)
        return None if found is None or found.network in self.removed else self.of_network(found.network)

    def check_room(self, count: int) -> None:
        """Problem if so many more are too many."""
        if count > self._room:
            raise Problem(problems.BANS_FULL)

    def add(self, ban: Ban) -> None:
        """Adds one, or puts it in the place of the one of its network."""
        self._room -= self.of_network(ban.network) is None
        self.added[ban.network] = ban

    def remove(self, ban: Ban) -> None:
        """Takes one out."""
        self._room += 1
        self.added.pop(ban.network, None)
        self.removed[ban.network] = ban

    def everything(self) -> Iterator[Ban]:
        """All bans once this is done."""
        for ban in self._table:
            if ban.network not in self.removed and ban.network not in self.added:
                yield ban
        yield from self.added.values()


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    """Answers who asked for a change, if somebody still waits and has no answer yet."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _longer(former: Ban, ban: Ban) -> Ban:
    """The former ban, with the later one of both ends."""
    if former.expires_at is None or (ban.expires_at is not None and ban.expires_at <= former.expires_at):
        return former
    return dataclasses.replace(former, expires_at=ban.expires_at)


def _exists(former: Ban) -> Problem:
    detail = f"{text_of(former.network)} is banned already, as {former.id}; DELETE that first to change it"
    return Problem(problems.BAN_EXISTS, detail, extra={"ban": row_of(former)})


def _unknown(id: str) -> Problem:
    return Problem(problems.BAN_UNKNOWN, f"there is no ban {id!r:.80}, or it is over; GET /v1/bans lists them")


def _network_of(address: str) -> Network:
    return ipaddress.ip_network(address)


def _clock_ahead() -> float:
    return now().timestamp() - time.monotonic()


def _slices(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), length):
        yield items[start : start + length]
