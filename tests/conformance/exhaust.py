"""python -m tests.conformance.exhaust life|broadcast BACKEND, under exhaust.c.

life: the engine's life again and again, each time with one allocation that fails: the first, the second, and so on
until there is none any more. What clients read is the beginning of what is theirs, and what the engine counts and tells
of them adds up. Prints how many there were.

broadcast: a service in Python sends to all while the first allocation fails, while the second does, and with memory for
all. Prints what became of each.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import ip_network

from iocpd.core import (
    Engine,
    EngineConfig,
    EngineError,
    EventKind,
    EventPosition,
    Filter,
    LengthPrefixed,
    Lines,
    ListenerConfig,
    Service,
    ServiceConnection,
    SortKey,
    _native,
)
from iocpd.core._native import lib
from tests.support import PATIENCE, Client, connection_of, eventually, port_of

_library = ctypes.CDLL(os.environ["IOCPD_EXHAUST"])
if sys.platform == "win32":
    _library.exhaust_attach.argtypes = [ctypes.c_void_p]
    assert _library.exhaust_attach(ctypes.CDLL(_native.__file__)._handle)
exhaust: Callable[[int], int] = _library.exhaust
exhaust.argtypes = [ctypes.c_long]  # type: ignore[attr-defined]

# The listeners.
ECHO, RELAY, BALANCED, SERVICE, FRAMED = range(5)

# Bytes of a message for which a batch of a service is too small.
LONG = 300_000

# What balancers write first.
HEADER = b"PROXY TCP4 198.51.100.7 203.0.113.1 %d 80\r\n"

# What may come of a lack of memory: an error that says so, or a connection that is ended.
ENDS = (EngineError, MemoryError, OSError)


def settle(future: Future[object]) -> None:
    """It ends, whatever it ends with."""
    future.exception(PATIENCE)


class Batches(Service):
    """Answers many lines at once, in capitals; what begins with "all" goes to everybody."""

    framing = Lines(max_bytes=1 << 20)

    def on_messages(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        connection.send_all(message.upper() for message in messages)
        for message in messages:
            if message.startswith(b"all"):
                self.broadcast(message)
        with contextlib.suppress(*ENDS):
            connection.join("answered")


class Reader(Client):
    """Reads what is its own and nothing else. Once something has not come, it is asked for no more."""

    whole = True

    def says(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.send(data)

    def gets(self, data: bytes) -> None:
        got = bytearray()
        with contextlib.suppress(OSError):
            while self.whole and len(got) < len(data) and (piece := self.socket.recv(len(data) - len(got))):
                got += piece
        at = next((at for at, pair in enumerate(zip(got, data, strict=False)) if pair[0] != pair[1]), len(got))
        assert at == len(got), f"after {at} bytes came {bytes(got[at : at + 40])!r}, not {data[at : at + 40]!r}"
        self.whole = len(got) == len(data)


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def talk(clients: dict[int, list[Reader]]) -> None:
    """On each listener; of framed messages the first piece ends within one, whose beginning is then kept."""
    data, text = b"hello" * 1000, frame(b"one") + frame(b"two" * 500)
    for listener in (ECHO, RELAY, BALANCED):
        for client in clients[listener]:
            client.says(data)
    for client in clients[FRAMED][:1]:
        client.says(text[:500])
    for client in clients[SERVICE]:
        client.says(b"one\ntwo\nthr")
    for listener in (ECHO, RELAY, BALANCED):
        for client in clients[listener]:
            client.gets(data)
    for client in clients[SERVICE]:
        client.gets(b"ONE\nTWO\n")
        client.says(b"ee\n")
        client.gets(b"THREE\n")
    for client in clients[FRAMED][1:]:
        client.gets(frame(b"one"))
    for client in clients[FRAMED][:1]:
        client.says(text[500:])
    for client in clients[FRAMED][1:]:
        client.gets(text[len(frame(b"one")) :])
    for client in clients[SERVICE][:1]:
        client.says(b"all\n")
        client.gets(b"ALL\n")
    for client in clients[SERVICE]:
        client.gets(b"all\n")
    for client in clients[SERVICE][:1]:
        client.says(b"x" * LONG + b"\n")
        client.gets(b"X" * LONG + b"\n")


def command(engine: Engine) -> None:
    ids = [row.id for row in engine.connections().items] or [1]
    for ask in (
        lambda: engine.submit_send(ids[0], b"x" * 1000),
        lambda: engine.submit_broadcast(b"y" * 1000, Filter(listener=ECHO), exclude=ids[:1], ttl=1.0).future,
        lambda: engine.submit_label(ids[0], tags={"a": "b"}, groups=["g"]).future,
        lambda: engine.submit_label(ids[0], tags={"a": "c" * 100, "d": "e"}).future,
        lambda: engine.submit_label(ids[0], tags={"d": None}, groups=["g", "h"]).future,
        lambda: engine.submit_broadcast(b"z", Filter(group="g"), ids=ids).future,
        lambda: engine.submit_bans([(ip_network("192.0.2.0/24"), 0)]).future,
        lambda: engine.submit_rtt(ids[0]).future,
        lambda: engine.submit_barrier().future,
        lambda: engine.submit_kicks(ids[:2], farewell=b"bye", timeout=0.01).future,
        lambda: engine.submit_kick(ids[-1], force=True),
    ):
        with contextlib.suppress(*ENDS):
            settle(ask())


def listed(engine: Engine) -> list[str]:
    """The ids, those that came last first."""
    rows = json.loads(b"[" + engine.sort(key=SortKey.CONNECTED_AT, descending=True).page_json(prefix="c")[0] + b"]")
    came = [row["connected_at"] for row in rows]
    assert came == sorted(came, reverse=True)
    return [row["id"] for row in rows]


def look(engine: Engine) -> None:
    for read in (
        lambda: engine.connections(Filter(ip=ip_network("127.0.0.0/8")), limit=2),
        lambda: engine.connections_json(Filter(tags={"a": "c" * 100}), limit=2),
        lambda: listed(engine),
        lambda: engine.closed(limit=5),
        lambda: engine.drain(deadline=5.0, lb_delay=5.0),
        lambda: engine.cancel_drain(),
    ):
        with contextlib.suppress(*ENDS):
            read()


def live(engine: Engine, patience: float) -> bool:
    """Something of everything, while memory may fail at any moment. Whether every client got all that was its own,
    and none of it so late that it took more than so many seconds."""
    clients: dict[int, list[Reader]] = {listener: [] for listener in range(5)}
    for listener in (ECHO, RELAY, BALANCED, SERVICE, FRAMED) * 2:  # one of each at worker 0
        with contextlib.suppress(*ENDS):
            clients[listener].append(client := Reader(port_of(engine, listener)))
            client.socket.settimeout(patience)
            if listener == BALANCED:
                client.says(HEADER % len(clients[listener]))
    every = [client for each in clients.values() for client in each]
    with contextlib.suppress(AssertionError):
        eventually(lambda: engine.count() == len(every), patience)  # or a relay has nobody to send to
    talk(clients)
    command(engine)
    look(engine)
    for client in every:
        client.close()
    return len(every) == 10 and all(client.whole for client in every)


def works(engine: Engine) -> None:
    """Memory is back, and so is all that there is to it."""
    with Client(port_of(engine, ECHO)) as client:
        assert client.echoes(b"memory is back, and so is the service")
    with Client(port_of(engine, BALANCED)) as client:
        client.send(HEADER % 1)
        assert client.echoes(b"and for clients of balancers")
    with Client(port_of(engine, SERVICE)) as client:
        client.send(b"and in Pyth")
        client.send(b"on\nall\n")
        assert client.read(22) == b"AND IN PYTHON\nALL\nall\n"
        row = connection_of(engine, client)
        eventually(lambda: engine.connection(row.id).groups == ("answered",))
        assert f"c{row.id:x}" in listed(engine)
    with Client(port_of(engine, FRAMED)) as sender, Client(port_of(engine, FRAMED)) as receiver:
        connection_of(engine, receiver)
        sender.send(frame(b"and of frames")[:5])
        sender.send(frame(b"and of frames")[5:])
        assert receiver.read(17) == frame(b"and of frames")


def adds_up(engine: Engine, since: EventPosition) -> None:
    """Of the engine, which has stopped: who came has gone, and both were told once."""
    for stats in engine.worker_stats():
        assert (stats.connections, stats.pending_bytes) == (0, 0)
        assert stats.adopted == sum(stats.closed.values())
    for row in engine.service_stats():
        assert (row.connections, row.waiting_bytes) == (0, 0)
    told = engine.events(since, limit=4096)
    assert told.missed == 0
    times = Counter((event.kind, event.id) for event in told.events if event.id)
    came, left = ({id for kind, id in times if kind == each} for each in (EventKind.CONNECTED, EventKind.DISCONNECTED))
    assert came <= left
    assert all(times[kind, id] == 1 for kind, id in times if kind in (EventKind.CONNECTED, EventKind.DISCONNECTED))


def once(backend: str, n: int, patience: float = 0.1) -> tuple[bool, bool]:
    """One life with allocation `n` failing: whether there was one, and whether all clients got what was theirs."""
    there_was = True
    whole = False
    listeners = [
        ListenerConfig(port=0),
        ListenerConfig(port=0, service="relay"),
        ListenerConfig(port=0, proxy_protocol_from=["127.0.0.1"]),
        ListenerConfig(port=0, service=Batches),
        ListenerConfig(port=0, service="relay", framing=LengthPrefixed()),
    ]
    exhaust(n)
    # Few buffers: when they grow scarce, what waits to be sent is copied.
    few = {"receive_buffers": 8, "receive_buffer_bytes": 1024}
    engine = Engine(
        EngineConfig(listeners=listeners, backend=backend, workers=2, max_connections_per_address=100, **few)
    )
    try:
        engine.start()
    except (EngineError, MemoryError):
        assert exhaust(-1), "the engine did not start, and there was memory"
    else:
        begin = engine.event_position()
        whole = live(engine, patience)
        there_was = exhaust(-1)
        works(engine)
        engine.stop(deadline=PATIENCE)
        adds_up(engine, begin)
    del engine
    gc.collect()
    eventually(lambda: gc.collect() >= 0 and lib.iocpd_allocations() == 0)
    return there_was, whole


def lives(backend: str) -> None:
    assert once(backend, 1 << 30, PATIENCE) == (False, True), "without a lack of memory everybody gets all"
    n = 0
    while once(backend, n)[0]:
        n += 1
    print(n)


class Short(Service):
    """Sends to all what it gets, while the allocation fails whose number the message is."""

    framing = Lines()

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        exhaust(int(message))
        self.broadcast(message)


def broadcasts(backend: str) -> None:
    config = EngineConfig(listeners=[ListenerConfig(port=0, service=Short)], backend=backend, workers=1)
    with Engine(config) as engine, Client(port_of(engine)) as client:

        def told() -> tuple[int, int]:
            (row,) = engine.service_stats()
            return row.messages_out, row.broadcasts_dropped

        for count, n in enumerate((0, 1, -1), 1):
            client.send(b"%d\n" % n)
            eventually(lambda: sum(told()) == count)  # noqa: B023
            assert exhaust(-1) == (n >= 0), "an allocation has failed, if one was to"
            print("dropped" if told()[1] == count else "sent")
        assert client.read(3) == b"-1\n"


def main() -> None:
    {"life": lives, "broadcast": broadcasts}[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main()
