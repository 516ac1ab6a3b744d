"""How `iocpd serve` starts, refuses to start, and bears what clients throw at it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import Serve
from tests.integration.server import OVERRIDE, SERVE, Server, environment, run
from tests.integration.sse import watch
from tests.support import PATIENCE, Client, eventually, exchange

QUIET = ("--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0")


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """Here each start is a whole one."""
    return partial(serve, anew=True)


def refused(arguments: tuple[str, ...], state: Path, status: int, **settings: str) -> str:
    """Runs `iocpd serve` to its refusal: one line on stderr, nothing else."""
    extra = {f"IOCPD_{name.upper()}": value for name, value in settings.items()}
    done = run(arguments, state, extra)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("iocpd")
    return lines[0]


def test_a_line_says_what_listens_where_on_which_backend_and_why(serve: Serve, backend: str) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/relay"), workers=1)
    text = "\n".join(server.lines)
    assert re.search(rf"^backend {backend}, 1 workers: .+$", text, re.MULTILINE)
    assert re.search(r"^tcp 127\.0\.0\.1:[0-9]+ echo$", text, re.MULTILINE)
    assert re.search(r"^tcp 127\.0\.0\.1:[0-9]+ relay$", text, re.MULTILINE)
    assert re.search(r"^http http://127\.0\.0\.1:[0-9]+ without keys, for this machine alone", text, re.MULTILINE)
    node = server.get("/v1/node")
    assert node["backend"]["name"] == backend
    assert node["backend"]["reason"]
    assert [listener["service"] for listener in server.get("/v1/listeners")["items"]] == ["echo", "relay"]
    assert Client(server.port).echoes(b"hello")


def test_a_start_does_without_what_the_commands_tables_need(tmp_path: Path) -> None:
    code = (
        "import sys; from iocpd.api.cli import main;"
        "status = main(['serve', '--backend', 'none']);"
        "print(status, [name for name in ('iocpd.api.server', 'rich', 'pygments') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "2 ['iocpd.api.server']\n"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_both_sides_listen_on_ipv6(tmp_path: Path, backend: str) -> None:
    with Server(
        tmp_path, backend, anew=True, tcp=("[::1]:0/echo", "[::]:0/echo"), arguments=("--http", "[::1]:0")
    ) as server:
        assert server.url.startswith("http://[::1]:")
        clients = [
            Client(server.ports[0], "::1"),
            Client(server.ports[1], "::1"),
            Client(server.ports[1], "127.0.0.1"),
        ]
        assert all(client.echoes(b"hello") for client in clients)
        found = sorted((row["listener"], row["peer"]["ip"]) for row in server.everything())
        assert found == [(0, "::1"), (1, "127.0.0.1"), (1, "::1")]
        assert len(server.everything(ip="::1")) == 2
        assert len(server.everything(ip="127.0.0.1")) == 1


@pytest.mark.parametrize("what", ["--tcp", "--http"])
def test_a_port_that_is_taken_is_one_line_and_no_traceback(tmp_path: Path, what: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = "--http" if what == "--tcp" else "--tcp"
        line = refused((what, f"127.0.0.1:{port}", other, "127.0.0.1:0"), tmp_path, 1)
    assert f"127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--workers", "many"), "--workers is 'many'"),
        (("--workers", "1000"), "workers"),
        (("--tcp", "127.0.0.1"), "--tcp is '127.0.0.1'"),
        (("--tcp", "127.0.0.1:1/chat"), "chat"),
        (("--http", "8080"), "--http is '8080'"),
        (("--http", "127.0.0.1:99999"), "--http is '127.0.0.1:99999'"),
        (("--backend", "kqueue"), "kqueue"),
        (("--idle-timeout", "soon"), "--idle-timeout is 'soon'"),
        (("--log-level", "loud"), "--log-level is 'loud'"),
        (("--colour",), "--colour"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_flag_is_one_line_that_names_it(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused((*QUIET, *arguments), tmp_path, 2)


def test_a_wrong_variable_is_named_with_its_value(tmp_path: Path) -> None:
    line = refused(QUIET, tmp_path, 2, idle_timeout="tomorrow")
    assert "IOCPD_IDLE_TIMEOUT is 'tomorrow'" in line
    assert "90s" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("workers = 1\nidle_timeout = \n", "line 2"),
        ("workers = 1\nidle_timout = '5m'\n", "line 2: idle_timout is not a setting; did you mean idle_timeout?"),
        ("\n\nmax_connections = 'lots'\n", "line 3: max_connections is 'lots'"),
        ("max_message_bytes = 8000000\n", "max_message_bytes (8000000) is more than send_hard_bytes"),
    ],
)
def test_a_wrong_settings_file_is_one_line_with_the_place(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text(content)
    assert expected in refused((*QUIET, "--config", str(file)), tmp_path, 2)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text('workers = 1\nidle_timeout = "1m"\nmax_connections = 111\nfirst_byte_timeout = 30\n')
    flags = ("--config", str(file), "--max-connections", "333")
    with Server(tmp_path, backend, anew=True, arguments=flags, max_connections=222, idle_timeout="2m") as server:
        node = server.get("/v1/node")
        assert node["workers"] == 1
        limits = node["limits"]
        assert (limits["max_connections"], limits["idle_timeout"], limits["first_byte_timeout"]) == (333, "120s", "30s")


def test_an_address_that_others_can_reach_needs_a_key_file(tmp_path: Path) -> None:
    line = refused(("--http", "0.0.0.0:0", "--tcp", "127.0.0.1:0"), tmp_path, 1)
    assert "iocpd keys add" in line


def test_a_key_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert "nokeys.json" in refused((*QUIET, "--keys", "nokeys.json"), tmp_path, 1)


def test_help_has_examples_and_version_is_one_line(tmp_path: Path) -> None:
    base = SERVE[:-1] if SERVE[-1] == "serve" else SERVE
    for arguments, expected in (
        (["--help"], "examples:"),
        (["serve", "--help"], "examples:"),
        (["--version"], "iocpd "),
    ):
        done = subprocess.run(
            [*base, *arguments], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0
        assert expected in done.stdout


def test_garbage_on_tcp_is_echoed_and_hurts_nobody(server: Server) -> None:
    noise = random.Random(7)
    clients = server.connect(40)
    data = [noise.randbytes(noise.randrange(1, 200_000)) for _ in clients]
    assert exchange(clients, data) == data
    for client in clients[::2]:
        client.send(noise.randbytes(1000))
        client.reset()
    assert all(client.echoes(b"fine") for client in clients[1::2])


def talk(server: Server, data: bytes) -> bytes:
    """What the HTTP port answers to these bytes until it ends the connection."""
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=PATIENCE) as connection:
        answer = bytearray()
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return bytes(answer)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"hello there\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/broadcasts HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
    ],
    ids=["tls", "words", "version", "nul", "length", "smuggling", "header"],
)
def test_garbage_on_http_is_answered_with_a_problem(server: Server, data: bytes) -> None:
    head, _, body = talk(server, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert b'"bad_request"' in body
    assert server.http.get("/livez").status_code == 200


def test_headers_without_an_end_are_refused(server: Server) -> None:
    assert b" 431 " in talk(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 1_000_000)
    assert b" 431 " in talk(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n")
    assert server.http.get("/livez").status_code == 200


@pytest.mark.parametrize("body", [b"[" * 100_000, b"9" * 5000], ids=["nested", "digits"])
def test_json_that_nobody_can_read_is_malformed(server: Server, body: bytes) -> None:
    head = f"POST /v1/kicks HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    answer = talk(server, head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"malformed_json"' in answer


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_is_too_large_is_refused_and_not_kept(serve: Serve, chunked: bool) -> None:
    server = serve(max_message_bytes=1000)
    client = server.connect()[0]
    path = f"/v1/connections/{server.id_of(client)}/messages"
    body = b"x" * 5_000_000
    content = iter([body[:65536]] * 70) if chunked else body
    answer = server.http.post(path, content=content, headers={"content-type": "application/octet-stream"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    answer = server.http.post(path, content=b"x" * 1001, headers={"content-type": "application/octet-stream"})
    assert (answer.status_code, answer.json()["code"]) == (413, "message_too_large")
    assert "1001 bytes" in answer.json()["detail"]


def test_more_http_connections_than_allowed_are_told_so_and_the_service_goes_on(serve: Serve) -> None:
    server = serve(http_connections=5)
    client = server.connect()[0]
    server.http.close()
    with contextlib.ExitStack() as stack:
        watching = [stack.enter_context(watch(server.url)) for _ in range(5)]
        answer = httpx.get(server.url + "/v1/node")
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_http_connections")
        assert [httpx.get(server.url + path).status_code for path in ("/livez", "/readyz", "/startupz")] == [200] * 3
        flood = [stack.enter_context(socket.create_connection(("127.0.0.1", server.http_port))) for _ in range(200)]
        assert client.echoes(b"untouched")
        assert httpx.get(server.url + "/livez").status_code == 200
        assert len(watching) + len(flood) == 205  # all of them until here

    def answers_again() -> bool:
        try:
            return httpx.get(server.url + "/v1/node").status_code == 200
        except httpx.TransportError:  # still cutting off the flood
            return False

    eventually(answers_again)


def test_http_connections_without_a_request_make_room_for_those_who_come(serve: Serve) -> None:
    server = serve(http_connections=5)
    used = [httpx.Client(base_url=server.url, trust_env=False) for _ in range(2)]
    assert [each.get("/livez").status_code for each in used] == [200, 200]
    silent = [socket.create_connection(("127.0.0.1", server.http_port), timeout=PATIENCE) for _ in range(20)]
    silent[-1].sendall(b"GET /v1/node HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    # The longest waits first: of the last five, one gives its place to this client.
    assert httpx.get(server.url + "/v1/node").status_code == 200
    assert [each.recv(1) for each in silent[:15]] == [b""] * 15
    silent[-1].sendall(b"\r\n")
    assert silent[-1].recv(12) == b"HTTP/1.1 200"
    assert [each.get("/livez").status_code for each in used] == [200, 200]  # on new connections
    assert 'iocpd_http_refused_connections_total{reason="displaced"}' in httpx.get(server.url + "/metrics").text
    for each in (*silent, *used):
        each.close()


@pytest.mark.skipif(os.name == "nt" or bool(OVERRIDE), reason="signals of Linux")
def test_a_request_is_heard_before_so_many_have_come_that_it_would_give_them_its_place(serve: Serve) -> None:
    server = serve(http_connections=64)
    with contextlib.ExitStack() as stack:

        def come() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", server.http_port), timeout=PATIENCE))

        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            asking = come()
            asking.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            silent = [come() for _ in range(400)]
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert asking.recv(12) == b"HTTP/1.1 200"
        assert [each.recv(1) for each in silent[:300]] == [b""] * 300


@pytest.mark.skipif(os.name == "nt", reason="Linux keeps the limit on open files low")
def test_connections_are_limited_so_that_the_api_keeps_its_descriptors(serve: Serve) -> None:
    server = serve(max_connections=1_000_000)
    limit = server.get("/v1/node")["limits"]["max_connections"]
    if limit == 1_000_000:
        pytest.skip("this machine allows more files than that")
    assert any(line.startswith(f"at most {limit} TCP connections and not 1000000") for line in server.lines)


def test_listeners_that_no_flag_names_come_from_the_file(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text('tcp = ["127.0.0.1:0/discard", "127.0.0.1:0/relay"]\n')
    server = serve(tcp=(), arguments=["--config", str(file)])
    assert [row["service"] for row in server.get("/v1/listeners")["items"]] == ["discard", "relay"]
