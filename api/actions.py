"""One log line for each management action: who did what to which, and what came of it. Never a payload, never a key."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request

from iocpd.api.engine_errors import to_problem
from iocpd.api.keys import Caller
from iocpd.api.problems import Problem
from iocpd.core import EngineError

_log = logging.getLogger("iocpd.actions")


class Action:
    """What is under way; `outcome` is what the line will say."""

    outcome = "done"


@contextmanager
def action(request: Request, caller: Caller, verb: str, target: str) -> Iterator[Action]:
    """Logs the action when it is over. An engine's error leaves as the Problem that answers it."""
    current = Action()
    if not target.isprintable():
        target = ascii(target)  # it comes out of a URL, and could end the line
    try:
        yield current
    except (EngineError, Problem) as error:
        problem = error if isinstance(error, Problem) else to_problem(request.app.state.context, error)
        current.outcome = problem.kind.code
        raise problem from error
    except BaseException as error:
        current.outcome = type(error).__name__
        raise
    finally:
        request_id = request.state.request_id
        _log.info("%s by %s on %s: %s (request %s)", verb, caller.name, target, current.outcome, request_id)
