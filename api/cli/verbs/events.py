"""`iocpd events`: what happens, as it happens."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from iocpd.api.cli.command import CONNECTIONS, verb
from iocpd.api.cli.console import console, for_people
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.listing import as_json, endpoint, fields_of
from iocpd.api.cli.options import Output, Where
from iocpd.api.cli.safe import safe
from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.units import size

if TYPE_CHECKING:
    from iocpd.api.client import Event

_STYLES = {
    "connected": "green",
    "disconnected": "dim",
    "slow_consumer": "yellow",
    "drain": "magenta",
    "ban": "red",
    "unban": "cyan",
    "dominant_address": "yellow",
    "missed": "bold red",
}


@verb(
    "events",
    panel=CONNECTIONS,
    examples=[
        "iocpd events",
        "iocpd events --types connected,disconnected --listener 0",
        "iocpd events --json --fields kind,at,peer.ip,reason",
        "iocpd events --count 1 --types drain      waits for one",
    ],
    notes="When the connection is lost it is made again, and goes on where it was. `missed` says if some were lost.",
)
def events(
    output: Output,
    where: Where,
    types: Annotated[
        str | None,
        typer.Option(
            "--types", metavar="A,B", help="connected, disconnected, slow_consumer, drain, ban, unban, dominant_address"
        ),
    ] = None,
    listener: Annotated[int | None, typer.Option("--listener", metavar="N", help="only of this one")] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="POSITION", help="go on behind this event, see --fields position")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="end after so many")] = None,
    fields: Annotated[str | None, typer.Option("--fields", metavar="A,B.C", help="these members alone")] = None,
) -> None:
    """Show what happens, as it happens, until Ctrl-C."""
    from iocpd.api.client import Event

    names = fields_of(Event, fields)
    if after is not None and not re.fullmatch("[!-~]{1,200}", after):  # it goes into a header
        raise Stop(f"--after is {safe(after)!r}: write the position of an event, such as k3f9qz.12.7", Status.USAGE)
    wanted = [each.strip() for each in types.split(",")] if types else None
    screen = console(no_color=output.no_color)
    with connect(where) as client:
        for number, event in enumerate(client.events(types=wanted, listener=listener, after=after), 1):  # type: ignore[arg-type]
            if output.json or names or not for_people():
                print(as_json(event, names) if names else as_json(event, _told(event)), flush=True)
            else:
                _print(screen, event)
            if number == count:
                return


def _told(event: Event) -> list[str]:
    """The members that this kind of event has; what it has not is None in the model."""
    first = ("kind", "position")
    return [*first, *(name for name in type(event).model_fields if name in event.model_fields_set - set(first))]


def _print(screen: object, event: Event) -> None:
    from rich.console import Console
    from rich.text import Text

    assert isinstance(screen, Console)
    when = (event.at or datetime.now().astimezone()).astimezone()
    line = Text.assemble(
        (f"{when:%H:%M:%S.%f}"[:-3], "dim"), "  ", (f"{safe(event.kind):<13}", _STYLES.get(event.kind, ""))
    )
    line.append("  " + safe(_about(event)))
    screen.print(line, soft_wrap=True)


def _about(event: Event) -> str:
    peer = endpoint(event.peer.ip, event.peer.port) if event.peer else ""
    if event.kind == "missed":
        return "nobody knows how many were lost" if event.missed is None else f"{event.missed:,} were lost here"
    if event.kind in ("ban", "unban"):
        return f"{event.address}  {event.text or ''}".rstrip()
    if event.kind == "drain":
        return str(event.phase)
    if event.kind == "dominant_address":
        return f"{event.address} holds {event.connections:,} connections, more than half"
    about = f"{event.id}  {peer}"
    if event.via:
        about += f" via {endpoint(event.via.ip, event.via.port)}"
    if event.kind == "slow_consumer":
        about += f"  {size(event.pending_bytes or 0)} queued"
    if event.kind == "disconnected":
        about += f"  {event.reason}, by {event.by}" + (f": {event.text}" if event.text else "")
        about += f"  in {size(event.bytes_in or 0)}, out {size(event.bytes_out or 0)}"
    return about
