"""Sending to many, over an engine that only pretends: what the real one does seldom or never when it is asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from iocpd.api.broadcasts import work as module
from iocpd.api.broadcasts.schemas import BroadcastBody, BroadcastReport
from iocpd.api.broadcasts.work import Broadcast, dry_run
from iocpd.core import EngineBusy, EngineStopped

COUNTS = ("matched", "queued", "written", "skipped_slow", "closed_before_write", "expired", "failed")


def counted(**counts: int) -> Any:
    return SimpleNamespace(**(dict.fromkeys(COUNTS, 0) | counts))


class Command:
    """Under way until its future is done."""

    def __init__(self, **counts: int) -> None:
        self.future: Future[Any] = Future()
        self.now = counted(**counts)

    def report(self) -> Any:
        return self.now

    def end(self, **counts: int) -> Command:
        self.now = counted(**counts)
        self.future.set_result(self.now)
        return self


def whole(size: int) -> Command:
    return Command().end(matched=size, queued=size, written=size)


class PretendEngine:
    def __init__(self) -> None:
        self.broadcast: Callable[[Sequence[int] | None], Command | Exception] = lambda ids: whole(len(ids or range(3)))
        self.calls: list[dict[str, Any]] = []

    def submit_broadcast(self, data: bytes, filter: Any = None, **options: Any) -> Command:
        self.calls.append({"data": data, "filter": filter, **options})
        result = self.broadcast(options["ids"])
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> PretendEngine:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.0001)
    return PretendEngine()


def work_of(engine: PretendEngine, ids: Sequence[int] | None = None, expected: int = 3, **body: Any) -> Broadcast:
    context: Any = SimpleNamespace(engine=engine)
    order = BroadcastBody.model_validate({"all": True, "payload": {"text": "hello"}} | body)
    return Broadcast(context, order, ids=ids, exclude=(7,) if ids is None else (), expected=expected)


def checked(work: Broadcast) -> dict[str, Any]:
    report = work.report()
    BroadcastReport.model_validate(report)
    if report["done"] and report["state"] == "done":
        others = ("written", "skipped_slow", "closed_before_write", "expired", "failed")
        assert report["matched"] == sum(report[name] for name in others)
    return report


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_one_command_serves_all_who_match(engine: PretendEngine) -> None:
    async def run() -> None:
        work = work_of(engine, expected=2, on_slow="disconnect", ttl_ms=1500)
        await work.run()
        report = checked(work)
        [call] = engine.calls
        assert call["filter"] is not None
        assert {name: call[name] for name in ("data", "ids", "exclude", "on_slow", "ttl")} == {
            "data": b"hello",
            "ids": None,
            "exclude": (7,),
            "on_slow": "disconnect",
            "ttl": 1.5,
        }
        assert (report["state"], report["done"], report["matched"], report["written"]) == ("done", True, 3, 3)
        assert "5 bytes to 3: 3 queued, 3 written" in work.summary()

    asyncio.run(run())


def test_with_a_limit_ids_are_sent_to_in_as_few_commands_as_there_may_be(
    engine: PretendEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 100)

    async def run() -> None:
        work = work_of(engine, range(250), 250)
        await work.run()
        assert [len(call["ids"]) for call in engine.calls] == [100, 100, 50]
        assert all(call["filter"] is None for call in engine.calls)
        assert checked(work)["written"] == 250

    asyncio.run(run())


def test_every_count_is_the_sum_of_the_commands_and_those_who_left_before_are_counted(
    engine: PretendEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 10)
    answers = [
        Command().end(matched=8, queued=6, written=3, skipped_slow=1, closed_before_write=2, expired=1, failed=1),
        Command().end(matched=10, queued=10, written=10),
    ]
    engine.broadcast = lambda ids: answers.pop(0)

    async def run() -> None:
        work = work_of(engine, range(20), 20)
        await work.run()
        report = checked(work)
        assert {name: report[name] for name in COUNTS} == {
            "matched": 20,
            "queued": 16,
            "written": 13,
            "skipped_slow": 1,
            "closed_before_write": 4,
            "expired": 1,
            "failed": 1,
        }

    asyncio.run(run())


def test_a_slow_reader_delays_the_report_for_its_timeout_alone(engine: PretendEngine) -> None:
    command = Command(matched=3, queued=3, written=2)
    engine.broadcast = lambda ids: command

    async def run() -> None:
        work = work_of(engine, timeout="10ms")
        await work.run()
        report = checked(work)
        assert (report["state"], report["done"], report["written"]) == ("done", False, 2)
        command.end(matched=3, queued=3, written=3)  # it is still asked for later
        report = checked(work)
        assert (report["done"], report["written"]) == (True, 3)

    asyncio.run(run())


def test_progress_is_told_while_it_runs(engine: PretendEngine) -> None:
    command = Command()
    engine.broadcast = lambda ids: command

    async def run() -> None:
        work = work_of(engine, expected=5)
        task = asyncio.create_task(work.run())
        await turns()
        report = checked(work)
        assert (report["state"], report["matched"], report["written"], report["done"]) == ("running", 5, 0, False)
        command.now = counted(matched=5, queued=4, written=1, skipped_slow=1)
        assert checked(work)["written"] == 1
        command.end(matched=4, queued=4, written=4)  # one had left
        await task
        assert checked(work)["matched"] == 4

    asyncio.run(run())


def test_a_rate_sends_to_some_at_a_time_and_a_cancel_leaves_the_others_alone(engine: PretendEngine) -> None:
    async def run() -> None:
        work = work_of(engine, range(100), 100, rate_per_s=1)
        task = asyncio.create_task(work.run())
        await turns()
        assert [list(call["ids"]) for call in engine.calls] == [[0]]
        report = checked(work)
        assert report["matched"] == 100
        assert 98 < (report["eta"] - report["started_at"]).total_seconds() < 101
        work.cancel()
        await task
        report = checked(work)
        assert (report["state"], report["matched"], report["written"], report["done"]) == ("cancelled", 100, 1, True)
        assert len(engine.calls) == 1

    asyncio.run(run())


def test_an_engine_that_is_busy_is_asked_again(engine: PretendEngine) -> None:
    answers: list[Any] = [EngineBusy(), EngineBusy(), whole(3)]
    engine.broadcast = lambda ids: answers.pop(0)

    async def run() -> None:
        work = work_of(engine)
        await work.run()
        assert checked(work)["written"] == 3

    asyncio.run(run())


def test_an_engine_that_stays_busy_refuses_all_or_fails_for_those_ids(engine: PretendEngine) -> None:
    engine.broadcast = lambda ids: EngineBusy()

    async def run() -> None:
        with pytest.raises(EngineBusy):
            await work_of(engine).run()
        work = work_of(engine, range(4), 4)
        await work.run()
        report = checked(work)
        assert (report["state"], report["matched"], report["failed"]) == ("done", 4, 4)

    asyncio.run(run())


def test_an_engine_that_stops_cancels_it_and_what_was_done_is_counted(
    engine: PretendEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 10)
    answers: list[Any] = [whole(10), EngineStopped()]
    engine.broadcast = lambda ids: answers.pop(0)

    async def run() -> None:
        work = work_of(engine, range(30), 30)
        await work.run()
        report = checked(work)
        assert (report["state"], report["matched"], report["written"], report["done"]) == ("cancelled", 30, 10, True)

    asyncio.run(run())


def test_an_engine_that_stops_while_data_is_queued_cancels_it(engine: PretendEngine) -> None:
    command = Command(matched=3, queued=3, written=1)
    engine.broadcast = lambda ids: command

    async def run() -> None:
        work = work_of(engine)
        task = asyncio.create_task(work.run())
        await turns()
        command.now = counted(matched=3, queued=3, written=1, closed_before_write=2)
        command.future.set_exception(EngineStopped())
        await task
        report = checked(work)
        assert (report["state"], report["written"], report["done"]) == ("cancelled", 1, True)

    asyncio.run(run())


def test_a_dry_run_sends_nothing(engine: PretendEngine) -> None:
    async def run() -> None:
        context: Any = SimpleNamespace(engine=engine)
        body = BroadcastBody.model_validate({"all": True, "payload": {"text": "x"}, "dry_run": True})
        report = dry_run(context, body, range(42))
        BroadcastReport.model_validate(report)
        assert (report["state"], report["done"], report["dry_run"], report["matched"]) == ("done", True, True, 42)
        assert (report["queued"], report["written"], engine.calls) == (0, 0, [])

    asyncio.run(run())


def test_what_is_over_holds_no_payload(engine: PretendEngine) -> None:
    async def run() -> None:
        work = work_of(engine, range(1000), 1000)
        await work.run()
        held = {
            name: len(value) for name, value in vars(work).items() if isinstance(value, (bytes, list, tuple, range))
        }
        assert max(held.values()) == 0

    asyncio.run(run())
