"""What tests share: TCP clients and waits that have a bound, on Linux and on Windows."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, Self, TypeVar

from iocpd.core import Connection, Engine

T = TypeVar("T")

WINDOWS = sys.platform == "win32"
BACKENDS = ("iocp",) if WINDOWS else ("io_uring", "epoll")
PATIENCE = 20.0  # seconds that anything which should happen at once may take on a busy machine


def eventually(holds: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Asks again until the answer is true, and gives it back."""
    until, pause = time.monotonic() + seconds, 0.001
    while not (answer := holds()):
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return answer


class Client:
    """A TCP client; every wait has a bound."""

    watchers: ClassVar[dict[int, Callable[[bytes], None]]] = {}
    """Who is told what clients of a port send and read."""

    def __init__(self, port: int, host: str = "127.0.0.1", *, source: str = "", receive_buffer: int = 0) -> None:
        self.port = port
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect((host, port))
        self.address: tuple[str, int] = self.socket.getsockname()[:2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, data: bytes) -> None:
        """It sends this, or has read it."""
        if (watcher := self.watchers.get(self.port)) is not None:
            watcher(data)

    def send(self, data: bytes) -> None:
        self.tell(data)
        self.socket.sendall(data)

    def read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(min(count - len(data), 1 << 16))
            assert piece, f"the stream ended after {len(data)} of {count} bytes"
            data += piece
        self.tell(bytes(data))
        return bytes(data)

    def read_to_end(self) -> bytes:
        """Until the end of the stream; a reset is an error."""
        data = bytearray()
        while piece := self.socket.recv(1 << 16):
            data += piece
        self.tell(bytes(data))
        return bytes(data)

    def read_to_any_end(self) -> bytes:
        """Until the end of the stream or a reset."""
        data = bytearray()
        try:
            while piece := self.socket.recv(1 << 16):
                data += piece
        except (ConnectionResetError, ConnectionAbortedError):
            pass
        self.tell(bytes(data))
        return bytes(data)

    def was_reset(self) -> bool:
        """How the stream ends; what is left of it is read away."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except (ConnectionResetError, ConnectionAbortedError):
            return True
        return False

    def echoes(self, data: bytes) -> bool:
        self.send(data)
        return self.read(len(data)) == data

    def shut(self) -> None:
        """Half-close: nothing more is sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        linger = struct.pack("HH" if WINDOWS else "ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def leaving(clients: list[Client]) -> Iterator[None]:
    """Meanwhile each client closes its side when the server has closed its own."""

    def leave(client: Client) -> None:
        with contextlib.suppress(OSError):
            client.read_to_any_end()
        client.close()

    threads = [threading.Thread(target=leave, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a client that was kicked saw no end"


def refused(port: int, host: str = "127.0.0.1", header: bytes = b"", *, source: str = "") -> bool:
    """Whether a client that connects now, with a balancer's header if there is one, is turned away without an echo.

    The reset may come before connect(2) has returned, which then tells of it.
    """
    try:
        with Client(port, host, source=source) as client:
            client.send(header + b"x")
            return client.socket.recv(1) == b""
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return True


def port_of(engine: Engine, listener: int = 0) -> int:
    return engine.listener_stats()[listener].port


def connection_of(engine: Engine, client: Client) -> Connection:
    """The engine's side of a client."""
    return eventually(lambda: next((row for row in everything(engine) if row.peer == client.address), None))


def everything(engine: Engine, limit: int = 1000) -> list[Connection]:
    """All connections, page by page."""
    page = engine.connections(limit=limit)
    rows = page.items
    while page.next:
        page = engine.connections(limit=limit, cursor=page.next)
        rows += page.items
    return rows


def connect(engine: Engine, count: int, listener: int = 0) -> list[Client]:
    """So many clients, once the engine has taken all of them over."""
    before, port = engine.count(), port_of(engine, listener)
    clients = [Client(port) for _ in range(count)]
    eventually(lambda: engine.count() == before + count)
    return clients


def await_turn(engine: Engine) -> None:
    """Each worker has done with what it was at: of what it tells of a thing in several places, all is told."""
    engine.submit_barrier().future.result(PATIENCE)


def exchange(clients: Sequence[Client], data: Iterable[bytes], *, shut: bool = False) -> list[bytes]:
    """Each client sends its data and reads as many bytes, all at the same time. With `shut` it then shuts its side, and
    reads to the end."""
    left = [memoryview(each) for each in data]
    for client, each in zip(clients, left, strict=True):
        client.tell(bytes(each[:1000]))
    wanted = [len(each) for each in left]
    received = [bytearray() for _ in clients]
    ended = set()
    until = time.monotonic() + 3 * PATIENCE
    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(clients):
            client.socket.setblocking(False)
            selector.register(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, number)
        while len(ended) < len(clients):
            assert time.monotonic() < until, f"{len(ended)} of {len(clients)} clients are done"
            for key, events in selector.select(1.0):
                number, client = key.data, clients[key.data]
                if events & selectors.EVENT_WRITE:
                    left[number] = left[number][client.socket.send(left[number][: 1 << 16]) :]
                    if not left[number]:
                        if shut:
                            client.shut()
                        selector.modify(client.socket, selectors.EVENT_READ, number)
                if events & selectors.EVENT_READ:
                    piece = client.socket.recv(1 << 16)
                    received[number] += piece
                    if not piece or (not shut and len(received[number]) >= wanted[number]):
                        selector.unregister(client.socket)
                        ended.add(number)
    for client in clients:
        client.socket.settimeout(PATIENCE)
    return [bytes(each) for each in received]


ROOM = {"send_soft_bytes": 12 << 20, "send_hard_bytes": 12 << 20}
"""Limits of the send queue that `fill` fits in."""
SYSTEM_TAKES = 5 << 20
"""What the system may take of a queue later: Linux lets a send buffer grow to 4 MiB, and a step of that may come a
second late, when it probes the window of a client that does not read."""


def fill(engine: Engine, id: int, *, above: int = 0) -> None:
    """Sends to a client that does not read until more than `above` bytes must stay in its send queue, whatever the
    system may still take."""
    piece = bytes(256 * 1024)
    sent = _bytes_for(engine.connection(id))
    while engine.connection(id).pending_bytes <= above + SYSTEM_TAKES:
        engine.submit_send(id, piece)
        sent += len(piece)
        _eventually_has(engine, id, sent)


def _bytes_for(row: Connection) -> int:
    return row.bytes_out + row.pending_bytes


def _eventually_has(engine: Engine, id: int, sent: int) -> None:
    eventually(lambda: _bytes_for(engine.connection(id)) == sent)
