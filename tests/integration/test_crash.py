"""kill -9 while state is written, files that may not grow, a file system that is read-only or full: nothing that was
acknowledged is lost, and what was being written is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from iocpd.api.keys import add_key, read_keys
from tests.integration.conftest import Serve
from tests.integration.server import OVERRIDE, Server
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32" or bool(OVERRIDE), reason="signals and limits of Linux")


@pytest.fixture
def backend() -> str:
    """State is the API's."""
    return "auto"


class Changes:
    """Bans and keys that were asked for, and those that the service said yes to."""

    def __init__(self) -> None:
        self.asked = 0
        self.banned: set[str] = set()
        self.keys: set[str] = set()
        self.requests: set[str] = set()

    def make(self, server: Server, over: threading.Event) -> None:
        """One after another until the service is gone."""
        with httpx.Client(base_url=server.url, headers=server.http.headers, trust_env=False) as http:
            while not over.is_set():
                self.asked += 1
                address, name = (
                    f"10.{self.asked // 65536}.{self.asked // 256 % 256}.{self.asked % 256}",
                    f"key{self.asked}",
                )
                try:
                    banned = http.post("/v1/bans", json={"address": address})
                    if banned.status_code == 201:
                        self.banned.add(address)
                        self.requests.add(banned.headers["x-request-id"])
                    made = http.post("/v1/keys", json={"name": name, "role": "viewer"})
                    if made.status_code == 201:
                        self.keys.add(name)
                        self.requests.add(made.headers["x-request-id"])
                except httpx.TransportError:
                    return


def bans_of(server: Server) -> set[str]:
    found: set[str] = set()
    cursor: dict[str, Any] = {}
    while True:
        page = server.get("/v1/bans", limit=1000, **cursor)
        found |= {ban["address"] for ban in page["items"]}
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def test_what_was_acknowledged_outlives_kill_9(serve: Serve, tmp_path: Path) -> None:
    state, changes = tmp_path / "state", Changes()
    key = add_key(state / "keys.json", "admin", role="admin")
    for round in range(3):
        server, over = serve(state_dir=state, key=key), threading.Event()
        assert changes.banned <= bans_of(server)
        enough = len(changes.keys) + 5 + 3 * round
        with ThreadPoolExecutor(3) as pool:
            work = [pool.submit(changes.make, server, over) for _ in range(3)]
            eventually(lambda enough=enough: len(changes.keys) >= enough)
            server.signal(signal.SIGKILL)
            over.set()
            for each in work:
                each.result()
        server.wait()
        assert changes.keys <= {record.name for record in read_keys(state / "keys.json")}
        noted = {entry_of(line).get("request_id") for line in (state / "audit.jsonl").read_text().splitlines()}
        assert changes.requests <= noted
    server = serve(state_dir=state, key=key)
    assert changes.banned <= bans_of(server)
    assert server.http.post("/v1/bans", json={"address": "192.0.2.1"}).status_code == 201
    assert server.http.post("/v1/keys", json={"name": "last", "role": "viewer"}).status_code == 201
    assert {path.name for path in state.iterdir()} == {"keys.json", "bans.json", "audit.jsonl", "service.lock"}, (
        "something is left over"
    )


def entry_of(line: str) -> dict[str, Any]:
    """A line of the audit; the last one of a process that was killed may be cut off."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return entry


def test_files_that_may_not_grow_cost_no_service_and_no_state_and_heal(serve: Serve, tmp_path: Path) -> None:
    import resource

    state = tmp_path / "state"
    key = add_key(state / "keys.json", "admin", role="admin")
    server = serve(state_dir=state, key=key)
    assert server.http.post("/v1/bans", json={"address": "192.0.2.1"}).status_code == 201
    (client,) = server.connect()
    kept = {path.name: path.read_bytes() for path in (state / "keys.json", state / "bans.json")}
    # The kernel itself refuses to write more than so many bytes to a file, as a quota does.
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (16, hard))
    answers = [
        server.http.post("/v1/bans", json={"address": "192.0.2.2"}),
        server.http.delete("/v1/keys/admin"),
        server.http.post("/v1/keys", json={"name": "bob", "role": "viewer"}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (507, "bans_not_saved"),
        (409, "last_key_writer"),
        (503, "keys_unavailable"),
    ]
    assert all("File too large" in answers[at].json()["detail"] for at in (0, 2))
    assert client.echoes(b"served")
    assert server.http.get("/readyz").status_code == 200
    assert server.get("/v1/node")["audit_trouble"] == "File too large"
    assert bans_of(server) == {"192.0.2.1"}
    assert {name: (state / name).read_bytes() for name in kept} == kept

    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert server.http.post("/v1/bans", json={"address": "192.0.2.2"}).status_code == 201
    assert server.http.post("/v1/keys", json={"name": "bob", "role": "viewer"}).status_code == 201
    eventually(lambda: server.get("/v1/node")["audit_trouble"] is None)
    noted = [(entry["action"], entry["status"]) for entry in server.get("/v1/audit")["items"]][::-1]
    assert [each for each in noted if each[0] == "bans-create"] == [
        ("bans-create", 201),
        ("bans-create", 507),
        ("bans-create", 201),
    ]
    client.close()


# What the service sees is mounted for it alone.
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")


def in_mounts_of(server: Server, *command: str) -> None:
    subprocess.run(["nsenter", "--target", str(server.process.pid), "--mount", *command], check=True)


@pytest.fixture
def own_mounts() -> None:
    try:
        subprocess.run([*OWN_MOUNTS, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounts of its own need unshare(1) and the right to: {error}")


def refuses_as_read_only(server: Server) -> None:
    """What must be saved is refused and not done; the rest goes on."""
    before = bans_of(server)
    banned = server.http.post("/v1/bans", json={"address": "192.0.2.2"})
    assert (banned.status_code, banned.json()["code"]) == (507, "bans_not_saved")
    made = server.http.post("/v1/keys", json={"name": "bob", "role": "viewer"})
    assert (made.status_code, made.json()["code"]) == (503, "keys_unavailable")
    assert all("Read-only file system" in answer.json()["detail"] for answer in (banned, made))
    assert bans_of(server) == before
    assert {key["name"] for key in server.get("/v1/keys")["items"]} == {"admin"}
    (client,) = server.connect()
    assert client.echoes(b"served")
    assert server.http.get("/readyz").status_code == 200
    client.close()


def saves_again(server: Server) -> None:
    before = bans_of(server)
    assert server.http.post("/v1/bans", json={"address": "192.0.2.2"}).status_code == 201
    assert server.http.post("/v1/keys", json={"name": "bob", "role": "viewer"}).status_code == 201
    assert bans_of(server) == before | {"192.0.2.2"}
    eventually(lambda: server.get("/v1/node")["audit_trouble"] is None)


def statuses(server: Server, action: str) -> list[int]:
    """Of this run, the oldest first."""
    items = server.get("/v1/audit", limit=100)["items"]
    begun = next(at for at, entry in enumerate(items) if entry["action"] == "node-start")
    return [entry["status"] for entry in items[:begun] if entry["action"] == action][::-1]


def test_a_file_system_that_becomes_read_only_costs_no_service_and_no_state_and_heals(
    serve: Serve, tmp_path: Path, own_mounts: None
) -> None:
    state = tmp_path / "state"
    key = add_key(state / "keys.json", "admin", role="admin")
    server = serve(state_dir=state, key=key, before=OWN_MOUNTS)
    assert server.http.post("/v1/bans", json={"address": "192.0.2.1"}).status_code == 201
    in_mounts_of(server, "mount", "--bind", "-o", "ro", str(state), str(state))
    refuses_as_read_only(server)
    in_mounts_of(server, "umount", str(state))
    saves_again(server)
    assert statuses(server, "bans-create") == [201, 507, 201]


def test_a_start_on_a_file_system_that_is_read_only_has_the_state_and_heals(
    serve: Serve, tmp_path: Path, own_mounts: None
) -> None:
    state = tmp_path / "state"
    key = add_key(state / "keys.json", "admin", role="admin")
    first = serve(state_dir=state, key=key)
    assert first.http.post("/v1/bans", json={"address": "192.0.2.1"}).status_code == 201
    first.kill()
    read_only = 'mount --bind -o ro "$0" "$0" && exec "$@"'
    server = serve(state_dir=state, key=key, before=(*OWN_MOUNTS, "sh", "-c", read_only, str(state)))
    assert bans_of(server) == {"192.0.2.1"}
    refuses_as_read_only(server)
    assert server.get("/v1/node")["audit_trouble"] == "Read-only file system"
    in_mounts_of(server, "mount", "-o", "remount,rw,bind", str(state))
    saves_again(server)
    # What happened meanwhile has waited for the disk.
    assert statuses(server, "bans-create") == [507, 201]


def test_a_state_directory_that_cannot_be_made_is_said_and_costs_no_service(
    serve: Serve, tmp_path: Path, own_mounts: None
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    read_only = 'mount --bind -o ro "$0" "$0" && exec "$@"'
    server = serve(state_dir=empty / "state", before=(*OWN_MOUNTS, "sh", "-c", read_only, str(empty)))
    (client,) = server.connect()
    assert client.echoes(b"served")
    assert "can't be locked against other services" in server.log()
    client.close()


def fill_with_bytes(folder: Path) -> Path:
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return folder / "filler"


def fill_with_files(folder: Path) -> Path:
    filler = folder / "filler"
    filler.mkdir()
    with contextlib.suppress(OSError):
        for number in range(1000):
            (filler / str(number)).touch()
    return filler


# With small files of the audit one must be put aside meanwhile; in a large one, a line comes to the end of a page.
@pytest.mark.parametrize(("fill", "audit_max_bytes"), [(fill_with_bytes, 1 << 20), (fill_with_files, 4096)])
def test_a_full_disk_costs_no_service_and_no_state_and_heals(
    serve: Serve, tmp_path: Path, own_mounts: None, fill: Callable[[Path], Path], audit_max_bytes: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    small = 'mount -t tmpfs -o size=128k,nr_inodes=100 none "$0" && exec "$@"'
    server = serve(
        state_dir=state,
        before=(*OWN_MOUNTS, "sh", "-c", small, str(state)),
        audit_max_bytes=audit_max_bytes,
        audit_files=100,
    )
    requests: list[str] = []

    def ask(method: str, path: str, **options: Any) -> tuple[int, Any]:
        answer = server.http.request(method, path, **options)
        requests.append(answer.headers["x-request-id"])
        return answer.status_code, answer.json() if answer.content else None

    def status_of(key: str) -> int:
        return server.http.get("/v1/node", headers={"authorization": f"Bearer {key}"}).status_code

    def ban(address: str) -> tuple[int, Any]:
        return ask("POST", "/v1/bans", json={"address": address})

    def add(name: str, role: str = "viewer") -> tuple[int, Any]:
        return ask("POST", "/v1/keys", json={"name": name, "role": role})

    server.http.headers["authorization"] = f"Bearer {add('admin', 'admin')[1]['key']}"
    bob = add("bob")[1]["key"]
    banned = ban("192.0.2.1")[1]
    (client,) = server.connect()
    disk = Path(f"/proc/{server.process.pid}/root{state}")
    kept = {name: (disk / name).read_bytes() for name in ("keys.json", "bans.json")}

    filler = fill(disk)
    for _ in range(20):  # the audit still has the rest of its page
        answers = [
            ban("192.0.2.2"),
            ask("DELETE", f"/v1/bans/{banned['id']}"),
            add("carol"),
            ask("DELETE", "/v1/keys/bob"),
        ]
        assert [(status, body["code"]) for status, body in answers] == [
            (507, "bans_not_saved"),
            (507, "bans_not_saved"),
            (503, "keys_unavailable"),
            (503, "keys_unavailable"),
        ]
        assert all("No space left on device" in body["detail"] for _, body in answers)
    assert server.get("/v1/node")["audit_trouble"] == "No space left on device"
    assert client.echoes(b"served")
    assert server.http.get("/readyz").status_code == 200
    assert {name: (disk / name).read_bytes() for name in kept} == kept
    assert not list(disk.glob(".*")), "what could not be written takes no room"
    assert bans_of(server) == {"192.0.2.1"}
    assert {key["name"] for key in server.get("/v1/keys")["items"]} == {"admin", "bob"}
    assert status_of(bob) == 200

    shutil.rmtree(filler) if filler.is_dir() else filler.unlink()
    eventually(lambda: server.get("/v1/node")["audit_trouble"] is None)
    assert ban("192.0.2.2")[0] == 201
    assert ask("DELETE", f"/v1/bans/{banned['id']}")[0] == 204
    assert ask("DELETE", "/v1/keys/bob")[0] == 204
    carol = add("carol")[1]["key"]
    assert [status_of(key) for key in (bob, carol)] == [401, 200]
    assert bans_of(server) == {"192.0.2.2"}
    assert {row["address"] for row in json.loads((disk / "bans.json").read_text())["bans"]} == {"192.0.2.2"}
    assert {record.name for record in read_keys(disk / "keys.json")} == {"admin", "carol"}
    audit = sorted(disk.glob("audit*.jsonl"), key=lambda path: (path.name == "audit.jsonl", path.name))
    noted = [json.loads(line) for path in audit for line in path.read_text().splitlines()]
    assert [entry["request_id"] for entry in noted if entry["request_id"]] == requests
    left = {path.name for path in disk.iterdir()} - {path.name for path in audit}
    assert left == {"keys.json", "bans.json", "service.lock"}
    client.close()
