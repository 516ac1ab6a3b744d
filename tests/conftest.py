"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from iocpd.core import BackendUnavailable, Engine, EngineConfig, ListenerConfig, probe
from iocpd.core._native import lib
from tests.python_services import Gate
from tests.support import BACKENDS

Start = Callable[..., Engine]

_failed = pytest.StashKey[bool]()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each completion port that there is on this system."""
    name: str = request.param
    try:
        probe(name)
    except BackendUnavailable as error:
        pytest.skip(error.reason)
    return name


@pytest.fixture
def start(backend: str, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts engines: `start("echo", "relay", workers=1)` listens on 127.0.0.1 with ports that the system chooses.

    A service may also be a ListenerConfig. Afterwards the engines are stopped, and must have given all memory back.
    """
    engines: list[Engine] = []
    allocations = lib.iocpd_allocations()

    def begin(*listeners: str | ListenerConfig, **options: Any) -> Engine:
        configs = [ListenerConfig(port=0, service=each) if isinstance(each, str) else each for each in listeners]
        options = {"workers": 2} | options
        engine = Engine(EngineConfig(listeners=configs, backend=backend, **options))
        engines.append(engine)
        engine.start()
        return engine

    yield begin
    while engines:
        engines.pop().stop(deadline=0)
    if not request.node.stash.get(_failed, False):  # a failed test's traceback holds its engine
        gc.collect()
        assert lib.iocpd_allocations() <= allocations, "the engine kept memory"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture
def gate() -> Iterator[type[Gate]]:
    """A service that handles nothing before `gate.open.set()`."""
    Gate.open = threading.Event()
    yield Gate
    Gate.open.set()
