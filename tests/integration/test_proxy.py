"""Behind a balancer that speaks the PROXY protocol, over the API."""

from __future__ import annotations

import json
from pathlib import Path

from iocpd.api.client import Client as ApiClient
from iocpd.api.connections.schemas import ClosedConnectionView, ConnectionDetail, ConnectionRow
from iocpd.api.events.schemas import EventView
from iocpd.api.node.schemas import NodeView
from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.integration.sse import watch
from tests.support import Client, eventually, refused

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
BEHIND = "127.0.0.1:0/echo?proxy_protocol_from=10.0.0.0/8&proxy_protocol_from=127.0.0.1"
PEER = {"ip": "192.0.2.7", "port": 56324}


def come(server: Server, header: bytes = HEADER) -> Client:
    client = Client(server.port)
    client.send(header + b"hello")
    assert client.read(5) == b"hello"
    return client


def test_both_addresses_are_shown_everywhere(serve: Serve) -> None:
    server = serve(tcp=[BEHIND], workers=2)
    with watch(server.url) as stream:
        client = come(server)
        via = {"ip": "127.0.0.1", "port": client.address[1]}
        came = stream.until("connected")
        assert (came.data["peer"], came.data["via"]) == (PEER, via)
        EventView.model_validate(came.data, extra="forbid")
        (row,) = server.everything(ip="192.0.2.0/24")
        ConnectionRow.model_validate(row, extra="forbid")
        assert (row["peer"], row["via"]) == (PEER, via)
        assert server.everything(ip="127.0.0.1") == []
        assert server.get("/v1/connections", fields="via", sort="bytes_in")["items"] == [{"id": row["id"], "via": via}]
        detail = server.get(f"/v1/connections/{row['id']}")
        ConnectionDetail.model_validate(detail, extra="forbid")
        assert (detail["peer"], detail["via"]) == (PEER, via)
        with ApiClient(server.url) as api:
            found = api.get_connection(row["id"])
            assert found.via is not None
            assert (found.peer.ip, found.via.port) == ("192.0.2.7", client.address[1])
        client.close()
        went = stream.until("disconnected")
        assert (went.data["peer"], went.data["via"]) == (PEER, via)
    (closed,) = server.get("/v1/connections/closed")["items"]
    ClosedConnectionView.model_validate(closed, extra="forbid")
    assert (closed["peer"], closed["via"]) == (PEER, via)


def test_without_a_balancer_via_is_null(server: Server) -> None:
    with Client(server.port) as client:
        assert client.echoes(HEADER)
        (row,) = server.everything()
        assert (row["peer"]["port"], row["via"]) == (client.address[1], None)


def test_an_arriving_connection_is_shown_and_its_end_has_a_reason(serve: Serve) -> None:
    server = serve(tcp=[BEHIND], first_byte_timeout="500ms")
    with Client(server.port) as client:
        (row,) = eventually(lambda: server.everything(state="arriving"))
        assert (row["peer"]["port"], row["via"]) == (client.address[1], None)
        assert client.read_to_any_end() == b""
    with Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\n")
        assert client.read_to_any_end() == b""
    eventually(lambda: server.everything() == [])
    closed = server.get("/v1/connections/closed")["items"]
    assert [each["reason"] for each in closed] == ["proxy_header_invalid", "proxy_header_timeout"]
    metrics = server.http.get("/metrics").text
    assert 'reason="proxy_header_invalid"' in metrics
    assert 'reason="proxy_header_timeout"' in metrics


def test_a_ban_of_the_client_kicks_and_keeps_away(serve: Serve) -> None:
    server = serve(tcp=[BEHIND], workers=2)
    banned, other = come(server), come(server, HEADER.replace(b"192.0.2.7", b"192.0.2.8"))
    answer = server.http.post("/v1/bans", json={"address": "192.0.2.7"})
    assert (answer.status_code, answer.json()["kicked"]) == (201, 1)
    assert banned.read_to_any_end() == b""
    with Client(server.port) as client:
        client.send(HEADER + b"hello")
        assert client.read_to_any_end() == b""
    assert other.echoes(b"still here")
    eventually(lambda: server.get("/v1/listeners")["items"][0]["refused_banned"] == 1)
    assert {each["reason"] for each in server.get("/v1/connections/closed")["items"]} == {"banned"}


def test_the_listener_is_given_in_a_file(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text(f"tcp = [{json.dumps(BEHIND)}]\n")
    server = serve(tcp=[], arguments=["--config", str(file)])
    client = come(server)
    assert [row["peer"] for row in server.everything()] == [PEER]
    client.close()


def test_a_ban_of_the_balancer_keeps_new_clients_away_and_those_who_are_there_stay(serve: Serve) -> None:
    server = serve(tcp=[BEHIND])
    client = come(server)
    ban = server.http.post("/v1/bans", json={"address": "127.0.0.1"}).json()
    assert ban["kicked"] == 0
    assert refused(server.port)
    assert server.get("/v1/listeners")["items"][0]["refused_banned"] == 1
    assert client.echoes(b"still here")
    assert server.http.delete(f"/v1/bans/{ban['id']}").status_code == 204
    come(server).close()
    client.close()


def test_an_address_with_most_of_the_connections_is_told_and_logged(server: Server) -> None:
    assert server.get("/v1/node")["dominant_address"] is None
    with watch(server.url, types="dominant_address") as stream:
        clients = [Client(server.port) for _ in range(100)]
        told = stream.next()
        EventView.model_validate(told.data, extra="forbid")
        assert (told.data["address"], told.data["connections"]) == ("127.0.0.1", 100)
    node = server.get("/v1/node")
    NodeView.model_validate(node, extra="forbid")
    assert node["dominant_address"] == {"network": "127.0.0.1", "connections": 100, "at": told.data["at"]}
    eventually(lambda: "127.0.0.1 holds 100 connections, more than half" in server.log())
    assert "proxy_protocol_from" in server.log()
    for client in clients:
        client.close()
