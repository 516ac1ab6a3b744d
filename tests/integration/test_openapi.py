"""The real process does what the OpenAPI document says: Schemathesis draws requests to every operation from it, good
and bad ones, and checks each answer."""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    "connections": "(connections|messages|kicks|broadcasts|events)-.*",
    "others": "(bans|keys|audit|listeners|metrics|probes)-.*|node-(get|reload)",
    "drain": "node-.*_drain",
    "shutdown": "node-(shutdown|begin_drain|get_drain)",
}


def in_group(group: str, operation: str) -> bool:
    return re.fullmatch(GROUPS[group], operation) is not None


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
            with suppress(OSError):  # it has ended
                client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)


def schemathesis(server: Server, key: str, group: str) -> subprocess.CompletedProcess[str]:
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
        f"--include-operation-id-regex=^({GROUPS[group]})$",
    ]
    connection = server.get("/v1/connections", limit=1)["items"][0]["id"]
    more = {"IOCPD_TEST_KEY": key, "IOCPD_TEST_CONNECTION": connection, "IOCPD_TEST_GROUP": group}
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


def check_answers(server: Server, group: str) -> None:
    """Every operation has worked, has refused what is wrong, and has let nobody in without a key."""
    answered: dict[tuple[str, str], set[int]] = {}
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith("iocpd_http_requests_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            answered.setdefault((labels["method"], labels["route"]), set()).add(int(labels["status"]))
    for path, methods in server.get("/openapi.json")["paths"].items():
        for method, operation in methods.items():
            if in_group(group, operation["operationId"]):
                found = answered[method.upper(), path]
                assert any(200 <= status < 300 for status in found), (method, path, found)
                if operation["tags"] != ["probes"]:
                    # A path alone does not yet tell the route, and a request without a key goes no further.
                    assert 401 in answered[method.upper(), "unmatched"]
                own = [each for each in operation.get("parameters", []) if each["in"] != "header"]
                if own or "requestBody" in operation:
                    assert found & {404, 422}, (method, path, found)


@pytest.mark.slow
@pytest.mark.skipif(bool(OVERRIDE), reason="the document and what answers it are the same on every system")
@pytest.mark.parametrize("group", GROUPS)
def test_every_operation_does_what_the_document_says(group: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key = add_key(keys, "schemathesis", role="admin")
    with Server(tmp_path, key=key, keys_file=keys) as server, returning_clients(server.port):
        eventually(lambda: server.count() == CLIENTS)
        ran = schemathesis(server, key, group)
        print(ran.stdout)
        assert ran.returncode == 0, "Schemathesis has found something: see its output"
        check_answers(server, group)
        if group == "shutdown":
            assert server.drain()["then"] == "shutdown"
            server.http.post("/v1/node/shutdown", json={"deadline": "0s"})
            assert server.wait() == 0
        else:
            assert server.get("/livez") == {"status": "live"}
