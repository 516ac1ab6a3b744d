"""The programs that load the service: the paced echo that measures, and what overloads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from tests.bench.toolchain import compile_c
from tests.support import PATIENCE, Client

ADDRESSES = 8
"""Clients come from so many addresses."""


class Program:
    """One of tests/bench/native that works until its stdin ends."""

    def __init__(self, name: str, *arguments: str | int, before: Sequence[str] = ()) -> None:
        command = [*before, str(compile_c(f"native/{name}.c")), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def hear(self) -> str:
        """The next line that it says."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip()

    def end(self) -> str:
        """Ends it; what it said last."""
        said, _ = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, f"{self._process.args!r} ended with {self._process.returncode}"
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class Paced(Program):
    """So many messages a second on so many connections, whatever the service does; see paced.c."""

    def __init__(
        self, port: int, connections: int, rate: int, *, addresses: int = 1, before: Sequence[str] = ()
    ) -> None:
        super().__init__("paced", "-p", port, "-c", connections, "-r", rate, "-a", addresses, before=before)
        said = self.hear()
        assert said == "ready", f"paced said {said!r}"

    def measure(self, seconds: float) -> dict[str, Any]:
        """What became of the messages of the next seconds."""
        self.tell(f"{seconds}")
        found: dict[str, Any] = json.loads(self.hear())
        return found


class Probe:
    """Asks for /livez again and again, each time on a new connection, as an orchestrator does."""

    EVERY_SECONDS = 0.05

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.asked = 0
        self.slowest = 0.0
        self.failures: list[str] = []

    def _run(self) -> None:
        while not self._over.wait(self.EVERY_SECONDS):
            began = time.monotonic()
            try:
                status = ask(self._port, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")[:12]
            except OSError as error:
                status = repr(error).encode()
            self.asked += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if status != b"HTTP/1.1 200":
                self.failures.append(status.decode())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def ask(port: int, request: bytes) -> bytes:
    """What the service answers to these bytes until it ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        answer = bytearray()
        while data := connection.recv(65536):
            answer += data
    return bytes(answer)


@contextmanager
def deaf(port: int, count: int, request: bytes = b"") -> Iterator[list[Client]]:
    """Clients that say this and never read, with little room for what they don't."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(Client(port, receive_buffer=2048))
            client.send(request)
            clients.append(client)
        yield clients


@contextmanager
def again_and_again(do: Callable[[], object], every: float = 0.0) -> Iterator[None]:
    """Does something in a thread of its own for as long as the block lasts."""
    over = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            do()
            while not over.wait(every):
                do()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def handles(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def resident_bytes(process: int) -> int:
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
