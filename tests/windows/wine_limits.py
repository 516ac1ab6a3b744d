"""The tests that Wine can't hold, each with the reason: a pytest plugin (`-p tests.windows.wine_limits`).

Nothing is dropped in silence: pytest counts them as skipped or as expected failures and prints the reasons, and a name
here that no longer is a test fails the run.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest


class Limit(NamedTuple):
    """`test` is FILE::NAME below tests/, without parameters."""

    test: str
    reason: str
    xfail: bool = False  # it runs, and must fail
    inside: bool = False  # only where the test itself is a Windows process


LIMITS = [
    Limit(
        "conformance/test_gate.py::test_who_is_refused_is_reset",
        "a reader sees the peer's reset as the end of the stream",
        xfail=True,
        inside=True,
    ),
    Limit(
        "integration/test_commands.py::test_a_forced_kick_resets_at_once",
        "a reader sees the peer's reset as the end of the stream",
        xfail=True,
        inside=True,
    ),
]


@pytest.hookimpl(tryfirst=True)  # before -k takes some away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    found = set()
    for item in items:
        name = item.nodeid.split("[")[0].removeprefix("tests/")
        for limit in LIMITS:
            if limit.test != name:
                continue
            found.add(name)
            if sys.platform == "win32" or not limit.inside:
                reason = f"Wine: {limit.reason}"
                item.add_marker(pytest.mark.xfail(reason=reason) if limit.xfail else pytest.mark.skip(reason=reason))
    if any("::" in argument for argument in config.args):
        return  # single tests were asked for
    files = {item.nodeid.split("::")[0].removeprefix("tests/") for item in items}
    gone = [limit.test for limit in LIMITS if limit.test.split("::")[0] in files and limit.test not in found]
    if gone:
        raise pytest.UsageError(f"wine_limits.py names tests that do not exist: {', '.join(gone)}")
