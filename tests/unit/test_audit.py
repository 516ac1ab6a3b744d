"""The audit's files: what is written, put aside, read back page by page, and what a disk that fails does to it."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from iocpd.api.audit import reader, trail
from iocpd.api.audit.entries import LINE_BYTES, AuditEntry
from iocpd.api.audit.reader import AuditFilter, read_slice
from iocpd.api.audit.trail import NAME, WAITING_ENTRIES, AuditTrail

Make = Callable[..., AuditTrail]

EVERYTHING = AuditFilter()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[AuditTrail] = []

    def begin(max_bytes: int = 1 << 20, files: int = 4) -> AuditTrail:
        made.append(AuditTrail(folder, max_bytes=max_bytes, files=files))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def note(audit: AuditTrail, target: object, **more: Any) -> None:
    audit.record(**({"actor": "alice", "action": "connections-kick", "target": str(target), "status": 204} | more))


def targets(folder: Path, wanted: AuditFilter = EVERYTHING, limit: int = 1000) -> list[str]:
    return [entry.target for entry in everything(folder, wanted, limit)]


def everything(folder: Path, wanted: AuditFilter = EVERYTHING, limit: int = 1000) -> list[AuditEntry]:
    found = read_slice(folder, wanted, before=None, limit=limit)
    items = found.items
    while found.next_before is not None:
        found = read_slice(folder, wanted, before=found.next_before, limit=limit)
        items += found.items
    return items


def test_an_entry_is_a_line_of_json_and_only_the_owner_reads_the_file(make: Make, folder: Path) -> None:
    note(make(), "k3f9qz-1", detail="reason 'x'", request_id="r1", client="192.0.2.7")
    (line,) = (folder / NAME).read_text().splitlines()
    entry = json.loads(line)
    assert list(entry) == list(AuditEntry.model_fields)
    assert (entry["actor"], entry["target"], entry["outcome"], entry["status"]) == ("alice", "k3f9qz-1", "done", 204)
    if os.name != "nt":
        assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600


def test_text_of_clients_can_neither_forge_a_line_nor_be_long(make: Make, folder: Path) -> None:
    hostile = '"}\n{"actor":"root"}\r\x1b[31m\u2028\u202e\ud800' + "\U0010fffe" * 100_000
    note(make(), hostile, actor=hostile, detail=hostile, request_id=hostile, client=hostile, outcome=hostile)
    data = (folder / NAME).read_bytes()
    assert data.count(b"\n") == 1
    assert len(data) < LINE_BYTES
    assert data[:-1].decode().isprintable()
    (entry,) = everything(folder)
    assert entry.target.startswith('"}\\n{"actor":"root"}')


def test_a_full_file_is_put_aside_and_the_oldest_go(make: Make, folder: Path) -> None:
    audit = make(max_bytes=4096, files=3)
    for number in range(100):
        note(audit, number)
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == 3
    assert max(sizes) <= 4096
    kept = targets(folder)
    assert kept == [str(number) for number in range(99, 99 - len(kept), -1)]
    assert len(kept) > 30
    audit.configure(max_bytes=4096, files=2)
    for number in range(100, 150):
        note(audit, number)
    assert len(list(folder.iterdir())) == 2


def test_pages_show_every_entry_once_also_while_files_are_put_aside(make: Make, folder: Path) -> None:
    audit = make(max_bytes=4096, files=50)
    for number in range(200):
        note(audit, number)
    found = read_slice(folder, EVERYTHING, before=None, limit=7)
    seen = [entry.target for entry in found.items]
    while found.next_before is not None:
        for number in range(5):
            note(audit, f"later {number}")
        found = read_slice(folder, EVERYTHING, before=found.next_before, limit=7)
        seen += [entry.target for entry in found.items]
    assert seen == [str(number) for number in range(199, -1, -1)]


def test_a_page_deep_in_a_large_file_is_found_without_reading_all_of_it(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = make(max_bytes=1 << 30)
    for number in range(5000):
        note(audit, number)
    first = read_slice(folder, EVERYTHING, before=None, limit=4900)
    parsed = 0
    read_line = reader.read_line

    def counting(line: bytes) -> Any:
        nonlocal parsed
        parsed += 1
        return read_line(line)

    monkeypatch.setattr(reader, "read_line", counting)
    second = read_slice(folder, EVERYTHING, before=first.next_before, limit=10)
    assert [entry.target for entry in second.items] == [str(number) for number in range(99, 89, -1)]
    assert parsed < 1000


def test_an_exact_last_page_has_no_next_one(make: Make, folder: Path) -> None:
    audit = make()
    for number in range(10):
        note(audit, number, actor="alice" if number < 5 else "bob")
    assert read_slice(folder, EVERYTHING, before=None, limit=10).next_before is None
    assert read_slice(folder, AuditFilter(actor="bob"), before=None, limit=5).next_before is None
    assert read_slice(folder, AuditFilter(actor="alice"), before=None, limit=4).next_before is not None


def test_entries_are_filtered_by_who_what_and_since(make: Make, folder: Path) -> None:
    audit = make()
    note(audit, 1, actor="alice", detail='"actor":"bob"')
    note(audit, 2, actor="bob", action="bans-create")
    between = datetime.now(UTC)
    note(audit, 3, actor="bob")
    assert targets(folder, AuditFilter(actor="bob")) == ["3", "2"]
    assert targets(folder, AuditFilter(actor="bob", action="bans-create")) == ["2"]
    assert targets(folder, AuditFilter(since=between)) == ["3"]
    assert targets(folder, AuditFilter(since=between + timedelta(days=1))) == []
    assert targets(folder, AuditFilter(actor="nobody")) == []


def test_a_filter_that_matches_little_gives_short_pages_that_go_on(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = make()
    for number in range(300):
        note(audit, number, actor="rare" if number % 100 == 0 else "common")
    monkeypatch.setattr(reader, "SCAN_BYTES", 5000)
    found = read_slice(folder, AuditFilter(actor="rare"), before=None, limit=10)
    assert found.next_before is not None
    assert targets(folder, AuditFilter(actor="rare"), limit=10) == ["200", "100", "0"]


def test_lines_that_are_damaged_are_left_out(make: Make, folder: Path) -> None:
    note(make(), "before")
    with (folder / NAME).open("ab") as file:
        file.write(
            b"\xff\xfe\x00garbage\n\n{}\n[1]\n" + b"y" * 300_000 + b"\n" + b"[" * 30_000 + b"\n" + b'{"actor": "cut of'
        )
    note(make(), "after")
    assert targets(folder) == ["after", "before"]
    assert (folder / NAME).read_bytes().count(b"cut of\n{") == 1


def test_numbers_go_on_after_a_restart_even_if_the_clock_was_set_back(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(make(), "first")

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2001, 1, 1, tzinfo=tz)

    monkeypatch.setattr(trail, "datetime", Earlier)
    audit = make()
    note(audit, "second")
    note(audit, "third")
    assert targets(folder) == ["third", "second", "first"]
    ids = [entry.id for entry in everything(folder)]
    assert ids == sorted(ids, reverse=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames no file that a process has open")
def test_a_file_that_somebody_moves_away_is_made_anew(make: Make, folder: Path) -> None:
    audit = make()
    note(audit, 1)
    (folder / NAME).rename(folder / "moved")
    note(audit, 2)
    assert targets(folder) == ["2"]


def test_while_the_disk_takes_nothing_entries_wait_and_are_written_when_it_works_again(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("in the way")
    audit = make()
    note(audit, 1)
    note(audit, 2)
    assert audit.trouble
    assert (audit.counts.written, audit.counts.failures, audit.counts.lost) == (0, 1, 0), "it is tried once a second"
    folder.unlink()
    monkeypatch.setattr(trail, "_RETRY_SECONDS", 0.0)
    audit._next_try = 0.0
    audit.retry()
    assert not audit.trouble
    assert targets(folder) == ["2", "1"]
    assert (audit.counts.written, audit.counts.lost) == (2, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
def test_a_full_disk_is_counted_and_what_waits_has_a_bound(make: Make, folder: Path) -> None:
    folder.mkdir()
    (folder / NAME).symlink_to("/dev/full")
    audit = make()
    for number in range(WAITING_ENTRIES + 10):
        note(audit, number)
    assert audit.trouble == os.strerror(errno.ENOSPC)
    assert audit.counts.failures >= 1
    assert audit.counts.lost == 10
    (folder / NAME).unlink()
    audit.close()
    assert len(targets(folder)) == WAITING_ENTRIES


def test_a_line_that_was_written_in_part_is_taken_back(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = make()
    note(audit, 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    note(audit, 2)
    assert audit.trouble
    monkeypatch.undo()
    audit._next_try = 0.0
    note(audit, 3)
    assert [json.loads(line)["target"] for line in (folder / NAME).read_text().splitlines()] == ["1", "2", "3"]


def test_without_a_folder_nothing_is_kept() -> None:
    audit = AuditTrail(None, max_bytes=4096, files=2)
    note(audit, 1)
    audit.retry()
    audit.close()
    assert not audit.trouble


def test_threads_may_write_while_others_read(make: Make, folder: Path) -> None:
    audit = make(max_bytes=8192, files=100)

    def write(thread: int) -> None:
        for number in range(100):
            note(audit, f"{thread}-{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen = targets(folder, limit=10)
        assert len(seen) == len(set(seen))
    for thread in threads:
        thread.join()
    assert sorted(targets(folder)) == sorted(f"{thread}-{number}" for thread in range(4) for number in range(100))
    if sys.platform != "win32":
        assert audit.counts.failures == 0
