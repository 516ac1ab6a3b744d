"""One log line for each management action: who did what to which, and what came of it. Never a payload, never a key."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request

from iocpd.api.audit.requests import record_further
from iocpd.api.engine_errors import to_problem
from iocpd.api.keys import Caller
from iocpd.api.logs import get_logger
from iocpd.api.problems import Problem
from iocpd.core import EngineError

_log = get_logger("iocpd.actions")


class Action:
    """What is under way, for the log and for the audit.

    Attributes:
        target: What it is done to.
        outcome: What the lines will say came of it.
        failed: An error ended it; `outcome` is the problem's code then.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.outcome = "done"
        self.failed = False


@contextmanager
def action(request: Request, caller: Caller, verb: str, target: str) -> Iterator[Action]:
    """Logs the action when it is over. An engine's error leaves as the Problem that answers it.

    The audit gets one entry for each request, with its answer (`iocpd.api.audit.requests`). A further action of the
    same request, such as a job that it began, gets one of its own when it is over.
    """
    current = Action(target)
    further = hasattr(request.state, "action")
    if not further:
        request.state.action = current
    try:
        yield current
    except (EngineError, Problem) as error:
        problem = error if isinstance(error, Problem) else to_problem(request.app.state.context, error)
        current.outcome, current.failed = problem.kind.code, True
        raise problem from error
    except BaseException as error:
        current.outcome, current.failed = type(error).__name__, True
        raise
    finally:
        client = request.scope["client"][0]
        _log.info(verb, actor=caller.name, client=client, target=target, outcome=current.outcome)
        if further:
            record_further(request.app.state.context.audit, request.scope, caller, current)
