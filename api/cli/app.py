"""Runs the command: what a verb returns or raises becomes an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from iocpd.api.cli.command import ReaderGone, app
from iocpd.api.cli.options import ContextOption, UrlOption, Where, remember
from iocpd.api.cli.safe import safe
from iocpd.api.cli.statuses import Status, Stop, complain, explain, status_of
from iocpd.api.cli.verbs import (
    access,
    bans,
    connections,
    context,
    doctor,
    ending,
    events,
    messages,
    node,
    serve,
    service,
    top,
)
from iocpd.api.version import version

_VERBS = (serve, connections, top, ending, bans, messages, events, node, access, context, doctor, service)
"""Importing them has added them."""

# What Typer raises for wrong usage. Typer carries its own copy of Click since 0.2x and used the real one before, so the
# class is found by its descendant that Typer exports.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


# By which a shell's script asks what could come next; Typer derives it from the command's name.
_COMPLETE = "_IOCPD_COMPLETE"


def _show_version(value: bool) -> None:
    if value:
        print(f"iocpd {version()}")
        raise typer.Exit


@app.callback()
def _root(
    url: UrlOption = None,
    server: ContextOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    remember(Where(url=url, context=server))


def run(argv: Sequence[str] | None = None) -> int:
    """Runs the command to its end; the exit status, and what went wrong on stderr."""
    _prepare_streams()
    if _COMPLETE in os.environ:
        from typer.completion import get_completion_inspect_parameters

        get_completion_inspect_parameters()  # makes Typer's shells known, and nothing else that is wanted here
    try:
        status = app(args=None if argv is None else list(argv), prog_name="iocpd", standalone_mode=False)
        sys.stdout.flush()
        return int(status or Status.DONE)
    except Stop as stop:
        complain(str(stop))
        return stop.status
    except _UsageError as error:
        return _say_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return Status.INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.DONE
    except Exception as error:
        # The client is known only once a verb has imported it, and raises nothing before.
        if "iocpd.api.client" in sys.modules:
            from iocpd.api.client import ClientError

            if isinstance(error, ClientError):
                for line in explain(error):
                    complain(line)
                return status_of(error)
        raise


def _prepare_streams() -> None:
    """What is written can always be written, and is the same for a program on every system."""
    for each in (sys.stdout, sys.stderr):
        if isinstance(each, io.TextIOWrapper):
            if each.isatty():
                each.reconfigure(errors="backslashreplace")
            else:
                each.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def _say_usage(error: Exception) -> Status:
    """One line, without the usage in front of it."""
    context = getattr(error, "ctx", None)
    prog = context.command_path if context else "iocpd"
    message = error.format_message()  # type: ignore[attr-defined]
    if not message:  # a group without a verb has shown its help
        return Status.USAGE
    print(f"{prog}: {safe(message.rstrip('.'))} (see {prog} --help)", file=sys.stderr)
    return Status.USAGE
