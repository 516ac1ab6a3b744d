"""How it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from iocpd.api.cli.listing import endpoint, fit, grid
from iocpd.api.cli.safe import safe
from iocpd.api.cli.top.columns import COLUMNS
from iocpd.api.cli.top.sample import MOST_ROWS
from iocpd.api.cli.top.state import Mode, State
from iocpd.api.cli.units import count, size, span
from iocpd.api.cli.verbs.connections import state_style

if TYPE_CHECKING:
    from rich.table import Table

# Lines above the rows, with the headers, and below them.
_ABOVE, _BELOW = 4, 1

_HELP = """
  up, down, page up, page down    select a row; home and end too
  left, right                     sort by the column beside
  r                               the other way round
  /                               filter by id, peer, state, labels:
                                  Enter keeps it, Esc clears it
  x, Delete                       kick the selected one, after a question
  Space                           pause
  + -                             look less, or more often
  q                               quit

  Columns that end in /s are rates between two looks. K is 1,024 bytes.
  Numbers are sorted from the largest. --limit says how many connections
  are looked at: those that count most for the column.

  Any key goes back."""

_HINTS = "↑↓ ←→ sort  r reverse  / filter  x kick  space pause  ? help  q quit"


def draw(state: State, url: str, width: int, height: int) -> Group:
    """The whole screen; also tells the state how many rows there is room for."""
    state.resize(max(height - _ABOVE - _BELOW, 1))
    if state.mode is Mode.HELP:
        return Group(_title(state, url), Text(_HELP))
    table = rows_of(state, width, state.first, state.height, cursor=True)
    shown = min(len(state.rows) - state.first, state.height)
    filler = [Text("")] * (state.height - max(shown, 0))
    return Group(_title(state, url), _totals(state), Text(""), table, *filler, _bottom(state, width))


def snapshot(state: State, url: str, width: int) -> Group:
    """The same for a file: every row, no keys."""
    return Group(_title(state, url), _totals(state), Text(""), rows_of(state, width, 0, len(state.rows), cursor=False))


def rows_of(state: State, width: int, first: int, number: int, *, cursor: bool) -> Table:
    """The table, with as many columns as there is room for."""
    visible = state.rows[first : first + number]
    texts = [[safe(column.text(row)) for column in COLUMNS] for row in visible]
    headers = [_header(column.header, column.name == state.sort, state.reverse) for column in COLUMNS]
    ranks = [0 if column.name == state.sort else column.rank for column in COLUMNS]
    kept = fit(headers, texts, ranks, width)
    if not any(state.sample and (each.tags or each.groups) for each, _ in visible):
        kept = [at for at in kept if COLUMNS[at].name != "labels" or state.sort == "labels"]
    table = grid([headers[at] for at in kept], [COLUMNS[at].right for at in kept])
    for column, at in zip(table.columns, kept, strict=True):
        column.no_wrap, column.overflow = True, "ellipsis"
        if COLUMNS[at].name == state.sort:
            column.header_style = "bold cyan"
    for place, (row, line) in enumerate(zip(visible, texts, strict=True), first):
        style = "reverse" if cursor and place == state.selected else state_style(row[0].state).replace("green", "")
        table.add_row(*(Text(line[at]) for at in kept), style=style)
    return table


def _header(text: str, sorted_by: bool, reverse: bool) -> str:
    return f"{text}{'▲' if reverse else '▼'}" if sorted_by else text


def _title(state: State, url: str) -> Text:
    if state.sample is None:
        return Text(safe(url), style="bold")
    node = state.sample.node
    serving = node.phase == "none" and node.accepting
    line = Text.assemble(("iocpd ", "bold"), safe(node.version), "  ", (safe(url), "cyan"))
    line.append(
        f"  up {span(float(node.uptime.removesuffix('s')))}  {safe(node.backend.name)}, {node.workers} workers  "
    )
    line.append("serving" if serving else f"draining: {safe(node.phase)}", "green" if serving else "yellow")
    return line


def _totals(state: State) -> Text:
    if state.sample is None:
        return Text("")
    node, total = state.sample.node, state.sample.total
    line = Text.assemble((count(node.connections), "bold"), f" of {count(node.limits.max_connections)} connections")
    line.append(f"   in {size(total.bytes_in)}/s, {count(total.messages_in)} msg/s")
    line.append(f"   out {size(total.bytes_out)}/s, {count(total.messages_out)} msg/s")
    line.append(f"   queued {size(node.totals.pending_bytes)}")
    return line


def _bottom(state: State, width: int) -> Text:
    if state.mode is Mode.QUESTION:
        assert state.asked is not None
        connection = state.asked[0]
        peer = endpoint(connection.peer.ip, connection.peer.port)
        line = Text(f"Kick {safe(connection.id)}, {safe(peer)}? [y/N]", style="bold red")
    elif state.mode is Mode.FILTER:
        line = Text(f"/{safe(state.filter)}▏", style="bold")
    elif state.message:
        line = Text(safe(state.message), style="yellow")
    else:
        parts = []
        if state.filter:
            parts.append(f"/{safe(state.filter)}  {count(len(state.rows))} match")
        if state.sample is not None and len(state.sample.connections) < min(
            state.sample.node.connections, MOST_ROWS + 1
        ):
            parts.append(f"{count(len(state.sample.connections))} looked at")
        parts.append("paused" if state.paused else f"each {state.interval:g}s")
        line = Text("   ".join((*parts, _HINTS)), style="dim")
    line.truncate(width, overflow="ellipsis")
    return line
