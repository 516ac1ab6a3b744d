"""Jobs: how many are kept and for how long, the rate, the preference for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from iocpd.api import problems
from iocpd.api.broadcasts.schemas import BroadcastBody, BroadcastReport
from iocpd.api.jobs import store
from iocpd.api.jobs.pacing import BURST_SECONDS, TICK_SECONDS, Pacer
from iocpd.api.jobs.prefer import prefers_async
from iocpd.api.jobs.store import Jobs
from iocpd.api.jobs.work import JobState, Work
from iocpd.api.kicks.schemas import KickOrder, KickReport
from iocpd.api.problems import Problem
from iocpd.core import EngineStopped


class Waiting(Work):
    """Waits until it may end."""

    def __init__(self, rate_per_s: int | None = None) -> None:
        super().__init__(rate_per_s)
        self.may_end = asyncio.Event()
        self.error: BaseException | None = None
        self.settled = 0
        self.let_go = 0

    async def _do(self) -> None:
        await self.may_end.wait()
        if self.error is not None:
            raise self.error

    def _let_go(self) -> None:
        self.let_go += 1

    def progress(self) -> tuple[int, int]:
        return self.settled, 100

    def report(self) -> dict[str, Any]:
        return self.frame()

    def summary(self) -> str:
        return ""


class Other(Waiting):
    pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def end(work: Waiting) -> None:
    work.may_end.set()
    await turns()


# --- one --------------------------------------------------------------------------------------------------------------


def test_work_that_comes_to_its_end_is_done() -> None:
    async def run() -> None:
        work = Waiting()
        task = asyncio.create_task(work.run())
        await turns()
        assert (work.state, work.ended_at) == (JobState.RUNNING, None)
        work.may_end.set()
        await task
        assert work.state is JobState.DONE
        assert work.ended_at is not None
        assert work.ended_at >= work.started_at
        assert work.let_go == 1
        work.cancel()
        assert work.state is JobState.DONE

    asyncio.run(run())


def test_cancelled_work_ends_when_nothing_of_it_is_under_way() -> None:
    async def run() -> None:
        work = Waiting()
        task = asyncio.create_task(work.run())
        await turns()
        work.cancel()
        await turns()
        assert (work.state, work.stopped, work.ended_at) == (JobState.CANCELLED, True, None)
        work.may_end.set()
        await task
        assert work.state is JobState.CANCELLED
        assert work.ended_at is not None

    asyncio.run(run())


@pytest.mark.parametrize("error", [EngineStopped(), ValueError("a bug"), asyncio.CancelledError()])
def test_work_that_an_error_ends_is_cancelled(error: BaseException) -> None:
    async def run() -> None:
        work = Waiting()
        work.error = error
        work.may_end.set()
        [raised] = await asyncio.gather(work.run(), return_exceptions=True)
        assert type(raised) is (type(None) if isinstance(error, EngineStopped) else type(error))
        assert work.state is JobState.CANCELLED
        assert work.ended_at is not None
        assert work.let_go == 1

    asyncio.run(run())


def test_a_pause_ends_with_its_time_or_when_the_work_is_cancelled() -> None:
    async def run() -> None:
        work = Waiting()
        await work.pause(0.001)
        long = asyncio.create_task(work.pause(1e6))
        await turns()
        assert not long.done()
        work.cancel()
        await asyncio.wait_for(long, 10)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rate", "settled", "seconds"), [(10, 0, 10), (10, 50, 5), (None, 0, None), (None, 100, None), (10, 100, None)]
)
def test_the_eta_is_that_of_the_rate(rate: int | None, settled: int, seconds: float | None) -> None:
    async def run() -> None:
        work = Waiting(rate)
        work.settled = settled
        eta = work.eta()
        if seconds is None:
            assert eta is None
        else:
            assert eta is not None
            assert (eta - work.started_at).total_seconds() == pytest.approx(seconds, abs=1)

    asyncio.run(run())


def test_without_a_rate_the_eta_is_that_of_the_speed_until_now() -> None:
    async def run() -> None:
        work = Waiting()
        await asyncio.sleep(0.02)
        work.settled = 50
        eta = work.eta()
        assert eta is not None
        assert eta > work.started_at

    asyncio.run(run())


# --- all --------------------------------------------------------------------------------------------------------------


def test_a_job_is_found_while_it_runs_and_for_15_minutes_after_its_end() -> None:
    async def run() -> None:
        clock = Clock()
        jobs, work = Jobs(clock), Waiting()
        job = jobs.start(work, work.run)
        assert work.job == job
        clock.now = 1e6
        assert jobs.find(job, Waiting) is work
        await end(work)
        clock.now += store.KEEP_SECONDS - 1
        assert jobs.find(job, Waiting) is work
        clock.now += 1
        with pytest.raises(Problem) as raised:
            jobs.find(job, Waiting)
        assert raised.value.kind is problems.JOB_UNKNOWN
        assert job in raised.value.detail

    asyncio.run(run())


def test_a_job_of_another_kind_is_unknown() -> None:
    async def run() -> None:
        jobs, work = Jobs(), Waiting()
        job = jobs.start(work, work.run)
        with pytest.raises(Problem):
            jobs.find(job, Other)
        await end(work)

    asyncio.run(run())


def test_sixteen_jobs_run_and_no_more() -> None:
    async def run() -> None:
        jobs, works = Jobs(), [Waiting() for _ in range(store.RUNNING_JOBS + 1)]
        for work in works[:-1]:
            jobs.start(work, work.run)
        with pytest.raises(Problem) as raised:
            jobs.start(works[-1], works[-1].run)
        assert raised.value.kind is problems.TOO_MANY_JOBS
        await end(works[3])
        jobs.start(works[-1], works[-1].run)
        for work in works:
            await end(work)

    asyncio.run(run())


def test_beyond_the_bound_the_job_that_ended_first_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEEP_JOBS", 3)

    async def run() -> None:
        jobs, works = Jobs(), [Waiting() for _ in range(5)]
        ids = [jobs.start(work, work.run) for work in works[:3]]
        for number in (1, 0):
            await end(works[number])
        ids.append(jobs.start(works[3], works[3].run))
        with pytest.raises(Problem):
            jobs.find(ids[1], Waiting)
        assert jobs.find(ids[0], Waiting) is works[0]
        for work in works:
            await end(work)

    asyncio.run(run())


def test_a_job_whose_event_loop_ends_is_cancelled() -> None:
    jobs, works = Jobs(), []

    async def run() -> None:
        works.extend([Waiting(), Waiting()])
        jobs.start(works[0], works[0].run)
        await turns()
        jobs.start(works[1], works[1].run)  # has not had its first turn when the loop ends

    asyncio.run(run())
    for work in works:
        assert work.state is JobState.CANCELLED
        assert work.ended_at is not None


# --- the rate ---------------------------------------------------------------------------------------------------------


class Time:
    """A clock that pauses move on."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 100.0
        self.late = late
        self.pauses = 0

    def clock(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.now += seconds + self.late


@pytest.mark.parametrize("late", [0.0, 0.004, 0.1])
@pytest.mark.parametrize("rate", [1, 7, 49, 100, 1000, 30_000])
def test_a_rate_is_kept_over_time_and_at_every_moment(rate: int, late: float) -> None:
    async def run() -> None:
        time = Time(late)
        pacer, start, total = Pacer(rate, time.pause, time.clock), time.now, 0
        while time.now < start + 20:
            total += await pacer.take(1_000_000)
            assert total <= 1 + rate * (time.now - start + 1e-6)
        assert total == pytest.approx(rate * (time.now - start), rel=0.01, abs=1.01)
        assert time.pauses <= 20 / min(TICK_SECONDS, 1 / rate if rate < 50 else 1) + 1

    asyncio.run(run())


def test_what_was_held_up_is_not_made_up_for_in_a_flood() -> None:
    async def run() -> None:
        time = Time()
        pacer = Pacer(1000, time.pause, time.clock)
        await pacer.take(10)
        time.now += 3600
        assert await pacer.take(1_000_000) <= 1 + 1000 * BURST_SECONDS

    asyncio.run(run())


def test_no_more_are_let_through_than_asked_for() -> None:
    async def run() -> None:
        time = Time(late=1)
        pacer = Pacer(100_000, time.pause, time.clock)
        assert [await pacer.take(256) for _ in range(10)] == [1, *[256] * 9]

    asyncio.run(run())


def test_a_pause_that_is_cut_short_lets_one_through_at_once() -> None:
    async def run() -> None:
        async def cut(seconds: float) -> None:
            pass

        pacer = Pacer(1, cut, lambda: 5.0)
        assert [await pacer.take(9) for _ in range(2)] == [1, 1]

    asyncio.run(run())


# --- the preference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], False),
        ([""], False),
        (["respond-async"], True),
        (["Respond-Async"], True),
        (["respond-async, wait=10"], True),
        (["wait=10,  respond-async"], True),
        (["return=minimal; foo=bar, respond-async; x"], True),
        (["wait=10", "respond-async"], True),
        (["return=representation"], False),
        (["respond-asynchronously"], False),
        (['note="a, respond-async"'], False),
        (['note="a\\", respond-async'], False),
        (['note="b", respond-async'], True),
        (['"', ",,;"], False),
    ],
)
def test_the_preference_for_a_job_is_one_among_others(values: list[str], wanted: bool) -> None:
    assert prefers_async(values) is wanted


# --- what the OpenAPI document shows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [KickOrder, KickReport, BroadcastBody, BroadcastReport])
def test_every_example_is_one(model: type[BaseModel]) -> None:
    examples = model.model_json_schema()["examples"]
    assert examples
    for example in examples:
        model.model_validate(example)
