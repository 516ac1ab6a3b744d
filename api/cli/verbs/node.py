"""The node: node, drain, shutdown, reload."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iocpd.api.cli.command import NODE, verb
from iocpd.api.cli.console import ask, console, for_people, plural
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.listing import as_json, endpoint, grid
from iocpd.api.cli.options import Caution, Output, Where, payload
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status, Stop, complain
from iocpd.api.cli.units import clock, count, size, span

if TYPE_CHECKING:
    from rich.table import Table

    from iocpd.api.client import Drain, Listener, Node

# What `iocpd node` shows of each worker.
_WORKER = ("connections", "adopted", "bytes_in", "bytes_out", "messages_in", "messages_out", "pending_bytes", "turns")
# And of each thread of a service in Python.
_SERVICE = ("connections", "messages_in", "messages_out", "batches", "waiting_bytes", "paused", "errors")


@verb("node", panel=NODE, examples=["iocpd node", "iocpd node --json | jq .limits"])
def node(output: Output, where: Where) -> None:
    """Show what runs there: version, backend and why, listeners, workers, limits."""
    with connect(where) as client:
        found = client.get_node()
        listeners = client.list_listeners().items
    if output.json or not for_people():
        # One document: what the API tells in two.
        listed = [each.model_dump(mode="json") for each in listeners]
        print(safe_json(found.model_dump(mode="json") | {"listeners": listed}))
        return
    screen = console(no_color=output.no_color)
    screen.print(_facts(found))
    screen.print()
    screen.print(_listeners(listeners))
    screen.print()
    if any(each.service_threads for each in listeners):
        screen.print(_services(listeners))
        screen.print()
    screen.print(_workers(found))
    screen.print()
    screen.print(_limits(found))


def _facts(node: Node) -> Table:
    from rich.text import Text

    serving = node.phase == "none" and node.accepting
    rows: list[tuple[str, str, str]] = [
        ("iocpd", f"{node.version}, instance {node.instance}, process {node.pid}", "bold"),
        ("state", "serving" if serving else f"draining: {node.phase}", "green" if serving else "yellow"),
        ("up", f"{span(float(node.uptime.removesuffix('s')))}, since {clock(node.started_at)}", ""),
        ("backend", f"{node.backend.name}: {node.backend.reason}", ""),
        ("busy polling", f"{node.busy_poll_us} us before a worker sleeps" if node.busy_poll_us else "off", ""),
        ("connections", f"{count(node.connections)} of at most {count(node.limits.max_connections)}", ""),
    ]
    if (dominant := node.dominant_address) is not None:
        held = f"{dominant.network} held {count(dominant.connections)} of them at {clock(dominant.at)}"
        rows.append(("warning", f"{held}: a balancer, or one client alone?", "yellow"))
    table = grid(["", ""], [False, False])
    table.show_header = False
    for name, text, style in rows:
        table.add_row(Text(name, style="dim"), Text(safe(text), style=style))
    return table


def _listeners(listeners: Iterable[Listener]) -> Table:
    table = grid(
        ["LISTENER", "ADDRESS", "SERVICE", "FRAMING", "UP TO", "NOW", "ACCEPTED", "REFUSED"],
        [False, False, False, False, True, True, True, True],
    )
    for each in listeners:
        refused = sum(getattr(each, name) for name in type(each).model_fields if name.startswith("refused_"))
        table.add_row(
            f"{each.id}{'' if each.open else ' (closed)'}",
            safe(endpoint(each.host, each.port)),
            safe(each.service),
            safe(each.framing.kind),
            "" if each.framing.max_bytes is None else size(each.framing.max_bytes),
            count(each.connections),
            count(each.accepted),
            count(refused),
            style="" if each.open else "yellow",
        )
    return table


def _services(listeners: Iterable[Listener]) -> Table:
    headers = ["LISTENER", "THREAD", "NOW", "MSG IN", "MSG OUT", "BATCHES", "INBOX", "PAUSED", "ERRORS"]
    table = grid(headers, [False] + [True] * (len(headers) - 1))
    for listener in listeners:
        for number, thread in enumerate(listener.service_threads):
            table.add_row(
                str(listener.id),
                str(number),
                *((size if "bytes" in member else count)(getattr(thread, member)) for member in _SERVICE),
                style="red" if thread.errors else "yellow" if thread.paused else "",
            )
    return table


def _workers(node: Node) -> Table:
    headers = ["WORKER", "NOW", "TAKEN", "IN", "OUT", "MSG IN", "MSG OUT", "QUEUED", "TURNS"]
    table = grid(headers, [False] + [True] * (len(headers) - 1))
    rows: list[tuple[str, Any]] = [(str(number), worker) for number, worker in enumerate(node.per_worker)]
    if len(rows) > 1:
        rows.append(("all", node.totals))
    for name, worker in rows:
        table.add_row(
            name,
            *((size if "bytes" in member else count)(getattr(worker, member)) for member in _WORKER),
            style="bold" if name == "all" else "",
        )
    return table


def _limits(node: Node) -> Table:
    from rich.text import Text

    table = grid(["LIMIT", ""], [False, True])
    for name, value in node.limits.model_dump().items():
        shown = size(value) if name.endswith("_bytes") else count(value) if isinstance(value, int) else str(value)
        unlimited = shown in ("0", "0s")
        table.add_row(
            name.replace("_", " "), Text("none" if unlimited else safe(shown), style="dim" if unlimited else "")
        )
    return table


LbDelayOption = Annotated[
    str | None, typer.Option("--lb-delay", metavar="TIME", help="first be not ready for so long and still accept")
]
GraceOption = Annotated[
    str | None, typer.Option("--grace", metavar="TIME", help="then accept nobody, and leave clients the time to go")
]
RateOption = Annotated[
    int | None, typer.Option("--rate", metavar="N", min=0, help="then end so many a second; 0: all at once")
]
DeadlineOption = Annotated[
    str | None, typer.Option("--deadline", metavar="TIME", help="so long after the request, cut off who is left")
]
FarewellOption = Annotated[str | None, typer.Option("--farewell", metavar="TEXT", help="sent to each before its end")]
FarewellFileOption = Annotated[
    Path | None, typer.Option("--farewell-file", metavar="FILE", help="the same from a file; - is stdin")
]
DetachOption = Annotated[bool, typer.Option("--detach", help="begin it, don't wait for its end")]


@verb(
    "drain",
    panel=NODE,
    examples=[
        "iocpd drain --grace 30s --rate 100 --deadline 5m --farewell 'back soon'",
        "iocpd drain --status",
        "iocpd drain --cancel                  listeners open again",
        "iocpd drain --dry-run",
    ],
    notes="Not ready, then listeners close, then connections are ended; the process goes on. It asks before.",
)
def drain(
    caution: Caution,
    output: Output,
    where: Where,
    lb_delay: LbDelayOption = None,
    grace: GraceOption = None,
    rate: RateOption = None,
    deadline: DeadlineOption = None,
    farewell: FarewellOption = None,
    farewell_file: FarewellFileOption = None,
    detach: DetachOption = False,
    status: Annotated[bool, typer.Option("--status", help="show the drain that is under way, begin none")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="open the listeners again")] = False,
) -> int:
    """Let connections go and accept no new ones, until it is cancelled."""
    goodbye = payload(farewell, farewell_file, "--farewell", "--farewell-file")
    options: dict[str, Any] = _given(lb_delay, grace, rate, deadline, goodbye)
    if (status or cancel) and (options or (status and cancel)):
        raise Stop("--status and --cancel go without other options of a drain", Status.USAGE)
    with connect(where) as client:
        if cancel:
            client.cancel_drain()
            console(stderr=True).print("the drain is cancelled, and the listeners are open")
            return Status.DONE
        if status:
            return _show(client.get_drain(), output)
        there = client.get_node().connections
        if caution.dry_run:
            print(f"would drain {plural(there, 'connection')}")
            return Status.DONE
        ask(f"Drain {plural(there, 'connection')} and accept no new ones?", yes=caution.yes)
        begun = client.begin_drain(**options)
        if detach:
            return _show(begun, output)
        return _show(_follow(client.watch_drain(begun=begun), begun), output)


@verb(
    "shutdown",
    panel=NODE,
    examples=["iocpd shutdown", "iocpd shutdown --grace 10s --deadline 1m --yes"],
    notes="A drain after which the process ends with status 0. It asks before.",
)
def shutdown(
    caution: Caution,
    output: Output,
    where: Where,
    lb_delay: LbDelayOption = None,
    grace: GraceOption = None,
    rate: RateOption = None,
    deadline: DeadlineOption = None,
    farewell: FarewellOption = None,
    farewell_file: FarewellFileOption = None,
    detach: DetachOption = False,
) -> int:
    """Let connections go, then end the process."""
    goodbye = payload(farewell, farewell_file, "--farewell", "--farewell-file")
    with connect(where) as client:
        found = client.get_node()
        what = f"iocpd {safe(found.version)}, process {found.pid}, with {plural(found.connections, 'connection')}"
        if caution.dry_run:
            print(f"would shut down {what}")
            return Status.DONE
        ask(f"Shut down {what}?", yes=caution.yes)
        begun = client.shutdown(**_given(lb_delay, grace, rate, deadline, goodbye))
        if detach:
            return _show(begun, output)
        last = _follow(client.watch_drain(begun=begun), begun)
    if output.json:
        print(as_json(last))
    console(stderr=True).print("the service has stopped")
    return Status.DONE


@verb("reload", panel=NODE, examples=["iocpd reload", "iocpd reload --json"])
def reload(output: Output, where: Where) -> int:
    """Have the service read its settings file again."""
    with connect(where) as client:
        done = client.reload()
    if output.json or not for_people():
        print(as_json(done))
        return Status.DONE
    screen = console(no_color=output.no_color)
    for change in done.changed:
        screen.print(f"{safe(change.name)}: {safe(change.before)} → {safe(change.after)}", style="green")
    for change in done.needs_restart:
        text = f"{safe(change.name)}: {safe(change.before)} → {safe(change.after)}, after a restart"
        screen.print(text, style="yellow")
    if not done.changed and not done.needs_restart:
        screen.print("nothing has changed", style="dim")
    return Status.DONE


def _given(
    lb_delay: str | None, grace: str | None, rate: int | None, deadline: str | None, farewell: bytes | str | None
) -> Any:
    options = {"lb_delay": lb_delay, "grace": grace, "rate_per_s": rate, "deadline": deadline, "farewell": farewell}
    return {name: value for name, value in options.items() if value is not None}


def _show(drain: Drain, output: Output) -> int:
    if output.json or not for_people():
        print(as_json(drain))
    else:
        console(no_color=output.no_color).print(_line(drain))
    return Status.PARTIAL if drain.phase in ("drained", "stopped") and drain.cancelled else Status.DONE


def _line(drain: Drain) -> str:
    if drain.phase == "none":
        return "no drain is under way"
    gone = drain.initial - drain.remaining
    line = f"{drain.phase}: {gone:,} of {plural(drain.initial, 'connection')} gone"
    if drain.cancelled:
        line += f", {drain.cancelled:,} cut off at the deadline"
    if drain.phase not in ("drained", "stopped"):
        line += f"{_until(', eta', drain.eta)}{_until(', deadline', drain.deadline)}"
    return line


def _until(name: str, moment: datetime | None) -> str:
    return "" if moment is None else f"{name} in {span((moment - datetime.now(UTC)).total_seconds())}"


def _follow(progress: Iterable[Drain], begun: Drain) -> Drain:
    """The last state of a drain; until then a bar shows how far it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[until]}"))
    last, screen = begun, console(stderr=True)
    try:
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
            task = bar.add_task(safe(begun.phase), total=max(begun.initial, 1), until="")
            for last in progress:
                bar.update(
                    task,
                    description=safe(last.phase),
                    completed=max(last.initial - last.remaining, 0),
                    until=_until("eta", last.eta) or _until("deadline", last.deadline),
                )
    except KeyboardInterrupt:
        complain("the drain goes on; `iocpd drain --status` shows how far it is, --cancel ends it")
        raise
    return last
