"""kill -9 before each step of a state file's write, and in the middle of it: afterwards the file holds what it held or
what was to be written, and all that was acknowledged."""

from __future__ import annotations

import itertools
import json
import mmap
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from iocpd.api.keys import add_key
from tests.conformance.test_port import compiler, run_compiler
from tests.integration.conftest import Serve
from tests.integration.server import OVERRIDE, Server

pytestmark = pytest.mark.skipif(sys.platform != "linux" or bool(OVERRIDE), reason="LD_PRELOAD is of Linux")

_ACTION = struct.Struct("q500s12s")  # struct crash of crash.c


@pytest.fixture
def backend() -> str:
    """State is the API's."""
    return "auto"


class Crash:
    """Kills a server at a step of what it writes."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "crash.so", folder / "crash"
        source = str(Path(__file__).with_name("crash.c"))
        run_compiler([*compiler("cc"), "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", source, "-o", str(library)], folder)
        self._file.write_bytes(bytes(_ACTION.size))
        self.environment = {"LD_PRELOAD": str(library), "TEST_CRASH": str(self._file)}

    def arm(self, steps: int, state: Path, name: str) -> None:
        """Before the last of so many steps with files in `state` that have this in their names; 0: never."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 0) as page:
            page[8 : _ACTION.size] = _ACTION.pack(0, bytes(state), name.encode())[8:]
            page[:8] = struct.pack("q", steps)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Crash:
    return Crash(tmp_path_factory.mktemp("crash"))


@pytest.fixture
def crash(built: Crash, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crash]:
    for name, value in built.environment.items():
        monkeypatch.setenv(name, value)
    yield built
    built.arm(0, Path(), "")


def survives(server: Server, change: Callable[[], httpx.Response]) -> bool:
    """Whether it answers that it has made a change, or is killed meanwhile."""
    try:
        answer = change()
    except httpx.TransportError:
        assert server.wait() == -9
        return False
    assert answer.is_success, answer.text
    return True


def bans_of(server: Server) -> set[str]:
    return {row["address"] for row in server.get("/v1/bans", limit=1000)["items"]}


def keys_of(server: Server) -> set[str]:
    return {row["name"] for row in server.get("/v1/keys")["items"]}


def add_ban(server: Server, name: str) -> httpx.Response:
    return server.http.post("/v1/bans", json={"address": name})


def lift_ban(server: Server, name: str) -> httpx.Response:
    (found,) = server.get("/v1/bans", address=name)["items"]
    return server.http.delete(f"/v1/bans/{found['id']}")


def make_key(server: Server, name: str) -> httpx.Response:
    return server.http.post("/v1/keys", json={"name": name, "role": "viewer"})


def revoke_key(server: Server, name: str) -> httpx.Response:
    return server.http.delete(f"/v1/keys/{name}")


# Removing a name, making the file, two halves of its content, flushing it, the new name, flushing that.
STEPS = 7


@pytest.mark.parametrize(
    ("file", "names", "read", "add", "remove"),
    [
        ("bans.json", "192.0.2.{}", bans_of, add_ban, lift_ban),
        ("keys.json", "key{}", keys_of, make_key, revoke_key),
    ],
    ids=["bans", "keys"],
)
@pytest.mark.parametrize("what", ["add", "remove"])
def test_a_file_that_is_replaced_is_the_former_or_the_new_one(
    serve: Serve,
    crash: Crash,
    tmp_path: Path,
    file: str,
    names: str,
    read: Callable[[Server], set[str]],
    add: Callable[[Server, str], httpx.Response],
    remove: Callable[[Server, str], httpx.Response],
    what: str,
) -> None:
    state = tmp_path / "state"
    admin = add_key(state / "keys.json", "admin", role="admin")
    seen = set()
    for steps in itertools.count(1):
        server = serve(state_dir=state, key=admin)
        name = names.format(steps)
        if what == "remove":
            assert add(server, name).is_success
        former = read(server)
        new = former | {name} if what == "add" else former - {name}
        crash.arm(steps, state, file)
        change = add if what == "add" else remove
        done = survives(server, lambda server=server, name=name, change=change: change(server, name))
        crash.arm(0, state, file)
        if done:
            assert read(server) == new
            break
        server = serve(state_dir=state, key=admin)
        found = read(server)
        assert found in ((former, new))
        seen.add(found == new)
        server.kill()
    assert steps > STEPS, "there were no such steps"
    assert seen == {False, True}, "it was killed before the new file had the name, and after"
    assert {path.name for path in state.iterdir()} <= {"keys.json", "bans.json", "audit.jsonl", "service.lock"}


def entries(state: Path) -> list[dict[str, Any]]:
    """Of the whole audit, in its order; a line that a kill has cut off is none."""
    found = []
    for path in sorted(state.glob("audit*.jsonl"), key=lambda path: (path.name == "audit.jsonl", path.name)):
        for line in path.read_bytes().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def test_no_entry_is_lost_when_the_audits_file_is_put_aside(serve: Serve, crash: Crash, tmp_path: Path) -> None:
    state = tmp_path / "state"
    steps = 0
    while True:
        steps += 1
        server = serve(state_dir=state, audit_max_bytes=4096, audit_files=2)
        acknowledged = []

        def ask(server: Server = server) -> httpx.Response:
            answer = server.http.post("/v1/kicks", json={"ip": "192.0.2.1"})
            acknowledged.append(answer.headers["x-request-id"])  # noqa: B023 - called at once
            return answer

        current, sizes = state / "audit.jsonl", [0, 0]
        while not sizes[-2] or sizes[-1] + (sizes[-1] - sizes[-2]) + 4 <= 4096:
            assert ask().is_success
            sizes.append(current.stat().st_size)
        crash.arm(steps, state, "audit")
        done = survives(server, ask)
        crash.arm(0, state, "audit")
        if done:
            break
        server = serve(state_dir=state, audit_max_bytes=4096, audit_files=2)
        noted = [entry["request_id"] for entry in entries(state) if entry["request_id"]]
        assert entries(state)[-1]["action"] == "node-start", "it is on a line of its own"
        assert noted[-len(acknowledged) :] == acknowledged or noted[-len(acknowledged) - 1 : -1] == acknowledged
        numbers = [int(entry["id"], 16) for entry in entries(state)]
        assert numbers == sorted(set(numbers))
        server.kill()
    assert steps > 5, "renaming it, making the new one, two halves of a line, and removing the oldest"
    assert len(list(state.glob("audit-*.jsonl"))) == 1
