"""How fast is the echo on a completion port under Wine? Against asyncio's proactor loop and winloop in the same Wine.

All are Windows programs on the same Wine, which turns each call into calls of Linux and of its own server: the figures
say how the three compare there, and nothing about Windows itself. Wine's server runs on whichever processor it likes.
Needs ``python -m tests.windows build``, and winloop ``python -m tests.windows run python -m pip install winloop``.
"""

import argparse
import sys
from collections.abc import Callable

from tests.windows import wine

from .contestants import Contestant, RunningServer, Sample, choose, take_turns
from .echo import WARMUP_SECONDS, load
from .errors import NotMeasured
from .machine import require_files
from .options import Setup, positive_int, seconds
from .report import Report, Table, median_of, number, ratio
from .toolchain import HERE, LoadProgram

EXAMPLES = """examples:
  python -m tests.bench wine
  python -m tests.bench wine --connections 200 --rounds 3 --contestants iocpd,proactor"""

_RUN = [sys.executable, "-IS", wine.__file__, "python"]
_PEER = wine.windows_path(HERE / "peers" / "echo_asyncio.py")


def _program(*command: str, module: str = "") -> Callable[[], list[str]]:
    def program() -> list[str]:
        if not wine.LAUNCHER.exists():
            raise NotMeasured("there is no Windows Python (python -m tests.windows build)")
        if module and not (wine.PYTHON / "Lib" / "site-packages" / module).exists():
            raise NotMeasured(f"{module} is missing (python -m tests.windows run python -m pip install {module})")
        return [*_RUN, *command]

    return program


CONTESTANTS = (
    Contestant(
        "iocpd iocp",
        _program("-m", "iocpd.api", "serve", "--backend", "iocp", "--workers", "1"),
        arguments=lambda port: ["--tcp", f"127.0.0.1:{port}/echo", "--http", f"127.0.0.1:{port + 1}"],
        ready_path="/readyz",
        environment={"IOCPD_FIRST_BYTE_TIMEOUT": "0", "IOCPD_IDLE_TIMEOUT": "0"},
    ),
    Contestant("proactor", _program(_PEER), environment={"LOOP": "asyncio"}),
    Contestant("winloop", _program(_PEER, module="winloop"), environment={"LOOP": "winloop"}),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--connections", type=positive_int, action="append", metavar="N", help="repeatable (default: 50 and 200)"
    )
    parser.add_argument("--bytes", type=positive_int, default=64, metavar="N", help="in a message (default: 64)")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="in a round (default: 2)")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    loadgen = LoadProgram("loadgen")
    report = Report(notes=["x proactor, x winloop: rate against theirs."])
    for connections in options.connections or [50, 200]:
        require_files(connections, setup.file_limit)
        arguments = ("-c", connections, "-s", options.bytes, "-w", WARMUP_SECONDS, "-d", options.seconds)

        def measure(server: RunningServer, arguments: tuple[str | int | float, ...] = arguments) -> list[Sample]:
            figures = load(loadgen, server, *arguments)
            return [{key: figures[key] for key in ("msgs_per_s", "p50_us", "p99_us")}]

        outcomes = take_turns(choose(CONTESTANTS, options.contestants), options.rounds, setup.cores, measure)
        caption = (
            f"wine: echo with {connections} connections, {options.bytes} bytes, "
            f"median of {options.rounds} rounds of {options.seconds:g} s"
        )
        table = Table(caption, ("msgs/s", "p50 us", "p99 us", "x proactor", "x winloop"))
        for outcome in outcomes:
            rate = outcome.median("msgs_per_s")
            cells = (
                number(rate),
                number(outcome.median("p50_us")),
                number(outcome.median("p99_us")),
                number(ratio(rate, median_of(outcomes, "proactor", "msgs_per_s")), 2),
                number(ratio(rate, median_of(outcomes, "winloop", "msgs_per_s")), 2),
            )
            table.add(outcome, cells)
        report.add(table, outcomes, connections=connections)
    return report
