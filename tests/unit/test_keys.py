"""Keys that follow their file, that expire, that several change at once, and how often wrong ones may be tried."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from iocpd.api import file_lock
from iocpd.api.access.attempts import Attempts
from iocpd.api.access.store import KeyStore
from iocpd.api.keys import (
    KeyFileError,
    KeyFileMissing,
    KeyUnknown,
    LastKeeper,
    add_key,
    create_key,
    read_keys,
    revoke_key,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


@pytest.fixture
def store(file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], KeyStore]:
    """A store that looks at its file each time that it is asked."""
    monkeypatch.setattr(KeyStore, "CHECK_SECONDS", 0.0)
    return lambda: KeyStore(file)


def names(store: KeyStore, *made: str) -> list[str | None]:
    ring = store.current()
    assert ring is not None
    return [caller.name if (caller := ring.find(key)) else None for key in made]


def test_what_others_do_to_the_file_is_seen(file: Path, store: Callable[[], KeyStore]) -> None:
    keys = store()
    assert keys.current() is None
    alice = add_key(file, "alice", role="admin")
    assert names(keys, alice) == ["alice"]
    bob = add_key(file, "bob", role="viewer")
    assert names(keys, alice, bob) == ["alice", "bob"]
    revoke_key(file, "alice")
    assert names(keys, alice, bob) == [None, "bob"]


def test_the_file_is_looked_at_once_in_a_while(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = add_key(file, "alice", role="admin")
    monkeypatch.setattr(KeyStore, "CHECK_SECONDS", 3600.0)
    keys = KeyStore(file)
    bob = add_key(file, "bob", role="viewer")
    assert names(keys, alice, bob) == ["alice", None]
    keys.renew()
    assert names(keys, alice, bob) == ["alice", "bob"]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"keys": [{"name": "x"}]}', b"\xff\xfe"])
def test_a_file_that_is_gone_or_damaged_keeps_the_former_keys_and_is_told_of_once(
    file: Path, store: Callable[[], KeyStore], content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    alice = add_key(file, "alice", role="admin")
    keys = store()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for _ in range(5):
        assert names(keys, alice, "wrong") == ["alice", None]
    assert keys.troubled
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    file.unlink(missing_ok=True)
    assert names(keys, alice) == ["alice"]
    bob = add_key(file, "bob", role="viewer")
    assert names(keys, alice, bob) == [None, "bob"]
    assert not keys.troubled


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_a_file_that_others_may_write_to_is_not_used(
    file: Path, store: Callable[[], KeyStore], caplog: pytest.LogCaptureFixture
) -> None:
    alice = add_key(file, "alice", role="admin")
    keys = store()
    file.chmod(0o622)
    bob = add_key(file, "bob", role="admin")  # a new file in its place, of the owner alone again
    assert names(keys, alice, bob) == ["alice", "bob"]
    file.write_text(file.read_text().replace('"bob"', '"eve"'))
    file.chmod(0o662)
    assert names(keys, alice, bob) == ["alice", "bob"]
    assert "chmod go-w" in caplog.text
    with pytest.raises(KeyFileError, match="0662"):
        store()
    file.chmod(0o644)
    assert names(keys, alice, bob) == ["alice", "eve"]


def test_a_file_without_keys_lets_nobody_in(file: Path, store: Callable[[], KeyStore]) -> None:
    alice = add_key(file, "alice", role="admin")
    keys = store()
    revoke_key(file, "alice")
    assert names(keys, alice) == [None]


def test_a_damaged_file_at_the_start_is_an_error_and_none_is_none(file: Path, store: Callable[[], KeyStore]) -> None:
    assert store().current() is None
    file.parent.mkdir()
    file.write_text("{")
    with pytest.raises(KeyFileError):
        store()


def test_a_key_expires(file: Path) -> None:
    key, record = create_key(file, "alice", role="admin", expires_in=90 * 86400)
    assert record.expires_at is not None
    assert record.expires_at - record.created_at == timedelta(days=90)
    assert read_keys(file) == [record]
    caller = KeyStore(file).current().find(key)  # type: ignore[union-attr]
    assert caller is not None
    assert not caller.expired()
    over = record.model_copy(update={"expires_at": datetime.now(UTC)})
    assert over.caller().expired()
    with pytest.raises(KeyFileError, match="calendar"):
        add_key(file, "bob", role="viewer", expires_in=1e12)


def test_names_that_the_audit_has_for_others_are_taken(file: Path) -> None:
    for name in ("local", "system", "anonymous"):
        with pytest.raises(KeyFileError, match="audit"):
            add_key(file, name, role="viewer")


def test_the_last_key_that_can_make_keys_can_be_kept(file: Path) -> None:
    add_key(file, "alice", role="admin")
    add_key(file, "bob", scopes=("keys:write",))
    add_key(file, "carol", role="viewer")
    revoke_key(file, "alice", keep_keeper=True)
    with pytest.raises(LastKeeper, match="bob"):
        revoke_key(file, "bob", keep_keeper=True)
    revoke_key(file, "carol", keep_keeper=True)
    with pytest.raises(KeyUnknown):
        revoke_key(file, "carol", keep_keeper=True)
    revoke_key(file, "bob")
    assert read_keys(file) == []


def test_many_may_change_the_file_at_once(file: Path) -> None:
    threads = [threading.Thread(target=add_key, args=(file, f"key{n}"), kwargs={"role": "viewer"}) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.name for record in read_keys(file)} == {f"key{n}" for n in range(12)}
    assert list(file.parent.iterdir()) == [file]


def test_a_change_does_not_wait_for_ever_for_another_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(file, "alice", role="admin")
    monkeypatch.setattr(file_lock, "WAIT_SECONDS", 0.05)
    with file_lock.exclusively(file), pytest.raises(KeyFileError, match="another process"):
        add_key(file, "bob", role="viewer")
    add_key(file, "bob", role="viewer")


@pytest.mark.skipif(sys.platform != "win32", reason="there the lock is a file of its own")
def test_a_folder_that_may_not_be_written_to_is_told_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(file, "alice", role="admin")
    make, tried = os.open, []

    def denied(path: object, *options: Any) -> int:
        if str(path).startswith(f"{file.resolve()}."):
            tried.append(path)
            raise PermissionError(13, "Permission denied")
        return make(str(path), *options)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(KeyFileError, match=r"cannot write the key file .*: Permission denied"):
        add_key(file, "bob", role="viewer")
    assert len(tried) == 2  # the lock, and whether anything can be made there; no second attempt


@pytest.mark.skipif(sys.platform != "win32", reason="there the lock is a file of its own")
def test_a_lock_that_is_being_removed_is_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(file, "alice", role="admin")
    make, left = os.open, [True, True]

    def going(path: object, *options: Any) -> int:
        if str(path).endswith(".lock") and left:
            left.pop()
            raise PermissionError(13, "Permission denied")
        return make(str(path), *options)

    monkeypatch.setattr(os, "open", going)
    add_key(file, "bob", role="viewer")
    assert {record.name for record in read_keys(file)} == {"alice", "bob"}
    assert list(file.parent.iterdir()) == [file]


def test_a_change_that_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(file, "alice", role="admin")
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        add_key(file, "bob", role="viewer")
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(os.name == "nt", reason="needs a right there")
def test_a_link_to_the_file_stays_a_link(file: Path, tmp_path: Path) -> None:
    add_key(file, "alice", role="admin")
    link = tmp_path / "link.json"
    link.symlink_to(file)
    add_key(link, "bob", role="viewer")
    assert link.is_symlink()
    assert [entry["name"] for entry in json.loads(file.read_text())["keys"]] == ["alice", "bob"]


def test_a_file_that_is_missing_is_told_apart(file: Path) -> None:
    with pytest.raises(KeyFileMissing):
        read_keys(file)
    with pytest.raises(KeyUnknown):
        revoke_key(file, "alice")


# --- attempts ---------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_has_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    attempts = Attempts(burst=3, per_s=0.5, clock=clock)
    assert [attempts.take("192.0.2.1") for _ in range(4)] == [0, 0, 0, 2]
    assert attempts.take("192.0.2.2") == 0
    clock.now = 1.0
    assert attempts.take("192.0.2.1") == 1
    clock.now = 2.0
    assert [attempts.take("192.0.2.1") for _ in range(2)] == [0, 2]
    clock.now = 1000.0
    assert [attempts.take("192.0.2.1") for _ in range(4)] == [0, 0, 0, 2]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    attempts = Attempts(burst=1, per_s=0.001, clock=Clock())
    attempts.take(one)
    assert bool(attempts.take(other)) is same


def test_only_so_many_addresses_are_remembered() -> None:
    attempts = Attempts(burst=1, per_s=0.001, addresses=100, clock=Clock())
    for number in range(1000):
        attempts.take(f"10.0.{number // 256}.{number % 256}")
    assert len(attempts) == 100
    assert attempts.take("10.0.3.231") > 0
    assert attempts.take("10.0.0.0") == 0
