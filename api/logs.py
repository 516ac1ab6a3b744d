"""The log of the process, on stderr: a line for people on a terminal, a JSON object a line for machines.

structlog renders what comes from `get_logger` and from the standard library's loggers alike, so that uvicorn's lines
look as ours do. What is logged while a request is served carries its id as `request_id`.

Values come from clients: nothing in them can end a line, begin another one, or steer a terminal. Keys and payloads are
never given to a logger at all.
"""

import logging
import os
import sys
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]

_LONGEST = 4000
_LONGEST_TRACEBACK = 64 * 1024
_CUT = "... (cut)"


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose keyword arguments are members of the line: `log.info("kick", actor="alice")`."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger


def configure(level: str, form: LogFormat, stream: TextIO | None = None) -> None:
    """Sends every logger of the process to `stream` (stderr), from `level` on; may be called again to change either.

    form: auto is console on a terminal and json elsewhere, where a program reads it.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    console = form == "console" or (form == "auto" and terminal)
    # Windows' terminal takes colours only from programs that switch them on.
    colours = console and terminal and sys.platform != "win32" and not os.environ.get("NO_COLOR")
    rendering: list[Processor] = (
        [_printable, structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0, sort_keys=False)]
        if console
        else [_plain, _in_order, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=not console),
                # Without the values of local variables, which a prettier traceback shows: a key may be among them.
                structlog.processors.format_exc_info,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendering,
            ]
        )
    )
    root = logging.getLogger()
    for former in [each for each in root.handlers if isinstance(each.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def printable(text: str, most: int = _LONGEST) -> str:
    """The text with everything that is no visible character or space written as an escape, and cut to `most`.

    Line ends, terminal sequences and marks that turn the direction of writing are among what is escaped.
    """
    if len(text) > most:
        text = text[: most - len(_CUT)] + _CUT
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Every value a number or a text with a bound. JSON's own escapes do the rest."""
    for name, value in event.items():
        most = _LONGEST_TRACEBACK if name == "exception" else _LONGEST
        if not isinstance(value, int | float | None) and len(value := str(value)) > most:
            value = value[: most - len(_CUT)] + _CUT
        event[name] = value
    return event


def _printable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Every value on one line. A traceback's lines stay lines, behind a mark that no line of the log begins with."""
    for name, value in _plain(logger, method, event).items():
        if name == "exception":
            event[name] = "\n".join("    | " + printable(line) for line in value.splitlines())
        elif isinstance(value, str):
            event[name] = printable(value)
    return event


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> dict[str, Any]:
    first = ("timestamp", "level", "logger", "event")
    return {name: event[name] for name in first if name in event} | dict(event)
