"""How fast is the echo? Rate, latency and the server's processor time for each message.

A closed loop: each connection sends a message when the one before has come back. When the load's processor is full
before the server's ("server busy" below 100 %), the load generator set the rate; then compare the processor time per
message.
"""

import argparse
from typing import Any

from .contestants import (
    Outcome,
    RunningServer,
    Sample,
    bare_epoll,
    bare_io_uring,
    choose,
    gevent_echo,
    iocpd,
    libuv,
    node_echo,
    python_echo,
    take_turns,
)
from .errors import ContestantFailed
from .machine import require_files
from .options import Setup, positive_int, seconds
from .report import Report, Table, median_of, number, ratio
from .toolchain import LoadProgram

CONTESTANTS = (
    bare_io_uring(),
    bare_epoll(),
    iocpd("io_uring", "echo"),
    iocpd("epoll", "echo"),
    libuv(),
    python_echo("uvloop"),
    python_echo("asyncio"),
    gevent_echo(),
    node_echo(),
)
YARDSTICKS = ("bare io_uring", "bare epoll")
EXAMPLES = """examples:
  python -m tests.bench echo
  python -m tests.bench echo --connections 1000 --rounds 3 --contestants iocpd,bare,uvloop
  python -m tests.bench echo --bytes 1024 --depth 8 --json echo.json"""

WARMUP_SECONDS = 0.5

Arguments = tuple[str | int | float, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--connections", type=positive_int, action="append", metavar="N", help="repeatable (default: 50 and 1000)"
    )
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in a message (default: 64)")
    parser.add_argument("--depth", type=positive_int, default=1, metavar="N", help="messages in flight (default: 1)")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="in a round (default: 2)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    chosen = choose(CONTESTANTS, options.contestants)
    loadgen = LoadProgram("loadgen")
    report = Report()
    for connections in options.connections or [50, 1000]:
        require_files(connections, setup.file_limit)
        sizes = ("-c", connections, "-s", options.bytes, "-P", options.depth)
        arguments = (*sizes, "-w", WARMUP_SECONDS, "-d", options.seconds)

        def measure(server: RunningServer, arguments: Arguments = arguments) -> list[Sample]:
            return [sample(load(loadgen, server, *arguments))]

        outcomes = take_turns(chosen, options.rounds, setup.cores, measure)
        caption = (
            f"echo: {connections} connections, {options.bytes} bytes, {options.depth} in flight on each, "
            f"median of {options.rounds} rounds of {options.seconds:g} s"
        )
        report.add(_table(caption, outcomes), outcomes, connections=connections)
    report.notes.append("server us: processor time of the whole server process for each message.")
    report.notes.append("x bare: rate against the better bare yardstick; x uvloop: rate against uvloop.")
    report.notes.append(
        "server busy below 100 %: the load generator, or waking up, set the rate; then compare server us."
    )
    return report


def load(loadgen: LoadProgram, server: RunningServer, *arguments: str | int | float) -> dict[str, Any]:
    """Run the load generator against a server; returns its figures.

    Raises:
        ContestantFailed: bytes were wrong or lost, or connections broke.
    """
    figures = loadgen.run("-p", server.port, "-S", server.pid, *arguments)
    for key, complaint in (
        ("mismatches", "connections got wrong bytes"),
        ("errors", "connections broke"),
        ("lost_bytes", "bytes never came back"),
    ):
        if figures[key]:
            raise ContestantFailed(f"{figures[key]} {complaint}")
    if not figures["msgs_per_s"]:
        raise ContestantFailed("not one message came back")
    return figures


def sample(figures: dict[str, Any]) -> Sample:
    """The load generator's figures, and the server's for each message."""
    return {
        **{key: figures[key] for key in ("msgs_per_s", "p50_us", "p90_us", "p99_us", "p999_us", "max_us")},
        "server_us": 1e6 * figures["server_cpu_s"] / (figures["msgs_per_s"] * figures["seconds"]),
        "server_busy": 100 * figures["server_cpu_s"] / figures["seconds"],
        "load_busy": 100 * figures["load_cpu_s"] / figures["seconds"],
    }


def _table(caption: str, outcomes: list[Outcome]) -> Table:
    heads = ("msgs/s", "p50 us", "p99 us", "server us", "server busy", "x bare", "x uvloop")
    table = Table(caption, heads)
    bare = max((median_of(outcomes, name, "msgs_per_s") or 0 for name in YARDSTICKS), default=None)
    uvloop = median_of(outcomes, "uvloop", "msgs_per_s")
    for outcome in outcomes:
        rate = outcome.median("msgs_per_s")
        cells = (
            number(rate),
            number(outcome.median("p50_us")),
            number(outcome.median("p99_us")),
            number(outcome.median("server_us"), 2),
            number(outcome.median("server_busy")) + " %",
            number(ratio(rate, bare), 2),
            number(ratio(rate, uvloop), 2),
        )
        table.add(outcome, cells)
    return table
