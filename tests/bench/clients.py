"""Connections that this process itself holds open."""

import contextlib
import secrets
import socket
from collections.abc import Iterator

from .errors import ContestantFailed

_TIMEOUT_SECONDS = 10.0


@contextlib.contextmanager
def idle_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """``count`` open connections to 127.0.0.1:port, closed at the end of the block."""
    with contextlib.ExitStack() as stack:
        try:
            yield [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS))
                for _ in range(count)
            ]
        except OSError as error:
            raise ContestantFailed(f"a connection broke: {error}") from error


def echo_in_turn(connections: list[socket.socket], size: int) -> None:
    """Send ``size`` random bytes on one connection and wait for their return, then on the next.

    Raises:
        ContestantFailed: a byte was wrong or missing.
    """
    for connection in connections:
        echo_at_once([connection], size)


def echo_at_once(connections: list[socket.socket], size: int) -> None:
    """Send ``size`` random bytes on all connections, and only then read what came back on each.

    Raises:
        ContestantFailed: a byte was wrong or missing.
    """
    messages = [secrets.token_bytes(size) for _ in connections]
    for connection, message in zip(connections, messages, strict=True):
        connection.sendall(message)
    for connection, message in zip(connections, messages, strict=True):
        if _receive(connection, size) != message:
            raise ContestantFailed("a connection got wrong bytes")


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            break
        received += part
    return received
