"""Sending: to one connection, to many."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from iocpd.api.cli.command import MESSAGES, verb
from iocpd.api.cli.console import ask, console, for_people, plural
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.jobs import follow_broadcast, show_broadcast, tell_job
from iocpd.api.cli.listing import as_json
from iocpd.api.cli.options import Caution, Many, Output, Where, Which, payload, time_option
from iocpd.api.cli.statuses import Status, Stop, complain
from iocpd.api.cli.verbs.connections import IdArgument

TextArgument = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="what to send, as UTF-8")]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="what to send, as it is; - is stdin")
]
LineOption = Annotated[bool, typer.Option("--newline", "-l", help="a line feed after it")]
TimeoutOption = Annotated[
    float, time_option("--timeout", least=0.1, most=300, help="wait so long for it to be written")
]


@verb(
    "send",
    panel=MESSAGES,
    examples=[
        "iocpd send wph3r6-4000000 -l 'only for you'",
        "iocpd send wph3r6-4000000 --file greeting.bin",
        "date | iocpd send wph3r6-4000000 --file -",
    ],
)
def send(
    id: IdArgument,
    output: Output,
    where: Where,
    text: TextArgument = None,
    file: FileOption = None,
    newline: LineOption = False,
    timeout: TimeoutOption = 5.0,
) -> int:
    """Send to one connection."""
    message = _message(text, file, newline=newline)
    with connect(where) as client:
        report = client.send(id, message, timeout=timeout)
    if output.json:
        print(as_json(report))
    if report.written:
        if for_people() and not output.json:
            console(no_color=output.no_color).print("written")
        return Status.DONE
    if not report.done:
        complain("queued, and not written yet; more --timeout waits longer")
        return Status.TIMED_OUT
    complain("the connection ended before it was written" if report.closed_before_write else "it was not sent")
    return Status.FAILED


@verb(
    "broadcast",
    panel=MESSAGES,
    examples=[
        "iocpd broadcast --all -l 'maintenance at 18:00'",
        "iocpd broadcast --listener 1 --file notice.bin --yes",
        "iocpd broadcast --group lobby hello --on-slow disconnect --ttl 2s",
        "iocpd broadcast --tag region:eu hello --dry-run",
    ],
    notes="It tells how many match, and asks.",
)
def broadcast(
    which: Which,
    many: Many,
    caution: Caution,
    output: Output,
    where: Where,
    text: TextArgument = None,
    file: FileOption = None,
    newline: LineOption = False,
    timeout: TimeoutOption = 5.0,
    on_slow: Annotated[
        str, typer.Option("--on-slow", metavar="skip|disconnect", help="what if too much unread is queued for one")
    ] = "skip",
    ttl: Annotated[
        float | None,
        time_option("--ttl", least=0.001, most=3600, help="drop it where it has not begun to be sent by then"),
    ] = None,
) -> int:
    """Send to all connections that match a filter."""
    if not which.given() and not many.all:
        raise Stop("to whom? give a filter such as --listener 0, or --all", Status.USAGE)
    message = _message(text, file, newline=newline)
    target: dict[str, Any] = {**which.given(), **many.given()}
    how: dict[str, Any] = {
        "on_slow": on_slow,
        "ttl_ms": None if ttl is None else math.ceil(ttl * 1000),
        "timeout": timeout,
    }
    with connect(where) as client:
        look = client.broadcast(message, dry_run=True, **how, **(target | {"rate_per_s": None}))
        if caution.dry_run:
            return show_broadcast(look, output=output)
        if not look.matched:
            complain("no connections match")
            return Status.NOT_FOUND
        size = len(message.encode() if isinstance(message, str) else message)
        ask(f"Send {plural(size, 'byte')} to {plural(look.matched, 'connection')}?", yes=caution.yes)
        report = client.broadcast(message, prefer="respond-async" if many.detach else None, **how, **target)
        if many.detach and report.job:
            tell_job("broadcast", report.job, output=output)
            return Status.DONE
        return show_broadcast(follow_broadcast(client, report), output=output)


def _message(text: str | None, file: Path | None, *, newline: bool) -> bytes | str:
    message = payload(text, file, "TEXT", "--file")
    if not message:
        raise Stop("nothing to send: give TEXT or --file FILE", Status.USAGE)
    if not newline:
        return message
    return message + "\n" if isinstance(message, str) else message + b"\n"
