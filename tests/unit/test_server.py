"""What a process of the service asks of its system."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from iocpd.api import server


def test_a_crash_on_windows_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(
        ctypes,
        "WinDLL",
        lambda name: SimpleNamespace(WerSetFlags=lambda flags: asked.append((name, flags))),
        raising=False,
    )
    server._crash_without_a_window()
    assert asked == [("kernel32", 0x20)]  # WER_FAULT_REPORTING_NO_UI
