"""The engine's exceptions as problems."""

from iocpd.api import problems
from iocpd.api.connections.rows import closed_row, ended_text
from iocpd.api.context import Context
from iocpd.api.problems import Problem
from iocpd.core import (
    BanTableFull,
    ConfigurationError,
    ConnectionClosing,
    ConnectionEnded,
    ConnectionUnknown,
    DrainConflict,
    EngineBusy,
    EngineError,
    EngineStopped,
    EngineTimeout,
    SendQueueFull,
)


def to_problem(context: Context, error: EngineError) -> Problem:
    """The problem that answers a request that this error ended."""
    instance = context.instance
    match error:
        case ConnectionUnknown():
            detail = f"no connection ever had the id {instance.encode(error.id)}; GET /v1/connections lists them"
            return Problem(problems.CONNECTION_UNKNOWN, detail)
        case ConnectionEnded():
            name = instance.encode(error.id)
            if error.closed is None:
                detail = (
                    f"{name} has ended, and so long ago that its record is gone; closed_capacity says how many are kept"
                )
                return Problem(problems.CONNECTION_ENDED, detail, extra={"closed": None})
            detail = f"{name} {ended_text(error.closed)}"
            return Problem(problems.CONNECTION_ENDED, detail, extra={"closed": closed_row(error.closed, instance)})
        case ConnectionClosing():
            detail = f"{instance.encode(error.id)} is on its way out, or still arriving, and takes nothing"
            return Problem(problems.CONNECTION_CLOSING, detail)
        case SendQueueFull():
            limit = context.settings.send_hard_bytes
            detail = (
                f"{instance.encode(error.id)} has no room for this message under send_hard_bytes ({limit});"
                " try again when its client has read some"
            )
            return Problem(problems.SEND_QUEUE_FULL, detail)
        case BanTableFull():
            return Problem(problems.BANS_FULL)
        case EngineBusy():
            return Problem(problems.ENGINE_BUSY)
        case EngineStopped():
            return Problem(problems.ENGINE_STOPPED)
        case DrainConflict():
            return Problem(problems.DRAIN_CONFLICT, str(error))
        case EngineTimeout():
            return Problem(problems.COMMAND_TIMEOUT, str(error))
        case ConfigurationError():
            return problems.invalid("request", error.field, "out_of_range", error.rule)
    raise error  # not one that a request can be blamed for, or told of: 500
