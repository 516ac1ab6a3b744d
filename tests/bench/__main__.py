"""The command line of the benchmarks; see ``python -m tests.bench --help``."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

if sys.platform != "linux":
    sys.exit("tests.bench runs on Linux only: it pins processes to processors and reads /proc")

from . import __doc__ as about
from . import accept, api, echo, fanout, growth, idle, isolation, lines, lines_isolation, wine
from .errors import BenchError
from .machine import Neighbours, choose_cores, facts, raise_file_limit
from .options import Setup
from .report import Report

MEASUREMENTS = {
    "echo": echo,
    "lines": lines,
    "accept": accept,
    "growth": growth,
    "idle": idle,
    "fanout": fanout,
    "isolation": isolation,
    "lines-isolation": lines_isolation,
    "api": api,
    "wine": wine,
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; argparse ends the program with a message if it is wrong."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=about, formatter_class=raw)
    subcommands = parser.add_subparsers(dest="measurement", required=True, metavar="|".join(MEASUREMENTS))
    for name, module in MEASUREMENTS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        sub = subcommands.add_parser(
            name, help=summary, description=module.__doc__, epilog=module.EXAMPLES, formatter_class=raw
        )
        module.add_arguments(sub)
        known = ", ".join(contestant.name for contestant in module.CONTESTANTS)
        sub.add_argument(
            "--contestants",
            metavar="NAME,...",
            help=f"who takes part (default: all): {known}. A first word stands for all that begin with it.",
        )
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of every round there as well")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no server is left behind
    cores = choose_cores()
    setup = Setup(cores=cores, file_limit=raise_file_limit())
    machine = facts(cores)
    os.sched_setaffinity(0, {cores.load})  # the load programs inherit it
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(flush=True)
    try:
        if options.json:
            options.json.touch()  # a path that cannot be written shall not cost a whole run
        neighbours = Neighbours(cores)
        report = MEASUREMENTS[options.measurement].run(options, setup)
        machine["others"] = f"{neighbours.share():.0%} of both processors went to other programs meanwhile"
        if options.json:
            options.json.write_text(json.dumps(_as_json(options, machine, report), indent=2) + "\n")
    except (BenchError, OSError) as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tests.bench: interrupted", file=sys.stderr)
        return 130
    for table in report.tables:
        print(f"{table}\n")
    for note in report.notes:
        print(note)
    print(machine["others"])
    return 1 if report.failed else 0


def _as_json(options: argparse.Namespace, machine: dict[str, str], report: Report) -> dict[str, Any]:
    taken = {name: value for name, value in vars(options).items() if name not in ("measurement", "json")}
    return {"measurement": options.measurement, "machine": machine, "options": taken, "results": report.results}


if __name__ == "__main__":
    sys.exit(main())
