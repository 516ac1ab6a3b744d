"""Fixtures: the real process on each backend, and the API in this process."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from iocpd.api.access.store import KeyStore
from iocpd.api.app import create_app
from iocpd.api.audit.trail import AuditTrail
from iocpd.api.settings import Settings
from iocpd.core import BackendUnavailable, Engine, EngineConfig, ListenerConfig, probe
from tests.integration.leaks import Leaks
from tests.integration.server import BACKENDS, OVERRIDE, Server
from tests.integration.terminal import Person
from tests.support import Client, port_of

Serve = Callable[..., Server]


@pytest.fixture(scope="session", autouse=True)
def _many_files() -> None:
    """The clients are in this process, and some tests have ten thousand."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each completion port that the server can have here."""
    name: str = request.param
    if not OVERRIDE:
        try:
            probe(name)
        except BackendUnavailable as error:
            pytest.skip(error.reason)
    return name


@pytest.fixture
def serve(backend: str, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers on the backend; what still runs afterwards is killed."""
    servers: list[Server] = []

    def begin(**options: Any) -> Server:
        state = tmp_path / f"server{len(servers)}"
        state.mkdir()
        server = Server(state, backend, **options)
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.kill()
    for server in servers:
        server.end()


@pytest.fixture
def server(serve: Serve) -> Server:
    """One with the settings that it has by itself."""
    return serve()


@pytest.fixture
def person(server: Server, tmp_path: Path) -> Person:
    """Somebody for whom the server is the one that is asked."""
    return Person(tmp_path / "home", server.leaks, IOCPD_URL=server.url)


@pytest.fixture
def stranger(tmp_path: Path) -> Person:
    """Somebody who has set nothing."""
    return Person(tmp_path / "home")


class Api:
    """The application in this process over a real engine; every call is an exchange of its own."""

    def __init__(self, app: FastAPI, engine: Engine) -> None:
        self.app = app
        self.engine = engine
        self.leaks = Leaks()
        Client.watchers[port_of(engine)] = self.leaks.note_tcp

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **options)

        answer = asyncio.run(exchange())
        self.leaks.note_request(answer.request)
        self.leaks.check_answer(answer)
        return answer


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(EngineConfig(listeners=[ListenerConfig(port=0)], workers=1)) as engine:
        yield engine


@pytest.fixture
def make_api(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[Path], Api]]:
    caplog.set_level(logging.DEBUG, "iocpd")
    state = tmp_path / "state"
    made: list[Api] = []

    def make(keys: Path) -> Api:
        audit = AuditTrail(state, max_bytes=1 << 20, files=4)
        app = create_app(engine, Settings(state_dir=state), keys=KeyStore(keys), audit=audit)
        made.append(Api(app, engine))
        return made[-1]

    yield make
    for api in made:
        api.leaks.check("the log", caplog.text.encode(errors="replace"))
        api.leaks.check_files(state.rglob("*"))
        Client.watchers.pop(port_of(api.engine), None)


@pytest.fixture
def api(make_api: Callable[[Path], Api], tmp_path: Path) -> Api:
    """Without keys."""
    return make_api(tmp_path / "state" / "keys.json")


@pytest.fixture
def api_with_keys(make_api: Callable[[Path], Api]) -> Callable[[Path], Api]:
    """With the keys of a file."""
    return make_api
