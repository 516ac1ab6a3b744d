"""Kicking many, over an engine that only pretends: what the real one does seldom or never when it is asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from iocpd.api import problems
from iocpd.api.identity import Instance
from iocpd.api.kicks import work as module
from iocpd.api.kicks.schemas import OUTCOMES, KickOrder, KickReport
from iocpd.api.kicks.work import BATCH, Kicks, dry_run
from iocpd.api.problems import Problem
from iocpd.core import ConnectionEnded, EngineBusy, EngineStopped, KickOutcome, Reason

Outcomes = Sequence[KickOutcome]


class PretendEngine:
    """Connections 1, 2, 3, ...; a kick does what `kick` says: outcomes, an error to raise, or a future."""

    def __init__(self) -> None:
        self.kick: Callable[[Sequence[int]], Outcomes | Exception | Future[Any]] = self.obey
        self.calls: list[list[int]] = []
        self.options: dict[str, Any] = {}
        self.barriers = 0
        self.barrier_error: Exception | None = None
        self.ended: dict[int, Reason | None] = {}

    def obey(self, ids: Sequence[int]) -> Outcomes:
        return [KickOutcome.KICKED] * len(ids)

    def submit_kicks(self, ids: Sequence[int], **options: Any) -> Any:
        self.calls.append(list(ids))
        self.options = options
        result = self.kick(ids)
        if isinstance(result, Exception):
            raise result
        return SimpleNamespace(future=result if isinstance(result, Future) else done(result))

    def submit_barrier(self) -> Any:
        self.barriers += 1
        if self.barrier_error is not None:
            raise self.barrier_error
        return SimpleNamespace(future=done(None))

    def connection(self, id: int) -> Any:
        peer = f"192.0.2.{id % 250}", 40_000 + id % 20_000
        if id not in self.ended:
            return SimpleNamespace(peer=peer)
        reason = self.ended[id]
        closed: Any = SimpleNamespace(connection=SimpleNamespace(peer=peer), reason=reason) if reason else None
        raise ConnectionEnded(id, closed)


class PretendBans:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls: list[tuple[list[str], float | None, str, str]] = []

    async def add_many(self, networks: Any, ttl: float | None, reason: str, by: str) -> list[Any]:
        if self.error is not None:
            raise self.error
        self.calls.append(([str(network.network_address) for network in networks], ttl, reason, by))
        return []


class Setting:
    def __init__(self) -> None:
        self.engine = PretendEngine()
        self.bans = PretendBans()
        self.context: Any = SimpleNamespace(engine=self.engine, bans=self.bans, instance=Instance())

    def kicks(self, ids: Sequence[int], **order: Any) -> Kicks:
        return Kicks(self.context, KickOrder(all=True, **order), ids, by="alice")

    async def run(self, ids: Sequence[int], **order: Any) -> tuple[Kicks, dict[str, Any]]:
        work = self.kicks(ids, **order)
        await work.run()
        return work, checked(work)


def checked(work: Kicks) -> dict[str, Any]:
    """The report, which holds what it promises."""
    report = work.report()
    KickReport.model_validate(report)
    settled = report["kicked"] + report["already_gone"] + report["failed"]
    assert report["matched"] == settled + report["waiting"]
    assert len(report["outcomes"]) + report["outcomes_omitted"] == settled
    assert len({row["id"] for row in report["outcomes"]}) == len(report["outcomes"])
    return report


def done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.0001)
    return Setting()


def test_every_one_is_kicked_in_batches_with_a_barrier_after_each(setting: Setting) -> None:
    async def run() -> None:
        _, report = await setting.run(range(1000), reason="why", farewell={"text": "bye"}, timeout="7s")
        assert [len(call) for call in setting.engine.calls] == [256, 256, 256, 232]
        assert setting.engine.barriers == 4
        assert setting.engine.options == {"text": "why", "farewell": b"bye", "force": False, "timeout": 7.0}
        assert (report["state"], report["kicked"], report["waiting"]) == ("done", 1000, 0)
        assert report["ended_at"] is not None

    asyncio.run(run())


def test_nobody_to_kick_is_done_at_once(setting: Setting) -> None:
    async def run() -> None:
        _, report = await setting.run([], ban_ttl="1h")
        assert (report["state"], report["matched"], setting.engine.calls) == ("done", 0, [])

    asyncio.run(run())


def test_each_outcome_is_counted_and_listed_with_its_peer(setting: Setting) -> None:
    setting.engine.kick = lambda ids: [list(KickOutcome)[id % 3] for id in ids]
    setting.engine.ended = {1: Reason.CLIENT_CLOSED, 4: None}
    kinds = list(KickOutcome)[:3]

    async def run() -> None:
        _, report = await setting.run(range(6))
        assert {str(kind): report[kind] for kind in kinds} == {str(kind): 2 for kind in kinds}
        encode = setting.context.instance.encode
        assert report["outcomes"] == [
            {
                "id": encode(id),
                "peer": None if id == 4 else {"ip": f"192.0.2.{id}", "port": 40_000 + id},
                "outcome": kinds[id % 3],
            }
            for id in range(6)
        ]

    asyncio.run(run())


def test_the_first_thousand_outcomes_are_listed_and_the_others_counted(setting: Setting) -> None:
    async def run() -> None:
        _, report = await setting.run(range(2500))
        assert len(report["outcomes"]) == OUTCOMES
        assert {row["id"] for row in report["outcomes"]} == {
            setting.context.instance.encode(id) for id in range(OUTCOMES)
        }
        assert report["outcomes_omitted"] == 1500

    asyncio.run(run())


def test_those_for_whom_the_engine_was_busy_are_tried_again(setting: Setting) -> None:
    tried: dict[int, int] = {}

    def busy_twice(ids: Sequence[int]) -> Outcomes:
        for id in ids:
            tried[id] = tried.get(id, 0) + 1
        return [KickOutcome.BUSY if id % 2 and tried[id] < 3 else KickOutcome.KICKED for id in ids]

    setting.engine.kick = busy_twice

    async def run() -> None:
        _, report = await setting.run(range(600))
        assert (report["kicked"], report["failed"]) == (600, 0)
        assert all(count == (3 if id % 2 else 1) for id, count in tried.items())

    asyncio.run(run())


def test_an_engine_that_takes_no_command_at_all_is_tried_again_and_then_given_up(setting: Setting) -> None:
    answers: list[Any] = [EngineBusy(), EngineBusy()]
    setting.engine.kick = lambda ids: answers.pop() if answers else setting.engine.obey(ids)
    setting.engine.barrier_error = EngineBusy()

    async def run() -> None:
        _, report = await setting.run(range(10))
        assert report["kicked"] == 10
        setting.engine.kick = lambda ids: EngineBusy()
        _, report = await setting.run(range(10))
        assert (report["failed"], report["waiting"], report["state"]) == (10, 0, "done")

    asyncio.run(run())


def test_a_batch_is_not_held_up_by_a_client_of_another(setting: Setting) -> None:
    slow: Future[Any] = Future()
    setting.engine.kick = lambda ids: slow if 0 in ids else setting.engine.obey(ids)

    async def run() -> None:
        work = setting.kicks(range(600))
        task = asyncio.create_task(work.run())
        await turns()
        report = checked(work)
        assert (report["state"], report["kicked"], report["waiting"]) == ("running", 600 - BATCH, BATCH)
        slow.set_result([KickOutcome.KICKED] * BATCH)
        await task
        assert checked(work)["kicked"] == 600

    asyncio.run(run())


def test_those_under_way_are_bounded(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNDER_WAY", 2 * BATCH)
    futures: list[Future[Any]] = []

    def later(ids: Sequence[int]) -> Future[Any]:
        futures.append(Future())
        return futures[-1]

    setting.engine.kick = later

    async def run() -> None:
        work = setting.kicks(range(3 * BATCH))
        task = asyncio.create_task(work.run())
        await turns()
        assert len(futures) == 2
        futures[1].set_result([KickOutcome.KICKED] * BATCH)
        for _ in range(1000):
            if len(futures) == 3:
                break
            await asyncio.sleep(0.001)
        for future in (futures[0], futures[2]):
            future.set_result([KickOutcome.KICKED] * BATCH)
        await task
        assert checked(work)["kicked"] == 3 * BATCH

    asyncio.run(run())


def test_what_does_not_leave_in_time_is_settled_from_its_record(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MARGIN_SECONDS", 0.01)
    setting.engine.kick = lambda ids: Future()
    setting.engine.ended = {0: Reason.KICKED, 1: Reason.CLIENT_RESET, 2: None}

    async def run() -> None:
        _, report = await setting.run(range(4), timeout="0s")
        assert [row["outcome"] for row in report["outcomes"]] == ["kicked", "already_gone", "already_gone", "failed"]
        assert report["state"] == "done"

    asyncio.run(run())


def test_an_engine_that_stops_cancels_it_and_what_was_done_is_counted(setting: Setting) -> None:
    under_way: Future[Any] = Future()
    steps: list[Any] = [setting.engine.obey, lambda _: under_way, lambda _: EngineStopped()]
    setting.engine.kick = lambda ids: steps.pop(0)(ids)
    # Of those under way the engine still knows how they ended.
    setting.engine.ended = {id: Reason.KICKED if id % 2 else Reason.SHUTDOWN for id in range(BATCH, 2 * BATCH - 6)}

    async def run() -> None:
        work = setting.kicks(range(1000))
        task = asyncio.create_task(work.run())
        await turns()
        under_way.set_exception(EngineStopped())
        await task
        report = checked(work)
        assert report["state"] == "cancelled"
        assert report["kicked"] == BATCH + 125
        assert report["already_gone"] == 125
        assert report["waiting"] == 1000 - BATCH - 250
        assert report["ended_at"] is not None

    asyncio.run(run())


def test_a_stopped_engine_cancels_it_at_the_barrier_too(setting: Setting) -> None:
    setting.engine.barrier_error = EngineStopped()

    async def run() -> None:
        _, report = await setting.run(range(1000))
        assert (report["state"], report["kicked"], report["waiting"]) == ("cancelled", BATCH, 1000 - BATCH)

    asyncio.run(run())


def test_a_cancelled_one_begins_nothing_more_and_counts_what_is_under_way(setting: Setting) -> None:
    under_way: list[Future[Any]] = []

    def later(ids: Sequence[int]) -> Future[Any]:
        under_way.append(Future())
        return under_way[-1]

    setting.engine.kick = later

    async def run() -> None:
        work = setting.kicks(range(1000), rate_per_s=1)
        task = asyncio.create_task(work.run())
        await turns()
        assert setting.engine.calls == [[0]]
        work.cancel()
        await turns()
        report = checked(work)
        assert (report["state"], report["waiting"], report["ended_at"], report["eta"]) == (
            "cancelled",
            1000,
            None,
            None,
        )
        under_way[0].set_result([KickOutcome.KICKED])
        await task
        report = checked(work)
        assert (report["state"], report["kicked"], report["waiting"]) == ("cancelled", 1, 999)
        assert report["ended_at"] is not None
        assert setting.engine.calls == [[0]]

    asyncio.run(run())


def test_addresses_are_banned_once_each_and_before_the_kick(setting: Setting) -> None:
    banned_before: list[int] = []

    def kick(ids: Sequence[int]) -> Outcomes:
        banned_before.append(sum(len(call[0]) for call in setting.bans.calls))
        return setting.engine.obey(ids)

    setting.engine.kick = kick
    setting.engine.ended = {7: None}  # nobody knows its address any more

    async def run() -> None:
        work, report = await setting.run(range(500), ban_ttl="1h", reason="spam")
        addresses = [address for call in setting.bans.calls for address in call[0]]
        assert len(addresses) == len(set(addresses)) == 250
        assert setting.bans.calls[0][1:] == (3600.0, "spam", "alice")
        assert banned_before == [250, 250]
        assert (report["banned"], report["kicked"]) == (250, 500)
        assert "250 banned" in work.summary()

    asyncio.run(run())


def test_at_a_rate_nobody_is_banned_long_before_the_kick(setting: Setting) -> None:
    async def run() -> None:
        work = setting.kicks(range(100), ban_ttl="1h", rate_per_s=2)
        task = asyncio.create_task(work.run())
        await turns()
        assert [len(call[0]) for call in setting.bans.calls] == [2]
        work.cancel()
        await task
        assert checked(work)["banned"] == 2

    asyncio.run(run())


@pytest.mark.parametrize("error", [Problem(problems.BANS_FULL), EngineBusy()])
def test_whoever_cannot_be_banned_is_not_kicked(setting: Setting, error: Exception) -> None:
    setting.bans.error = error

    async def run() -> None:
        work, report = await setting.run(range(5), ban_ttl="1h")
        assert (report["failed"], report["banned"], setting.engine.calls) == (5, 0, [])
        assert work.ban_problem is not None
        assert not work.done_to_any()
        assert "bans failed" in work.summary()

    asyncio.run(run())


def test_an_engine_that_stops_while_banning_cancels_it(setting: Setting) -> None:
    setting.bans.error = EngineStopped()

    async def run() -> None:
        _, report = await setting.run(range(5), ban_ttl="1h")
        assert (report["state"], report["waiting"], report["failed"]) == ("cancelled", 5, 0)

    asyncio.run(run())


def test_a_dry_run_lists_whom_it_would_hit_and_does_nothing(setting: Setting) -> None:
    async def run() -> None:
        report = dry_run(setting.context, KickOrder(all=True, dry_run=True, rate_per_s=5), range(1200))
        KickReport.model_validate(report)
        assert (report["state"], report["dry_run"], report["job"]) == ("done", True, None)
        assert (report["matched"], report["kicked"], report["waiting"]) == (1200, 0, 0)
        assert len(report["outcomes"]) == OUTCOMES
        assert report["outcomes_omitted"] == 200
        assert {row["outcome"] for row in report["outcomes"]} == {"would_kick"}
        assert setting.engine.calls == []

    asyncio.run(run())


def test_a_job_that_is_over_holds_nothing_but_its_report(setting: Setting) -> None:
    async def run() -> None:
        work, report = await setting.run(range(2000), farewell={"text": "x" * 1000}, exclude=["a"] * 1000)
        held = {name: value for name, value in vars(work).items() if isinstance(value, (list, dict, set, bytes, range))}
        assert max(len(value) for name, value in held.items() if name != "_outcomes") <= 3
        assert report == {**work.report(), "eta": None}

    asyncio.run(run())


def test_times_are_in_utc(setting: Setting) -> None:
    async def run() -> None:
        _, report = await setting.run([1])
        assert report["started_at"] <= report["ended_at"] <= datetime.now(UTC)

    asyncio.run(run())
