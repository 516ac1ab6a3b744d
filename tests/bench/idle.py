"""What does an idle connection cost? Bytes of the server's private memory for each.

Taken as (private memory with N connections - private memory before) / N, first when they have been accepted and sit
idle; again after each has echoed one message, one after the other, which shows what a connection keeps of its work; and
again after all have echoed at once, which shows what a server keeps of a burst. Private memory is Private_Clean +
Private_Dirty of /proc/PID/smaps_rollup: it leaves out what the kernel keeps for the socket and, with io_uring, for the
operations that wait in it. Before the first reading a few connections have come, echoed and gone, so that code and
buffers that are needed once do not count.
"""

import argparse

from .clients import echo_at_once, echo_in_turn, idle_connections
from .contestants import (
    RunningServer,
    Sample,
    choose,
    gevent_echo,
    iocpd,
    libuv,
    node_echo,
    python_echo,
    take_turns,
)
from .machine import private_bytes, require_files, wait_until_quiet
from .options import Setup, positive_int
from .report import Report, Table, number

CONTESTANTS = (
    iocpd("io_uring", "echo"),
    iocpd("epoll", "echo"),
    libuv(),
    python_echo("uvloop"),
    python_echo("asyncio"),
    gevent_echo(),
    node_echo(),
)
EXAMPLES = """examples:
  python -m tests.bench idle
  python -m tests.bench idle --connections 2000 --contestants iocpd,uvloop"""

_FIRST_CONNECTIONS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=positive_int, default=15000, metavar="N", help="default: 15000")
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in the message (default: 64)")
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="default: 3")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    count: int = options.connections
    require_files(count, setup.file_limit)

    def measure(server: RunningServer) -> list[Sample]:
        def settled_bytes() -> int:
            wait_until_quiet(server.pid)
            return private_bytes(server.pid)

        with idle_connections(server.port, _FIRST_CONNECTIONS) as connections:
            echo_at_once(connections, options.bytes)
        before = settled_bytes()
        with idle_connections(server.port, count) as connections:
            idle = settled_bytes()
            echo_in_turn(connections, options.bytes)
            after_turns = settled_bytes()
            echo_at_once(connections, options.bytes)
            after_burst = settled_bytes()
        return [
            {
                "idle_bytes": (idle - before) / count,
                "after_turns_bytes": (after_turns - before) / count,
                "after_burst_bytes": (after_burst - before) / count,
                "process_bytes": before,
            }
        ]

    outcomes = take_turns(choose(CONTESTANTS, options.contestants), options.rounds, setup.cores, measure)
    caption = f"idle: bytes for each of {count} connections, median of {options.rounds} rounds"
    table = Table(caption, ("idle", "after an echo in turn", "after all at once", "whole process before"))
    for outcome in outcomes:
        keys = ("idle_bytes", "after_turns_bytes", "after_burst_bytes", "process_bytes")
        table.add(outcome, [number(outcome.median(key)) for key in keys])
    report = Report(
        notes=[
            "User space only: what the kernel keeps for a socket is the same for all and not counted.",
            "A pool of fixed size that the echoes touch first counts as well; another --connections tells it apart.",
        ]
    )
    report.add(table, outcomes, connections=count)
    return report
