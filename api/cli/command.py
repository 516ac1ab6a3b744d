"""The Typer application, and how a verb is added to it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from iocpd.api.cli.help import Command, Group
from iocpd.api.cli.statuses import MEANINGS, Status, Stop

Verb = TypeVar("Verb", bound=Callable[..., Any])

CONNECTIONS = "Connections"
MESSAGES = "Messages"
ADDRESSES = "Addresses"
NODE = "The node"
ACCESS = "Access"
HERE = "This machine"

_NOTES_COLUMNS = 80
_STATUSES = "\n".join(f"  {status:>3}  {meaning}" for status, meaning in MEANINGS.items())

_EPILOG = f"""exit statuses:
{_STATUSES}

examples:
  iocpd serve                                 an echo service on 127.0.0.1:12345, the API on 127.0.0.1:8080
  iocpd ls --sort -bytes_in --limit 20
  iocpd kick --idle-for 10m --dry-run         look first
  iocpd kick --idle-for 10m --farewell bye
  iocpd top
  iocpd context add prod --url https://10.0.0.5:8443 --key-file ~/prod.key

`iocpd VERB --help` has examples for each verb."""

app = typer.Typer(
    name="iocpd",
    cls=Group,
    help="A TCP service on a completion port, and an HTTP API to steer it while it runs.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ReaderGone(Exception):
    """Whoever read the output has enough, as `head` has. (Typer makes an end of its own of a BrokenPipeError.)"""


def verb(
    name: str,
    *,
    panel: str,
    examples: Sequence[str],
    of: typer.Typer = app,
    notes: str = "",
    cls: type[TyperCommand] = Command,
) -> Callable[[Verb], Verb]:
    """Adds a function as a verb.

    A parameter whose type is a dataclass stands for one option for each of its fields, so that verbs share options. The
    function's docstring is the help text; what it returns is the exit status (None: 0).
    """
    epilog = "\n".join(("examples:", *(f"  {each}" for each in examples)))
    if notes:
        epilog = f"{textwrap.fill(notes, _NOTES_COLUMNS)}\n\n{epilog}"

    def add(function: Verb) -> Verb:
        of.command(name, epilog=epilog, rich_help_panel=panel, cls=cls)(_flat(function))
        return function

    return add


def group(name: str, *, panel: str, help: str) -> typer.Typer:
    """Adds a verb that has verbs of its own."""
    added = typer.Typer(name=name, help=help, cls=Group, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(added, rich_help_panel=panel)
    return added


def _flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the fields of dataclasses as parameters of their own."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[name] = kind
            own = get_type_hints(kind, include_extras=True)
            parameters += [
                inspect.Parameter(
                    each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=own[each.name]
                )
                for each in fields(kind)
            ]
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**values: Any) -> Any:
        _check_texts(values)
        for name, kind in groups.items():
            values[name] = kind(**{each.name: values.pop(each.name) for each in fields(kind)})
        try:
            return function(**values)
        except BrokenPipeError:
            raise ReaderGone from None

    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _check_texts(values: Mapping[str, Any]) -> None:
    """Bytes that are not UTF-8 come as lone surrogates, which nothing can send; a path may have them."""
    for value in values.values():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, str) and any("\ud800" <= character <= "\udfff" for character in each):
                raise Stop(
                    f"{each!r:.200} is not UTF-8, as a text must be; only a file may hold other bytes", Status.USAGE
                )
