"""Memory that runs out, on the real kernel: at each allocation of the engine in turn. Handles that run out are in
test_limits.py and, for the port alone, in port/accept.c."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.test_port import compiler, run_compiler

HERE = Path(__file__).parent


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is of Linux"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer has calloc for itself"),
]


def printed(tmp_path: Path, *arguments: str) -> str:
    """By exhaust.py, with the engine's allocations in its hands."""
    library = tmp_path / "exhaust.so"
    command = [*compiler("cc"), "-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    run_compiler([*command, str(HERE / "exhaust.c"), "-o", str(library), "-ldl"], tmp_path)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.conformance.exhaust", *arguments],
        cwd=HERE.parents[1],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_engine_goes_on_whichever_allocation_fails_and_gives_all_memory_back(tmp_path: Path, backend: str) -> None:
    lives = int(printed(tmp_path, "life", backend))
    assert lives > 40, "so few allocations were made to fail that it can't have been all"


def test_a_broadcast_of_a_service_without_memory_is_counted(tmp_path: Path, backend: str) -> None:
    """One needs memory twice: for its message, and to have it sent."""
    assert printed(tmp_path, "broadcast", backend).splitlines() == ["dropped", "dropped", "sent"]
