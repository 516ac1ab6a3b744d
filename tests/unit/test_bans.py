"""The bans in memory, in their file and in the engine: here an engine that only remembers what it was told."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iocpd.api.bans import file as ban_file
from iocpd.api.bans import service
from iocpd.api.bans.file import BanFileError, read_bans, write_bans
from iocpd.api.bans.model import Ban, canonical, new_id
from iocpd.api.bans.service import Bans
from iocpd.api.bans.table import BanTable
from iocpd.api.problems import Problem
from iocpd.core import EngineBusy, EngineStopped, EngineTimeout
from tests.support import PATIENCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A = ip_network("192.0.2.7")
B = ip_network("198.51.100.0/24")


class FakeEngine:
    """What Bans asks of an engine."""

    def __init__(self, max_bans: int = 1000) -> None:
        self.config = SimpleNamespace(max_bans=max_bans, max_connections=1000)
        self.bans: dict[Any, float] = {}
        self.calls: list[int] = []
        self.events: list[tuple[str, str, bool]] = []
        self.busy = 0
        self.refuse: Exception | None = None

    def submit_bans(self, add: Any = (), remove: Any = ()) -> Any:
        assert len(add) + len(remove) <= 1024
        if self.busy:
            self.busy -= 1
            raise EngineBusy
        if self.refuse is not None and add:
            raise self.refuse
        self.calls.append(len(add) + len(remove))
        for network in remove:
            self.bans.pop(network, None)
        self.bans.update(add)
        return self._done(None)

    def submit_barrier(self) -> Any:
        return self._done(None)

    def connections(self, *, limit: int, cursor: Any) -> Any:
        return SimpleNamespace(items=[], next=None)

    def note_ban(self, network: Any, text: str, *, lifted: bool = False) -> None:
        self.events.append((str(network), text, lifted))

    @staticmethod
    def _done(result: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(result)
        return SimpleNamespace(future=future)


def make(network: IPv4Network | IPv6Network, serial: int, ttl: float | None = None) -> Ban:
    expires = None if ttl is None else NOW + timedelta(seconds=ttl)
    return Ban(new_id(), network, "", NOW, expires, "alice", serial)


def block(number: int) -> IPv4Network:
    """One of 16 million different addresses."""
    return IPv4Network((10 << 24) + number)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bans.json"


@pytest.fixture
def with_bans(engine: FakeEngine, path: Path) -> Callable[[Callable[[Bans], Coroutine[Any, Any, Any]]], Any]:
    """Runs with the bans of a service that has just been started."""

    def run(work: Callable[[Bans], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(work(Bans(engine, path)))  # type: ignore[arg-type]

    return run


async def code_of(work: Awaitable[Any]) -> str:
    with pytest.raises(Problem) as raised:
        await work
    return raised.value.kind.code


# --- the table --------------------------------------------------------------------------------------------------------


def test_an_address_is_found_in_every_block_that_holds_it_the_largest_first() -> None:
    table = BanTable()
    networks = ["192.0.2.7/32", "192.0.2.0/24", "192.0.0.0/16", "192.0.3.0/24", "2001:db8::/32", "0.0.0.0/0"]
    table.put(make(ip_network(text), serial) for serial, text in enumerate(networks, 1))

    def found(text: str) -> list[str]:
        return [str(ban.network) for ban in table.containing(ip_network(text), NOW)]

    assert found("192.0.2.7") == ["0.0.0.0/0", "192.0.0.0/16", "192.0.2.0/24", "192.0.2.7/32"]
    assert found("192.0.2.0/25") == ["0.0.0.0/0", "192.0.0.0/16", "192.0.2.0/24"]
    assert found("2001:db8::1") == ["2001:db8::/32"]
    assert found("2001:db9::1") == []
    # As the engine has it: IPv4 is in a block of IPv6 that holds its mapped address.
    table.put([make(ip_network("::/0"), 8), make(ip_network("::ffc0:0:0/90"), 9)])
    assert found("198.51.100.1") == ["::/0", "::ffc0:0:0/90", "0.0.0.0/0"]
    assert found("2001:db9::1") == ["::/0"]


def test_pages_go_from_the_newest_to_the_oldest_over_those_that_are_no_more() -> None:
    table = BanTable()
    bans = [make(block(number), number) for number in range(1, 5001)]
    table.put(bans)
    for ban in bans[::2]:
        table.remove(ban)
    seen: list[int] = []
    before = None
    while page := table.newest(97, before, NOW):
        seen += [ban.serial for ban in page]
        before = page[-1].serial
    assert seen == list(range(5000, 0, -2))


def test_a_ban_that_is_over_is_shown_nowhere_before_it_is_dropped() -> None:
    table = BanTable()
    table.put([make(block(1), 1, ttl=10), make(block(2), 2, ttl=20), make(block(3), 3)])
    later = NOW + timedelta(seconds=10)
    assert table.count(NOW) == 3
    assert table.count(later) == 2
    assert [ban.serial for ban in table.newest(10, None, later)] == [3, 2]
    assert table.containing(block(1), later) == []
    assert [ban.serial for ban in table.drop_expired(later, 10)] == [1]
    assert table.of_network(block(1)) is None
    assert table.count(later) == 2
    assert [ban.serial for ban in table.drop_expired(NOW + timedelta(seconds=30), 10)] == [2]
    assert [ban.serial for ban in table] == [3]


def test_a_ban_that_takes_anothers_place_has_its_own_end() -> None:
    table = BanTable()
    table.put([make(A, 1, ttl=10)])
    table.put([make(A, 1, ttl=100)])
    assert table.count(NOW + timedelta(seconds=50)) == 1
    assert len(table.newest(10, None, NOW)) == 1
    assert len(table.drop_expired(NOW + timedelta(seconds=100), 10)) == 1
    assert list(table) == []


def test_ipv4_has_one_name() -> None:
    assert canonical(ip_network("::ffff:192.0.2.7")) == A
    assert canonical(ip_network("::ffff:192.0.2.0/120")) == ip_network("192.0.2.0/24")
    assert canonical(ip_network("::/0")) == ip_network("::/0")


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 2000])
def test_what_is_written_is_read_again(path: Path, count: int) -> None:
    bans = [make(block(number), number, ttl=number % 3 and 60 * number) for number in range(1, count + 1)]
    write_bans(path, bans)
    assert read_bans(path) == bans
    assert len(json.loads(path.read_bytes())["bans"]) == count
    assert os.listdir(path.parent) == ["bans.json"]
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_another_program_laid_out_anew_is_read(path: Path) -> None:
    bans = [make(A, 1), make(B, 2, ttl=5)]
    write_bans(path, bans)
    content = json.loads(path.read_bytes())
    for layout in ({"indent": 4}, {"separators": (",", ":")}):
        path.write_text(json.dumps(content, **layout))
        assert read_bans(path) == bans


def test_no_file_is_no_ban(path: Path) -> None:
    assert read_bans(path) == []


@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        (b"", "does not begin"),
        (b"[]", "does not begin"),
        (b'{"version": 2, "bans": []}', "version is 2"),
        (b'{"version": 1, "bans": [', "line 1"),
        (b'{"version": 1, "bans": []', "'}'"),
        (b'{"version": 1, "bans": []} x', "the end"),
        (b'{"version": 1, "bans": [{}]}', "ban 1: its members"),
        (b'{"version": 1, "bans": [1]}', "ban 1"),
        (b'{"version": 1, "bans": ["\xff"]}', "UTF-8"),
        (b'{"version": 1, "bans": [' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_none_of_bans_says_where_it_is_wrong(path: Path, content: bytes, mentions: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(BanFileError) as raised:
        read_bans(path)
    assert str(path) in str(raised.value)
    assert mentions in str(raised.value)


@pytest.mark.parametrize(
    ("member", "value", "mentions"),
    [
        ("id", "UPPER", "its id"),
        ("address", "example.com", "example.com"),
        ("address", "192.0.2.1/24", "host bits"),
        ("address", "fe80::1%eth0", "zone"),
        ("reason", "two\nlines", "one line"),
        ("reason", 5, "one line"),
        ("created_at", "yesterday", "yesterday"),
        ("expires_at", "2026-01-01T00:00:00", "zone"),
        ("expires_at", 5, "ban 2"),
    ],
)
def test_a_ban_that_is_none_is_named(path: Path, member: str, value: object, mentions: str) -> None:
    write_bans(path, [make(A, 1), make(B, 2)])
    content = json.loads(path.read_bytes())
    content["bans"][1][member] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BanFileError) as raised:
        read_bans(path)
    assert "ban 2: " in str(raised.value)
    assert mentions in str(raised.value)


def test_two_bans_of_one_address_are_refused(path: Path) -> None:
    write_bans(path, [make(A, 1), make(ip_network("::ffff:192.0.2.7"), 2)])
    with pytest.raises(BanFileError, match="same address"):
        read_bans(path)


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bans(path, [make(A, 1)])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_bans(path, [make(B, 2)])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["bans.json"]


# --- all of it --------------------------------------------------------------------------------------------------------


def test_a_ban_is_in_the_file_and_in_the_engine_when_it_is_answered(
    engine: FakeEngine, path: Path, with_bans: Any
) -> None:
    async def work(bans: Bans) -> None:
        forever = await bans.add(A, None, "abuse", "alice")
        assert engine.bans[A] == 0
        assert read_bans(path) == [forever]
        soon = await bans.add(B, 60, "", "bob")
        assert 59 < engine.bans[B] <= 60
        assert bans.find(soon.id) is soon
        assert bans.newest(10, None) == [soon, forever]
        assert bans.count() == 2
        assert engine.events == [(str(A), "abuse", False), (str(B), "", False)]

        lifted = await bans.remove(forever.id)
        assert lifted == forever
        assert set(engine.bans) == {B}
        assert read_bans(path) == [soon]
        assert engine.events[-1] == (str(A), "abuse", True)
        assert await code_of(bans.remove(forever.id)) == "ban_unknown"

    with_bans(work)


def test_bans_outlive_a_restart_but_not_their_time(engine: FakeEngine, path: Path) -> None:
    async def first() -> list[Ban]:
        bans = Bans(engine, path)  # type: ignore[arg-type]
        return [await bans.add(A, None, "", "alice"), await bans.add(B, 0.001, "", "alice")]

    forever, _ = asyncio.run(first())
    time.sleep(0.002)
    fresh = FakeEngine()

    async def second() -> None:
        bans = Bans(fresh, path)  # type: ignore[arg-type]
        await asyncio.gather(bans.load(), bans.load())
        assert fresh.calls == [1]
        assert bans.newest(10, None) == [forever]
        assert (await bans.add(B, None, "", "alice")).id != forever.id
        assert [ban.network for ban in bans.newest(10, None)] == [B, A]

    asyncio.run(second())
    assert set(fresh.bans) == {A, B}


def test_a_change_before_the_file_was_read_keeps_what_is_in_it(path: Path, with_bans: Any) -> None:
    write_bans(path, [make(A, 1)])
    with_bans(lambda bans: bans.add(B, None, "", "alice"))
    assert {ban.network for ban in read_bans(path)} == {A, B}


def test_an_address_is_banned_once(with_bans: Any) -> None:
    async def work(bans: Bans) -> None:
        ban = await bans.add(A, None, "", "alice")
        with pytest.raises(Problem) as raised:
            await bans.add(ip_network("::ffff:192.0.2.7"), 5, "", "bob")
        assert raised.value.kind.code == "ban_exists"
        assert ban.id in raised.value.detail
        assert raised.value.extra["ban"]["created_by"] == "alice"
        await bans.add(ip_network("192.0.2.0/24"), 5, "", "bob")

    with_bans(work)


def test_of_two_bans_of_one_address_at_the_same_time_one_is_made(with_bans: Any) -> None:
    async def work(bans: Bans) -> None:
        answers = await asyncio.gather(*(bans.add(A, None, "", "alice") for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(answer, Ban) for answer in answers) == 1
        assert {answer.kind.code for answer in answers if isinstance(answer, Problem)} == {"ban_exists"}
        assert bans.count() == 1

    with_bans(work)


def test_what_comes_while_a_group_is_written_is_the_next_group(
    engine: FakeEngine, path: Path, with_bans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    under_way, go_on = threading.Event(), threading.Event()

    def counted(path: Path, bans: Iterable[Ban]) -> None:
        bans = list(bans)
        groups.append(len(bans) - sum(groups))
        under_way.set()
        assert go_on.wait(PATIENCE)
        write_bans(path, bans)

    monkeypatch.setattr("iocpd.api.bans.service.write_bans", counted)

    async def work(bans: Bans) -> None:
        await bans.load()
        first = asyncio.gather(*(bans.add(block(number), None, "", "alice") for number in range(50)))
        assert await asyncio.to_thread(under_way.wait, PATIENCE)
        second = asyncio.gather(*(bans.add(block(number), None, "", "alice") for number in range(50, 200)))
        await asyncio.sleep(0)  # each of them has asked
        go_on.set()
        made = [*await first, *await second]
        assert len({ban.id for ban in made}) == 200
        assert bans.count() == 200

    with_bans(work)
    assert groups == [50, 150]
    assert len(read_bans(path)) == len(engine.bans) == 200


def test_a_change_that_fails_does_not_take_others_of_its_group_with_it(path: Path, with_bans: Any) -> None:
    async def work(bans: Bans) -> None:
        a, unknown, b = await asyncio.gather(
            bans.add(A, None, "", "alice"),
            bans.remove("zzzzzzzzzz"),
            bans.add(B, None, "", "alice"),
            return_exceptions=True,
        )
        assert isinstance(a, Ban)
        assert isinstance(unknown, Problem)
        assert isinstance(b, Ban)
        # Lifted and made again in one group.
        _, again = await asyncio.gather(bans.remove(a.id), bans.add(A, None, "again", "alice"))
        assert bans.newest(1, None) == [again]
        assert bans.count() == 2

    with_bans(work)
    assert {ban.reason for ban in read_bans(path)} == {"", "again"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_nothing_changes_when_the_file_cannot_be_written(
    engine: FakeEngine, path: Path, with_bans: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    async def work(bans: Bans) -> None:
        kept = await bans.add(A, None, "", "alice")
        with monkeypatch.context() as broken:

            def fail(*_: object, **__: object) -> None:
                raise OSError(code, os.strerror(code))

            broken.setattr("iocpd.api.durable.os.fsync", fail)
            with pytest.raises(Problem) as raised:
                await bans.add(B, None, "", "alice")
            assert (raised.value.kind.code, raised.value.status_code) == ("bans_not_saved", 507)
            assert os.strerror(code) in raised.value.detail
            assert await code_of(bans.remove(kept.id)) == "bans_not_saved"
            assert await code_of(bans.add_many([B], None, "", "alice")) == "bans_not_saved"
        assert set(engine.bans) == {A}
        assert bans.newest(10, None) == [kept]
        assert read_bans(path) == [kept]
        assert len(engine.events) == 1
        await bans.add(B, None, "", "alice")  # it goes on

    with_bans(work)
    assert set(engine.bans) == {A, B}


def test_file_and_engine_get_back_what_they_had_when_the_engine_refuses(
    engine: FakeEngine, path: Path, with_bans: Any
) -> None:
    async def work(bans: Bans) -> None:
        kept = await bans.add(A, None, "", "alice")
        engine.refuse = EngineStopped()
        with pytest.raises(EngineStopped):
            await bans.add(B, None, "", "alice")
        assert read_bans(path) == [kept]
        assert bans.count() == 1
        assert set(engine.bans) == {A}

    with_bans(work)


def test_the_engine_is_told_the_ends_anew_when_the_clock_is_set(
    engine: FakeEngine, with_bans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = looks = 0

    def now() -> datetime:
        nonlocal looks
        looks += 1
        return datetime.now(UTC) + timedelta(seconds=ahead)

    monkeypatch.setattr(service, "now", now)
    monkeypatch.setattr(service, "_CLOCK_SECONDS", 0.001)

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.001)

    async def work(bans: Bans) -> None:
        nonlocal ahead
        await bans.add(block(1), 1800, "", "alice")
        await bans.add(block(2), None, "", "alice")
        await bans.add(block(3), 7200, "", "alice")
        following = asyncio.create_task(bans.follow_clock())
        enough = looks + 10
        await until(lambda: looks > enough)
        assert engine.calls == [1, 1, 1], "nothing has been set"
        ahead = -3600
        await until(lambda: engine.bans[block(1)] == pytest.approx(5400, abs=60))
        assert engine.bans == {
            block(1): pytest.approx(5400, abs=60),
            block(2): 0,
            block(3): pytest.approx(10800, abs=60),
        }
        engine.refuse = EngineTimeout("a change of the bans", 30)
        ahead = 3600
        await until(lambda: block(1) not in engine.bans)
        assert engine.bans[block(3)] == pytest.approx(10800, abs=60)
        engine.refuse = None
        await until(lambda: engine.bans[block(3)] == pytest.approx(3600, abs=60))
        assert engine.bans == {block(2): 0, block(3): pytest.approx(3600, abs=60)}
        following.cancel()

    with_bans(work)


def test_a_busy_engine_is_asked_again(engine: FakeEngine, with_bans: Any) -> None:
    engine.busy = 3
    with_bans(lambda bans: bans.add(A, None, "", "alice"))
    assert set(engine.bans) == {A}


def test_there_is_room_for_max_bans(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, moment = FakeEngine(max_bans=3), datetime.now(UTC)
    monkeypatch.setattr(service, "now", lambda: moment)

    async def work() -> None:
        nonlocal moment
        bans = Bans(engine, path)  # type: ignore[arg-type]
        await bans.add_many([block(number) for number in range(2)], 60, "", "alice")
        assert await code_of(bans.add_many([block(2), block(3)], None, "", "alice")) == "bans_full"
        assert bans.count() == 2
        await bans.add(A, None, "", "alice")
        assert await code_of(bans.add(B, None, "", "alice")) == "bans_full"
        moment += timedelta(seconds=61)  # two are over
        await bans.add(B, None, "", "alice")
        assert bans.count() == 2
        # The engine's room for those that are over is taken until it is told.
        assert set(engine.bans) == {A, B}

    asyncio.run(work())
    engine.config.max_bans = 1
    with pytest.raises(BanFileError, match="raise max_bans"):
        asyncio.run(Bans(engine, path).load())  # type: ignore[arg-type]


def test_a_ban_that_one_group_makes_longer_and_lifts_is_gone_and_others_end_in_time(
    with_bans: Any, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(bans: Bans) -> None:
        lifted, other = await bans.add(A, 60, "", "alice"), await bans.add(B, 120, "", "alice")
        # While the first of these is written, the others wait, and are one group then.
        _, longer, gone = await asyncio.gather(
            bans.add(block(1), None, "", "alice"), bans.add_many([A], 90, "", "bob"), bans.remove(lifted.id)
        )
        assert (longer[0].id, gone.id) == (lifted.id, lifted.id)
        assert set(engine.bans) == {B, block(1)}
        assert bans.count() == 2
        monkeypatch.setattr("iocpd.api.bans.service.now", lambda: other.created_at + timedelta(seconds=200))
        await asyncio.wait_for(bans.add(block(2), None, "", "alice"), PATIENCE)
        assert set(engine.bans) == {block(1), block(2)}

    with_bans(work)


def test_many_are_banned_with_one_write_and_a_ban_that_is_there_gets_longer_never_shorter(
    engine: FakeEngine, path: Path, with_bans: Any
) -> None:
    async def work(bans: Bans) -> None:
        short = await bans.add(block(1), 60, "first", "alice")
        forever = await bans.add(block(2), None, "first", "alice")
        made = await bans.add_many([block(1), block(2), block(3), block(3)], 600, "second", "bob")
        assert [ban.network for ban in made] == [block(1), block(2), block(3)]
        assert [ban.reason for ban in made] == ["first", "first", "second"]
        assert made[0].id == short.id
        assert made[0].expires_at is not None
        assert short.expires_at is not None
        assert made[0].expires_at > short.expires_at + timedelta(seconds=500)
        assert made[1] == forever
        assert bans.count() == 3
        assert await bans.add_many([], 600, "", "bob") == []

    with_bans(work)
    assert engine.bans[block(1)] > 599
    assert engine.bans[block(2)] == 0


@pytest.mark.slow
def test_100_000_bans_are_made_listed_and_loaded_without_holding_up_the_event_loop(path: Path) -> None:
    count = 100_000
    engine = FakeEngine(max_bans=count + 1)

    async def measured(work: Coroutine[Any, Any, Any]) -> float:
        """The longest that the event loop was held up; not counting what other work has taken of the processor."""
        task, longest = asyncio.ensure_future(work), 0.0
        while not task.done():
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)
        await task
        return longest

    async def make_all() -> float:
        bans = Bans(engine, path)  # type: ignore[arg-type]
        longest = await measured(bans.add_many([block(number) for number in range(count)], 3600, "", "alice"))
        return max(longest, await measured(bans.add(A, None, "", "alice")))

    async def load_and_list() -> float:
        bans = Bans(engine, path)  # type: ignore[arg-type]
        longest = await measured(bans.load())
        assert bans.count() == count + 1
        before, seen = None, 0
        while page := bans.newest(1000, before):
            before, seen = page[-1].serial, seen + len(page)
        assert seen == count + 1
        started = time.thread_time()
        assert len(bans.containing(block(77))) == 1
        return max(longest, time.thread_time() - started)

    longest = [asyncio.run(make_all()), asyncio.run(load_and_list())]
    assert max(engine.calls) <= 1024
    # Some tens of milliseconds, and a collection of garbage among so many new objects.
    assert max(longest) < 0.5, longest


def test_the_layout_of_the_file(path: Path) -> None:
    write_bans(path, [make(A, 1), make(B, 2, ttl=60)])
    lines = path.read_text().splitlines()
    assert lines[0] == '{"version": 1, "bans": ['
    assert lines[-1] == "]}"
    assert json.loads(lines[1].rstrip(",")) == {
        "id": read_bans(path)[0].id,
        "address": "192.0.2.7",
        "reason": "",
        "created_at": "2026-01-01T00:00:00Z",
        "expires_at": None,
        "created_by": "alice",
    }
    assert ban_file.__doc__ is not None
    assert ban_file.__doc__.splitlines()[2].strip() == lines[0]
