#!/usr/bin/env -S python3 -IS
"""wine.py PROGRAM ARGUMENTS...: runs a Windows program; `python` is the Windows Python.

For its caller it is a program like any other:

  streams    Pipes for the Windows program, copied from its output to whatever the caller gave: Windows Python does not
             start under Wine on a plain file. stdin is passed on when it is a pipe, and is empty otherwise.
  status     0 to 255 as it is; more than that (0xC0000005) is said on stderr and becomes 255; killed: 128 + signal.
             255 too when Wine's checks of the heap have found something, if WINEDEBUG asks for them.
  signals    SIGINT and SIGTERM arrive as CTRL_C_EVENT. A signal within 0.3 s of another is the same one. Windows has no
             SIGTERM that a program could catch, and Wine 8 has no CTRL_BREAK_EVENT.
  children   All Windows processes that it has started end with it, also after kill -9.

It imports nothing of the project, so that `-IS` starts it fast.
"""

import contextlib
import fcntl
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

TOP = Path(__file__).resolve().parents[2]
PACKAGES = TOP / "build" / "windows"  # what build.py makes, on the Windows Python's path
CACHE = Path(
    os.environ.get("IOCPD_WINDOWS_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iocpd-windows"
).absolute()
PYTHON = CACHE / "python"
LAUNCHER = CACHE / "launch.exe"
# Debian's own names: /usr/bin/wine may be a script that looks for a 32-bit Wine.
WINE, WINESERVER = "/usr/lib/wine/wine64", "/usr/lib/wine/wineserver64"

_STATUS_MASK = 0xA5  # see launch.c
_SAME_SIGNAL_S = 0.3  # timeout(1) sends its signal to the process and to the group
_SERVICES_STAY_S = 300
_HEAP_COMPLAINT = re.compile(rb"[0-9a-f]{4}:(?:err|warn):heap:")
_COMPLAINT_BYTES = 20  # at most


def windows_path(path: str | Path) -> str:
    """/a/b as Windows programs call it."""
    return "Z:" + os.path.abspath(path).replace("/", "\\")


def environment() -> dict[str, str]:
    """This process's, fit for Wine."""
    env = dict(os.environ)
    # A display is not needed, the others would lead to another Wine or another Python; the last is ours, and a service
    # would warn of it as no setting of its own.
    others = ("DISPLAY", "WAYLAND_DISPLAY", "WINEARCH", "WINELOADER", "WINESERVER", "PYTHONHOME", "VIRTUAL_ENV")
    for name in (*others, "IOCPD_WINDOWS_CACHE"):
        env.pop(name, None)
    env["WINEPREFIX"] = str(CACHE / "prefix")
    env["WINEDLLOVERRIDES"] = "mscoree,mshtml,winemenubuilder.exe="
    env.setdefault("WINEDEBUG", "-all")
    env["PYTHONUTF8"] = "1"
    env.setdefault("PYTHONPATH", windows_path(PACKAGES))
    # Bytecode that Windows Python writes stays out of the source tree.
    env.setdefault("PYTHONPYCACHEPREFIX", windows_path(CACHE / "pycache"))
    if "utf" not in (env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or "").lower():
        env["LC_ALL"] = "C.UTF-8"  # or Wine mangles arguments
    return env


def quietly(*command: str) -> int:
    """Runs a part of Wine that may leave processes behind: they hold no file of ours. Its exit status."""
    null = subprocess.DEVNULL
    return subprocess.run(command, env=environment(), stdin=null, stdout=null, stderr=null, cwd="/").returncode


def start_services() -> None:
    """Has Wine's server and services up; they stay for a while after the last program."""
    with (CACHE / "services.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if quietly(WINESERVER, f"-p{_SERVICES_STAY_S}") == 0:  # it did not run before
            quietly(WINE, "wineboot")


def stop_services() -> None:
    """Ends every program in the prefix too."""
    quietly(WINESERVER, "-k")


def _copy(source: int, target: int, complaints: list[bytes]) -> None:
    last = b""
    with contextlib.suppress(OSError):  # the caller reads no more
        while data := os.read(source, 65536):
            last = last[-_COMPLAINT_BYTES:] + data
            complaints += _HEAP_COMPLAINT.findall(last)
            left = memoryview(data)
            while left:
                left = left[os.write(target, left) :]
    os.close(source)  # so that the program sees it too


def _is_pipe(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


def main(arguments: list[str]) -> int:
    """Runs the program to its end; the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    if not LAUNCHER.exists():
        print(f"{CACHE} is not set up: run `python -m tests.windows setup`", file=sys.stderr)
        return 127
    program = PYTHON / "python.exe" if arguments[0] == "python" else Path(arguments[0])
    # Wine's server holds a descriptor for each socket of each program, and takes the limit from the first.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    start_services()

    process: subprocess.Popen[bytes] | None = None
    signals: list[float] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if signals and time.monotonic() - signals[-1] < _SAME_SIGNAL_S:
            return
        signals.append(time.monotonic())
        if process:
            process.send_signal(signal.SIGINT)

    forwarded = (signal.SIGINT, signal.SIGTERM)
    for number in forwarded:
        signal.signal(number, forward)
    one_output = os.path.samestat(os.fstat(1), os.fstat(2))  # 2>&1: keeps the order of the lines
    process = subprocess.Popen(
        # Killed when this process dies, and with it all of its Windows job.
        ["/usr/bin/setpriv", "--pdeathsig", "KILL", WINE, str(LAUNCHER), windows_path(program), *arguments[1:]],
        env=environment(),
        stdin=0 if _is_pipe(0) else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if one_output else subprocess.PIPE,
        start_new_session=True,
    )
    if signals:
        process.send_signal(signal.SIGINT)
    assert process.stdout
    complaints: list[bytes] = []
    copies = [threading.Thread(target=_copy, args=(process.stdout.fileno(), 1, complaints), daemon=True)]
    if process.stderr:
        copies.append(threading.Thread(target=_copy, args=(process.stderr.fileno(), 2, complaints), daemon=True))
    # Of two signals at once another thread may take both (Linux wakes one for each, and either can take what is there),
    # and then nothing would interrupt this one's wait, in which alone Python runs handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
    for copy in copies:
        copy.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)

    code = process.wait()
    for number in forwarded:
        signal.signal(number, signal.SIG_IGN)
    for copy in copies:
        copy.join(5)  # bounded, should something else hold the pipe
    if complaints and "heap" in os.environ.get("WINEDEBUG", ""):
        return 255
    if code < 0:
        return 128 - code
    if code == 0:  # Wine ends the launcher with 0 on a Ctrl-C that comes before it is ready
        return 130
    return code ^ _STATUS_MASK


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
