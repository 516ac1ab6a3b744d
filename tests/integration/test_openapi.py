"""The OpenAPI document is what the real process does: Schemathesis draws requests to every operation from it, good and bad
ones, and checks each answer against it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iocpd.api.keys import add_key
from tests.integration.server import OVERRIDE, Server
from tests.support import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
SEED = int(os.environ.get("IOCPD_TEST_SEED", "20250131"))
CLIENTS = 4
RUN_SECONDS = 300.0

# Each has a service of its own: a drain leaves no connections to work on, and each operation is tried with wrong keys,
# of which an address may send 20.
GROUPS = {
    "connections": ["--include-tag-regex=^(connections|messages|kicks|broadcasts|events)$"],
    "others": [
        "--include-tag-regex=^(bans|keys|audit|listeners|metrics|probes)$",
        "--include-operation-id=node-get",
        "--include-operation-id=node-reload",
    ],
    "drain": ["--include-operation-id-regex=^node-.*_drain$"],
    "shutdown": ["--include-operation-id=node-shutdown", "--include-operation-id=node-begin_drain"],
}


@contextmanager
def returning_clients(port: int) -> Iterator[None]:
    """Clients that come back when they are sent away, from another address each time, as the one may be banned."""
    over = threading.Event()
    hosts = itertools.count(1)
    sockets: set[socket.socket] = set()

    def stay() -> None:
        while not over.is_set():
            host = next(hosts)
            try:
                with socket.create_connection(
                    ("127.0.0.1", port), PATIENCE, (f"127.0.{host >> 8 & 255}.{host & 255}", 0)
                ) as client:
                    sockets.add(client)
                    client.settimeout(None)
                    while not over.is_set() and client.recv(1 << 16):
                        pass
            except OSError:
                over.wait(0.2)

    threads = [threading.Thread(target=stay) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for client in list(sockets):
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended
        for thread in threads:
            thread.join(PATIENCE)


def schemathesis(server: Server, key: str, *arguments: str, lasting: bool) -> subprocess.CompletedProcess[str]:
    """`st run` over the operations that are named, with requests enough for some twenty seconds."""
    command = [
        str(Path(sysconfig.get_path("scripts")) / "st"),
        f"--config-file={CONFIG}",
        "run",
        f"{server.url}/openapi.json",
        "--phases=examples,coverage,fuzzing,stateful",
        "--checks=all",
        "--max-examples=10",
        f"--seed={SEED}",
        "--workers=1",
        "--request-timeout=30",
        "--continue-on-failure",
        "--suppress-health-check=all",
        "--no-color",
        *arguments,
    ]
    connection = server.get("/v1/connections", limit=1)["items"][0]["id"]
    more = {"IOCPD_TEST_KEY": key, "IOCPD_TEST_CONNECTION": connection, "IOCPD_TEST_LASTING": str(int(lasting))}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(OVERRIDE), reason="the document and what answers it are the same on every system")
@pytest.mark.parametrize("group", GROUPS)
def test_every_operation_does_what_the_document_says(group: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key = add_key(keys, "admin", role="admin")
    with Server(tmp_path, key=key, keys_file=keys) as server, returning_clients(server.port):
        eventually(lambda: server.count() == CLIENTS)
        ran = schemathesis(server, key, *GROUPS[group], lasting=group == "shutdown")
        print(ran.stdout)
        assert ran.returncode == 0, "Schemathesis has found something: see its output"
        if group == "shutdown":
            assert server.drain()["then"] == "shutdown"
            server.http.post("/v1/node/shutdown", json={"deadline": "0s"})
            assert server.wait() == 0
        else:
            assert server.get("/livez") == {"status": "live"}
