"""Tags and groups: set, changed by several at once, asked for, listed, remembered, and relays within groups."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from iocpd.core import (
    ConfigurationError,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    Engine,
    Filter,
    LabelsChanged,
    SortKey,
)
from tests.support import PATIENCE, connect, connection_of, eventually

Start = Callable[..., Engine]

HOSTILE = 'qu"ote \\ back', '{"x":1},"groups":["evil"]', "ünïcødé 名"


def test_tags_are_merged_and_groups_replaced(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    assert engine.connection(id).tags == {}
    assert engine.label(id, tags={"user": "ann", "plan": "free"}, groups=["a", "b"]).groups == ("a", "b")
    after = engine.label(id, tags={"plan": None, "region": "eu"})
    assert (after.tags, after.groups) == ({"user": "ann", "region": "eu"}, ("a", "b"))
    assert engine.label(id, groups=[]).groups == ()
    bare = engine.label(id, tags={"user": None, "region": None})
    assert (bare.tags, bare.groups) == ({}, ())
    assert client.echoes(b"and it still works")


@pytest.mark.parametrize("value", HOSTILE)
def test_labels_are_in_rows_and_in_json_as_they_were_given(start: Start, value: str) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    engine.label(id, tags={"k": value}, groups=["g/1"])
    (row,) = engine.connections().items
    assert (row.tags, row.groups) == ({"k": value}, ("g/1",))
    for text in (engine.connections_json()[0], engine.sort(key=SortKey.BYTES_IN).page_json()[0]):
        (as_json,) = json.loads(b"[" + text + b"]")
        assert (as_json["tags"], as_json["groups"]) == ({"k": value}, ["g/1"])
    assert json.loads(engine.connections_json(fields=["groups"])[0]) == {"groups": ["g/1"]}
    assert json.loads(engine.connections_json(fields=["worker", "tags"])[0]) == {
        "tags": {"k": value},
        "worker": row.worker,
    }


def test_filters_ask_for_labels(start: Start) -> None:
    engine = start("echo")
    clients = connect(engine, 6)
    ids = [connection_of(engine, client).id for client in clients]
    for number, id in enumerate(ids):
        engine.label(id, tags={"parity": str(number % 2), "long": "x" * number}, groups=["all", f"third-{number % 3}"])

    def found(**wanted: object) -> set[int]:
        filter = Filter(**wanted)  # type: ignore[arg-type]
        rows = {row.id for row in engine.connections(filter).items}
        assert engine.count(filter) == len(rows) == len(engine.matching(filter, limit=100))
        assert len(engine.sort(filter)) == len(rows)
        return rows

    assert found(group="all") == set(ids)
    assert found(group="third-1") == {ids[1], ids[4]}
    assert found(group="third") == set()
    assert found(tags={"parity": "0"}) == {ids[0], ids[2], ids[4]}
    assert found(tags={"parity": "0"}, group="third-2") == {ids[2]}
    assert found(tags={"parity": "0", "long": "xx"}) == {ids[2]}
    assert found(tags={"parity": ""}) == set()
    report = engine.broadcast(b"hello", Filter(group="third-0"))
    assert (report.matched, report.written) == (2, 2)
    assert clients[0].read(5) == clients[3].read(5) == b"hello"


def test_labels_are_remembered_with_the_end(start: Start) -> None:
    engine = start("echo", closed_capacity=2, workers=1)
    clients = connect(engine, 5)
    for number, client in enumerate(clients):
        id = connection_of(engine, client).id
        engine.label(id, tags={"n": str(number)}, groups=[f"g{number}"])
        client.reset()
        record = eventually(lambda id=id: next((row for row in engine.closed() if row.connection.id == id), None))
        assert (record.connection.tags, record.connection.groups) == ({"n": str(number)}, (f"g{number}",))
    assert [row.connection.tags["n"] for row in engine.closed()] == ["4", "3"]


def test_a_slot_that_is_used_again_has_no_labels(start: Start) -> None:
    engine = start("echo", workers=1)
    (first,) = connect(engine, 1)
    engine.label(connection_of(engine, first).id, tags={"k": "v"}, groups=["g"])
    first.reset()
    eventually(lambda: engine.count() == 0)
    (second,) = connect(engine, 1)
    row = connection_of(engine, second)
    assert (row.tags, row.groups) == ({}, ())


def test_what_two_change_at_the_same_time_is_not_lost(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    conflicts = []

    def change(name: str) -> None:
        for number in range(100):
            try:
                engine.submit_label(id, tags={name: str(number)}).future.result(PATIENCE)
            except LabelsChanged as error:
                conflicts.append(error)
                engine.label(id, tags={name: str(number)})
            assert engine.connection(id).tags[name] == str(number)

    threads = [threading.Thread(target=change, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.connection(id).tags == {"a": "99", "b": "99", "c": "99"}


@pytest.fixture
def neighbours() -> Iterator[None]:
    """Processes that wake often. Then the system takes the processor from one of our threads, wherever that is, and a
    race of a few instructions is met within seconds. They end by themselves if this process is killed."""
    wakes = [sys.executable, "-c", f"import time\nwhile time.process_time() < {PATIENCE}: time.sleep(3e-5)"]
    processes = [subprocess.Popen(wakes) for _ in range(4)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("neighbours")
def test_reading_while_labels_change_and_connections_end(start: Start) -> None:
    """Each end overwrites the only closed record, whose labels must be there for whoever finds it."""
    engine = start("echo", workers=1, closed_capacity=1)
    done = threading.Event()
    failures = []

    def reads(look: Callable[[], None]) -> Callable[[], None]:
        def read() -> None:
            try:
                while not done.is_set():
                    look()
            except BaseException as error:
                failures.append(error)

        return read

    def open_ones() -> None:
        for row in json.loads(b"[" + engine.connections_json()[0] + b"]"):
            assert set(row["tags"].values()) == set(row["groups"])
        engine.count(Filter(group="5"))

    def closed_ones() -> None:
        for row in engine.closed():
            assert set(row.connection.tags.values()) == set(row.connection.groups)

    readers = [threading.Thread(target=reads(look)) for look in (open_ones, closed_ones, closed_ones, closed_ones)]
    for reader in readers:
        reader.start()
    for number in range(6):
        clients = connect(engine, 200)
        ids = engine.matching(limit=200)
        for value in (str(number), str(number + 1)):
            labelled = [engine.submit_label(id, tags={"n": value}, groups=[value]) for id in ids]
            for one in labelled:
                one.future.result(PATIENCE)
        engine.submit_kicks(ids, force=True).future.result(PATIENCE)
        for client in clients:
            client.close()
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []


def test_labels_that_can_not_be(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    for tags in ({"": "v"}, {"a b": "v"}, {"k": "a\nb"}, {"k": "\x1b[31m"}, {"k": "x" * 129}, {"k" * 65: "v"}):
        with pytest.raises(ConfigurationError):
            engine.label(id, tags=tags)
    for groups in (["g" * 65], [""], [str(number) for number in range(17)]):
        with pytest.raises(ConfigurationError):
            engine.label(id, groups=groups)
    assert engine.connection(id).tags == {}
    most = {f"k{number}" + "k" * 60: "\\" * 128 for number in range(16)}
    assert engine.label(id, tags=most, groups=["g" * 60 + str(number) for number in range(16)]).tags == most
    assert json.loads(engine.connections_json()[0])["tags"] == most


def test_who_is_not_there_gets_no_labels(start: Start) -> None:
    engine = start("echo")
    (client,) = connect(engine, 1)
    id = connection_of(engine, client).id
    with pytest.raises(ConnectionUnknown):
        engine.label(id + (1 << 26), tags={"k": "v"})
    leaving = engine.submit_kick(id, timeout=30)
    assert client.read_to_end() == b""
    with pytest.raises(ConnectionClosing):
        engine.label(id, tags={"k": "v"})
    client.close()
    leaving.result(PATIENCE)
    with pytest.raises(ConnectionEnded):
        engine.label(id, tags={"k": "v"})


def test_a_relay_within_groups(start: Start) -> None:
    engine = start("relay_group")
    clients = connect(engine, 6)
    ids = [connection_of(engine, client).id for client in clients]
    engine.label(ids[0], groups=["red", "blue"])
    engine.label(ids[1], groups=["red"])
    engine.label(ids[2], groups=["blue", "red"])
    engine.label(ids[3], groups=["green"])
    engine.label(ids[4], tags={"red": "red"})
    clients[0].send(b"to red and blue")
    assert clients[1].read(15) == clients[2].read(15) == b"to red and blue"  # once, though in both groups
    clients[3].send(b"nobody else is green")
    clients[5].send(b"without a group")
    eventually(lambda: engine.connection(ids[5]).bytes_in == 15)
    engine.broadcast(b"|")
    assert [client.read(1) for client in clients] == [b"|"] * 6  # nothing came before it
    # A tag is no group, and a group that one leaves is left.
    engine.label(ids[1], groups=[])
    clients[2].send(b"again")
    assert clients[0].read(5) == b"again"
    engine.broadcast(b"|")
    assert clients[1].read(1) == clients[4].read(1) == b"|"
