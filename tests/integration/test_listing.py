"""GET /v1/connections of the real process."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.support import Client, eventually


def test_each_connection_that_stays_is_listed_exactly_once_while_others_come_and_go(server: Server) -> None:
    staying = server.connect(300)
    ports = {client.address[1] for client in staying}
    over = threading.Event()

    def churn() -> None:
        short: list[Client] = []
        while not over.is_set():
            short += [Client(server.port) for _ in range(20)]
            for client in short[:-30]:
                client.reset() if client.address[1] % 2 else client.close()
            short = short[-30:]
            over.wait(0.005)  # the processors are for the server too

    churners = [threading.Thread(target=churn) for _ in range(2)]
    for thread in churners:
        thread.start()
    try:
        passed_by = 0
        for limit in (1, 7, 37, 100, 1000, 23, 64, 50):
            rows = server.everything(limit=limit)
            ids = [row["id"] for row in rows]
            assert len(set(ids)) == len(ids), "a connection was listed twice"
            seen = [row["peer"]["port"] for row in rows if row["peer"]["port"] in ports]
            assert sorted(seen) == sorted(ports), "a connection that stayed was missed or seen twice"
            passed_by += len(rows) - len(ports)
        assert passed_by > 0, "nobody came or went"
    finally:
        over.set()
        for thread in churners:
            thread.join()
    assert all(client.echoes(b"still here") for client in staying)


def test_what_connects_after_the_first_page_is_on_none_of_the_next(server: Server) -> None:
    server_clients = server.connect(20)
    first = server.get("/v1/connections", limit=5)
    late = server.connect(20)
    rows, cursor = first["items"], first["next_cursor"]
    while cursor:
        page = server.get("/v1/connections", limit=5, cursor=cursor)
        assert page["snapshot"] == first["snapshot"]
        rows, cursor = rows + page["items"], page["next_cursor"]
    assert {row["peer"]["port"] for row in rows} == {client.address[1] for client in server_clients}
    assert len(server.everything()) == len(server_clients) + len(late)


def test_the_link_header_leads_through_all_pages_with_the_same_filter(server: Server) -> None:
    clients = server.connect(10)
    answer = server.http.get("/v1/connections", params={"limit": 3, "state": "open", "ip": "127.0.0.0/8"})
    found = answer.json()["items"]
    while "next" in answer.links:
        answer = server.http.get(answer.links["next"]["url"])
        found += answer.json()["items"]
    assert {row["peer"]["port"] for row in found} == {client.address[1] for client in clients}
    assert answer.json()["next_cursor"] is None


def test_the_last_page_is_known_as_the_last_even_when_it_is_full(server: Server) -> None:
    clients = server.connect(6)
    first = server.get("/v1/connections", limit=3)
    second = server.get("/v1/connections", limit=3, cursor=first["next_cursor"])
    assert second["next_cursor"] is None
    assert len(first["items"]) == len(second["items"]) == len(clients) / 2


def test_filters_select_by_address_listener_state_age_and_idleness(serve: Serve) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/discard"))
    old = server.connect()[0]
    others = server.connect(3, listener=1)
    old_row = server.get("/v1/connections", listener=0)["items"][0]
    assert old_row["service"] == "echo"
    assert old_row["peer"] == {"ip": "127.0.0.1", "port": old.address[1]}

    def total(**query: str) -> int:
        found: int = server.get("/v1/connections", count="exact", limit=1, **query)["total"]
        return found

    assert total(listener="1") == len(others) == 3
    assert total(ip="127.0.0.1") == total(ip="127.0.0.0/8") == 4
    assert total(ip="192.0.2.0/24") == total(ip="::1") == 0
    assert total(state="open") == 4
    assert total(state="draining") == 0
    assert total(older_than="1h") == total(idle_for="5m") == 0
    eventually(lambda: total(older_than="250ms") == 4)
    assert old.echoes(b"not idle any more")
    eventually(lambda: total(idle_for="200ms") >= 3)


def test_a_connection_shows_its_traffic(server: Server) -> None:
    client = server.connect()[0]
    id = server.id_of(client)
    before = server.get(f"/v1/connections/{id}")
    assert client.echoes(b"0123456789")
    # The messages are the last that is told of a send.
    after = eventually(lambda: row if (row := server.get(f"/v1/connections/{id}"))["messages_out"] else None)
    assert (after["bytes_in"], after["bytes_out"]) == (10, 10)
    assert after["messages_in"] >= 1
    assert after["pending_bytes"] == 0
    assert after["state"] == "open"
    assert after["reason"] is None
    assert after["local"] == {"ip": "127.0.0.1", "port": server.port}
    assert after["connected_at"] == before["connected_at"]
    assert datetime.fromisoformat(after["last_activity_at"]) >= datetime.fromisoformat(before["last_activity_at"])
    assert datetime.fromisoformat(after["connected_at"]).utcoffset() == timedelta(0)


def test_ended_connections_are_listed_newest_first_and_page_by_page(server: Server) -> None:
    clients = server.connect(7)
    for expected, client in enumerate(clients, 1):
        client.close()
        eventually(lambda expected=expected: len(server.get("/v1/connections/closed")["items"]) == expected)
    ports, cursor = [], None
    while True:
        page = server.get("/v1/connections/closed", limit=3, **({"cursor": cursor} if cursor else {}))
        ports += [row["peer"]["port"] for row in page["items"]]
        assert all(row["reason"] == "client_closed" and row["by"] == "client" for row in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert ports == [client.address[1] for client in reversed(clients)]


def test_sorted_pages_show_each_that_stays_once_and_in_the_order_of_their_moment(server: Server) -> None:
    clients = server.connect(300)
    for number, client in enumerate(clients):
        assert client.echoes(bytes(1 + number * 97 % 300))
    page = server.get("/v1/connections", sort="-bytes_in", limit=40, count="exact")
    assert page["total"] == 300
    order = [row["bytes_in"] for row in page["items"]]
    assert order == list(range(300, 260, -1))
    # Between the pages every tenth leaves, others come, and the last of the order would now be the first.
    sizes = {client.address[1]: 1 + number * 97 % 300 for number, client in enumerate(clients)}
    staying = [client for client in clients if sizes[client.address[1]] % 10]
    for client in clients:
        if client not in staying:
            client.close()
    eventually(lambda: server.count() == len(staying))
    newcomers = server.connect(20)
    least = min(staying, key=lambda client: sizes[client.address[1]])
    assert all(client.echoes(bytes(2000)) for client in [*newcomers, least])
    eventually(lambda: server.get("/v1/connections", limit=1, count="exact")["total"] == len(staying) + len(newcomers))
    rows, cursor = page["items"], page["next_cursor"]
    while cursor:
        page = server.get("/v1/connections", sort="-bytes_in", limit=40, cursor=cursor)
        rows, cursor = rows + page["items"], page["next_cursor"]
    shown = [row["peer"]["port"] for row in rows]
    assert len(shown) == len(set(shown))
    wanted = sorted((client.address[1] for client in staying), key=lambda port: -sizes[port])
    assert [port for port in shown if port in wanted] == wanted
    assert not {client.address[1] for client in newcomers} & set(shown)


def test_a_sorted_listing_that_is_no_longer_kept_says_so_and_how_to_go_on(server: Server) -> None:
    clients = server.connect(3)
    cursor = server.get("/v1/connections", sort="bytes_in", limit=1)["next_cursor"]
    assert server.get("/v1/connections", sort="bytes_in", limit=1, cursor=cursor)["items"]
    for _ in range(32):
        server.get("/v1/connections", sort="bytes_in", limit=1)
    answer = server.http.get("/v1/connections", params={"sort": "bytes_in", "limit": 1, "cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (410, "snapshot_expired")
    assert "begin again" in answer.json()["detail"]
    wrong = server.http.get("/v1/connections", params={"sort": "-bytes_in", "limit": 1, "cursor": cursor})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "cursor_mismatch")
    assert len(clients) == 3
