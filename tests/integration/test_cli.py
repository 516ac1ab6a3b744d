"""`iocpd` as a person and as a program use it, with the real process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from iocpd.api.keys import add_key
from tests.integration.conftest import Serve
from tests.integration.server import BACKENDS, OVERRIDE, Server
from tests.integration.terminal import COMMAND, Done, Person, on_a_terminal
from tests.support import Client as Peer
from tests.support import eventually


@pytest.fixture
def backend() -> str:
    """The command sees no difference between them."""
    return BACKENDS[0] if OVERRIDE else "auto"


def leaving(peers: list[Peer]) -> Callable[[], None]:
    """Reads from clients until their end and closes them, in a thread; the result waits for it."""
    pool = ThreadPoolExecutor(1)
    done = pool.submit(lambda: [(peer.read_to_any_end(), peer.close()) for peer in peers])
    pool.shutdown(wait=False)
    return lambda: done.result() and None


# --- listings ---------------------------------------------------------------------------------------------------------


def test_ls_gives_programs_one_line_for_each_and_nothing_else(server: Server, person: Person) -> None:
    peers = server.connect(3)
    rows = {row["id"]: row for row in server.everything()}
    done = person.run("ls")
    assert (done.status, done.err) == (0, "")
    assert [line.split("\t")[0] for line in done.lines] == list(rows)
    assert {line.split("\t")[1] for line in done.lines} == {f"127.0.0.1:{peer.address[1]}" for peer in peers}
    done = person.run("ls", "--json")
    assert [json.loads(line)["id"] for line in done.lines] == list(rows)
    assert json.loads(done.lines[0]).keys() == rows[next(iter(rows))].keys()
    done = person.run("ls", "--json", "--fields", "id,peer.ip,tags")
    assert [json.loads(line) for line in done.lines] == [{"id": id, "peer.ip": "127.0.0.1", "tags": {}} for id in rows]
    assert person.run("ls", "--fields", "peer.port", "--limit", "2").lines == [
        str(row["peer"]["port"]) for row in list(rows.values())[:2]
    ]
    assert person.run("ls", "--count").out == "3\n"


def test_ls_takes_the_filters_and_orders_of_the_api(server: Server, person: Person) -> None:
    peers = server.connect(4)
    for number, peer in enumerate(peers):
        assert peer.echoes(b"x" * (number + 1))
    assert person.call("ls", "--sort", "-bytes_in", "--limit", "2", "--fields", "bytes_in").lines == ["4", "3"]
    assert person.call("ls", "--ip", "192.0.2.0/24", "--listener", "0").out == ""
    id = server.id_of(peers[0])
    assert person.call("tag", id, "region=eu", "--group", "lobby").status == 0
    for options in (("--tag", "region:eu"), ("--group", "lobby"), ("--tag", "region:eu", "--group", "lobby")):
        assert person.call("ls", *options, "--fields", "id").lines == [id]
    assert person.call("ls", "--listener", "1", "--count").out == "0\n"


def test_a_member_that_there_is_not_is_named_with_those_that_there_are(person: Person) -> None:
    for verb in ("ls", "closed", "bans", "audit", "events"):
        done = person.call(verb, "--fields", "id,nonsense")
        assert done.status == 2
        assert "'nonsense'" in done.err
        assert "there are" in done.err
    assert "peer.ip, peer.port" in person.call("ls", "--fields", "peer.host").err


def test_show_tells_of_one_connection_and_how_it_ended(server: Server, person: Person) -> None:
    (peer,) = server.connect()
    id = server.id_of(peer)
    done = person.run("show", id)
    assert (done.status, json.loads(done.out)["state"]) == (0, "open")
    gone = leaving([peer])
    assert person.run("kick", id, "--reason", "maintenance").out == f"{id} kicked\n"
    gone()
    done = person.run("show", id)
    assert (done.status, json.loads(done.out)["text"]) == (3, "maintenance")
    done = person.run("closed", "--fields", "id,reason,by,text")
    assert done.lines == [f"{id}\tkicked\toperator\tmaintenance"]


def test_tags_are_set_and_removed(server: Server, person: Person) -> None:
    (peer,) = server.connect()
    id = server.id_of(peer)

    def labels() -> tuple[dict[str, str], list[str]]:
        row = server.get(f"/v1/connections/{id}")
        return row["tags"], row["groups"]

    person.call("tag", id, "a=1", "b=x=y", "--group", "g", "--group", "h")
    assert labels() == ({"a": "1", "b": "x=y"}, ["g", "h"])
    person.call("tag", id, "a-", "b=")
    assert labels() == ({"b": ""}, ["g", "h"])
    person.call("tag", id, "--no-groups")
    assert labels() == ({"b": ""}, [])
    person.call("tag", id, "region:eu", "c:x=y", "d=x:y", "b-")  # either way, and the first mark counts
    assert labels() == ({"region": "eu", "c": "x=y", "d": "x:y"}, [])
    for tag in ("region=eu", "region:eu", "c=x=y", "d:x:y"):
        assert person.call("ls", "--tag", tag, "--fields", "id").lines == [id]
    for arguments in ((), ("nonsense",), ("a=1", "--no-groups", "--group", "g")):
        assert person.call("tag", id, *arguments).status == 2


@on_a_terminal
def test_a_table_fits_the_terminal_and_loses_columns_rather_than_lines(server: Server, person: Person) -> None:
    peers = server.connect(2)
    id = server.id_of(peers[0])
    told = ["no room for MSG IN, MSG OUT: --fields or --json shows them"]
    for columns, there, missing, below in ((80, "QUEUED", "MSG OUT", told), (140, "MSG OUT", "nothing", [])):
        with person.terminal("ls", columns=columns) as terminal:
            assert terminal.end() == 0
            lines = terminal.text.splitlines()
        assert there in lines[0]
        assert missing not in lines[0]
        assert lines[3:] == ["2 connections", *below]
        assert all(len(line) <= columns for line in lines)
        assert any(line.startswith(id) for line in lines)


@on_a_terminal
def test_what_others_wrote_can_not_steer_the_terminal(server: Server, person: Person) -> None:
    peers = server.connect(2)
    id = server.id_of(peers[0])
    # What the service lets through, because it is printable there: marks of direction and the like would not be.
    hostile = "[red]fine[/red] [link=http://x]y[/link]"
    server.http.patch(f"/v1/connections/{id}", json={"tags": {"note": hostile}}).raise_for_status()
    with person.terminal("ls", columns=200) as terminal:
        assert terminal.end() == 0
        assert f"note={hostile}" in terminal.text
    with person.terminal("kick", "\x1b[2Jnobody\u202e") as terminal:
        assert terminal.end() == 3
        assert "\x1b[2J" not in terminal.raw.decode()
        assert "\u202e" not in terminal.text


@on_a_terminal
def test_watch_shows_it_again_until_ctrl_c(server: Server, person: Person) -> None:
    with person.terminal("ls", "--watch", "--interval", "0.1") as terminal:
        terminal.expect("no connections")
        peers = server.connect(1)
        terminal.expect(f"127.0.0.1:{peers[0].address[1]}")
        terminal.type("\x03")
        assert terminal.end() == 0


@on_a_terminal
@pytest.mark.parametrize("how", ["option", "variable"])
def test_colours_can_be_left_out(server: Server, person: Person, how: str) -> None:
    _peers = server.connect(1)  # and kept
    arguments = ("ls", "--no-color") if how == "option" else ("ls",)
    if how == "variable":
        person.variables["NO_COLOR"] = "1"
    with person.terminal(*arguments) as terminal:
        assert terminal.end() == 0
        assert "\x1b[32m" not in terminal.raw.decode()
    person.variables.pop("NO_COLOR", None)
    with person.terminal("ls") as terminal:
        assert terminal.end() == 0
        assert "\x1b[32m" in terminal.raw.decode()


# --- kick, send, broadcast --------------------------------------------------------------------------------------------


@on_a_terminal
def test_a_kick_by_filter_tells_how_many_and_asks(server: Server, person: Person) -> None:
    peers = server.connect(3)
    with person.terminal("kick", "--listener", "0", "--reason", "maintenance") as terminal:
        terminal.expect("Kick 3 connections? [y/N] ")
        terminal.type("n\n")
        assert terminal.end() == 1
        assert "nothing was done" in terminal.text
    assert server.count() == 3
    gone = leaving(peers)
    with person.terminal(
        "kick", "--listener", "0", "--reason", "maintenance", "--farewell", "goodbye to you"
    ) as terminal:
        terminal.expect("Kick 3 connections? [y/N] ")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "kicked 3 of 3 connections" in terminal.text
    gone()
    assert server.count() == 0


def test_without_a_terminal_nobody_is_hit_unless_yes_was_said(server: Server, person: Person) -> None:
    peers = server.connect(2)
    for verb in (("kick", "--all"), ("broadcast", "--all", "x"), ("ban", "127.0.0.1"), ("drain",), ("shutdown",)):
        done = person.run(*verb)
        assert done.status == 2, done
        assert "--yes" in done.err
    assert all(peer.echoes(b"still here") for peer in peers)
    gone = leaving(peers)
    done = person.run("kick", "--all", "--yes")
    gone()
    assert (done.status, len(done.lines)) == (0, 2)
    assert "kicked 2 of 2 connections" in done.err


def test_a_dry_run_shows_who_would_be_hit_and_does_nothing(server: Server, person: Person) -> None:
    peers = server.connect(3)
    spared = server.id_of(peers[0])
    done = person.call("kick", "--all", "--exclude", spared, "--dry-run", "--json")
    assert done.status == 0
    assert {json.loads(line)["outcome"] for line in done.lines} == {"would_kick"}
    assert spared not in done.out
    assert len(done.lines) == 2
    assert person.call("broadcast", "--all", "x", "--dry-run").status == 0
    assert person.call("kick", spared, "--dry-run").out == f"{spared} would be kicked\n"
    assert "would ban 127.0.0.1; it has 3 connections" in person.call("ban", "127.0.0.1", "--dry-run").out
    assert person.call("drain", "--dry-run").out == "would drain 3 connections\n"
    assert "would shut down iocpd" in person.call("shutdown", "--dry-run").out
    assert all(peer.echoes(b"still here") for peer in peers)


def test_a_kick_of_several_ids_tells_of_each(server: Server, person: Person) -> None:
    peers = server.connect(2)
    ids = [server.id_of(peer) for peer in peers]
    gone = leaving(peers)
    done = person.run("kick", ids[0], "nobody", ids[1])
    gone()
    assert done.status == 4
    assert done.lines == [f"{ids[0]} kicked", f"{ids[1]} kicked"]
    assert "nobody" in done.err
    assert person.run("kick", "nobody").status == 3
    assert person.run("kick", ids[0]).status == 3
    for arguments in ((), (ids[0], "--all"), ("--all", "--listener", "0", "--yes")):
        assert person.run("kick", *arguments).status == 2


@on_a_terminal
def test_a_kick_with_a_rate_has_a_bar_and_can_be_left_to_itself(server: Server, person: Person) -> None:
    peers = server.connect(60)
    gone = leaving(peers)
    with person.terminal("kick", "--all", "--rate", "1", "--yes") as terminal:  # a minute: it does not end by itself
        terminal.expect("/60")
        terminal.type("\x03")
        assert terminal.end() == 130
    found = re.search(r"`iocpd job (\S+) --cancel`", terminal.text)
    assert found
    done = person.run("job", found[1], "--cancel", "--json")
    assert done.status in (0, 4)
    done = person.run("kick", "--all", "--yes", "--rate", "1000", "--detach")
    assert done.status == 0
    done = person.run("job", done.out.strip())
    assert done.status == 0
    gone()
    assert server.count() == 0
    assert person.run("job", "nosuchjob").status == 3


def test_who_may_broadcast_and_not_kick_follows_and_stops_a_job_of_his(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    secrets = [add_key(keys, "root", role="admin"), add_key(keys, "speaker", scopes=("broadcasts:send",))]
    server = serve(keys_file=keys, key=secrets[0])
    speaker = Person(tmp_path / "home", server.leaks, IOCPD_URL=server.url, IOCPD_KEY=secrets[1])
    peers = server.connect(3)
    job = speaker.call("broadcast", "hello", "--all", "--yes", "--rate", "1", "--detach").out.strip()
    assert speaker.call("job", job, "--cancel").status in (0, 4)
    assert speaker.call("job", "nosuchjob").status == 3
    for peer in peers:
        peer.close()


def test_a_message_is_a_text_a_file_or_stdin(server: Server, person: Person, tmp_path: Path) -> None:
    (peer,) = server.connect()
    id = server.id_of(peer)
    file = tmp_path / "message"
    file.write_bytes(bytes(range(256)))
    assert person.run("send", id, "viele grüße", "-l").status == 0
    assert person.run("send", id, "--file", str(file)).status == 0
    assert person.run("send", id, "-f", "-", stdin=b"\x00piped").status == 0
    expected = "viele grüße\n".encode() + bytes(range(256)) + b"\x00piped"
    assert peer.read(len(expected)) == expected
    for arguments in ((), ("text", "--file", str(file)), ("--file", str(tmp_path / "missing"))):
        assert person.run("send", id, *arguments).status == 2
    assert person.run("send", "nobody", "x").status == 3


def test_a_broadcast_reports_what_became_of_it(serve: Serve, tmp_path: Path) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/discard"))
    person = Person(tmp_path / "home", server.leaks, IOCPD_URL=server.url)
    echo, discard = server.connect(2, listener=0), server.connect(1, listener=1)
    done = person.run("broadcast", "--listener", "1", "--yes", "-l", "to some of you")
    assert (done.status, json.loads(done.out)["written"]) == (0, 1)
    done = person.run("broadcast", "--all", "--yes", "-l", "to all of you", "--json")
    assert json.loads(done.out)["matched"] == 3
    assert discard[0].read(29) == b"to some of you\nto all of you\n"
    assert {peer.read(14) for peer in echo} == {b"to all of you\n"}
    done = person.run("broadcast", "--ip", "192.0.2.1", "--yes", "x")
    assert (done.status, done.err) == (3, "iocpd: no connections match\n")


# --- bans -------------------------------------------------------------------------------------------------------------


def test_an_address_is_banned_listed_and_let_in_again(server: Server, person: Person) -> None:
    done = person.call("ban", "192.0.2.0/24", "--ttl", "1h", "--reason", "too many", "--yes")
    assert done.status == 0
    id = done.out.strip()
    (row,) = map(json.loads, person.call("bans", "--json").lines)
    assert (row["id"], row["address"], row["reason"]) == (id, "192.0.2.0/24", "too many")
    assert person.call("bans", "--address", "192.0.2.7", "--fields", "id").lines == [id]
    assert person.call("bans", "--address", "198.51.100.7").out == ""
    assert person.call("ban", "192.0.2.0/24", "--yes").status == 5
    done = person.call("unban", "192.0.2.7")
    assert done.status == 3
    assert "192.0.2.0/24" in done.err
    assert person.call("unban", "192.0.2.0/24").status == 0
    assert person.call("unban", id).status == 3
    assert person.call("ban", "nonsense", "--yes").status == 2


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_come_as_they_happen(server: Server, person: Person) -> None:
    with subprocess.Popen(
        [*COMMAND, "events", "--json", "--types", "connected,disconnected", "--count", "2"],
        env=person.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as listening:
        assert listening.stdout is not None
        eventually(lambda: _streams(server) == 1)
        (peer,) = server.connect()
        first = json.loads(listening.stdout.readline())
        peer.close()
        second = json.loads(listening.stdout.readline())
    assert listening.returncode == 0
    assert (first["kind"], second["kind"]) == ("connected", "disconnected")
    assert first["id"] == second["id"]
    assert second["reason"] == "client_closed"
    assert person.run("events", "--types", "nonsense").status == 2


def _streams(server: Server) -> float:
    found = re.search(r"^iocpd_event_streams ([0-9.]+)$", server.http.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0


# --- the node ---------------------------------------------------------------------------------------------------------


def test_node_is_one_document_for_a_program(server: Server, person: Person) -> None:
    done = person.run("node", "--json")
    document = json.loads(done.out)
    assert document["pid"] == server.get("/v1/node")["pid"]
    assert document["listeners"][0]["port"] == server.port


@on_a_terminal
@pytest.mark.parametrize("columns", [80, 120])
def test_node_fits_the_terminal(server: Server, person: Person, columns: int) -> None:
    _peers = server.connect(2)  # and kept
    with person.terminal("node", columns=columns) as terminal:
        assert terminal.end() == 0
        lines = terminal.text.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert any(line.startswith("backend") for line in lines)
    assert any(f"127.0.0.1:{server.port}" in line for line in lines)


@on_a_terminal
def test_node_warns_of_an_address_with_most_of_the_connections(server: Server, person: Person) -> None:
    _peers = server.connect(100)  # and kept
    with person.terminal("node", columns=100) as terminal:
        assert terminal.end() == 0
        (warning,) = [line for line in terminal.text.splitlines() if line.startswith("warning")]
    assert "127.0.0.1 held 100 of them at " in warning


@on_a_terminal
def test_node_shows_the_threads_of_a_service_in_python(serve: Serve, tmp_path: Path) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/python:tests.integration.shouting:Shout?threads=2"))
    with Peer(server.ports[1]) as peer:
        peer.send(b"one\ntwo\n")
        assert peer.read(8) == b"ONE\nTWO\n"
        with Person(tmp_path / "home", server.leaks, IOCPD_URL=server.url).terminal("node", columns=80) as terminal:
            assert terminal.end() == 0
            lines = [line.split() for line in terminal.text.splitlines()]
    assert ["lines", "1000"] in [words[-5:-3] for words in lines]
    assert ["echo", "raw"] in [words[-5:-3] for words in lines]
    place = next(number for number, words in enumerate(lines) if words[:2] == ["LISTENER", "THREAD"])
    threads = sorted(lines[place + 1 : place + 3], key=lambda words: words[2])
    assert [words[2:5] for words in threads] == [["0", "0", "0"], ["1", "2", "2"]]
    assert {words[0] for words in threads} == {"1"}


@on_a_terminal
def test_a_drain_asks_shows_how_far_it_is_and_can_be_taken_back(server: Server, person: Person) -> None:
    gone = leaving(server.connect(6))
    with person.terminal("drain", "--rate", "3", "--deadline", "20s") as terminal:
        terminal.expect("Drain 6 connections and accept no new ones? [y/N] ")
        terminal.type("y\n")
        terminal.expect("/6")
        assert terminal.end() == 0
        assert "drained: 6 of 6 connections gone" in terminal.text
    gone()
    assert json.loads(person.run("drain", "--status").out)["phase"] == "drained"
    assert person.run("drain", "--cancel").status == 0
    assert person.run("drain", "--cancel").status == 5
    assert server.http.get("/readyz").status_code == 200
    assert person.run("drain", "--status", "--grace", "1s").status == 2


def test_connections_that_are_cut_off_make_a_drain_partial(server: Server, person: Person) -> None:
    _peers = server.connect(2)  # and kept, which do not leave
    done = person.run("drain", "--deadline", "500ms", "--yes")
    assert (done.status, json.loads(done.out)["cancelled"]) == (4, 2)


def test_a_shutdown_is_over_when_the_process_is_gone(server: Server, person: Person) -> None:
    done = person.run("shutdown", "--yes", "--deadline", "2s")
    assert done.status == 0
    assert "the service has stopped" in done.err
    assert server.wait() == 0
    done = person.run("ls")
    assert done.status == 6
    assert "cannot reach" in done.err


def test_reload_tells_what_has_changed(tmp_path: Path, serve: Serve) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text("idle_timeout = '5m'\nworkers = 1\n")
    server = serve(arguments=("--config", str(file)))
    person = Person(tmp_path / "home", server.leaks, IOCPD_URL=server.url)
    file.write_text("idle_timeout = '10m'\nworkers = 2\n")
    document = json.loads(person.run("reload").out)
    assert [each["name"] for each in document["changed"]] == ["idle_timeout"]
    assert [each["name"] for each in document["needs_restart"]] == ["workers"]
    file.write_text("idle_timeout = nonsense\n")
    done = person.run("reload")
    assert done.status == 2
    assert "iocpd.toml" in done.err


# --- exit statuses ----------------------------------------------------------------------------------------------------


def test_each_way_to_fail_has_its_own_exit_status(server: Server, person: Person, stranger: Person) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        statuses = {
            "done": person.call("ls"),
            "usage": person.call("ls", "--nonsense"),
            "invalid": person.call("ls", "--ip", "nonsense"),
            "not found": person.call("show", "nobody"),
            "unreachable": person.call("ls", "--url", "http://127.0.0.1:1"),
            "timed out": person.call("ls", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--patience", "0.3"),
        }
    expected = {"done": 0, "usage": 2, "invalid": 2, "not found": 3, "unreachable": 6, "timed out": 7}
    assert {name: done.status for name, done in statuses.items()} == expected, statuses
    for name, done in statuses.items():
        assert "Traceback" not in done.err
        assert bool(done.err) == (name != "done")


def test_the_end_of_a_pipe_is_not_an_error(server: Server, person: Person) -> None:
    _peers = server.connect(200)  # and kept
    with subprocess.Popen(
        [*COMMAND, "ls", "--json", "--watch", "--interval", "0.1"],
        env=person.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.readline()
        listing.stdout.close()
        assert listing.wait(60) == 0
        assert listing.stderr.read() == b""


def test_every_verb_has_examples(stranger: Person) -> None:
    listed = stranger.run("--help").out
    groups = {"keys": ("add", "list", "revoke"), "context": ("add", "use", "list", "remove")}
    verbs = ["serve", "ls", "show", "kick", "send", "broadcast", "ban", "unban", "bans", "tag", "closed", "events"]
    verbs += ["drain", "shutdown", "reload", "node", "keys", "audit", "top", "doctor", "completion", "context", "job"]
    assert all(re.search(rf"^  {verb} ", listed, re.MULTILINE) for verb in verbs), listed
    calls = [(verb, each) for verb in verbs for each in groups.get(verb, ("",))]
    for call in calls:
        done = stranger.call(*filter(None, call), "--help")
        assert done.status == 0, call
        assert "\nexamples:\n  " in done.out, call
        assert max(map(len, done.lines)) <= 100, call


# --- what nobody should have typed ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32" or bool(OVERRIDE), reason="arguments are Unicode there")
@pytest.mark.parametrize(
    "words",
    [
        ("send", "ID", "TEXT"),
        ("broadcast", "--all", "TEXT", "--yes"),
        ("kick", "ID", "--reason", "TEXT"),
        ("kick", "TEXT"),
        ("tag", "ID", "k=TEXT"),
        ("tag", "ID", "--group", "TEXT"),
        ("ls", "--tag", "k:TEXT"),
        ("ban", "192.0.2.1", "--reason", "TEXT", "--yes"),
        ("unban", "TEXT"),
        ("keys", "add", "TEXT", "--role", "viewer", "--remote"),
        ("keys", "revoke", "TEXT", "--remote", "--yes"),
        ("events", "--types", "TEXT"),
        ("audit", "--actor", "TEXT"),
        ("drain", "--farewell", "TEXT", "--yes"),
        ("job", "TEXT"),
    ],
)
def test_text_that_is_not_utf_8_is_refused(server: Server, person: Person, words: tuple[str, ...]) -> None:
    (peer,) = server.connect()
    id = server.id_of(peer)
    done = person.call(*(word.replace("ID", id).replace("TEXT", os.fsdecode(b"caf\xe9")) for word in words))
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert "is not UTF-8" in line
    assert server.count() == 1


@pytest.mark.skipif(sys.platform == "win32" or bool(OVERRIDE), reason="arguments are Unicode there")
def test_a_file_may_have_a_name_that_is_not_utf_8(server: Server, person: Person, tmp_path: Path) -> None:
    (peer,) = server.connect()
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    Path(path).write_bytes(b"\xff\x00")
    assert person.call("send", server.id_of(peer), "--file", path).status == 0
    assert peer.read(2) == b"\xff\x00"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("events", "--after", "é"), "--after is 'é'"),
        (("events", "--after", "a\nb"), "--after is"),
        (("audit", "--since", "0001-01-01"), "--since is '0001-01-01'"),
        (("ls", "--limit", str(2**70)), "--limit"),
        (("closed", "--limit", str(2**63)), "--limit"),
        (("bans", "--limit", "1e30"), "--limit"),
        (("audit", "--limit", str(2**70)), "--limit"),
    ],
)
def test_a_value_beyond_every_bound_is_wrong_usage(
    server: Server, person: Person, words: tuple[str, ...], why: str
) -> None:
    # West of Greenwich or east of it, one end of the calendar is beyond the other's.
    done = person.call(*words, variables={"TZ": "Asia/Tokyo"})
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert why in line


# --- top --------------------------------------------------------------------------------------------------------------


def test_top_prints_one_snapshot_with_rates(server: Server, person: Person, tmp_path: Path) -> None:
    peers = server.connect(3)
    with _chatter(peers[1]):
        done = person.call("top", "-o", "-", "--interval", "0.5")
    assert done.status == 0
    assert "\x1b" not in done.out
    lines = done.lines
    header = next(place for place, line in enumerate(lines) if line.startswith("ID"))
    assert "IN/s▼" in lines[header]
    assert len(lines) == header + 1 + 3
    assert lines[header + 1].startswith(server.id_of(peers[1]))  # the busiest first
    done = person.call("top", "-o", "-", "--json", "--interval", "0.2", "--sort", "age")
    assert len(done.lines) == 3
    assert json.loads(done.lines[0])["rates"].keys() == {"bytes_in", "bytes_out", "messages_in", "messages_out"}
    file = tmp_path / "top.txt"
    assert person.call("top", "-o", str(file), "--interval", "0.2").out == ""
    assert file.read_text(encoding="utf-8").startswith("iocpd ")
    assert person.call("top").status == 2
    assert person.call("top", "--sort", "nonsense", "-o", "-").status == 2


class _chatter:  # noqa: N801
    """A client that talks all the time."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._over = False
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> None:
        self._running = self._pool.submit(self._talk)

    def _talk(self) -> None:
        while not self._over:
            assert self._peer.echoes(b"x" * 1000)

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._running.result()
        self._pool.shutdown()


@on_a_terminal
def test_top_is_steered_with_keys(server: Server, person: Person) -> None:
    peers = server.connect(3)
    ids = {server.id_of(peer) for peer in peers}
    port = peers[1].address[1]
    with person.terminal("top", "--interval", "0.2", columns=120) as terminal:
        terminal.expect("3 of ")
        terminal.type("\x1b[C")
        terminal.expect("OUT/s▼")
        terminal.type("\x1b[D\x1b[D")
        terminal.expect("PEER▼")
        terminal.type("r")
        terminal.expect("PEER▲")
        terminal.type("?")
        terminal.expect("Any key goes back.")
        terminal.type("x")
        terminal.expect("? help")
        terminal.type(f"/:{port}\r")
        terminal.expect("1 match")
        terminal.type("x")
        terminal.expect(f"127.0.0.1:{port}? [y/N]")
        terminal.type("n")
        terminal.expect("nothing was done")
        assert server.count() == 3
        gone = leaving([peers[1]])
        terminal.type("x")
        terminal.expect("? [y/N]")
        terminal.type("y")
        terminal.expect("kicked ")
        gone()
        assert server.count() == 2
        terminal.type("\x1b")
        terminal.expect("2 of ")
        terminal.type("q")
        assert terminal.end() == 0
    (ended,) = ids - {row["id"] for row in server.everything()}
    assert server.closed(ended)["text"] == "iocpd top"


@on_a_terminal
def test_top_goes_on_while_the_service_is_away_and_leaves_the_terminal_as_it_was(
    server: Server, person: Person
) -> None:
    with person.terminal("top", "--interval", "0.2") as terminal:
        terminal.expect("0 of ")
        server.kill()
        terminal.expect("cannot reach")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert terminal.raw.rstrip().endswith((b"\x1b[?1049l\x1b[?25h", b"\x1b[?25h\x1b[?1049l"))


# --- this machine -----------------------------------------------------------------------------------------------------


def doctor(person: Person, *arguments: str) -> Done:
    ports = ("--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0")
    return person.run("doctor", "--json", *(arguments or ports))


def test_doctor_is_content_with_a_machine_that_can_serve(stranger: Person) -> None:
    done = doctor(stranger)
    checks = {row["check"]: row for row in map(json.loads, done.lines)}
    assert done.status == 0, done
    assert {"system", "versions", "libraries", "backend", "port", "state", "keys"} <= checks.keys()
    assert "stop" not in {row["verdict"] for row in checks.values()}
    if sys.platform == "win32" or OVERRIDE:
        assert "user32" in checks


@pytest.mark.parametrize(
    ("variables", "check"),
    [
        ({"IOCPD_WORKERS": "many"}, "settings"),
        ({"IOCPD_BACKEND": "kqueue"}, "settings"),
        ({"IOCPD_HTTP": "0.0.0.0:0"}, "keys"),
        ({"IOCPD_KEYS_FILE": "nowhere.json"}, "keys"),
    ],
    ids=["setting", "backend", "open", "keys"],
)
def test_doctor_fails_where_serve_would(stranger: Person, variables: dict[str, str], check: str) -> None:
    stranger.variables |= {"IOCPD_TCP": "127.0.0.1:0", "IOCPD_HTTP": "127.0.0.1:0"} | variables
    done = stranger.run("doctor", "--json")
    assert done.status == 1
    stops = [row["check"] for row in map(json.loads, done.lines) if row["verdict"] == "stop"]
    assert stops == [check]


def test_doctor_sees_ports_that_are_taken(stranger: Person) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = doctor(stranger, "--tcp", f"127.0.0.1:{taken.getsockname()[1]}", "--http", "127.0.0.1:0")
    assert done.status == 1
    (stop,) = [row for row in map(json.loads, done.lines) if row["verdict"] == "stop"]
    assert stop["check"] == "port"
    assert "the address is in use: choose another port, or stop the program that listens there" in stop["text"]


def findings(done: Done, check: str) -> list[tuple[str, str]]:
    rows = map(json.loads, done.lines)
    return [(row["verdict"], row["text"]) for row in rows if row["check"] == check]


def test_doctor_loads_the_services_as_serve_would(stranger: Person, tmp_path: Path) -> None:
    broken = tmp_path / "broken_service.py"
    broken.write_text("print('not a finding')\nimport no_such_module\n")
    stranger.variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    works, fails = "python:tests.integration.shouting:Shout", "python:broken_service:Mine"
    done = doctor(stranger, "--tcp", f"127.0.0.1:0/{works}", "--tcp", f"127.0.0.1:0/{fails}", "--http", "127.0.0.1:0")
    assert done.status == 1
    (good, why), (bad, reason) = findings(done, "service")
    assert (good, why) == ("ok", f"{works} can be imported; framing=lines&max_bytes=1000")
    assert bad == "stop"
    assert f"No module named 'no_such_module' (in {broken}, line 2)" in reason


def test_doctor_looks_at_the_state_directory_of_the_flag(stranger: Person, tmp_path: Path) -> None:
    done = doctor(stranger, "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state-dir", str(tmp_path / "chosen"))
    assert (done.status, findings(done, "state")) == (0, [("ok", f"{tmp_path / 'chosen'} will be made")])


def test_doctor_knows_the_service_itself_on_its_ports(server: Server, stranger: Person) -> None:
    here = ("--tcp", f"127.0.0.1:{server.port}", "--http", server.url.removeprefix("http://"))
    done = doctor(stranger, *here)
    process = server.get("/v1/node")["pid"]
    assert done.status == 0, done
    for verdict, text in findings(done, "port"):
        assert verdict == "note"
        assert text.endswith(f": in use by the iocpd that runs here, process {process}")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # by another, which the service does not hide
        done = doctor(stranger, "--tcp", f"127.0.0.1:{taken.getsockname()[1]}", *here[2:])
    assert done.status == 1
    assert [verdict for verdict, _ in findings(done, "port")] == ["stop", "note"]


def test_doctor_shows_no_key_to_what_answers_there_and_says_what_it_can(
    serve: Serve, stranger: Person, tmp_path: Path
) -> None:
    path = tmp_path / "server-keys.json"
    server = serve(keys_file=path, key=add_key(path, "admin", role="admin"))
    done = doctor(stranger, "--tcp", f"127.0.0.1:{server.port}", "--http", server.url.removeprefix("http://"))
    assert done.status == 0, done
    for verdict, text in findings(done, "port"):
        assert verdict == "note"
        assert text.endswith("in use by the iocpd that runs here, it seems (without a key it does not tell)")


def test_doctor_and_serve_warn_of_variables_that_are_no_settings(stranger: Person, serve: Serve) -> None:
    stranger.variables |= {"IOCPD_PROT": "7000"}
    assert findings(doctor(stranger), "settings") == [
        ("warn", "IOCPD_PROT is not a setting and changes nothing; did you mean IOCPD_TCP?")
    ]
    log = serve(keys="keys.json").log()
    assert "IOCPD_KEYS is not a setting and changes nothing; did you mean IOCPD_KEYS_FILE?" in log


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_doctor_warns_of_a_key_file_that_others_may_read_and_stops_at_one_that_they_may_write(
    stranger: Person, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "admin", role="admin")
    stranger.variables |= {"IOCPD_KEYS_FILE": str(path)}
    path.chmod(0o644)
    rows = [json.loads(line) for line in doctor(stranger).lines]
    (found,) = [row for row in rows if row["check"] == "keys"]
    assert (found["verdict"], "chmod 600" in found["text"]) == ("warn", True)
    path.chmod(0o620)
    rows = [json.loads(line) for line in doctor(stranger).lines]
    (found,) = [row for row in rows if row["check"] == "keys"]
    assert (found["verdict"], "chmod go-w" in found["text"]) == ("stop", True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_prints_a_script_for_each_shell(stranger: Person, shell: str) -> None:
    done = stranger.call("completion", shell)
    assert done.status == 0
    assert "_IOCPD_COMPLETE" in done.out
    assert stranger.call("completion", "csh").status == 2


def test_a_shell_completes_verbs_and_options(stranger: Person) -> None:
    def complete(line: str, words: int) -> list[str]:
        variables = {"_IOCPD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(words)}
        return stranger.run(variables=variables).lines

    assert {"broadcast", "ban", "bans"} <= set(complete("iocpd b", 1))
    assert "--idle-for" in complete("iocpd kick --idle", 2)
    assert "--idle-timeout" in complete("iocpd serve --idle", 2)


def test_help_and_ls_answer_without_the_service_and_its_libraries(stranger: Person) -> None:
    code = (
        "import sys, iocpd.api.cli;"
        "iocpd.api.cli.main({!r});"
        "print([name for name in sys.modules if name.split('.')[0] in ('fastapi', 'starlette', 'uvicorn')"
        " or name.startswith('iocpd.core')], file=sys.stderr)"
    )
    for arguments in (["--help"], ["ls", "--url", "http://127.0.0.1:1"], ["kick", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)],
            env=stranger.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr.splitlines()[-1] == "[]"
