"""What only Windows can tell. Imported there alone."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from ctypes import wintypes

_QUERY = 0x0400 | 0x0010  # PROCESS_QUERY_INFORMATION | PROCESS_VM_READ
_ALL = 3  # LIST_MODULES_ALL
_MOST = 1024


def modules_of_serve() -> set[str]:
    """The libraries, in small letters, that a process has loaded once it has imported all that `iocpd serve` needs.

    This process can't look at itself: ctypes, by which it looks, loads user32.
    """
    code = "import sys, iocpd.api.server; print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            return _modules_of(child.pid)
        finally:
            child.kill()


def _modules_of(process: int) -> set[str]:
    if sys.platform != "win32":
        raise AssertionError("imported on Windows alone")
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.OpenProcess.restype = wintypes.HANDLE
    kernel32.K32EnumProcessModulesEx.argtypes = (
        wintypes.HANDLE,
        ctypes.c_void_p,
        wintypes.DWORD,
        ctypes.POINTER(wintypes.DWORD),
        wintypes.DWORD,
    )
    kernel32.K32GetModuleBaseNameW.argtypes = (wintypes.HANDLE, wintypes.HMODULE, wintypes.LPWSTR, wintypes.DWORD)
    kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
    handle = kernel32.OpenProcess(_QUERY, False, process)
    if not handle:
        return set()
    try:
        modules, needed = (wintypes.HMODULE * _MOST)(), wintypes.DWORD()
        if not kernel32.K32EnumProcessModulesEx(handle, modules, ctypes.sizeof(modules), ctypes.byref(needed), _ALL):
            return set()
        names = set()
        name = ctypes.create_unicode_buffer(260)
        for module in modules[: min(needed.value // ctypes.sizeof(wintypes.HMODULE), _MOST)]:
            if kernel32.K32GetModuleBaseNameW(handle, module, name, len(name)):
                names.add(name.value.lower())
        return names
    finally:
        kernel32.CloseHandle(handle)
