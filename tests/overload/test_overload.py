"""The scenarios of the overload, small. The times of a machine that does other work as well say little: here they have
a bound that a data path which waits for anything breaks by far. `python -m tests.overload` compares them in earnest."""

from __future__ import annotations

import os
import sys

import pytest

from tests.integration.server import OVERRIDE
from tests.overload.compare import compare
from tests.overload.scenarios import SCENARIOS, SMALL

STALLED_US = 250_000

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or bool(OVERRIDE), reason="its limits, processors and load programs are of Linux"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_service_bears(name: str, backend: str) -> None:
    busy = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    outcome = compare(SCENARIOS[name], SMALL, backend, rounds=1, seconds=0.7)
    assert outcome.faults(live_seconds=busy) == []
    assert outcome.loaded_us < 2 * outcome.quiet_us + STALLED_US
