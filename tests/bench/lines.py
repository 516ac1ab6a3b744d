"""How fast is a service in Python? Lines that it answers in upper case, a handler call for each.

A closed loop with several lines in flight on each connection; every byte of the answers is checked. The peer does the
same in asyncio's Protocol. Upper is called for each line, UpperInBatches for all lines that wait for a connection.
"""

import argparse

from .contestants import Outcome, RunningServer, Sample, choose, iocpd_lines, python_lines, take_turns
from .echo import WARMUP_SECONDS, load, sample
from .machine import require_files
from .options import Setup, positive_int, seconds
from .report import Report, Table, median_of, number, ratio
from .toolchain import LoadProgram

PEER = python_lines("uvloop")
CONTESTANTS = (
    PEER,
    python_lines("asyncio"),
    *(iocpd_lines(backend, service) for backend in ("io_uring", "epoll") for service in ("Upper", "UpperInBatches")),
    *(iocpd_lines("io_uring", service, both_cores=True) for service in ("Upper", "UpperInBatches")),
)
EXAMPLES = """examples:
  python -m tests.bench lines
  python -m tests.bench lines --connections 50 --depth 1 --contestants iocpd,uvloop"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=positive_int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in a line with LF (default: 64)")
    parser.add_argument("--depth", type=positive_int, default=16, metavar="N", help="lines in flight (default: 16)")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="in a round (default: 2)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    require_files(options.connections, setup.file_limit)
    chosen = choose(CONTESTANTS, options.contestants)
    loadgen = LoadProgram("loadgen")
    sizes = ("-l", "-c", options.connections, "-s", options.bytes, "-P", options.depth)
    arguments = (*sizes, "-w", WARMUP_SECONDS, "-d", options.seconds)

    def measure(server: RunningServer) -> list[Sample]:
        return [sample(load(loadgen, server, *arguments))]

    outcomes = take_turns(chosen, options.rounds, setup.cores, measure)
    caption = (
        f"lines: {options.connections} connections, lines of {options.bytes} bytes, {options.depth} in flight on each, "
        f"median of {options.rounds} rounds of {options.seconds:g} s"
    )
    report = Report()
    report.add(_table(caption, outcomes), outcomes)
    report.notes.append("server us: processor time of the whole server process for each line.")
    report.notes.append(f"x rate, x cpu: lines a second, and lines a second of processor time, against {PEER.name}.")
    report.notes.append("server busy below 100 %: the load generator set the rate; then compare x cpu.")
    return report


def _table(caption: str, outcomes: list[Outcome]) -> Table:
    table = Table(caption, ("lines/s", "p50 us", "p99 us", "server us", "server busy", "x rate", "x cpu"))
    rate, cost = median_of(outcomes, PEER.name, "msgs_per_s"), median_of(outcomes, PEER.name, "server_us")
    for outcome in outcomes:
        cells = (
            number(outcome.median("msgs_per_s")),
            number(outcome.median("p50_us")),
            number(outcome.median("p99_us")),
            number(outcome.median("server_us"), 3),
            number(outcome.median("server_busy")) + " %",
            number(ratio(outcome.median("msgs_per_s"), rate), 2),
            number(ratio(cost, outcome.median("server_us")), 2),
        )
        table.add(outcome, cells)
    return table
