"""Does a message cost more among many connections? The server's processor time for each, among few and among many.

The same server echoes for few connections and then for many, each with one message in flight, and is full both times:
below that, what a message costs is ruled by how often the server sleeps, not by how many connections there are. What
grows is what the processor's caches no longer hold; the rows of the bare yardsticks tell the kernel's share of it.
"""

import argparse

from .contestants import (
    RunningServer,
    Sample,
    bare_epoll,
    bare_io_uring,
    choose,
    iocpd,
    libuv,
    node_echo,
    python_echo,
    take_turns,
)
from .echo import WARMUP_SECONDS, load, sample
from .machine import require_files
from .options import Setup, positive_int, seconds
from .report import Report, Table, number
from .toolchain import LoadProgram

CONTESTANTS = (
    bare_io_uring(),
    bare_epoll(),
    iocpd("io_uring", "echo"),
    iocpd("epoll", "echo"),
    libuv(),
    python_echo("uvloop"),
    node_echo(),
)
EXAMPLES = """examples:
  python -m tests.bench growth
  python -m tests.bench growth --few 50 --many 5000 --contestants iocpd"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--few", type=positive_int, default=100, metavar="N", help="connections (default: 100)")
    parser.add_argument("--many", type=positive_int, default=15000, metavar="N", help="connections (default: 15000)")
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in a message (default: 64)")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="of each in a round (default: 2)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    require_files(max(options.few, options.many), setup.file_limit)
    loadgen = LoadProgram("loadgen")

    def measure(server: RunningServer) -> list[Sample]:
        def among(connections: int) -> Sample:
            arguments = ("-c", connections, "-s", options.bytes, "-w", WARMUP_SECONDS, "-d", options.seconds)
            return sample(load(loadgen, server, *arguments))

        few, many = among(options.few), among(options.many)
        return [
            {
                "few_us": few["server_us"],
                "many_us": many["server_us"],
                "growth": many["server_us"] / few["server_us"],
                "few_busy": few["server_busy"],
                "many_busy": many["server_busy"],
            }
        ]

    outcomes = take_turns(choose(CONTESTANTS, options.contestants), options.rounds, setup.cores, measure)
    caption = (
        f"growth: server us for each message of {options.bytes} bytes, among {options.few} connections and among "
        f"{options.many}, median of {options.rounds} rounds of {options.seconds:g} s"
    )
    heads = (f"us, {options.few}", f"us, {options.many}", "growth", f"busy, {options.few}", f"busy, {options.many}")
    table = Table(caption, heads)
    for outcome in outcomes:
        cells = (
            number(outcome.median("few_us"), 2),
            number(outcome.median("many_us"), 2),
            number(outcome.median("growth"), 2),
            number(outcome.median("few_busy")) + " %",
            number(outcome.median("many_busy")) + " %",
        )
        table.add(outcome, cells)
    report = Report(notes=["growth: among many for among few, taken in each round."])
    report.add(table, outcomes, few=options.few, many=options.many)
    return report
