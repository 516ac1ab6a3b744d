"""`iocpd doctor`: whether `iocpd serve` can run on this machine, and how well."""

from __future__ import annotations

from typing import Annotated

import typer

from iocpd.api.cli.checks import RUNS, Check, Verdict, examine
from iocpd.api.cli.command import HERE, verb
from iocpd.api.cli.console import console, for_people
from iocpd.api.cli.listing import grid
from iocpd.api.cli.options import Output
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status
from iocpd.api.cli.verbs.serve import ConfigOption

_STYLES = {Verdict.OK: "green", Verdict.NOTE: "dim", Verdict.WARN: "yellow", Verdict.STOP: "bold red"}
_MARKS = {Verdict.OK: "✓", Verdict.NOTE: "·", Verdict.WARN: "!", Verdict.STOP: "✗"}


@verb(
    "doctor",
    panel=HERE,
    examples=[
        "iocpd doctor",
        "iocpd doctor --config /etc/iocpd.toml",
        "iocpd doctor --tcp 0.0.0.0:7000/python:chat:Chat --state-dir state",
        "iocpd doctor --json | jq 'select(.verdict != \"ok\")'",
    ],
    notes="With the settings of `iocpd serve`: IOCPD_* and --config. It ends with status 1 if something would stop it.",
)
def doctor(
    output: Output,
    config: ConfigOption = None,
    tcp: Annotated[
        list[str] | None, typer.Option("--tcp", metavar="HOST:PORT[/SERVICE]", help="as of `iocpd serve`")
    ] = None,
    http: Annotated[str | None, typer.Option("--http", metavar="HOST:PORT", help="as of `iocpd serve`")] = None,
    state_dir: Annotated[str | None, typer.Option("--state-dir", metavar="FOLDER", help="as of `iocpd serve`")] = None,
) -> int:
    """Check this machine: backend and why, limits, services in Python, ports, rights, versions."""
    given = {"tcp": tcp, "http": http, "state_dir": state_dir}
    flags = {name: value for name, value in given.items() if value}
    checks = list(examine(flags, config))
    stops = sum(each.verdict is Verdict.STOP for each in checks)
    if output.json:
        for each in checks:
            print(safe_json({"check": each.name, "verdict": each.verdict.value, "text": each.text}))
    elif for_people():
        _print(checks, stops, output)
    else:
        for each in checks:
            print(f"{each.verdict.value}\t{each.name}\t{safe(each.text)}")
    return Status.FAILED if stops else Status.DONE


def _print(checks: list[Check], stops: int, output: Output) -> None:
    from rich.text import Text

    screen = console(no_color=output.no_color)
    plain = screen.encoding != "utf-8"
    table = grid(["", "", ""], [False] * 3)
    table.show_header = False
    for each in checks:
        mark = each.verdict.value if plain else _MARKS[each.verdict]
        table.add_row(Text(mark, style=_STYLES[each.verdict]), Text(each.name, style="bold"), Text(safe(each.text)))
    screen.print(table)
    screen.print()
    warnings = sum(each.verdict is Verdict.WARN for each in checks)
    if stops:
        screen.print(f"`iocpd serve` would not start: {stops} of these stop it", style="bold red")
    elif any(each.name == RUNS for each in checks):
        screen.print("`iocpd serve` runs here already", style="green")
    else:
        noted = f"; {warnings} to think about" if warnings else ""
        screen.print(f"`iocpd serve` can start{noted}", style="yellow" if warnings else "green")
