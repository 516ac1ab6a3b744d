"""`iocpd top`: a live table, or one snapshot of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iocpd.api.cli.command import CONNECTIONS, verb
from iocpd.api.cli.console import console, for_people
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.options import Output, Where, time_option
from iocpd.api.cli.safe import safe_json
from iocpd.api.cli.statuses import Status, Stop

if TYPE_CHECKING:
    from iocpd.api.cli.top.state import State

_SNAPSHOT_WIDTH = 160


@verb(
    "top",
    panel=CONNECTIONS,
    examples=[
        "iocpd top",
        "iocpd top --sort queued --interval 0.5",
        "iocpd top -o -                    one snapshot on stdout",
        "iocpd top -o top.txt --interval 10",
        "iocpd top -o - --json | head -5   with rates, for a program",
    ],
    notes="? shows the keys. A snapshot looks twice, --interval apart, so that there are rates.",
)
def top(
    output: Output,
    where: Where,
    sort: Annotated[str, typer.Option("--sort", metavar="COLUMN", help="such as in/s, out/s, queued, age")] = "in/s",
    interval: Annotated[float, time_option("--interval", "-d", least=0.2, most=60, help="between two looks")] = 2.0,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="look at so many connections")
    ] = 1000,
    file: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="one snapshot into it; - is stdout")
    ] = None,
) -> None:
    """Show connections and their rates, live."""
    from iocpd.api.cli.top.columns import NAMES
    from iocpd.api.cli.top.loop import run
    from iocpd.api.cli.top.sample import look
    from iocpd.api.cli.top.state import State

    if sort not in NAMES:
        raise Stop(f"--sort is {sort!r}: write one of {', '.join(NAMES)}", Status.USAGE)
    state = State(sort=sort, interval=interval)
    one = file is not None or output.json
    if not one and not (for_people() and sys.stdin.isatty()):
        raise Stop("a live table needs a terminal; -o - prints one snapshot", Status.USAGE)
    with connect(where) as client:
        first = look(client, state.column.server, limit, None)
        if not one:
            run(client, state, console(no_color=output.no_color), limit, first)
            return
        time.sleep(interval)
        state.take(look(client, state.column.server, limit, first))
        text = _json(state) if output.json else _text(state, client.url)
    if file is None or str(file) == "-":
        print(text, end="")
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Stop(f"cannot write {file}: {error.strerror}") from None


def _json(state: State) -> str:
    from dataclasses import asdict

    lines = [
        safe_json(
            connection.model_dump(mode="json")
            | {"rates": {name: round(rate, 1) for name, rate in asdict(rates).items()}}
        )
        for connection, rates in state.rows
    ]
    return "".join(f"{line}\n" for line in lines)


def _text(state: State, url: str) -> str:
    import io

    from rich.console import Console

    from iocpd.api.cli.top.screen import snapshot

    width = console().width if for_people() else _SNAPSHOT_WIDTH
    # Plain text, whatever it is written to.
    screen = Console(file=io.StringIO(), width=width, color_system=None, markup=False, highlight=False, emoji=False)
    with screen.capture() as captured:
        screen.print(snapshot(state, url, width))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
