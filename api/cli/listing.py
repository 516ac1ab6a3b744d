"""Lists: a table on a terminal, JSON Lines or columns with tabs between them for programs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from iocpd.api.cli.console import console, for_people
from iocpd.api.cli.options import Listing
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status, Stop

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.table import Table

T = TypeVar("T", bound="BaseModel")

_GAP = 2


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a table.

    Attributes:
        text: What it shows of an item; made safe for the terminal here.
        right: It has numbers.
        rank: Where there is not room for all columns, the one with the highest goes first; 0: it always stays.
        style: Of the text, by the item.
    """

    header: str
    text: Callable[[T], str]
    right: bool = False
    rank: int = 0
    style: Callable[[T], str] | None = None


def show(
    items: Callable[[], Iterable[T]],
    columns: Sequence[Column[T]],
    *,
    model: type[T],
    machine: Sequence[str],
    output: Listing,
    none: str,
    foot: Callable[[list[T]], str] | None = None,
) -> None:
    """Shows a list, again and again if that is asked for.

    Args:
        items: Asks for it.
        machine: The members that a program gets where no --fields are given, one after another with tabs between.
        none: What to tell a person if it is empty.
        foot: A line below the table.
    """
    names = fields_of(model, output.fields)
    if output.json:
        _again(lambda: _print_json(items(), names), output)
    elif not for_people():
        _again(lambda: _print_lines(items(), names or machine), output)
    elif output.watch:
        _watch(lambda: _table_of(list(items()), names, columns, none, foot, output), output)
    else:
        console(no_color=output.no_color).print(_table_of(list(items()), names, columns, none, foot, output))


def fields_of(model: type[BaseModel], text: str | None) -> list[str]:
    """The members that --fields names, each with dots between its parts; Stop for one that there is not."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        head, _, rest = name.partition(".")
        if head not in model.model_fields:
            known = ", ".join(model.model_fields)
            raise Stop(f"--fields: there is no {safe(head)!r} here; there are {known}", Status.USAGE)
        inner = model.model_fields[head].annotation
        below = next((each for each in (inner, *get_args(inner)) if hasattr(each, "model_fields")), None)
        if rest and below is not None and rest not in below.model_fields:
            known = ", ".join(f"{head}.{each}" for each in below.model_fields)
            raise Stop(f"--fields: there is no {safe(name)!r} here; there are {known}", Status.USAGE)
    return names


def heads(names: Iterable[str]) -> list[str]:
    """The members as the service knows them: `peer` for `peer.ip`."""
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def as_json(item: BaseModel, names: Sequence[str] = ()) -> str:
    """An item as one line of JSON; the members that were named, or all."""
    document = item.model_dump(mode="json")
    return safe_json({name: _value(document, name) for name in names} if names else document)


def fit(headers: Sequence[str], rows: Sequence[Sequence[str]], ranks: Sequence[int], width: int) -> list[int]:
    """Which columns there is room for, by their places."""
    from rich.cells import cell_len

    kept = list(range(len(headers)))
    widths = [max([cell_len(headers[at]), *(cell_len(row[at]) for row in rows)]) for at in kept]
    while sum(widths[at] for at in kept) + _GAP * (len(kept) - 1) > width:
        loose = [at for at in kept if ranks[at]]
        if not loose:
            break
        kept.remove(max(loose, key=lambda at: ranks[at]))
    return kept


def grid(headers: Sequence[str], right: Sequence[bool]) -> Table:
    """An empty table in the style of this command: no frames, a line of headers, two blanks between columns."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for header, numbers in zip(headers, right, strict=True):
        table.add_column(header, justify="right" if numbers else "left", overflow="fold")
    return table


def _table_of(
    items: list[T],
    names: Sequence[str],
    columns: Sequence[Column[T]],
    none: str,
    foot: Callable[[list[T]], str] | None,
    output: Listing,
) -> Any:
    from rich.console import Group
    from rich.text import Text

    if not items:
        return Text(none, style="dim")
    if names:
        table = grid(names, [False] * len(names))
        for item in items:
            document = item.model_dump(mode="json")
            table.add_row(*(Text(safe(_plain(_value(document, name)))) for name in names))
        return table
    rows = [[safe(column.text(item)) for column in columns] for item in items]
    # A column that may be left out has to have something in it.
    full = [at for at, column in enumerate(columns) if not column.rank or any(row[at] for row in rows)]
    fitting = fit(
        [columns[at].header for at in full],
        [[row[at] for at in full] for row in rows],
        [columns[at].rank for at in full],
        console().width,
    )
    kept = [full[place] for place in fitting]
    left_out = [columns[at].header for at in full if at not in kept]
    table = grid([columns[at].header for at in kept], [columns[at].right for at in kept])
    for item, row in zip(items, rows, strict=True):
        table.add_row(*(Text(row[at], style=_style(columns[at], item)) for at in kept))
    below = [foot(items)] if foot else []
    below += [f"no room for {', '.join(left_out)}: --fields or --json shows them"] if left_out else []
    return Group(table, *(Text(line, style="dim") for line in below))


def _style(column: Column[T], item: T) -> str:
    return column.style(item) if column.style else ""


def _print_json(items: Iterable[T], names: Sequence[str]) -> None:
    for item in items:
        print(as_json(item, names))


def _print_lines(items: Iterable[T], names: Sequence[str]) -> None:
    for item in items:
        document = item.model_dump(mode="json")
        print("\t".join(safe(_plain(_value(document, name))) for name in names))


def _value(document: Mapping[str, Any], name: str) -> Any:
    """What is at `peer.ip`; None where there is nothing."""
    value: Any = document
    while name:
        if not isinstance(value, Mapping):
            return None
        if name in value:  # a tag's key may have dots itself
            return value[name]
        head, _, name = name.partition(".")
        value = value.get(head)
    return value


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping) and value.keys() == {"ip", "port"}:
        return endpoint(value["ip"], value["port"])
    return safe_json(value) if isinstance(value, (dict, list)) else str(value)


def endpoint(ip: str, port: int) -> str:
    """`192.0.2.1:80`, `[2001:db8::1]:80`."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _again(once: Callable[[], None], output: Listing) -> None:
    once()
    with _until_interrupted():
        while output.watch:
            time.sleep(output.interval)
            once()


def _watch(make: Callable[[], Any], output: Listing) -> None:
    from rich.live import Live

    first = make()  # what is wrong shall be said where it stays to be read
    with (
        _until_interrupted(),
        Live(first, console=console(no_color=output.no_color), screen=True, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(output.interval)
            live.update(make(), refresh=True)


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is how watching ends, not a failure."""
    try:
        yield
    except KeyboardInterrupt:
        return
