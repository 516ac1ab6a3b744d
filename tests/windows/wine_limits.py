"""The tests that Wine can't hold, each with the reason: a pytest plugin (`-p tests.windows.wine_limits`).

Nothing is dropped in silence: pytest counts them as skipped or as expected failures and prints the reasons, and a name
here that no longer is a test fails the run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest


class Limit(NamedTuple):
    """`test` is FILE::NAME below tests/, without parameters."""

    test: str
    reason: str
    xfail: bool = False  # it runs, and must fail
    inside: bool = False  # only where the test itself is a Windows process


LIMITS = [
    Limit(
        "conformance/test_limits.py::test_what_a_client_does_not_take_waits_in_its_queue_and_not_in_the_system",
        "a send ends when Linux, below, has taken it, and Linux takes megabytes",
        inside=True,
    ),
    Limit(
        "conformance/test_gate.py::test_who_is_refused_is_reset",
        "a reader sees the peer's reset as the end of the stream, if connect() has not seen it",
        inside=True,
    ),
    Limit(
        "integration/test_commands.py::test_a_forced_kick_resets_at_once",
        "a reader sees the peer's reset as the end of the stream",
        xfail=True,
        inside=True,
    ),
]

# A process of Wine begins as a Unix process (fork, fork, exec of the loader), and CreateProcess waits until it is
# a Windows one. When it dies before that, Wine says STATUS_INTERNAL_ERROR: nothing of the program has run yet, so that
# another attempt does nothing twice. Seen once in some 3,000 starts, on a machine without a free core. Windows has no
# such state, and `iocpd` itself starts no process: only tests need this.
ERROR_INTERNAL_ERROR = 1359
START_ATTEMPTS = 3
_died_before_start: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def processes_start() -> Iterator[None]:
    """CreateProcess of tests that are Windows processes tries again where Wine's process died before it began."""
    if sys.platform != "win32":
        yield
        return
    import _winapi

    create = _winapi.CreateProcess

    def create_again(*arguments: Any) -> tuple[int, int, int, int]:
        for _ in range(START_ATTEMPTS - 1):
            try:
                return create(*arguments)
            except OSError as error:
                if error.winerror != ERROR_INTERNAL_ERROR:
                    raise
                _died_before_start.append(str(arguments[1]))
        return create(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_winapi, "CreateProcess", create_again)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for command in _died_before_start:
        terminalreporter.write_line(f"Wine: a process died before it began, and was started again: {command}")


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
