"""Memory that runs out, on the real kernel: at each allocation of the engine in turn. Handles that run out are in
test_limits.py and, for the port alone, in port/accept.c."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from iocpd.core import BackendUnavailable, probe
from tests.conformance.test_port import WINDOWS, compiler, run_compiler

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer has calloc for itself")


@pytest.fixture(params=("io_uring", "epoll", "iocp"))
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "iocp" and not WINDOWS:
        if "IOCPD_WINRUN" not in os.environ:
            pytest.skip("the completion port of Windows needs IOCPD_WINRUN, a command that runs a Windows program")
        return name
    try:
        probe(name)
    except BackendUnavailable as error:
        pytest.skip(error.reason)
    return name


def compile_for_linux(library: Path) -> None:
    options = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    run_compiler([*compiler("cc"), *options, str(HERE / "exhaust.c"), "-o", str(library), "-ldl"], library.parent)


def compile_for_windows(library: Path) -> None:
    command = compiler("cl", "gcc", "clang") if WINDOWS else compiler("x86_64-w64-mingw32-gcc", variable="IOCPD_WINCC")
    if Path(command[0]).stem.lower() == "cl":
        command += ["/nologo", "/std:c11", "/O1", "/W3", "/LD", str(HERE / "exhaust.c"), f"/Fe:{library}"]
    else:
        options = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-static"]
        command += [*options, str(HERE / "exhaust.c"), "-o", str(library)]
    run_compiler(command, library.parent)


def printed(tmp_path: Path, what: str, backend: str) -> str:
    """By exhaust.py, with the engine's allocations in its hands."""
    if backend == "iocp":
        library = tmp_path / "exhaust.dll"
        compile_for_windows(library)
        python = [sys.executable] if WINDOWS else [*shlex.split(os.environ["IOCPD_WINRUN"]), "python"]
        named = str(library) if WINDOWS else "Z:" + str(library).replace("/", "\\")
        environment = {"IOCPD_EXHAUST": named}
    else:
        library = tmp_path / "exhaust.so"
        compile_for_linux(library)
        python = [sys.executable]
        environment = {"IOCPD_EXHAUST": str(library), "LD_PRELOAD": str(library)}
    done = subprocess.run(
        [*python, "-X", "faulthandler", "-m", "tests.conformance.exhaust", what, backend],
        cwd=HERE.parents[1],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_engine_goes_on_whichever_allocation_fails_and_gives_all_memory_back(tmp_path: Path, backend: str) -> None:
    lives = int(printed(tmp_path, "life", backend))
    assert lives > 100, "so few allocations were made to fail that it can't have been all"


def test_a_broadcast_of_a_service_without_memory_is_counted(tmp_path: Path, backend: str) -> None:
    """One needs memory twice: for its message, and to have it sent."""
    assert printed(tmp_path, "broadcast", backend).splitlines() == ["dropped", "dropped", "sent"]
