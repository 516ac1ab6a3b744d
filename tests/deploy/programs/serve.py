"""`iocpd serve` that obeys the launcher's events, for as long as the service itself does not.

IOCPD_STOP_EVENT: a thread waits for it and begins the drain, as a signal does. IOCPD_READY_EVENT: set when the service
says that it is ready.
"""

import ctypes
import os
import signal
import sys
import threading

from iocpd.api import server
from iocpd.api.cli import main

SYNCHRONIZE, EVENT_MODIFY_STATE, FOREVER = 0x00100000, 0x0002, 0xFFFFFFFF

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
kernel32.OpenEventW.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_wchar_p)
kernel32.OpenEventW.restype = ctypes.c_void_p
kernel32.WaitForSingleObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
kernel32.SetEvent.argtypes = (ctypes.c_void_p,)


def open_event(variable, access):
    handle = kernel32.OpenEventW(access, False, os.environ[variable])
    if not handle:
        raise ctypes.WinError(ctypes.get_last_error())
    return handle


def stop_when_told(handle):
    kernel32.WaitForSingleObject(handle, FOREVER)
    signal.raise_signal(signal.SIGBREAK)


def say(line, say=server.say):
    say(line)
    if line == "ready":
        kernel32.SetEvent(open_event("IOCPD_READY_EVENT", EVENT_MODIFY_STATE))


server.say = say
threading.Thread(target=stop_when_told, args=(open_event("IOCPD_STOP_EVENT", SYNCHRONIZE),), daemon=True).start()
sys.exit(main(sys.argv[1:]))
