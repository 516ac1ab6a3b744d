"""The Python client, blocking and asynchronous, with the real process."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from iocpd.api.client import (
    AsyncClient,
    Ban,
    BroadcastReport,
    Client,
    ClosedConnection,
    Conflict,
    ConnectionDetail,
    Drain,
    Forbidden,
    Gone,
    Invalid,
    KickReport,
    Listener,
    NewKey,
    NotFound,
    ProblemError,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from iocpd.api.keys import add_key
from tests.integration.conftest import Serve
from tests.integration.server import BACKENDS, OVERRIDE, Server
from tests.support import PATIENCE, eventually
from tests.support import Client as Peer


@pytest.fixture
def backend() -> str:
    """A client of the API sees no difference between them."""
    return BACKENDS[0] if OVERRIDE else "auto"


class Awaited:
    """An AsyncClient whose methods are run to their end, so that one test is for both clients."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **options)
        self._streams: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            return self._loop.run_until_complete(answer) if inspect.isawaitable(answer) else self._iterate(answer)

        return call

    def _iterate(self, answer: Any) -> Iterator[Any]:
        self._streams.append(answer)
        while True:
            try:
                yield self._loop.run_until_complete(anext(answer))
            except StopAsyncIteration:
                return

    def close(self) -> None:
        for each in self._streams:
            self._loop.run_until_complete(each.aclose())
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


Connect = Callable[..., Any]


@pytest.fixture(params=[Client, Awaited], ids=["blocking", "asynchronous"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of either kind."""
    clients = []

    def begin(server: Server | str, **options: Any) -> Any:
        url = server if isinstance(server, str) else server.url
        clients.append(request.param(url, timeout=options.pop("timeout", PATIENCE), **options))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def client(server: Server, connect: Connect) -> Any:
    return connect(server)


def as_json(value: Any) -> Any:
    return json.loads(value.model_dump_json())


class LosingAnswers:
    """A proxy that passes requests on and keeps the first answers for itself. Gives its port."""

    def __init__(self, to: int, *, lose: int) -> None:
        self._to = to
        self._left = lose
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._listener.getsockname()[1]
        return port

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it is over
                return
            with connection, socket.create_connection(("127.0.0.1", self._to)) as service:
                connection.settimeout(PATIENCE)
                service.settimeout(PATIENCE)
                service.sendall(self._whole(connection, b"once"))
                answer = self._whole(service, b"}")
                if self._left:
                    self._left -= 1
                else:
                    connection.sendall(answer)

    @staticmethod
    def _whole(connection: socket.socket, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):  # head and body may come one after another
            piece = connection.recv(65536)
            assert piece, data
            data += piece
        return data

    def __exit__(self, *_: object) -> None:
        self._listener.close()


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_connection_is_shown_with_everything_that_the_api_tells(server: Server, client: Any) -> None:
    peer = server.connect()[0]
    assert peer.echoes(b"hello")
    id = server.id_of(peer)
    # The messages are the last that is told of a send.
    raw = eventually(lambda: row if (row := server.get(f"/v1/connections/{id}"))["messages_out"] else None)
    assert raw["bytes_out"] == 5
    found = client.get_connection(id)
    assert isinstance(found, ConnectionDetail)
    assert as_json(found) | {"rtt_ms": None} == raw | {"rtt_ms": None}
    assert found.rtt_ms is None or found.rtt_ms >= 0
    assert found.peer.port == peer.address[1]
    assert found.state == "open"
    assert found.connected_at.tzinfo is not None
    with pytest.raises(ValueError, match="frozen"):
        found.id = "another"


def test_a_page_has_what_was_asked_for(server: Server, client: Any) -> None:
    _peers = server.connect(5)  # and kept
    page = client.list_connections(limit=2, count="exact", state="open")
    assert (len(page.items), page.total) == (2, 5)
    rest = client.list_connections(limit=1000, cursor=page.next_cursor, state="open")
    assert rest.next_cursor is None
    assert rest.total is None
    assert rest.snapshot.taken_at == page.snapshot.taken_at
    assert len({connection.id for connection in page.items + rest.items}) == 5


def test_filters_are_those_of_the_api(server: Server, client: Any) -> None:
    busy, _ = server.connect(2)
    assert busy.echoes(b"x" * 1000)
    ids = {connection.id for connection in client.connections()}
    assert len(ids) == 2

    def found(**where: Any) -> set[str]:
        return {connection.id for connection in client.connections(**where)}

    assert found(ip="127.0.0.0/8", listener=0, older_than=0.0, idle_for="0s") == ids
    assert found(ip="192.0.2.1") == found(listener=1) == found(state="closing") == set()
    assert found(older_than=3600) == found(idle_for=3600.5) == set()
    assert found(min_bytes_in=1000) == found(min_bytes_out=1000) == {server.id_of(busy)}
    assert found(min_pending_bytes=1) == set()


def test_connections_come_in_the_order_that_was_asked_for(server: Server, client: Any) -> None:
    peers = server.connect(7)
    for number, peer in enumerate(peers):
        assert peer.echoes(b"x" * (10 * number + 1))
    found = [connection.bytes_in for connection in client.connections(sort="-bytes_in", page_size=2)]
    assert found == [61, 51, 41, 31, 21, 11, 1]


def test_iterating_shows_each_connection_that_stays_once_while_others_come_and_go(server: Server, client: Any) -> None:
    peers = server.connect(40)
    stay = {peer.address[1] for peer in peers}
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for peer in [Peer(server.port) for _ in range(5)]:
                peer.close()

    with ThreadPoolExecutor(1) as background:
        running = background.submit(churn)
        try:
            for options in ({}, {"sort": "-connected_at"}):
                for _ in range(5):
                    seen = [connection.peer.port for connection in client.connections(page_size=3, **options)]
                    assert [port for port in seen if port in stay and seen.count(port) > 1] == []
                    assert stay <= set(seen)
        finally:
            stop.set()
        running.result()


def test_ended_connections_are_iterated_over_newest_first(server: Server, client: Any) -> None:
    for peer in server.connect(7):
        peer.close()
    eventually(lambda: len(server.get("/v1/connections/closed")["items"]) == 7)
    found = list(client.closed_connections(page_size=2))
    assert [as_json(each) for each in found] == server.get("/v1/connections/closed")["items"]
    assert [each.closed_at for each in found] == sorted((each.closed_at for each in found), reverse=True)
    assert {(each.reason, each.by) for each in found} == {("client_closed", "client")}
    page = client.list_closed(limit=3)
    assert list(page.items) == found[:3]
    assert client.list_closed(limit=4, cursor=page.next_cursor).items == tuple(found[3:])


def test_a_kick_says_goodbye_and_why(server: Server, client: Any) -> None:
    for farewell, expected in (("bye\n", b"bye\n"), (bytes(range(256)), bytes(range(256))), (None, b"")):
        peer = server.connect()[0]
        id = server.id_of(peer)
        with ThreadPoolExecutor(1) as background:
            read = background.submit(lambda peer=peer: (peer.read_to_end(), peer.close())[0])
            assert client.kick(id, reason="maintenance", farewell=farewell) is None
            assert read.result() == expected
        with pytest.raises(Gone) as raised:
            client.get_connection(id)
        error = raised.value
        assert (error.status, error.code, error.title) == (410, "connection_ended", "The connection has ended")
        assert error.type == "urn:iocpd:problem:connection_ended"
        assert "maintenance" in error.detail
        assert error.request_id
        assert isinstance(error.closed, ClosedConnection)
        assert as_json(error.closed) == error.extra["closed"]
        assert (error.closed.reason, error.closed.by, error.closed.text) == ("kicked", "operator", "maintenance")


def test_a_forced_kick_resets(server: Server, client: Any) -> None:
    peer = server.connect()[0]
    client.kick(server.id_of(peer), force=True, timeout=60)
    assert peer.was_reset()


def test_a_kick_may_take_longer_than_the_clients_own_timeout(server: Server, connect: Connect) -> None:
    peer = server.connect()[0]
    client = connect(server, timeout=0.5)
    began = time.monotonic()
    client.kick(server.id_of(peer), timeout=1.5)  # the peer does not close
    assert time.monotonic() - began >= 1.4


def test_an_id_of_nobody_and_one_of_another_run_are_told_apart(serve: Serve, connect: Connect) -> None:
    before, after = serve(), serve()
    client = connect(after)
    for id in ("nobody", "..", "a/b", f"{client.get_node().instance}-ffff"):
        for method, arguments in (("get_connection", ()), ("kick", ()), ("send", ("x",))):
            with pytest.raises(NotFound) as raised:
                getattr(client, method)(id, *arguments)
            assert raised.value.code == "connection_unknown"
    (peer,) = before.connect()
    with pytest.raises(Gone) as gone:
        client.kick(before.id_of(peer))
    assert gone.value.code == "connection_of_another_run"
    assert gone.value.closed is None


def test_a_listing_of_some_fields_has_no_others(server: Server, client: Any) -> None:
    _peers = server.connect(2)  # and kept
    for found in (
        list(client.connections(fields=["peer", "tags"], page_size=1, sort="-bytes_in")),
        client.list_connections(fields=["peer", "tags"]).items,
    ):
        assert [each.model_fields_set for each in found] == [{"id", "peer", "tags"}] * 2
        with pytest.raises(AttributeError):
            _ = found[0].bytes_in
    with pytest.raises(Invalid):
        client.list_connections(fields=["nonsense"])


def test_labels_are_written_and_found(server: Server, client: Any) -> None:
    peer, other = server.connect(2)
    id = server.id_of(peer)
    assert client.label(id, tags={"region": "eu", "tier": "gold"}, groups=["lobby"]).groups == ("lobby",)
    assert client.label(id, tags={"tier": None}).tags == {"region": "eu"}
    client.label(server.id_of(other), tags={"region": "us"})
    assert [each.id for each in client.connections(tag=["region:eu"])] == [id]
    assert [each.id for each in client.connections(group="lobby", tag=["region:eu"])] == [id]
    assert list(client.connections(tag=["region:eu", "tier:gold"])) == []
    with pytest.raises(Invalid):
        client.label(id)
    with pytest.raises(NotFound):
        client.label("nobody", groups=[])


# --- kicks and broadcasts ---------------------------------------------------------------------------------------------


def leave(peers: list[Peer]) -> Callable[[], list[bytes]]:
    """Reads from clients until their end and closes them, in a thread; the result is what they were sent."""
    pool = ThreadPoolExecutor(1)
    done = pool.submit(lambda: [(peer.read_to_any_end(), peer.close())[0] for peer in peers])
    pool.shutdown(wait=False)
    return done.result


def test_many_are_kicked_and_the_report_tells_of_each(server: Server, client: Any) -> None:
    peers = server.connect(4)
    spared = server.id_of(peers[0])
    look = client.kick_many(listener=0, exclude=[spared], dry_run=True)
    assert isinstance(look, KickReport)
    assert (look.matched, look.kicked, {each.outcome for each in look.outcomes}) == (3, 0, {"would_kick"})
    sent = leave(peers[1:])
    report = client.kick_many(listener=0, exclude=[spared], reason="maintenance", farewell="bye")
    assert sent() == [b"bye"] * 3
    assert (report.job, report.state, report.kicked, report.failed) == (None, "done", 3, 0)
    assert {each.id for each in report.outcomes} == {each.id for each in look.outcomes}
    assert [each.id for each in client.connections()] == [spared]
    with pytest.raises(Invalid, match='"all": true'):
        client.kick_many()
    with pytest.raises(Invalid):
        client.kick_many(all=True, listener=0)


def test_a_kick_with_a_rate_is_watched_and_cancelled(server: Server, client: Any) -> None:
    sent = leave(server.connect(10))
    begun = client.kick_many(all=True, rate_per_s=20)
    assert begun.job
    seen = list(client.watch_kicks(begun, interval=0.05))
    sent()
    assert seen[0] == begun
    assert (seen[-1].state, seen[-1].kicked) == ("done", 10)
    assert [each.waiting for each in seen] == sorted((each.waiting for each in seen), reverse=True)
    assert client.get_kicks(begun.job) == seen[-1]
    _peers = server.connect(5)  # and kept
    begun = client.kick_many(all=True, rate_per_s=1, force=True)
    client.cancel_kicks(begun.job)
    last = list(client.watch_kicks(begun.job, interval=0.05))[-1]
    assert (last.state, last.waiting > 0) == ("cancelled", True)
    with pytest.raises(NotFound) as raised:
        client.get_kicks("nosuchjob")
    assert raised.value.code == "job_unknown"


def test_a_broadcast_may_be_a_job(server: Server, client: Any) -> None:
    peers = server.connect(3)
    begun = client.broadcast("to all\n", all=True, prefer="respond-async", ttl_ms=60_000, on_slow="disconnect")
    assert isinstance(begun, BroadcastReport)
    assert begun.job
    last = list(client.watch_broadcast(begun, interval=0.05))[-1]
    assert (last.state, last.written, last.expired, last.done) == ("done", 3, 0, True)
    assert client.get_broadcast(begun.job) == last
    assert {peer.read(7) for peer in peers} == {b"to all\n"}
    client.cancel_broadcast(begun.job)
    assert client.broadcast("x", all=True, dry_run=True).matched == 3
    assert all(peer.echoes(b"nothing before this") for peer in peers)


def test_a_post_that_is_made_again_is_done_once(server: Server) -> None:
    (peer,) = server.connect()
    id = server.id_of(peer)
    with LosingAnswers(server.http_port, lose=2) as port, Client(f"http://127.0.0.1:{port}", retries=3) as client:
        assert client.send(id, "once").written == 1
    peer.send(b"!")
    assert peer.read(5) == b"once!"


# --- bans and events --------------------------------------------------------------------------------------------------


def test_bans_are_made_listed_and_lifted(server: Server, client: Any) -> None:
    sent = leave(server.connect(2))
    mine = client.ban("127.0.0.0/8", ttl="1h", reason="too many", farewell="bye")
    assert sent() == [b"bye"] * 2
    assert isinstance(mine, Ban)
    assert (mine.kicked, mine.reason, mine.created_by) == (2, "too many", "local")
    others = [client.ban(f"192.0.2.{number}").id for number in range(3)]
    assert [each.id for each in client.bans(page_size=2)] == [*reversed(others), mine.id]
    assert client.list_bans(limit=1).total == 4
    assert [each.address for each in client.bans(address="127.0.0.1")] == ["127.0.0.0/8"]
    assert client.get_ban(mine.id).expires_at is not None
    with pytest.raises(Conflict):
        client.ban("127.0.0.0/8")
    assert client.unban(mine.id) is None
    for call in (client.unban, client.get_ban):
        with pytest.raises(NotFound):
            call(mine.id)


def test_events_are_iterated_over(server: Server, client: Any) -> None:
    events = client.events(types=["connected", "disconnected"], listener=0)
    with ThreadPoolExecutor(1) as background:
        first = background.submit(next, events)
        peers = []
        while not first.done():  # those before the stream began are not in it
            peers += server.connect(1)
        assert first.result(PATIENCE).kind == "connected"
    for peer in peers:
        peer.close()
    seen = next(each for each in events if each.kind == "disconnected")
    assert (seen.reason, seen.by, seen.listener) == ("client_closed", "client", 0)
    assert seen.position.startswith(client.get_node().instance)
    again = client.events(after=seen.position, types=["disconnected", "connected"])
    if len(peers) > 1:
        assert next(again).position != seen.position


def test_an_event_stream_outlives_the_service(serve: Serve, connect: Connect) -> None:
    first = serve()
    events = connect(first).events(attempts=100)
    with ThreadPoolExecutor(1) as background:
        seen = background.submit(next, events)
        peers = []
        while not seen.done():
            peers += first.connect(1)
        assert seen.result(PATIENCE).kind == "connected"
        first.kill()
        seen = background.submit(lambda: next(each for each in events if each.kind == "missed"))
        second = serve(arguments=["--http", f"127.0.0.1:{first.http_port}"])
        assert seen.result(2 * PATIENCE).missed is None  # nobody knows how many
        seen = background.submit(next, events)
        peers += second.connect(1)
        assert seen.result(PATIENCE).kind == "connected"


# --- keys and the audit -----------------------------------------------------------------------------------------------


def test_keys_are_made_listed_and_revoked_and_the_audit_tells(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    admin = add_key(path, "admin", role="admin")
    server = serve(keys_file=path, key=admin)
    client = connect(server, key=admin)
    made = client.add_key("alice", role="viewer", expires_in="1h")
    assert isinstance(made, NewKey)
    assert connect(server, key=made.key).get_node().pid
    single = client.add_key("bob", scopes=["metrics:read"])
    assert (single.role, single.scopes, single.expires_at) == (None, ("metrics:read",), None)
    assert {each.name for each in client.list_keys().items} == {"admin", "alice", "bob"}
    with pytest.raises(Conflict):
        client.add_key("alice", role="viewer")
    client.revoke_key("alice")
    with pytest.raises(Unauthorized):
        connect(server, key=made.key).get_node()
    with pytest.raises(NotFound):
        client.revoke_key("alice")
    found = list(client.audit(actor="admin", page_size=2))
    assert {each.action for each in found} == {"keys-create", "keys-revoke"}
    assert [each.at for each in found] == sorted((each.at for each in found), reverse=True)
    assert [each.outcome for each in client.audit(action="keys-revoke")] == ["key_name_unknown", "done"]
    assert made.key not in "".join(each.model_dump_json() for each in found)
    assert client.list_audit(limit=1, since=found[0].at).items[0].at >= found[0].at


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_reaches_its_connection_alone(server: Server, client: Any) -> None:
    peer, other = server.connect(2)
    id = server.id_of(peer)
    report = client.send(id, "grüße\n")
    assert (report.matched, report.queued, report.written, report.done) == (1, 1, 1, True)
    assert client.send(id, bytes(range(256)), timeout=2).written == 1
    assert peer.read(8 + 256) == "grüße\n".encode() + bytes(range(256))
    assert other.echoes(b"nothing before this")


def test_a_broadcast_reaches_whom_the_filter_matches(serve: Serve, connect: Connect) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/discard"))
    client = connect(server)
    echo, discard = server.connect(2, listener=0), server.connect(3, listener=1)
    report = client.broadcast("to some\n", listener=1, ip="127.0.0.1")
    assert (report.matched, report.written, report.done) == (3, 3, True)
    assert client.broadcast(b"to all\n", all=True, timeout=2.5).matched == 5
    assert {peer.read(15) for peer in discard} == {b"to some\nto all\n"}
    assert {peer.read(7) for peer in echo} == {b"to all\n"}
    with pytest.raises(Invalid, match='add "all": true'):
        client.broadcast("x")
    with pytest.raises(Invalid):
        client.broadcast("x", all=True, listener=0)


def test_what_is_wrong_with_a_request_is_told_one_by_one(server: Server, client: Any) -> None:
    with pytest.raises(Invalid) as raised:
        client.list_connections(limit=0, ip="nonsense")
    error = raised.value
    assert (error.status, error.code) == (422, "validation_failed")
    assert {(each.location, each.field) for each in error.errors} == {("query", "limit"), ("query", "ip")}
    assert all(each.code and each.detail for each in error.errors)
    with pytest.raises(Invalid) as raised:
        list(client.connections(idle_for="soon"))
    assert raised.value.errors[0].field == "idle_for"
    with pytest.raises(Invalid) as raised:
        client.list_closed(cursor="nonsense")
    assert raised.value.code == "cursor_malformed"


def test_a_message_that_is_too_large_is_refused(serve: Serve, connect: Connect) -> None:
    server = serve(max_message_bytes=1000)
    client = connect(server)
    (peer,) = server.connect()
    id = server.id_of(peer)
    for call in (lambda: client.send(id, b"x" * 1001), lambda: client.broadcast("x" * 1001, all=True)):
        with pytest.raises(ProblemError) as raised:
            call()
        assert (raised.value.status, raised.value.code) == (413, "message_too_large")


# --- the node ---------------------------------------------------------------------------------------------------------


def test_the_node_and_its_listeners_tell_what_they_are(server: Server, client: Any) -> None:
    _peers = server.connect(3)  # and kept
    node = client.get_node()
    assert node.pid
    assert (node.connections, node.totals.connections, node.phase, node.accepting) == (3, 3, "none", True)
    assert len(node.per_worker) == node.workers
    assert sum(worker.adopted for worker in node.per_worker) == node.totals.adopted == 3
    raw = server.get("/v1/node")
    assert as_json(node).keys() == raw.keys()
    assert as_json(node.limits) == raw["limits"]
    assert as_json(node.backend) == raw["backend"]
    (listener,) = client.list_listeners().items
    assert isinstance(listener, Listener)
    assert (listener.port, listener.service, listener.connections) == (server.port, "echo", 3)
    assert [as_json(listener)] == server.get("/v1/listeners")["items"]


def test_metrics_and_probes(server: Server, client: Any) -> None:
    assert "\niocpd_connections" in client.get_metrics()
    assert client.get_live().status == "live"
    assert client.get_ready().status == "ready"
    assert client.get_started().status == "started"


def test_a_drain_is_watched_to_its_end(server: Server, client: Any) -> None:
    peers = server.connect(20)
    reader = ThreadPoolExecutor(1)
    done = reader.submit(lambda: [(peer.read_to_end(), peer.close())[0] for peer in peers])
    begun = client.begin_drain(rate_per_s=20, deadline="20s", farewell="back soon\n")
    assert isinstance(begun, Drain)
    assert (begun.then, begun.initial, begun.rate_per_s) == ("stay", 20, 20)
    with pytest.raises(Conflict) as raised:
        client.begin_drain()
    assert raised.value.code == "drain_conflict"
    with pytest.raises(ProblemError) as refused:
        client.get_ready()
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "not_ready", 1)
    seen = list(client.watch_drain(interval=0.02))
    assert done.result(PATIENCE) == [b"back soon\n"] * 20
    reader.shutdown()
    assert len(seen) > 2
    assert (seen[-1].phase, seen[-1].remaining, seen[-1].cancelled) == ("drained", 0, 0)
    assert [each.remaining for each in seen] == sorted((each.remaining for each in seen), reverse=True)
    assert client.get_drain() == seen[-1]
    client.cancel_drain()
    assert client.get_ready().status == "ready"
    with pytest.raises(Conflict):
        client.cancel_drain()


def test_watching_ends_when_the_drain_is_cancelled_or_there_is_none(server: Server, client: Any) -> None:
    assert [each.phase for each in client.watch_drain()] == ["none"]
    client.begin_drain(lb_delay=60, deadline=120.0)
    phases = []
    for progress in client.watch_drain(interval=0.05):
        phases.append(progress.phase)
        if len(phases) == 2:
            client.cancel_drain()
    assert phases == ["lb_delay", "lb_delay", "none"]


def test_a_shutdown_is_watched_until_the_process_is_gone(server: Server, client: Any) -> None:
    _peers = server.connect(3)  # and kept
    begun = client.shutdown(grace=0.3, deadline=1.5)
    assert begun.then == "shutdown"
    seen = list(client.watch_drain(interval=0.05))
    assert len(seen) > 2
    assert {each.then for each in seen} == {"shutdown"}
    assert server.wait() == 0
    with pytest.raises(Unreachable):
        client.get_drain()
    with pytest.raises(Unreachable):
        list(client.watch_drain())
    assert list(client.watch_drain(begun=begun)) == []


# --- who is asking, and who answers -----------------------------------------------------------------------------------


def test_a_key_opens_what_its_role_allows(
    serve: Serve, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.json"
    viewer, admin = add_key(keys, "viewer", role="viewer"), add_key(keys, "admin", role="admin")
    server = serve(keys_file=keys)
    for options, code in (({"key": ""}, "key_missing"), ({"key": "iocpd_wrong"}, "key_unknown")):
        with pytest.raises(Unauthorized) as raised:
            connect(server, **options).get_node()
        assert (raised.value.status, raised.value.code) == (401, code)
        assert "iocpd_wrong" not in repr(raised.value)
    assert connect(server, key="").get_live().status == "live"
    client = connect(server, key=viewer)
    assert list(client.connections()) == []
    with pytest.raises(Forbidden) as forbidden:
        client.begin_drain()
    assert (forbidden.value.status, forbidden.value.code) == (403, "scope_missing")
    assert viewer not in repr(forbidden.value)
    file = tmp_path / "key"
    file.write_text(admin + "\n")
    assert connect(server, key_file=file).begin_drain().then == "stay"
    monkeypatch.setenv("IOCPD_KEY", admin)
    connect(server).cancel_drain()


def test_nobody_there_is_unreachable(connect: Connect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        client = connect(f"http://127.0.0.1:{taken.getsockname()[1]}")
        for call in (client.get_node, lambda: client.send("x", "y"), lambda: list(client.connections())):
            with pytest.raises(Unreachable, match=r"cannot reach http://127\.0\.0\.1") as raised:
                call()
            assert not raised.value.sent


def test_silence_is_a_timeout(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)
        began = time.monotonic()
        with pytest.raises(TimedOut, match="did not answer in time"):
            client.get_node()
        assert time.monotonic() - began < 5


def test_a_service_that_goes_away_is_asked_again_where_nothing_can_be_done_twice(connect: Connect) -> None:
    asked = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            nonlocal asked
            for _ in range(3 + 1 + 3):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    asked += 1

        listener.settimeout(PATIENCE)
        with ThreadPoolExecutor(1) as background:
            done = background.submit(hang_up)
            client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", retries=2)
            for call, times in (
                (client.get_node, 3),
                (lambda: client.kick("x"), 1),
                (lambda: client.send("x", "y"), 3),
            ):
                asked = 0
                with pytest.raises(Unreachable, match="went away") as raised:
                    call()
                assert raised.value.sent
                assert asked == times
            done.result()


def test_a_client_goes_on_when_the_service_is_started_again(serve: Serve, connect: Connect) -> None:
    first = serve()
    client = connect(first)
    instance = client.get_node().instance
    page = client.list_connections(limit=1)
    _peers = first.connect(3)  # and kept
    listing = client.connections(page_size=1)
    next(listing)
    first.kill()
    serve(arguments=["--http", f"127.0.0.1:{first.http_port}"])
    assert client.get_node().instance != instance
    assert page.next_cursor is None
    with pytest.raises(Gone) as raised:
        list(listing)
    assert raised.value.code == "cursor_expired"
    assert raised.value.closed is None


def test_threads_share_a_client_and_tasks_an_asynchronous_one(server: Server) -> None:
    _peers = server.connect(10)  # and kept
    with Client(server.url, timeout=PATIENCE) as client, ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(lambda _: len(list(client.connections(page_size=3))), range(24)))
    assert counts == [10] * 24

    async def together() -> list[int]:
        async with AsyncClient(server.url, timeout=PATIENCE) as client:

            async def count() -> int:
                return len([connection async for connection in client.connections(page_size=3)])

            return await asyncio.gather(*(count() for _ in range(24)))

    assert asyncio.run(together()) == [10] * 24
