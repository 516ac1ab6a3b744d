"""What does a connection that comes and goes cost? Connect, one message there and back, close; also with many bans.

One client does it again and again. It sets the rate, so what counts is the server's processor time for each connection.
The row "with bans" has 100,000 bans of other addresses in force, of all common lengths of prefix.
"""

import argparse
import ipaddress
import json
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .contestants import Contestant, RunningServer, Sample, bare_epoll, choose, iocpd, libuv, python_echo, take_turns
from .errors import ContestantFailed
from .machine import cpu_seconds
from .options import Setup, positive_int, seconds
from .report import Report, Table, number, ratio

EXAMPLES = """examples:
  python -m tests.bench accept
  python -m tests.bench accept --bans 1000 --contestants iocpd"""

_STATE = tempfile.TemporaryDirectory(prefix="iocpd-bench-")
_RESET = struct.pack("ii", 1, 0)  # so that the ports of closed connections can be used again at once


def _with_bans(contestant: Contestant) -> Contestant:
    return replace(
        contestant,
        name=f"{contestant.name} with bans",
        environment={**contestant.environment, "IOCPD_STATE_DIR": _STATE.name},
    )


CONTESTANTS = (
    bare_epoll(),
    iocpd("io_uring", "echo"),
    _with_bans(iocpd("io_uring", "echo")),
    iocpd("epoll", "echo"),
    _with_bans(iocpd("epoll", "echo")),
    libuv(),
    python_echo("uvloop"),
    python_echo("asyncio"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bans", type=positive_int, default=100_000, metavar="N", help="default: 100000")
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in the message (default: 64)")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="in a round (default: 2)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    _write_bans(Path(_STATE.name), options.bans)
    message = bytes(options.bytes)

    def measure(server: RunningServer) -> list[Sample]:
        _come_and_go(server, message, 0.3)
        cpu = cpu_seconds(server.pid)
        count, took = _come_and_go(server, message, options.seconds)
        used = cpu_seconds(server.pid) - cpu
        return [{"per_s": count / took, "server_us": 1e6 * used / count}]

    outcomes = take_turns(choose(CONTESTANTS, options.contestants), options.rounds, setup.cores, measure)
    caption = f"accept: connect, {options.bytes} bytes there and back, close; median of {options.rounds} rounds"
    table = Table(caption, ("connections/s", "server us", "server us x without bans"))
    by_name = {outcome.name: outcome for outcome in outcomes}
    for outcome in outcomes:
        without = by_name.get(outcome.name.removesuffix(" with bans"))
        base = without.median("server_us") if without else None
        cells = (
            number(outcome.median("per_s")),
            number(outcome.median("server_us"), 1),
            number(ratio(outcome.median("server_us"), base), 3),
        )
        table.add(outcome, cells)
    report = Report(notes=["server us: processor time of the whole server process for each connection."])
    report.add(table, outcomes, bans=options.bans)
    return report


def _come_and_go(server: RunningServer, message: bytes, seconds: float) -> tuple[int, float]:
    """How many connections came and went, and how long that took."""
    began, count = time.monotonic(), 0
    try:
        while (took := time.monotonic() - began) < seconds:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(message)
                left = len(message)
                while left:
                    left -= len(piece := connection.recv(left))
                    if not piece:
                        raise ContestantFailed("it ended a connection")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            count += 1
    except OSError as error:
        raise ContestantFailed(f"a connection broke: {error}") from error
    return count, took


def _networks(count: int) -> Iterator[str]:
    """Networks of other addresses than ours, each once."""
    for index in range(count):
        if index % 4 == 0:
            yield str(ipaddress.IPv6Address(0x20010DB8 << 96 | index)) + "/128"
        elif index % 4 == 1:
            yield f"{ipaddress.IPv6Address(0x20010DB9 << 96 | index << 64)}/64"
        elif index % 4 == 2:
            yield str(ipaddress.IPv4Address(0x0A000000 + index))
        else:
            yield f"{ipaddress.IPv4Address(0x0B000000 + (index << 8 & 0x3FFFFFF))}/24"


def _id(index: int) -> str:
    """Ten of the letters that the ids of bans are made of."""
    letters = "bcdfghjkmnpqrstvwxz23456789"
    return "".join(letters[index // len(letters) ** place % len(letters)] for place in range(10))


def _write_bans(state: Path, count: int) -> None:
    """The file that the service loads its bans from."""
    with (state / "bans.json").open("w") as file:
        file.write('{"version": 1, "bans": [')
        for index, network in enumerate(_networks(count)):
            ban = {
                "id": _id(index),
                "address": network.removesuffix("/128"),
                "reason": "",
                "created_at": "2026-01-01T00:00:00Z",
                "expires_at": None,
                "created_by": "bench",
            }
            file.write(("," if index else "") + "\n" + json.dumps(ban))
        file.write("\n]}\n")
