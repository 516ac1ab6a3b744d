"""A pytest plugin of the Windows Python: after each test, all blocks of all heaps are looked at. Wine, with its checks
on, then says what was written behind a block, or to one that was freed."""

from __future__ import annotations

import ctypes

import pytest

kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
kernel32.GetProcessHeaps.argtypes = [ctypes.c_uint32, ctypes.c_void_p]
kernel32.HeapValidate.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p]


def validate() -> bool:
    """Whether nothing was found."""
    heaps = (ctypes.c_void_p * 64)()
    count = kernel32.GetProcessHeaps(len(heaps), heaps)
    assert 0 < count <= len(heaps)
    return all(kernel32.HeapValidate(heap, 0, None) for heap in heaps[:count])


@pytest.hookimpl(tryfirst=True)  # while what a test has made is still there
def pytest_runtest_teardown() -> None:
    assert validate(), "something was written where it must not be: Wine has said where"
