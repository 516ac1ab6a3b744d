"""The promises of core/native/port.h, held against every driver: port/port_conformance.c as pytest tests.

The names of the tests are read from the C files; the program is compiled when the first of them runs. Settings:

  CC               the compiler (on Linux cc, on Windows the first of cl, gcc and clang that there is)
  IOCPD_SANITIZE   on Linux: what -fsanitize is given, such as address,undefined or thread
  IOCPD_WINRUN     on Linux: a command that runs a Windows program. Then the completion port of Windows is tested too,
                   compiled by IOCPD_WINCC (x86_64-w64-mingw32-gcc)
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "port"
NATIVE = Path(__file__).parents[2] / "core" / "native"
WINDOWS = sys.platform == "win32"
# iocp-packets: no completion is skipped, as on a layered Winsock provider.
WINDOWS_DRIVERS = ("iocp", "iocp-packets")
DRIVERS = WINDOWS_DRIVERS if WINDOWS else ("io_uring", "epoll", *WINDOWS_DRIVERS)
SECONDS = 60  # a test has limits of its own; this one is for a driver that never comes back
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
FAULTS = str(HERE / "faults.h")
DRIVER_FILES = (
    NATIVE / "platform.c",
    NATIVE / "buffer.c",
    *(sorted((*NATIVE.glob("port_*.c"), *NATIVE.glob("iocp_*.c")))),
)
SOURCES = [str(file) for file in (*DRIVER_FILES, *sorted(HERE.glob("*.c")))]


def names(driver: str) -> Iterator[str]:
    """What the C files' tables hold for this driver."""
    for source in sorted(HERE.glob("*.c")):
        for only, name in re.findall(
            r"^    TEST(?:_WITH)?(?:_OF\((\w+), |\()(\w+)\b", source.read_text(), re.MULTILINE
        ):
            if not only or driver.startswith(only):
                yield name


def compiler(default: str, *others: str, variable: str = "CC") -> list[str]:
    chosen = os.environ.get(variable)
    if chosen:
        return shlex.split(chosen)
    found = next(filter(None, map(shutil.which, (default, *others))), None)
    if not found:
        pytest.skip(f"no compiler here ({', '.join((default, *others))})")
    return [found]


def compile_for_linux(program: Path) -> None:
    sanitize = os.environ.get("IOCPD_SANITIZE")
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] if sanitize else []
    command = [*compiler("cc"), "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", *WARNINGS, *flags, f"-I{NATIVE}", f"-I{HERE}"]
    run_compiler([*command, "-include", FAULTS, *SOURCES, "-o", str(program), "-pthread"], program.parent)


def compile_for_windows(program: Path) -> None:
    command = compiler("cl", "gcc", "clang") if WINDOWS else compiler("x86_64-w64-mingw32-gcc", variable="IOCPD_WINCC")
    if Path(command[0]).stem.lower() == "cl":
        command += ["/nologo", "/std:c11", "/O1", "/Zi", "/W3", f"/I{NATIVE}", f"/I{HERE}", f"/FI{FAULTS}"]
        command += [*SOURCES, f"/Fe:{program}", "ws2_32.lib", "mswsock.lib"]
    else:
        command += ["-std=c11", "-O1", "-g", *WARNINGS, "-static", f"-I{NATIVE}", f"-I{HERE}", "-include", FAULTS]
        command += [*SOURCES, "-o", str(program), "-lws2_32", "-lmswsock"]
    run_compiler(command, program.parent)


def run_compiler(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.fail(f"{shlex.join(command)}\n{done.stdout}", pytrace=False)


@pytest.fixture(scope="session")
def linux_program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    program = tmp_path_factory.mktemp("port") / "port_conformance"
    compile_for_linux(program)
    return [str(program)]


@pytest.fixture(scope="session")
def windows_program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    runner = [] if WINDOWS else shlex.split(os.environ.get("IOCPD_WINRUN", ""))
    if not WINDOWS and not runner:
        pytest.skip("the completion port of Windows needs IOCPD_WINRUN, a command that runs a Windows program")
    program = tmp_path_factory.mktemp("port") / "port_conformance.exe"
    compile_for_windows(program)
    return [*runner, str(program)]


@pytest.fixture
def program(driver: str, request: pytest.FixtureRequest) -> list[str]:
    """The command up to the driver's name."""
    windows = driver in WINDOWS_DRIVERS
    return [*request.getfixturevalue("windows_program" if windows else "linux_program"), driver]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS
    )


@pytest.mark.parametrize("driver", DRIVERS)
def test_program_has_every_test_that_is_named_here(driver: str, program: list[str]) -> None:
    assert sorted(run([*program, "--list"]).stdout.split()) == sorted(names(driver))


@pytest.mark.parametrize(("driver", "name"), [(driver, name) for driver in DRIVERS for name in names(driver)])
def test_port(driver: str, name: str, program: list[str]) -> None:
    done = run([*program, name])
    if skipped := re.search(rf"^skip {name}: (.*)$", done.stdout, re.MULTILINE):
        pytest.skip(skipped[1])
    if done.returncode or f"ok {name}\n" not in done.stdout:
        pytest.fail(f"{shlex.join([*program, name])} ended with status {done.returncode}\n{done.stdout}", pytrace=False)
