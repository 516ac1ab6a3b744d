"""Files that are there as a whole."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from iocpd.api import durable
from iocpd.api.durable import replace_file
from tests.support import PATIENCE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "file"
    replace_file(path, [b"for", b"mer"])
    return path


def test_a_file_that_somebody_reads_is_replaced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, replace = threading.Event(), durable._move

    def watched(*names: Any) -> None:
        try:
            replace(*names)
        finally:
            tried.set()

    monkeypatch.setattr(durable, "_move", watched)
    writer = threading.Thread(target=replace_file, args=(file, [b"latter"]))
    with file.open("rb") as reader:
        writer.start()
        assert tried.wait(PATIENCE)
        assert reader.read() == b"former"
    writer.join(PATIENCE)
    assert file.read_bytes() == b"latter"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere the folder is flushed")
def test_a_move_is_on_the_disk_when_it_returns(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    move = durable._move_file  # type: ignore[attr-defined,unused-ignore]

    def noting(temporary: str, path: str, flags: int) -> int:
        asked.append(flags)
        return int(move(temporary, path, flags))

    monkeypatch.setattr(durable, "_move_file", noting)
    replace_file(file, [b"latter"])
    assert asked == [0x1 | 0x8]  # MOVEFILE_REPLACE_EXISTING, MOVEFILE_WRITE_THROUGH
    assert file.read_bytes() == b"latter"


def test_one_that_becomes_free_is_replaced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows has it, on every system."""
    refusals, replace = iter([PermissionError(13, "Access denied")] * 3), durable._move

    def refused_at_first(*names: Any) -> None:
        for refusal in refusals:
            raise refusal
        replace(*names)

    monkeypatch.setattr(durable, "_move", refused_at_first)
    monkeypatch.setattr(durable, "WAIT_SECONDS", PATIENCE)
    replace_file(file, [b"latter"])
    assert file.read_bytes() == b"latter"


def test_one_that_is_never_free_stays_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*names: Any) -> None:
        raise PermissionError(13, "Access denied")

    monkeypatch.setattr(durable, "_move", refused)
    monkeypatch.setattr(durable, "WAIT_SECONDS", 0.05)
    with pytest.raises(PermissionError, match="Access denied"):
        replace_file(file, [b"latter"])
    assert file.read_bytes() == b"former"
    assert list(file.parent.iterdir()) == [file]


def test_without_a_handle_for_the_file_or_for_the_folder_it_stays_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, handles = os.open, 0

    def limited(*arguments: Any) -> int:
        nonlocal handles
        if not handles:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        handles -= 1
        return opened(*arguments)

    monkeypatch.setattr(os, "open", limited)
    for given in range(1 if os.name == "nt" else 2):
        handles = given
        with pytest.raises(OSError, match="Too many open files"):
            replace_file(file, [b"latter"])
        assert handles == 0
        assert file.read_bytes() == b"former"
        assert os.listdir(file.parent) == [file.name]
