"""The command's keys, and its contexts, which keep them."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest

from iocpd.api.keys import add_key
from tests.integration.conftest import Serve
from tests.integration.server import BACKENDS, OVERRIDE, Server
from tests.integration.terminal import Person, on_a_terminal


@pytest.fixture
def backend() -> str:
    """The command sees no difference between them."""
    return BACKENDS[0] if OVERRIDE else "auto"


@pytest.fixture
def guarded(serve: Serve, tmp_path: Path) -> tuple[Server, str, str]:
    """A server with keys, and the key of an admin and of a viewer."""
    path = tmp_path / "server-keys.json"
    admin, viewer = add_key(path, "admin", role="admin"), add_key(path, "viewer", role="viewer")
    return serve(keys_file=path, key=admin), admin, viewer


def test_keys_of_the_file_are_made_listed_and_revoked(stranger: Person, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    file = ("--keys", str(path))
    made = stranger.call("keys", "add", "alice", "--role", "operator", *file)
    assert made.status == 0
    assert re.fullmatch(r"iocpd_\S{40,}\n", made.out)
    assert made.out.strip() not in path.read_text() + made.err
    stranger.call("keys", "add", "bob", "--scope", "metrics:read", "--expires-in", "1d", *file)
    assert [line.split("\t")[:2] for line in stranger.call("keys", "list", *file).lines] == [
        ["alice", "operator"],
        ["bob", ""],
    ]
    bob = json.loads(stranger.call("keys", "list", "--json", *file).lines[1])
    assert (bob["scopes"], bool(bob["expires_at"])) == (["metrics:read"], True)
    assert stranger.call("keys", "add", "alice", "--role", "admin", *file).status == 5
    for arguments in (("x",), ("x", "--role", "king"), ("x", "--role", "admin", "--scope", "metrics:read")):
        assert stranger.call("keys", "add", *arguments, *file).status == 2
    assert stranger.call("keys", "revoke", "alice", *file).status == 2
    assert stranger.call("keys", "revoke", "alice", "--yes", *file).status == 0
    assert stranger.call("keys", "revoke", "alice", "--yes", *file).status == 3
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_of_a_service_are_made_listed_and_revoked(guarded: tuple[Server, str, str], stranger: Person) -> None:
    server, admin, viewer = guarded
    stranger.variables |= {"IOCPD_KEY": admin}
    there = ("--url", server.url)
    made = stranger.call("keys", "add", "carol", "--role", "viewer", *there)
    assert made.status == 0
    key = made.out.strip()
    assert stranger.call("ls", *there, variables={"IOCPD_KEY": key}).status == 0
    assert {line.split("\t")[0] for line in stranger.call(*there, "keys", "list").lines} == {"admin", "viewer", "carol"}
    assert stranger.call("keys", "revoke", "carol", "--yes", *there).status == 0
    assert stranger.call("ls", *there, variables={"IOCPD_KEY": key}).status == 5
    assert stranger.call("keys", "revoke", "carol", "--yes", *there).status == 3
    assert stranger.call("keys", "list", *there, variables={"IOCPD_KEY": viewer}).status == 5
    assert stranger.call("keys", "list", "--keys", "x.json", *there).status == 2


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("add", "admin", "--role", "viewer"), 5),
        (("add", "a b", "--role", "viewer"), 2),
        (("add", "system", "--role", "viewer"), 2),
        (("add", "new", "--scope", "everything"), 2),
        (("add", "new", "--role", "viewer", "--expires-in", "soon"), 2),
        (("revoke", "nobody", "--yes"), 3),
    ],
)
def test_keys_of_a_file_and_of_a_service_end_alike(
    guarded: tuple[Server, str, str], stranger: Person, tmp_path: Path, words: tuple[str, ...], status: int
) -> None:
    server, admin, _ = guarded
    stranger.variables |= {"IOCPD_KEY": admin}
    file = tmp_path / "others.json"
    add_key(file, "admin", role="admin")
    for where in (("--keys", str(file)), ("--url", server.url)):
        done = stranger.call("keys", *words, *where)
        assert (done.status, done.out) == (status, ""), where


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs rights that can be taken away")
def test_a_key_file_without_the_right_to_change_it_is_refused(stranger: Person, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(0o500)
    done = stranger.call("keys", "add", "x", "--role", "viewer", "--keys", str(folder / "keys.json"))
    assert (done.status, "Permission denied" in done.err) == (5, True)


def test_the_audit_tells_who_did_what(guarded: tuple[Server, str, str], stranger: Person) -> None:
    server, admin, viewer = guarded
    stranger.variables |= {"IOCPD_KEY": admin, "IOCPD_URL": server.url}
    stranger.call("ban", "192.0.2.1", "--yes")
    stranger.call("drain", "--yes", "--detach", variables={"IOCPD_KEY": viewer})
    (row,) = map(json.loads, stranger.call("audit", "--actor", "admin", "--action", "bans-create", "--json").lines)
    assert (row["target"].removesuffix("/32"), row["outcome"], row["status"]) == ("192.0.2.1", "done", 201)
    done = stranger.call("audit", "--actor", "viewer", "--since", "1h", "--fields", "action,outcome")
    assert done.lines == ["node-begin_drain\tscope_missing"]
    assert admin not in stranger.call("audit", "--json").out
    assert stranger.call("audit", "--since", "soon").status == 2


def test_a_context_has_the_address_and_tells_where_the_key_is(
    guarded: tuple[Server, str, str], stranger: Person, tmp_path: Path
) -> None:
    server, admin, _ = guarded
    file = tmp_path / "admin.key"
    file.write_text(admin + "\n")
    assert stranger.call("context", "add", "prod", "--url", server.url, "--key-file", str(file)).status == 0
    assert stranger.call("context", "add", "env", "--url", server.url, "--key-env", "MY_KEY").status == 0
    assert stranger.call("context", "add", "none", "--url", server.url).status == 0
    assert stranger.call("ls").status == 0  # the first is in use
    assert stranger.call("ls", "--context", "env", variables={"MY_KEY": admin}).status == 0
    assert stranger.call("--context", "env", "ls", variables={"MY_KEY": admin}).status == 0
    done = stranger.call("ls", "--context", "env")
    assert done.status == 2
    assert "MY_KEY" in done.err
    # A key of the environment is not sent to where it may not belong.
    assert stranger.call("ls", "--context", "none", variables={"IOCPD_KEY": admin}).status == 5
    assert stranger.call("ls", "--context", "none", "--key-file", str(file)).status == 0
    stranger.call("context", "use", "none")
    assert stranger.call("ls").status == 5
    assert stranger.call("ls", variables={"IOCPD_CONTEXT": "prod"}).status == 0
    assert [line.split("\t") for line in stranger.call("context", "list").lines] == [
        ["prod", server.url, str(file), ""],
        ["env", server.url, "$MY_KEY", ""],
        ["none", server.url, "none", "in use"],
    ]
    assert stranger.call("context", "remove", "none").status == 0
    assert stranger.call("context", "use", "none").status == 2
    assert "prod, env" in stranger.call("ls", "--context", "nonsense").err
    assert stranger.call("ls", "--context", "prod", "--url", server.url).status == 2
    path = stranger.home / "config" / "iocpd" / "contexts.json"
    assert admin not in path.read_text()
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@on_a_terminal
def test_a_key_that_is_typed_is_not_shown_and_kept_in_a_file_of_its_own(
    guarded: tuple[Server, str, str], stranger: Person
) -> None:
    server, admin, _ = guarded
    with stranger.terminal("ls", "--url", server.url, "--ask-key", "--count") as terminal:
        terminal.expect("Key: ")
        terminal.type(admin + "\n")
        assert terminal.end() == 0
        assert admin not in terminal.text
    with stranger.terminal("context", "add", "lab", "--url", server.url, "--ask-key") as terminal:
        terminal.expect("Key: ")
        terminal.type(admin + "\n")
        assert terminal.end() == 0
        assert admin not in terminal.text
    kept = stranger.home / "config" / "iocpd" / "keys" / "lab"
    assert kept.read_text() == admin + "\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stranger.run("ls").status == 0
    stranger.run("context", "remove", "lab")
    assert not kept.exists()
    assert stranger.run("ls", "--url", server.url, "--ask-key").status == 2


def test_there_is_no_option_that_takes_a_key_itself(stranger: Person) -> None:
    for verb in ("ls", "kick", "context add", "keys add"):
        words = set(re.findall(r"--[a-z-]+", stranger.call(*verb.split(), "--help").out))
        assert words.isdisjoint({"--key", "--token", "--password", "--api-key"})


def test_broken_contexts_are_told_with_their_file(stranger: Person) -> None:
    path = stranger.home / "config" / "iocpd" / "contexts.json"
    path.parent.mkdir(parents=True)
    for content in (
        "{",
        "[]",
        "[" * 100_000,
        '{"contexts": {"a": {"nonsense": 1}}}',
        '{"contexts": {}, "current": "a"}',
    ):
        path.write_text(content)
        done = stranger.call("ls")
        assert done.status == 1
        assert str(path) in done.err
        assert len(done.err.splitlines()) == 1
