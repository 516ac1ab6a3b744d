"""python -m tests.conformance.exhaust life|broadcast BACKEND, under exhaust.c.

life: the engine's life again and again, each time with one allocation that fails: the first, the second, and so on
until there is none any more. Prints how many there were.

broadcast: a service in Python sends to all while the first allocation fails, while the second does, and with memory for
all. Prints what became of each.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import ip_network

from iocpd.core import (
    Engine,
    EngineConfig,
    EngineError,
    Filter,
    Lines,
    ListenerConfig,
    Service,
    ServiceConnection,
    _native,
)
from iocpd.core._native import lib
from tests.support import PATIENCE, Client, eventually, port_of

_library = ctypes.CDLL(os.environ["IOCPD_EXHAUST"])
if sys.platform == "win32":
    _library.exhaust_attach.argtypes = [ctypes.c_void_p]
    assert _library.exhaust_attach(ctypes.CDLL(_native.__file__)._handle)
exhaust: Callable[[int], int] = _library.exhaust
exhaust.argtypes = [ctypes.c_long]  # type: ignore[attr-defined]

# What balancers write first; the last of the listeners asks for it.
HEADER = b"PROXY TCP4 198.51.100.7 203.0.113.1 %d 80\r\n"

# What may come of a lack of memory: an error that says so, or a connection that is ended.
ENDS = (EngineError, MemoryError, OSError, AssertionError)


def settle(future: Future[object]) -> None:
    """It ends, whatever it ends with."""
    future.exception(PATIENCE)


def live(engine: Engine) -> None:
    """Something of everything, while memory may fail at any moment."""
    clients: list[Client] = []
    for listener in (0, 1, 0, 1, 2, 2):  # one of each at worker 0
        with contextlib.suppress(*ENDS):
            clients.append(Client(port_of(engine, listener)))
            clients[-1].socket.settimeout(0.1)
            if listener == 2:
                clients[-1].send(HEADER % len(clients))
    for client in clients:
        with contextlib.suppress(*ENDS):
            client.send(b"hello" * 1000)
            client.read(5000)
    ids = [row.id for row in engine.connections().items] or [1]
    for command in (
        lambda: engine.submit_send(ids[0], b"x" * 1000),
        lambda: engine.submit_broadcast(b"y" * 1000, Filter(listener=0), exclude=ids[:1], ttl=1.0).future,
        lambda: engine.submit_label(ids[0], tags={"a": "b"}, groups=["g"]).future,
        lambda: engine.submit_broadcast(b"z", Filter(group="g"), ids=ids).future,
        lambda: engine.submit_bans([(ip_network("192.0.2.0/24"), 0)]).future,
        lambda: engine.submit_rtt(ids[0]).future,
        lambda: engine.submit_barrier().future,
        lambda: engine.submit_kicks(ids[:2], farewell=b"bye", timeout=0.01).future,
        lambda: engine.submit_kick(ids[-1], force=True),
    ):
        with contextlib.suppress(*ENDS):
            settle(command())
    with contextlib.suppress(*ENDS):
        engine.connections(Filter(ip=ip_network("127.0.0.0/8")), limit=2)
        engine.closed(limit=5)
        engine.drain(deadline=5.0, lb_delay=5.0)
        engine.cancel_drain()
    for client in clients:
        client.close()


def once(backend: str, n: int) -> bool:
    """One life with allocation `n` failing; whether there was such a one."""
    listeners = [
        ListenerConfig(port=0),
        ListenerConfig(port=0, service="relay"),
        ListenerConfig(port=0, proxy_protocol_from=["127.0.0.1"]),
    ]
    exhaust(n)
    engine = Engine(EngineConfig(listeners=listeners, backend=backend, workers=2, max_connections_per_address=100))
    try:
        engine.start()
    except (EngineError, MemoryError):
        assert exhaust(-1), "the engine did not start, and there was memory"
    else:
        live(engine)
        there_was = exhaust(-1)
        with Client(port_of(engine)) as client:
            assert client.echoes(b"memory is back, and so is the service")
        with Client(port_of(engine, 2)) as client:
            client.send(HEADER % 1)
            assert client.echoes(b"and for clients of balancers")
        engine.stop(deadline=PATIENCE)
        if not there_was:
            return False
    del engine
    gc.collect()
    eventually(lambda: gc.collect() >= 0 and lib.iocpd_allocations() == 0)
    return True


def lives(backend: str) -> None:
    n = 0
    while once(backend, n):
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
