"""Options that several verbs share. A verb takes them by a parameter of one of these types; see command.verb."""

from __future__ import annotations

import re
import sys
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iocpd.api.cli.statuses import Status, Stop

if TYPE_CHECKING:
    from iocpd.api.client import Filter, Payload, Target

_SERVICE = "Which service"
_OUTPUT = "Output"
_FILTER = "Which connections"
_CAUTION = "Before anything is done"

UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="where the API is", rich_help_panel=_SERVICE)
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="NAME", help="a server by its name, see `iocpd context`", rich_help_panel=_SERVICE
    ),
]


def time_option(*names: str, least: float, most: float, help: str, panel: str | None = None) -> Any:
    """An option for a time, in seconds here, and written as everywhere: `250ms`, `90s`, `5m`, plain seconds."""

    def parse(text: Any) -> float:
        if isinstance(text, float):  # the default
            return text
        from iocpd.api.durations import parse_duration

        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r}: {error}") from None
        if not least <= seconds <= most:
            raise typer.BadParameter(f"{text!r}: it must be from {least:g}s to {most:g}s")
        return seconds

    return typer.Option(*names, metavar="TIME", parser=parse, help=help, rich_help_panel=panel)


@dataclass(frozen=True)
class Where:
    """Which service to ask, and with which key."""

    url: UrlOption = None
    context: ContextOption = None
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="its first line is the key", rich_help_panel=_SERVICE),
    ] = None
    ask_key: Annotated[
        bool, typer.Option("--ask-key", help="ask for the key on the terminal", rich_help_panel=_SERVICE)
    ] = False
    patience: Annotated[
        float, time_option("--patience", least=0.1, most=3600, help="for each answer", panel=_SERVICE)
    ] = 10.0


@dataclass(frozen=True)
class Output:
    """How to show what was asked for."""

    json: Annotated[bool, typer.Option("--json", help="JSON, each item on one line", rich_help_panel=_OUTPUT)] = False
    no_color: Annotated[
        bool, typer.Option("--no-color", help="no colours; NO_COLOR does the same", rich_help_panel=_OUTPUT)
    ] = False


@dataclass(frozen=True)
class Listing(Output):
    """How to show a list."""

    fields: Annotated[
        str | None,
        typer.Option("--fields", metavar="A,B.C", help="these members alone, in this order", rich_help_panel=_OUTPUT),
    ] = None
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="show it again and again, until Ctrl-C", rich_help_panel=_OUTPUT)
    ] = False
    interval: Annotated[float, time_option("--interval", least=0.1, most=3600, help="of --watch", panel=_OUTPUT)] = 2.0


@dataclass(frozen=True)
class Which:
    """A filter of connections: all that is given must match."""

    ip: Annotated[
        str | None, typer.Option("--ip", metavar="ADDRESS|CIDR", help="of the peer", rich_help_panel=_FILTER)
    ] = None
    listener: Annotated[
        int | None, typer.Option("--listener", metavar="N", help="the listener's id", rich_help_panel=_FILTER)
    ] = None
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="arriving, open, draining, closing", rich_help_panel=_FILTER),
    ] = None
    group: Annotated[
        str | None, typer.Option("--group", metavar="NAME", help="is in this group", rich_help_panel=_FILTER)
    ] = None
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            metavar="KEY:VALUE",
            help="has this tag; KEY=VALUE does it too; repeatable",
            rich_help_panel=_FILTER,
        ),
    ] = None
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="connected for longer", rich_help_panel=_FILTER)
    ] = None
    idle_for: Annotated[
        str | None, typer.Option("--idle-for", metavar="TIME", help="silent for longer", rich_help_panel=_FILTER)
    ] = None
    min_pending_bytes: Annotated[
        int | None, typer.Option("--min-pending-bytes", metavar="N", help="queued to send", rich_help_panel=_FILTER)
    ] = None
    min_bytes_in: Annotated[
        int | None, typer.Option("--min-bytes-in", metavar="N", help="received", rich_help_panel=_FILTER)
    ] = None
    min_bytes_out: Annotated[
        int | None, typer.Option("--min-bytes-out", metavar="N", help="sent", rich_help_panel=_FILTER)
    ] = None

    def given(self) -> Filter:
        """As the client takes it."""
        values: dict[str, Any] = {
            name: value for name, value in vars(self).items() if value is not None and value != []
        }
        if self.tag:
            values["tag"] = [":".join(split_tag(text) or (text,)) for text in self.tag]
        return values  # type: ignore[return-value]


@dataclass(frozen=True)
class Many:
    """How many of those that match, and how fast."""

    all: Annotated[bool, typer.Option("--all", help="every connection, without a filter", rich_help_panel=_FILTER)] = (
        False
    )
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="ID", help="but not this one; repeatable", rich_help_panel=_FILTER),
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="no more than so many", rich_help_panel=_FILTER)
    ] = None
    rate: Annotated[
        int | None, typer.Option("--rate", metavar="N", min=1, help="so many a second", rich_help_panel=_FILTER)
    ] = None
    detach: Annotated[
        bool, typer.Option("--detach", help="as a job: print its id, don't wait", rich_help_panel=_OUTPUT)
    ] = False

    def given(self) -> Target:
        """As the client takes it."""
        values = {"all": self.all, "exclude": self.exclude, "limit": self.limit, "rate_per_s": self.rate}
        return {name: value for name, value in values.items() if value}  # type: ignore[return-value]


YesOption = Annotated[bool, typer.Option("--yes", "-y", help="don't ask", rich_help_panel=_CAUTION)]


@dataclass(frozen=True)
class Caution:
    """What stands between a slip and many connections."""

    yes: YesOption = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="show what would be hit, do nothing", rich_help_panel=_CAUTION)
    ] = False


def split_tag(text: str) -> tuple[str, str] | None:
    """A tag's key and value from KEY:VALUE or KEY=VALUE; None if it is neither. No key has one of the two in it."""
    match = re.search("[:=]", text)
    return (text[: match.start()], text[match.end() :]) if match else None


_before: ContextVar[Where] = ContextVar("before", default=Where())  # noqa: B039  (it is frozen)


def remember(where: Where) -> None:
    """Which service was named before the verb."""
    _before.set(where)


def chosen(where: Where) -> Where:
    """Which service was named after the verb, or else before it."""
    if where.url is None and where.context is None:
        return replace(where, url=_before.get().url, context=_before.get().context)
    return where


def payload(text: str | None, file: Path | None, text_name: str, file_name: str) -> Payload | None:
    """What a text or a file says, whose options have these names; a file "-" is stdin."""
    if text is not None and file is not None:
        raise Stop(f"give {text_name} or {file_name}, not both", Status.USAGE)
    if file is None:
        return text
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise Stop(f"cannot read {file}: {error.strerror}", Status.USAGE) from None
