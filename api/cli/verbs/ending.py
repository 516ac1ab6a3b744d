"""Ending connections: kick, and job for those that take their time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iocpd.api.cli.command import CONNECTIONS, verb
from iocpd.api.cli.console import ask, plural
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.jobs import follow_broadcast, follow_kicks, show_broadcast, show_kicks, tell_job
from iocpd.api.cli.options import Caution, Many, Output, Where, Which, payload, time_option
from iocpd.api.cli.safe import safe
from iocpd.api.cli.statuses import Status, Stop, complain, explain, status_of

if TYPE_CHECKING:
    from iocpd.api.client import Client


@verb(
    "kick",
    panel=CONNECTIONS,
    examples=[
        "iocpd kick wph3r6-4000000 --reason maintenance --farewell 'back soon'",
        "iocpd kick --idle-for 10m --dry-run               look first",
        "iocpd kick --ip 192.0.2.0/24 --ban-ttl 1h --yes   and keep them away",
        "iocpd kick --all --rate 100 --exclude ID          100 a second, but not this one",
        "iocpd kick --tag tier:free --limit 50 --detach    as a job that goes on by itself",
    ],
    notes="With IDs it ends these, without a question. With a filter or --all it tells how many match, and asks.",
)
def kick(
    which: Which,
    many: Many,
    caution: Caution,
    output: Output,
    where: Where,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="of connections, not with a filter")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="kept with each that ends")] = "",
    farewell: Annotated[str | None, typer.Option("--farewell", metavar="TEXT", help="sent before the end")] = None,
    farewell_file: Annotated[
        Path | None, typer.Option("--farewell-file", metavar="FILE", help="the same from a file; - is stdin")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="reset at once; nothing more is sent")] = False,
    timeout: Annotated[float, time_option("--timeout", least=0, most=300, help="then reset who has not left")] = 5.0,
    ban_ttl: Annotated[
        str | None, typer.Option("--ban-ttl", metavar="TIME", help="also ban each one's address for so long")
    ] = None,
) -> int:
    """End connections: one by one, or all that match a filter."""
    bytes_to_say = payload(farewell, farewell_file, "--farewell", "--farewell-file")
    how: dict[str, Any] = {"reason": reason, "farewell": bytes_to_say, "force": force, "timeout": timeout}
    if ids:
        if which.given() or many.given():
            raise Stop("give IDs or a filter, not both", Status.USAGE)
        if ban_ttl is not None:
            raise Stop("--ban-ttl goes with a filter: with IDs use `iocpd ban ADDRESS`", Status.USAGE)
        with connect(where) as client:
            return _kick_each(client, list(dict.fromkeys(ids)), how, dry_run=caution.dry_run)
    target: dict[str, Any] = {**which.given(), **many.given()}
    if not which.given() and not many.all:
        raise Stop("whom? give IDs, a filter such as --idle-for 10m, or --all", Status.USAGE)
    with connect(where) as client:
        look = client.kick_many(dry_run=True, **(target | {"rate_per_s": None}))
        if caution.dry_run:
            return show_kicks(look, output=output)
        if not look.matched:
            complain("no connections match")
            return Status.NOT_FOUND
        ban = f" and ban their addresses for {ban_ttl}" if ban_ttl else ""
        ask(f"Kick {plural(look.matched, 'connection')}{ban}?", yes=caution.yes)
        report = client.kick_many(ban_ttl=ban_ttl, prefer="respond-async" if many.detach else None, **how, **target)
        if many.detach and report.job:
            tell_job("kick", report.job, output=output)
            return Status.DONE
        return show_kicks(follow_kicks(client, report), output=output)


def _kick_each(client: Client, ids: list[str], how: dict[str, Any], *, dry_run: bool) -> int:
    from iocpd.api.client import ProblemError

    statuses = []
    for id in ids:
        try:
            if dry_run:
                client.get_connection(id)
            else:
                client.kick(id, **how)
        except ProblemError as error:
            if error.status in (401, 403, 422):  # it would be the same for all of them
                raise
            for line in explain(error):
                complain(line)
            statuses.append(status_of(error))
        else:
            print(f"{safe(id)} {'would be kicked' if dry_run else 'kicked'}")
            statuses.append(Status.DONE)
    return statuses[0] if len(set(statuses)) == 1 else Status.PARTIAL


@verb(
    "job",
    panel=CONNECTIONS,
    examples=["iocpd job Pm3n0v_xkQ2d", "iocpd job Pm3n0v_xkQ2d --cancel"],
)
def job(
    id: Annotated[str, typer.Argument(metavar="JOB", help="as --detach has printed it")],
    output: Output,
    where: Where,
    cancel: Annotated[bool, typer.Option("--cancel", help="stop it where it is")] = False,
) -> int:
    """Follow a kick or a broadcast that is a job, or stop it."""
    from iocpd.api.client import Forbidden, NotFound

    with connect(where) as client:
        try:
            kicks = client.get_kicks(id)
        except (NotFound, Forbidden):  # who may broadcast need not be allowed to kick
            broadcast = client.get_broadcast(id)
            if cancel:
                client.cancel_broadcast(id)
                broadcast = client.get_broadcast(id)
            return show_broadcast(follow_broadcast(client, broadcast), output=output)
        if cancel:
            client.cancel_kicks(id)
            kicks = client.get_kicks(id)
        return show_kicks(follow_kicks(client, kicks), output=output)
