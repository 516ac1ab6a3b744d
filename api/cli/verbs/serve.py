"""`iocpd serve`. Its flags are made from the settings, which need the engine, so only once somebody asks for them."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iocpd.api.cli.command import HERE, verb
from iocpd.api.cli.help import Command
from iocpd.api.cli.statuses import Status, complain

if TYPE_CHECKING:
    from iocpd.api.settings import Settings, SettingsError

_CAPACITY = "Capacities"
_LIMITS = "Limits on clients"
_DRAIN = "The drain that a signal starts"
_API = "The API"
_FILES = "Files and log"

_SERVICES = "echo, discard, relay, relay_group or python:MODULE:CLASS"

# The panel, the metavar and the text of each setting's flag.
_FLAGS = {
    "tcp": (
        None,
        "HOST:PORT[/SERVICE]",
        "listen here; echo, discard, relay, relay_group, python:MODULE:CLASS; repeatable",
    ),
    "http": (None, "HOST:PORT", "where the API listens"),
    "backend": (None, "NAME", "auto, iocp, io_uring or epoll"),
    "workers": (None, "N", "threads with a completion port each; 0: one for each processor"),
    "busy_poll_us": (None, "US", "workers ask for so many microseconds before they sleep; at most 1000"),
    "max_connections": (_LIMITS, "N", "TCP connections in all"),
    "max_connections_per_address": (_LIMITS, "N", "TCP connections of one address; 0: no limit"),
    "accepts_per_s": (_LIMITS, "N", "new connections a second in all; 0: no limit"),
    "accepts_per_s_per_address": (_LIMITS, "N", "new connections a second of one address; 0: no limit"),
    "messages_per_s_per_connection": (_LIMITS, "N", "messages a second that the API sends to one; 0: no limit"),
    "first_byte_timeout": (_LIMITS, "TIME", "end who has not sent anything by then; 0: never"),
    "idle_timeout": (_LIMITS, "TIME", "end who is silent for so long; 0: never"),
    "send_soft_bytes": (_LIMITS, "BYTES", "a send queue above it for too long is a slow consumer"),
    "send_soft_seconds": (_LIMITS, "TIME", "how long is too long"),
    "send_hard_bytes": (_LIMITS, "BYTES", "never more is queued for one connection"),
    "receive_buffer_bytes": (_CAPACITY, "BYTES", "of each receive buffer"),
    "receive_buffers": (_CAPACITY, "N", "of each worker"),
    "closed_capacity": (_CAPACITY, "N", "ended connections that each worker remembers"),
    "event_capacity": (_CAPACITY, "N", "events that each worker keeps for readers that come back"),
    "inbox_capacity": (_CAPACITY, "N", "commands that wait for one worker"),
    "relay_capacity": (_CAPACITY, "N", "relayed messages that wait for one worker"),
    "max_bans": (_CAPACITY, "N", "bans at the same time"),
    "drain_lb_delay": (_DRAIN, "TIME", "first be not ready for so long and still accept"),
    "drain_grace": (_DRAIN, "TIME", "then accept nobody, and leave clients the time to go"),
    "drain_rate_per_s": (_DRAIN, "N", "then end so many a second; 0: all at once"),
    "drain_deadline": (_DRAIN, "TIME", "after the signal, cut off who is left by then"),
    "http_connections": (_API, "N", "HTTP connections at the same time"),
    "http_keep_alive": (_API, "TIME", "close those that are silent for so long"),
    "max_message_bytes": (_API, "BYTES", "the largest message that can be sent"),
    "state_dir": (_FILES, "FOLDER", "where keys, bans and the audit are kept"),
    "keys_file": (_FILES, "FILE", "the key file; it must exist"),
    "audit_max_bytes": (_FILES, "BYTES", "the audit goes on in a new file beyond it"),
    "audit_files": (_FILES, "N", "files of the audit that are kept"),
    "log_level": (_FILES, "LEVEL", "debug, info, warning or error"),
    "log_format": (_FILES, "FORMAT", "auto, console for people, json for machines"),
    "access_log": (_FILES, "", "log each HTTP request"),
}
_SETTINGS = "iocpd.settings"

# Where it is not the setting's name.
_NAMES = {"keys_file": "--keys"}

_NOTES = """What a listener has of its own stands behind a question mark: framing=lines,
threads=2, inbox_bytes=1000000, proxy_protocol_from=10.0.0.0/8.

Every setting has one name: --idle-timeout here, IOCPD_IDLE_TIMEOUT in the
environment, idle_timeout in the file. Flags win over the environment, the
environment wins over the file. Durations are 250ms, 90s, 5m, 2h, 1d or plain
seconds."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="read settings from this file")
]


class _Serve(Command):
    """Has a flag for each setting."""

    _flags_made = False

    def get_params(self, ctx: Any) -> list[Any]:
        if not self._flags_made:
            self._flags_made = True
            self.params += _flags()
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        # The function below does not know these.
        ctx.meta[_SETTINGS] = {name: ctx.params.pop(name) for name in list(ctx.params) if name != "config"}
        return super().invoke(ctx)


def _flags() -> list[Any]:
    from iocpd.api.settings import Settings

    defaults = Settings.model_construct()
    parameters = []
    for name, field in Settings.model_fields.items():
        panel, metavar, text = _FLAGS.get(name, (None, "VALUE", field.description or ""))
        flag, default = _NAMES.get(name, "--" + name.replace("_", "-")), getattr(defaults, name)
        kind: Any = list[str] if name == "tcp" else bool if isinstance(default, bool) else str
        if kind is bool:
            option = typer.Option(f"{flag}/--no-{flag[2:]}", help=text, rich_help_panel=panel)
        else:
            text = f"{text} ({_shown(default)})".lstrip() if default is not None else text
            option = typer.Option(flag, metavar=metavar, help=text, rich_help_panel=panel)
        annotation = Annotated[kind | None, option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    def function(**_: Any) -> None: ...

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in parameters}
    maker = typer.Typer(add_completion=False)
    maker.command()(function)
    made: list[Any] = typer.main.get_command(maker).params
    return made


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}s" if default else "0"
    return ", ".join(default) if type(default) is tuple else str(default)


@verb(
    "serve",
    panel=HERE,
    cls=_Serve,
    notes=_NOTES,
    examples=[
        "iocpd serve --tcp 127.0.0.1:7000/echo --http 127.0.0.1:0",
        "iocpd serve --tcp 0.0.0.0:7000/echo --tcp [::1]:7001/relay --workers 2",
        "iocpd serve --tcp '0.0.0.0:7000/python:chat:Chat?threads=2'",
        "IOCPD_TCP=0.0.0.0:7000/echo,0.0.0.0:7001/discard iocpd serve --backend epoll",
        "iocpd serve --config /etc/iocpd.toml",
    ],
)
def serve(context: typer.Context, config: ConfigOption = None) -> int:
    """Run the TCP service and its management API in one process."""
    # Nearly all that a start makes stays: collections would look through it again and again for nothing. The service
    # switches them on once it is ready.
    gc.disable()
    # structlog would load it, a tenth of the start, for tracebacks that api/logs.py renders itself.
    with _absent("rich"):
        import structlog  # noqa: F401
    # Imported late, so that --help and --version answer at once.
    from iocpd.api.server import StartFailure
    from iocpd.api.server import serve as run
    from iocpd.api.settings import SettingsError

    # An option that may be given several times and was not is an empty list or tuple, as the version of Typer has it.
    given = {name: value for name, value in context.meta[_SETTINGS].items() if value not in (None, [], ())}
    settings = settings_of(given, config)
    if settings is None:
        return Status.USAGE
    try:
        return run(settings)
    except SettingsError as error:
        return _say_settings(error)
    except StartFailure as error:
        complain(str(error))
        return Status.FAILED


@contextlib.contextmanager
def _absent(package: str) -> Iterator[None]:
    """As if it were not installed, for those that do without it then; unless it is loaded already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def settings_of(flags: dict[str, Any], config: Path | None) -> Settings | None:
    """The settings, or None once what is wrong with them has been said."""
    from iocpd.api.settings import SettingsError, load_settings

    try:
        return load_settings(flags, config)
    except SettingsError as error:
        _say_settings(error)
        return None


def _say_settings(error: SettingsError) -> Status:
    for line in error.lines:
        complain(line)
    return Status.USAGE
