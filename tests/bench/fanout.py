"""How long does one message take to reach every client?

From before the request is sent (HTTP for iocpd, PUB for NATS, a byte string for the bare send loop) until the last of N
clients has all of the message's bytes. The clients do nothing but receive: iocpd's listener runs the service `discard`.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .contestants import RunningServer, Sample, bare_fanout, choose, iocpd, nats, take_turns
from .errors import BenchError, ContestantFailed
from .machine import require_files
from .options import Setup, positive_int
from .report import Report, Table, median_of, number, ratio
from .toolchain import LoadProgram

CONTESTANTS = (bare_fanout(), iocpd("io_uring", "discard"), iocpd("epoll", "discard"), nats())
EXAMPLES = """examples:
  python -m tests.bench fanout
  python -m tests.bench fanout --clients 2000 --contestants iocpd,bare"""

_BARE_BYTES = 256  # what fanout_bare.c sends
_LIMIT_SECONDS = 20


@dataclass(frozen=True)
class Trigger:
    """How one contestant is made to send.

    Attributes:
        request: what is sent to make it broadcast, on a connection of its own.
        message: what each client must then receive, byte by byte.
        on_second_port: whether the request goes to the second port.
        answer: what the answer to the request must begin with.
        preamble: what each client sends first.
        token: what each client then waits for.
        settle_seconds: how long clients with a preamble drop what comes after the token.
    """

    request: bytes
    message: bytes
    on_second_port: bool = True
    answer: str = ""
    preamble: bytes = b""
    token: str = ""
    settle_seconds: float = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=positive_int, default=8000, metavar="N", help="default: 8000")
    parser.add_argument(
        "--bytes", type=positive_int, default=_BARE_BYTES, metavar="N", help=f"in the message (default: {_BARE_BYTES})"
    )
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--shots", type=positive_int, default=3, metavar="N", help="messages in a round (default: 3)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    require_files(options.clients, setup.file_limit)
    chosen = choose(CONTESTANTS, options.contestants)
    if options.bytes != _BARE_BYTES and bare_fanout().name in [c.name for c in chosen]:
        raise BenchError(f"the bare send loop sends {_BARE_BYTES} bytes; for others choose --contestants without it")
    fanout = LoadProgram("fanout")

    def measure(server: RunningServer) -> list[Sample]:
        trigger = _trigger(server, options.bytes)
        return _shots(fanout, server, trigger, options.clients, options.shots)

    outcomes = take_turns(chosen, options.rounds, setup.cores, measure)
    caption = (
        f"fanout: one message of {options.bytes} bytes to {options.clients} clients, "
        f"median of {options.rounds} rounds with {options.shots} messages each"
    )
    table = Table(caption, ("first ms", "last ms", "server ms", "last x bare"))
    bare = median_of(outcomes, bare_fanout().name, "last_ms")
    for outcome in outcomes:
        last = outcome.median("last_ms")
        cells = (
            number(outcome.median("first_ms"), 2),
            number(last, 2),
            number(outcome.median("server_ms"), 1),
            number(ratio(last, bare), 2),
        )
        table.add(outcome, cells)
    report = Report(
        notes=[
            "first, last: from before the request is sent until that client has the whole message.",
            "server ms: processor time of the whole server process for one message to all.",
        ]
    )
    report.add(table, outcomes, clients=options.clients)
    return report


def _trigger(server: RunningServer, size: int) -> Trigger:
    message = b"a" * size
    if server.contestant.name == "bare send loop":
        return Trigger(request=b"go", message=message)
    if server.contestant.name == "nats-server":
        connect = b'CONNECT {"verbose": false}\r\n'
        return Trigger(
            request=connect + b"PUB x %d\r\n%b\r\n" % (size, message),
            message=b"MSG x 1 %d\r\n%b\r\n" % (size, message),
            on_second_port=False,
            preamble=connect + b"SUB x 1\r\nPING\r\n",
            token="PONG\r\n",
        )
    body = json.dumps({"all": True, "payload": {"text": message.decode()}})
    head = (
        "POST /v1/broadcasts HTTP/1.1",
        f"Host: 127.0.0.1:{server.second_port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    request = "\r\n".join([*head, "", body]).encode()
    return Trigger(request=request, message=message, answer="HTTP/1.1 2")


def _shots(fanout: LoadProgram, server: RunningServer, trigger: Trigger, clients: int, shots: int) -> list[Sample]:
    with tempfile.TemporaryDirectory() as scratch:

        def file(name: str, content: bytes) -> str:
            path = Path(scratch) / name
            path.write_bytes(content)
            return str(path)

        arguments: list[str | int | float] = ["-p", server.port, "-S", server.pid, "-n", clients, "-R", shots]
        arguments += ["-T", server.second_port if trigger.on_second_port else server.port, "-o", _LIMIT_SECONDS]
        arguments += ["-m", file("message", trigger.message), "-f", file("request", trigger.request)]
        if trigger.preamble:
            arguments += ["-i", file("preamble", trigger.preamble), "-k", trigger.token, "-w", trigger.settle_seconds]
        if trigger.answer:
            arguments += ["-a", trigger.answer]
        figures = fanout.run(*arguments)
    for key, complaint in (
        ("mismatches", "clients got wrong bytes"),
        ("errors", "clients were cut off"),
        ("missing", f"times a client had not all of the message after {_LIMIT_SECONDS} s"),
    ):
        if figures[key]:
            raise ContestantFailed(f"{figures[key]} {complaint}")
    server_ms = 1e3 * figures["server_cpu_s"] / shots
    times = zip(figures["first_ms"], figures["last_ms"], strict=True)
    return [{"first_ms": first, "last_ms": last, "server_ms": server_ms} for first, last in times]
