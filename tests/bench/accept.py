"""What does a connection that comes and goes cost? Connect, one message there and back, close; also with many bans.

Clients do it again and again, some at a time, and each ends in order. The rows "with bans" have 100,000 bans of other
addresses in force, of all common lengths of prefix.
"""

import argparse
import ipaddress
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .contestants import (
    Contestant,
    RunningServer,
    Sample,
    bare_epoll,
    bare_io_uring,
    choose,
    iocpd,
    libuv,
    python_echo,
    take_turns,
)
from .errors import ContestantFailed
from .options import Setup, positive_int, seconds
from .report import Report, Table, median_of, number, ratio
from .toolchain import LoadProgram

EXAMPLES = """examples:
  python -m tests.bench accept
  python -m tests.bench accept --bans 1000 --contestants iocpd"""

_STATE = tempfile.TemporaryDirectory(prefix="iocpd-bench-")


def _with_bans(contestant: Contestant) -> Contestant:
    return replace(
        contestant,
        name=f"{contestant.name} with bans",
        environment={**contestant.environment, "IOCPD_STATE_DIR": _STATE.name},
    )


CONTESTANTS = (
    bare_io_uring(),
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
    parser.add_argument(
        "--connections", type=positive_int, default=50, metavar="N", help="under way at a time (default: 50)"
    )
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in the message (default: 64)")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="in a round (default: 2)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    _write_bans(Path(_STATE.name), options.bans)
    visitors = LoadProgram("visitors")
    arguments = ("-c", options.connections, "-s", options.bytes, "-d", options.seconds)

    def measure(server: RunningServer) -> list[Sample]:
        return [_sample(visitors.run("-p", server.port, "-S", server.pid, *arguments))]

    outcomes = take_turns(choose(CONTESTANTS, options.contestants), options.rounds, setup.cores, measure)
    caption = (
        f"accept: connect, {options.bytes} bytes there and back, close; {options.connections} at a time, "
        f"median of {options.rounds} rounds of {options.seconds:g} s"
    )
    heads = ("connections/s", "p99 us", "server us", "server busy", "x libuv", "x uvloop", "server us x without bans")
    table = Table(caption, heads)
    by_name = {outcome.name: outcome for outcome in outcomes}
    for outcome in outcomes:
        without = by_name.get(outcome.name.removesuffix(" with bans"))
        rate = outcome.median("per_s")
        cells = (
            number(rate),
            number(outcome.median("p99_us")),
            number(outcome.median("server_us"), 1),
            number(outcome.median("server_busy")) + " %",
            *(number(ratio(rate, median_of(outcomes, peer, "per_s")), 2) for peer in ("libuv", "uvloop")),
            number(ratio(outcome.median("server_us"), without.median("server_us") if without else None), 3),
        )
        table.add(outcome, cells)
    report = Report(
        notes=[
            "server us: processor time of the whole server process for each connection.",
            "x libuv, x uvloop: rate against theirs; server busy below 100 %: the visitors set the rate.",
        ]
    )
    report.add(table, outcomes, bans=options.bans)
    return report


def _sample(figures: dict[str, Any]) -> Sample:
    for key, complaint in (("mismatches", "visitors got wrong bytes"), ("errors", "connections broke")):
        if figures[key]:
            raise ContestantFailed(f"{figures[key]} {complaint}")
    if not figures["per_s"]:
        raise ContestantFailed("not one connection came to its end")
    return {
        **{key: figures[key] for key in ("per_s", "p50_us", "p99_us")},
        "server_us": 1e6 * figures["server_cpu_s"] / (figures["per_s"] * figures["seconds"]),
        "server_busy": 100 * figures["server_cpu_s"] / figures["seconds"],
    }


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
