"""How the bulk routes answer: what is short while the request waits, the rest as a job."""

import asyncio

from fastapi import Request, Response

from iocpd.api.actions import Action, action
from iocpd.api.context import Context
from iocpd.api.jobs.prefer import APPLIED
from iocpd.api.jobs.work import JobState, Work
from iocpd.api.keys import Caller
from iocpd.api.logs import get_logger
from iocpd.api.problems import Problem
from iocpd.api.responses import json_response
from iocpd.core import EngineError, EngineStopped

_log = get_logger("iocpd.jobs")


async def answer_now(work: Work, line: Action) -> Response:
    """Does it, and answers with its report; `line` tells the counts. EngineStopped if nothing could be done."""
    await work.run()
    if work.state is JobState.CANCELLED and not work.progress()[0]:
        raise EngineStopped
    line.outcome = work.summary()
    return json_response(work.report())


def answer_job(
    request: Request, context: Context, caller: Caller, work: Work, line: Action, *, verb: str, preferred: bool
) -> Response:
    """Begins it as a job and answers 202; its end gets a line of its own in the log. Problem 429."""

    async def run() -> None:
        try:
            await work.run()
        except (EngineError, Problem) as error:  # nobody waits for it any more
            _log.warning("job cancelled", job=work.job, why=str(error))
        except asyncio.CancelledError:
            pass  # the service ends
        except Exception:
            _log.exception("job failed", job=work.job)
        with action(request, caller, f"{verb} job", f"{line.target} (job {work.job})") as ended:
            ended.outcome = f"{work.state}, {work.summary()}"

    job = context.jobs.start(work, run)
    line.outcome = f"job {job} for {work.progress()[1]} connections"
    headers = {"location": f"{request.scope['path']}/{job}"} | (APPLIED if preferred else {})
    return json_response(work.report(), status=202, headers=headers)


def cancel_job(work: Work, line: Action) -> Response:
    """Stops it, if it runs."""
    running = work.state is JobState.RUNNING
    work.cancel()
    line.outcome = f"done, {work.summary()}" if running else f"it was over: {work.state}"
    return Response(status_code=204)
