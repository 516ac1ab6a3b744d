"""The load programs of tests/bench are compiled when they are first needed: here all of them are."""

import shutil
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[1] / "bench" / "native"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not any(map(shutil.which, ("gcc", "cc"))),
    reason="they are of Linux, and need a compiler",
)


@pytest.mark.parametrize("name", sorted(source.stem for source in NATIVE.glob("*.c")))
def test_a_load_program_compiles(name: str) -> None:
    from tests.bench.toolchain import LoadProgram

    LoadProgram(name)
