"""python -m tests.windows COMMAND: see the package's text."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests import windows
from tests.windows import wine
from tests.windows.build import build
from tests.windows.machine import SetupFailure, say, setup
from tests.windows.wine import CACHE, TOP

RUN = [sys.executable, "-IS", str(Path(__file__).with_name("wine.py"))]
# Each test of tests/integration is in one of the two: a server under Wine takes seconds to start.
INTEGRATION_INSIDE = [
    *(f"tests/integration/test_{name}.py" for name in ("access", "api", "commands", "http_server", "settings")),
    *(f"tests/integration/test_{name}.py" for name in ("bans", "broadcasts", "kicks", "labels")),
]
# These speak HTTP and do not know what they talk to, or are of Unix: one system is enough for them.
INTEGRATION_ELSEWHERE = [
    *(f"tests/integration/test_{name}.py" for name in ("audit", "cli", "client", "clock", "crash", "events")),
    *(
        f"tests/integration/test_{name}.py"
        for name in ("crash_points", "handles", "hostile", "idempotency", "keys", "machine", "metrics")
    ),
    *(f"tests/integration/test_{name}.py" for name in ("openapi", "priority", "reload", "supervisor")),
]
INTEGRATION_OUTSIDE = [
    "tests/integration",
    *(f"--ignore={file}" for file in (*INTEGRATION_INSIDE, *INTEGRATION_ELSEWHERE)),
]
# Wine fills what is freed, checks what is passed to the heap, and says so when it is wrong; wine.py then ends with 255.
HEAP_CHECKS = "-all,err+heap,warn+heap"
# Misuses that the checks must report; nothing else comes of them. heap_checks.py has all that is allocated or was freed
# last looked at, which is when Wine sees what was written where it must not be.
MISUSES = {
    "a block that is freed twice": "free(block); free(block)",
    "a byte written behind a block": "ctypes.memset(block + 100, 1, 1); validate()",
    "a byte written to a block that is freed": "free(block); ctypes.memset(block + 50, 1, 1); validate()",
}
MISUSE = """
import ctypes
from tests.windows.heap_checks import kernel32, validate
heap, void = ctypes.c_void_p, ctypes.c_void_p
kernel32.GetProcessHeap.restype = heap
kernel32.HeapAlloc.restype = void
kernel32.HeapAlloc.argtypes = [heap, ctypes.c_uint32, ctypes.c_size_t]
kernel32.HeapFree.argtypes = [heap, ctypes.c_uint32, void]
at = kernel32.GetProcessHeap()
block = kernel32.HeapAlloc(at, 0, 100)
def free(block): kernel32.HeapFree(at, 0, block)
"""
PYTEST = ["-m", "pytest", "-q", "-rsx", "-p", "no:cacheprovider", "-p", "tests.windows.wine_limits"]


def _pytest(command: list[str], arguments: list[str], **variables: str) -> int:
    environment = os.environ | {"IOCPD_WINDOWS_CACHE": str(CACHE)} | variables
    return subprocess.run([*command, *PYTEST, *arguments], cwd=TOP, env=environment).returncode


def inside(options: list[str]) -> int:
    """Windows Python runs the tests: the engine over cffi, and the API in its own process."""
    return _pytest([*RUN, "python"], ["tests/unit", *INTEGRATION_INSIDE, *options])


def _heap_is_checked() -> bool:
    """Whether the checks see each misuse, and none where there is none; a lane that can't fail says nothing."""
    environment = os.environ | {"IOCPD_WINDOWS_CACHE": str(CACHE), "WINEDEBUG": HEAP_CHECKS}
    for name, misuse in {"nothing": "validate()", **MISUSES}.items():
        command = [*RUN, "python", "-c", f"{MISUSE}\n{misuse}"]
        status = subprocess.run(command, cwd=TOP, env=environment, stderr=subprocess.DEVNULL).returncode
        if status != (255 if name in MISUSES else 0):
            say(f"Wine's checks of the heap tell {name} with status {status}, so the lane would say nothing")
            return False
    return True


def heap(options: list[str]) -> int:
    """Windows Python runs the engine's tests, and Wine checks each use of the heap."""
    if not _heap_is_checked():
        return 1
    tests = ["-p", "tests.windows.heap_checks", "tests/conformance", "--ignore=tests/conformance/test_port.py"]
    return _pytest([*RUN, "python"], [*tests, *options], WINEDEBUG=HEAP_CHECKS)


def port(options: list[str]) -> int:
    """The port's C program, built for Windows, and memory that runs out, with the heap checked; Linux pytest runs the
    tests one by one."""
    if not _heap_is_checked():
        return 1
    tests = ["tests/conformance/test_port.py", "tests/conformance/test_exhaustion.py", "-k", "iocp"]
    return _pytest([sys.executable], [*tests, *options], IOCPD_WINRUN=" ".join(RUN), WINEDEBUG=HEAP_CHECKS)


def outside(options: list[str]) -> int:
    """Linux Python runs the tests against `iocpd serve` in a Windows process."""
    # Tests start the server in an environment without IOCPD_*.
    command = ["env", f"IOCPD_WINDOWS_CACHE={CACHE}", *RUN, "python", "-m", "iocpd.api", "serve"]
    return _pytest([sys.executable], [*INTEGRATION_OUTSIDE, *options], IOCPD_SERVE_COMMAND=" ".join(command))


LANES: dict[str, Callable[[list[str]], int]] = {"inside": inside, "heap": heap, "port": port, "outside": outside}


def test(lanes: list[str], options: list[str]) -> int:
    """0 when every lane has passed."""
    failed = []
    for lane in lanes:
        say(f"{lane}: {LANES[lane].__doc__}")
        began = time.monotonic()
        status = LANES[lane](options)
        say(f"{lane}: {'failed' if status else 'passed'} ({time.monotonic() - began:.0f} s)")
        if status:
            failed.append(lane)
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.windows",
        description=windows.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("setup", help="make this machine ready")
    commands.add_parser("build", help="compile the engine for Windows")
    tests = commands.add_parser("test", help="setup, build, and run the tests")
    names = "; ".join(f"{name}: {lane.__doc__}" for name, lane in LANES.items())
    tests.add_argument("lanes", nargs="*", metavar="LANE", help=f"default: all of them. {names}")
    tests.add_argument("--no-build", action="store_true", help="take what is there")
    tests.add_argument("--pytest", action="append", default=[], metavar="OPTION", help="for pytest: --pytest=-x")
    run = commands.add_parser("run", help="run `python` or a Windows program", add_help=False)
    run.add_argument("program", nargs=argparse.REMAINDER)
    commands.add_parser("stop", help="end Wine's services and every program in its prefix")
    options = parser.parse_args()

    if options.command == "run":
        return wine.main(options.program)
    if options.command == "stop":
        wine.stop_services()
        return 0
    if unknown := [lane for lane in getattr(options, "lanes", []) if lane not in LANES]:
        parser.error(f"no such lane: {', '.join(unknown)}; there are {', '.join(LANES)}")
    try:
        if not getattr(options, "no_build", False):
            setup()
            if options.command == "setup":
                return 0
            say(f"built {build().relative_to(TOP)}")
    except SetupFailure as failure:
        say(f"failed: {failure}")
        return 1
    return test(options.lanes or list(LANES), options.pytest) if options.command == "test" else 0


if __name__ == "__main__":
    sys.exit(main())
