"""Does the management API disturb the service? Echo while HTTP clients list connections without pause.

Each round runs the same echo load twice on one server that also holds many idle connections: quiet, then while the
HTTP clients ask for a page of connections again as soon as they have the last. The peer is what one writes without
iocpd: the echo and the API on one uvloop. Its listing costs many times less once it declares a response model, so it
takes part in both forms; the ratios are to the one without.
"""

import argparse
import contextlib
import http.client
import json
import subprocess
from collections.abc import Iterator, Sequence
from http import HTTPStatus

from .clients import idle_connections
from .contestants import Contestant, RunningServer, Sample, choose, fastapi_echo, http_get, iocpd, take_turns
from .echo import WARMUP_SECONDS, load
from .errors import ContestantFailed
from .machine import require_files, wait_until_quiet
from .options import Setup, positive_int, seconds
from .report import Report, Table, median_of, number, ratio
from .toolchain import LoadProgram

PEER = fastapi_echo(with_model=False)
CONTESTANTS = (PEER, fastapi_echo(with_model=True), iocpd("io_uring", "echo"), iocpd("epoll", "echo"))
EXAMPLES = """examples:
  python -m tests.bench isolation
  python -m tests.bench isolation --connections 50 --idle 1000 --limit 100 --listers 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=positive_int, default=50, metavar="N", help="under load (default: 50)")
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in a message (default: 64)")
    parser.add_argument("--depth", type=positive_int, default=1, metavar="N", help="messages in flight (default: 1)")
    parser.add_argument("--idle", type=positive_int, default=4000, metavar="N", help="idle connections (default: 4000)")
    parser.add_argument("--limit", type=positive_int, default=1000, metavar="N", help="listed at once (default: 1000)")
    parser.add_argument("--listers", type=positive_int, default=2, metavar="N", help="HTTP clients (default: 2)")
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="in each half (default: 2)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    return disturb(options, setup, CONTESTANTS, PEER, "echo")


def disturb(
    options: argparse.Namespace,
    setup: Setup,
    contestants: Sequence[Contestant],
    peer: Contestant,
    service: str,
    *flags: str,
) -> Report:
    """The measurement, for any service.

    Args:
        options: What add_arguments offers.
        setup: The machine.
        contestants: Who may take part.
        peer: The one of them to which the others are compared.
        service: What they do, for the caption.
        flags: Of the load generator.
    """
    require_files(options.idle + options.connections, setup.file_limit)
    chosen = choose(contestants, options.contestants)
    loadgen, listing = LoadProgram("loadgen"), LoadProgram("listing")
    sizes = (*flags, "-c", options.connections, "-s", options.bytes, "-P", options.depth)
    arguments = (*sizes, "-w", WARMUP_SECONDS, "-d", options.seconds)
    path = f"/v1/connections?limit={options.limit}"

    def measure(server: RunningServer) -> list[Sample]:
        with idle_connections(server.port, options.idle):
            wait_until_quiet(server.pid)
            _check_page(server, path, min(options.limit, options.idle))
            quiet = load(loadgen, server, *arguments)
            with _listers(listing, server, path, options.seconds, options.listers) as started:
                loaded = load(loadgen, server, *arguments)
                listings = [listing.collect(process) for process in _terminate(started)]
        return [
            {
                "quiet_msgs_per_s": quiet["msgs_per_s"],
                "quiet_p99_us": quiet["p99_us"],
                "loaded_msgs_per_s": loaded["msgs_per_s"],
                "loaded_p99_us": loaded["p99_us"],
                "loaded_max_us": loaded["max_us"],
                "listings_per_s": sum(one["answers_per_s"] for one in listings),
                "listing_bytes": max(one["bytes"] for one in listings),
            }
        ]

    outcomes = take_turns(chosen, options.rounds, setup.cores, measure)
    caption = (
        f"isolation: {service} with {options.connections} connections while {options.listers} HTTP clients list "
        f"{options.limit} of {options.idle} more without pause,\n"
        f"median of {options.rounds} rounds of {options.seconds:g} s quiet and {options.seconds:g} s loaded"
    )
    heads = (
        *("quiet msgs/s", "quiet p99 us", "loaded msgs/s", "loaded p99 us", "lists/s"),
        *("rate kept", "p99 grew", "rate x peer", "p99 x peer"),
    )
    table = Table(caption, heads)
    for outcome in outcomes:
        rate, p99 = outcome.median("loaded_msgs_per_s"), outcome.median("loaded_p99_us")
        quiet_rate, quiet_p99 = outcome.median("quiet_msgs_per_s"), outcome.median("quiet_p99_us")
        cells = (
            number(quiet_rate),
            number(quiet_p99),
            number(rate),
            number(p99),
            number(outcome.median("listings_per_s"), 1),
            number(ratio(rate, quiet_rate), 2),
            number(ratio(p99, quiet_p99), 1),
            number(ratio(rate, median_of(outcomes, peer.name, "loaded_msgs_per_s")), 2),
            number(ratio(p99, median_of(outcomes, peer.name, "loaded_p99_us")), 3),
        )
        table.add(outcome, cells)
    report = Report(
        notes=[
            "rate kept, p99 grew: loaded against quiet, of the same server.",
            f"rate x peer, p99 x peer: loaded, against {peer.name} loaded.",
        ]
    )
    report.add(table, outcomes, connections=options.connections, idle=options.idle)
    return report


def _check_page(server: RunningServer, path: str, expected: int) -> None:
    """The page that is asked for again and again must be the page that is meant."""
    try:
        status, body = http_get(server.second_port, path)
    except (OSError, http.client.HTTPException) as error:
        raise ContestantFailed(f"GET {path} was not answered: {error}") from error
    try:
        items = len(json.loads(body)["items"])
    except (ValueError, KeyError, TypeError):
        raise ContestantFailed(f"GET {path} answered {status} with no items") from None
    if status != HTTPStatus.OK or items < expected:
        raise ContestantFailed(f"GET {path} answered {status} with {items} items instead of {expected}")


@contextlib.contextmanager
def _listers(
    listing: LoadProgram, server: RunningServer, path: str, seconds: float, count: int
) -> Iterator[list["subprocess.Popen[str]"]]:
    """HTTP clients that list without pause; those that still run at the end of the block are killed."""
    arguments = ("-p", server.second_port, "-u", path, "-w", WARMUP_SECONDS, "-d", seconds)
    started: list[subprocess.Popen[str]] = []
    try:
        started.extend(listing.start(*arguments) for _ in range(count))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def _terminate(processes: list["subprocess.Popen[str]"]) -> list["subprocess.Popen[str]"]:
    for process in processes:
        process.terminate()
    return processes
