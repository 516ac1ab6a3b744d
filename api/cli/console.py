"""The terminal: what is on one and what is not, questions, progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from iocpd.api.cli.statuses import Status, Stop

if TYPE_CHECKING:
    from rich.console import Console


def for_people() -> bool:
    """Whether somebody reads stdout, and not a program."""
    return sys.stdout.isatty()


def console(*, no_color: bool = False, stderr: bool = False) -> Console:
    """Where tables go. Nothing of what it prints is taken for markup or coloured by guesses."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, no_color=no_color or None)


def ask(question: str, *, yes: bool) -> None:
    """Ends the command unless the answer is yes. Without a terminal nobody can answer, so then --yes is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Stop(f"{question} There is no terminal to ask on: add --yes to do it, or --dry-run to look", Status.USAGE)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
    if answer.strip().lower() not in ("y", "yes"):
        raise Stop("nothing was done")


def plural(number: int, one: str, many: str = "") -> str:
    """`1 connection`, `1,234 connections`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
