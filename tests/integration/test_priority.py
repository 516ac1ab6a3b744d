"""The thread of the API gives way to the engine's where processors are few (core.lower_priority)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from iocpd.core import Service, ServiceConnection
from tests.integration.conftest import Serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Windows has no priority that would do it")


class Silent(Service):
    """Takes everything and says nothing."""

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        pass


def nice_values(process: int) -> dict[str, int]:
    """By the names of its threads; "main" is the first, which the event loop of the API runs in."""
    found = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        # From the third field on; the nice value is the nineteenth (proc_pid_stat(5)).
        found["main" if task.name == str(process) else name] = int(rest.split()[19 - 3])
    return found


def test_the_api_has_the_lowest_claim_to_a_processor(serve: Serve) -> None:
    server = serve(workers=2)
    found = nice_values(server.process.pid)
    assert found["main"] == 15
    assert found["iocpd-0"] == found["iocpd-1"] == 0


def test_it_gives_nothing_away_beside_a_service_in_python_which_shares_its_lock(serve: Serve) -> None:
    server = serve(tcp=(f"127.0.0.1:0/python:{__name__}:Silent",), workers=1)
    assert set(nice_values(server.process.pid).values()) == {0}
