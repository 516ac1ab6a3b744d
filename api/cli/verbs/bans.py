"""Keeping addresses away: ban, unban, bans."""

from __future__ import annotations

import ipaddress
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iocpd.api.cli.command import ADDRESSES, verb
from iocpd.api.cli.console import ask, console, for_people, plural
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.listing import Column, as_json, show
from iocpd.api.cli.options import Caution, Listing, Output, Where, payload
from iocpd.api.cli.safe import safe
from iocpd.api.cli.statuses import Status, complain
from iocpd.api.cli.units import age, span
from iocpd.api.cli.verbs.connections import LimitOption

if TYPE_CHECKING:
    from iocpd.api.client import Ban, Client

_COLUMNS: list[Column[Ban]] = [
    Column("ID", lambda ban: ban.id),
    Column("ADDRESS", lambda ban: ban.address),
    Column("AGE", lambda ban: age(ban.created_at), right=True, rank=2),
    Column("ENDS IN", lambda ban: _left(ban.expires_at), right=True),
    Column("BY", lambda ban: ban.created_by, rank=1),
    Column("REASON", lambda ban: ban.reason),
]


def _left(moment: datetime | None) -> str:
    return "never" if moment is None else span((moment - datetime.now(UTC)).total_seconds())


@verb(
    "ban",
    panel=ADDRESSES,
    examples=[
        "iocpd ban 192.0.2.7 --ttl 1h --reason 'too many connections'",
        "iocpd ban 2001:db8::/32 --dry-run",
        "iocpd ban 192.0.2.0/24 --no-kick --yes",
    ],
    notes="It tells how many connections are there from this address, and asks. A ban outlives a restart.",
)
def ban(
    address: Annotated[str, typer.Argument(metavar="ADDRESS|CIDR", help="whom to keep away")],
    caution: Caution,
    output: Output,
    where: Where,
    ttl: Annotated[str | None, typer.Option("--ttl", metavar="TIME", help="how long; else until it is lifted")] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="kept with the ban and with whom it ends")
    ] = "",
    kick: Annotated[bool, typer.Option("--kick/--no-kick", help="also end who is there (yes)")] = True,
    farewell: Annotated[str | None, typer.Option("--farewell", metavar="TEXT", help="sent to those before")] = None,
    farewell_file: Annotated[
        Path | None, typer.Option("--farewell-file", metavar="FILE", help="the same from a file; - is stdin")
    ] = None,
) -> int:
    """Keep an address or a block away, and end the connections from it."""
    goodbye = payload(farewell, farewell_file, "--farewell", "--farewell-file")
    with connect(where) as client:
        there = _connections_from(client, address)
        if caution.dry_run:
            print(f"would ban {safe(address)}; {there}")
            return Status.DONE
        lasting = f" for {ttl}" if ttl else ""
        fate = "will be ended" if kick else "may stay"
        ask(f"Ban {safe(address)}{lasting}? {there}, which {fate}.", yes=caution.yes)
        made = client.ban(address, ttl=ttl, reason=reason, kick=kick, farewell=goodbye)
    if output.json:
        print(as_json(made))
    elif for_people():
        kicked = "" if made.kicked is None else f", {plural(made.kicked, 'connection')} kicked"
        console(no_color=output.no_color).print(f"{safe(made.address)} is banned (id {safe(made.id)}){kicked}")
    else:
        print(safe(made.id))
    return Status.DONE


@verb("unban", panel=ADDRESSES, examples=["iocpd unban 192.0.2.7", "iocpd unban k3f9qzw7hx"])
def unban(
    which: Annotated[list[str], typer.Argument(metavar="ADDRESS|CIDR|ID...", help="as in the ban, or the ban's id")],
    where: Where,
) -> int:
    """Lift bans."""
    statuses = []
    with connect(where) as client:
        for each in which:
            status = _lift(client, each)
            statuses.append(status)
    return statuses[0] if len(set(statuses)) == 1 else Status.PARTIAL


def _connections_from(client: Client, address: str) -> str:
    from iocpd.api.client import Forbidden

    try:
        page = client.list_connections(ip=address, limit=1, count="exact", fields=["id"])
    except Forbidden:  # a key may ban and not look
        return "it has connections that this key may not see"
    return f"it has {plural(page.total or 0, 'connection')}"


def _lift(client: Client, which: str) -> Status:
    from iocpd.api.client import NotFound

    id = which
    try:
        network = ipaddress.ip_network(which)
    except ValueError:
        pass
    else:
        # The list has larger blocks too; a ban of a block is not lifted by one of its addresses.
        found = [each for each in client.bans(address=which) if ipaddress.ip_network(each.address) == network]
        if not found:
            around = [each.address for each in client.bans(address=which)]
            hint = f"; it is within {', '.join(map(safe, around))}, which is" if around else ""
            complain(f"{which} itself is not banned{hint}")
            return Status.NOT_FOUND
        id = found[0].id
    try:
        client.unban(id)
    except NotFound as error:
        complain(str(error))
        return Status.NOT_FOUND
    print(f"{safe(which)} is not banned any more")
    return Status.DONE


@verb(
    "bans",
    panel=ADDRESSES,
    examples=["iocpd bans", "iocpd bans --address 192.0.2.7       which keep this one away", "iocpd bans --json"],
)
def bans(
    output: Listing,
    where: Where,
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDRESS|CIDR", help="only those that hold it")
    ] = None,
    limit: LimitOption = None,
) -> None:
    """List bans, newest first."""
    from iocpd.api.client import Ban

    with connect(where) as client:
        show(
            lambda: itertools.islice(client.bans(address=address, page_size=min(limit or 1000, 1000)), limit),
            _COLUMNS,
            model=Ban,
            machine=("id", "address", "expires_at", "created_by", "reason"),
            output=output,
            none="no bans",
            foot=lambda items: plural(len(items), "ban"),
        )
