"""Kicks and broadcasts for many: the question before, the progress, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from iocpd.api.cli.console import console, for_people, plural
from iocpd.api.cli.listing import as_json, endpoint, grid
from iocpd.api.cli.options import Output
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status, complain
from iocpd.api.cli.units import span

if TYPE_CHECKING:
    from iocpd.api.client import BroadcastReport, Client, KickReport

R = TypeVar("R", "KickReport", "BroadcastReport")

_KICK_STYLES = {"kicked": "green", "would_kick": "yellow", "failed": "red"}


def follow_kicks(client: Client, begun: KickReport) -> KickReport:
    """The final report; until then a bar shows how far it is."""
    return _follow(
        client.watch_kicks(begun), "kicked", lambda report: report.kicked + report.already_gone + report.failed
    )


def follow_broadcast(client: Client, begun: BroadcastReport) -> BroadcastReport:
    """The final report; until then a bar shows how far it is."""
    return _follow(client.watch_broadcast(begun), "sent", _settled)


def _settled(report: BroadcastReport) -> int:
    """For how many connections it is known what became of it."""
    return report.written + report.skipped_slow + report.closed_before_write + report.expired + report.failed


def show_kicks(report: KickReport, *, output: Output) -> Status:
    """What came of a kick of many, on stdout; the exit status."""
    if output.json or not for_people():
        for each in report.outcomes:
            peer = endpoint(each.peer.ip, each.peer.port) if each.peer else ""
            print(as_json(each) if output.json else "\t".join(map(safe, (each.id, peer, each.outcome))))
    else:
        _kick_table(report, output)
    if report.dry_run:
        _tell(f"would kick {plural(report.matched, 'connection')}; nothing was done")
        return Status.DONE
    parts = [f"kicked {report.kicked:,} of {plural(report.matched, 'connection')}"]
    parts += [f"{report.already_gone:,} had gone already"] if report.already_gone else []
    parts += [f"{report.failed:,} failed"] if report.failed else []
    parts += [f"{report.waiting:,} left alone"] if report.waiting else []
    parts += [f"{plural(report.banned, 'address', 'addresses')} banned"] if report.banned else []
    _tell(", ".join(parts))
    return Status.PARTIAL if report.failed or report.waiting else Status.DONE


def show_broadcast(report: BroadcastReport, *, output: Output) -> Status:
    """What came of a broadcast, on stdout; the exit status."""
    if output.json or not for_people():
        print(as_json(report))
    else:
        table = grid(["", ""], [False, True])
        table.show_header = False
        names = ("matched", "written", "skipped_slow", "closed_before_write", "expired", "failed")
        for name in names:
            number: int = getattr(report, name)
            if number or name in ("matched", "written"):
                table.add_row(name.replace("_", " "), f"{number:,}", style="" if name in names[:2] else "yellow")
        console(no_color=output.no_color).print(table)
    if report.dry_run:
        _tell(f"would send to {plural(report.matched, 'connection')}; nothing was sent")
        return Status.DONE
    _tell(f"sent to {report.written:,} of {plural(report.matched, 'connection')}")
    if not report.done and report.state == "done":
        complain("the rest is queued and not written yet; more --timeout waits longer")
        return Status.TIMED_OUT
    return Status.DONE if report.written == report.matched else Status.PARTIAL


def tell_job(kind: str, job: str, *, output: Output) -> None:
    """A job that goes on by itself."""
    print(safe_json({"job": job}) if output.json else safe(job))
    _tell(f"the {kind} goes on; `iocpd job {safe(job)}` shows how far it is, --cancel stops it")


def _kick_table(report: KickReport, output: Output) -> None:
    from rich.text import Text

    if not report.outcomes:
        return
    table = grid(["ID", "PEER", "OUTCOME"], [False, False, False])
    for each in report.outcomes:
        peer = endpoint(each.peer.ip, each.peer.port) if each.peer else ""
        outcome = Text(safe(each.outcome).replace("_", " "), style=_KICK_STYLES.get(each.outcome, "dim"))
        table.add_row(Text(safe(each.id)), Text(safe(peer)), outcome)
    console(no_color=output.no_color).print(table)
    if report.outcomes_omitted:
        console(no_color=output.no_color).print(f"… and {report.outcomes_omitted:,} more", style="dim")


def _follow(reports: Iterator[R], what: str, count: Callable[[R], int]) -> R:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    report = next(reports)
    job = safe(report.job or "")
    if report.state != "running":
        return report
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[eta]}"))
    screen = console(stderr=True)
    try:
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
            task = progress.add_task(what, total=report.matched, completed=count(report), eta=_eta(report.eta))
            for later in reports:
                report = later
                progress.update(task, completed=count(report), total=report.matched, eta=_eta(report.eta))
    except KeyboardInterrupt:
        complain(f"the job goes on; `iocpd job {job} --cancel` stops it")
        raise
    return report


def _eta(eta: datetime | None) -> str:
    return "" if eta is None else f"{span((eta - datetime.now(UTC)).total_seconds())} left"


def _tell(line: str) -> None:
    """A summary for a person, where no program reads it."""
    console(stderr=True).print(line)
