"""Whoever has started this process and wants to know how it is: systemd, or the Windows launcher.

systemd (sd_notify(3)): NOTIFY_SOCKET is told READY=1, STOPPING=1, and WATCHDOG=1 from the event loop, so that a loop
that hangs is noticed. The Windows launcher: IOCPD_READY_EVENT is set when the service is ready, and IOCPD_STOP_EVENT,
once set, is a signal to drain, since a service or a container there gets no signal. Without them nothing happens here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

_SYNCHRONIZE, _EVENT_MODIFY_STATE, _FOREVER = 0x00100000, 0x0002, 0xFFFFFFFF
_WAIT_OBJECT_0 = 0


class Supervisor:
    """Tells the one that there is. For the event loop's thread alone."""

    def __init__(self) -> None:
        self._watchdog: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """The service serves. Starts the watchdog, if one is asked for."""
        _notify("READY=1")
        if (seconds := _watchdog_seconds()) is not None:
            self._watchdog = asyncio.get_running_loop().create_task(_feed(seconds))
        name = os.environ.get("IOCPD_READY_EVENT", "")
        if os.name == "nt" and name:
            kernel32 = _kernel32()
            event = kernel32.OpenEventW(_EVENT_MODIFY_STATE, False, name)
            if event:
                kernel32.SetEvent(event)
                kernel32.CloseHandle(event)

    def stopping(self) -> None:
        """The service drains and will end."""
        _notify("STOPPING=1")

    def end(self) -> None:
        """The service has stopped."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    def on_stop(self, stop: Callable[[], object]) -> None:
        """Has `stop` called, in a thread of its own, when the launcher wants the service to end. RuntimeError if the
        event that it has named can't be waited for."""
        name = os.environ.get("IOCPD_STOP_EVENT", "")
        if os.name != "nt" or not name:
            return
        kernel32 = _kernel32()
        event = kernel32.OpenEventW(_SYNCHRONIZE, False, name)
        if not event:
            raise RuntimeError(f"IOCPD_STOP_EVENT names {name!r}, and there is no such event that may be waited for")

        def wait() -> None:
            if kernel32.WaitForSingleObject(event, _FOREVER) == _WAIT_OBJECT_0:
                stop()

        threading.Thread(target=wait, name="iocpd-stop-event", daemon=True).start()


def _notify(state: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET")
    if not path or sys.platform == "win32":
        return
    # Nobody may be there any more: that is no reason to fail.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + path[1:] if path.startswith("@") else path)
        channel.send(state.encode())


def _watchdog_seconds() -> float | None:
    """How often to tell; None: no need to. The variables are of this process alone if WATCHDOG_PID says so."""
    period, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not period.isdigit() or int(period) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(period) / 2e6


async def _feed(seconds: float) -> None:
    while True:
        _notify("WATCHDOG=1")
        await asyncio.sleep(seconds)


def _kernel32() -> Any:
    """By cffi and not by ctypes, which loads user32 on Windows: such a process is not told of a shutdown."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(
        """
        void *OpenEventW(uint32_t access, int inherit, const wchar_t *name);
        uint32_t WaitForSingleObject(void *handle, uint32_t milliseconds);
        int SetEvent(void *handle);
        int CloseHandle(void *handle);
        """
    )
    return ffi.dlopen("kernel32.dll")
