"""`--help`: usage, what it is, options in groups, examples. Aligned, as wide as the terminal, at most 120 columns."""

from __future__ import annotations

import shutil
from typing import Any

from typer.core import TyperCommand, TyperGroup

_WIDEST = 120
_OPTIONS = "Options"
# In which verbs are shown; those that are not here come behind, as they were added.
_ORDER = (
    *("serve", "service", "doctor", "context", "completion"),
    *("ls", "show", "top", "events", "closed", "kick", "tag", "job"),
    *("send", "broadcast", "ban", "unban", "bans"),
    *("node", "drain", "shutdown", "reload", "keys", "audit"),
)


class _Help:
    """How a verb shows its help. Typer's own frames leave too little room for texts at 80 columns."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.console import Console
        from rich.text import Text

        command: Any = self
        console = Console(width=min(shutil.get_terminal_size().columns, _WIDEST), highlight=False, markup=False)
        console.print(Text.assemble(("Usage: ", "bold"), _usage(command, ctx)))
        console.print()
        console.print(command.help or "")
        for title, rows in _panels(command, ctx).items():
            console.print(f"\n[bold]{title}[/bold]", markup=True)
            console.print(_columns(rows))
        if command.epilog:
            console.print()
            for line in command.epilog.splitlines():
                console.print(Text(line, style="bold" if line.endswith(":") and line[0] != " " else ""), soft_wrap=True)


class Command(_Help, TyperCommand):
    """A verb."""


class Group(_Help, TyperGroup):
    """A verb that has verbs of its own."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


def _usage(command: Any, ctx: Any) -> str:
    if isinstance(command, TyperGroup):
        return f"{ctx.command_path} [OPTIONS] VERB ..."
    arguments = [_metavar(each) for each in command.get_params(ctx) if each.param_type_name == "argument"]
    return " ".join([ctx.command_path, "[OPTIONS]", *arguments])


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _panels(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    panels: dict[str, list[tuple[str, str]]] = {}
    if isinstance(command, TyperGroup):
        for name in command.list_commands(ctx):
            each: Any = command.get_command(ctx, name)
            first = (each.help or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")
            panels.setdefault(each.rich_help_panel or "Commands", []).append((name, first))
    options: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            if parameter.help:
                panels.setdefault("Arguments", []).append((_metavar(parameter), parameter.help))
            continue
        title = getattr(parameter, "rich_help_panel", None) or _OPTIONS
        options.setdefault(title, []).append((_flags(parameter), _about(parameter)))
    # What is the verb's own comes first.
    own = options.pop(_OPTIONS, None)
    return panels | ({_OPTIONS: own} if own else {}) | options


def _flags(parameter: Any) -> str:
    short = [name for name in parameter.opts if not name.startswith("--")]
    long = [name for name in parameter.opts if name.startswith("--")]
    names = ", ".join(short + long)
    return names if parameter.is_flag or parameter.count else f"{names} {parameter.metavar or 'VALUE'}"


def _about(parameter: Any) -> str:
    text = str(parameter.help or "").rstrip(".")
    return text[:1].lower() + text[1:] if text.startswith("Show this") else text


def _columns(rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0), expand=False)
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(ratio=1, overflow="fold")
    for name, text in rows:
        grid.add_row(Text("  " + name), Text(text))
    return grid
