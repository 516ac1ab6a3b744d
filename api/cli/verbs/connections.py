"""Who is there, who was: ls, show, closed, tag."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iocpd.api.cli.command import CONNECTIONS, verb
from iocpd.api.cli.console import console, for_people, plural
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.listing import Column, as_json, endpoint, fields_of, grid, heads, show
from iocpd.api.cli.options import Listing, Output, Where, Which, split_tag
from iocpd.api.cli.safe import safe
from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.units import age, clock, count, size

if TYPE_CHECKING:
    from iocpd.api.client import ClosedConnection, Connection

_MOST = 2**31 - 1  # what every system can count to

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="of a connection, as `iocpd ls` shows it")]
LimitOption = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, max=_MOST, help="no more than so many")]

_STATES = {"arriving": "cyan", "open": "green", "draining": "yellow", "closing": "red"}


def state_style(state: str) -> str:
    """The colour of a connection's state."""
    return _STATES.get(state, "")


def labels(tags: dict[str, str], groups: tuple[str, ...]) -> str:
    """Tags and groups in a column: `region=eu @lobby`."""
    return " ".join([*(f"{key}={value}" for key, value in tags.items()), *(f"@{group}" for group in groups)])


_COLUMNS: list[Column[Connection]] = [
    Column("ID", lambda row: row.id),
    Column("PEER", lambda row: endpoint(row.peer.ip, row.peer.port)),
    Column("SERVICE", lambda row: f"{row.service}/{row.listener}", rank=3),
    Column("STATE", lambda row: row.state, style=lambda row: state_style(row.state)),
    Column("AGE", lambda row: age(row.connected_at), right=True),
    Column("IDLE", lambda row: age(row.last_activity_at), right=True, rank=1),
    Column("IN", lambda row: size(row.bytes_in), right=True),
    Column("OUT", lambda row: size(row.bytes_out), right=True),
    Column("MSG IN", lambda row: count(row.messages_in), right=True, rank=5),
    Column("MSG OUT", lambda row: count(row.messages_out), right=True, rank=6),
    Column("QUEUED", lambda row: size(row.pending_bytes), right=True, rank=2),
    Column("LABELS", lambda row: labels(row.tags, row.groups), rank=4),
]
_MACHINE = ("id", "peer", "listener", "state", "connected_at", "bytes_in", "bytes_out", "pending_bytes")


@verb(
    "ls",
    panel=CONNECTIONS,
    examples=[
        "iocpd ls",
        "iocpd ls --sort -bytes_in --limit 20            the largest first",
        "iocpd ls --ip 192.0.2.0/24 --idle-for 10m",
        "iocpd ls --tag region:eu --watch",
        "iocpd ls --json --fields id,peer.ip,tags        each on one line, for jq",
        "iocpd ls --count",
    ],
)
def ls(
    which: Which,
    output: Listing,
    where: Where,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="MEMBER", help="such as bytes_in, or -bytes_in: the largest first")
    ] = None,
    limit: LimitOption = None,
    total: Annotated[bool, typer.Option("--count", help="only how many there are")] = False,
) -> None:
    """List connections."""
    from iocpd.api.client import Connection

    with connect(where) as client:
        if total:
            print(client.list_connections(limit=1, count="exact", fields=["id"], **which.given()).total)
            return
        wanted = heads(fields_of(Connection, output.fields)) or None
        filters: dict[str, Any] = {**which.given(), "sort": sort, "fields": wanted}

        def rows() -> Iterable[Connection]:
            found = client.connections(page_size=min(limit or 1000, 1000), **filters)
            return itertools.islice(found, limit)

        show(
            rows,
            _COLUMNS,
            model=Connection,
            machine=_MACHINE,
            output=output,
            none="no connections match" if which.given() else "no connections",
            foot=lambda items: plural(len(items), "connection"),
        )


@verb(
    "show",
    panel=CONNECTIONS,
    examples=["iocpd show wph3r6-4000000", "iocpd show wph3r6-4000000 --json | jq .tags"],
)
def show_one(id: IdArgument, output: Output, where: Where) -> int:
    """Show one connection, or how it ended."""
    from iocpd.api.client import Gone

    with connect(where) as client:
        try:
            row: Connection | ClosedConnection = client.get_connection(id)
            status = Status.DONE
        except Gone as error:
            if error.closed is None:
                raise
            row, status = error.closed, Status.NOT_FOUND
    if output.json or not for_people():
        print(as_json(row))
    else:
        _describe(row, output)
    return status


def _describe(row: Any, output: Output) -> None:
    from rich.text import Text

    table = grid(["", ""], [False, False])
    table.show_header = False
    ended = hasattr(row, "closed_at")
    state = "ended" if ended else row.state
    lines: list[tuple[str, str, str]] = [
        ("id", row.id, "bold"),
        ("state", state, state_style(state)),
        ("peer", endpoint(row.peer.ip, row.peer.port), ""),
        *([("via", endpoint(row.via.ip, row.via.port), "")] if row.via else []),
        ("local", f"{endpoint(row.local.ip, row.local.port)}  {row.service}, listener {row.listener}", ""),
        ("worker", str(row.worker), ""),
        ("connected", f"{clock(row.connected_at)}  {age(row.connected_at)} ago", ""),
        ("last activity", f"{clock(row.last_activity_at)}  {age(row.last_activity_at)} ago", ""),
        ("received", f"{size(row.bytes_in)} in {plural(row.messages_in, 'message')}", ""),
        ("sent", f"{size(row.bytes_out)} in {plural(row.messages_out, 'message')}", ""),
    ]
    if ended:
        lines.insert(2, ("ended", f"{clock(row.closed_at)}  {age(row.closed_at)} ago", ""))
        lines.insert(3, ("why", f"{row.reason}, by {row.by}" + (f": {row.text}" if row.text else ""), "yellow"))
        if row.os_error is not None:
            lines.insert(4, ("system error", str(row.os_error), "red"))
    else:
        lines.append(("queued", size(row.pending_bytes), "yellow" if row.pending_bytes else ""))
        lines.append(("round trip", "not known" if row.rtt_ms is None else f"{row.rtt_ms:.3g} ms", ""))
        if row.reason:
            lines.insert(2, ("leaving", row.reason, "yellow"))
    lines += [("tag", f"{key} = {value}", "cyan") for key, value in row.tags.items()]
    lines += [("group", group, "cyan") for group in row.groups]
    for name, text, style in lines:
        table.add_row(Text(name, style="dim"), Text(safe(text), style=style))
    console(no_color=output.no_color).print(table)


_CLOSED: list[Column[ClosedConnection]] = [
    Column("ID", lambda row: row.id),
    Column("PEER", lambda row: endpoint(row.peer.ip, row.peer.port)),
    Column("ENDED", lambda row: age(row.closed_at) + " ago", right=True),
    Column("REASON", lambda row: row.reason, style=lambda row: "yellow" if row.by == "operator" else ""),
    Column("BY", lambda row: row.by, rank=2),
    Column("LASTED", lambda row: age(row.connected_at, row.closed_at), right=True, rank=3),
    Column("IN", lambda row: size(row.bytes_in), right=True, rank=4),
    Column("OUT", lambda row: size(row.bytes_out), right=True, rank=5),
    Column("TEXT", lambda row: row.text, rank=1),
]


@verb(
    "closed",
    panel=CONNECTIONS,
    examples=["iocpd closed --limit 20", "iocpd closed --json --fields id,reason,by,text"],
)
def closed(output: Listing, where: Where, limit: LimitOption = None) -> None:
    """List connections that ended lately, newest first."""
    from iocpd.api.client import ClosedConnection

    with connect(where) as client:
        show(
            lambda: itertools.islice(client.closed_connections(page_size=min(limit or 1000, 1000)), limit),
            _CLOSED,
            model=ClosedConnection,
            machine=("id", "peer", "closed_at", "reason", "by", "bytes_in", "bytes_out", "text"),
            output=output,
            none="no connection has ended yet",
        )


@verb(
    "tag",
    panel=CONNECTIONS,
    examples=[
        "iocpd tag ID region=eu tier=gold     adds or changes these, leaves the others",
        "iocpd tag ID tier-                   removes it",
        "iocpd tag ID --group lobby           the whole list of groups from now on",
        "iocpd tag ID --no-groups",
    ],
)
def tag(
    id: IdArgument,
    output: Output,
    where: Where,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE|KEY-]...", help="tags to set, or to remove")
    ] = None,
    groups: Annotated[
        list[str] | None, typer.Option("--group", metavar="NAME", help="it is in these alone; repeatable")
    ] = None,
    no_groups: Annotated[bool, typer.Option("--no-groups", help="it is in no group any more")] = False,
) -> None:
    """Change a connection's tags and groups."""
    changes: dict[str, str | None] = {}
    for text in tags or ():
        tag = split_tag(text)
        if tag is None and not text.endswith("-"):
            raise Stop(f"{safe(text)!r}: write KEY=VALUE to set a tag, KEY- to remove one", Status.USAGE)
        changes |= {text[:-1]: None} if tag is None else dict([tag])
    if groups and no_groups:
        raise Stop("give --group or --no-groups, not both", Status.USAGE)
    if not changes and not groups and not no_groups:
        raise Stop("nothing to change: give KEY=VALUE, KEY-, --group or --no-groups", Status.USAGE)
    with connect(where) as client:
        row = client.label(id, tags=changes or None, groups=groups or ([] if no_groups else None))
    if output.json or not for_people():
        print(as_json(row))
    else:
        text = labels(row.tags, row.groups)
        console(no_color=output.no_color).print(f"{safe(row.id)}  {safe(text) or 'no tags, no groups'}")
